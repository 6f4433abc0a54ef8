"""The live panel in a real kernel; the test is the page at the other end of its widget's messages."""

import struct
import time

import pytest
from shell.shell_tools import REPLY_S, TRAIN

ENDLESS = TRAIN.replace("loader", "batches()")
WIDGETS = "len(ipywidgets.Widget.get_manager_state()['state'])"
BEHIND = "behind = accum_magic.last_run().steps\n"


class Page:
    """A page that shows the panel of one run, as far as its messages go."""

    def __init__(self, kernel, code):
        self.kernel, self.messages, self.bundles, self.streams = kernel, [], [], []
        self.error, self.is_idle = "", False
        self.sent = kernel.start(code)
        self.opened = self.wait_for(lambda m: m["msg_type"] == "comm_open" and "_esm" in state_of(m))
        self.comm = self.opened["content"]["comm_id"]

    def take(self):
        """Take in one message that the kernel publishes for the cell."""
        message = self.kernel.client.get_iopub_msg(timeout=REPLY_S)
        kind, content = message["msg_type"], message["content"]
        if message["parent_header"].get("msg_id") != self.sent and kind != "comm_msg":
            return message
        self.messages.append(message)
        if kind in {"display_data", "update_display_data"}:
            self.bundles.append(content["data"])
        elif kind == "stream":
            self.streams.append(content["text"])
        elif kind == "error":
            self.error = content["ename"]
        self.is_idle = self.is_idle or (kind == "status" and content["execution_state"] == "idle")
        return message

    def wait_for(self, holds):
        deadline = time.monotonic() + REPLY_S
        while not holds(message := self.take()):
            assert time.monotonic() < deadline
            assert not self.is_idle, "the cell has ended"
        return message

    def told(self, kind):
        """Wait for a message of the panel."""
        return self.wait_for(lambda m: data_of(m).get("content", {}).get("kind") == kind)

    def say(self, **content):
        data = {"method": "custom", "content": content}
        message = self.kernel.client.session.msg("comm_msg", {"comm_id": self.comm, "data": data})
        self.kernel.client.shell_channel.send(message)

    def hello(self, page="1"):
        """Say hello, and return the answer."""
        self.say(kind="hello", page=page)
        welcome = self.told("welcome")["content"]["data"]["content"]
        self.run = welcome["run"]
        return welcome

    def ask(self, command, **value):
        self.say(kind="command", run=self.run, command=command, **value)

    def until(self, holds):
        """Wait for a state of the run."""
        while True:
            state = self.told("state")["content"]["data"]["content"]["state"]
            if holds(state):
                return state

    def end(self):
        """Wait for the end of the cell."""
        while not self.is_idle:
            self.take()
        self.kernel._shell_reply(self.sent, time.monotonic() + REPLY_S)
        return self


def data_of(message):
    data = message["content"].get("data", {})
    return data if message["msg_type"] in {"comm_msg", "comm_open"} else {}


def state_of(message):
    return data_of(message).get("state", {})


def kinds(page):
    return [message["msg_type"] for message in page.messages]


@pytest.fixture
def cell(kernel):
    """Start a cell that trains until it has taken `limit` steps, and be its page."""
    kernel.run("import accum_magic, ipywidgets\nlimit = None\ntaken = []\nfresh()").ok()
    kernel.run(
        "def batches():\n"
        "    while limit is None or len(taken) < limit:\n"
        "        time.sleep(0.02)\n"
        "        yield loader[0]\n"
    ).ok()

    def start(line="4", body=ENDLESS, end=BEHIND):
        return Page(kernel, f"%%accumulate {line}\n{body}    taken.append(time.monotonic())\n{end}")

    return start


# ---------------------------------------------------------------- what it is told


def test_the_page_is_welcomed_with_all_that_it_shows(cell):
    page = cell()
    welcome = page.hello()
    assert welcome["reach"] == "update"
    assert [[number, mark] for number, mark, _ in welcome["lines"]][:2] == [[2, ""], [3, "once before"]]
    state = page.until(lambda state: state["step"] > 3 and state["verdict"])
    assert (state["verdict"], state["micro_batches"], state["sizes"]) == ("exact", 4, [3, 3, 2, 2])
    assert state["optimizer_steps"] >= 3
    assert state["footprint"]["parameters"] == 67 * 8
    assert 0 < state["memory_bytes"] <= state["peak_bytes"]
    page.ask("stop")
    page.end()
    assert page.error == ""


