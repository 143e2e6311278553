"""Decoding with CTranslate2's Generator, on a model that its converter makes from the Hugging Face directory."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import ctranslate2
from decoding import serve
from protocol import Channel
from random_models import HF


def main() -> None:
    channel = Channel()
    job = channel.job
    kind, supported = job["kind"], ctranslate2.get_supported_compute_types("cpu")
    if kind not in supported:
        raise RuntimeError(f"{kind} is not supported on this processor; supported: {', '.join(sorted(supported))}")
    directory = converted(Path(job["model"]), kind)
    model = ctranslate2.Generator(
        str(directory), device="cpu", compute_type=kind, inter_threads=1, intra_threads=job["threads"]
    )
    words = json.loads((directory / "vocabulary.json").read_text(encoding="utf-8"))

    def generate(prompts: list[list[int]], tokens: int, on_token: Callable[[], None]) -> list[int]:
        def on_step(result: ctranslate2.GenerationStepResult) -> bool:
            if result.batch_id == 0:
                on_token()
            return False

        (first, *_) = model.generate_batch(
            [[words[token] for token in prompt] for prompt in prompts],
            max_length=tokens,
            min_length=tokens,
            include_prompt_in_result=False,  # processes the prompt in one forward pass
            callback=on_step,
        )
        return first.sequences_ids[0]

    serve(channel, generate, {})


def converted(folder: Path, kind: str) -> Path:
    """Return the directory of the model in CTranslate2's format. It is converted if it does not exist."""
    directory = folder / f"ctranslate2-{kind}"
    if not directory.is_dir():
        converter = Path(sys.executable).with_name("ct2-transformers-converter")
        arguments = ["--model", folder / HF, "--output_dir", directory, "--quantization", kind]
        if subprocess.run([converter, *arguments], check=False).returncode:
            sys.exit(1)  # the converter has printed the reason
    return directory


if __name__ == "__main__":
    main()
