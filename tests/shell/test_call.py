"""`%%accumulate` on a cell that only calls what trains: functions of other cells in a real kernel."""

import textwrap

import pytest
from shell.shell_tools import TRAIN

DEFINE = "def train(epochs):\n    for epoch in range(epochs):\n" + textwrap.indent(TRAIN, " " * 8)
CLASS = "class Trainer:\n    def fit(self):\n        self.calls = 1\n" + textwrap.indent(TRAIN, " " * 8)


@pytest.fixture
def defined(trained):
    """The functions stand in cells of their own; `expected` is what the plain call leaves."""
    trained.run(DEFINE).ok()
    trained.run(CLASS).ok()
    trained.run("train(1); expected = parameters(); fresh(); plain_code = train.__code__").ok()
    return trained


@pytest.mark.parametrize("cell", ["train(1)", "%time train(1)", "Trainer().fit()", "list(map(train, [1]))"])
def test_the_function_runs_in_micro_batches(defined, cell):
    defined.run(f"%%accumulate 5\n{cell}").ok()
    assert defined.value("same(parameters(), expected)")
    assert defined.value("__import__('accum_magic').last_run().micro_batches") == 10


def test_the_closing_lines_say_which_function_was_rewritten(defined):
    reply = defined.run("%%accumulate 5\ntrain(1)").ok()
    number = defined.value("[i for i, text in enumerate(In) if text.startswith('def train(')][-1]")
    assert f"note: `train` (In[{number}]) ran in micro-batches, rewritten for this cell" in reply.displays[-1]


def test_the_steps_of_functions_are_not_counted_beforehand(defined):
    defined.run("%%accumulate 5\ntrain(1)").ok()
    assert defined.value("__import__('accum_magic').last_run().total_steps") is None
    defined.run(f"%%accumulate 5\n{TRAIN}train(1)").ok()
    assert defined.value("__import__('accum_magic').last_run().total_steps") is None


def test_the_function_is_itself_again_after_the_cell(defined):
    defined.run("%%accumulate 5\ntrain(1)\nduring = train.__code__ is not plain_code").ok()
    assert defined.value("(during, train.__code__ is plain_code)") == (True, True)


def test_the_function_is_itself_again_after_an_error(defined):
    reply = defined.run("%%accumulate 5\ntrain(1)\n1 / 0")
    assert reply.ename == "ZeroDivisionError"
    assert defined.value("train.__code__ is plain_code")


def test_an_error_in_the_function_is_shown_at_its_own_line(defined):
    reply = defined.run("%%accumulate 5\nkept, loader = loader, [(X[:10], Y[:9])]\ntrain(1)")
    defined.run("loader = kept").ok()
    assert "unequal batch sizes: `x` has 10 rows and `y` has 9" in reply.evalue
    reply = defined.run("%%accumulate 5\nkept, model = model, nn.Linear(3, 3)\ntrain(1)")
    defined.run("model = kept").ok()
    assert "----> 5             loss = F.cross_entropy(model(x), y)" in reply.traceback
    assert "accum_magic/" not in reply.traceback


def test_a_function_that_was_defined_under_the_magic_follows_the_new_n(trained):
    trained.run(f"%%accumulate 2\n{DEFINE}").ok()
    trained.run("%%accumulate 5\ntrain(1)").ok()
    assert trained.value("same(parameters(), expected)")
    assert trained.value("__import__('accum_magic').last_run().micro_batches") == 10


def test_a_function_of_a_changed_module_is_refused(defined):
    defined.run("open('steps.py', 'w').write('from __main__ import *\\n' + '''" + DEFINE + "''')").ok()
    defined.run("sys.path.insert(0, ''); import steps; steps.model, steps.optimizer = model, optimizer").ok()
    defined.run("%%accumulate 5\nsteps.train(1)").ok()
    assert defined.value("same(parameters(), expected)")
    defined.run("text = open('steps.py').read().replace('zero_grad()', 'zero_grad(False)')").ok()
    defined.run("open('steps.py', 'w').write(text)").ok()
    reply = defined.run("%%accumulate 5\nsteps.train(1)")
    assert reply.evalue.startswith("line 2: `steps.train` trains, but its source cannot be read, or is no longer what")


def test_show_prints_code_that_can_be_pasted(defined):
    shown = defined.run("%%accumulate 5 --show\nTrainer().fit()").ok().stdout
    defined.run(shown).ok()
    assert defined.value("same(parameters(), expected)")
    assert defined.value("Trainer.fit.__code__.co_consts[0] is None")


def test_explain_marks_the_lines_of_the_function(defined):
    explained = defined.run("%%accumulate 5 --explain\ntrain(1)").ok().stdout
    assert "called in line 2:\n  1                   def train(epochs):" in explained
    assert "  5  per micro-batch              loss = F.cross_entropy(model(x), y)" in explained
    assert explained.rstrip().endswith("2  train(1)")


def test_a_scheduler_built_for_more_steps_is_warned_of(defined):
    defined.run("schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=40)").ok()
    body = TRAIN + "    schedule.step()\n"
    reply = defined.run(f"%%accumulate 2 --window\n{body}").ok()
    expected = (
        "`schedule` was built for 40 steps and will take 1: under --window there is one step per 2 batches of the "
        "loader. Build it for 1 steps, or inside this cell from len(loader)"
    )
    assert f"ScheduleWarning: {expected}" in reply.stderr
    assert f"note: {expected.replace('will take', 'has taken')}" in reply.displays[-1]


def test_a_warning_that_is_an_error_leaves_the_functions_as_they_are(defined):
    defined.run("schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=40)").ok()
    defined.run("import warnings; before = parameters(); warnings.simplefilter('error')").ok()
    reply = defined.run(f"%%accumulate 2 --window\ntrain(1)\n{TRAIN}    schedule.step()\n")
    defined.run("warnings.resetwarnings()").ok()
    assert reply.ename == "ScheduleWarning"
    assert defined.value("(train.__code__ is plain_code, same(parameters(), before))") == (True, True)
