"""The panel's page without a server: the test is the kernel, at the other end of the widget's messages."""

import struct
from importlib.resources import files

MEBIBYTE = 2**20
FILES = files("accum_magic.view") / "page"
RUN = "run 1"
LINES = [
    [1, "once before", "opt.zero_grad()"],
    [2, "per micro-batch", "loss.backward()"],
    [3, "once after", "opt.step()"],
]
STATE = {
    "state": "running", "outcome": None, "step": 12, "total_steps": 80, "micro_batch": 3, "sizes": [100] * 10,
    "micro_batches": 10, "done": False, "optimizer_steps": 11, "scheduler_steps": 0, "samples": 11000, "loss": 0.41,
    "samples_per_s": 1000.0, "elapsed_s": 9.0, "remaining_s": 42.0, "memory_bytes": 512 * MEBIBYTE,
    "peak_bytes": 600 * MEBIBYTE, "limit_bytes": 1000 * MEBIBYTE, "plain_bytes": None,
    "footprint": {"parameters": 1, "gradients": 1, "optimizer_state": 1, "activations": 1, "other": 1},
    "verdict": "exact", "reasons": [], "notes": [], "n": 10, "how": "10", "rescues": 0,
}  # fmt: skip

# What anywidget hands to a page: JupyterLab's manager has `kernel`, null where a notebook is opened without one.
_OTHER_END = """
window.panels = [];
window.show = async (code, hasKernel, into) => {
  const module = await import(URL.createObjectURL(new Blob([code], { type: "text/javascript" })));
  const end = { sent: [], heard: [], el: document.createElement("div") };
  const model = {
    send: (message) => end.sent.push(message),
    on: (_name, handler) => end.heard.push(handler),
    off: (_name, handler) => end.heard.splice(end.heard.indexOf(handler), 1),
    widget_manager: { kernel: hasKernel ? {} : null },
  };
  document.querySelector(into).append(end.el);
  const widget = module.default();
  widget.initialize({ model });
  end.close = widget.render({ model, el: end.el });
  window.panels.push(end);
};
window.tell = (i, message, bytes) => {
  const view = new DataView(Uint8Array.from(bytes).buffer);
  for (const handler of window.panels[i].heard) handler(message, [view]);
};
null; // playwright calls a script that ends with a function
"""


class OtherEnd:
    """A panel in a page, seen from the kernel's side."""

    def __init__(self, page, index=0, *, has_kernel=True, into="main"):
        self.page, self.index = page, index
        self.region = page.get_by_role("region", name="accum_magic").nth(index)
        code = (FILES / "panel.js").read_text()
        page.evaluate("([code, hasKernel, into]) => show(code, hasKernel, into)", [code, has_kernel, into])

    def tell(self, kind, run=RUN, state=None, memory=(), losses=(), **more):
        """Send a message, and let the page draw."""
        message = {"kind": kind, "run": run, "state": {**STATE, **(state or {})}, **more}
        numbers = [len(memory), len(losses), *(number for point in (*memory, *losses) for number in point)]
        packed = list(struct.pack(f"<{len(numbers)}f", *numbers))
        self.page.evaluate("([i, message, bytes]) => tell(i, message, bytes)", [self.index, message, packed])
        self.pass_ms(50)

    def welcome(self, *, run=RUN, reach="immediate", locked=None, lines=LINES, **more):
        """Answer a hello."""
        self.tell("welcome", run, reach=reach, locked=locked, lines=lines, **more)

    def pass_ms(self, time_ms):
        """Let the page's time go on, which else stands still."""
        self.page.clock.run_for(time_ms)

    def sent(self, kind):
        """Messages of a kind that the page has sent."""
        everything = self.page.evaluate("i => panels[i].sent", self.index)
        return [message for message in everything if message["kind"] == kind]

    def close(self):
        """Remove the view as anywidget does."""
        self.page.evaluate("i => panels[i].close()", self.index)

    def button(self, name):
        return self.region.get_by_role("button", name=name, exact=True)

    @property
    def n(self):
        return self.region.get_by_role("spinbutton", name="Micro-batches", exact=True)

    def value_of(self, name):
        """A counter's text."""
        return self.region.locator("dl > div", has=self.page.get_by_text(name, exact=True)).locator("dd").inner_text()

    def lowest_and_highest(self, part):
        """How far up a line of the memory chart stands, from 0 at the bottom to 100 at the top."""
        numbers = self.region.locator(f"svg >> nth=0 >> {part}").evaluate(
            "line => (line.getAttribute('y1') ?? line.getAttribute('d')).match(/(?<=^| )[0-9.]+/g).map(Number)"
        )
        return 100 - max(numbers), 100 - min(numbers)


def empty(page):
    """Leave a page with the panel's style sheet and nothing else, in which time stands still."""
    page.goto("about:blank")
    style = (FILES / "panel.css").read_text()
    page.set_content(f"<!doctype html><html lang=en><title>panel</title><style>{style}</style><main></main>")
    page.evaluate(_OTHER_END)
