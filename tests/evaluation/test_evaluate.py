"""Scores with intervals and compressors, as JSON; and the stage of a run."""

from __future__ import annotations

import json
import math
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from neolm.core.config import load_config, settings
from neolm.core.errors import InputError
from neolm.core.manifest import read_manifest, verify
from neolm.corpus.build import build_corpus
from neolm.corpus.config import CorpusConfig
from neolm.corpus.documents import read_documents
from neolm.evaluation.config import EvaluateConfig
from neolm.evaluation.evaluate import (
    MAX_SOURCES,
    choose_documents,
    evaluate,
    evaluate_model,
    evaluate_stage,
)
from neolm.evaluation.scores_table import scores_table
from neolm.models.decoder import Decoder
from neolm.models.hf import load_model, save_model
from neolm.tokenizer.tokenizer import Tokenizer
from tests.conftest import sample_text


def protocol_of(scores: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = scores["protocols"][scores["loss"]["protocol"]]
    return found


@dataclass(frozen=True)
class Text:
    id: str
    text: str
    source: str = "here"


@dataclass(frozen=True)
class Part(Text):
    parent: str = ""


DOCUMENTS = [Text(f"d{n}", sample_text(n, 40 + 10 * n), "ab"[n % 2]) for n in range(8)] + [Text("empty", "", "c")]
CONFIG = EvaluateConfig(dictionary_bytes=2048, bootstrap_samples=200)


def training() -> Any:
    return (sample_text(seed) for seed in range(100, 130))


@pytest.fixture(scope="module")
def result(neo: Decoder, tokenizer: Tokenizer) -> dict[str, Any]:
    return evaluate(neo, tokenizer, DOCUMENTS, CONFIG, training)


def test_the_result_is_json_with_every_number_and_its_interval(result: dict[str, Any]) -> None:
    assert json.loads(json.dumps(result, allow_nan=False)) == result
    for name in ("loss", "token_perplexity", "bits_per_byte"):
        assert result[name]["low"] <= result[name]["value"] <= result[name]["high"]
    protocol = protocol_of(result)
    data = protocol["data"]
    nats = sum(row["negative_log_likelihood"] for row in result["per_document"])
    assert result["bits_per_byte"]["value"] == pytest.approx(nats / data["bytes"] / math.log(2))
    assert result["loss"]["value"] == pytest.approx(nats / sum(row["tokens"] for row in result["per_document"]))
    assert data["bytes"] == sum(len(document.text.encode()) for document in DOCUMENTS)
    assert data["documents"] == data["groups"] == protocol["available"]["documents"] == 9
    assert (protocol["window"], protocol["stride"]) == (32, 16)
    assert (protocol["precision"], protocol["quantize"]) == ("float32", None)


def test_compressors_are_measured_on_the_same_documents(result: dict[str, Any]) -> None:
    baselines = result["bits_per_byte"]["baselines"]
    assert list(baselines) == ["zstd_dictionary", "xz", "xz_together"]
    assert baselines["zstd_dictionary"]["value"] < baselines["xz"]["value"]
    assert 0 < baselines["zstd_dictionary"]["dictionary_bytes"] <= 2048
    for name in ("zstd_dictionary", "xz"):
        found = baselines[name]
        total = sum(row[f"{name}_bytes"] for row in result["per_document"] if row["bytes"])
        assert found["value"] == pytest.approx(8 * total / protocol_of(result)["data"]["bytes"])
        assert found["low"] <= found["value"] <= found["high"]
        difference = found["value"] - result["bits_per_byte"]["value"]
        assert found["difference"]["value"] == pytest.approx(difference)
    assert baselines["xz_together"]["low"] is None


def test_scores_by_source(result: dict[str, Any]) -> None:
    for name in ("bits_per_byte", "loss"):
        sources = result[name]["sources"]
        assert [(source, found["documents"]) for source, found in sources.items()] == [("b", 4), ("a", 4)]  # by size
        assert min(found["value"] for found in sources.values()) < result[name]["value"]
        assert max(found["value"] for found in sources.values()) > result[name]["value"]


def test_only_the_largest_sources_have_scores(
    neo: Decoder, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("neolm.evaluation.evaluate.MAX_SOURCES", 2)
    texts = [Text(f"d{n}", "the sea " * (n + 1), f"source {n}") for n in range(4)]
    scores = evaluate(neo, tokenizer, texts, EvaluateConfig(baselines=False))
    assert list(scores["loss"]["sources"]) == ["source 3", "source 2"]


def test_compressors_are_optional_and_need_no_training_text(neo: Decoder, tokenizer: Tokenizer) -> None:
    one = [Text("one", "the sea and the sea")]
    assert evaluate(neo, tokenizer, one, EvaluateConfig(baselines=False))["bits_per_byte"]["baselines"] == {}
    found = evaluate(neo, tokenizer, one)["bits_per_byte"]
    assert list(found["baselines"]) == ["xz", "xz_together"]
    assert found["low"] is None  # one document has no interval
    assert found["sources"] == {}


def test_a_protocol_names_the_data_and_the_settings(neo: Decoder, tokenizer: Tokenizer) -> None:
    def protocol(documents: list[Text] = DOCUMENTS, **settings: Any) -> tuple[str, dict[str, Any]]:
        scores = evaluate(neo, tokenizer, documents, CONFIG.model_copy(update={"baselines": False, **settings}))
        return scores["loss"]["protocol"], protocol_of(scores)

    name, facts = protocol()
    assert protocol(DOCUMENTS[::-1], batch_size=3, max_bytes=None) == (name, facts)
    assert protocol([Text(f"other {text.id}", text.text) for text in DOCUMENTS])[1]["data"] == facts["data"]
    changed = [Text(text.id, text.text + ".", text.source) for text in DOCUMENTS]
    assert protocol(changed)[1]["data"]["digest"] != facts["data"]["digest"]
    others = [protocol(changed), protocol(stride=8), protocol(window=16), protocol(confidence=0.9)]
    assert len({name, *(other for other, _ in others)}) == 5


def test_parts_of_one_document_count_as_one_in_the_intervals(neo: Decoder, tokenizer: Tokenizer) -> None:
    parts = [Part(text.id, text.text, "here", f"book {n // 4}") for n, text in enumerate(DOCUMENTS[:8])]
    of_parts, of_documents = (evaluate(neo, tokenizer, texts, CONFIG) for texts in (parts, DOCUMENTS[:8]))
    assert protocol_of(of_parts)["data"] == protocol_of(of_documents)["data"] | {"groups": 2}
    assert [row["parent"] for row in of_parts["per_document"]].count("book 1") == 4
    for score, other in ((of_parts[name], of_documents[name]) for name in ("loss", "bits_per_byte")):
        assert score["value"] == pytest.approx(other["value"])
        assert (score["low"], score["high"]) != (other["low"], other["high"])


@pytest.mark.parametrize("documents", [[], [Text("a", ""), Text("b", "")]])
def test_nothing_to_measure_is_one_clear_line(neo: Decoder, tokenizer: Tokenizer, documents: list[Text]) -> None:
    with pytest.raises(InputError, match=r"^evaluation: [^\n]+$"):
        evaluate(neo, tokenizer, documents)


def test_settings_that_do_not_fit_are_refused(neo: Decoder, tokenizer: Tokenizer) -> None:
    with pytest.raises(InputError, match=r"evaluate\.window"):
        evaluate(neo, tokenizer, DOCUMENTS, EvaluateConfig(window=64))
    with pytest.raises(InputError, match=r"evaluate\.stride"):
        evaluate(neo, tokenizer, DOCUMENTS, EvaluateConfig(stride=33))
    for override in ("stride=0", "window=-1", "confidence=1.0", "batch_size=0", "max_bytes=0", "strid=4"):
        with pytest.raises(InputError, match=override.split("=", maxsplit=1)[0]):
            load_config(EvaluateConfig, None, [override])


def test_documents_are_chosen_whole_evenly_and_the_same_way_every_time() -> None:
    documents = [Text(f"n{n}", "x" * 100) for n in range(1000)]
    chosen, available = choose_documents(iter(documents), 10_000)
    assert available == {"documents": 1000, "bytes": 100_000}
    assert len(chosen) == 100
    assert choose_documents(documents[::-1], 10_000)[0] == chosen
    assert choose_documents(documents, 10_000, seed=1)[0] != chosen
    thirds = [sum(int(document.id[1:]) // 334 == third for document in chosen) for third in range(3)]
    assert min(thirds) > 15
    assert len(choose_documents(documents, None)[0]) == 1000
    assert len(choose_documents([Text("book", "x" * 10**6)], 10)[0]) == 1


def test_every_setting_says_what_it_means() -> None:
    assert all(setting.meaning for setting in settings(EvaluateConfig))


@pytest.fixture(scope="module")
def run_directory(tmp_path_factory: pytest.TempPathFactory, neo: Decoder, tokenizer: Tokenizer) -> Path:
    """A run up to its model, as the earlier stages leave it."""
    folder = tmp_path_factory.mktemp("texts")
    for number in range(40):
        (folder / f"{number}.txt").write_text(sample_text(number, 100), encoding="utf-8")
    output = tmp_path_factory.mktemp("run of a test")
    build_corpus(output, CorpusConfig(source="files", path=str(folder), validation_fraction=0.2))
    save_model(neo, output / "model")
    tokenizer.save(output / "model")
    return output


def test_the_stage_is_built_and_then_up_to_date(run_directory: Path, capfd: pytest.CaptureFixture[str]) -> None:
    config = EvaluateConfig(sample_tokens=6, dictionary_bytes=2048, device="cpu", bootstrap_samples=100)
    manifest = evaluate_stage(run_directory, config)
    shown = capfd.readouterr().err
    assert all(
        name in shown
        for name in ("this model", "zstd with a dictionary", "xz, each", "bits per byte", "window 32, stride 16")
    )
    place = run_directory / "evaluation"
    assert verify(place) == []
    scores = json.loads((place / "scores.json").read_text(encoding="utf-8"))
    held_out = list(read_documents(run_directory / "corpus", "validation"))
    data = protocol_of(scores)["data"]
    assert manifest.counts["documents"] == data["documents"] == len(held_out)
    assert data["bytes"] == sum(len(document.text.encode()) for document in held_out)
    assert manifest.counts["precision"]["reason"] == "as requested"
    for name in ("bits_per_byte", "loss", "token_perplexity", "word_perplexity"):
        assert manifest.counts[name] == {end: scores[name][end] for end in ("value", "low", "high")}
    rows = [json.loads(line) for line in (place / "documents.jsonl").read_text(encoding="utf-8").splitlines()]
    assert {row["id"] for row in rows} == {document.id for document in held_out}
    samples = json.loads((place / "samples.json").read_text(encoding="utf-8"))
    texts = {document.id: document.text for document in held_out}
    assert len(samples) == 4
    for sample in samples:
        assert set(sample) == {"prompt", "document", "sampled", "greedy"}
        assert re.match(rf"{re.escape(sample['prompt'])}\s", texts[sample["document"]])  # whole words, no space after

    assert evaluate_stage(run_directory, config) == manifest
    assert "evaluation: up to date" in capfd.readouterr().err
    again = evaluate_stage(run_directory, config.model_copy(update={"stride": 32}))
    assert again.digest != manifest.digest
    assert read_manifest(place) == again


UNREADABLE = {
    "another key": ("a.jsonl", b'{"content": "the sea"}\n', r"\(missing_text 1\); name .* with --set text_key=KEY$"),
    "Latin-1": ("a.txt", b"caf\xe9", r"not UTF-8; convert it, for example .*iconv -f WINDOWS-1252 -t UTF-8 'a\.txt'"),
    "broken lines": ("a.jsonl", b"{\n{\n", r"\(broken_json 2\); each line of a \.jsonl file must be one JSON object$"),
    "binary": ("a.txt", b"a\0b", r"\(binary 1\); give text files$"),
    "not a Parquet file": ("a.parquet", b"PAR1", r"\(\w+ 1\); "),
    "too large": ("a.txt", b"x" * 101, r"\(too_large 1\); raise the limit with --set max_document_bytes=N, or "),
}


@pytest.mark.parametrize("case", UNREADABLE)
def test_a_text_without_readable_records_is_refused_with_the_reasons(
    case: str, run_directory: Path, tmp_path: Path
) -> None:
    name, data, message = UNREADABLE[case]
    (tmp_path / name).write_bytes(data)
    for path in (tmp_path, tmp_path / name):
        with pytest.raises(InputError, match=message) as caught:
            evaluate_model(run_directory / "model", path, baselines=False, max_document_bytes=100)
        assert str(caught.value).startswith(f"text: {path}: ")


def test_records_and_files_that_are_left_out_are_counted(run_directory: Path, tmp_path: Path) -> None:
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9")
    (tmp_path / "picture.png").write_bytes(b"PNG")
    (tmp_path / "gone.txt").symlink_to(tmp_path / "nowhere.txt")
    lines = ['{"text": "the sea"}', '{"content": "the sea"}', '{"content": "April"}', "{broken"]
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    scores = evaluate_model(run_directory / "model", tmp_path, baselines=False)
    protocol = protocol_of(scores)
    assert protocol["data"]["documents"] == 1
    assert {reason: value["documents"] for reason, value in protocol["rejected"].items()} == {
        "broken_json": 1,
        "broken_utf8": 1,
        "missing_text": 2,
    }
    assert protocol["ignored_kinds"] == {".png": 1, "linked to nothing": 1}
    shown = scores_table(scores).splitlines()
    assert shown[0].endswith(
        "; rejected: missing_text 2, broken_json 1, broken_utf8 1; ignored 2 files: 1 .png, 1 linked to nothing"
    ) or shown[0].endswith(
        "; rejected: missing_text 2, broken_json 1, broken_utf8 1; ignored 2 files: 1 linked to nothing, 1 .png"
    )
    assert shown[1] == f"evaluation: {protocol['links'][0]}"
    assert "gone.txt" in protocol["links"][0]


def test_the_key_of_the_text_can_be_named(run_directory: Path, tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"content": "the sea and April"}\n{"text": "the clock"}\n')
    (tmp_path / "b.txt").write_text("the sea and April")
    one = evaluate_model(run_directory / "model", tmp_path / "b.txt", baselines=False)
    for given in (
        {"text_key": "content"},
        {"overrides": ["text_key=content"]},
        {"overrides": ["evaluate.text_key=content"]},
    ):
        scores = evaluate_model(run_directory / "model", tmp_path / "a.jsonl", **{"baselines": False, **given})
        assert scores["loss"]["value"] == one["loss"]["value"]
        assert set(protocol_of(scores)["rejected"]) == {"missing_text"}


def test_settings_of_a_text_have_no_effect_without_one(
    run_directory: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    corpus = run_directory / "corpus"
    monkeypatch.setattr("neolm.evaluation.evaluate.chain", lambda _: [(corpus, read_manifest(corpus))])
    evaluate_model(run_directory / "model", baselines=False, max_bytes=2000, text_key="content")
    assert "text_key has no effect here" in capsys.readouterr().err


def test_sources_beyond_the_largest_are_counted(neo: Decoder, tokenizer: Tokenizer) -> None:
    documents = [Text(str(number), sample_text(number, 20), f"s{number}") for number in range(MAX_SOURCES + 3)]
    scores = evaluate(neo, tokenizer, documents, CONFIG.model_copy(update={"baselines": False}))
    assert len(scores["loss"]["sources"]) == MAX_SOURCES
    assert scores["loss"]["other_sources"] == scores["bits_per_byte"]["other_sources"] == 3


def test_the_files_of_the_model_are_not_text_to_measure_on(run_directory: Path, tmp_path: Path) -> None:
    shutil.copytree(run_directory / "model", tmp_path / "model")
    (tmp_path / "model" / "README.md").write_text("the card of the model")
    (tmp_path / "a.txt").write_text("the sea")
    scores = evaluate_model(tmp_path / "model", tmp_path, baselines=False)
    assert protocol_of(scores)["data"]["documents"] == 1


def stage_scores(output: Path, **settings: Any) -> dict[str, Any]:
    evaluate_stage(output, CONFIG.model_copy(update={"device": "cpu", **settings}))
    found: dict[str, Any] = json.loads((output / "evaluation" / "scores.json").read_text(encoding="utf-8"))
    return found


@pytest.mark.parametrize("quantize", ["int8", "int4"])
def test_the_stage_measures_the_quantized_model(run_directory: Path, tokenizer: Tokenizer, quantize: str) -> None:
    plain, rounded = stage_scores(run_directory), stage_scores(run_directory, quantize=quantize)
    held_out = list(read_documents(run_directory / "corpus", "validation"))
    model = load_model(run_directory / "model", "cpu", "float32", quantize)
    assert rounded["loss"]["value"] != plain["loss"]["value"]
    assert rounded["loss"] == evaluate(model, tokenizer, held_out, CONFIG)["loss"]


# A value of each setting that changes the scores or the samples; None: it changes none of them, for this reason.
CHANGES: dict[str, Any] = {
    "window": 24,
    "stride": 8,
    "max_bytes": 300,
    "batch_size": None,  # only speed and memory
    "bootstrap_samples": 150,
    "confidence": 0.5,
    "seed": 3,
    "baselines": False,
    "dictionary_bytes": 1024,
    "device": None,  # the tests have no second device; an unknown one is refused, see below
    "precision": "bfloat16",
    "quantize": "int8",
    "prompts": ("The sea",),
    "sample_tokens": 5,
    "temperature": 0.1,
    "pseudo_perplexity_documents": None,  # of encoders, see test_evaluate_encoder.py
}


def test_every_setting_changes_the_result(run_directory: Path) -> None:
    assert set(CHANGES) == set(EvaluateConfig.model_fields)

    def result(**settings: Any) -> list[bytes]:
        stage_scores(run_directory, **{"sample_tokens": 8, **settings})
        return [(run_directory / "evaluation" / name).read_bytes() for name in ("scores.json", "samples.json")]

    before = result()
    for name, value in CHANGES.items():
        if value is not None:
            assert result(**{name: value}) != before, name
    assert result(batch_size=3)[1] == before[1]


def test_an_unknown_device_is_one_clear_line(run_directory: Path) -> None:
    with pytest.raises(InputError, match="device: 'abacus' is unknown"):
        evaluate_stage(run_directory, EvaluateConfig(device="abacus"))


def test_bfloat16_is_near(run_directory: Path) -> None:
    loss = {}
    for precision in ("float32", "bfloat16"):
        scores = stage_scores(run_directory, precision=precision)
        assert protocol_of(scores)["precision"] == precision
        loss[precision] = scores["loss"]["value"]
    assert loss["bfloat16"] == pytest.approx(loss["float32"], rel=0.02)
    assert loss["bfloat16"] != loss["float32"]
