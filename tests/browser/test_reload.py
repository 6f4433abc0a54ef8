"""The page is not the run: it can be loaded anew, and there can be two."""

import pytest
from playwright.sync_api import expect

from browser.browser_cells import ENDLESS, training
from browser.browser_tools import Notebook
from browser.panel_tools import ask_for, button, pause, resume, start_live, status, stop

STACKS = ["colab-kernel", "6.31", "newest"]


@pytest.mark.parametrize("stack", STACKS)
def test_the_panel_comes_back_after_a_reload_in_mid_run(opened, stack):
    notebook = opened([training()], stack=stack)
    start_live(notebook)
    notebook.save()
    notebook.reload()
    expect(button(notebook, "Pause")).to_be_enabled()
    before = len(notebook.steps())
    paused_at = pause(notebook)
    assert paused_at >= before  # the reload has not disturbed the run
    resume(notebook)
    ask_for(notebook, 8)
    taken = stop(notebook)
    assert paused_at < taken < ENDLESS
    assert notebook.kernel.value("after") == taken - 1
    assert notebook.kernel.value(f"same(parameters(), plain({taken}))")
    expect(notebook.output(0)).to_contain_text("topped")


def test_two_tabs_show_and_work_one_run(opened, second_page):
    notebook = opened([training()])
    start_live(notebook)
    notebook.save()
    other = Notebook(second_page, "lab", notebook.name, notebook.kernel).open()
    expect(button(other, "Pause")).to_be_enabled()
    paused_at = pause(other)
    expect(status(notebook)).to_contain_text("Paused")
    resume(notebook)
    expect(status(other)).to_contain_text("Running")
    taken = stop(other)
    assert paused_at < taken < ENDLESS
    for each in (notebook, other):
        expect(each.output(0)).to_contain_text("topped")
