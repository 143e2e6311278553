import tempfile
from pathlib import Path
from typing import Annotated, Literal

import hypothesis
import pytest
from hypothesis import strategies
from pydantic import Field

from neolm.core.config import Alias, Config, Supersedes, Unit, load_config, settings
from neolm.core.errors import InputError
from neolm.core.yaml_file import to_yaml


class Inner(Config):
    steps: Annotated[int, Field(gt=0), Unit("steps")] = 3
    """How many
    steps."""
    learning_rate: Annotated[float, Alias("lr")] = 1e-3
    """Peak."""
    mode: Literal["slow", "quick"] = "slow"
    names: tuple[str, ...] = ("x",)
    limit: float | None = None
    note: Annotated[str | None, Field(max_length=100)] = None


class Outer(Config):
    output: str
    pretrain: Inner = Inner()
    other: Inner | None = None


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "my recipe.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def message(path: Path | None, *overrides: str) -> str:
    with pytest.raises(InputError) as caught:
        load_config(Outer, path, overrides)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_overrides_are_stronger_than_the_file_and_defaults_fill_the_rest(tmp_path: Path) -> None:
    path = write(tmp_path, "output: here\npretrain:\n  steps: 5\n  mode: quick\n")
    config = load_config(Outer, path, ["pretrain.steps=7", "pretrain.names=[a, b]", "pretrain.limit=null"])
    assert config == Outer(output="here", pretrain=Inner(steps=7, mode="quick", names=("a", "b")))


@pytest.mark.parametrize(("written", "value"), [("3e-4", 3e-4), ("1e3", 1000.0), ("2", 2.0), ("0.5", 0.5)])
def test_numbers_mean_what_everybody_means(tmp_path: Path, written: str, value: float) -> None:
    path = write(tmp_path, f"output: x\npretrain: {{learning_rate: {written}}}\n")
    assert load_config(Outer, path).pretrain.learning_rate == value
    assert load_config(Outer, None, ["output=x", f"pretrain.learning_rate={written}"]).pretrain.learning_rate == value


def test_an_alias_is_the_same_key_in_file_and_override(tmp_path: Path) -> None:
    path = write(tmp_path, "output: x\npretrain:\n  lr: 5e-4\n")
    assert load_config(Outer, path).pretrain.learning_rate == 5e-4
    assert load_config(Outer, path, ["pretrain.lr=1e-5"]).pretrain.learning_rate == 1e-5


TEXTS = ["2024", "a: [b", "notes #2", "#1 x", "yes", "[old]", "CC BY: 4.0", "-x", " a ", "~", "1e3", "{a}", "'q'"]


@pytest.mark.parametrize("text", TEXTS)
def test_text_fields_take_the_text_as_it_is(text: str) -> None:
    assert load_config(Outer, None, [f"output={text}"]).output == text
    config = load_config(Outer, None, ["output=x", f"pretrain.note={text}"])
    assert config.pretrain.note == text


# A null character cannot be in an argument of a program.
TEXT = strategies.text(strategies.characters(exclude_categories=["Cs"], exclude_characters="\0"))


@hypothesis.given(TEXT)
def test_any_text_survives_an_override(text: str) -> None:
    assert load_config(Outer, None, [f"output={text}"]).output == text


def test_null_empties_an_optional_text_field() -> None:
    assert load_config(Outer, None, ["output=x", "pretrain.note=null"]).pretrain.note is None
    assert load_config(Outer, None, ["output=null"]).output == "null"


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("[a, yes, 1.0]", ("a", "yes", "1.0")),
        ("one", ("one",)),
        ("# no comment", ("# no comment",)),
        ("", ()),
        ("[]", ()),
    ],
)
def test_a_list_of_texts_is_a_list_or_one_text(text: str, names: tuple[str, ...]) -> None:
    assert load_config(Outer, None, ["output=x", f"pretrain.names={text}"]).pretrain.names == names


def test_an_empty_section_resets_the_section_of_the_file() -> None:
    source = {"output": "x", "pretrain": {"steps": 2, "mode": "quick"}}
    reset = load_config(Outer, source | {"pretrain": {}})
    assert reset != load_config(Outer, source)
    for overrides in ({"pretrain": {}}, ["pretrain={}"]):
        assert load_config(Outer, source, overrides) == reset


def test_settings_come_from_a_mapping_too() -> None:
    overrides = {"pretrain.lr": 0.5, "pretrain": {"steps": 4, "names": ["#"]}}
    config = load_config(Outer, {"output": "x", "pretrain": {"steps": 2, "mode": "quick"}}, overrides)
    assert config == Outer(output="x", pretrain=Inner(steps=4, mode="quick", names=("#",), learning_rate=0.5))
    with pytest.raises(InputError, match=r"^pretrain\.steps: must be greater than 0, not -1$"):
        load_config(Outer, {"output": "x"}, {"pretrain.steps": -1})


