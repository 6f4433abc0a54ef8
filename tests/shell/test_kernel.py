"""A training cell in a real kernel: what the plain cell does, the cell under `%%accumulate` does."""

import re
import textwrap

import pytest
from shell.shell_tools import TRAIN, plain_text

SUMMARY = re.compile(
    r"accum_magic: exact · 2 optimizer steps · 8 micro-batches \(4 per step\) · 20 samples in \d+\.\d s \(\d+/s\) · "
    r"activations about 0\.0 MiB \(plain cell: 0\.0 MiB\), process peak [\d,]+ MiB"
)


def accumulated(body, line="4"):
    return f"%%accumulate {line}\n{body}".rstrip("\n")


# ---------------------------------------------------------------- the result


def test_trains_as_the_plain_cell(trained):
    trained.run(accumulated(TRAIN)).ok()
    assert trained.value("(same(parameters(), expected), abs(loss.item() - expected_loss) < 1e-12)") == (True, True)


@pytest.mark.parametrize("panel", ["text", "off"])
def test_out_is_the_value_of_the_last_expression(trained, panel):
    reply = trained.run(accumulated(f"{TRAIN}round(loss.item(), 6)", f"4 --panel {panel}")).ok()
    assert float(reply.out) == trained.value("round(expected_loss, 6)")
    assert trained.value(f"Out[{reply.count}]") == float(reply.out)


@pytest.mark.parametrize("ending", [";", "; ", ";  # quiet"])
def test_a_trailing_semicolon_silences(trained, ending):
    assert trained.run(accumulated(f"{TRAIN}loss.item(){ending}")).ok().out is None


def test_a_cell_that_ends_in_a_statement_has_no_out(trained):
    assert trained.run(accumulated(TRAIN)).ok().out is None


def test_shell_lines_and_line_magics_run_inside_the_cell(trained):
    above = "!echo from the shell\nlines = !printf 'a\\nb'\n%time one = 1\n"
    body = f"{above}{TRAIN}    %time two = 2\nprint(lines, one, two)"
    reply = trained.run(accumulated(body)).ok()
    assert "from the shell" in reply.stdout
    assert reply.stdout.count("Wall time") == 3
    assert reply.stdout.rstrip().endswith("['a', 'b'] 1 2")
    assert trained.value("same(parameters(), expected)")


def test_question_mark_lines_run_inside_the_cell(trained):
    trained.run(accumulated(f"{TRAIN}loss?")).ok()
    assert trained.value("same(parameters(), expected)")


def test_a_blank_line_below_the_magic_changes_nothing(trained):
    trained.run(accumulated(f"\n\n{TRAIN}")).ok()
    assert trained.value("same(parameters(), expected)")


# ---------------------------------------------------------------- await


def test_await_around_the_loop(trained):
    reply = trained.run(accumulated(f"await asyncio.sleep(0)\n{TRAIN}await asyncio.sleep(0, 'waited')")).ok()
    assert reply.out == "'waited'"
    assert trained.value("same(parameters(), expected)")


def test_await_inside_the_loop_and_async_for(trained):
    trained.run("async def batches():\n    for one in loader:\n        await asyncio.sleep(0)\n        yield one").ok()
    body = TRAIN.replace("for x, y in loader", "async for x, y in batches()") + "    await asyncio.sleep(0)\n"
    trained.run(accumulated(body)).ok()
    assert trained.value("same(parameters(), expected)")


def test_an_awaiting_cell_is_silenced_by_a_semicolon(trained):
    assert trained.run(accumulated(f"{TRAIN}await asyncio.sleep(0, 'waited');")).ok().out is None


def test_an_awaiting_cell_refuses_with_its_own_line(kernel):
    body = TRAIN.replace("loss = F.cross_entropy(model(x), y)", "loss = await away(model(x), y)")
    reply = kernel.run(accumulated(body))
    assert reply.ename == "Refusal"
    assert reply.evalue.startswith("line 4: `await` stands between the batch and the loss")


def test_an_awaiting_cell_raises_at_the_users_line(trained):
    reply = trained.run(accumulated(f"await asyncio.sleep(0)\n{TRAIN}1 / 0"))
    assert (reply.ename, reply.evalue) == ("ZeroDivisionError", "division by zero")
    assert "----> 8 1 / 0" in reply.traceback
    assert "magic.py" not in reply.traceback


