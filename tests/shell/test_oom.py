"""A cell that runs out of memory in a real kernel: what it shows, what stays alive, and that the notebook goes on."""

import pytest
from shell.shell_tools import TRAIN

# A module that holds a tensor of 64 MiB when it fails: not in the probe, which has fewer samples, then always.
GREEDY = """
import gc, resource, weakref
kept, failed = [], []
def held():
    made = torch.empty(8 * 2**20)
    kept.append(weakref.ref(made))
    return made
def lack():
    torch.empty(2**31)
def mistake():
    raise ValueError("a mistake")
class Greedy(nn.Module):
    def __init__(self, what):
        super().__init__()
        self.inner, self.what = model, what
    def forward(self, x):
        if failed or len(x) in {4, 5, 10}:
            activations = held()
            failed.append(len(x))
            self.what()
        return self.inner(x)
def fit(greedy):
    for x, y in loader:
        local = held()
        optimizer.zero_grad()
        loss = F.cross_entropy(greedy(x), y)
        loss.backward()
        optimizer.step()
def resident_mib():
    return int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize() / 2**20
def alive():
    return sum(ref() is not None for ref in kept)
def big_in_frames():
    found, tb = [], sys.last_traceback
    while tb is not None:
        found += [name for name, value in tb.tb_frame.f_locals.items() if name in {"activations", "local"}]
        tb = tb.tb_next
    return found
start = parameters()
"""
LIMIT = """
unlimited = resource.getrlimit(resource.RLIMIT_AS)
in_use = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (in_use + 2**30, unlimited[1]))
resident = resident_mib()
"""
MODULE_LEVEL = TRAIN.replace("model(x)", "greedy(x)")
IN_A_FUNCTION = "fit(greedy)"
CELLS = {
    "module level": ("2", MODULE_LEVEL),
    "in a function": ("2", IN_A_FUNCTION),
    "awaiting": ("2", f"await asyncio.sleep(0)\n{MODULE_LEVEL}"),
    "replayed": ("2 --replay always", MODULE_LEVEL),
    "behind the loop": ("2", f"{TRAIN}def after():\n    activations = held()\n    lack()\nafter()"),
    "above the loop": ("2", f"def above():\n    activations = held()\n    lack()\nabove()\n{TRAIN}"),
    "checked": ("2 --check", MODULE_LEVEL),
}


@pytest.fixture
def greedy(trained):
    def start(what, mode="Context"):
        trained.run("%xmode " + mode).ok()
        trained.run(f"{GREEDY}greedy = Greedy({what})").ok()
        trained.run(LIMIT).ok()
        return trained

    yield start
    trained.run("resource.setrlimit(resource.RLIMIT_AS, unlimited)\n%xmode Context").ok()


@pytest.mark.parametrize("mode", ["Context", "Verbose", "Plain"])
@pytest.mark.parametrize("cell", CELLS)
def test_nothing_of_a_step_that_ran_out_of_memory_stays_alive(greedy, cell, mode):
    kernel = greedy("lack", mode)
    line, body = CELLS[cell]
    reply = kernel.run(f"%%accumulate {line}\n{body}".rstrip("\n"))
    assert reply.ename == "RuntimeError"
    assert "DefaultCPUAllocator: can't allocate memory: you tried to allocate 17179869184 bytes" in reply.evalue
    assert "torch.empty(2**31)" in reply.traceback
    if mode != "Plain" and cell != "replayed":  # Plain shows every frame, replay is one of the user's calls
        assert "accum_magic/" not in reply.traceback
    assert kernel.value("len(kept)") > 0 or cell == "checked"  # a check puts lists back
    assert kernel.value("alive()") == 0
    assert kernel.value("big_in_frames()") == []
    assert kernel.value("resident_mib() - resident") < 60
    kernel.run("fresh()")
    again = kernel.run(f"%%accumulate 4\n{TRAIN}".rstrip("\n")).ok()
    assert "2 optimizer steps" in again.displays[0]
    assert kernel.value("same(parameters(), expected)")


def test_the_error_is_shown_at_the_lines_that_the_plain_cell_shows(greedy):
    kernel = greedy("lack")
    body = MODULE_LEVEL.rstrip("\n")
    plain = kernel.run(f"#\n{body}")
    ours = kernel.run(f"%%accumulate 2\n{body}")
    assert (ours.ename, ours.evalue) == (plain.ename, plain.evalue)

    def arrows(reply):
        return [line for line in reply.traceback.splitlines() if line.startswith("--")]

    assert [a for a in arrows(ours) if a in arrows(plain)] == arrows(plain)
    assert "failed resolving arguments" not in ours.traceback


def test_a_step_that_was_half_done_says_so_and_lets_go_too(greedy):
    kernel = greedy("lack")
    kernel.run("class Heavy(torch.optim.SGD):\n    @torch.no_grad()\n    def step(self, closure=None):\n"
               "        local = torch.ones(8 * 2**20)\n        next(model.parameters()).add_(1)\n        lack()\n"
               "heavy = Heavy(model.parameters(), lr=0.1)").ok()  # fmt: skip
    reply = kernel.run(f"%%accumulate 2\n{TRAIN.replace('optimizer.step', 'heavy.step')}".rstrip("\n"))
    assert reply.ename == "OptimizerStepError"
    assert reply.evalue.startswith("line 6: `Heavy.step()` ran out of memory: 1 of 4 parameters were updated. It is")
    assert kernel.value("(big_in_frames(), resident_mib() - resident < 60)") == ([], True)


@pytest.mark.parametrize("cell", ["module level", "in a function"])
def test_another_error_keeps_its_frames_for_the_debugger(greedy, cell):
    kernel = greedy("mistake")
    reply = kernel.run(f"%%accumulate 2\n{CELLS[cell][1]}".rstrip("\n"))
    assert (reply.ename, reply.evalue) == ("ValueError", "a mistake")
    expected = ["activations"] if cell == "module level" else ["local", "activations"]
    assert kernel.value("big_in_frames()") == expected
    assert kernel.value("alive()") == len(expected)
    kernel.run("del sys.last_traceback, sys.last_value")


@pytest.mark.parametrize(("what", "error"), [("lack", "RuntimeError"), ("mistake", "ValueError")])
@pytest.mark.parametrize("line", ["4", "4 --check", "auto"])
def test_what_a_plain_cell_has_left_behind_for_want_of_memory_makes_room(greedy, what, error, line):
    kernel = greedy(what)
    assert kernel.run(f"#\n{MODULE_LEVEL}".rstrip("\n")).ename == error
    assert kernel.value("(alive(), big_in_frames())") == (1, ["activations"])
    assert not kernel.run(f"%%accumulate {line} --explain\n{TRAIN}".rstrip("\n")).ename
    assert kernel.value("alive()") == 1  # nothing has run
    kernel.run(f"%%accumulate {line}\n{TRAIN}".rstrip("\n")).ok()
    kept = (1, ["activations"]) if what == "mistake" else (0, [])  # for `%debug`
    assert kernel.value("(alive(), big_in_frames())") == kept
    kernel.run("del sys.last_traceback, sys.last_value")
