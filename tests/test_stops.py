"""Where the rewritten text asks whether the run is stopped, what stays as it is, and what is told of it."""

import ast
import textwrap

import pytest
import torch
from golden.golden_tools import Shell
from torch import nn

import accum_magic
from accum_magic import testing

STEP = "opt.zero_grad()\nloss = F.mse_loss(model(x), y)\nloss.backward()\nopt.step()\n"
CHECK = "if accum_magic.stopped():\n    break\n"


def loop(body, head="for x, y in loader:"):
    return f"{head}\n{textwrap.indent(body, '    ')}"


def shown(cell):
    return accum_magic.rewrite(cell, 4).source


def checked_loops(tree):
    """The heads of the loops that ask last, in source order."""
    found = [n for n in ast.walk(tree) if isinstance(n, ast.For | ast.AsyncFor | ast.While)]
    found = [n for n in found if ast.unparse(n.body[-1]) == CHECK.rstrip()]
    return [ast.unparse(n).splitlines()[0] for n in sorted(found, key=lambda n: n.lineno)]


UNTOUCHED = {
    "a bare step": STEP,
    "a step in a function": f"def train(x, y):\n{textwrap.indent(STEP, '    ')}train(x, y)\n",
    "a loop of another cell's step": f"def train(x, y):\n{textwrap.indent(STEP, '    ')}",
    "an evaluation above": f"for x, y in valid:\n    score(model(x), y)\n{STEP}",
    "an evaluation below": f"{STEP}for x, y in valid:\n    score(model(x), y)\nelse:\n    print()\n",
    "a loop around a definition": f"for i in range(2):\n    def train(x, y):\n{textwrap.indent(STEP, ' ' * 8)}",
    "a loop over what training gave": f"def train(x, y):\n{textwrap.indent(STEP, '    ')}    return [1]\n"
    "losses = train(x, y)\nfor value in losses:\n    print(value)\n",
    "a comprehension": f"def train(x, y):\n{textwrap.indent(STEP, '    ')}[train(x, y) for x, y in loader]\n",
    "another object's method": f"class T:\n    def train(self, x, y):\n{textwrap.indent(STEP, ' ' * 8)}"
    "for x, y in valid:\n    model.train()\n",
}


@pytest.mark.parametrize("name", UNTOUCHED)
def test_a_loop_around_no_update_is_left_alone(name):
    assert "stopped" not in shown(UNTOUCHED[name])


def test_each_loop_around_an_update_asks_last():
    cell = loop(loop(STEP) + loop("score(x)\n", "for x in valid:"), "for epoch in range(3):")
    expected = ["for epoch in range(3):", "for x, y in loader:"]
    assert checked_loops(accum_magic.rewrite(cell, 4).tree) == expected
    assert shown(cell).count("stopped") == 2


@pytest.mark.parametrize("jump", ["break", "return", "raise KeyError"])
def test_an_end_that_is_not_reached_asks_nothing(jump):
    inner = loop(f"{STEP}{jump}\n")
    cell = f"def train():\n{textwrap.indent(inner, '    ')}"
    assert "stopped" not in shown(cell)


def test_a_turn_that_ends_by_continue_asks_once():
    assert shown(loop(f"{STEP}continue\n")).endswith(textwrap.indent(f"{CHECK}continue\n", "    "))


def test_the_gradients_are_put_back_before_a_skipped_update_asks():
    cell = loop("opt.zero_grad()\nloss = F.mse_loss(model(x), y)\nif not torch.isfinite(loss):\n    continue\n"
                "loss.backward()\nopt.step()\n")  # fmt: skip
    assert textwrap.indent(f"accum_magic.undo_step()\n{CHECK}continue\n", " " * 8) in shown(cell)


def test_a_cell_that_has_the_engine_s_name_asks_by_another():
    text = shown(f"accum_magic = 1\n{loop(STEP)}")
    assert text.startswith("import accum_magic as accum_magic_2\n")
    assert text.endswith("    if accum_magic_2.stopped():\n        break\n")


def test_a_rewrite_leaves_the_user_s_tree_as_it_is():
    made = accum_magic.rewrite(loop(loop(STEP), "for epoch in range(3):"), 4)
    assert "stopped" not in ast.unparse(made.plan.parsed.tree)