@pytest.mark.parametrize("body", ["x = 1", "await asyncio.sleep(0)"])
def test_a_cell_being_typed_is_complete_after_a_blank_line_only(kernel, body):
    def state(text):
        return kernel.value(f"get_ipython().check_complete({text!r})[0]")

    assert state(f"%%accumulate 4\n{body}") == "incomplete"
    assert state(f"%%accumulate 4\n{body}\n\n") == "complete"


@pytest.mark.parametrize("option", ["--show", "--explain"])
def test_show_and_explain_of_an_awaiting_cell_run_nothing(trained, option):
    reply = trained.run(accumulated(f"await asyncio.sleep(0)\n{TRAIN}", f"4 {option}")).ok()
    assert ("micro_step" if option == "--show" else "per micro-batch") in reply.stdout
    assert trained.value("same(gradients(), [None] * 4)")


# ---------------------------------------------------------------- errors


FAILING = """\
for x, y in loader:
    optimizer.zero_grad()
    # a comment
    out = model(x[:, :3])
    loss = F.cross_entropy(out, y)
    loss.backward()
    optimizer.step()
"""


def frames(traceback):
    """The lines of user cells that a traceback points at: (cell number, line number, text)."""
    found, cell = [], None
    for text in traceback.splitlines():
        head = re.match(r"Cell In\[(\d+)\], line (\d+)", text)
        arrow = re.match(r"-+> ?(\d+) (.*)", text)
        if head:
            cell = int(head[1])
        elif text.startswith("File "):
            cell = None
        elif arrow and cell is not None:
            found.append((cell, int(arrow[1]), arrow[2].strip()))
    return found


@pytest.mark.parametrize("ending", ["", "\n"])
def test_the_traceback_points_at_the_users_line_behind_the_loop(trained, ending):
    reply = trained.run(accumulated(f"{TRAIN}print(no_such_name)") + ending)
    assert (reply.ename, reply.evalue) == ("NameError", "name 'no_such_name' is not defined")
    assert (reply.count, 7, "print(no_such_name)") in frames(reply.traceback)


@pytest.mark.parametrize("ending", ["", "\n"])
def test_the_traceback_points_at_the_users_line_in_the_forward_pass(trained, ending):
    reply = trained.run(accumulated(FAILING) + ending)
    assert (reply.count, 5, "out = model(x[:, :3])") in frames(reply.traceback)


def test_the_traceback_counts_blank_lines_below_the_magic(trained):
    reply = trained.run(accumulated(f"\n\n{TRAIN}print(no_such_name)"))
    assert frames(reply.traceback)[-1][1:] == (9, "print(no_such_name)")


def test_the_traceback_counts_the_lines_above_the_magic(trained):
    reply = trained.run(f"%%capture captured\n%%accumulate 4\n{TRAIN}print(no_such_name)")
    assert frames(reply.traceback)[-1][1:] == (8, "print(no_such_name)")


def test_the_traceback_of_a_line_behind_a_shell_line(trained):
    reply = trained.run(accumulated(f"!true\n{FAILING}"))
    assert frames(reply.traceback)[-1][1:] == (6, "out = model(x[:, :3])")


def test_no_frame_of_ours_is_shown_for_the_users_error(trained):
    shown = trained.run(accumulated(FAILING)).traceback
    assert "During handling of the above exception" not in shown
    assert "accum_magic/" not in shown


def test_the_error_is_the_plain_cells_own(trained):
    body = "loss = F.cross_entropy(model(X), Y - 9)\nloss.backward()"
    plain, ours = trained.run(body), trained.run(accumulated(body))
    assert plain.ename == "IndexError"
    assert (ours.ename, ours.evalue) == (plain.ename, plain.evalue)


@pytest.mark.parametrize("moved", ["model", "batch"])
def test_a_model_on_another_device_than_the_batch(trained, moved):
    there = "model.to('meta')" if moved == "model" else "[(x.to('meta'), y) for x, y in loader]"
    name = "elsewhere" if moved == "model" else "remote"
    trained.run(f"{name} = {there}").ok()
    body = TRAIN.replace("model(x)", "elsewhere(x)") if moved == "model" else TRAIN.replace("loader", "remote")
    plain, ours = trained.run(body), trained.run(accumulated(body))
    assert plain.ename == "RuntimeError"
    assert "meta" in plain.evalue
    assert (ours.ename, ours.evalue) == (plain.ename, plain.evalue)


