"""What a run leaves in the notebook: shown without a kernel, trusted or not, and by what runs notebooks unseen."""

import json
import re
import subprocess
import sys
import time

import nbformat
import pytest
from environments import environment
from nbclient import NotebookClient
from playwright.sync_api import expect

from browser.browser_cells import SETUP, training

WIDGET_VIEW = "application/vnd.jupyter.widget-view+json"
BROKEN = re.compile("model not found|Loading widget|Error displaying widget|Error rendering", re.IGNORECASE)


def result_of(notebook):
    """The outputs of a saved notebook's last cell, which has to hold the result alone."""
    (output,) = notebook["cells"][-1]["outputs"]
    assert output["output_type"] == "display_data"
    assert set(output["data"]) == {"text/html", "text/plain"}
    return output["data"]


@pytest.fixture(scope="package")
def executed(tmp_path_factory):
    """A notebook that nbclient has run, as papermill does, and how often each display was updated meanwhile."""
    folder = tmp_path_factory.mktemp("executed")
    environment("newest").write_kernelspec(folder)
    ready = f"{SETUP}fresh({str(folder / 'told')!r})\n%load_ext accum_magic"
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(c) for c in (ready, training(steps=50))])
    updates = []

    class Watched(NotebookClient):
        def process_message(self, msg, *rest):
            if msg["msg_type"] == "update_display_data":
                updates.append(msg)
            return super().process_message(msg, *rest)

    began_s = time.monotonic()
    Watched(notebook, kernel_name="python3", timeout=120, resources={"metadata": {"path": str(folder)}}).execute()
    return notebook, updates, time.monotonic() - began_s


def test_nbclient_keeps_the_result_alone(executed):
    notebook, updates, elapsed_s = executed
    assert "50 optimizer steps" in result_of(notebook)["text/plain"]
    assert len(updates) <= elapsed_s + 2  # at most once a second, and the result
    for state in notebook.metadata.get("widgets", {}).values():
        assert "state" in state  # GitHub shows no notebook without it
        assert "addEventListener" not in json.dumps(state)  # nor is the page's script kept


def test_nbconvert_runs_it_into_html(tmp_path):
    ready = f"{SETUP}fresh({str(tmp_path / 'told')!r})\n%load_ext accum_magic"
    cells = [nbformat.v4.new_code_cell(cell) for cell in (ready, training(steps=5))]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), tmp_path / "trained.ipynb")
    command = [sys.executable, "-m", "nbconvert", "--execute", "--to", "html", "trained.ipynb"]
    done = subprocess.run(command, cwd=tmp_path, check=False, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    html = (tmp_path / "trained.html").read_text()
    assert "5 optimizer steps" in html or "data:image/svg+xml" in html
    assert f'<script type="{WIDGET_VIEW}">' not in html


@pytest.mark.parametrize("is_trusted", [True, False], ids=["trusted", "untrusted"])
def test_reopened_without_a_kernel(executed, server, page, is_trusted):
    notebook, _, _ = executed
    name = f"reopened_{is_trusted}.ipynb"
    # no kernel of this name: JupyterLab asks for one
    notebook = {
        **json.loads(nbformat.writes(notebook)),
        "metadata": {"kernelspec": {"name": "gone", "display_name": "gone"}},
    }
    (server.root / name).write_text(json.dumps(notebook))
    if is_trusted:
        server.request("POST", f"/api/contents/{name}/trust")
    page.goto(server.page_url("lab", name))
    page.get_by_role("dialog").get_by_role("combobox").select_option(label="No Kernel")
    page.get_by_role("dialog").get_by_role("button", name="Select Kernel").click()
    output = page.locator(".jp-OutputArea").last
    expect(output.locator("table")).to_be_visible()
    expect(output).to_contain_text("exact")
    expect(output.get_by_role("img")).to_have_count(1)
    assert output.locator("img").evaluate("image => image.complete && image.naturalWidth > 0")
    expect(output).not_to_contain_text(BROKEN)


def test_saved_and_loaded_again(opened):
    notebook = opened([training(steps=5)])
    notebook.run(0)
    result_of(notebook.save())
    notebook.reload()
    expect(notebook.output(0).locator("table")).to_be_visible()
    expect(notebook.output(0)).not_to_contain_text(BROKEN)
