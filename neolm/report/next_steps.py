"""Commands to go on with after a run."""

from __future__ import annotations

import shlex

from neolm.report.run_files import Run


def next_steps(run: Run) -> list[tuple[str, str]]:
    """(purpose, command) pairs; the paths are quoted for the shell."""
    output = shlex.quote(str(run.output))
    prompts = [sample["prompt"] for sample in run.samples if isinstance(sample.get("prompt"), str)]
    lines = [line.strip() for prompt in prompts for line in prompt.splitlines()]
    first_line = next((line for line in lines if line and not line.startswith("-")), "Once upon a time")
    steps = [
        ("Show what it was built from", f"neolm show {output}"),
        ("Train a model on your own text", "neolm run text corpus.path=my-texts/ output=runs/mine"),
    ]
    if "model" in run.manifests:
        steps = [
            ("Continue a text", f"neolm generate {output} {shlex.quote(first_line)} --temperature 0.8"),
            ("Type texts and let it continue them", f"neolm chat {output} --raw"),
            ("Measure it on your own text", f"neolm evaluate {output} --text my-text.txt"),
            *steps,
            ("Open it in the browser, and offer OpenAI's API", f"neolm serve {output}"),
        ]
    return steps
