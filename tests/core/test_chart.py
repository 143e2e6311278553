import math
import xml.etree.ElementTree as ET
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from neolm.core.chart import Bar, Line, bar_chart, line_chart, smoothed, thinned
from neolm.core.ticks import log_ticks, nice_ticks, tick_label

NAMESPACE = "{http://www.w3.org/2000/svg}"
numbers = st.floats(-1e12, 1e12, allow_nan=False)


def parsed(svg):
    root = ET.fromstring(svg)
    assert root.tag == f"{NAMESPACE}svg"
    assert root.find(f"{NAMESPACE}title").text
    assert root.find(f"{NAMESPACE}desc").text
    assert root.get("aria-labelledby").split() == [root[0].get("id"), root[1].get("id")]
    for coordinate in [
        value for node in root.iter() for name, value in node.items() if name in ("x", "y", "points", "d")
    ]:
        assert "nan" not in coordinate
        assert "inf" not in coordinate
    return root


def texts(root):
    return [node.text for node in root.iter(f"{NAMESPACE}text")]


def points(root):
    lines = [node.get("points") for node in root.iter(f"{NAMESPACE}polyline")]
    return [[tuple(map(float, pair.split(","))) for pair in line.split()] for line in lines]


@given(numbers, numbers, st.integers(1, 12))
def test_ticks_cover_the_range_in_few_nice_steps(a, b, wanted):
    low, high = min(a, b), max(a, b)
    ticks = nice_ticks(low, high, wanted)
    steps = [y - x for x, y in pairwise(ticks)]
    step = steps[0]
    assert ticks[0] <= low + 1e-6 * step
    assert ticks[-1] >= high - 1e-6 * step
    assert 2 <= len(ticks) <= wanted + 3
    assert all(math.isclose(other, step, rel_tol=1e-3) for other in steps)
    mantissa = step / 10 ** math.floor(math.log10(step) + 1e-6)
    assert min(abs(mantissa - nice) for nice in (1, 2, 5)) < 1e-3


@given(st.floats(1e-6, 1e9), st.floats(1, 1e9))
def test_logarithmic_ticks_lie_within_the_range(low, factor):
    ticks = log_ticks(low, low * factor)
    assert all(low <= tick <= low * factor for tick in ticks)
    assert len(ticks) <= 8


@given(numbers, numbers)
def test_tick_labels_of_one_axis_differ(a, b):
    ticks = nice_ticks(min(a, b), max(a, b))
    if (ticks[1] - ticks[0]) / max(map(abs, ticks)) > 1e-4 and max(map(abs, ticks)) > 1e-3:
        labels = [tick_label(tick, ticks) for tick in ticks]
        assert len(set(labels)) == len(labels)


@pytest.mark.parametrize(
    ("value", "ticks", "label"),
    [
        (0, [0, 500, 1000], "0"),
        (500, [0, 500, 1000], "500"),
        (1500, [0, 500, 1000, 1500], "1.5k"),
        (2_000_000, [0, 1e6, 2e6], "2M"),
        (0.15, [0.1, 0.15, 0.2], "0.15"),
        (3, [2.5, 3, 3.5], "3.0"),
        (2e-7, [0, 1e-7, 2e-7], "2e-07"),
    ],
)
def test_tick_labels(value, ticks, label):
    assert tick_label(value, ticks) == label


@given(st.lists(st.tuples(numbers, st.floats(allow_nan=True, allow_infinity=True)), max_size=40), st.booleans())
def test_any_points_make_a_well_formed_picture(some, log_x):
    parsed(line_chart([Line("a", some, smooth=True), Line("b", some[:3], dots=True)], "x", "y", log_x=log_x))


@pytest.mark.parametrize("some", [[], [(1, 9.0)], [(1, 9.0), (1, 9.0)], [(5, math.nan)], [(0, 0), (1, 0)]])
def test_few_points_are_drawn_without_a_fuss(some):
    root = parsed(line_chart([Line("loss", some)], "step", "loss"))
    assert ("nothing logged yet" in texts(root)) == (not [y for _, y in some if math.isfinite(y)])


def test_a_huge_first_value_is_cut_off_and_named():
    root = parsed(line_chart([Line("loss", [(0, 1e6), *((i, 3 + i % 2) for i in range(1, 100))])], "step", "loss"))
    ticks = [float(text) for text in texts(root) if text.replace(".", "").isdigit()]
    assert any("highest value 1M" in text for text in texts(root))
    assert "1M" not in texts(root)
    assert max(ticks) <= 100  # the steps; no y tick is anywhere near the first value
    drawn = [y for _, y in points(root)[0][1:]]
    assert max(drawn) - min(drawn) > 50


def test_an_ordinary_start_is_shown_whole():
    losses = [(step, 2.5 + 6 * math.exp(-step / 100)) for step in range(1, 1000)]
    assert not any("highest" in text for text in texts(parsed(line_chart([Line("loss", losses)], "step", "loss"))))


def test_long_runs_are_thinned():
    long = [(step, 3 + math.sin(step)) for step in range(200_000)]
    assert len(line_chart([Line("loss", long, smooth=True)], "step", "loss")) < 100_000


def test_thinning_keeps_the_extremes():
    some = [(i / 100, math.sin(i * i)) for i in range(5000)]
    kept = thinned(some)
    assert set(kept) <= set(some)
    assert kept == sorted(kept, key=lambda p: p[0])
    assert {min(p[1] for p in some), max(p[1] for p in some)} <= {p[1] for p in kept}


@given(st.lists(st.floats(-1e6, 1e6), max_size=50), st.floats(1, 30))
def test_smoothing_stays_within_the_values(values, span):
    steady = smoothed(values, span)
    assert len(steady) == len(values)
    assert all(min(values) - 1e-6 <= value <= max(values) + 1e-6 for value in steady)
    assert steady[:1] == values[:1]


def test_smoothing_follows_its_definition():
    assert smoothed([0.0, *[1.0] * 40], 4)[-1] == pytest.approx(1)
    assert smoothed([5.0] * 9, 3) == [5.0] * 9


def test_bars_carry_names_labels_and_intervals():
    bars = [Bar("model", 2.0, interval=(1.9, 2.1)), Bar("xz", 2.5, "2.5 bits", quiet=True), Bar("none", 0)]
    for width in (720, 360):
        root = parsed(bar_chart(bars, "scores", width))
        assert {"model", "2.00", "xz", "2.5 bits", "none"} <= set(texts(root))
        assert "whisker" in ET.tostring(root, encoding="unicode")
        shapes = [node for node in root.iter(f"{NAMESPACE}rect") if node.get("class") == "bar"]
        assert float(shapes[0].get("width")) / float(shapes[1].get("width")) == pytest.approx(0.8, abs=0.01)
    parsed(bar_chart([], "nothing"))


def test_long_bar_names_are_shortened():
    assert any(text.endswith("\u2026") for text in texts(parsed(bar_chart([Bar("n" * 300, 1)], "names"))))


def test_text_is_escaped():
    hostile = '<script>alert("&")</script>'
    root = parsed(line_chart([Line(hostile, [(1, 2), (2, 3)])], hostile, hostile))
    assert any(hostile in text for text in texts(root))
    assert not list(root.iter(f"{NAMESPACE}script"))
    parsed(bar_chart([Bar(hostile, 1, hostile)], hostile))