def test_the_curves_come_as_one_buffer(cell):
    page = cell()
    page.hello()
    page.until(lambda state: state["step"] > 20)
    [buffer] = page.messages[-1]["buffers"]
    memories, losses, *numbers = struct.unpack(f"<{len(buffer) // 4}f", buffer)
    assert len(numbers) == 2 * (memories + losses)
    assert 1 < memories <= 300
    assert all(10 < mebibytes < 100_000 for mebibytes in numbers[1 : 2 * int(memories) : 2])
    assert all(0 < loss < 5 for loss in numbers[2 * int(memories) + 1 :: 2])
    page.ask("stop")
    page.end()


# ---------------------------------------------------------------- what it asks for


def test_stop_ends_the_loop_and_the_code_behind_it_runs(cell, kernel):
    page = cell()
    page.hello()
    page.until(lambda state: state["step"] > 3)
    page.ask("stop")
    page.end()
    assert page.error == ""
    steps = kernel.value("behind")
    assert kernel.value("accum_magic.last_run().stopped_after") == steps == kernel.value("len(taken)")
    assert f"stopped after step {steps} · " in page.bundles[-1]["text/plain"]


def test_a_paused_cell_takes_no_step_until_it_is_resumed(cell, kernel):
    page = cell()
    page.hello()
    page.until(lambda state: state["step"] > 3)
    page.ask("pause")
    paused = page.until(lambda state: state["state"] == "paused")
    assert paused["done"]
    time.sleep(1)  # some thirty steps
    page.ask("resume")
    page.until(lambda state: state["state"] == "running" and state["step"] > paused["step"] + 3)
    page.ask("stop")
    page.end()
    gaps = kernel.value("[b - a for a, b in zip(taken, taken[1:])]")
    assert sum(gap > 0.9 for gap in gaps) == 1


def test_a_paused_cell_can_be_stopped(cell, kernel):
    page = cell()
    page.hello()
    page.ask("pause")
    page.until(lambda state: state["state"] == "paused")
    page.ask("stop")
    page.end()
    assert page.error == ""
    assert kernel.value("len(taken) == behind > 0")


def test_another_n_counts_from_the_next_step_on(cell, kernel):
    page = cell()
    page.hello()
    page.until(lambda state: state["step"] > 3)
    page.ask("n", value=2)
    page.until(lambda state: state["micro_batches"] == 2 and state["n"] == 2)
    page.ask("stop")
    page.end()
    events = "[e.micro_batches for e in accum_magic.last_run().events if type(e).__name__ == 'StepDone']"
    cut = kernel.value(events)
    assert cut == sorted(cut, reverse=True)
    assert set(cut) == {4, 2}
    assert kernel.value("[e.n for e in accum_magic.last_run().events if type(e).__name__ == 'NChanged']") == [2]


def test_a_run_under_window_keeps_its_n_and_says_so(cell):
    page = cell("2 --window", end="")
    assert page.hello()["locked"] == (
        "N stays as it is under --window: it is the number of loader batches of an update."
    )
    page.ask("n", value=8)
    text = page.told("refused")["content"]["data"]["content"]["text"]
    assert text == "N stays as it is under --window: it is the number of loader batches of an update."
    page.ask("stop")
    page.end()
    assert page.error == ""


def test_a_panel_cannot_command_another_run(cell, kernel):
    first = cell()
    first.hello()
    first.ask("stop")
    first.end()
    kernel.run("taken.clear()").ok()
    second = cell()
    second.hello()
    for comm, run in ((second.comm, first.run), (first.comm, second.run), (first.comm, first.run)):
        second.comm, own = comm, second.comm
        second.say(kind="command", run=run, command="stop")
        second.comm = own
    second.until(lambda state: state["step"] > 10)
    assert second.until(lambda _: True)["state"] == "running"
    second.ask("stop")
    second.end()


