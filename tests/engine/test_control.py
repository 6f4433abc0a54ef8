"""Commands to a running cell: where each acts, which loops a stop ends, and what runs behind them."""

import asyncio
import functools
import gc
import subprocess
import sys
import textwrap
import threading
import time
import traceback
import weakref
from _thread import interrupt_main
from pathlib import Path

import pytest
import torch
from torch import nn

import accum_magic
from accum_magic import testing
from accum_magic.engine.control import Command, Control
from accum_magic.engine.run import begin
from accum_magic.errors import ControlError

STEP = """\
optimizer.zero_grad()
loss = nn.functional.mse_loss(model(x), y)
loss.backward()
optimizer.step()
tick()
"""
BATCHES = 4
LONGEST_WAIT_S = 60


def with_steps(text):
    """Put a training step in the place of each line that says STEP."""
    lines = []
    for line in textwrap.dedent(text).splitlines():
        indent = line[: len(line) - len(line.lstrip())]
        lines.append(textwrap.indent(STEP, indent) if line.strip() == "STEP" else f"{line}\n")
    return "".join(lines)


class Notebook:
    """A namespace with a loader of four batches; `tick()` counts updates, and does something at some of them."""

    def __init__(self, definitions="", at=None):
        self.log, self.at, self.updates = [], at or {}, 0
        torch.manual_seed(0)
        model = nn.Linear(4, 1)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
        loader = list(zip(torch.randn(6 * BATCHES, 4).split(6), torch.randn(6 * BATCHES, 1).split(6), strict=True))
        self.names = {
            "torch": torch, "nn": nn, "functools": functools, "asyncio": asyncio, "accum_magic": accum_magic,
            "model": model, "optimizer": optimizer, "loader": loader, "tick": self.tick, "log": self.log.append,
            "__name__": "__main__",
        }  # fmt: skip
        testing.run_plain(with_steps(definitions), self.names)

    def tick(self):
        self.updates += 1
        self.log.append(self.updates)
        self.at.get(self.updates, lambda: None)()

    def run(self, cell):
        """Run a cell in micro-batches; returns its log."""
        testing.run_accumulated(with_steps(cell), self.names, 2)
        return self.log


def stopped_at(update, cell, definitions=""):
    """Run a cell that is stopped in the middle of an update; returns its log."""
    return Notebook(definitions, {update: accum_magic.stop}).run(cell)


def wait_for(condition):
    end_s = time.monotonic() + LONGEST_WAIT_S
    while not condition():
        assert time.monotonic() < end_s, "it did not come about"
        time.sleep(0.001)


# ---------------------------------------------------------------- which loops a stop ends

TRAIN = """\
def train():
    for x, y in loader:
        STEP
    else:
        log('train else')
    log('trained')
"""
FIT = """\
def fit():
    for epoch in range(3):
        train()
        log('epoch')
    else:
        log('fit else')
"""
WHOLE = ["train else", "trained"]

