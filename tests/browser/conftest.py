"""Real Chromium, one JupyterLab and one Notebook server; a new page for each test, kernels shared between them.

All of it ends with this folder's last test: while playwright runs, its event loop is the main thread's, and tests
elsewhere start loops of their own.
"""

import itertools

import pytest
from playwright.sync_api import sync_playwright

from browser.browser_cells import SETUP
from browser.browser_tools import QUIET_CHROMIUM, Notebook, Server, chromium_path

_numbers = itertools.count(1)


@pytest.fixture(scope="package")
def chromium():
    """One browser window's memory for all pages: the second page finds JupyterLab's scripts in its cache."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium_path(), headless=True, args=QUIET_CHROMIUM)
        yield browser.new_context(viewport={"width": 1100, "height": 900})
        browser.close()


@pytest.fixture(scope="package")
def lab(tmp_path_factory):
    server = Server("jupyterlab", tmp_path_factory.mktemp("lab"))
    yield server
    server.stop()


@pytest.fixture(scope="package")
def notebook7(tmp_path_factory):
    server = Server("notebook", tmp_path_factory.mktemp("notebook"))
    yield server
    server.stop()


@pytest.fixture(scope="package")
def kernels():
    """A kernel of each stack on each server, started when first asked for, torch imported, the extension loaded."""
    kept = {}

    def kernel_for(server, stack):
        if (server, stack) not in kept:
            kernel = kept[server, stack] = server.start_kernel(stack)
            kernel.run(f"{SETUP}%load_ext accum_magic").ok()
        return kept[server, stack]

    yield kernel_for
    for kernel in kept.values():
        kernel.client.stop_channels()


@pytest.fixture
def page(chromium):
    """A new page; an uncaught error of the panel's script fails the test."""
    page, errors = chromium.new_page(), []
    page.on("pageerror", lambda error: errors.append(error.stack))
    yield page
    page.close(run_before_unload=False)
    # anywidget imports the panel from a blob; Notebook 7 has an uncaught error of its own whenever it starts
    assert not [error for error in errors if "blob:" in error]


@pytest.fixture
def opened(kernels, page):
    """Open a notebook of these cells in the test's page, with fresh weights in its kernel."""
    used = []

    def open_cells(server, cells, stack="newest", page=page):
        kernel = kernels(server, stack)
        used.append(kernel)
        notebook = Notebook(page, server, f"test_{next(_numbers)}.ipynb", kernel)
        kernel.run(f"fresh({str(notebook.told_to)!r})").ok()
        server.write(notebook.name, cells, stack)
        kernel.attach(notebook.name)
        return notebook.open()

    yield open_cells
    for kernel in used:
        kernel.settle()
