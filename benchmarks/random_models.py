"""Models of published shapes with random weights, written once, in Hugging Face's layout and as GGUF.

Speed does not depend on what the weights are, and so nothing is downloaded. The tokenizer beside them is as good: all
bytes, and as many pairs of bytes as the vocabulary has room for. Nobody's measurement uses it, but converters ask for
one. NeoLM runs in a process of its own, so that the benchmark's stays small.
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
from workers import HERE, Failed, note

HF, GGUF = "hf", "gguf/model.gguf"  # places in a model's folder; converters of the peers add theirs


def random_model(shape: Shape, folder: Path) -> Path:
    """The folder below `folder` with the model of `shape`, written if it is not there or another shape's.

    Raises:
        Failed: it cannot be written.
    """
    place = folder.resolve() / shape.name
    fields = ("family", "hidden_size", "num_layers", "num_heads", "vocab_size", "context", "window_size")
    recipe = json.dumps({key: shape.as_json()[key] for key in fields})
    stamp = place / "made-of.json"
    if not stamp.is_file() or stamp.read_text(encoding="utf-8") != recipe:
        note(f"{shape.name}: writing a model of random weights to {place}")
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir(parents=True)
        _run("a model cannot be written", [HERE / "random_models.py", place / HF, recipe])
        stamp.write_text(recipe, encoding="utf-8")
    return place


def as_gguf(place: Path) -> None:
    """Write GGUF, in float32, beside the model in `place`, if it is not there: all that NeoLM has to do with llama.cpp.

    Raises:
        Failed: NeoLM cannot write it.
    """
    target = place / GGUF
    if target.is_file():
        return
    note(f"{place.name}: writing it as GGUF")
    export = ["-m", "neolm", "export", place / HF, target.parent, "--to", "gguf", "--dtype", "float32"]
    _run("neolm export --to gguf", export)


def _run(what: str, arguments: list[Any]) -> None:
    done = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        lines = done.stderr.strip().splitlines()
        raise Failed(f"{what}: {lines[-1] if lines else f'exit code {done.returncode}'}")


def main(directory: Path, shape: dict[str, Any]) -> None:
    """Write the model of `shape` in bfloat16, which everybody reads, and a tokenizer if there is room for one."""
    import tokenizers
    from contestant_neolm import build_model

    from neolm.models.hf import save_model
    from neolm.tokenizer.tokenizer import END_OF_TEXT, Tokenizer, byte_characters

    save_model(build_model(shape, {}, seed=1), directory, "bfloat16")
    characters = byte_characters().values()
    pairs = [*itertools.product(characters, characters)][: shape["vocab_size"] - len(characters) - 1]
    if len(characters) + len(pairs) + 1 != shape["vocab_size"]:
        return
    words = [*characters, *(a + b for a, b in pairs)]
    backend = tokenizers.Tokenizer(tokenizers.models.BPE({word: n for n, word in enumerate(words)}, pairs))
    backend.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    backend.decoder = tokenizers.decoders.ByteLevel()
    backend.add_special_tokens([tokenizers.AddedToken(END_OF_TEXT, special=True, normalized=False)])
    Tokenizer(backend).save(directory)


if __name__ == "__main__":
    main(Path(sys.argv[1]), json.loads(sys.argv[2]))
