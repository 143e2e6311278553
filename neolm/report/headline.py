"""The top of the page: what this is in one sentence, and its key figures."""

from __future__ import annotations

from neolm.core.energy import how_known
from neolm.core.progress import count, duration
from neolm.report.figure import data_size, energy_amount, plural
from neolm.report.markup import Html, Node, element, together
from neolm.report.run_files import Run
from neolm.report.scores import ABOUT, against, baseline, model_score


def headline(run: Run) -> str:
    """What this is, in one plain sentence."""
    trained = run.counts("pretrain")
    text = run.counts("corpus").get("train", {}).get("bytes", 0)
    where = "Python\u2019s standard library" if run.config("corpus").get("source") == "python-stdlib" else "text"
    material = f"{data_size(text)} of {where}" if text else "text"
    if not trained:
        return f"A run that has prepared {material}, and not trained a model yet"
    size = count(trained.get("parameters", 0))
    article = "An" if size.startswith(("8", "11", "18")) and not size.startswith(("110", "180")) else "A"
    seconds = float(trained.get("training_seconds") or run.stage_seconds("pretrain"))
    return f"{article} {size}-parameter {run.family} trained on {material} in {duration(seconds)}"


def header(run: Run) -> Html:
    """The headline, the sentence below it and the key figures."""
    figures = [_figure(*values) for values in _figures(run)]
    return element(
        "header",
        element("p", "NeoLM report \u00b7 ", run.output.resolve().name, class_="kicker"),
        element("h1", headline(run)),
        element("p", *_standfirst(run), class_="standfirst"),
        element("dl", *figures, class_="figures") if figures else None,
    )


def _standfirst(run: Run) -> list[Node]:
    own, xz, found = model_score(run.scores), baseline(run.scores, "xz"), against(run.scores, "xz")
    if own is None:
        return ["It has not been measured yet on text that it has never seen."]
    number = element("strong", f"{own.value:.2f} bits")
    if xz is None or found is None:
        return ["To store text that it has never seen, it needs ", number, " for each byte."]
    verdict = f"{found[0]} {'as' if found[0] == ABOUT else 'than'}"
    return [
        "To store text that it has never seen, it needs ",
        number,
        f" for each byte: {verdict} the {xz.value:.2f} of the compressor xz.",
    ]


def _figures(run: Run) -> list[tuple[str, str, str]]:
    """(name, value, remark) of each key figure that is known."""
    trained, found = run.counts("pretrain"), []
    own, xz = model_score(run.scores), baseline(run.scores, "xz")
    if trained.get("parameters"):
        shape = run.model_config
        layers = plural(shape["num_layers"], "layer") if "num_layers" in shape else ""
        found.append(("Parameters", count(trained["parameters"]), layers))
    if trained.get("tokens"):
        found.append(("Tokens read", count(trained["tokens"]), passes(run)))
    if own is not None:
        found.append(("Bits per byte", f"{own.value:.2f}", f"xz needs {xz.value:.2f}" if xz else "less is better"))
    if run.seconds():
        training = float(trained.get("training_seconds") or 0)
        found.append(("Time", duration(run.seconds()), f"{duration(training)} of it training" if training else ""))
    energy, methods = run.energy()
    if energy:
        known = how_known(methods)
        found.append(
            ("Energy", energy_amount(energy) if known == "measured" else f"\u2248 {energy_amount(energy)}", known)
        )
    return found


def passes(run: Run) -> str:
    """How often the model saw its text: `0.41 of the text` or `2.3 times the text`."""
    available = run.counts("shards").get("train", {}).get("tokens", 0)
    if not available:
        return ""
    epochs = run.counts("pretrain").get("tokens", 0) / available
    return f"{epochs:.0%} of the text" if epochs < 0.995 else f"{epochs:.1f} times the text"


def _figure(name: str, value: str, remark: str) -> Html:
    shown = together([element("span", value, class_="value"), element("span", remark, class_="remark")])
    return element("div", element("dt", name), element("dd", shown))
