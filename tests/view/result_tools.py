"""A finished run as the panel knows it, and what a page makes of the HTML that is left of it."""

import base64
from html.parser import HTMLParser
from xml.etree import ElementTree as ET

from accum_magic.view.result import result_bundle

MIB = 2**20
SVG = "{http://www.w3.org/2000/svg}"
EVIL = "</td></table><script>alert(1)</script><img src=x onerror=\"alert('2')\"> & 'quoted' \"twice\""
SUMMARY = "accum_magic: exact · 80 optimizer steps"
LINES = [
    (1, "", "for x, y in loader:"),
    (2, "once before", "\toptimizer.zero_grad()"),
    (3, "per micro-batch", "\tF.mse_loss(model(x), y).backward()"),
    (4, "once after", "\toptimizer.step()"),
    (None, "", "`fit` (In[3]), called in line 2:"),
]
MEMORY = [(1.0, 640.0), (2.0, 800.0), (3.0, 760.0)]
LOSSES = [(1.0, 2.25), (2.0, 1.5), (3.0, 0.41234)]


def state(**changes):
    return {
        "state": "ended",
        "outcome": "finished",
        "error": None,
        "step": 80,
        "total_steps": 80,
        "micro_batch": 10,
        "micro_batches": 10,
        "sizes": [100] * 10,
        "done": True,
        "optimizer_steps": 1234,
        "scheduler_steps": 17,
        "samples": 80000,
        "loss": 0.41234,
        "samples_per_s": 1234.5,
        "elapsed_s": 12.34,
        "remaining_s": 0.0,
        "memory_bytes": 800 * MIB,
        "peak_bytes": 824 * MIB,
        "limit_bytes": 1024 * MIB,
        "plain_bytes": 1500 * MIB,
        "footprint": {
            "parameters": 96 * MIB,
            "gradients": 95 * MIB,
            "optimizer_state": 192 * MIB,
            "activations": 211 * MIB,
            "other": 230 * MIB,
        },
        "verdict": "exact",
        "reasons": [],
        "notes": [],
        "n": 10,
        "how": "10",
        "rescues": 0,
    } | changes


class Seen(HTMLParser):
    """What a page makes of the HTML: its elements, its rows, its text."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.open, self.rows, self.items, self.pre, self.image = [], [], [], [], "", None
        self.feed(text)
        self.close()
        assert not self.open, "an element is left open"

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, attrs))
        if tag == "img":
            self.image = dict(attrs)
        elif tag == "tr":
            self.rows.append([])
        elif tag in ("th", "td"):
            self.rows[-1].append("")
        elif tag == "li":
            self.items.append("")
        if tag not in ("img", "br"):
            self.open.append(tag)

    handle_startendtag = handle_starttag  # <br/>, as nbconvert writes it

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "td" in self.open or "th" in self.open:
            self.rows[-1][-1] += data
        elif "li" in self.open:
            self.items[-1] += data
        elif "pre" in self.open:
            self.pre += data

    @property
    def table(self):
        return dict(self.rows)

    @property
    def svg(self):
        kind, _, text = self.image["src"].partition(",")
        assert kind == "data:image/svg+xml;base64"
        return ET.fromstring(base64.b64decode(text, validate=True))  # noqa: S314 - our own


def seen(memory=MEMORY, losses=LOSSES, lines=LINES, **changes):
    return Seen(result_bundle(state(**changes), memory, losses, lines, SUMMARY)["text/html"])
