"""llama.cpp, called as its own command-line tools call it, on GGUF that its own quantizer rounds.

Its Python package is used for its C interface alone: tokens in, one forward pass, the greedy sampler's token out.
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
    """A model, and a context for each kind of work, made when it is first wanted."""

    def __init__(self, path: Path, threads: int, room: int) -> None:
        """Load it; `room` is how many tokens a prompt may get."""
        llama.llama_backend_init()
        settings = llama.llama_model_default_params()
        settings.n_gpu_layers = 0
        self._model = llama.llama_model_load_from_file(str(path).encode(), settings)
        if not self._model:
            raise RuntimeError("llama.cpp cannot load the model")
        self._threads, self._room = threads, room
        self._contexts: dict[tuple[int, int], Any] = {}
        self._greedy = llama.llama_sampler_init_greedy()

    def generate(self, prompts: list[list[int]], tokens: int, stamp: Callable[[], None]) -> list[int]:
        """See `decoding`."""
        B, T = len(prompts), len(prompts[0])
        context = self._context(B, T)
        llama.llama_memory_clear(llama.llama_get_memory(context), False)
        new, ids = prompts, []
        for step in range(tokens):
            at = self._decode(context, new, T + step - 1 if step else 0)
            new = [[llama.llama_sampler_sample(self._greedy, context, index)] for index in at]
            stamp()
            ids.append(new[0][0])
        return ids

    def _context(self, B: int, T: int) -> Any:
        if (B, T) not in self._contexts:
            settings = llama.llama_context_default_params()
            settings.n_ctx = B * -(-(T + self._room) // 256) * 256  # which are shared out among the texts
            settings.n_batch, settings.n_seq_max = B * T, B
            settings.n_threads = settings.n_threads_batch = self._threads
            context = llama.llama_init_from_model(self._model, settings)
            if not context:
                raise RuntimeError("llama.cpp cannot make a context")
            self._contexts[B, T] = context
        return self._contexts[B, T]

    def _decode(self, context: Any, rows: list[list[int]], start: int) -> list[int]:
        """Read the tokens of each row, at positions from `start` on; where in the batch each row's last one is."""
        batch = llama.llama_batch_init(sum(map(len, rows)), 0, 1)
        last = []
        for row, ids in enumerate(rows):
            for place, token in enumerate(ids):
                n = batch.n_tokens
                batch.token[n], batch.pos[n] = token, start + place
                batch.n_seq_id[n], batch.seq_id[n][0] = 1, row
                batch.logits[n] = place == len(ids) - 1
                batch.n_tokens = n + 1
            last.append(batch.n_tokens - 1)
        failed = llama.llama_decode(context, batch)
        llama.llama_batch_free(batch)
        if failed:
            raise RuntimeError(f"llama_decode: {failed}")
        return last


def quantized(folder: Path, kind: str) -> Path:
    """The GGUF file of this kind, made from the one in float32 if it is not there."""
    whole = folder / GGUF
    if kind == "f32":
        return whole
    target = folder / f"llama.cpp-{kind}.gguf"
    command = [sys.executable, __file__, whole, target, kind]  # a process of its own, whose memory goes with it
    if not target.is_file() and subprocess.run(command, check=False).returncode:
        sys.exit(1)  # it has said why
    return target


def quantize(source: str, target: str, kind: str) -> None:
    """Round all matrices alike, the head too: by default it would keep more bits than the kind's name says."""
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
