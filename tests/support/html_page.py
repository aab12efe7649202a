"""A parser for the pages that are written: fails on what is not whole, keeps what they say."""

import html.parser
import json

VOID = {"meta", "img", "input", "br"}


class Page(html.parser.HTMLParser):
    """Fails on tags that do not match; keeps tags, texts outside of code, and scripts by id."""

    def __init__(self, code: str):
        super().__init__()
        self.code = code
        self.open, self.tags, self.texts, self.scripts, self.ids = [], [], [], {}, []
        self.feed(code)
        self.close()
        assert self.open == [] and len(self.ids) == len(set(self.ids))

    def handle_starttag(self, tag, attrs):
        self.handle_startendtag(tag, attrs)
        if tag not in VOID:
            self.open.append((tag, dict(attrs).get("id")))

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self.ids += [value for name, value in attrs if name == "id"]

    def handle_endtag(self, tag):
        assert self.open.pop()[0] == tag

    def handle_data(self, data):
        tag, name = self.open[-1] if self.open else (None, None)
        if tag == "script":
            self.scripts[name] = self.scripts.get(name, "") + data
        elif tag != "style" and data.strip():
            self.texts.append(" ".join(data.split()))

    @property
    def items(self) -> list[dict]:
        """The photos of a report or comparison, as its scripts read them."""
        return json.loads(self.scripts["items"])

    def all(self, tag: str, **wanted: str) -> list[dict]:
        """Attributes of the tags of a name that have these words in theirs."""
        return [a for name, a in self.tags if name == tag and all(
            wanted[key] in a.get(key, "").split() for key in wanted)]
