import itertools
import math
import re
import xml.etree.ElementTree as ET
from importlib.resources import files
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from neolm.report.chart import Bar, Line, Marks, bar_chart, line_chart, nice_ticks, smoothed, thinned, tick_label
from neolm.report.svg import DASHES, TONES, shown, swatch

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
        (100_000, [0, 100_000, 200_000], "100k"),
        (20_000, [0, 20_000, 40_000], "20k"),
        (2_000_000, [0, 1e6, 2e6], "2M"),
        (0.15, [0.1, 0.15, 0.2], "0.15"),
        (3, [2.5, 3, 3.5], "3.0"),
        (2e-7, [0, 1e-7, 2e-7], "2e-07"),
    ],
)
def test_tick_labels(value, ticks, label):
    assert tick_label(value, ticks) == label


@given(st.lists(st.tuples(numbers, st.floats(allow_nan=True, allow_infinity=True)), max_size=40))
@example([(n, n * 1e-290) for n in range(39)] + [(39, 1e47)])  # far above the rest
def test_any_points_make_a_well_formed_picture(some):
    parsed(line_chart([Line("a", some, smooth=True), Line("b", some[:3], dots=True)], "x", "y"))


@pytest.mark.parametrize("some", [[], [(1, 9.0)], [(1, 9.0), (1, 9.0)], [(5, math.nan)], [(0, 0), (1, 0)]])
def test_charts_of_few_points(some):
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


def test_an_ordinary_first_value_is_not_cut_off():
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


def test_bars_have_names_labels_and_intervals():
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


@pytest.mark.parametrize(
    ("value", "text"), [(0, "0.00"), (2.314, "2.31"), (0.0003, "0.0003"), (-0.05, "-0.05"), (123.4, "123"), (2e6, "2M")]
)
def test_values_are_shown_with_few_digits(value, text):
    assert shown(value) == text


def test_zero_is_included_on_request():
    some = [(500, 20.0), (1000, 21.0)]
    assert "0" not in texts(parsed(line_chart([Line("a", some)], "step", "y")))
    root = parsed(line_chart([Line("a", some)], "step", "y", zero_x=True, zero_y=True))
    assert texts(root).count("0") == 2
    assert points(root)[0][0][0] > 300  # half of the width is before the first point


def test_marks_are_vertical_lines_with_their_own_legend():
    line = Line("norm", [(0, 1.0), (100, 1.0)])
    root = parsed(line_chart([line], "step", "norm", legend=False, marks=Marks("skipped", [50, 50.01, 100])))
    left, right = points(root)[0][0][0], points(root)[0][-1][0]
    strokes = [n.get("d") for n in root.iter(f"{NAMESPACE}path") if n.get("class") == "mark" and "V" in n.get("d")]
    places = [float(part.split(" ")[0]) for part in strokes[0].split("M")[1:]]
    assert places == pytest.approx([(left + right) / 2, right], abs=1)
    assert "skipped 3" in texts(root)
    assert not any(text.startswith("norm 1") for text in texts(root))
    assert "skipped" not in " ".join(texts(parsed(line_chart([line], "step", "norm", marks=Marks("skipped", [])))))


def test_the_colour_of_a_line_depends_on_its_index_only():
    lines = [Line("empty", []), Line("full", [(0, 1.0), (1, 2.0)], smooth=True)]
    for svg in (line_chart(lines, "x", "y"), line_chart(lines[::-1], "x", "y")):
        root = parsed(svg)
        drawn = {group.get("class") for group in root.iter(f"{NAMESPACE}g") if group.get("class")}
        assert drawn == {"second" if svg == line_chart(lines, "x", "y") else "first"}


def test_averages_without_raw_values():
    some = [(step, step % 2) for step in range(100)]
    assert len(points(parsed(line_chart([Line("a", some, smooth=True)], "x", "y")))) == 2
    assert len(points(parsed(line_chart([Line("a", some, smooth=True, raw=False)], "x", "y")))) == 1


def test_no_two_of_many_lines_look_the_same():
    root = parsed(line_chart([Line(f"run {n}", [(0, n), (1, n)]) for n in range(24)], "x", "y"))
    looks = [
        (group.get("class"), group.get("stroke-dasharray"))
        for group in root.iter(f"{NAMESPACE}g")
        if group.find(f"{NAMESPACE}polyline") is not None
    ]
    assert len(set(looks)) == len(looks) == len(TONES) * len(DASHES)
    assert looks[:4] == [(tone, None) for tone in TONES[:4]]
    for number, (tone, dashes) in enumerate(looks):
        mark = ET.fromstring(swatch(number))[0]
        assert (mark.get("class"), mark.get("stroke-dasharray")) == (tone, dashes)


def linear(colour):
    channels = np.array([int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)])
    return np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)


# Machado, Oliveira & Fernandes 2009, table of severity 1.0; the identity is normal vision.
VISION = [
    np.eye(3),
    [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
]


def oklab(light):
    """Ottosson 2020."""
    cones = np.cbrt(
        np.array(
            [[0.4122215, 0.5363325, 0.0514460], [0.2119035, 0.6806995, 0.1073970], [0.0883025, 0.2817188, 0.6299787]]
        )
        @ np.clip(light, 0, 1)
    )
    return (
        np.array(
            [[0.2104543, 0.7936178, -0.0040720], [1.9779985, -2.4285922, 0.4505937], [0.0259040, 0.7827718, -0.8086758]]
        )
        @ cones
    )


STYLE = (files("neolm.report") / "templates" / "style.css").read_text(encoding="utf-8")


@pytest.mark.parametrize(("theme", "paper"), [(0, "#ffffff"), (1, "#1b1f23"), (2, "#fff")])
def test_colours_are_distinguishable_for_colour_blind_readers(theme, paper):
    assert re.findall(r"--surface: (#\w+);", STYLE)[theme] == paper
    colours = [re.findall(rf"--{tone}: (#\w{{6}});", STYLE)[theme] for tone in TONES]
    paper = "#ffffff" if paper == "#fff" else paper
    weights = np.array([0.2126, 0.7152, 0.0722])
    bright = [float(weights @ linear(colour)) + 0.05 for colour in (paper, *colours)]
    assert all(max(bright[0], other) / min(bright[0], other) >= 3 for other in bright[1:])  # WCAG 2.2, 1.4.11
    for vision in VISION:
        seen = [oklab(np.array(vision) @ linear(colour)) for colour in colours]
        distances = [float(np.linalg.norm(a - b)) for a, b in itertools.combinations(seen, 2)]
        assert min(distances) > 0.12