def test_a_syntax_error_names_the_users_line(kernel):
    plain = kernel.run("\nfor x in [1]:\n    if x\n        pass")
    ours = kernel.run("%%accumulate 4\nfor x in [1]:\n    if x\n        pass")
    assert (ours.ename, ours.evalue.partition(" (")[0]) == (plain.ename, plain.evalue.partition(" (")[0])
    assert ours.evalue.endswith("line 3)")
    end = ours.traceback[ours.traceback.index(f"Cell In[{ours.count}], line 3") :]
    assert "if x\n" in end
    assert "SyntaxError: expected ':'" in end


def test_a_syntax_error_shows_no_frame_of_ours(kernel):
    shown = kernel.run("%%accumulate 4\nfor x in [1]:\n    if x\n        pass").traceback
    assert "accum_magic/" not in shown


def test_a_refusal_is_shown_as_one_message_without_frames(kernel):
    reply = kernel.run("%%accumulate 4\nx = 1")
    assert reply.traceback == f"AccumulateError: {reply.evalue}"


def test_percent_time_above_works_and_below_is_refused(trained):
    reply = trained.run(f"%%time\n%%accumulate 4\n{TRAIN}").ok()
    assert "Wall time" in reply.stdout
    assert trained.value("same(parameters(), expected)")
    below = trained.run(f"%%accumulate 4\n%%time\n{TRAIN}")
    assert below.evalue == (
        "line 2: `%%time` stands below `%%accumulate`. Put it above: the cell's first line `%%time`, then "
        "`%%accumulate`."
    )


# ---------------------------------------------------------------- errors and interrupts inside the step

# Micro-batches of 5 rows are counted; the probe's 2 and 3 rows are not.
COUNTING = """
class Counting(nn.Module):
    def __init__(self, inner, at, what):
        super().__init__()
        self.inner, self.at, self.what, self.seen = inner, at, what, 0
    def forward(self, x):
        self.seen += len(x) == 5
        if self.seen == self.at:
            self.seen = 100
            self.what()
        return self.inner(x)
def fail():
    raise ValueError("the third micro-batch")
def sleep():
    print("asleep", flush=True)
    for _ in range(1200):
        time.sleep(0.05)
big = [(X, Y)]
model(X).sum().backward()
before = parameters(), gradients()
"""
STEP = """\
for x, y in big:
    loss = F.cross_entropy(counting(x), y)
    loss.backward()
    optimizer.step()
"""


@pytest.fixture
def counting(trained):
    def start(what):
        trained.run(f"{COUNTING}counting = Counting(model, 3, {what})").ok()
        return trained

    return start


def assert_as_before(kernel):
    assert kernel.value("same(parameters(), before[0])")
    assert kernel.value("same(gradients(), before[1])")
    assert kernel.value("(x is X, y is Y)") == (True, True)
    assert kernel.value("len(optimizer.state)") == 0
    kernel.run("optimizer.zero_grad()\ncounting.at = 0").ok()
    again = kernel.run(accumulated(STEP)).ok()
    assert "accum_magic: exact · 1 optimizer step" in again.displays[0]
    kernel.run(f"after = parameters()\nfresh()\ncounting.inner = model\n{STEP}").ok()
    assert kernel.value("same(parameters(), after)")


def test_an_error_in_the_third_micro_batch_leaves_the_step_untouched(counting):
    kernel = counting("fail")
    reply = kernel.run(accumulated(STEP))
    assert (reply.ename, reply.evalue) == ("ValueError", "the third micro-batch")
    assert reply.displays[0].startswith("stopped by ValueError · accum_magic: ")
    assert_as_before(kernel)


def test_an_error_in_the_third_micro_batch_is_shown_at_the_users_line(counting):
    found = [frame[1:] for frame in frames(counting("fail").run(accumulated(STEP)).traceback)]
    assert (3, "loss = F.cross_entropy(counting(x), y)") in found


