"""IPython in a terminal and at the end of a pipe."""

import contextlib
import json
import re
import sys

import nbformat
import pexpect
import pytest
from shell.shell_tools import SETUP, TRAIN, plain_text

LOAD = "%load_ext accum_magic"


def write_notebook(folder, *cells):
    path = folder / "cells.ipynb"
    book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    path.write_text(json.dumps(book))
    return path


# ---------------------------------------------------------------- a pipe


BATCH_NORM = "fresh()\nmodel.append(nn.BatchNorm1d(3))\noptimizer = torch.optim.SGD(model.parameters(), lr=0.1)"


def test_a_pipe_gets_the_cells_own_prints_and_what_the_user_has_to_hear(ipython, tmp_path):
    """One process for three runs: exact, approximate, and one with the panel off that raises."""
    path = write_notebook(
        tmp_path,
        SETUP,
        LOAD,
        f"%%accumulate 4\n{TRAIN}    print('step')\n    time.sleep(0.3)",
        "print('exact is over', flush=True)\nprint('exact is over', file=sys.stderr, flush=True)",
        BATCH_NORM,
        f"%%accumulate 4\n{TRAIN}",
        f"%%accumulate 4 --panel off\n{TRAIN}raise KeyError('of the user')",
        "print('never')",
    )
    run = ipython(path)
    assert run.returncode == 1
    prints, shown = plain_text(run.stdout).split("exact is over\n")
    assert prints == "step\nstep\n"
    assert "KeyError: 'of the user'" in shown
    assert "never" not in shown
    quiet, said = run.stderr.split("exact is over\n")
    assert quiet == ""
    first, reason = said.splitlines()
    assert first.startswith("accum_magic: approximate · 2 optimizer steps · 8 micro-batches (4 per step)")
    assert reason == "  approximate: BatchNorm in training mode (3) normalises each micro-batch by itself"


def test_an_error_stream_that_is_closed_does_not_break_training(ipython, tmp_path):
    cells = [SETUP, LOAD, BATCH_NORM, "sys.stderr.close()", f"%%accumulate 4\n{TRAIN}", "print('trained', flush=True)"]
    path = write_notebook(tmp_path, *cells)
    assert "trained" in ipython(path).stdout


# ---------------------------------------------------------------- a terminal


class Terminal:
    """IPython in a pseudo-terminal; `run` types a cell and returns what appears until the next prompt."""

    def __init__(self, environment):
        command = ["-m", "IPython", "--no-banner", "--simple-prompt", "--colors=nocolor", "--no-confirm-exit"]
        environment = {**environment, "TERM": "dumb", "COLUMNS": "200"}
        self.process = pexpect.spawn(
            sys.executable, command, env=environment, encoding="utf-8", timeout=120, dimensions=(50, 200), echo=False
        )
        self.count = 0
        self._prompt()

    def run(self, cell, until=None):
        self._drain()
        for line in cell.rstrip("\n").splitlines():
            self.process.sendline(line)
        if cell.startswith("%%"):  # ends at a blank line
            self.process.sendline("\n")
        if until is not None:
            self.process.expect_exact(until)
            return ""
        return self._prompt()

    def interrupt(self):
        self.process.sendintr()
        return self._prompt()

    def _drain(self):
        """A blank line too many shows one more prompt of the same number."""
        with contextlib.suppress(pexpect.TIMEOUT):
            while True:
                self.process.expect(r"In \[(\d+)\]: ", timeout=0.2)
                self.count = int(self.process.match[1])

    def _prompt(self):
        self.process.expect(r"In \[(\d+)\]: ")
        self.count = int(self.process.match[1])
        return re.sub(r"(?m)^(   \.\.\.: )+", "", plain_text(self.process.before))


@pytest.fixture(scope="module")
def terminal(environment, tmp_path_factory):
    made = Terminal(environment)
    script = tmp_path_factory.mktemp("terminal") / "setup.py"
    script.write_text(SETUP)
    made.run(f"exec(open({str(script)!r}).read())")
    made.run(LOAD)
    made.run(f"%%accumulate 4 --panel off\n{TRAIN}")  # what a first step imports, so that a line finds one that is over
    yield made
    made.process.close(force=True)


def test_the_line_is_written_over_in_place_and_closed_by_the_summary(terminal):
    shown = terminal.run(f"%%accumulate 4\n{TRAIN}    time.sleep(0.6)")
    *running, closing = shown.replace("\r\n", "\n").strip("\r\n").split("\r")
    assert closing.startswith("accum_magic: exact · 2 optimizer steps · 8 micro-batches (4 per step)")
    assert "\n" not in closing
    lines = [text for text in running if text.strip()]
    assert lines
    for text in lines:
        assert re.fullmatch(r"step \d/2 · micro-batch 4/4 · loss .* samples/s( · 0:0\d left)? *", text), text
    assert running[-1].isspace(), "the running line is cleared before the closing one"


def test_in_a_narrow_terminal_the_line_stays_in_its_row(terminal):
    terminal.process.setwinsize(50, 60)
    shown = terminal.run(f"%%accumulate 4\n{TRAIN}    time.sleep(0.6)")
    terminal.process.setwinsize(50, 200)
    running = [text for text in shown.split("\r") if text.startswith("step ")]
    assert running
    assert {len(text) for text in running} == {59}  # in the last column some terminals begin another row


def test_a_terminal_shows_out_and_is_silenced_by_a_semicolon(terminal):
    number = terminal.count
    assert re.search(rf"Out\[{number}\]: \d\.\d+", terminal.run(f"%%accumulate 4\n{TRAIN}loss.item()"))
    assert "Out[" not in terminal.run(f"%%accumulate 4\n{TRAIN}loss.item();")


def test_a_terminal_awaits(terminal):
    cell = f"%%accumulate 4\nawait asyncio.sleep(0)\n{TRAIN}await asyncio.sleep(0, 'waited')"
    assert "'waited'" in terminal.run(cell)


def test_a_terminal_shows_the_users_line(terminal):
    number = terminal.count
    shown = terminal.run(f"%%accumulate 4\n{TRAIN}print(no_such_name)")
    assert f"Cell In[{number}], line 7" in shown
    assert "----> 7 print(no_such_name)" in shown
    assert "NameError: name 'no_such_name' is not defined" in shown


def test_control_c_leaves_parameters_and_the_shell_usable(terminal):
    terminal.run("fresh(); before = parameters()")
    terminal.run("sleep = lambda module, args: len(args[0]) == 5 and (print('asleep', flush=True), time.sleep(60))")
    terminal.run("slow = nn.Sequential(model); slow.register_forward_pre_hook(sleep)")
    terminal.run(f"%%accumulate 2\n{TRAIN.replace('model(x)', 'slow(x)')}", until="asleep")
    shown = terminal.interrupt()
    assert "KeyboardInterrupt" in shown
    assert "stopped by KeyboardInterrupt · accum_magic: " in shown
    assert "True True" in terminal.run("print(same(parameters(), before), same(gradients(), [None] * 4))")
    assert "accum_magic: exact" in terminal.run(f"%%accumulate 2\n{TRAIN}")
