"""The panel as a user works it: what each helper returns or asserts is what the kernel has done, not only the page."""

from playwright.sync_api import expect

from browser.browser_tools import Notebook, wait_until

HELD_S = 1.0
CUT_INTO = "[event.micro_batches for event in accum_magic.last_run().events if type(event).__name__ == 'StepDone']"


def button(notebook: Notebook, name: str):
    """Pause, Resume or Stop."""
    return notebook.panel().get_by_role("button", name=name, exact=True)


def status(notebook: Notebook):
    """Where the panel announces what the run does."""
    return notebook.panel().get_by_role("status")


def start_live(notebook: Notebook, index: int = 0) -> None:
    """Run a cell, and wait until its panel can be worked."""
    notebook.start(index)
    expect(button(notebook, "Pause")).to_be_enabled()


def pause(notebook: Notebook) -> int:
    """Click Pause, and return how many steps the kernel had taken when it waited."""
    button(notebook, "Pause").click()
    expect(status(notebook)).to_contain_text("Paused")
    return len(notebook.steps())


def resume(notebook: Notebook) -> None:
    """Click Resume, and wait until the kernel takes steps again."""
    taken = len(notebook.steps())
    button(notebook, "Resume").click()
    expect(status(notebook)).to_contain_text("Running")
    wait_until(lambda: len(notebook.steps()) > taken, "a step after Resume")


def ask_for(notebook: Notebook, n: int) -> None:
    """Type another N, and wait until the kernel splits its steps so."""
    box = notebook.panel().get_by_label("Micro-batches")
    box.fill(str(n))
    box.press("Enter")
    expect(notebook.panel()).to_contain_text(f"of {n}")


def stop(notebook: Notebook) -> int:
    """Click Stop, wait for the end of the kernel's cell, and return how many steps it has taken."""
    button(notebook, "Stop").click()
    notebook.kernel.run("1")  # a cell of ours, which runs (or is aborted) behind the one that stops
    return len(notebook.steps())