def test_a_cell_that_trains_within_another_leaves_it_its_controls(cell, kernel):
    kernel.run(f"import accum_magic\nWITHIN = {TRAIN + 'inner = accum_magic.last_run().steps'!r}").ok()
    within = "    if len(taken) == 4: get_ipython().run_cell_magic('accumulate', '2', WITHIN)\n"
    page = cell(body=f"{ENDLESS}{within}")
    page.hello()
    page.until(lambda state: state["step"] > 8)
    page.ask("stop")
    page.end()
    assert page.error == ""
    assert kernel.value("(inner, behind == len(taken) > 8)") == (2, True)
    assert kernel.value("accum_magic.last_run().stopped_after == behind")


# ---------------------------------------------------------------- without a page


def test_without_a_page_there_is_text_once_a_second(cell, kernel):
    kernel.run(f"widgets = {WIDGETS}\nlimit = 300").ok()  # of 20 ms and more, so that the three seconds of waiting pass
    page = cell().end()
    texts = [bundle["text/plain"] for bundle in page.bundles if "text/html" not in bundle]
    spent_s = kernel.value("taken[-1] - taken[0]")
    assert 1 <= len(texts) <= spent_s - 1
    assert all(text.startswith("step ") for text in texts)
    assert "text/html" in page.bundles[-1]
    assert kernel.value(f"{WIDGETS} == widgets")


def test_a_page_that_comes_late_finds_the_panel(cell):
    page = cell()
    page.wait_for(lambda m: m["msg_type"] == "update_display_data")
    assert "application/vnd.jupyter.widget-view+json" not in page.bundles[-1]
    page.hello()
    assert "application/vnd.jupyter.widget-view+json" in page.bundles[-1]
    page.ask("stop")
    page.end()


def test_where_there_are_no_widgets_a_line_of_text_shows_the_run(kernel):
    kernel.run(f"%%accumulate 4 --panel off\n{TRAIN}").ok()  # what a first step imports
    kernel.run(
        "import sys, anywidget, accum_magic.view.panel\n"
        "names = 'accum_magic.view.panel', 'accum_magic.view.widget', 'anywidget'\n"
        "kept = {name: sys.modules.pop(name) for name in names}\n"
        "sys.modules['anywidget'] = None"
    ).ok()
    reply = kernel.run(f"%%accumulate 4\n{TRAIN}    time.sleep(0.5)\n").ok()
    kernel.run("sys.modules.update(kept)").ok()
    [texts] = reply.history.values()
    assert texts[0] == "accum_magic: starting"
    assert texts[-2].startswith("step 2/2 · micro-batch 4/4")
    first, note = texts[-1].splitlines()
    assert first.startswith("accum_magic: exact · 2 optimizer steps")
    assert note.startswith("  note: the panel cannot show, a line of text stands for it: ModuleNotFoundError(")


# ---------------------------------------------------------------- what it leaves


def test_the_result_takes_the_panels_place_and_needs_no_widget(cell, kernel):
    kernel.run(f"widgets = {WIDGETS}\nlimit = 3").ok()
    page = cell().end()
    assert "application/vnd.jupyter.widget-view+json" in page.bundles[0]
    assert set(page.bundles[-1]) == {"text/html", "text/plain"}
    assert page.bundles[-1]["text/plain"].startswith("accum_magic: exact · 3 optimizer steps")
    assert "<img" in page.bundles[-1]["text/html"]
    assert "comm_close" in kinds(page)
    assert kernel.value(f"{WIDGETS} == widgets")
    # an executed notebook keeps the state of widgets, and so only what is left of this one's page
    assert [state_of(m)["_esm"] for m in page.messages if "_esm" in state_of(m)][-1] == ""


def test_a_failed_cell_says_so_in_its_result(cell):
    page = cell(end="1 / 0\n", body=TRAIN).end()
    assert page.error == "ZeroDivisionError"
    assert page.bundles[-1]["text/plain"].startswith("stopped by ZeroDivisionError · accum_magic: exact")
    assert "ZeroDivisionError" in page.bundles[-1]["text/html"]


