"""Makes the screenshots of the panel, in the real front ends: PYTHONPATH=tests python -m browser.screenshots FOLDER."""

import argparse
import json
import re
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path

from playwright.sync_api import Page, expect, sync_playwright

from browser.browser_tools import (
    PATIENCE_S,
    QUIET_CHROMIUM,
    THEMES,
    TOKEN,
    Notebook,
    Server,
    ServerKernel,
    chromium_path,
    wait_until,
)
from browser.panel_tools import ask_for, button, start_live

WIDE, NARROW = {"width": 1000, "height": 760}, {"width": 400, "height": 900}
FAR = re.compile(r"^[3-9]\d of 60$")  # steps: some of the curves are to be seen
SETUP = """\
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

torch.manual_seed(0)
digits = load_digits()
images, labels = torch.tensor(digits.data / 16, dtype=torch.float32), torch.tensor(digits.target)
loader = DataLoader(TensorDataset(images, labels), batch_size=900, shuffle=True)
model = nn.Sequential(
    nn.Unflatten(1, (1, 8, 8)),
    nn.Conv2d(1, 32, 3, padding=1), nn.ReLU(),
    nn.Conv2d(32, 32, 3, padding=1), nn.ReLU(),
    nn.Conv2d(32, 32, 3, padding=1), nn.ReLU(),
    nn.Flatten(), nn.Linear(2048, 10),
)
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 30)
"""
TRAIN = """\
%%accumulate 10
for epoch in range({epochs}):
    for x, y in loader:
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
    scheduler.step()
"""
OPEN_TERMINAL = """() => {
    const { commands, restored } = window.jupyterapp;
    const open = () => commands.execute('terminal:create-new');
    return restored.then(() => commands.execute('application:toggle-left-area')).then(open);
}"""


def main() -> None:
    """Make them all."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    folder.mkdir(parents=True, exist_ok=True)
    expect.set_options(timeout=PATIENCE_S * 1000)
    with tempfile.TemporaryDirectory() as place, served(Path(place)) as server, chromium() as browser:
        kernel = server.start_kernel("newest")
        kernel.run("%load_ext accum_magic").ok()
        for front_end, theme in (("lab", "Light"), ("lab", "Dark"), ("notebook7", "Light")):
            server.set(THEMES, theme=f"JupyterLab {theme}")
            take_run(browser.new_page(viewport=WIDE), kernel, front_end, folder / f"{front_end}_{theme.lower()}")
        server.set(THEMES)
        take_narrow(browser.new_page(viewport=NARROW), kernel, folder / "narrow")
        take_terminal(browser.new_page(viewport={"width": 1100, "height": 320}), server, folder / "terminal")
    print("\n".join(str(path) for path in sorted(folder.glob("*.png"))))


@contextmanager
def served(folder: Path):
    """Run a server for the time of the block."""
    server = Server(folder)
    try:
        yield server
    finally:
        server.stop()


@contextmanager
def chromium():
    """Run a browser for the time of the block."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium_path(), headless=True, args=QUIET_CHROMIUM)
        yield browser
        browser.close()


def opened(page: Page, kernel: ServerKernel, front_end: str, name: str, epochs: int) -> Notebook:
    """Open a notebook of two cells, the first of them run."""
    page.set_default_timeout(PATIENCE_S * 1000)
    kernel.server.write(f"{name}.ipynb", [SETUP, TRAIN.format(epochs=epochs)], "newest")
    kernel.attach(f"{name}.ipynb")
    notebook = Notebook(page, front_end, f"{name}.ipynb", kernel).open()
    notebook.run(0)
    return notebook


def take_run(page: Page, kernel: ServerKernel, front_end: str, path: Path) -> None:
    """Take a run as it goes on, paused, finished, and opened again without a kernel by somebody else."""
    notebook = opened(page, kernel, front_end, path.name, epochs=30)
    start_live(notebook, 1)
    expect(notebook.panel().get_by_role("definition").first).to_have_text(FAR)
    take(notebook, f"{path}_running.png")
    notebook.panel().get_by_text("What runs when").click()
    button(notebook, "Pause").click()
    expect(button(notebook, "Resume")).to_be_visible()
    take(notebook, f"{path}_paused.png")
    button(notebook, "Resume").click()
    notebook.finished(1)
    take(notebook, f"{path}_finished.png")
    saved = notebook.save()
    saved["metadata"]["kernelspec"]["name"] = "gone"
    (notebook.server.root / f"{path.name}_again.ipynb").write_text(json.dumps(saved))
    page.goto(notebook.server.page_url(front_end, f"{path.name}_again.ipynb"))
    page.get_by_role("dialog").get_by_role("combobox").select_option(label="No Kernel")
    page.get_by_role("dialog").get_by_role("button", name="Select Kernel").click()
    expect(notebook.output(1).locator("table")).to_be_visible()
    take(notebook, f"{path}_reopened.png")
    page.close()


def take_narrow(page: Page, kernel: ServerKernel, path: Path) -> None:
    """Take the panel and the result on a page of 400 pixels."""
    notebook = opened(page, kernel, "lab", path.name, epochs=30)
    start_live(notebook, 1)
    ask_for(notebook, 20)
    take(notebook, f"{path}_running.png")
    notebook.finished(1)
    take(notebook, f"{path}_finished.png")
    page.close()


def take(notebook: Notebook, path: str) -> None:
    """Scroll to the training cell, and take what the window shows."""
    notebook.page.evaluate("() => document.activeElement?.blur()")
    notebook.cell(1).evaluate("cell => cell.scrollIntoView({block: 'start'})")
    notebook.page.mouse.move(0, 0)
    notebook.page.screenshot(path=path)


def take_terminal(page: Page, server: Server, path: Path) -> None:
    """Take the text in JupyterLab's terminal, where IPython shows no widgets: as it goes on, and at the end."""
    server.write("train.ipynb", [SETUP, "%load_ext accum_magic", TRAIN.format(epochs=30)], "newest")
    page.goto(f"{server.url}/lab?reset&token={TOKEN}")
    page.wait_for_function("() => window.jupyterapp")
    page.evaluate(OPEN_TERMINAL)
    page.locator(".xterm-screen").click()
    ipython = f"{sys.executable} -m IPython --no-banner"
    page.keyboard.type(f"cd '{server.root}'; PS1='$ '; alias ipython='{ipython}'; clear\n")
    page.wait_for_timeout(1000)  # typed ahead, it would stand there twice
    page.keyboard.type("ipython train.ipynb; touch done\n")
    page.wait_for_timeout(15_000)  # xterm paints on a canvas, which tells no text to wait for
    page.locator(".jp-Terminal").screenshot(path=f"{path}_running.png")
    wait_until((server.root / "done").exists, "the end of the run in the terminal")
    page.wait_for_timeout(500)
    page.locator(".jp-Terminal").screenshot(path=f"{path}_finished.png")
    page.close()


if __name__ == "__main__":
    main()
