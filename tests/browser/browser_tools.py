"""A Jupyter server in a process of its own, its kernels, and a notebook in Chromium as a user sees it."""

import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nbformat
from environments import environment
from jupyter_client import BlockingKernelClient
from playwright.sync_api import Locator, Page
from shell.shell_tools import REPLY_S, Kernel

SETTLED_S = 5
PATIENCE_S = 30  # nothing hangs on how fast it comes, but a busy machine is slow
TOKEN = secrets.token_hex(16)
QUIET_CHROMIUM = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
# Neither the question for news nor the one for updates, which would both ask the internet.
NOTIFICATIONS = {"fetchNews": "false", "checkForUpdates": False}
THEMES = "@jupyterlab/apputils-extension:themes"
KERNELS = "@jupyterlab/apputils-extension:kernels-settings"


def chromium_path():
    """Where Chromium is; without one the tests fail, since what they promise has then not been seen."""
    found = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if found is None:
        message = "tests/browser needs Chromium on PATH. On Debian: apt-get install chromium"
        raise FileNotFoundError(message)
    return found


# Where a front end shows a notebook alone: JupyterLab's single-document mode, and Notebook's only one.
PLACES = {"lab": "/doc/tree/", "notebook7": "/notebooks/"}


class Server:
    """`jupyter lab` on 127.0.0.1, with folders of its own; it serves Notebook 7 as well, on the same kernels."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.root = folder, folder / "notebooks"
        self.root.mkdir(parents=True)
        self.data, self.runtime, self.config = folder / "data", folder / "runtime", folder / "config"
        self._setting_file("@jupyterlab/apputils-extension:notification").write_text(json.dumps(NOTIFICATIONS))
        self._log = (folder / "server.log").open("w")
        self._process = subprocess.Popen(
            [
                sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root",
                "--expose-app-in-browser", "--JupyterNotebookApp.expose_app_in_browser=True",
                "--ServerApp.ip=127.0.0.1", f"--ServerApp.port={_free_port()}", "--ServerApp.port_retries=50",
                f"--ServerApp.root_dir={self.root}", f"--IdentityProvider.token={TOKEN}",
                "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate", "--LabApp.news_url=",
            ],
            stdin=subprocess.DEVNULL, stdout=self._log, stderr=subprocess.STDOUT, env=self._environment(),
        )  # fmt: skip
        self.url = self._wait_for_url()

    def _environment(self):
        folders = {
            "JUPYTER_CONFIG_DIR": self.config,
            "JUPYTER_DATA_DIR": self.data,
            "JUPYTER_RUNTIME_DIR": self.runtime,
            "IPYTHONDIR": self.folder / "ipython",
        }
        quiet = {"OMP_NUM_THREADS": "1", "PYDEVD_DISABLE_FILE_VALIDATION": "1", "JUPYTER_PLATFORM_DIRS": "1"}
        return {**os.environ, **quiet, **{name: str(path) for name, path in folders.items()}}

    def _wait_for_url(self):
        info = self.runtime / f"jpserver-{self._process.pid}.json"
        deadline = time.monotonic() + REPLY_S
        while time.monotonic() < deadline and self._process.poll() is None:
            if info.exists():
                try:
                    self.url = json.loads(info.read_text())["url"].rstrip("/")
                    self.request("GET", "/api/status")
                except (json.JSONDecodeError, urllib.error.URLError):
                    pass  # half written, or not listening yet
                else:
                    return self.url
            time.sleep(0.1)
        message = f"jupyter lab did not start:\n{(self.folder / 'server.log').read_text()}"
        raise RuntimeError(message)

    def request(self, method: str, path: str, body: Any = None) -> Any:
        """Call the server's REST interface."""
        headers = {"Authorization": f"token {TOKEN}", "Content-Type": "application/json"}
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data, headers, method=method)  # noqa: S310 - 127.0.0.1
        with urllib.request.urlopen(request, timeout=REPLY_S) as answer:  # noqa: S310
            text = answer.read()
        return json.loads(text) if text else None

    def set(self, plugin: str, **settings: Any) -> None:
        """Change a plugin's settings for pages that are opened from now on; without any, back to the defaults."""
        self._setting_file(plugin).write_text(json.dumps(settings))

    def _setting_file(self, plugin: str) -> Path:
        package, name = plugin.split(":")
        folder = self.config / "lab" / "user-settings" / package
        folder.mkdir(parents=True, exist_ok=True)
        return folder / f"{name}.jupyterlab-settings"

    def start_kernel(self, stack: str) -> "ServerKernel":
        """Start a kernel of a stack of tests/environments.py, that no notebook is connected to yet."""
        spec = environment(stack).write_kernelspec(self.data)
        label = self.request("POST", "/api/kernels", {"name": spec})["id"]
        return ServerKernel(self, spec, label)

    def write(self, name: str, cells: list[str], spec: str) -> Path:
        """Write a notebook of code cells."""
        notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
        notebook.metadata["kernelspec"] = {"name": spec, "display_name": spec, "language": "python"}
        path = self.root / name
        nbformat.write(notebook, path)
        return path

    def page_url(self, front_end: str, name: str) -> str:
        """Address of a notebook in a front end."""
        return f"{self.url}{PLACES[front_end]}{name}?token={TOKEN}"

    def stop(self) -> None:
        """End the server, which ends its kernels."""
        self._process.terminate()
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._log.close()


