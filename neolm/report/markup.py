"""HTML that is well-formed and escaped by construction: text becomes markup only through `element`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

VOID = {"meta", "link", "br", "hr"}  # elements without an end tag


class Html(str):
    """Markup, as opposed to text that is still to be escaped."""

    __slots__ = ()


Node = str | None
"""A child of an element: `Html` as it is, other text escaped, None for nothing."""


def element(tag: str, *children: Node, **attributes: str | None) -> Html:
    """`<tag attributes>children</tag>`; `class_` is written `class`, `data_x` is `data-x`."""
    names = {name.rstrip("_").replace("_", "-"): value for name, value in attributes.items() if value is not None}
    start = "".join(f' {name}="{escape(value)}"' for name, value in names.items())
    return Html(f"<{tag}{start}>" if tag in VOID else f"<{tag}{start}>{together(children)}</{tag}>")


def together(children: Iterable[Node]) -> Html:
    """The children one after the other."""
    return Html("".join(c if isinstance(c, Html) else escape(c, quote=False) for c in children if c is not None))


def table(caption: str, headers: Sequence[Node], rows: Iterable[Sequence[Node]], numbers: Sequence[int] = ()) -> Html:
    """A table whose first column names its rows; the columns in `numbers` are set to the right."""

    def side(column: int) -> str | None:
        return "number" if column in numbers else None

    head = [element("th", name, scope="col", class_=side(i)) for i, name in enumerate(headers)]
    body = [
        element(
            "tr",
            *(
                element("th", cell, scope="row") if i == 0 else element("td", cell, class_=side(i))
                for i, cell in enumerate(row)
            ),
        )
        for row in rows
    ]
    return element(
        "table", element("caption", caption), element("thead", element("tr", *head)), element("tbody", *body)
    )


def pairs(rows: Iterable[tuple[str, Node]]) -> Html:
    """A list of names and values; rows without a value are left out."""
    found = [element("div", element("dt", name), element("dd", value)) for name, value in rows if value]
    return element("dl", *found, class_="pairs")