@pytest.mark.parametrize("text", ["no", "yes", "on", "1:30", "2024-01-31", "0b11", "1.2.3"])
def test_a_text_field_in_a_file_keeps_what_is_text_in_yaml_1_2(tmp_path: Path, text: str) -> None:
    assert load_config(Outer, write(tmp_path, f"output: {text}\n")).output == text


@pytest.mark.parametrize(("text", "value"), [("2024", "2024"), ("true", "True"), ("1e3", "1000.0"), ("010", "10")])
def test_a_text_field_in_a_file_asks_for_quotes(tmp_path: Path, text: str, value: str) -> None:
    found = message(write(tmp_path, f"output: {text}\n"))
    assert f"output: must be text, not {value}; write it in quotes" in found


@pytest.mark.parametrize(
    ("text", "value"),
    [("010", 10), ("1_000", 1000), ("0x10", 16), ("0o10", 8), ("+7", 7), ("1:30", None), ("on", None)],
)
def test_whole_numbers_are_those_of_yaml_1_2(tmp_path: Path, text: str, value: int | None) -> None:
    path = write(tmp_path, f"output: x\npretrain: {{steps: {text}}}\n")
    if value is None:
        assert f"steps: must be a valid integer, not {text!r}" in message(path)
        assert f"steps: must be a valid integer, not {text!r}" in message(None, "output=x", f"pretrain.steps={text}")
    else:
        assert load_config(Outer, path).pretrain.steps == value
        assert load_config(Outer, None, ["output=x", f"pretrain.steps={text}"]).pretrain.steps == value


@hypothesis.given(TEXT, strategies.lists(TEXT))
@hypothesis.example("a\x85b", ["\u2028", "\u2029 c", "\r", " \r\n ", "\ufeff", "1e3", "0o7", "no", "1:30", "~", ""])
def test_any_text_survives_a_settings_file(text: str, names: list[str]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.yaml"
        path.write_text(to_yaml({"output": text, "pretrain": {"names": names}}), encoding="utf-8", newline="")
        assert load_config(Outer, path) == Outer(output=text, pretrain=Inner(names=tuple(names)))


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("output: a\noutput: b\n", ":2: not valid YAML: the key 'output' is given twice"),
        ("output: a\npretrain: {steps: 1}\npretrain: {mode: quick}\n", ":3: not valid YAML: the key 'pretrain'"),
        ("output: a\npretrain:\n  steps: 1\n  steps: 2\n", ":4: not valid YAML: the key 'steps' is given twice"),
        ("output: a\npretrain:\n  lr: 1.0\n  learning_rate: 2.0\n", "pretrain.learning_rate: given twice"),
        ('output: "a\\0b"\n', ":1: output: 'a\\x00b' has a null character"),
        ("output: [" + "[" * 100_000, "nested too deeply"),
        (f"output: {'1' * 10_000}", "not valid YAML: Exceeds the limit"),
        ("a: &a [*a]\n", "more than 100,000 values"),
        ("a: &a [*b]\nb: &b [*a]\n", "not valid YAML: found undefined alias"),
        ("x" * (2**20 + 1), "more than 1,048,576 bytes"),
    ],
)
def test_files_that_cannot_be_settings(tmp_path: Path, text: str, complaint: str) -> None:
    assert complaint in message(write(tmp_path, text))


@pytest.mark.parametrize(
    "level", ["[{0},{0},{0},{0},{0},{0},{0},{0},{0},{0}]", "{{p: {0}, q: {0}}}", "{{<<: [{0}, {0}]}}"]
)
def test_nested_aliases_do_not_take_memory_or_time(tmp_path: Path, level: str) -> None:
    lines = ["a0: &a0 {x: 1}", *(f"a{n}: &a{n} {level.format(f'*a{n - 1}')}" for n in range(1, 60))]
    assert "values, if its aliases are written out" in message(write(tmp_path, "\n".join(lines)))
    items = ["&a0 {x: 1}", *(f"&a{n} {level.format(f'*a{n - 1}')}" for n in range(1, 60))]
    assert "pretrain.steps: must be" in message(None, "output=x", f"pretrain.steps=[{', '.join(items)}]")


