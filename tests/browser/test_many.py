"""Panels beside one another, behind one another, in an `Output` widget and in a loop."""

from playwright.sync_api import expect

from browser.browser_cells import training
from browser.panel_tools import button, pause, resume, start_live, status, stop

# with its module; those of the last runs stay, to offer the check
OPEN_PANELS = "sum('_esm' in w['state'] for w in ipywidgets.Widget.get_manager_state()['state'].values())"
MOST_OPEN = 5


def test_two_notebooks_on_two_kernels(opened, second_page):
    notebook = opened([training()])
    beside = opened([training()], page=second_page, which=2)
    start_live(notebook)
    start_live(beside)
    paused_at = pause(notebook)
    taken = len(beside.steps())
    beside.wait_for_step(taken + 5)
    assert len(notebook.steps()) == paused_at
    expect(status(beside)).to_contain_text("Running")
    assert stop(beside) > taken + 5
    assert stop(notebook) == paused_at  # out of its pause, without another step


def test_a_second_cell_and_the_same_cell_again(opened):
    notebook = opened([training(steps=3), training()])
    notebook.run(0)
    start_live(notebook, 1)
    expect(notebook.panel()).to_have_count(1)
    first = stop(notebook)
    notebook.finished(1)
    expect(notebook.panel()).to_have_count(0)
    start_live(notebook, 1)
    pause(notebook)
    resume(notebook)
    assert stop(notebook) > first
    notebook.finished(1)
    for index, says in ((0, "finished"), (1, "stopped")):
        assert [output["output_type"] for output in notebook.outputs(index)] == ["display_data"]
        expect(notebook.output(index)).to_contain_text(says, ignore_case=True)


def test_in_an_output_widget(opened):
    _, cell = training().split("\n", 1)
    inside = f"with out:\n    get_ipython().run_cell_magic('accumulate', '4', {cell!r})"
    notebook = opened(["import ipywidgets\nout = ipywidgets.Output()\nout", inside])
    notebook.run(0)
    start_live(notebook, 1)
    expect(notebook.panel(0)).to_be_visible()
    pause(notebook)
    resume(notebook)
    stop(notebook)
    notebook.finished(1)
    expect(notebook.output(0)).to_contain_text("stopped", ignore_case=True)
    assert notebook.outputs(1) == []


def test_a_sweep_leaves_a_result_of_each_run_and_nothing_else(opened):
    _, cell = training(steps=2, step_s=0.01).split("\n", 1)
    sweep = f"for _ in range(12):\n    get_ipython().run_cell_magic('accumulate', '4', {cell!r})"
    notebook = opened([sweep])
    notebook.kernel.run("import ipywidgets, threading").ok()
    notebook.run(0)
    assert notebook.kernel.value(OPEN_PANELS) <= MOST_OPEN
    assert notebook.kernel.value("[t.name for t in threading.enumerate() if t.name.startswith('accum_magic')]") == []
    assert len(notebook.steps()) == 24
    assert len(notebook.outputs(0)) == 12
    assert all("application/vnd.jupyter.widget-view+json" not in output["data"] for output in notebook.outputs(0))
    expect(button(notebook, "Pause")).to_have_count(0)