def test_an_interrupt_in_the_third_micro_batch_leaves_the_step_untouched(counting):
    kernel = counting("sleep")
    sent = kernel.start(accumulated(STEP))
    reply = kernel.finish(sent, until=lambda reply: "asleep" in reply.stdout)
    assert "asleep" in reply.stdout
    kernel.interrupt()
    reply = kernel.finish(sent, reply)
    assert reply.ename == "KeyboardInterrupt"
    assert_as_before(kernel)


# ---------------------------------------------------------------- names


def test_no_generated_name_stays(kernel):
    kernel.run("fresh()\nnames = set(globals())").ok()
    kernel.run(accumulated("if True:\n" + textwrap.indent(TRAIN, "    "))).ok()
    kernel.run(accumulated(TRAIN.replace("model(x)", "model(x + 0.1 * torch.randn_like(x))"))).ok()
    left = kernel.value("sorted(n for n in set(globals()) - names if not n.startswith('_i'))")
    assert set(left) <= {"names", "loss", "x", "y"}


def test_a_generated_name_that_the_user_has_is_given_back(trained):
    trained.run("micro_step, accum_magic = 'mine', 'mine too'").ok()
    trained.run(accumulated(TRAIN)).ok()
    try:
        assert trained.value("[v if isinstance(v, str) else type(v).__name__ for v in (micro_step, accum_magic)]") == [
            "mine",
            "mine too",
        ]
    finally:
        trained.run("del micro_step, accum_magic")


def test_generated_names_go_after_an_error_too(trained):
    trained.run(accumulated(f"{TRAIN}1 / 0"))
    assert trained.value("[n for n in ('micro_step', 'accum_magic') if n in globals()]") == []


def test_the_cells_names_are_those_of_the_plain_cell(trained):
    trained.run("x = y = loss = None\ndel x, y, loss").ok()
    trained.run(accumulated(TRAIN)).ok()
    assert trained.value("(x is loader[1][0], y is loader[1][1], loss.requires_grad)") == (True, True, False)


def test_a_function_defined_under_the_magic_trains_in_a_later_cell(trained):
    body = "def train(model, loader):\n" + textwrap.indent(TRAIN, "    ")
    trained.run(accumulated(body)).ok()
    reply = trained.run("train(model, loader)\nimport accum_magic as found\nsummary = found.last_run()").ok()
    assert reply.stderr == ""
    assert trained.value("same(parameters(), expected)")
    assert trained.value("(summary.verdict, summary.micro_batches, summary.optimizer_steps)") == ("exact", 8, 2)
    assert "optimizer.zero_grad()" in trained.value("__import__('inspect').getsource(train)")


def test_a_value_nobody_reads_says_so_when_asked_later(trained):
    body = TRAIN.replace("loss = F.cross_entropy(model(x), y)", "out = model(x)\n    loss = F.cross_entropy(out, y)")
    trained.run(accumulated(body)).ok()
    message = (
        "`out` was not kept: it is large, and nothing in the cell reads it. Read it in the cell after the step (an "
        "assignment such as `kept = out` is enough), and all of it is joined."
    )
    for use in ("out.shape", "out.argmax(1)", "out[0]", "out + 1", "len(out)", "float(out)", "[*out]", "out == 1"):
        reply = trained.run(use)
        assert (use, reply.ename, reply.evalue) == (use, "ReleasedError", message)
    assert trained.run("out").ok().out == "<`out` was not kept: it is large, and nothing in the cell reads it>"


@pytest.mark.parametrize("use", ["torch.exp(out)", "model(out)", "2 @ out", "out ** 2", "out.detach()", "0 in out"])
def test_a_value_nobody_reads_says_so_whatever_is_done_with_it(trained, use):
    body = TRAIN.replace("loss = F.cross_entropy(model(x), y)", "out = model(x)\n    loss = F.cross_entropy(out, y)")
    trained.run(accumulated(body)).ok()
    reply = trained.run(use)
    assert (reply.ename, reply.evalue.partition(":")[0]) == ("ReleasedError", "`out` was not kept")


# ---------------------------------------------------------------- the report


