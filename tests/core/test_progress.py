import pytest

from neolm.core import progress


@pytest.mark.parametrize(("seconds", "text"), [(0.2, "0s"), (75, "1m15s"), (3661, "1h01m"), (-3, "0s")])
def test_durations(seconds: float, text: str) -> None:
    assert progress.duration(seconds) == text


@pytest.mark.parametrize(("number", "text"), [(7, "7"), (1234, "1.23k"), (1315575808, "1.32B"), (2e12, "2T")])
def test_counts(number: float, text: str) -> None:
    assert progress.count(number) == text


def test_off_a_terminal_plain_lines_with_rest_and_fields(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(progress, "PLAIN_INTERVAL", 0.0)
    with progress.task("Training", 10, "steps", start=4) as bar:
        bar.advance(3, loss="2.5")
        progress.say("a word in between")
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith("Training: 7 of 10 steps, ")
    assert lines[0].endswith("left  loss 2.5")
    assert lines[1] == "a word in between"
    assert progress.Task.active is None


def test_columns_line_up() -> None:
    assert progress.table([("a", "bb"), ("ccc", "d")]) == "a    bb\nccc  d"
