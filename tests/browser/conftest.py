"""Real Chromium, one server with JupyterLab and Notebook 7; a new page for each test, kernels shared between them.

All of it ends with this folder's last test: while playwright runs, its event loop is the main thread's, and tests
elsewhere start loops of their own.
"""

import itertools

import pytest
from playwright.sync_api import expect, sync_playwright

from browser.browser_cells import SETUP
from browser.browser_tools import PATIENCE_S, QUIET_CHROMIUM, Notebook, Server, chromium_path

expect.set_options(timeout=PATIENCE_S * 1000)
_numbers = itertools.count(1)


@pytest.fixture(scope="package")
def chromium():
    """One browser window's memory for all pages: the second page finds JupyterLab's scripts in its cache."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium_path(), headless=True, args=QUIET_CHROMIUM)
        yield browser.new_context(viewport={"width": 1100, "height": 900})
        browser.close()


@pytest.fixture(scope="package")
def server(tmp_path_factory):
    server = Server(tmp_path_factory.mktemp("jupyter"))
    yield server
    server.stop()


@pytest.fixture(scope="package")
def kernel_of(server):
    """The first or second kernel of a stack, started when asked for, with torch imported and the extension loaded."""
    kept = {}

    def kernel_of_stack(stack, which=1):
        if (stack, which) not in kept:
            kernel = kept[stack, which] = server.start_kernel(stack)
            kernel.run(f"{SETUP}%load_ext accum_magic").ok()
        return kept[stack, which]

    yield kernel_of_stack
    for kernel in kept.values():
        kernel.client.stop_channels()


def new_page(chromium):
    """A new page; an uncaught error of the panel's script fails the test."""
    page, errors = chromium.new_page(), []
    page.set_default_timeout(PATIENCE_S * 1000)
    page.on("pageerror", lambda error: errors.append(error.stack))
    yield page
    page.close(run_before_unload=False)
    # anywidget imports the panel from a blob; Notebook 7 has an uncaught error of its own whenever it starts
    assert not [error for error in errors if "blob:" in error]


@pytest.fixture
def page(chromium):
    yield from new_page(chromium)


@pytest.fixture
def second_page(chromium):
    yield from new_page(chromium)


@pytest.fixture
def opened(kernel_of, page):
    """Open a notebook of these cells in JupyterLab or in Notebook 7, with fresh weights in its kernel."""
    used = []

    def open_cells(cells, front_end="lab", stack="newest", page=page, which=1):
        kernel = kernel_of(stack, which)
        used.append(kernel)
        notebook = Notebook(page, front_end, f"test_{next(_numbers)}.ipynb", kernel)
        kernel.run(f"fresh({str(notebook.told_to)!r})").ok()
        kernel.server.write(notebook.name, cells, stack)
        kernel.attach(notebook.name)
        return notebook.open()

    yield open_cells
    for kernel in used:
        kernel.settle()
