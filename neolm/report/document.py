"""A whole HTML page that needs nothing but itself: its style, and for commands to copy a script, are in it."""

from __future__ import annotations

from importlib.resources import files

import neolm
from neolm.report.markup import Html, Node, element

GENERATOR = "NeoLM"


def document(title: str, *body: Node, made_from: str, script: bool = False) -> str:
    """The page with `body` between its head and its footer, which says that it was written `made_from` what."""
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name="color-scheme", content="light dark"),
        element("meta", name="generator", content=f"{GENERATOR} {neolm.__version__}"),
        element("title", title),
        element("style", _resource("style.css")),
    )
    footer = element("footer", element("p", f"Written by NeoLM {neolm.__version__} from {made_from}."))
    copying = element("script", _resource("copy.js")) if script else None
    return f"<!doctype html>\n{element('html', head, element('body', *body, footer, copying), lang='en')}\n"


def _resource(name: str) -> Html:
    return Html((files("neolm.report") / name).read_text(encoding="utf-8"))
