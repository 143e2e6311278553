"""The model card of a run, of an export, and of an imported model."""

import json
import re
import shutil

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from huggingface_hub import ModelCard
from recorded_run import HOSTILE, SCORES, evaluated, trained

from neolm.core.artifact import Stage
from neolm.core.manifest import input_from, verify
from neolm.report.model_card import model_card, write_model_card


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return evaluated(tmp_path_factory.mktemp("card") / "my run")


def card_of(directory):
    write_model_card(directory)
    return ModelCard.load(directory / "README.md")


def test_the_hub_reads_its_metadata(whole):
    card = card_of(whole / "model")
    assert card.data.library_name == "transformers"
    assert card.data.pipeline_tag == "text-generation"
    assert card.data.tags == ["neolm", "gpt-neo"]
    assert card.data.model_name == "my run"
    scores = {result.metric_type: result.metric_value for result in card.data.eval_results}
    assert scores == {"bits_per_byte": 1.87, "loss": 2.9, "token_perplexity": 18.2}


def test_the_card_of_a_run(whole):
    text = card_of(whole / "model").text
    for words in (
        "# my run",
        "A GPT-Neo language model with 4.32M parameters, trained on 18\u00a0MB of text.",
        "| Read | 2,000 documents, 20\u00a0MB |",
        "| Bits per byte | 1.870 (1.800 to 1.940) |",
        "| Bits per byte of xz, each document alone | 2.200 (2.100 to 2.300) |",
        "0.69 tokens per parameter",
        "at most 256 tokens",
        "| Learning rate | 0.003 at its maximum |",
    ):
        assert words in text
    assert "/texts" not in text  # paths can be private
    assert HOSTILE not in text
    assert verify(whole / "model") == []


def test_licences_fit_into_the_table(tmp_path, whole):
    output = shutil.copytree(whole, tmp_path / "run")
    (output / "corpus" / "documents").mkdir()
    licences = ["MIT", "CC BY|4.0\nor later", "MIT", *(f"rare {n}" for n in range(20))]
    pq.write_table(pa.table({"licence": licences}), output / "corpus" / "documents" / "train-00000.parquet")
    found = re.search(r"\n\| Licences, the most frequent first \| (.*) \|\n", card_of(output / "model").text)
    assert found[1].startswith(r"MIT, CC BY\|4.0 or later, rare 0, ")
    assert found[1].endswith(", rare 17, 2 others")


def test_before_the_evaluation_it_has_no_scores(tmp_path):
    trained(tmp_path / "run")
    card = card_of(tmp_path / "run" / "model")
    assert card.data.eval_results is None
    assert "has not been evaluated" in card.text
    (tmp_path / "run" / "evaluation").mkdir()


def test_scores_of_another_model_are_not_its_scores(tmp_path, whole):
    output = shutil.copytree(whole, tmp_path / "run")
    manifest = json.loads((output / "model" / "manifest.json").read_text())
    manifest["outputs"] = {"model.safetensors": "0" * 64}
    (output / "model" / "manifest.json").write_text(json.dumps(manifest))
    assert "has not been evaluated" in model_card(output / "model")


def test_an_edited_card_is_kept(tmp_path, whole, capsys):
    output = shutil.copytree(whole, tmp_path / "run")
    card = output / "model" / "README.md"
    write_model_card(output / "model")
    written = card.read_text(encoding="utf-8")
    write_model_card(output / "model")
    assert card.read_text(encoding="utf-8") == written
    for edited in (written.replace("# run", "# My model"), "", "another card"):
        card.write_text(edited, encoding="utf-8")
        write_model_card(output / "model")
        assert card.read_text(encoding="utf-8") == edited
        assert "was edited and is kept" in capsys.readouterr().err


def export(source, target, config, counts, files):
    def make(directory):
        for name, text in files.items():
            (directory / name).write_text(text)
        return counts

    Stage("export", "models", target, {"source": input_from(source, target.parent)}, config).build(make, False)


def test_an_export_has_the_scores_and_says_what_was_converted(tmp_path, whole):
    target = tmp_path / "small"
    quantized = {"config.json": json.dumps({"quantization_config": {"bits": 4}})}
    export(whole / "model", target, {"quantize": "int4", "dtype": None}, {"parameters": 7}, quantized)
    card = card_of(target)
    assert card.data.library_name == "neolm"  # transformers does not read these weights
    assert "# small" in card.text
    assert "The scores were measured before the weights were converted to int4." in card.text
    assert f"{SCORES['bits_per_byte']['value']:.3f}" in card.text
    assert "transformers" not in card.text


def test_a_file_for_llama_cpp(tmp_path, whole):
    export(whole / "model", tmp_path / "gguf", {"dtype": "float16"}, {"parameters": 7}, {"model.gguf": ""})
    assert "llama-cli -m model.gguf" in card_of(tmp_path / "gguf").text


def test_a_model_from_outside(tmp_path):
    (tmp_path / "published").mkdir()
    (tmp_path / "published" / "weights").write_text("w")
    export(tmp_path / "published", tmp_path / "mine", {}, {"parameters": 124_000_000, "family": "gpt2"}, {})
    text = card_of(tmp_path / "mine").text
    assert "A GPT-2 language model with 124M parameters, imported into NeoLM." in text
    assert "The training data is not known to NeoLM" in text
    assert "## Training" not in text
    assert "## Model" not in text
