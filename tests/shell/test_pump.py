"""The pump in real kernels of every Jupyter stack: what the page says is heard while a training cell runs.

Nothing here hangs on timings: a cell trains until the message it waits for has been heard, and a test that waits for a
reply in mid-run ends the cell only after it.
"""

import time
from dataclasses import dataclass

import pytest
from IPython.core.interactiveshell import InteractiveShell
from shell.shell_tools import REPLY_S, TRAIN, Kernel, Reply

from accum_magic.view.pump import pump_for

PREPARE = f"""
import contextvars, threading
import ipywidgets, matplotlib
from accum_magic.engine.run import running
from accum_magic.view.pump import INTERVAL_S, pump_for
from accum_magic.view.subshells import is_main_thread, reply_shims

heard = []
def batches(has_ended):
    "The same batch until something has happened."
    deadline = time.monotonic() + {REPLY_S}
    while not has_ended():
        assert time.monotonic() < deadline, "nothing was heard in mid-run"
        yield X[:10], Y[:10]

def fresh_page():
    global pump, slider
    heard.clear()
    pump = pump_for(get_ipython())
    slider = ipywidgets.IntSlider()
    slider.observe(lambda change: heard.append((change.new, running() is not None, is_main_thread())), "value")
"""
STARTED = "print('started', flush=True)\n"
LISTEN = "running().control.listen = pump.poll\n"


def cell(body, loader="batches(lambda: heard)", end=""):
    return f"%%accumulate 4 --panel off\n{LISTEN}{STARTED}{TRAIN.replace('loader', loader)}{body}{end}"


@dataclass
class Page:
    """What a notebook's page does beside running cells."""

    kernel: Kernel
    slider: str
    """Name of the slider's comm."""

    def start(self, code):
        """Run a cell until it trains."""
        sent = self.kernel.start(code)
        reply = self.kernel.finish(sent, until=lambda reply: "started" in reply.stdout)
        return sent, reply

    def send(self, kind, content, metadata=None, **header):
        session = self.kernel.client.session
        message = session.msg(kind, content, metadata=metadata)
        message["header"].update(header)
        self.kernel.client.shell_channel.send(message)
        return message["header"]["msg_id"]

    def slide(self, value, **header):
        data = {"method": "update", "state": {"value": value}, "buffer_paths": []}
        return self.send("comm_msg", {"comm_id": self.slider, "data": data}, **header)

    def answer(self, sent):
        return self.kernel._shell_reply(sent, time.monotonic() + REPLY_S)

    def published(self, until):
        """All that the kernel publishes, up to the message that `until` waits for."""
        found = []
        while not found or not until(found[-1]):
            found.append(self.kernel.client.get_iopub_msg(timeout=REPLY_S))
        return found


def of(message, sent):
    return message["parent_header"].get("msg_id") == sent


def state(message):
    return message["content"].get("execution_state")


@pytest.fixture
def page(kernel_of_each_stack):
    kernel = kernel_of_each_stack
    if not kernel.value("'heard' in globals()"):
        kernel.run(PREPARE).ok()
        # what a first step imports is there then: Python 3.11 and IPython 7 make another error of an interrupt in there
        kernel.run(f"%%accumulate 4 --panel off\n{TRAIN}").ok()
    kernel.run("fresh()\nfresh_page()").ok()
    return Page(kernel, kernel.value("slider.comm.comm_id"))


# ---------------------------------------------------------------- heard in mid-run


def test_a_message_reaches_its_handler_while_the_cell_trains(page):
    sent, reply = page.start(cell("trained_for = list(heard)\n"))
    page.slide(7)
    page.kernel.finish(sent, reply).ok()
    assert page.kernel.value("trained_for") == [(7, True, True)]
    assert page.kernel.value("(pump.is_off, pump.why)") == (False, None)


def test_many_messages_are_heard_in_their_order(page):
    sent, reply = page.start(cell("", "batches(lambda: len(heard) == 50)"))
    for value in range(1, 51):
        page.slide(value)
    page.kernel.finish(sent, reply).ok()
    assert page.kernel.value("[value for value, *_ in heard]") == list(range(1, 51))


