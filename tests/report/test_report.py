import json
import math
import shutil

import pytest
from html_page import Page
from recorded_run import ESTIMATE, HOSTILE, MEASURED, SCORES, corpus, evaluated, number, prepared, trained

from neolm.core.artifact import Stage
from neolm.core.errors import InputError
from neolm.core.manifest import input_from
from neolm.report.run_files import read_run
from neolm.report.run_report import build_report

SECTIONS = ["samples", "scores", "loss", "corpus", "stability", "sizes", "lineage", "commands"]


def page_of(output):
    path = build_report(output)
    assert path == output / "report.html"
    html = path.read_text(encoding="utf-8")
    return html, Page(html)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return evaluated(tmp_path_factory.mktemp("whole") / "a run")


def test_all_sections_are_present(whole):
    _, page = page_of(whole)
    assert [name for name in page.ids if name in SECTIONS] == SECTIONS
    for tag in ("header", "main", "footer", "h1", "table", "svg"):
        assert tag in page.tags
    assert page.tags.count("h1") == 1
    assert len(set(page.ids)) == len(page.ids)
    labels = [value for _, name, value in page.attributes if name == "aria-labelledby"]
    assert {word for value in labels for word in value.split()} <= set(page.ids)


def test_the_text_of_a_whole_report(whole):
    _, page = page_of(whole)
    assert "GPT-Neo with 4.32M parameters, trained on 18\u00a0MB of text in 3m40s" in page.text
    assert "fewer than the 2.20 of the compressor xz" in page.text
    assert "15% fewer bits than xz and 10% more bits than zstd with its dictionary" in page.text
    assert "a dictionary of 1 MiB" in page.text
    assert (
        page.text.count("xz, all documents at once") == 1
    )  # in the table; it is not drawn, because it is not comparable
    assert "70 documents of 90 held out, 400\u00a0kB" in page.text
    assert "A uniform guess among 2,048 tokens has a loss of 7.62" in page.text
    assert "only how frequent tokens are has one of 6.93." in page.text
    assert "bfloat16: AMX bf16 found" in page.text
    assert "50% of the text" in page.text
    assert "\u2248 12\u00a0Wh" in page.text  # six stages
    assert "an estimate, not measured" in page.text
    assert ESTIMATE["method"] in page.text


@pytest.mark.parametrize(
    ("file", "edit"),
    [
        ("corpus/manifest.json", lambda value: value["counts"]["read"].pop("documents")),
        ("corpus/manifest.json", lambda value: value["counts"]["read"].update(documents="many")),
        ("evaluation/scores.json", lambda value: value.update(protocols=dict.fromkeys(value["protocols"], "x"))),
    ],
)
def test_edited_records_are_one_line(tmp_path, whole, file, edit):
    output = shutil.copytree(whole, tmp_path / "run")
    value = json.loads((output / file).read_text())
    edit(value)
    (output / file).write_text(json.dumps(value))
    with pytest.raises(InputError, match=r"run: a recorded value has another form") as caught:
        build_report(output)
    assert "\n" not in str(caught.value)


def test_all_sessions_of_a_training_count_and_exports_do_not(tmp_path, whole):
    output = shutil.copytree(whole, tmp_path / "run")
    stages = {"corpus", "tokenizer", "shards", "pretrain", "model", "evaluation"}
    Stage("export", "models", output / "small", {"source": input_from(output / "model", output)}, {}).build(
        lambda directory: {}, False
    )
    run = read_run(output)
    assert set(run.manifests) == stages
    assert run.stage_seconds("pretrain") == 220.0  # as recorded; the last session was shorter
    assert 220.0 <= run.seconds() < 230.0


def reseal(output, name, energy):
    manifest = json.loads((output / name / "manifest.json").read_text())
    (output / name / "manifest.json").write_text(json.dumps(manifest | {"energy": energy}))


def test_measured_energy_is_not_called_an_estimate(tmp_path, whole):
    output = shutil.copytree(whole, tmp_path / "run")
    reseal(output, "pretrain", MEASURED)
    _, page = page_of(output)
    assert "\u2248 13\u00a0Wh" in page.text
    assert "partly measured, partly an estimate" in page.text
    assert f"{ESTIMATE['method']}; {MEASURED['method']}" in page.text
    for stage in ("corpus", "tokenizer", "shards", "model", "evaluation"):
        reseal(output, stage, MEASURED)
    _, page = page_of(output)
    assert "18\u00a0Whmeasured" in page.text
    assert "\u2248" not in page.text
    assert "estimate" not in page.text


def charts_of(page):
    """What each picture of the section on stability shows, from its titles."""
    labels = ("tokens per second", "gradient norm", "learning rate", "peak memory, GiB")
    return [label for label in labels if f"{label} by step" in page.text]


def rewritten(tmp_path, whole, change):
    output = shutil.copytree(whole, tmp_path / "run")
    path = output / "pretrain" / "metrics.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()[:-1]]
    path.write_text("".join(json.dumps(change(row)) + "\n" for row in rows))
    return output


