"""The top of a run's report: what was trained, in one sentence, and its key figures."""

from __future__ import annotations

from neolm.core.energy import how_known
from neolm.core.progress import count, duration
from neolm.report.pages import data_size, energy_amount, plural
from neolm.report.run_files import Run
from neolm.report.scores import BitsPerByte


def headline(run: Run) -> str:
    """What was trained, on what and for how long, in one sentence."""
    trained = run.counts("pretrain")
    text = run.counts("corpus").get("train", {}).get("bytes", 0)
    where = "Python\u2019s standard library" if run.config("corpus").get("source") == "python-stdlib" else "text"
    material = f"{data_size(text)} of {where}" if text else "text"
    if not trained:
        return f"A run that has prepared {material} and has not trained a model yet"
    size = count(trained.get("parameters", 0))
    seconds = float(trained.get("training_seconds") or run.stage_seconds("pretrain"))
    return f"{run.family} with {size} parameters, trained on {material} in {duration(seconds)}"


def key_figures(run: Run, score: BitsPerByte | None) -> list[tuple[str, str, str]]:
    """(name, value, remark) of each key figure that is known."""
    trained, found = run.counts("pretrain"), []
    if trained.get("parameters"):
        shape = run.model_config
        layers = plural(shape["num_layers"], "layer") if "num_layers" in shape else ""
        found.append(("Parameters", count(trained["parameters"]), layers))
    if trained.get("tokens"):
        found.append(("Tokens trained on", count(trained["tokens"]), epochs(run)))
    if score is not None:
        xz = score.compressors.get("xz")
        found.append(("Bits per byte", str(score.model), f"xz needs {xz}" if xz else "fewer are better"))
    if run.seconds():
        training = float(trained.get("training_seconds") or 0)
        found.append(("Time", duration(run.seconds()), f"{duration(training)} of it training" if training else ""))
    energy, methods = run.energy()
    if energy:
        known = how_known(methods)
        about = "" if known == "measured" else "\u2248 "
        found.append(("Energy", about + energy_amount(energy), known))
    return found


def epochs(run: Run) -> str:
    """The number of passes over the training text: `41% of the text` or `2.3 epochs`."""
    available = run.counts("shards").get("train", {}).get("tokens", 0)
    if not available:
        return ""
    passes = run.counts("pretrain").get("tokens", 0) / available
    return f"{passes:.0%} of the text" if passes < 0.995 else f"{passes:.1f} epochs"
