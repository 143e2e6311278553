"""Models of published shapes with random weights, written once, in Hugging Face's format and as GGUF.

Speed does not depend on the values of the weights, so nothing is downloaded. The tokenizer is artificial too: all
bytes, and pairs of bytes up to the size of the vocabulary. No measurement uses it, but converters require one. NeoLM
runs in a separate process, so that the memory of the benchmark's process stays small.
"""

from __future__ import annotations

import itertools
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from shapes import Shape
from workers import HERE, BenchmarkError, log

HF, GGUF = "hf", "gguf/model.gguf"  # paths in a model's folder; converters of the peers add others


def random_model(shape: Shape, folder: Path) -> Path:
    """Return the directory in `folder` of the model of `shape`. It is written if it is missing or has another shape.

    Raises:
        BenchmarkError: the model cannot be written.
    """
    directory = folder.resolve() / shape.name
    fields = ("family", "hidden_size", "num_layers", "num_heads", "vocab_size", "context", "window_size")
    recipe = json.dumps({key: shape.as_json()[key] for key in fields})
    stamp = directory / "made-of.json"
    if not stamp.is_file() or stamp.read_text(encoding="utf-8") != recipe:
        log(f"{shape.name}: writing a model of random weights to {directory}")
        shutil.rmtree(directory, ignore_errors=True)
        directory.mkdir(parents=True)
        _run("cannot write the model", [HERE / "random_models.py", directory / HF, recipe])
        stamp.write_text(recipe, encoding="utf-8")
    return directory


def as_gguf(directory: Path) -> None:
    """Write the model in `directory` as GGUF in float32, unless the file exists. llama.cpp's kinds are made from it.

    Raises:
        BenchmarkError: NeoLM cannot export the model.
    """
    target = directory / GGUF
    if target.is_file():
        return
    log(f"{directory.name}: writing it as GGUF")
    export = ["-m", "neolm", "export", directory / HF, target.parent, "--to", "gguf", "--dtype", "float32"]
    _run("neolm export --to gguf", export)


def _run(task: str, arguments: list[Any]) -> None:
    done = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        lines = done.stderr.strip().splitlines()
        raise BenchmarkError(f"{task}: {lines[-1] if lines else f'exit code {done.returncode}'}")


def main(directory: Path, shape: dict[str, Any]) -> None:
    """Write the model of `shape` in bfloat16, and a tokenizer if it can have that vocabulary size."""
    import tokenizers
    from contestant_neolm import build_model

    from neolm.models.hf import save_model
    from neolm.tokenizer.tokenizer import END_OF_TEXT, Tokenizer, byte_characters

    save_model(build_model(shape, {}, seed=1), directory, "bfloat16")
    characters = byte_characters().values()
    pairs = [*itertools.product(characters, characters)][: shape["vocab_size"] - len(characters) - 1]
    if len(characters) + len(pairs) + 1 != shape["vocab_size"]:
        return
    tokens = [*characters, *(a + b for a, b in pairs)]
    backend = tokenizers.Tokenizer(tokenizers.models.BPE({token: n for n, token in enumerate(tokens)}, pairs))
    backend.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    backend.decoder = tokenizers.decoders.ByteLevel()
    backend.add_special_tokens([tokenizers.AddedToken(END_OF_TEXT, special=True, normalized=False)])
    Tokenizer(backend).save(directory)


if __name__ == "__main__":
    main(Path(sys.argv[1]), json.loads(sys.argv[2]))