def test_speed_and_stability(whole):
    _, page = page_of(whole)
    assert charts_of(page) == ["tokens per second", "gradient norm", "learning rate", "peak memory, GiB"]
    assert "The median is 13k." in page.text
    assert "Before clipping (to 1). No step was skipped." in page.text
    assert "The maximum is 0.00294." in page.text
    assert "peak memory, GiB ends at 1.05" in page.text


@pytest.mark.parametrize("norm", [9.5, None, math.inf])
def test_skipped_steps_are_marked_and_the_first_is_explained(tmp_path, whole, norm):
    def skip(row):
        bad = row["step"] in (7, 30) and "loss" in row
        return row | {"skipped": f"too <high> at {row['step']}", "grad_norm": norm} if bad else row

    html, page = page_of(rewritten(tmp_path, whole, skip))
    said = "2 steps were skipped, at the vertical lines (the first, step 7: too <high> at 7)."
    assert said in page.text
    assert html.count('class="mark"') == 4  # stroke and legend, for the page and for a phone
    assert "skipped: 2" in page.text


def test_an_older_run_without_memory_or_mfu(tmp_path, whole):
    keys = ("step", "loss", "validation_loss", "learning_rate", "grad_norm", "tokens", "tokens_per_second", "mfu")
    old = lambda row: {key: None if key == "mfu" else row[key] for key in keys if key in row}  # noqa: E731
    _, page = page_of(rewritten(tmp_path, whole, old))
    assert charts_of(page) == ["tokens per second", "gradient norm", "learning rate"]
    assert "The median is 13k." in page.text


def test_a_difference_within_its_interval_is_no_difference(tmp_path, whole):
    output = shutil.copytree(whole, tmp_path / "run")
    scores = json.loads(json.dumps(SCORES))
    scores["bits_per_byte"]["baselines"]["xz"]["difference"] = number(0.33, -0.1, 0.6)
    (output / "evaluation" / "scores.json").write_text(json.dumps(scores))
    _, page = page_of(output)
    assert "about as many as the 2.20 of the compressor xz" in page.text
    assert "about as many bits as xz" in page.text


@pytest.mark.parametrize("compressors", [[], ["xz"], ["zstd_dictionary"]])
def test_a_run_without_some_compressors(tmp_path, whole, compressors):
    output = shutil.copytree(whole, tmp_path / "run")
    own = SCORES["bits_per_byte"]
    scores = SCORES | {"bits_per_byte": own | {"baselines": {name: own["baselines"][name] for name in compressors}}}
    (output / "evaluation" / "scores.json").write_text(json.dumps(scores))
    _, page = page_of(output)
    assert ("General compressors" in page.text) == bool(compressors)
    assert ("a dictionary of 1 MiB" in page.text) == ("zstd_dictionary" in compressors)
    assert ("the compressor xz" in page.text) == ("xz" in compressors)


def test_a_score_that_the_page_does_not_know_is_shown_with_its_unit(tmp_path, whole):
    output = shutil.copytree(whole, tmp_path / "run")
    scores = SCORES | {"lambada_accuracy": number(0.31, 0.3, 0.32, unit="share of the answers", protocol="lambada-1")}
    (output / "evaluation" / "scores.json").write_text(json.dumps(scores))
    _, page = page_of(output)
    assert "Lambada accuracy, share of the answers" in page.text
    assert "0.310 (0.300 to 0.320)" in page.text


def test_the_page_loads_nothing(whole):
    _, page = page_of(whole)
    page.assert_self_contained()


def test_hostile_text_is_escaped(whole):
    html, page = page_of(whole)
    assert page.tags.count("script") == 1  # our own
    assert html.count("<script>alert") == 0
    assert page.text.count(HOSTILE) >= 4  # prompt, continuation, reason, path


def test_paths_are_quoted_for_the_shell(whole):
    _, page = page_of(whole)
    assert f"neolm chat '{whole}' --raw" in page.text
    assert "neolm run text corpus.path=my-texts/" in page.text
    assert f"neolm generate '{whole}' 'def f(a):' --temperature" in page.text


def test_the_page_depends_on_the_files_only(whole):
    assert page_of(whole)[0] == page_of(whole)[0]


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda output: output.mkdir(), "No stage of this run is finished"),
        (corpus, "has prepared"),
        (prepared, "No model has been trained"),
        (trained, "it has not been evaluated"),
        (lambda output: trained(output, validation=0), "no text was held out to measure on"),
    ],
)
def test_missing_parts_are_named(tmp_path, make, said):
    output = tmp_path / "run"
    make(output)
    _, page = page_of(output)
    assert said in page.text
    assert [name for name in page.ids if name in SECTIONS] == SECTIONS


@pytest.mark.parametrize(
    "broken", ["", "null", "[]", "[3]", '{"bits_per_byte": null}', '{"bits_per_byte": {"low": 1}}']
)
def test_broken_files_do_not_break_the_page(tmp_path, whole, broken):
    output = shutil.copytree(whole, tmp_path / "run")
    for name in ("evaluation/scores.json", "evaluation/samples.json", "pretrain/metrics.jsonl"):
        (output / name).write_text(broken)
    _, page = page_of(output)
    assert "This run has no samples" in page.text
    assert "No training step was logged" in page.text