def test_the_page_is_answered_who_the_kernel_is(page):
    sent, reply = page.start(cell(""))
    answer = page.answer(page.send("kernel_info_request", {}))
    assert (answer["status"], answer["language_info"]["name"]) == ("ok", "python")
    page.slide(1)
    page.kernel.finish(sent, reply).ok()


def test_the_page_is_answered_which_comms_are_open(page):
    sent, reply = page.start(cell(""))
    answer = page.answer(page.send("comm_info_request", {"target_name": "jupyter.widget"}))
    assert answer["comms"][page.slider] == {"target_name": "jupyter.widget"}
    page.slide(1)
    page.kernel.finish(sent, reply).ok()


def test_a_page_loaded_again_gets_the_state_of_all_widgets(page):
    sent, reply = page.start(cell(""))
    target = {"comm_id": "after-reload", "target_name": "jupyter.widget.control", "data": {}}
    page.send("comm_open", target, metadata={"version": "1.0.0"})
    asked = page.send("comm_msg", {"comm_id": "after-reload", "data": {"method": "request_states"}})
    answer = page.published(until=lambda m: m["msg_type"] == "comm_msg" and of(m, asked))[-1]["content"]["data"]
    assert answer["method"] == "update_states"
    assert answer["states"][page.slider]["state"]["value"] == 0
    page.send("comm_close", {"comm_id": "after-reload", "data": {}})
    page.slide(1)
    page.kernel.finish(sent, reply).ok()
    assert page.kernel.value("'after-reload' in get_ipython().kernel.comm_manager.comms") is False


def test_what_a_handler_prints_belongs_to_its_message_and_the_cell_runs_on(page):
    page.kernel.run("slider.observe(lambda change: print('in the handler'), 'value')").ok()
    sent, _ = page.start(cell("print('behind the loop')\n"))
    slid = page.slide(1)
    found = page.published(until=lambda m: of(m, sent) and state(m) == "idle")
    whole = [(m["msg_type"], m["content"]) for m in found if of(m, slid) and m["msg_type"] in {"status", "stream"}]
    assert whole == [
        ("status", {"execution_state": "busy"}),
        ("stream", {"name": "stdout", "text": "in the handler\n"}),
        ("status", {"execution_state": "idle"}),
    ]
    after = [
        m for m in found[found.index(next(m for m in found if of(m, slid) and state(m) == "idle")) :] if of(m, sent)
    ]
    assert [state(m) or m["content"].get("text") for m in after] == ["busy", "behind the loop\n", "idle"]
    assert page.answer(sent)["status"] == "ok"


def test_a_handler_that_fails_is_logged_and_the_next_message_is_heard(page):
    page.kernel.run(
        "def failing(message): raise ValueError('of the user')\n"
        "get_ipython().kernel.comm_manager.register_target('failing', lambda comm, message: comm.on_msg(failing))"
    ).ok()
    sent, reply = page.start(cell(""))
    page.send("comm_open", {"comm_id": "broken", "target_name": "failing", "data": {}})
    page.send("comm_msg", {"comm_id": "broken", "data": {}})
    page.send("comm_msg", {"comm_id": "of nobody", "data": {}})
    page.slide(1)
    page.kernel.finish(sent, reply).ok()
    assert page.kernel.value("(heard, pump.why)") == ([(1, True, True)], None)


def test_a_message_that_is_not_signed_is_dropped(page):
    sent, reply = page.start(cell(""))
    session, key = page.kernel.client.session, page.kernel.client.session.key
    try:
        session.key = b"a stranger's"
        page.slide(8)
    finally:
        session.key = key
    page.slide(9)
    page.kernel.finish(sent, reply).ok()
    assert page.kernel.value("([value for value, *_ in heard], pump.why)") == ([9], None)


def test_a_handler_that_trains_is_not_disturbed(page):
    page.kernel.run(
        f"def train_in_handler(change):\n    if change.new == 1:\n        get_ipython().run_cell_magic('accumulate', "
        f"'4 --panel off', {LISTEN + TRAIN.replace('loader', 'batches(lambda: heard)')!r})\n"
        "slider.observe(train_in_handler, 'value')"
    ).ok()
    sent, reply = page.start(cell("", "batches(lambda: len(heard) == 2)"))
    first = page.slide(1)
    page.published(until=lambda m: of(m, first) and state(m) == "idle")
    page.slide(2)  # only when the handler has trained: the run around is the one that listens again
    page.kernel.finish(sent, reply).ok()
    assert page.kernel.value("heard") == [(1, True, True), (2, True, True)]