def test_a_check_stands_at_the_head_of_its_loop():
    made = accum_magic.rewrite(f"first = 1\n{loop(STEP + 'done = True', 'while True:')}", 4)
    check = next(n for n in ast.walk(made.tree) if isinstance(n, ast.If))
    name = check.test.func.value
    assert (check.lineno, check.end_lineno, check.body[0].lineno) == (2, 2, 2)
    assert (name.lineno, name.end_lineno) == (2, 7)  # the lines of the whole loop


# ---------------------------------------------------------------- functions that only call what trains

TRAIN = f"def train():\n{textwrap.indent(loop(STEP), '    ')}"
FIT = "def fit():\n    for epoch in range(3):\n        train()\n"
SWEEP = "def sweep():\n    return fit()\n"
LOOK = "def look():\n    for x, y in loader:\n        model(x)\n"


@pytest.fixture(scope="module")
def shell():
    return Shell()


def names():
    torch.manual_seed(0)
    model = nn.Linear(4, 1)
    loader = [(torch.randn(6, 4), torch.randn(6, 1)) for _ in range(4)]
    found = {"model": model, "opt": torch.optim.SGD(model.parameters(), lr=0.1), "loader": loader, "F": nn.functional,
             "asyncio": __import__("asyncio"), "__name__": "__main__"}  # fmt: skip
    testing.run_plain(TRAIN + FIT + SWEEP + LOOK, found)
    return found


def test_show_prints_callers_with_a_loop_behind_what_they_call(shell):
    out, _, error = shell.run("%%accumulate 2 --show\nsweep()\nlook()", names())
    assert error is None
    assert [line for line in out.splitlines() if line.startswith("def ")] == ["def train():", "def fit():"]
    assert out.count("accum_magic.stopped()") == 2
    assert out.endswith("\n\nsweep()\nlook()\n")


def test_explain_lists_only_what_has_a_step(shell):
    out, _, error = shell.run("%%accumulate 2 --explain\nfit()", names())
    assert error is None
    assert out.startswith("`train` (<plain cell>), called in line 9 of `fit`:\n")
    assert "`fit` (" not in out


def test_the_closing_lines_name_only_what_ran_in_micro_batches(shell):
    _, _, error = shell.run("%%accumulate 2\nfit()", names())
    assert error is None
    expected = ("`train` (<plain cell>) ran in micro-batches, rewritten for this cell",)
    assert accum_magic.last_run().notes == expected


def test_the_cell_s_own_loop_around_a_call_asks(shell):
    out, _, error = shell.run("%%accumulate 2 --show\nfor run in range(2):\n    train()\nprint(run)", names())
    assert error is None
    expected = f"import accum_magic\nfor run in range(2):\n    train()\n{textwrap.indent(CHECK, '    ')}print(run)\n"
    assert out.endswith(f"\n\n{expected}")


def test_a_loop_around_a_timed_call_asks(shell):
    out, _, error = shell.run("%%accumulate 2 --show\nfor run in range(2):\n    %time train()\n", names())
    assert error is None
    assert out.endswith("    if accum_magic.stopped():\n        break\n")


AWAITING = f"""\
import asyncio
async def batches():
    for batch in loader:
        await asyncio.sleep(0)
        yield batch
updates = []
for epoch in range(3):
    async for x, y in batches():
{textwrap.indent(STEP, " " * 8)}        updates.append(epoch)
        if len(updates) == 6:
            __import__("accum_magic").stop()
        await asyncio.sleep(0)
    else:
        updates.append("whole")
    await asyncio.sleep(0)
updates.append("behind")
"""


def test_a_cell_that_awaits_is_stopped(shell):
    _, _, error = shell.run(f"%%accumulate 2\n{AWAITING}", names())
    assert error is None
    assert shell.namespace["updates"] == [0, 0, 0, 0, "whole", 1, "behind"]
    assert shell.namespace["epoch"] == 1


def test_a_cell_run_by_the_shell_is_stopped(shell):
    body = f"{STEP}done += 1\nif done == 2:\n    stop()\n"
    cell = f"done = 0\n{loop(body)}else:\n    done = 100\n"
    _, _, error = shell.run(f"%%accumulate 2\n{cell}", {**names(), "stop": accum_magic.stop})
    assert error is None
    assert shell.namespace["done"] == 2
    assert "accum_magic" not in shell.namespace