def test_last_run_tells_what_happened(trained):
    trained.run(accumulated(TRAIN, "3")).ok()
    trained.run("from accum_magic import last_run as ask\nsummary = ask()").ok()
    fields = "verdict", "reasons", "notes", "optimizer_steps", "micro_batches", "steps", "samples"
    found = trained.value(f"[getattr(summary, f) for f in {fields!r}]")
    assert found == ["exact", (), (), 2, 6, 2, 20]
    assert trained.value("summary.peak_bytes > 2**20 and summary.elapsed_s > 0 and summary.samples_per_s > 0")
    assert trained.value("len(summary.losses)") == 2
    assert trained.value("abs(summary.losses[-1] - expected_loss) < 1e-12")
    assert trained.value("[type(e).__name__ for e in summary.events]") == [
        "RunStarted", "StepMeasured", "StepDone", "StepDone", "RunEnded",
    ]  # fmt: skip


def test_last_run_is_kept_after_a_cell_that_failed(trained):
    trained.run(accumulated(f"{TRAIN}1 / 0"))
    trained.run("from accum_magic import last_run as ask\nsummary = ask()").ok()
    assert trained.value("(summary.optimizer_steps, summary.samples)") == (2, 20)


def test_help_shows_the_options(kernel):
    text = plain_text(kernel.run("%%accumulate?").ok().pager)
    for option in ("--size M", "--batch x,y", "--dim x=1,h=1", "--memory 6GiB", "--show", "--explain", "--panel"):
        assert option in text
    assert "micro-batches per update, at least 1, or auto" in text
    assert "500MB, or 80% of what this process may have" in " ".join(text.split())
    assert "Run a training cell in N micro-batches per update" in text


# ---------------------------------------------------------------- the view


def test_the_view_is_one_output_above_the_cells_own_prints(trained):
    reply = trained.run(accumulated(f"{TRAIN}    print('step')\n    time.sleep(0.5)\n", "4 --panel text")).ok()
    assert [kind for kind, _ in reply.outputs] == ["display_data", "stdout"]
    [history] = reply.history.values()
    assert history[0] == "accum_magic: starting"
    assert re.fullmatch(
        r"step 2/2 · micro-batch 4/4 · loss \d\.\d+ · \d+ MiB of [\d,]+ \(peak \d+ MiB\) · \d+ samples/s · 0:0\d left",
        history[-2],
    )
    assert SUMMARY.fullmatch(history[-1])
    assert reply.stderr == ""


def test_the_closing_lines_of_an_approximate_run_give_the_reasons(trained):
    body = TRAIN.replace("model(x)", "normed(x)").replace("optimizer.", "other.")
    trained.run("normed = nn.Sequential(nn.BatchNorm1d(4), nn.Linear(4, 3))").ok()
    trained.run("other = torch.optim.SGD(normed.parameters(), lr=0.1)").ok()
    first, reason = trained.run(accumulated(body)).ok().displays[0].splitlines()
    assert first.startswith("accum_magic: approximate · 2 optimizer steps")
    assert reason == "  approximate: BatchNorm in training mode (0) normalises each micro-batch by itself"


def test_the_closing_lines_tell_the_noise_scale(trained):
    trained.run("easy = [(x, x[:, :3].argmax(1)) for x, _ in loader] * 10").ok()
    reply = trained.run(accumulated(TRAIN.replace("in loader", "in easy"), "5 --noise")).ok()
    first, noise = reply.displays[0].splitlines()
    assert first.startswith("accum_magic: exact · 20 optimizer steps")
    assert re.fullmatch(r"  the gradient noise scale is about \S+ samples \(± \S+\): accumulating pays up to .*", noise)
    trained.run("from accum_magic import last_run as ask\nsummary = ask()").ok()
    assert trained.value("summary.noise_scale > 0 and summary.noise_scale_error > 0")
    assert trained.value("type(summary.events[-2]).__name__") == "NoiseEstimated"


