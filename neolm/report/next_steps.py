"""The section with commands to go on with."""

from __future__ import annotations

import shlex

from neolm.report.figure import code, paragraph, section
from neolm.report.markup import Html, element
from neolm.report.run_files import Run


def commands_section(run: Run) -> Html:
    """What to type next, each line to be copied."""
    model = shlex.quote(str(run.output / "model"))
    prompts = [sample["prompt"] for sample in run.samples if isinstance(sample.get("prompt"), str)]
    lines = [line for prompt in prompts for line in prompt.splitlines()]
    first_line = next((line for line in lines if line.strip() and not line.startswith("-")), "Once upon a time")
    listed = []
    if "model" in run.manifests:
        listed += [
            ("Let it continue a text", f"neolm generate {model} {shlex.quote(first_line)} --temperature 0.8"),
            ("Type to it; it continues what you type", f"neolm chat {model} --raw"),
            ("Measure it on a text of your own", f"neolm evaluate {model} --text my-text.txt"),
        ]
    listed += [
        ("Train one on your own text", "neolm run text corpus.path=my-texts/ output=runs/mine"),
        ("Follow it back to the raw text", f"neolm show {shlex.quote(str(run.output))}"),
    ]
    where: list[str | Html] = []
    if not run.output.is_absolute():
        where = ["Paths are as seen from the folder in which the run was started. "]
    where += [code("my-text.txt"), " and ", code("my-texts/"), " stand for yours."]
    items = [element("li", element("p", name), element("pre", element("code", line))) for name, line in listed]
    return section("commands", "Go on from here", element("ul", *items, class_="commands"), paragraph(*where))
