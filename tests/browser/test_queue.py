"""Cells that wait behind the training cell, and what an open cell holds, while messages are taken in."""

import pytest
from playwright.sync_api import expect

from browser.browser_cells import training
from browser.panel_tools import button, pause, resume, start_live, stop

# the pump alone; a subshell beside it
STACKS = ["6.31", "newest"]


@pytest.mark.parametrize("stack", STACKS)
def test_cells_run_in_the_order_in_which_they_were_asked_for(opened, stack):
    notebook = opened([training(after="order = ['training']"), *appending("abc")], stack=stack)
    start_live(notebook)
    for index in (1, 2, 3):
        notebook.start(index)
        resume_after_pause(notebook)
    stop(notebook)
    notebook.finished(3)
    assert notebook.kernel.value("order") == ["training", "a", "b", "c"]


@pytest.mark.parametrize("stack", STACKS)
def test_cells_behind_one_that_fails_do_not_run(opened, stack):
    failing = training(after="order = []; raise ValueError('behind the loop')")
    notebook = opened([failing, *appending("ab")], stack=stack)
    start_live(notebook)
    notebook.start(1)
    notebook.start(2)
    resume_after_pause(notebook)
    stop(notebook)
    notebook.finished(0)
    assert notebook.kernel.value("order") == []
    assert notebook.outputs(0)[-1]["evalue"] == "behind the loop"
    for index in (1, 2):
        expect(notebook.cell(index).locator(".jp-InputPrompt")).to_have_text("[ ]:")


@pytest.mark.parametrize("stack", STACKS)
def test_an_open_figure_stays_open(opened, stack):
    plotting = training(after="plt.plot([1, 2]); is_kept = plt.gcf() is figure")
    notebook = opened([plotting.replace("\n", "\nfigure = plt.figure()\n", 1)], stack=stack)
    notebook.kernel.run("%matplotlib inline\nimport matplotlib.pyplot as plt").ok()
    start_live(notebook)
    resume_after_pause(notebook)
    stop(notebook)
    notebook.finished(0)
    assert notebook.kernel.value("is_kept")
    kinds = [kind for output in notebook.outputs(0) for kind in output["data"]]
    assert [kind for kind in kinds if kind.startswith("image/")] == ["image/png"]


def test_the_interrupt_button_ends_the_cell(opened):
    notebook = opened([training()])
    start_live(notebook)
    pause(notebook)
    notebook.kernel.interrupt()
    notebook.finished(0)
    assert notebook.outputs(0)[-1]["ename"] == "KeyboardInterrupt"
    assert notebook.kernel.value("after") is None
    expect(button(notebook, "Stop")).to_have_count(0)


def appending(names):
    return [f"order.append({name!r})" for name in names]


def resume_after_pause(notebook):
    pause(notebook)
    resume(notebook)