def test_narrow_gradients_are_added_up_in_float32(trained):
    body = TRAIN.replace("model(x)", "narrow(x.bfloat16())").replace("optimizer.", "other.")
    trained.run("narrow = nn.Linear(4, 3).bfloat16()\nother = torch.optim.AdamW(narrow.parameters(), lr=0.1)").ok()
    trained.run("start = narrow.weight.detach().clone()").ok()
    [line] = trained.run(accumulated(body, "4 --grad-dtype float32")).ok().displays
    assert line.startswith("accum_magic: exact · 2 optimizer steps")
    assert len(line.splitlines()) == 1
    assert trained.value("str(narrow.weight.grad.dtype)") == "torch.bfloat16"
    assert trained.value("torch.equal(narrow.weight, start)") is False
    reply = trained.run(accumulated(TRAIN, "4 --grad-dtype float32")).ok()
    _, note = reply.displays[0].splitlines()
    assert note == ("  note: line 4: --grad-dtype float32 has nothing to do: no parameter is narrower than float32")
    assert trained.value("same(parameters(), expected)")


def test_a_cell_that_only_defines_says_what_will_run_in_micro_batches(kernel):
    reply = kernel.run(accumulated("def train():\n" + textwrap.indent(TRAIN, "    "))).ok()
    assert reply.displays == ["accum_magic: `train` will run in micro-batches when called"]


def test_a_function_called_later_warns_of_an_approximate_result(trained):
    trained.run("model.append(nn.BatchNorm1d(3))\noptimizer = torch.optim.SGD(model.parameters(), lr=0.1)").ok()
    trained.run(accumulated("def train():\n" + textwrap.indent(TRAIN, "    "))).ok()
    reply = trained.run("train()").ok()
    assert (
        "ApproximateWarning: line 5: the accumulated result is approximate: BatchNorm in training mode (3) normalises "
        "each micro-batch by itself"
    ) in reply.stderr
    assert reply.stderr.count("ApproximateWarning: ") == 1
    trained.run("from accum_magic import last_run as ask\nsummary = ask()").ok()
    assert trained.value("summary.verdict") == "approximate"


def test_panel_off_shows_nothing(trained):
    reply = trained.run(accumulated(TRAIN, "4 --panel off")).ok()
    assert reply.outputs == []
    assert trained.value("same(parameters(), expected)")


BROKEN_DISPLAYS = {
    # what the front end does to us: no display comes through, only the first does, or none is updated in time
    "start": "def broken(*a, **k): raise OSError('no front end')\n",
    "update": (
        "def broken(*a, original=get_ipython().display_pub.publish, **k):\n"
        "    if k.get('update'): raise OSError('the front end is gone')\n"
        "    return original(*a, **k)\n"
    ),
}


@pytest.mark.parametrize("broken", BROKEN_DISPLAYS)
def test_a_view_that_fails_does_not_break_training(trained, broken):
    trained.run(f"publish = get_ipython().display_pub.publish\n{BROKEN_DISPLAYS[broken]}").ok()
    try:
        # The cell breaks the display itself, before the view is updated or asked for.
        trained.run("get_ipython().display_pub.publish = broken")
        reply = trained.run(accumulated(f"{TRAIN}    time.sleep(0.5)"))
    finally:
        trained.run("get_ipython().display_pub.publish = publish").ok()
    assert (reply.ename, reply.evalue) == ("", "")
    assert trained.value("same(parameters(), expected)")


def test_an_interrupt_before_the_first_line_leaves_nothing_behind(trained):
    """Widgets take a while to be read, and to be shown: an interrupt may come before the cell runs."""
    trained.run(
        "import accum_magic\ndef train():\n"
        + "".join(f"    {line}\n" for line in TRAIN.splitlines())
        + "own = train.__code__\n"
        "def interrupted(message): raise KeyboardInterrupt\n"
        "get_ipython().display_pub.register_hook(interrupted)"
    ).ok()
    try:
        reply = trained.run("%%accumulate 4 --panel text\ntrain()")
    finally:
        trained.run("get_ipython().display_pub.unregister_hook(interrupted)").ok()
    assert reply.ename == "KeyboardInterrupt"
    assert trained.value("(train.__code__ is own, accum_magic.last_run().steps)") == (True, 0)
    assert trained.run("accum_magic.stop()").evalue.startswith("no cell runs in micro-batches now")


def test_a_loader_whose_length_fails_does_not_break_training(trained):
    trained.run(
        "class Endless:\n    def __iter__(self): return iter(loader)\n"
        "    def __len__(self): raise NotImplementedError('no length')\nendless = Endless()"
    ).ok()
    trained.run(accumulated(TRAIN.replace("loader", "endless"))).ok()
    assert trained.value("same(parameters(), expected)")
