"""HTML parser for tests of the report and the web page."""

from html.parser import HTMLParser

VOID = {"meta", "link", "br", "hr"}  # elements without an end tag


class Page(HTMLParser):
    """Check that elements are nested correctly, and collect tags, attributes and text."""

    def __init__(self, html):
        super().__init__()
        self.html = html
        self.stack, self.tags, self.ids, self.attributes, self.text = [], [], [], [], ""
        self.feed(html)
        self.close()
        assert self.stack == []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, name, value) for name, value in attrs]
        self.ids += [value for name, value in attrs if name == "id"]
        if tag not in VOID:
            self.stack.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.handle_endtag(tag)

    def handle_endtag(self, tag):
        assert self.stack.pop() == tag

    def handle_data(self, data):
        if not {"style", "script"} & set(self.stack):
            self.text += data

    def assert_self_contained(self):
        """Check that the page loads no other resources."""
        assert not [a for a in self.attributes if a[1] in ("src", "href", "srcset", "action")]
        assert "@import" not in self.html
        assert "url(" not in self.html
        links = self.html.replace("http://www.w3.org/2000/svg", "")  # a namespace, not a link
        assert "http://" not in links
        assert "https://" not in links
