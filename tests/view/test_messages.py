"""What comes from the page: only what is exactly right is done, and only to the run that it means."""

import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from accum_magic.engine.control import Command
from accum_magic.engine.run import begin
from accum_magic.errors import ControlError
from accum_magic.view.messages import Hello, Wish, read

RUN = "3f2a"


def command(**content):
    return {"kind": "command", "run": RUN, **content}


@pytest.mark.parametrize(
    ("content", "meant"),
    [
        ({"kind": "hello", "page": "1"}, Hello("1")),
        (command(command="pause"), Wish("pause")),
        (command(command="resume"), Wish("resume")),
        (command(command="stop"), Wish("stop")),
        (command(command="n", value=8), Wish("n", 8)),
        (command(command="n", value=-8), Wish("n", -8)),  # the run says what is wrong with it
    ],
)
def test_what_the_page_says_is_read(content, meant):
    assert read(content, RUN) == meant


@pytest.mark.parametrize(
    "content",
    [
        None, "stop", 7, [], {}, {"kind": "stop"}, {"kind": ["command"]}, {"kind": "hello"},
        {"kind": "hello", "page": ""}, {"kind": "hello", "page": 7}, {"kind": "hello", "page": "x" * 101},
        {"kind": "hello", "page": "1", "more": 1}, {"kind": "command", "command": "stop"},
        {"kind": "command", "run": "another", "command": "stop"}, command(command="stop", value=1),
        command(command="quit"), command(command=["stop"]), command(command=None), command(command="n"),
        command(command="n", value=8.0), command(command="n", value="8"), command(command="n", value=True),
        command(command="n", value=None), command(command="n", value=[8]), command(command="__init__"),
        {"kind": "command", "run": [RUN], "command": "stop"},
    ],
)  # fmt: skip
def test_what_is_not_exactly_right_says_nothing(content):
    assert read(content, RUN) is None


ANY = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=4,
)
NEARLY = st.fixed_dictionaries(
    {},
    optional={
        "kind": st.sampled_from(["command", "hello", "state", "Command"]) | ANY,
        "run": st.sampled_from([RUN, RUN + "0", RUN.upper()]) | ANY,
        "command": st.sampled_from(["pause", "resume", "stop", "n", "Stop", "check"]) | ANY,
        "value": st.sampled_from([0, 1, -1, 10**6 + 1, 2**70, 1.0, "1", True]) | ANY,
        "page": ANY,
    },
)


def is_right(content):
    """Whether a message is one of the few that may change something; written anew, from the protocol."""
    if not isinstance(content, dict) or content.get("kind") != "command" or content.get("run") != RUN:
        return False
    if content.get("command") == "n":
        value = content.get("value")
        is_number = isinstance(value, int) and not isinstance(value, bool)
        return is_number and 1 <= value <= 10**6 and len(content) == 4
    return content.get("command") in ("pause", "resume", "stop") and len(content) == 3


class Training:
    """A tiny model that takes a step in between, and its twin that nobody writes to."""

    def __init__(self):
        torch.manual_seed(0)
        self.x = torch.randn(8, 3)
        self.mine, self.twin = torch.zeros(3, requires_grad=True), torch.zeros(3, requires_grad=True)

    def step(self):
        import accum_magic

        def micro_step(x):
            loss = (x @ self.mine - 1).square().mean()
            return (loss,), (loss,)

        self.mine.grad = self.twin.grad = None
        accum_magic.step(micro_step, {"x": self.x}, n=2, read=("loss",))
        (self.x @ self.twin - 1).square().mean().backward()
        with torch.no_grad():
            self.mine -= 0.1 * self.mine.grad
            self.twin -= 0.1 * self.twin.grad


def test_ten_thousand_messages_of_any_kind_change_nothing_but_what_they_rightly_ask(panel_widget):
    run, training, taken = begin(), Training(), 0
    widget = panel_widget(run, RUN)

    @settings(
        max_examples=400, deadline=None, database=None, phases=[Phase.generate], suppress_health_check=list(HealthCheck)
    )
    @given(st.lists(ANY | NEARLY, min_size=25, max_size=25))
    def heard(messages):
        nonlocal taken
        taken += len(messages)
        for content in messages:
            hear(content)
        training.step()

    def hear(content):
        before = list(run.control._asked)
        widget._handle_msg({"content": {"data": {"method": "custom", "content": content}}, "buffers": []})
        if not is_right(content):
            assert list(run.control._asked) == before
        run.control._asked.clear()
        assert (run.control.n, run.control.state) == (None, "running")

    try:
        heard()
    finally:
        run.end()
    assert taken >= 10_000
    assert not run.notes
    assert torch.allclose(training.mine, training.twin, rtol=1e-5)


def test_a_command_that_the_run_cannot_take_is_told_in_words(panel_widget):
    run = begin()
    run.control.locked = "N stays as it is."
    widget = panel_widget(run, RUN)
    for value in (8, 0):
        content = command(command="n", value=value)
        widget._handle_msg({"content": {"data": {"method": "custom", "content": content}}, "buffers": []})
    run.end()
    assert [answer["text"] for answer in widget.panel._answers] == [
        "N stays as it is.",
        "N is a whole number from 1 to 1,000,000, found 0.",
    ]


def test_commands_from_python_say_what_is_wrong():
    with pytest.raises(
        ControlError, match=r"^a run can be told to pause, resume, stop, or n=8 for 8 micro-batches, found `x`\.$"
    ):
        Command("x")
