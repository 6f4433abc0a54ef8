"""The points that the panel's curves are drawn from."""

from accum_magic.engine.run import begin


def test_memory_is_that_of_the_step_that_runs(panel_widget):
    run = begin()
    panel = panel_widget(run, "3f2a").panel
    for steps, is_in_step in [(0, False), (0, True), (1, False), (1, True), (2, False)]:
        run.steps, run.is_in_step = steps, is_in_step
        panel._look()
    run.end()
    assert [step for step, _ in panel._history.memory] == [1, 1, 1, 2, 2], "the curve of two steps ends with the second"
