"""Decoding with llama.cpp, called like its command-line tools, on GGUF files from its own quantizer.

Only the C interface of its Python package is used: tokens in, one forward pass, the token of the greedy sampler out.
"""

from __future__ import annotations

import ctypes
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import llama_cpp as llama
from decoding import serve
from protocol import Channel
from random_models import GGUF

KINDS = {
    "bf16": llama.LLAMA_FTYPE_MOSTLY_BF16,
    "q8_0": llama.LLAMA_FTYPE_MOSTLY_Q8_0,
    "q4_0": llama.LLAMA_FTYPE_MOSTLY_Q4_0,
}


class Model:
    """A model with one context per batch shape, created on first use."""

    def __init__(self, path: Path, threads: int, max_new_tokens: int) -> None:
        """Load the model. Each prompt is continued by at most `max_new_tokens` tokens."""
        llama.llama_backend_init()
        settings = llama.llama_model_default_params()
        settings.n_gpu_layers = 0
        self._model = llama.llama_model_load_from_file(str(path).encode(), settings)
        if not self._model:
            raise RuntimeError("llama.cpp cannot load the model")
        self._threads, self._max_new_tokens = threads, max_new_tokens
        self._contexts: dict[tuple[int, int], Any] = {}
        self._greedy = llama.llama_sampler_init_greedy()

    def generate(self, prompts: list[list[int]], tokens: int, on_token: Callable[[], None]) -> list[int]:
        """Continue `prompts` greedily; see decoding.py."""
        B, T = len(prompts), len(prompts[0])
        context = self._context(B, T)
        llama.llama_memory_clear(llama.llama_get_memory(context), False)
        new, ids = prompts, []
        for step in range(tokens):
            outputs = self._decode(context, new, T + step - 1 if step else 0)
            new = [[llama.llama_sampler_sample(self._greedy, context, index)] for index in outputs]
            on_token()
            ids.append(new[0][0])
        return ids

    def _context(self, B: int, T: int) -> Any:
        if (B, T) not in self._contexts:
            settings = llama.llama_context_default_params()
            settings.n_ctx = B * -(-(T + self._max_new_tokens) // 256) * 256  # shared equally by the sequences
            settings.n_batch, settings.n_seq_max = B * T, B
            settings.n_threads = settings.n_threads_batch = self._threads
            context = llama.llama_init_from_model(self._model, settings)
            if not context:
                raise RuntimeError("llama.cpp cannot make a context")
            self._contexts[B, T] = context
        return self._contexts[B, T]

    def _decode(self, context: Any, rows: list[list[int]], start: int) -> list[int]:
        """Process the tokens of each row from position `start`; return the batch index of each row's last token."""
        batch = llama.llama_batch_init(sum(map(len, rows)), 0, 1)
        last = []
        for row, ids in enumerate(rows):
            for offset, token in enumerate(ids):
                n = batch.n_tokens
                batch.token[n], batch.pos[n] = token, start + offset
                batch.n_seq_id[n], batch.seq_id[n][0] = 1, row
                batch.logits[n] = offset == len(ids) - 1
                batch.n_tokens = n + 1
            last.append(batch.n_tokens - 1)
        failed = llama.llama_decode(context, batch)
        llama.llama_batch_free(batch)
        if failed:
            raise RuntimeError(f"llama_decode failed with code {failed}")
        return last


def quantized(folder: Path, kind: str) -> Path:
    """Return the GGUF file of this kind. It is made from the float32 file if it does not exist."""
    float32 = folder / GGUF
    if kind == "f32":
        return float32
    target = folder / f"llama.cpp-{kind}.gguf"
    command = [sys.executable, __file__, float32, target, kind]  # a separate process, which frees its memory
    if not target.is_file() and subprocess.run(command, check=False).returncode:
        sys.exit(1)  # the quantizer has printed the reason
    return target


def quantize(source: str, target: str, kind: str) -> None:
    """Quantise all matrices to the same kind, including the output head, which has more bits by default."""
    settings = llama.llama_model_quantize_default_params()
    settings.ftype, settings.pure = KINDS[kind], True
    partial = f"{target}.partial"
    if llama.llama_model_quantize(source.encode(), partial.encode(), ctypes.byref(settings)):
        raise RuntimeError(f"llama.cpp cannot quantize to {kind}")
    Path(partial).rename(target)


def main() -> None:
    channel = Channel()
    job = channel.job
    model = Model(quantized(Path(job["model"]), job["kind"]), job["threads"], job["room"])
    serve(channel, model.generate, {})


if __name__ == "__main__":
    if len(sys.argv) > 1:
        quantize(*sys.argv[1:])
    else:
        main()
