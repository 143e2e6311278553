"""The recipe `moderation`, from its three tables to the policy that the documentation shows."""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
import zstandard
from tiny_encoders import LETTERS, write_encoder
from topic_tables import write_csv

from neolm.moderation.moderator import Moderator
from neolm.recipe import load_recipe

Command = Callable[..., tuple[int, str, str]]
DOCUMENTED = Path(__file__).parents[2] / "docs" / "moderation.md"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The files of the recipe with few rows, one of them compressed."""
    draw = random.Random(1)
    words = {"hate": "cold", "offensive": "sea", "fine": "clock"}

    def text(label: str) -> str:
        return " ".join([words[label], *draw.sample(LETTERS[:20], 3)])

    place = tmp_path / "sets"
    for name in ("jigsaw_balanced", "davidson_hate", "olid"):
        (place / name).mkdir(parents=True)
    jigsaw = [(text("offensive" if n % 2 else "fine"), n % 2) for n in range(40)]
    packed = write_csv(place / "jigsaw.csv", jigsaw[0], jigsaw[1:])
    (place / "jigsaw_balanced" / "test.csv.zst").write_bytes(zstandard.compress(packed.read_bytes()))
    packed.unlink()
    davidson = [(n, n % 3, text(("hate", "offensive", "fine")[n % 3])) for n in range(60)]
    write_csv(place / "davidson_hate" / "labeled_data.csv", ("", "class", "tweet"), davidson)
    olid = [f"{n}\t{text('offensive' if n % 2 else 'fine')}\t{('NOT', 'OFF')[n % 2]}\tNULL" for n in range(40)]
    lines = ["id\ttweet\tsubtask_a\tsubtask_b", *olid]
    (place / "olid" / "olid-training-v1.0.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return place


def test_the_recipe_trains_the_model_of_the_documented_policy(folder: Path, tmp_path: Path, neolm_: Command) -> None:
    output = tmp_path / "run"
    quick = ("finetune.method=probe", "finetune.tfidf=false", "finetune.max_length=40")
    base = write_encoder(tmp_path / "base")
    code, _, said = neolm_("run", "moderation", f"base={base}", f"finetune.train={folder}", f"output={output}", *quick)
    assert code == 0, said
    assert (
        f"{folder / 'jigsaw_balanced/test.csv.zst'}: 40 examples; '0' (20) is 'fine', '1' (20) is 'offensive'" in said
    )
    assert f"{folder}: 140 examples, 3 labels: 'fine' (60), 'offensive' (60), 'hate' (20)" in said
    blocks = [yaml.safe_load(one) for one in re.findall(r"```yaml\n(.*?)```", DOCUMENTED.read_text(), re.DOTALL)]
    (policy,) = [one for one in blocks if one.get("models") == {"comments": "runs/moderation/model"}]
    policy |= {"models": {"comments": str(output / "model")}, "canaries": []}
    (tmp_path / "policy.yaml").write_text(yaml.safe_dump(policy), encoding="utf-8")
    moderator = Moderator(tmp_path / "policy.yaml")
    hate, fine = moderator.scores([moderator.encode("cold a b"), moderator.encode("clock a b")])
    assert hate["hate"].value > fine["hate"].value
    assert hate["offensive"].value > fine["offensive"].value
    assert all(one["offensive"].value >= one["hate"].value for one in (hate, fine))


def test_the_files_are_those_of_the_documentation(neolm_: Command, tmp_path: Path) -> None:
    recipe = load_recipe("moderation")
    text = DOCUMENTED.read_text(encoding="utf-8")
    assert recipe.finetune is not None
    assert all(f"| `{table.path}` |" in text for table in recipe.finetune.tables)
    code, _, err = neolm_("run", "moderation", f"base={write_encoder(tmp_path / 'base')}", f"output={tmp_path / 'run'}")
    assert code == 2
    assert "finetune.tables.0: moderation/jigsaw_balanced/test.csv: there is no such file" in err
