"""What a click does while the cell runs, on every stack and in both front ends, asserted in the kernel."""

import itertools
import time

import pytest
from playwright.sync_api import expect

from browser.browser_cells import ENDLESS, training
from browser.browser_tools import KERNELS, PLACES
from browser.panel_tools import CUT_INTO, HELD_S, ask_for, pause, resume, start_live, stop

STACKS = ["colab-kernel", "6.31", "7.3", "7.4", "newest"]


@pytest.mark.parametrize("front_end", PLACES)
@pytest.mark.parametrize("stack", STACKS)
def test_pause_resume_n_and_stop_act_in_mid_run(opened, front_end, stack):
    work_the_panel(opened([training()], front_end, stack))


@pytest.mark.parametrize(("subshells", "stack"), [("disabled", "7.3"), ("disabled", "newest"), ("perComm", "newest")])
def test_they_act_without_subshells_and_with_one_per_comm(opened, server, subshells, stack):
    server.set(KERNELS, commsOverSubshells=subshells)  # by default JupyterLab opens one per comm target
    try:
        work_the_panel(opened([training()], "lab", stack))
    finally:
        server.set(KERNELS)


def work_the_panel(notebook):
    start_live(notebook)
    paused_at = pause(notebook)
    time.sleep(HELD_S)
    assert len(notebook.steps()) == paused_at
    resume(notebook)
    ask_for(notebook, 8)
    taken = stop(notebook)
    notebook.finished(0)

    steps, ended_s = zip(*notebook.steps(), strict=True)
    assert taken == len(steps) < ENDLESS
    waited_s = [later - earlier for earlier, later in itertools.pairwise(ended_s)]
    assert waited_s[paused_at - 1] == max(waited_s) >= HELD_S  # the kernel waited there, and only there so long
    cut_into = notebook.kernel.value(CUT_INTO)
    assert len(cut_into) == taken
    assert (cut_into[0], cut_into[-1]) == (4, 8)
    assert cut_into == sorted(cut_into)
    assert notebook.kernel.value("after") == steps[-1]  # the code behind the loop has run
    assert notebook.kernel.value(f"same(parameters(), plain({taken}))")
    assert [output["output_type"] for output in notebook.outputs(0)] == ["display_data"]  # no error
    expect(notebook.output(0)).to_contain_text("stopped")
