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


def elements(parsed):
    """Every element with its attributes; a page puts the rows of a table into a body."""
    return [(tag, dict(attrs)) for tag, attrs in parsed.elements if tag != "tbody"]


def check_that_all_of_it_is_left(output, bundled):
    shown, whole = Seen(output.inner_html()), Seen(bundled)
    assert shown.rows == whole.rows
    assert shown.items == whole.items
    assert shown.pre == whole.pre
    assert shown.image == whole.image
    assert elements(shown) == elements(whole)
    assert output.locator("img").evaluate("image => image.complete && image.naturalWidth") == 376


def check_that_the_lines_open(output):
    expect(output.locator("pre")).to_be_hidden()
    output.get_by_text("What runs when").click()
    expect(output.locator("pre")).to_be_visible()


def check_that_the_table_is_beside_the_chart_or_below(output, page):
    image, table, remarks = (output.locator(tag) for tag in ("img", "table", "ul"))
    assert box(table)[0] >= box(image)[2]
    assert box(table)[1] < box(image)[3]
    assert box(remarks)[1] >= max(box(image)[3], box(table)[3])
    page.set_viewport_size({"width": 400, "height": 900})
    page.wait_for_function("() => document.querySelector('.jp-OutputArea-output img').width < 376")
    assert box(table)[1] >= box(image)[3]
    assert box(image)[2] <= box(output)[2]
    assert output.evaluate("output => output.scrollWidth <= output.clientWidth")


def test_the_sanitiser_leaves_a_result_whole_on_any_page(untrusted, page):
    """One test, since to open a page is what takes the time."""
    bundled, output = untrusted
    expect(output.locator("table")).to_be_visible()
    check_that_all_of_it_is_left(output, bundled)
    check_that_the_lines_open(output)
    check_that_the_table_is_beside_the_chart_or_below(output, page)
