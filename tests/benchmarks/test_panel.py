"""What the live panel costs a loop on a tiny model, in a real kernel that a page listens to, and how much it sends."""

import json

import pytest
from jupyter_client import KernelManager

from benchmarks.report import Goal
from benchmarks.rounds import Rounds

LIVE, OFF, BARE = "panel live", "panel off", "no panel, no hall"
ROUNDS = 14
STEPS = 900  # some two seconds: a page says hello, and ten states are sent

SETUP = f"""
import json, random, time
import torch, torch.nn.functional as F
from torch import nn
import accum_magic
from accum_magic.engine.run import begin
torch.set_num_threads(1)
torch.manual_seed(0)
model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 3))
optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
loader = [(torch.randn(64, 8), torch.randint(0, 3, (64,)))] * {STEPS}
CELL = '''
clocks = [time.process_time(), time.perf_counter()]
for x, y in loader:
    optimizer.zero_grad()
    loss = F.cross_entropy(model(x), y)
    loss.backward()
    optimizer.step()
clocks = [time.process_time() - clocks[0], time.perf_counter() - clocks[1]]
'''
bare = compile(accum_magic.rewrite(CELL, 8, namespace=globals()).source, "<bare>", "exec")
def run(name):
    if name == {BARE!r}:
        made = begin()
        exec(bare, globals())
        made.end()
    else:
        get_ipython().run_cell_magic("accumulate", "8 --panel " + name.split()[1], CELL)
    return clocks
get_ipython().run_line_magic("load_ext", "accum_magic")
"""


class Page:
    """Listens to a kernel as a notebook's page does, says hello to each panel, and counts the bytes it is sent."""

    def __init__(self, client):
        self.client, self.bytes, self.states, self.panels = client, 0, 0, 0

    def execute(self, code):
        """Run a cell, and take in all that is published until it has ended."""
        sent, is_idle = self.client.execute(code), False
        while not is_idle:
            message = self.client.get_iopub_msg(timeout=120)
            kind, content = message["msg_type"], message["content"]
            assert kind != "error", content
            if kind == "comm_open" and "_esm" in content["data"]["state"]:
                self.panels += 1
                self._say_hello(content["comm_id"])
            if kind.startswith("comm_") or kind == "update_display_data":
                self.states += kind == "comm_msg"
                self.bytes += len(json.dumps(content)) + sum(map(len, message["buffers"]))
            is_ours = message["parent_header"].get("msg_id") == sent
            is_idle = is_ours and kind == "status" and content["execution_state"] == "idle"

    def _say_hello(self, comm):
        data = {"method": "custom", "content": {"kind": "hello", "page": "1"}}
        self.client.shell_channel.send(self.client.session.msg("comm_msg", {"comm_id": comm, "data": data}))


@pytest.fixture
def page():
    manager = KernelManager(kernel_name="python3")
    manager.start_kernel()
    client = manager.blocking_client()
    client.start_channels()
    client.wait_for_ready(timeout=120)
    try:
        yield Page(client)
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)


def test_cost(page, benchmark, report, tmp_path):
    page.execute(SETUP)
    results = tmp_path / "results.json"

    def turn(name):
        page.execute(f"found = run({name!r}); open({str(results)!r}, 'w').write(json.dumps(found))")
        return [1e6 * s / (8 * STEPS) for s in json.loads(results.read_text())]

    turns = {name: lambda name=name: turn(name) for name in (LIVE, OFF, BARE)}
    for warm_up in turns.values():
        warm_up()
    page.bytes = page.states = 0
    rounds = Rounds(turns)
    benchmark.pedantic(rounds.play, args=(turns, 1), rounds=ROUNDS)
    times, wall = (rounds.part(i) for i in (0, 1))
    rows = []
    for name, other in ((LIVE, OFF), (OFF, BARE)):
        c, w = times.compare(name, other), wall.compare(name, other)
        rows.append(
            (f"{name} / {other}", f"{c.value:,.1f}", f"{c.ratio:.3f}", f"± {c.ratio_noise:.3f}", f"{w.ratio:.3f}")
        )
        report.goals.append(Goal(f"{name} over {other}", 1.02, c.ratio, c.ratio_noise))
    seconds = sum(wall.figures[LIVE]) * 8 * STEPS / 1e6
    assert page.panels == ROUNDS + 1
    assert page.states > 3 * ROUNDS
    notes = [f"{page.bytes / seconds / 1024:,.0f} KiB/s sent in {page.states / seconds:.1f} messages per second"]
    title = f"a run of {STEPS} steps, tiny model, N = 8; {ROUNDS} rounds"
    report.table(title, ("", "µs", "ratio", "", "wall"), rows, notes)
