"""The section on training: its loss curve."""

from __future__ import annotations

import math

from neolm.core.metrics import points
from neolm.report.chart import Line, line_chart
from neolm.report.figure import figure, missing, paragraph, section
from neolm.report.markup import Html
from neolm.report.run_files import Run


def loss_section(run: Run) -> Html:
    """Training and validation loss over steps."""
    training, validation = points(run.metrics, "loss"), points(run.metrics, "validation_loss")
    if not training and not validation:
        return section("loss", "Training", missing("No training step was logged."))
    lines = [Line("training", training, smooth=True)]
    if validation:
        lines.append(Line("validation", validation, dots=True))

    def draw(width: int) -> str:
        return line_chart(lines, "step", "loss, nats per token", width, 320 if width > 500 else 280)

    text = (
        "The loss says how surprised the model is, on average, by the next token: the faint line is each step, "
        "the strong one their average"
    )
    held_out = "; the dots are text kept back from training. " if validation else ". "
    best = run.counts("pretrain").get("best_validation_loss")
    step = run.counts("pretrain").get("best_step")
    lowest = f"The lowest validation loss is {best:.3f}, at step {step:,}. " if best is not None and step else ""
    if not validation:
        lowest = "There is no validation loss: no text was held out. "
    size = run.config("shards").get("vocab_size")
    guess = f"Guessing blindly among {size:,} tokens would cost {math.log(size):.2f}." if size else ""
    return section("loss", "Training", paragraph(text + held_out + lowest + guess), figure(draw))