def test_aliases_and_merged_sections_can_be_used(tmp_path: Path) -> None:
    path = write(tmp_path, "output: x\npretrain: &p {steps: 5, mode: quick}\nother:\n  <<: *p\n  steps: 6\n")
    config = load_config(Outer, path)
    assert config.other == Inner(steps=6, mode="quick")


def test_a_name_that_is_not_utf_8_is_refused_with_its_key() -> None:
    assert message(None, "output=te\udcff").startswith("command line: output: 'te\\udcff' has a null character or")
    assert "pretrain.names: '[a, te\\udcff]'" in message(None, "output=x", "pretrain.names=[a, te\udcff]")


def test_unknown_key_is_named_with_its_line_and_the_nearest_name(tmp_path: Path) -> None:
    found = message(write(tmp_path, "output: x\npretrain:\n  mode: slow\n  stpes: 4\n"))
    assert found.endswith("my recipe.yaml:4: pretrain.stpes: unknown key; did you mean 'steps'?")


def test_unknown_section_on_the_command_line() -> None:
    assert message(None, "output=x", "pretain.steps=3").startswith("pretain: unknown key; did you mean 'pretrain'")


@pytest.mark.parametrize(
    ("override", "complaint"),
    [
        ("pretrain.steps=abc", "must be a valid integer, not 'abc'"),
        ("pretrain.steps=1.5", "must be a valid integer, not 1.5"),
        ("pretrain.steps=-3", "must be greater than 0, not -3"),
        ("pretrain.mode=quik", "did you mean 'quick'?"),
        ("pretrain.limit=.nan", "must be a finite number"),
        ("pretrain.limit=1e300", "pretrain.limit: must be at most 1e+30 in size"),
        ("pretrain.steps=9223372036854775809", "pretrain.steps: must be at most 9.22337e+18 in size"),
        ("pretrain", "not of the form key=value"),
        ("=3", "not of the form key=value"),
        ("output.x=3", "output"),
    ],
)
def test_wrong_values_are_explained(override: str, complaint: str) -> None:
    found = message(None, "output=x", override)
    assert complaint in found
    assert "command line" in found or override.startswith("output")


def test_several_problems_are_all_named(tmp_path: Path) -> None:
    found = message(write(tmp_path, "pretrain:\n  steps: 0\n  mode: fast\n  lr: x\n  z: 1\n"))
    assert ":4: pretrain.learning_rate: must be a valid number, not 'x'" in found
    assert "(and 2 more)" in found


@pytest.mark.parametrize("text", ["a: [1\n", "- 1\n- 2\n", "3"])
def test_what_is_no_mapping_is_refused(tmp_path: Path, text: str) -> None:
    assert "my recipe.yaml" in message(write(tmp_path, text))


def test_unreadable_files_are_refused(tmp_path: Path) -> None:
    assert "cannot be read" in message(tmp_path / "missing.yaml")
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    assert "cannot be read" in message(tmp_path / "binary.yaml")


def test_an_empty_file_asks_for_what_is_required(tmp_path: Path) -> None:
    assert "output: this key must be given" in message(write(tmp_path, ""))


def test_settings_list_every_key_with_type_default_unit_and_meaning() -> None:
    found = {setting.key: setting for setting in settings(Outer)}
    assert list(found)[:2] == ["output", "pretrain.steps"]
    steps = found["pretrain.steps"]
    assert (steps.type, steps.default, steps.unit, steps.meaning) == ("int", "3", "steps", "How many steps.")
    assert found["output"].default == "(required)"
    assert found["pretrain.mode"].type == "slow | quick"
    assert found["pretrain.names"].type == "list of str"
    assert found["pretrain.limit"].default == "null"


class Sized(Config):
    preset: Annotated[str | None, Supersedes()] = None
    width: int = 1
    depth: int = 1
    tokens: Annotated[int | None, Supersedes(("depth",))] = None


class Whole(Config):
    model: Sized = Sized()


def test_a_superseding_override_takes_back_what_the_file_says(tmp_path: Path) -> None:
    path = write(tmp_path, "model:\n  width: 5\n  depth: 6\n")
    assert load_config(Whole, path, ["model.preset=big", "model.depth=2"]).model == Sized(preset="big", depth=2)
    assert load_config(Whole, path, ["model.tokens=3"]).model == Sized(width=5, tokens=3)
    for order in (["model.tokens=3", "model.depth=4", "model.tokens=null"], ["model.tokens=null", "model.depth=4"]):
        assert load_config(Whole, path, order).model == Sized(width=5, depth=4)  # null takes the place of nothing
    both = write(tmp_path, "model:\n  width: 5\n  preset: big\n")
    assert load_config(Whole, both).model == Sized(preset="big", width=5)  # within the file both count
