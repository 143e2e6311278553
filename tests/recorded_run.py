"""Directories of runs as the report reads them: manifests, metrics, scores and samples, without a model."""

import json

from neolm.core.artifact import Clock, Stage
from neolm.core.manifest import Input, input_from

HOSTILE = "<script>alert('&')</script>"
ESTIMATE = {"kwh": 0.002, "method": "estimate: 2 cores x 15 W x duration, not measured (no counter found)"}
MEASURED = {"kwh": 0.003, "method": "measured by RAPL (package-0), without GPUs"}


def seal(output, name, inputs, config, counts, energy=ESTIMATE):
    directory = output / name
    directory.mkdir(parents=True, exist_ok=True)
    room = "training" if name in ("pretrain", "model") else "evaluation" if name == "evaluation" else "corpus"
    sources = {key: input_from(output / key, output) if isinstance(key, str) else key for key in inputs}
    if name == "corpus":
        sources = {"raw": Input(f"/texts/{HOSTILE}", "ab" * 32)}
    Stage(name, room, directory, sources, config).seal(directory, counts, Clock(), energy=energy)


def corpus(output, validation=90):
    def amount(documents):
        return {"documents": documents, "bytes": documents * 10_000}

    counts = {
        "read": amount(2000),
        "rejected": {"duplicate": amount(100), HOSTILE: amount(10)},
        "kept": amount(1890),
        "train": amount(1890 - validation),
        "validation": amount(validation),
        "ignored_files": 3,
    }
    seal(output, "corpus", [], {"source": "files"}, counts)


def prepared(output, validation=90):
    corpus(output, validation)
    seal(output, "tokenizer", ["corpus"], {}, {"tokens": 2048, "every": 1})
    train = {"documents": 1800, "tokens": 6_000_000, "bytes": 18_000_000, "shards": 1}
    seal(output, "shards", ["corpus", "tokenizer"], {"vocab_size": 2048}, {"train": train})


def trained(output, validation=90):
    prepared(output, validation)
    (output / "pretrain").mkdir()
    rows = [
        {
            "step": step,
            "loss": 3 + 5 / step,
            "learning_rate": 3e-3 * (1 - step / 50),
            "grad_norm": 1 + 1 / step,
            "tokens": step * 4096,
            "tokens_per_second": 13_000.0 + step,
            "mfu": 0.21,
            "memory_bytes": 2**30 + step * 2**20,
        }
        for step in range(1, 50)
    ]
    rows += [{"step": 40, "validation_loss": 3.4}] if validation else []
    text = "".join(json.dumps(row) + "\n" for row in rows) + '{"step": 50, "lo'
    (output / "pretrain" / "metrics.jsonl").write_text(text)
    shape = {"family": "gpt-neo", "num_layers": 4, "hidden_size": 256, "num_heads": 4, "window_size": 128}
    shape |= {"attention_layers": ["global", "local"], "max_position_embeddings": 256, "vocab_size": 2048}
    training = {"sequence_length": 256, "batch_size": 16, "learning_rate": 3e-3, "gradient_clip": 1.0}
    counts = {
        "parameters": 4_321_000,
        "non_embedding_parameters": 3_145_728,
        "steps": 50,
        "tokens": 3_000_000,
        "training_seconds": 220.0,
        "tokens_per_second": 13_636.0,
        "flops": 6.6e13,
        "mfu": 0.21,
        "matrix_ceiling_flops": 1.5e12,
        "unigram_entropy": 6.934,
        "best_validation_loss": 3.4 if validation else None,
        "best_step": 40 if validation else None,
        "device": {"value": "cpu", "reason": "no GPU found"},
        "precision": {"value": "bfloat16", "reason": "AMX bf16 found"},
    }
    seal(output, "pretrain", ["shards", "tokenizer"], {"model": shape, "pretrain": training, "seed": 1}, counts)
    seal(output, "model", ["pretrain"], {"final": "best"}, {"parameters": 4_321_000, "step": 40})


def evaluated(output):
    trained(output)
    (output / "evaluation").mkdir()
    (output / "evaluation" / "scores.json").write_text(json.dumps(SCORES))
    (output / "evaluation" / "samples.json").write_text(json.dumps(SAMPLES))
    settings = {"temperature": 0.8, "seed": 0}
    seal(output, "evaluation", ["model", "corpus"], settings, {"bits_per_byte": SCORES["bits_per_byte"]})
    return output


def number(value, low=None, high=None, **more):
    return {"value": value, "low": low, "high": high, **more}


SCORES = {
    "loss": number(2.9, 2.8, 3.0),
    "token_perplexity": number(18.2, 16.4, 20.1),
    "word_perplexity": number(None),
    "bits_per_byte": number(
        1.87,
        1.8,
        1.94,
        protocol="likelihood-1",
        baselines={
            "zstd_dictionary": number(1.7, 1.6, 1.8, difference=number(-0.17, -0.2, -0.1), dictionary_bytes=2**20),
            "xz": number(2.2, 2.1, 2.3, difference=number(0.33, 0.3, 0.4)),
            "xz_together": number(1.5),
        },
    ),
    "protocols": {
        "likelihood-1": {
            "data": {"documents": 70, "bytes": 400_000, "groups": 70, "digest": "d" * 64},
            "available": {"documents": 90, "bytes": 900_000},
            "window": 256,
            "stride": 128,
            "confidence": 0.95,
        }
    },
}
SAMPLES = [{"prompt": f"def f(a):\n    {HOSTILE}", "greedy": f" return {HOSTILE}", "sampled": " pass"}]
