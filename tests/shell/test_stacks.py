"""The magic on every Jupyter stack, from Colab's IPython 7.34 and ipykernel 6.17.1 to the newest."""

import textwrap

import pytest
from shell.shell_tools import TRAIN


@pytest.fixture
def trained(kernel_of_each_stack):
    """Fresh weights, and in `expected` those that the plain cell leaves."""
    kernel = kernel_of_each_stack
    kernel.run(f"fresh()\n{TRAIN}expected, expected_loss = parameters(), loss.item()\nfresh()").ok()
    return kernel


def accumulated(body, line="4"):
    return f"%%accumulate {line}\n{body}".rstrip("\n")


@pytest.mark.parametrize("panel", ["live", "text", "off"])
def test_trains_as_the_plain_cell(trained, panel):
    trained.run(accumulated(TRAIN, f"4 --panel {panel}")).ok()
    assert trained.value("(same(parameters(), expected), abs(loss.item() - expected_loss) < 1e-12)") == (True, True)


def test_a_panel_is_shown_and_leaves_a_result(trained):
    reply = trained.run(accumulated(TRAIN)).ok()
    assert reply.displays[0].startswith("accum_magic: exact · 2 optimizer steps · 8 micro-batches (4 per step)")
    assert "the view failed" not in reply.displays[0]


def test_out_is_the_value_of_the_last_expression(trained):
    reply = trained.run(accumulated(f"{TRAIN}round(loss.item(), 6)")).ok()
    assert float(reply.out) == trained.value("round(expected_loss, 6)")
    assert trained.value(f"Out[{reply.count}]") == float(reply.out)


@pytest.mark.parametrize("body", ["loss.item();", "loss.item();  # quiet", "await asyncio.sleep(0, 'waited');"])
def test_a_trailing_semicolon_silences(trained, body):
    reply = trained.run(accumulated(f"{TRAIN}{body}")).ok()
    assert reply.out is None
    assert trained.value(f"{reply.count} in Out") is False
    assert trained.value("same(parameters(), expected)")


@pytest.mark.parametrize("body", ["';'", "';'  # loud;", "await asyncio.sleep(0, ';')"])
def test_a_semicolon_within_silences_nothing(trained, body):
    assert trained.run(accumulated(f"{TRAIN}{body}")).ok().out == "';'"


def test_an_error_shows_the_users_line_and_no_frame_of_ours(trained):
    reply = trained.run(accumulated(f"{TRAIN}print(no_such_name)"))
    assert (reply.ename, reply.evalue) == ("NameError", "name 'no_such_name' is not defined")
    assert "----> 7 print(no_such_name)" in reply.traceback
    assert "accum_magic/" not in reply.traceback


def test_an_error_in_the_forward_pass_shows_the_users_line(trained):
    reply = trained.run(accumulated(TRAIN.replace("model(x)", "model(x[:, :3])")))
    assert reply.ename == "RuntimeError"
    assert "----> 4     loss = F.cross_entropy(model(x[:, :3]), y)" in reply.traceback


def test_a_refusal_is_told_without_frames(trained):
    reply = trained.run(accumulated(TRAIN.replace("loss.backward()", "loss.backward(torch.ones(()))")))
    assert reply.ename == "Refusal"
    assert reply.traceback == f"AccumulateError: {reply.evalue}"
    assert reply.evalue.startswith("line 5: ")


def test_an_unknown_option_says_where_all_stand(trained):
    reply = trained.run(accumulated(TRAIN, "4 --no-such-option"))
    assert reply.ename == "OptionError"
    assert reply.evalue.endswith("`%%accumulate?` shows all options.")


@pytest.mark.parametrize(("option", "shown"), [("--show", "micro_step"), ("--explain", "per micro-batch")])
def test_show_and_explain_print_and_run_nothing(trained, option, shown):
    reply = trained.run(accumulated(TRAIN, f"4 {option}")).ok()
    assert shown in reply.stdout
    assert trained.value("same(gradients(), [None] * 4)")


def test_check_shows_a_table(trained):
    reply = trained.run(accumulated(TRAIN, "4 --check")).ok()
    assert "largest relative difference" in reply.displays[-1]
    assert trained.value("same(gradients(), [None] * 4)")


def test_a_question_mark_shows_the_options(trained):
    assert "--replay" in trained.run("%%accumulate?").ok().pager


def test_a_cell_that_awaits(trained):
    reply = trained.run(accumulated(f"await asyncio.sleep(0)\n{TRAIN}await asyncio.sleep(0, 'waited')")).ok()
    assert reply.out == "'waited'"
    assert trained.value("same(parameters(), expected)")


def test_an_error_in_a_cell_that_awaits_shows_the_users_line(trained):
    reply = trained.run(accumulated(f"await asyncio.sleep(0)\n{TRAIN}1 / 0"))
    assert reply.ename == "ZeroDivisionError"
    assert "----> 8 1 / 0" in reply.traceback


@pytest.mark.parametrize("body", ["x = 1", "await asyncio.sleep(0)"])
def test_a_cell_being_typed_is_complete_after_a_blank_line_only(trained, body):
    def state(text):
        return trained.value(f"get_ipython().check_complete({text!r})[0]")

    assert state(f"%%accumulate 4\n{body}") == "incomplete"
    assert state(f"%%accumulate 4\n{body}\n\n") == "complete"


@pytest.mark.parametrize("magic", ["", "%%accumulate 4\n"])
def test_a_function_of_another_cell_is_named_by_that_cell(trained, magic):
    defined = trained.run(f"{magic}def train():\n{textwrap.indent(TRAIN, '    ')}".rstrip("\n")).ok()
    trained.run(accumulated("train()")).ok()
    trained.run("import accum_magic").ok()
    assert trained.value("accum_magic.last_run().notes") == (
        f"`train` (In[{defined.count}]) ran in micro-batches, rewritten for this cell",
    )
    assert trained.value("same(parameters(), expected)")


def test_unload_takes_everything_away(trained):
    trained.run("%unload_ext accum_magic").ok()
    try:
        assert "Cell magic `%%accumulate` not found" in trained.run(accumulated(TRAIN)).stderr
    finally:
        trained.run("%load_ext accum_magic").ok()
    trained.run(accumulated(TRAIN)).ok()
    assert trained.value("same(parameters(), expected)")
