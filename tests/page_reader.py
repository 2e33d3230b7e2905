"""Reads a page as a browser would, as far as tests need it."""

from html.parser import HTMLParser

VOID = {"meta", "link", "img", "br", "wbr", "path", "use", "rect"}


class Reader(HTMLParser):
    """Checks that tags nest, and collects text and the values of attributes that load something."""

    def __init__(self):
        super().__init__()
        self.open, self.text, self.loaded = [], [], []

    def handle_starttag(self, tag, attributes):
        self.loaded += [value for name, value in attributes if name in ("src", "href", "xlink:href")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def read(page):
    reader = Reader()
    reader.feed(page)
    assert not reader.open
    return reader
