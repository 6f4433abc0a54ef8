"""What JupyterLab's and Notebook's sanitiser leaves of a result, and how it stands on wide and on narrow pages."""

import nbformat
import pytest
from playwright.sync_api import expect
from view.result_tools import EVIL, LINES, LOSSES, MEMORY, SUMMARY, Seen, state

from accum_magic.view.result import result_bundle
from browser.browser_tools import PLACES

IS_TRUSTED = """() => {
    const notebook = [...window.jupyterapp.shell.widgets('main')].map(widget => widget.content).find(c => c?.widgets);
    return notebook.widgets[0].model.trusted;
}"""


@pytest.fixture(params=PLACES)
def untrusted(request, server, page):
    """A notebook that somebody else has run, opened without a kernel; returns the bundle and the output."""
    remarks = {"verdict": "approximate", "reasons": [EVIL], "notes": [EVIL]}
    bundle = result_bundle(state(**remarks), MEMORY, LOSSES, [*LINES, (1, "once after", EVIL)], SUMMARY)
    cell = nbformat.v4.new_code_cell("%%accumulate 10", execution_count=1)
    cell.outputs = [nbformat.v4.new_output("display_data", data=bundle)]
    notebook = nbformat.v4.new_notebook(cells=[cell])
    notebook.metadata["kernelspec"] = {"name": "gone", "display_name": "gone"}  # the page asks for another
    name = f"result_{request.param}.ipynb"
    nbformat.write(notebook, server.root / name)
    page.goto(server.page_url(request.param, name))
    page.get_by_role("dialog").get_by_role("combobox").select_option(label="No Kernel")
    page.get_by_role("dialog").get_by_role("button", name="Select Kernel").click()
    assert not page.evaluate(IS_TRUSTED)
    return bundle["text/html"], page.locator(".jp-OutputArea-output")


def box(element):
    found = element.bounding_box()
    return found["x"], found["y"], found["x"] + found["width"], found["y"] + found["height"]


def test_the_sanitiser_leaves_all_of_it(untrusted):
    bundled, output = untrusted
    expect(output.locator("table")).to_be_visible()
    shown, whole = Seen(output.inner_html()), Seen(bundled)
    assert shown.rows == whole.rows
    assert shown.items == whole.items
    assert shown.pre == whole.pre
    assert shown.image == whole.image
    names = [{name for _, attrs in parsed.elements for name, _ in attrs} for parsed in (shown, whole)]
    assert names[0] == names[1]
    assert output.locator("img").evaluate("image => image.complete && image.naturalWidth") == 376


def test_the_lines_open(untrusted):
    _, output = untrusted
    expect(output.locator("pre")).to_be_hidden()
    output.get_by_text("What runs when").click()
    expect(output.locator("pre")).to_be_visible()


def test_the_table_stands_beside_the_chart_and_on_a_narrow_page_below(untrusted, page):
    _, output = untrusted
    expect(output.locator("table")).to_be_visible()
    image, table, remarks = (output.locator(tag) for tag in ("img", "table", "ul"))
    assert box(table)[0] >= box(image)[2]
    assert box(table)[1] < box(image)[3]
    assert box(remarks)[1] >= max(box(image)[3], box(table)[3])
    page.set_viewport_size({"width": 400, "height": 900})
    page.wait_for_function("() => document.querySelector('.jp-OutputArea-output img').width < 376")
    assert box(table)[1] >= box(image)[3]
    assert box(image)[2] <= box(output)[2]
    assert output.evaluate("output => output.scrollWidth <= output.clientWidth")