def test_another_thread_takes_nothing(page):
    code = (
        "while not pump._shell.has_messages(): time.sleep(0.01)\n"
        "other = threading.Thread(target=pump.poll); other.start(); other.join()\n"
        "before = list(heard)\npump.poll()\nafter = list(heard)"
    )
    sent, reply = page.start(STARTED + code)
    page.slide(3)
    page.kernel.finish(sent, reply).ok()
    assert page.kernel.value("(before, [value for value, *_ in after])") == ([], [3])


# ---------------------------------------------------------------- within a step


IN_A_STEP = """
waited = []
class Waiting(nn.Identity):
    "The third micro-batch of the first step begins when a message has come, and the pump may look again."
    def forward(self, x):
        if running().is_in_step and running().micro_batch == 3 and not waited:
            waited.append(True)
            print("started", flush=True)
            while not pump._shell.has_messages():
                time.sleep(0.01)
            time.sleep(2 * INTERVAL_S)
        return x
model.append(Waiting())
slider.observe(lambda change: in_step.append(running() is not None and running().is_in_step), "value")
in_step = []
"""
ONE_STEP = f"%%accumulate 10 --panel off\n{LISTEN}{TRAIN.replace('loader', '[(X, Y)] * 2')}"


def test_a_users_handler_waits_for_the_update_and_what_came_behind_it_too(page):
    page.kernel.run(IN_A_STEP).ok()
    sent, reply = page.start(f"{ONE_STEP}done = []\nheard_in_the_cell = list(heard)\n")
    page.slide(1)
    queued = page.kernel.start("done.append([value for value, *_ in heard])")
    page.kernel.finish(sent, reply).ok()
    page.kernel.finish(queued).ok()
    assert page.kernel.value("(waited, in_step, len(heard_in_the_cell), done)") == ([True], [False], 1, [[1]])


def test_a_panel_is_heard_within_the_step(page):
    page.kernel.run(f"{IN_A_STEP}reply_shims(slider.comm)").ok()
    sent, reply = page.start(ONE_STEP)
    page.slide(1)
    page.kernel.finish(sent, reply).ok()
    assert page.kernel.value("(in_step, pump.why)") == ([True], None)


def test_a_page_loaded_again_within_the_step_gets_the_state_of_all_widgets(page):
    page.kernel.run(IN_A_STEP.replace("not pump._shell.has_messages()", "not [*pump_steps()]")).ok()
    page.kernel.run(
        "def pump_steps():\n    pump.poll(False)\n"
        "    if 'reloaded' in get_ipython().kernel.comm_manager.comms: yield True"
    ).ok()
    sent, reply = page.start(ONE_STEP)
    target = {"comm_id": "reloaded", "target_name": "jupyter.widget.control", "data": {}}
    page.send("comm_open", target, metadata={"version": "1.0.0"})
    page.kernel.finish(sent, reply).ok()
    page.send("comm_close", {"comm_id": "reloaded", "data": {}})


def test_what_waits_for_an_update_is_not_lost_where_the_step_fails(page):
    page.kernel.run(
        f"{IN_A_STEP}"
        "class Failing(nn.Identity):\n"
        "    def forward(self, x):\n        if waited and running().micro_batch == 5: 1 / 0\n        return x\n"
        "model.append(Failing())"
    ).ok()
    sent, reply = page.start(ONE_STEP)
    page.slide(1)
    assert page.kernel.finish(sent, reply).ename == "ZeroDivisionError"
    assert page.kernel.value("([value for value, *_ in heard], in_step)")[0] == [1]


# ---------------------------------------------------------------- handed back


