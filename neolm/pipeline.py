"""Run a recipe: build the stages of the table in order, each unless it is up to date."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from neolm.core.artifact import PENDING_RECIPE, adopt_recipe, code_version
from neolm.core.config import Overrides, sections
from neolm.core.errors import InputError, SettingError
from neolm.core.files import expanded, remove
from neolm.core.manifest import read_manifest
from neolm.core.output import claim_output
from neolm.core.progress import say
from neolm.core.ranks import ONE_RANK, RunRanks
from neolm.recipe import Recipe, load_recipe, save_recipe
from neolm.run_ranks import run_ranks
from neolm.stages import REPORT, STAGES, StageRow


def run(recipe: str | Path | Mapping[str, Any], overrides: Overrides = (), until: str | None = None) -> Path:
    """Run `recipe` and return its output directory.

    Args:
        recipe: Path of a YAML file, the name of a built-in recipe such as `quickstart`, or a mapping.
        overrides: Settings that replace the recipe's: texts such as `pretrain.steps=100`, or a mapping.
        until: Name of the last stage to build; None builds all of them and the report.

    Raises:
        InputError: the recipe, the data or the output directory cannot be used. Nothing was lost.
    """
    with run_ranks() as ranks:
        settings = load_recipe(recipe, overrides)
        output = expanded(settings.output)
        if ranks.count > 1:
            ranks.compare({"recipe": settings.model_dump(mode="json"), "code": code_version("training")})
        if settings.study is not None:
            from neolm.study import run_study

            if ranks.count > 1:
                raise InputError("study: its trainings run in one process each; start this recipe without torchrun")
            run_study(settings, output, until)
        elif ranks.first:
            with claimed(output):
                build(settings, output, until, ranks)
        else:
            _follow(settings, output, ranks)
    return output


def _follow(settings: Recipe, output: Path, ranks: RunRanks) -> None:
    """Build together with rank 0 the stages that it tells."""
    for message in ranks.heard():
        settings = settings.complete(tokenizer_exists=message["tokenizer_exists"])
        row = next(row for row in STAGES if row.name == message["stage"])
        _attempt(row.build, row, output, settings, ranks)


def claimed(output: Path) -> AbstractContextManager[None]:
    """Create and lock the output directory of a run or a study. See `claim_output`."""
    return claim_output(output, [*(row.name for row in STAGES), REPORT.name])


def build(settings: Recipe, output: Path, until: str | None = None, ranks: RunRanks = ONE_RANK) -> None:
    """Build the stages of a recipe in `output`, which is locked; and the report, if `until` is None.

    A stage whose directory is a link belongs to another run and is used as it is. Of several ranks, this is rank 0,
    which builds alone every stage that is not `parallel`.
    """
    tokenizer_exists = read_manifest(output / "tokenizer") is not None
    settings = settings.complete(tokenizer_exists=tokenizer_exists)
    rows = _rows(settings, output, until)
    try:
        for row in rows:
            _attempt(row.check, row, output, settings)
        for name in sections(Recipe):
            config = getattr(settings, name)
            for key, reason in (config.ignored() if config else {}).items():
                say(f"{name}.{key} has no effect here, because {reason}")
        save_recipe(settings, output / PENDING_RECIPE)
        for row in rows:
            if row.parallel:
                ranks.tell({"stage": row.name, "tokenizer_exists": tokenizer_exists})
            _attempt(row.build, row, output, settings, ranks)
        adopt_recipe(output)
    finally:
        remove(output / PENDING_RECIPE)
    if until is None and (settings.pretrain or settings.finetune or settings.evaluate):
        REPORT.build(output, None, settings, ranks)


def _rows(recipe: Recipe, output: Path, until: str | None) -> list[StageRow]:
    """The stages that the recipe asks for, up to `until`.

    Raises:
        InputError: a stage needs an earlier one that neither the recipe builds nor `output` has.
    """
    names = [row.name for row in STAGES]
    last = len(STAGES) if until is None else names.index(until) + 1
    base_tokenizer = "tokenizer" if recipe.base is not None and recipe.pretrain is not None else ""
    rows = [row for row in STAGES[:last] if getattr(recipe, row.section) is not None or row.name == base_tokenizer]
    if not rows or (until and rows[-1].name != until and read_manifest(output / until) is None):
        asked = f"the section '{STAGES[last - 1].section}'" if until else "a section"
        known = ", ".join(dict.fromkeys(row.section for row in STAGES))
        raise InputError(f"recipe: {asked} is missing; sections are {known}")
    rows = [row for row in rows if not (output / row.name).is_symlink()]
    built = {row.name for row in rows} | ({"model"} if recipe.base else set())
    for row in rows:
        for name in row.inputs:
            if name not in built and read_manifest(output / name) is None:
                raise InputError(
                    f"{row.section}: needs {name}, which is neither a section of the recipe nor finished in {output}. "
                    f"Add the section '{next(other.section for other in STAGES if other.name == name)}'"
                )
    return rows


def _attempt(action: Callable[..., object], row: StageRow, output: Path, recipe: Recipe, *ranks: RunRanks) -> None:
    try:
        action(output, getattr(recipe, row.section), recipe, *ranks)
    except SettingError as error:
        raise error.within(row.section) from None