class ServerKernel(Kernel):
    """A kernel of a server, seen past the server too: what a test reads there does not go through the page."""

    def __init__(self, server: Server, spec: str, label: str) -> None:
        client = BlockingKernelClient(connection_file=str(server.runtime / f"kernel-{label}.json"))
        client.load_connection_file()
        client.start_channels(hb=False)  # a kernel that is slow to start has no heartbeat yet, and is not dead
        client.wait_for_ready(timeout=REPLY_S)
        super().__init__(None, client)
        self.server, self.spec, self.id = server, spec, label

    def attach(self, name: str) -> None:
        """Let the notebook of this name run here, as if it had started the kernel."""
        session = {"path": name, "name": name, "type": "notebook", "kernel": {"id": self.id}}
        self.server.request("POST", "/api/sessions", session)

    def interrupt(self) -> None:
        """Interrupt as the page's button does."""
        self.server.request("POST", f"/api/kernels/{self.id}/interrupt")

    def state(self) -> str:
        """What the server knows of the kernel: `idle`, `busy`."""
        return self.server.request("GET", f"/api/kernels/{self.id}")["execution_state"]

    def settle(self) -> None:
        """Leave the kernel idle for the next test, also where this one failed in mid-run."""
        while True:
            try:
                self.client.execute_interactive("", silent=True, timeout=SETTLED_S)
            except TimeoutError:
                self.interrupt()
            else:
                return


@dataclass
class Notebook:
    """A notebook in a page, and its kernel."""

    page: Page
    front_end: str
    name: str
    kernel: ServerKernel

    def open(self) -> "Notebook":
        """Open it, and wait until it is connected to its kernel."""
        self.page.goto(self.server.page_url(self.front_end, self.name))
        return self.ready()

    @property
    def server(self) -> Server:
        return self.kernel.server

    def reload(self) -> "Notebook":
        """Load the page anew."""
        self.page.reload()
        return self.ready()

    def ready(self) -> "Notebook":
        """Wait until the notebook is connected to its kernel."""
        self.page.wait_for_function(CONNECTED, timeout=REPLY_S * 1000)
        return self

    @property
    def told_to(self) -> Path:
        """The file that the kernel tells its steps to."""
        return self.server.root / self.name.replace(".ipynb", ".steps")

    def steps(self) -> list[tuple[int, float]]:
        """Steps that the kernel has told of so far, each with the time when it ended."""
        lines = self.told_to.read_text().splitlines(keepends=True) if self.told_to.exists() else []
        told = [line.split() for line in lines if line.endswith("\n")]
        return [(int(step), float(seconds)) for step, seconds in told]

    def wait_for_step(self, step: int) -> None:
        """Wait until the kernel has told of a step."""
        wait_until(lambda: any(told >= step for told, _ in self.steps()), f"step {step}")

    def start(self, index: int) -> None:
        """Run a cell by its place in the notebook, without waiting for its end."""
        self.page.evaluate(RUN_CELL, index)

    def run(self, index: int) -> None:
        """Run a cell and wait for its end."""
        self.start(index)
        self.finished(index)

    def finished(self, index: int, timeout_s: float = REPLY_S) -> None:
        """Wait until a cell has run."""
        self.page.wait_for_function(HAS_RUN, arg=index, timeout=timeout_s * 1000)

    def cell(self, index: int) -> Locator:
        """The cell in the page."""
        return self.page.locator(f'.jp-Notebook .jp-Cell[data-windowed-list-index="{index}"]')

    def output(self, index: int) -> Locator:
        """What stands below a cell."""
        return self.cell(index).locator(".jp-OutputArea").first

    def panel(self, index: int | None = None) -> Locator:
        """The live panel: of a cell, or the only one there is."""
        within = self.page if index is None else self.cell(index)
        return within.get_by_role("region", name="accum_magic")

    def outputs(self, index: int) -> list[dict[str, Any]]:
        """The cell's outputs as they would be saved now."""
        return self.page.evaluate(OUTPUTS, index)

    def save(self) -> dict[str, Any]:
        """Save as the user does; returns what is in the file."""
        self.page.evaluate("() => window.jupyterapp.commands.execute('docmanager:save')")
        self.page.wait_for_function(f"() => {{ {NOTEBOOK} return !notebook.model.dirty; }}")
        return json.loads((self.server.root / self.name).read_text())


# The notebook widget of the page, in JupyterLab and in Notebook 7.
NOTEBOOK = """
    const widgets = [...(window.jupyterapp?.shell.widgets('main') ?? [])];
    const notebook = widgets.map(widget => widget.content).find(content => content?.widgets && content?.model?.cells);
    const panel = widgets.find(widget => widget.content === notebook);
"""
CONNECTED = f"""() => {{ {NOTEBOOK}
    const kernel = panel?.sessionContext?.session?.kernel;
    return kernel?.connectionStatus === 'connected' && ['idle', 'busy'].includes(kernel.status);
}}"""
RUN_CELL = f"""index => {{ {NOTEBOOK}
    notebook.activeCellIndex = index;
    window.jupyterapp.commands.execute('notebook:run-cell');
    return null;
}}"""
HAS_RUN = f"""index => {{ {NOTEBOOK}
    const model = notebook.widgets[index].model;
    return model.executionState === 'idle' && model.executionCount !== null;
}}"""
OUTPUTS = f"index => {{ {NOTEBOOK} return notebook.widgets[index].model.outputs.toJSON(); }}"


def wait_until(holds, what: str, timeout_s: float = REPLY_S) -> None:
    """Wait for something that the page does not show, such as a line in a file."""
    deadline = time.monotonic() + timeout_s
    while not holds():
        assert time.monotonic() < deadline, f"waited {timeout_s:.0f} s for {what}"
        time.sleep(0.02)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
