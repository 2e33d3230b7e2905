"""Reader of HTML pages for tests."""

from html.parser import HTMLParser

VOID = {"meta", "link", "img", "br", "wbr", "path", "use", "rect"}


class Reader(HTMLParser):
    """Parser that checks the nesting of tags, and collects text and values of attributes that load files."""

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
