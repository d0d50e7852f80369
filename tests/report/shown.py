"""A search with two tasks, its page, and a reader of pages, which the tests of reports share."""

from html.parser import HTMLParser

import numpy as np

import taskvec as tv
from taskvec.report.page import page
from taskvec.searching.records import read_record
from taskvec.searching.search import search

RNG = np.random.default_rng(0)
TARGETS = {
    s: {"one": RNG.normal(0.6, 0.3, n), "two": RNG.normal(0.4, 0.3, n)} for s, n in (("validation", 80), ("test", 150))
}
BASE, A, B = (tv.from_arrays({"w": np.float32(v)}, n) for n, v in (("base", (0, 0)), ("a", (1, 0)), ("b", (0, 1))))
ONE = tv.parse("base + lam*(a - base) + lam*(b - base)", base=BASE, a=A, b=B)
TWO = tv.parse("base + x*(a - base) + y*(b - base)", base=BASE, a=A, b=B)
GRID = {"lam": (0, 1, 0.1)}
VOID = {"meta", "link", "br", "hr", "img", "input"}


def judge(weights, split):
    w = weights["w"].astype(float)
    hits = {t: (np.abs(x - w[k]) < 0.4).astype(float) for k, (t, x) in enumerate(TARGETS[split].items())}
    return hits | {"ppl": float(20 + 5 * (w**2).sum())}


judge.examples = lambda split: {t: [f"{split}{t}{k}" for k in range(len(v))] for t, v in TARGETS[split].items()}


def single(weights, split):
    return {"ppl": float(20 + 5 * (weights["w"].astype(float) ** 2).sum())}


class Tree(HTMLParser):
    """Every element is closed by its own end; texts and attributes are kept."""

    def __init__(self, html):
        super().__init__()
        self.open, self.texts, self.attributes, self.tags = [], [], [], []
        self.feed(html)
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, *pair) for pair in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.attributes += [(tag, *pair) for pair in attrs]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)


def shown(tmp_path, *args, **options):
    search(*args, journal=tmp_path / "j.jsonl", **options)
    record = read_record(tmp_path / "j.jsonl")
    html = page({"j": record})
    return record, html, Tree(html)