def test_queued_cells_run_in_their_order_and_in_one_context(page):
    sent, reply = page.start(cell("done = []\n"))
    context = "if 'variable' not in globals(): variable = contextvars.ContextVar('variable', default=0)\n"
    queued = [page.kernel.start(f"{context}variable.set(variable.get() + 1)\ndone.append(variable.get())")]
    page.send("comm_info_request", {})  # taken between them
    queued += [page.kernel.start("variable.set(variable.get() + 1)\ndone.append(variable.get())") for _ in range(3)]
    page.slide(1)
    page.kernel.finish(sent, reply).ok()
    counts = [page.kernel.finish(one).ok().count for one in queued]
    assert counts == list(range(counts[0], counts[0] + 4))
    assert page.kernel.value("done") == [1, 2, 3, 4]
    page.kernel.run("del variable").ok()


def test_queued_cells_are_aborted_after_an_exception(page):
    sent, reply = page.start(cell("1 / 0\n"))
    queued = [page.kernel.start("heard.append('queued')") for _ in range(3)]
    page.slide(1)
    assert page.kernel.finish(sent, reply).ename == "ZeroDivisionError"
    assert {page.answer(one)["status"] for one in queued} <= {"aborted", "error"}
    assert page.kernel.value("'queued' in heard") is False
    page.kernel.run("heard.append('runs again')").ok()


def test_a_figure_that_the_cell_draws_is_shown_once_and_whole(page):
    page.kernel.run("%matplotlib inline\nimport matplotlib.pyplot as plt").ok()
    drawing = "figure, axes = plt.subplots()\n"
    code = cell("open_figures = plt.get_fignums()\naxes.set_title('drawn after the message')\n")
    sent, reply = page.start(code.replace(LISTEN, f"{LISTEN}{drawing}"))
    page.slide(1)
    reply = page.kernel.finish(sent, reply).ok()
    assert page.kernel.value("open_figures") == [1]
    assert [text for text in reply.displays if text.startswith("<Figure")] == reply.displays
    assert len(reply.displays) == 1


# ---------------------------------------------------------------- interrupts and failures


def test_an_interrupt_ends_the_cell(page):
    # It comes while the cell sleeps: IPython 7 on Python 3.11 cannot show the traceback of an interrupt that comes at
    # an instruction without a line (the end of any `with`), and the cell is never answered then, with or without us.
    page.kernel.run(
        "def sleepy():\n    yield from [(X, Y)] * 3\n    print('sleeps', flush=True)\n"
        "    while True:\n        pump._next_s = 0.0\n        pump.poll()\n        time.sleep(1)"
    ).ok()
    sent = page.kernel.start(cell("", "sleepy()"))
    reply = page.kernel.finish(sent, until=lambda reply: "sleeps" in reply.stdout)
    page.kernel.interrupt()
    reply = page.kernel.finish(sent, reply)
    assert reply.ename == "KeyboardInterrupt", reply.traceback
    assert page.kernel.run("1 + 1").ok().out == "2"


def test_an_interrupt_ends_a_handler_that_hangs_and_no_message_is_lost(page):
    page.kernel.run(
        "def hang(change):\n    print('hangs', flush=True)\n    while True: time.sleep(0.01)\n"
        "get_ipython().kernel.comm_manager.register_target('hanging', lambda comm, message: comm.on_msg(hang))"
    ).ok()
    sent, _ = page.start(cell(""))
    page.send("comm_open", {"comm_id": "hanging", "target_name": "hanging", "data": {}})
    hung = page.send("comm_msg", {"comm_id": "hanging", "data": {}})
    page.slide(4)
    asked = page.send("kernel_info_request", {})
    page.published(until=lambda m: of(m, hung) and m["msg_type"] == "stream")
    page.kernel.interrupt()
    assert page.answer(sent)["ename"] == "KeyboardInterrupt"
    assert page.answer(asked)["status"] == "ok"
    assert page.kernel.value("[value for value, *_ in heard]") == [4]


def test_an_interrupt_during_a_poll_waits_for_its_end(page):
    page.kernel.run(
        "import signal\nkernel = get_ipython().kernel\n"
        "def interrupted(*message):\n    signal.raise_signal(signal.SIGINT)\n    heard.append('still here')\n"
        "    return kernel.kernel_info_request(*message)\n"
        "kernel.shell_handlers['kernel_info_request'] = interrupted\n"
    ).ok()
    try:
        sent, reply = page.start(cell(""))
        asked = page.send("kernel_info_request", {})
        assert page.kernel.finish(sent, reply).ename == "KeyboardInterrupt"
        assert page.answer(asked)["status"] == "ok"
        assert page.kernel.value("(heard, pump.why)") == (["still here"], None)
    finally:
        page.kernel.run("kernel.shell_handlers['kernel_info_request'] = kernel.kernel_info_request").ok()


