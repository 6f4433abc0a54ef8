"""The exactness check, offered beside the result of a run."""

import pytest
from playwright.sync_api import expect

from browser.browser_cells import training


@pytest.mark.parametrize("stack", ["6.31", "newest"])
def test_it_runs_when_it_is_asked_for_and_trains_nothing(opened, stack):
    notebook = opened([training(steps=20)], stack=stack)
    notebook.run(0)
    before = "kept, steps_taken = parameters(), optimizer.state_dict()['state'][0]['momentum_buffer'].clone()"
    notebook.kernel.run(before).ok()
    notebook.page.get_by_role("button", name="Check exactness").click()
    expect(notebook.output(0)).to_contain_text("Nothing was trained")
    assert notebook.kernel.value("same(kept, parameters())")
    assert notebook.kernel.value("bool((steps_taken == optimizer.state_dict()['state'][0]['momentum_buffer']).all())")
    assert len(notebook.steps()) == 20
    (output,) = notebook.save()["cells"][0]["outputs"]
    assert set(output["data"]) == {"text/html", "text/plain"}
    assert "loss" in "".join(output["data"]["text/plain"])
