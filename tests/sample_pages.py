"""A web page with a main part, and things around it that are to be left out."""

from __future__ import annotations

TEXT = "The harbour of Zürich was quiet, and the café near the old bridge opened late on that cold morning. "
PAGE = """<!DOCTYPE html><html><head><title>Title</title>{meta}<script>var ignored = 1;</script></head><body>
<nav><ul><li><a href="/">Home</a></li><li><a href="/about">About this site</a></li></ul></nav>
<article><h1>A heading</h1><p>{text}</p><p>{text}</p>
<pre><code>def f(x):
    return x + 1</code></pre>
<ul><li>the first item of the list</li><li>the second item of the list</li></ul>
<table><tr><th>Name</th><th>Age</th></tr><tr><td>Ann</td><td>31</td></tr></table>
<p>{text}</p></article><footer>Copyright, all rights reserved, cookies</footer></body></html>"""


def page(text: str = TEXT * 2, meta: str = "") -> str:
    return PAGE.format(text=text, meta=meta)
