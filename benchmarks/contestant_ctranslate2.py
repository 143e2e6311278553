"""CTranslate2's Generator, on a model that its own converter makes from the Hugging Face directory."""

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
    kind, able = job["kind"], ctranslate2.get_supported_compute_types("cpu")
    if kind not in able:
        raise RuntimeError(f"on this processor it computes in {', '.join(sorted(able))} only")
    place = converted(Path(job["model"]), kind)
    model = ctranslate2.Generator(
        str(place), device="cpu", compute_type=kind, inter_threads=1, intra_threads=job["threads"]
    )
    words = json.loads((place / "vocabulary.json").read_text(encoding="utf-8"))

    def generate(prompts: list[list[int]], tokens: int, stamp: Callable[[], None]) -> list[int]:
        def told(result: ctranslate2.GenerationStepResult) -> bool:
            if result.batch_id == 0:
                stamp()
            return False

        (first, *_) = model.generate_batch(
            [[words[token] for token in prompt] for prompt in prompts],
            max_length=tokens,
            min_length=tokens,
            include_prompt_in_result=False,  # reads the prompt at once
            callback=told,
        )
        return first.sequences_ids[0]

    serve(channel, generate, {})


def converted(folder: Path, kind: str) -> Path:
    """The model in CTranslate2's format, converted if it is not there."""
    place = folder / f"ctranslate2-{kind}"
    if not place.is_dir():
        converter = Path(sys.executable).with_name("ct2-transformers-converter")
        arguments = ["--model", folder / HF, "--output_dir", place, "--quantization", kind]
        if subprocess.run([converter, *arguments], check=False).returncode:
            sys.exit(1)  # it has said why
    return place


if __name__ == "__main__":
    main()
