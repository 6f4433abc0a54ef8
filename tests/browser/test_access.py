"""The panel for everyone: by keys alone, in both themes, for a screen reader, on a narrow page, and as text alone."""

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import expect

from browser.browser_cells import ENDLESS, training
from browser.browser_tools import THEMES
from browser.panel_tools import CUT_INTO, button, pause, resume, start_live, status, stop

HURTS = "<img src=x onerror='window.hurt = true'>"

HAS_ONE_LINE = """button => {
    const range = document.createRange();
    range.selectNodeContents(button);
    return range.getClientRects().length === 1;
}"""


@pytest.fixture(params=["JupyterLab Light", "JupyterLab Dark"])
def theme(server, request):
    server.set(THEMES, theme=request.param)
    yield request.param
    server.set(THEMES)


def test_by_keys_alone(opened):
    notebook = opened([training()])
    notebook.page.locator(".jp-Notebook .jp-Cell").first.click()
    notebook.page.keyboard.press("Control+Enter")
    expect(button(notebook, "Pause")).to_be_enabled()
    tab_to(notebook, "Pause")
    notebook.page.keyboard.press("Space")
    expect(status(notebook)).to_contain_text("Paused")
    expect(button(notebook, "Resume")).to_be_focused()
    notebook.page.keyboard.press("Space")
    expect(status(notebook)).to_contain_text("Running")
    tab_to(notebook, "Micro-batches")
    notebook.page.keyboard.press("Control+A")
    notebook.page.keyboard.type("8")
    notebook.page.keyboard.press("Enter")
    expect(notebook.panel()).to_contain_text("of 8")
    notebook.page.keyboard.press("Shift+Tab")
    expect(button(notebook, "Stop")).to_be_focused()
    notebook.page.keyboard.press("Enter")
    notebook.finished(0)
    assert len(notebook.steps()) < ENDLESS
    cut_into = notebook.kernel.value(CUT_INTO)
    assert (cut_into[0], cut_into[-1]) == (4, 8)


def tab_to(notebook, name, most=80):
    """Press Tab until the control of this name has the focus."""
    wanted = notebook.panel().get_by_role("button", name=name, exact=True).or_(notebook.panel().get_by_label(name))
    for _ in range(most):
        notebook.page.keyboard.press("Tab")
        if wanted.evaluate("control => control === document.activeElement"):
            return
    pytest.fail(f"{name} was not reached by {most} times Tab")


def test_without_a_violation_in_both_themes(opened, theme):
    notebook = opened([training()])
    is_light = notebook.page.evaluate("() => document.body.dataset.jpThemeLight")
    assert is_light == str(theme == "JupyterLab Light").lower()
    start_live(notebook)
    check(notebook.page, "section[aria-label=accum_magic]")
    pause(notebook)
    check(notebook.page, "section[aria-label=accum_magic]")
    resume(notebook)
    notebook.panel().get_by_text("What runs when").click()
    check(notebook.page, "section[aria-label=accum_magic]")
    stop(notebook)
    notebook.finished(0)
    check(notebook.page, ".jp-OutputArea-output")


def check(page, selector):
    """Let axe-core look at a part of the page."""
    assert page.locator(selector).count()
    found = Axe().run(page, context=selector)
    assert found.response["passes"]
    assert not found.violations_count, found.generate_report()


def test_nothing_sticks_out_on_a_narrow_page(opened):
    notebook = opened([training().replace("loss =", f"label = {'long ' * 40!r}\n    loss =")])
    notebook.page.set_viewport_size({"width": 400, "height": 800})
    start_live(notebook)
    notebook.panel().get_by_text("What runs when").click()
    assert sticks_out(notebook.panel()) == []
    heights = [button(notebook, name).bounding_box()["height"] for name in ("Pause", "Stop")]
    assert heights[0] == heights[1]
    assert all(button(notebook, name).evaluate(HAS_ONE_LINE) for name in ("Pause", "Stop"))
    stop(notebook)
    notebook.finished(0)
    assert sticks_out(notebook.output(0)) == []


def sticks_out(part):
    """The elements that are wider than their place."""
    return part.evaluate(
        """part => {
            const right = part.getBoundingClientRect().right + 1;
            const isScrolled = node => node.closest('.am-lines, pre') !== null;
            return [part, ...part.querySelectorAll('*')]
                .filter(node => !isScrolled(node) && node.getBoundingClientRect().right > right)
                .map(node => node.outerHTML.slice(0, 200));
        }"""
    )


def test_text_of_the_user_is_never_html(opened):
    hurting = training(after=f"raise ValueError({HURTS!r})")
    notebook = opened([hurting.replace("    loss =", f"    label = {HURTS!r}  # {HURTS}\n    loss =")])
    start_live(notebook)
    notebook.panel().get_by_text("What runs when").click()
    expect(notebook.panel()).to_contain_text(HURTS)
    expect(notebook.panel().locator("img")).to_have_count(0)
    stop(notebook)
    notebook.finished(0)
    sources = notebook.output(0).locator("img").evaluate_all("images => images.map(image => image.src.slice(0, 14))")
    assert set(sources) <= {"data:image/svg"}
    assert not notebook.page.evaluate("() => Boolean(window.hurt)")
