"""NeoLM's engine, with clients in threads of the same process: what a server adds, such as HTTP, is not in it."""

from __future__ import annotations

import threading
from collections.abc import Callable

from crowd import crowd
from protocol import Channel, leave, peak_memory

from neolm.generation.config import GenerationConfig
from neolm.models.hf import load_model
from neolm.serving.engine import Engine
from neolm.serving.request import Listener
from neolm.tokenizer.tokenizer import load_tokenizer


def main() -> None:
    channel = Channel()
    job = channel.job
    model = load_model(job["model"], "cpu", job["dtype"], job["quantize"])
    tokenizer = load_tokenizer(job["model"])

    def ask(engine: Engine) -> Callable[[str, int], int]:
        def complete(text: str, tokens: int) -> int:
            listener = Listener()
            engine.submit(tokenizer.encode(text), GenerationConfig(max_new_tokens=tokens, ignore_eos=True), listener)
            return sum(1 for _ in listener)

        return complete

    with Engine(model, memory=job["memory"]) as engine:
        complete = ask(engine)
        complete("once, to compile", 4)
        channel.answer(threads=threading.active_count())
        while True:
            command = channel.receive()
            if command["do"] != "crowd":
                leave()
            channel.answer(**crowd(complete, command), memory=peak_memory())


if __name__ == "__main__":
    main()