def test_a_kernel_unlike_those_we_know_switches_the_pump_off_and_training_goes_on(page):
    page.kernel.run(
        "async def slow(stream, identities, parent): await asyncio.sleep(0)\n"
        "kernel = get_ipython().kernel\nkernel.shell_handlers['kernel_info_request'] = slow"
    ).ok()
    try:
        sent, reply = page.start(cell("in_the_run = list(heard)\n", "batches(lambda: pump.is_off)"))
        page.send("kernel_info_request", {})
        page.slide(5)
        queued = page.kernel.start("seen = [value for value, *_ in heard]")
        page.kernel.finish(sent, reply).ok()
        page.kernel.finish(queued).ok()
        assert page.kernel.value("(pump.why, in_the_run, seen)") == (
            "RuntimeError: the kernel waits for something else before it answers", [], [5]
        )  # fmt: skip
    finally:
        page.kernel.run("kernel.shell_handlers['kernel_info_request'] = kernel.kernel_info_request").ok()


def test_a_pump_that_is_off_takes_nothing(page):
    code = (
        "pump._shell._socket = None\npump.poll()\nwhy = pump.why\npump._next_s = 0\n"
        "pump = pump_for(get_ipython())\n"
        "while not pump._shell.has_messages(): time.sleep(0.01)\npump.poll()"
    )
    sent, reply = page.start(STARTED + code)
    page.slide(6)
    page.kernel.finish(sent, reply).ok()
    assert page.kernel.value("[value for value, *_ in heard]") == [6]
    assert page.kernel.value("why").startswith("AttributeError")


# ---------------------------------------------------------------- subshells


SUBSHELLS = ("7.3", "7.4", "newest")


@pytest.fixture
def subshell(page):
    """A page whose messages go through a subshell, as JupyterLab's do; None where the kernel has none."""
    if page.kernel.stack not in SUBSHELLS:
        yield None
        return
    control, session = page.kernel.client.control_channel, page.kernel.client.session
    control.send(session.msg("create_subshell_request", {}))
    label = control.get_msg(timeout=REPLY_S)["content"]["subshell_id"]
    yield label
    control.send(session.msg("delete_subshell_request", {"subshell_id": label}))
    assert control.get_msg(timeout=REPLY_S)["content"]["status"] == "ok"


def test_with_shims_a_subshell_hears_at_once_and_leaves_figures_alone(page, subshell):
    page.kernel.run("%matplotlib inline\nimport matplotlib.pyplot as plt\nreply_shims(slider.comm)").ok()
    # the running cell publishes on the comm, and draws; no pump
    doing = "slider.value = 50\nheard.clear()\nfigure, axes = plt.subplots()\n"
    code = cell("open_figures = plt.get_fignums()\n", *([] if subshell else ["loader"]))
    sent, reply = page.start(code.replace(LISTEN, doing))
    page.slide(7, **({"subshell_id": subshell} if subshell else {}))
    reply = page.kernel.finish(sent, reply).ok()
    assert page.kernel.value("open_figures") == [1]
    assert len(reply.displays) == 1
    assert page.kernel.value("heard") == [(7, bool(subshell), not subshell)]


def test_a_comm_without_anything_to_shim_is_left_alone(kernel):
    kernel.run("from accum_magic.view.subshells import reply_shims\nanything = type('Comm', (), {})()").ok()
    kernel.run("reply_shims(anything)").ok()
    assert kernel.value("vars(anything)") == {}


# ---------------------------------------------------------------- elsewhere


def test_where_no_kernel_runs_there_is_no_pump():
    assert pump_for(InteractiveShell()) is None
    assert pump_for(None) is None
    assert pump_for(Reply()) is None


def test_a_kernel_without_sockets_has_no_pump(kernel):
    kernel.run(
        "from ipykernel.inprocess.ipkernel import InProcessKernel\nfrom accum_magic.view.pump import pump_for\n"
        "unlike = type('Unlike', (), {'shell_stream': None})()"
    ).ok()
    assert kernel.value("pump_for(unlike) is None")