ENDED = {
    "a loop": (2, "for x, y in loader:\n    STEP\nelse:\n    log('else')\nlog('behind')", [1, 2, "behind"]),
    "its variables stay": (2, "for i, (x, y) in enumerate(loader):\n    STEP\nlog((i, x is loader[1][0]))",
                           [1, 2, (1, True)]),
    "its first turn": (1, "for x, y in loader:\n    STEP", [1]),
    "its last turn": (4, "for x, y in loader:\n    STEP\nelse:\n    log('else')", [1, 2, 3, 4]),
    "what stands behind the update": (2, "for x, y in loader:\n    STEP\n    log('turn')", [1, "turn", 2, "turn"]),
    "epochs": (
        6,
        """
        for epoch in range(5):
            for x, y in loader:
                STEP
            else:
                log('inner else')
            log('epoch')
        else:
            log('outer else')
        log(('behind', epoch))
        """,
        [1, 2, 3, 4, "inner else", "epoch", 5, 6, "epoch", ("behind", 1)],
    ),
    "while": (3, "x, y = loader[0]\nwhile True:\n    STEP\nlog('behind')", [1, 2, 3, "behind"]),
    "while with else": (
        3, "x, y = loader[0]\ni = 0\nwhile i < 9:\n    STEP\n    i += 1\nelse:\n    log('else')\nlog(i)", [1, 2, 3, 3],
    ),
    "an evaluation behind it": (
        2,
        """
        for epoch in range(3):
            for x, y in loader:
                STEP
            for i in range(3):
                log(f'evaluated {i}')
        """,
        [1, 2, "evaluated 0", "evaluated 1", "evaluated 2"],
    ),
    "the second of two runs whole": (
        2, "for x, y in loader:\n    STEP\nfor x, y in loader:\n    STEP\nelse:\n    log('else')",
        [1, 2, 3, 4, 5, 6, "else"],
    ),
    "only the second of two": (
        6, "for x, y in loader:\n    STEP\nfor x, y in loader:\n    STEP\nlog('behind')", [1, 2, 3, 4, 5, 6, "behind"],
    ),
    "the first of two in an epoch": (
        2,
        """
        for epoch in range(3):
            for x, y in loader:
                STEP
            for x, y in loader:
                STEP
            log('epoch')
        """,
        [1, 2, 3, 4, 5, 6, "epoch"],
    ),
    "the second of two in an epoch": (
        6,
        """
        for epoch in range(3):
            for x, y in loader:
                STEP
            for x, y in loader:
                STEP
            log('epoch')
        """,
        [1, 2, 3, 4, 5, 6, "epoch"],
    ),
    "around an if": (2, "for x, y in loader:\n    if True:\n        STEP\n    else:\n        pass\n", [1, 2]),
    "inside an if": (2, "if True:\n    for x, y in loader:\n        STEP\nlog('behind')", [1, 2, "behind"]),
    "inside a with": (
        2, "with torch.enable_grad():\n    for x, y in loader:\n        STEP\n    log('in with')", [1, 2, "in with"],
    ),
    "inside a try": (
        2,
        """
        try:
            for x, y in loader:
                STEP
            log('tried')
        finally:
            log('finally')
        """,
        [1, 2, "tried", "finally"],
    ),
    "inside a finally": (
        2, "try:\n    pass\nfinally:\n    for x, y in loader:\n        STEP\n    log('behind')", [1, 2, "behind"],
    ),
    "around a try": (
        2,
        """
        for x, y in loader:
            try:
                STEP
            finally:
                log('finally')
        """,
        [1, "finally", 2, "finally"],
    ),
    "inside an except": (
        2, "try:\n    1 / 0\nexcept ZeroDivisionError:\n    for x, y in loader:\n        STEP\n", [1, 2],
    ),
    "inside a match": (2, "match 1:\n    case 1:\n        for x, y in loader:\n            STEP\n", [1, 2]),
    "inside another loop's else": (
        2, "for i in range(2):\n    pass\nelse:\n    for x, y in loader:\n        STEP\n", [1, 2],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", ENDED)
def test_a_stop_ends_the_loops_around_the_update(name):
    update, cell, expected = ENDED[name]
    assert stopped_at(update, cell) == expected


CONTINUES = {
    "in an if": "if True:\n    continue",
    "in an else": "if False:\n    pass\nelse:\n    continue",
    "in a with": "with torch.no_grad():\n    continue",
    "in a match": "match 1:\n    case 1:\n        continue",
    "in a try": "try:\n    continue\nfinally:\n    log('finally')",
    "in an except": "try:\n    1 / 0\nexcept ZeroDivisionError:\n    continue",
    "in another loop's else": "for i in range(2):\n    pass\nelse:\n    continue",
    "at the end": "continue",
}


@pytest.mark.parametrize("name", CONTINUES)
def test_a_turn_that_ends_by_continue_is_the_last_one_too(name):
    cell = f"for x, y in loader:\n    STEP\n{textwrap.indent(CONTINUES[name], '    ')}\nelse:\n    log('else')\n"
    log = stopped_at(2, f"{cell}log('behind')")
    assert [entry for entry in log if entry != "finally"] == [1, 2, "behind"]


def test_a_continue_of_another_loop_is_left_alone():
    cell = "for x, y in loader:\n    STEP\n    for i in range(2):\n        continue\n    log('turn')"
    assert stopped_at(2, cell) == [1, "turn", 2, "turn"]


def test_a_continue_in_a_finally_leaves_the_stop_to_a_later_turn():
    cell = """
    for i, (x, y) in enumerate(loader):
        try:
            STEP
        finally:
            if i < 2:
                continue
    log('behind')
    """
    assert stopped_at(1, cell) == [1, 2, 3, "behind"]


CALLED = {
    "a call": (2, "", "train()\nlog('behind')", [1, 2, "trained", "behind"]),
    "epochs of the cell": (
        6, "", "for epoch in range(3):\n    train()\n    log('epoch')\nelse:\n    log('else')\nlog(epoch)",
        [1, 2, 3, 4, *WHOLE, "epoch", 5, 6, "trained", "epoch", 1],
    ),
    "epochs of a function": (6, FIT, "fit()\nlog('behind')",
                             [1, 2, 3, 4, *WHOLE, "epoch", 5, 6, "trained", "epoch", "behind"]),
    "loops of both": (2, FIT, "for run in range(3):\n    fit()\nlog(run)", [1, 2, "trained", "epoch", 0]),
    "a while that asks what trains": (
        2, "def once():\n    train()\n    return True\n", "while once():\n    log('turn')\nlog('behind')",
        [1, 2, "trained", "turn", "behind"],
    ),
    "twice": (2, "", "train()\ntrain()", [1, 2, "trained", 3, 4, 5, 6, *WHOLE]),
    "a loop behind a call": (
        2, "", "train()\nfor x, y in loader:\n    STEP\nelse:\n    log('else')", [1, 2, "trained", 3, 4, 5, 6, "else"],
    ),
    "a loop before a call": (
        6, "", "for x, y in loader:\n    STEP\ntrain()\nlog('behind')", [1, 2, 3, 4, 5, 6, "trained", "behind"],
    ),
    "a function that is named by two": (
        6, FIT, "train()\nfit()\nlog('behind')", [1, 2, 3, 4, *WHOLE, 5, 6, "trained", "epoch", "behind"],
    ),
    "a return out of the loop, then the same again": (
        2,
        """
        def once():
            for epoch in range(2):
                for x, y in loader:
                    STEP
                log('epoch')
                if not seen:
                    seen.append(epoch)
                    return
        seen = []
        """,
        "once()\nonce()", [1, 2, "epoch", 3, 4, 5, 6, "epoch", 7, 8, 9, 10, "epoch"],
    ),
    "a comprehension": (
        2, "", "found = [train() for _ in range(2)]\nfor one in found:\n    log('looked at')",
        [1, 2, "trained", 3, 4, 5, 6, *WHOLE, "looked at", "looked at"],
    ),
    "a method": (
        2,
        """
        class Trainer:
            def epoch(self):
                for x, y in loader:
                    STEP
            def fit(self):
                for epoch in range(3):
                    self.epoch()
                log('fitted')
        trainer = Trainer()
        """,
        "for i in range(2):\n    trainer.fit()\nlog(i)", [1, 2, "fitted", 0],
    ),
    "an object made in the cell": (
        2,
        """
        class Trainer:
            def fit(self):
                for x, y in loader:
                    STEP
        """,
        "for i in range(2):\n    Trainer().fit()\nlog(i)", [1, 2, 0],
    ),
    "a name for a function": (2, "", "go = train\nfor i in range(2):\n    go()\nlog(i)", [1, 2, "trained", 0]),
    "a lambda": (2, "", "go = lambda: train()\nfor i in range(2):\n    go()\nlog(i)", [1, 2, "trained", 0]),
    "a partial": (
        2, "", "go = functools.partial(train)\nfor i in range(2):\n    go()\nlog(i)", [1, 2, "trained", 0],
    ),
    "a loop over functions": (2, "", "for go in (train, train):\n    go()\nlog('behind')", [1, 2, "trained", "behind"]),
    "a list of functions": (
        2, "", "stages = [train, train]\nfor go in stages:\n    go()\nlog('behind')", [1, 2, "trained", "behind"],
    ),
    "a function handed over": (
        2, "def run(what):\n    for i in range(2):\n        what()\n", "run(train)\nlog('behind')",
        [1, 2, "trained", "behind"],
    ),
    "a generator": (
        2,
        """
        def losses():
            for epoch in range(2):
                for x, y in loader:
                    STEP
                    yield loss
        """,
        "for one in losses():\n    log('got')\nelse:\n    log('else')\nlog('behind')", [1, "got", 2, "got", "behind"],
    ),
    "a generator by name": (
        2,
        """
        def losses():
            for x, y in loader:
                STEP
                yield loss
        """,
        "made = losses()\nfor one in made:\n    log('got')\nelse:\n    log('else')", [1, "got", 2, "got"],
    ),
    "a coroutine": (
        2,
        """
        async def batches():
            for batch in loader:
                await asyncio.sleep(0)
                yield batch
        async def train_all():
            for epoch in range(2):
                async for x, y in batches():
                    STEP
                    await asyncio.sleep(0)
                else:
                    log('else')
                log('epoch')
        """,
        "asyncio.run(train_all())", [1, 2, "epoch"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CALLED)
def test_a_stop_ends_the_loops_around_a_call_that_trains(name):
    update, definitions, cell, expected = CALLED[name]
    assert stopped_at(update, cell, TRAIN + textwrap.dedent(definitions)) == expected


@pytest.mark.parametrize("name", CALLED)
def test_functions_that_the_cell_itself_defines_are_followed_as_well(name):
    update, definitions, cell, expected = CALLED[name]
    assert stopped_at(update, TRAIN + textwrap.dedent(definitions) + cell) == expected


def test_the_stop_ends_what_can_be_ended_where_a_caller_cannot_be_rewritten():
    definitions = """
    def outer():
        import accum_magic
        def fit():
            for epoch in range(2):
                train()
                log(accum_magic.__name__)
        return fit
    fit = outer()
    """
    log = stopped_at(2, "fit()\nlog('behind')", TRAIN + textwrap.dedent(definitions))
    assert log == [1, 2, "trained", "accum_magic", 3, 4, 5, 6, *WHOLE, "accum_magic", "behind"]


def test_callers_are_themselves_again_behind_the_cell():
    notebook = Notebook(TRAIN + FIT, {2: accum_magic.stop})
    plain = notebook.names["fit"].__code__
    notebook.run("fit()\nlog(fit.__code__ is not None)\nduring = fit.__code__")
    assert notebook.names["during"] is not plain
    assert notebook.names["fit"].__code__ is plain


def test_a_second_stop_ends_the_loop_behind():
    notebook = Notebook(at={2: accum_magic.stop, 4: accum_magic.stop})
    loop = "for x, y in loader:\n    STEP\n"
    assert notebook.run(f"{loop}{loop}{loop}log('behind')") == [1, 2, 3, 4, 5, 6, 7, 8, "behind"]


def test_a_stop_that_is_asked_for_twice_ends_the_same_loops():
    def twice():
        accum_magic.stop()
        accum_magic.stop()

    notebook = Notebook(TRAIN, {2: twice})
    assert notebook.run("for i in range(3):\n    train()\ntrain()") == [1, 2, "trained", 3, 4, 5, 6, *WHOLE]


def test_the_state_says_when_the_loops_have_ended():
    notebook = Notebook(TRAIN, {2: accum_magic.stop})
    notebook.names["state"] = lambda: notebook.log.append(accum_magic.engine.run.running().control.state)
    cell = "for i in range(2):\n    state()\n    train()\n    state()\nstate()\n"
    assert notebook.run(cell) == ["running", 1, 2, "trained", "stopping", "running"]


WITHOUT_RANGES = f"""
import sys
sys.path[:0] = {[str(Path(__file__).parents[1]), str(Path(accum_magic.__file__).parents[1])]!r}
from engine.test_control import FIT, TRAIN, stopped_at
print(stopped_at(6, "train()\\nfor i in range(2):\\n    fit()\\n    log(i)\\ntrain()", TRAIN + FIT))
"""


def test_a_python_that_keeps_no_columns_stops_too():
    command = [sys.executable, "-X", "no_debug_ranges", "-c", WITHOUT_RANGES]
    run = subprocess.run(command, check=False, capture_output=True, text=True, timeout=240)
    expected = [1, 2, 3, 4, *WHOLE, 5, 6, "trained", "epoch", 0, 7, 8, 9, 10, *WHOLE]
    assert run.stdout == f"{expected}\n", run.stderr


def test_an_attribute_of_the_user_s_that_is_called_so_is_no_check():
    definitions = f"{TRAIN}class Early:\n    stopped = False\nearly = Early()\n"
    notebook = Notebook(definitions, {2: accum_magic.stop})
    notebook.names["state"] = lambda: notebook.log.append(accum_magic.engine.run.running().control.state)
    cell = "for i in range(2):\n    early.stopped or train()\nstate()\n"
    assert notebook.run(cell) == [1, 2, "trained", "running"]


def test_the_summary_says_after_which_step_the_first_loop_was_ended():
    stopped_at(2, "for x, y in loader:\n    STEP\nfor x, y in loader:\n    STEP\n")
    summary = accum_magic.last_run()
    assert (summary.stopped_after, summary.steps) == (2, 6)
    assert "· stopped after step 2 · 6 optimizer steps ·" in str(summary)


def test_a_name_of_the_engine_that_the_cell_has_taken_does_no_harm():
    cell = "accum_magic = 3\nfor x, y in loader:\n    STEP\nlog(accum_magic)"
    assert stopped_at(2, cell) == [1, 2, 3]


def test_an_argument_of_the_engine_s_name_does_no_harm():
    definitions = "def fit(accum_magic):\n    for i in range(2):\n        train()\n        log(accum_magic)\n"
    assert stopped_at(2, "fit('given')", TRAIN + definitions) == [1, 2, "trained", "given"]


# ---------------------------------------------------------------- a cell that trains within another


def test_a_run_goes_on_behind_one_that_began_within_it():
    within = Notebook()
    notebook = Notebook(at={1: lambda: within.run("for x, y in loader:\n    STEP\n"), 2: accum_magic.stop})
    assert notebook.run("for x, y in loader:\n    STEP\nlog('behind')") == [1, 2, "behind"]
    assert within.log == [1, 2, 3, 4]


def test_steps_count_for_the_inner_run_and_then_for_the_outer_one():
    def step(times):
        for _ in range(times):
            optimizer.step()
            scheduler.step()

    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 10)
    outer = begin()
    step(1)
    inner = begin()
    step(2)
    assert accum_magic.last_run().optimizer_steps == 2
    inner.end()
    assert accum_magic.engine.run.running() is outer
    assert accum_magic.last_run().optimizer_steps == 1
    step(4)
    outer.end()
    assert accum_magic.engine.run.running() is None
    counts = [(run.summary().optimizer_steps, run.summary().scheduler_steps) for run in (outer, inner)]
    assert counts == [(5, 5), (2, 2)]
    assert accum_magic.last_run().optimizer_steps == 5


def test_a_run_that_has_ended_does_not_come_back():
    outer, inner = begin(), begin()
    outer.end()
    assert accum_magic.engine.run.running() is inner
    inner.end()
    assert accum_magic.engine.run.running() is None


def test_runs_that_end_out_of_order_leave_the_one_around_them():
    """As those of two threads, or of handlers that wait for each other, may."""
    outer, middle, inner = begin(), begin(), begin()
    middle.end()
    inner.end()
    assert accum_magic.engine.run.running() is outer
    outer.end()
    assert accum_magic.engine.run.running() is None
    assert (middle.around, inner.around) == (None, None)


def test_what_is_ended_is_let_go_of():
    definitions = """
    class Thing:
        pass
    def once():
        kept = Thing()
        seen.append(weakref.ref(kept))
        for epoch in range(2):
            for x, y in loader:
                STEP
            if leaves:
                return
    """
    for leaves in (False, True):
        notebook = Notebook()
        notebook.names |= {"seen": [], "weakref": weakref, "leaves": leaves}
        testing.run_plain(with_steps(definitions), notebook.names)
        notebook.at = {2: accum_magic.stop}
        notebook.run("once()\nduring = seen[0]()" if not leaves else "once()\nduring = None")
        gc.collect()
        assert notebook.names["during"] is None
        assert notebook.names["seen"][0]() is None


# ---------------------------------------------------------------- commands between threads


def test_a_paused_cell_waits_until_it_is_resumed():
    seen = []

    def pause():
        control = accum_magic.engine.run.running().control
        accum_magic.pause()

        def look():
            wait_for(lambda: control.state == "paused")
            seen.append(list(notebook.log))
            accum_magic.resume()

        thread = threading.Thread(target=look)
        thread.start()
        threads.append(thread)

    threads = []
    notebook = Notebook(at={2: pause})
    assert notebook.run("for x, y in loader:\n    STEP\nlog('behind')") == [1, 2, 3, 4, "behind"]
    threads[0].join()
    assert seen == [[1, 2]]


@pytest.mark.parametrize("loop", ["for x, y in loader:\n    STEP\n", "while True:\n    x, y = loader[0]\n    STEP\n"])
def test_a_paused_cell_can_be_stopped(loop):
    def pause():
        control = accum_magic.engine.run.running().control
        accum_magic.pause()
        waiting = threading.Thread(target=lambda: (wait_for(lambda: control.is_paused), accum_magic.stop()))
        waiting.start()
        threads.append(waiting)

    threads = []
    notebook = Notebook(at={2: pause})
    assert notebook.run(f"{loop}log('behind')") == [1, 2, "behind"]
    threads[0].join()


def test_an_interrupt_reaches_a_paused_cell_at_the_line_of_its_loop():
    def pause():
        control = accum_magic.engine.run.running().control
        accum_magic.pause()
        waiting = threading.Thread(target=lambda: (wait_for(lambda: control.is_paused), interrupt_main()))
        waiting.start()
        threads.append(waiting)

    threads = []
    notebook = Notebook(at={2: pause})
    with pytest.raises(KeyboardInterrupt) as caught:
        notebook.run("first = 1\nfor x, y in loader:\n    STEP\n")
    threads[0].join()
    lines = [f.lineno for f in traceback.extract_tb(caught.value.__traceback__) if f.filename == "<accumulated cell>"]
    assert lines == [2]
    assert notebook.log == [1, 2]


def test_the_last_of_several_commands_holds():
    control = Control()
    for command in (Command("pause"), Command("n", 3), Command("resume"), Command("n", 5)):
        control.ask(command)
    assert (control.state, control.n) == ("running", None)  # nothing acts before a boundary
    control.boundary()
    assert (control.state, control.n) == ("running", 5)


def test_a_stop_frees_a_paused_run_and_outlives_a_later_pause():
    control = Control()
    for kind in ("pause", "stop", "pause"):
        control.ask(Command(kind))
    control.boundary()
    assert control.state == "stopping"


def test_the_cell_can_be_told_another_n():
    notebook = Notebook(at={2: lambda: accum_magic.set_n(3)})
    notebook.names["n_now"] = lambda: notebook.log.append(accum_magic.engine.run.running().control.n)
    assert notebook.run("n_now()\nfor x, y in loader:\n    STEP\nn_now()") == [None, 1, 2, 3, 4, 3]


# ---------------------------------------------------------------- what is refused


@pytest.mark.parametrize("value", [0, -1, 1_000_001, None, True, "8", 8.0])
def test_n_is_a_whole_number(value):
    with pytest.raises(ControlError) as error:
        Command("n", value)
    assert str(error.value) == f"N is a whole number from 1 to 1,000,000, found {value}."


def test_another_command_is_refused():
    with pytest.raises(ControlError) as error:
        Command("faster")
    expected = "a run can be told to pause, resume, stop, or n=8 for 8 micro-batches, found `faster`."
    assert str(error.value) == expected


def test_a_locked_n_says_why_and_keeps_nothing():
    control = Control()
    control.locked = "under --window N stays as it is."
    with pytest.raises(ControlError, match=r"^under --window N stays as it is\.$"):
        control.ask(Command("n", 2))
    control.ask(Command("stop"))
    control.boundary()
    assert (control.n, control.state) == (None, "stopping")


COMMANDS = {
    accum_magic.pause: "pause", accum_magic.resume: "resume", accum_magic.stop: "stop",
    functools.partial(accum_magic.set_n, 2): "split anew",
}  # fmt: skip


@pytest.mark.parametrize("command", COMMANDS)
def test_without_a_run_there_is_nothing_to_command(command):
    Notebook().run("for x, y in loader:\n    STEP\n")  # it has ended
    with pytest.raises(ControlError) as error:
        command()
    assert str(error.value) == f"no cell runs in micro-batches now, so there is nothing to {COMMANDS[command]}."


def test_without_a_run_nothing_is_stopped():
    assert accum_magic.stopped() is False
    notebook = Notebook()
    text = accum_magic.rewrite(with_steps("for x, y in loader:\n    STEP\nelse:\n    log('else')\n"), 2).source
    assert "accum_magic.stopped()" in text
    testing.run_plain(text, notebook.names)
    assert notebook.log == [1, 2, 3, 4, "else"]


def test_a_run_that_nobody_stops_is_not_stopped():
    run = begin()
    try:
        assert accum_magic.stopped() is False
        assert run.control.has_stopped is False
    finally:
        run.end()
    assert run.summary().stopped_after is None