def test_a_cell_that_only_defines_leaves_a_line_of_text(cell):
    body = "def train():\n" + "".join(f"    {line}\n" for line in TRAIN.splitlines())
    page = cell(body=body, end="").end()
    assert page.bundles[-1] == {"text/plain": "accum_magic: `train` will run in micro-batches when called"}


def test_a_user_who_closes_all_widgets_in_mid_run_loses_only_the_panel(cell, kernel):
    kernel.run("limit = 40").ok()
    page = cell(body=ENDLESS + "    if len(taken) == 5: ipywidgets.Widget.close_all()\n").end()
    assert page.error == ""
    assert kernel.value("behind") == 40
    assert page.bundles[-1]["text/plain"].startswith("accum_magic: exact · 40 optimizer steps")


def test_a_panel_that_fails_harms_nothing(cell, kernel):
    kernel.run("limit = 40\nfrom accum_magic.view.widget import PanelWidget").ok()
    kernel.run("def gone(*_): raise OSError('the page is gone')\nsend, PanelWidget.send = PanelWidget.send, gone").ok()
    page = cell()
    page.say(kind="hello", page="1")
    page.end()
    kernel.run("PanelWidget.send = send").ok()
    assert page.error == ""
    assert kernel.value("behind") == 40
    assert kernel.value("accum_magic.last_run().notes") == ("the view failed: OSError('the page is gone')",)
    assert page.bundles[-1]["text/plain"].startswith("accum_magic: exact · 40 optimizer steps")


# ---------------------------------------------------------------- the check behind the run


def test_the_check_can_be_asked_for_behind_the_run(cell, kernel):
    page = cell(body=ENDLESS.replace("for", "print('said')\nfor", 1), end="")
    page.hello()
    page.ask("check")
    refused = page.told("refused")["content"]["data"]["content"]["text"]
    assert refused == "a run can be told to pause, resume, stop, or n=8 for 8 micro-batches, found `check`."
    page.ask("stop")
    ended = page.told("ended")["content"]["data"]["content"]
    assert (ended["check"], ended["state"]["outcome"]) == (True, "stopped")
    page.end()
    kernel.run("before = parameters()").ok()
    page.is_idle = False
    page.ask("check")
    checked = page.told("checked")["content"]["data"]["content"]["text"]
    assert checked.startswith("accum_magic: same · nothing was trained, all state is as it was")
    assert kernel.value("same(parameters(), before)")
    assert page.streams == ["said\n"]
    assert page.hello("2")["state"]["state"] == "ended"  # loaded again
    assert page.told("checked")["content"]["data"]["content"]["text"] == checked


def test_a_check_that_cannot_run_says_why(cell, kernel):
    kernel.run("once = batches()").ok()
    page = cell(body=TRAIN.replace("loader", "once"), end="")
    page.hello()
    page.ask("stop")
    page.end()
    page.is_idle = False
    page.ask("check")
    checked = page.told("checked")["content"]["data"]["content"]["text"]
    assert checked.startswith("the check could not run: Refusal: line 2: `once` is an iterator (generator).")


# ---------------------------------------------------------------- the line magic, and Python


def test_the_line_magic_shows_the_last_run_and_has_nothing_to_stop(kernel):
    kernel.run(f"%%accumulate 4\n{TRAIN}").ok()
    assert kernel.run("%accumulate status").ok().stdout.startswith("accum_magic: exact · 2 optimizer steps")
    for line, what in (("stop", "stop"), ("pause", "pause"), ("resume", "resume"), ("n=8", "split anew")):
        reply = kernel.run(f"%accumulate {line}")
        assert reply.ename == "ControlError"
        assert reply.evalue == f"no cell runs in micro-batches now, so there is nothing to {what}."


def test_the_line_magic_says_what_it_takes(kernel):
    reply = kernel.run("%accumulate sotp")
    assert reply.ename == "OptionError"
    assert reply.evalue == "%accumulate takes status, pause, resume, stop, or n=8 for 8 micro-batches, found `sotp`."


def test_a_line_of_the_cell_can_stop_it(cell, kernel):
    page = cell(body=ENDLESS + "    if len(taken) == 5: get_ipython().run_line_magic('accumulate', 'stop')\n").end()
    assert page.error == ""
    assert kernel.value("behind") == 6
