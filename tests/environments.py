"""Virtual environments with older Jupyter stacks, made for the tests; torch and the rest are the running interpreter's.

Each holds only the pinned packages of its stack, which takes pip some seconds. Everything else is found through a
`.pth` file behind them on `sys.path`. They are made anew for each pytest session, or kept in the folder that
ACCUM_MAGIC_ENVIRONMENTS names.
"""

import functools
import hashlib
import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import venv
from dataclasses import dataclass
from pathlib import Path

import accum_magic

KEPT_IN = "ACCUM_MAGIC_ENVIRONMENTS"
PACKAGES = Path(sysconfig.get_paths()["purelib"])
"""The packages of the interpreter that runs the tests."""
CHECKOUT = Path(accum_magic.__file__).parent.parent

_COLAB = (
    "ipykernel==6.17.1",
    "ipython==7.34.0",
    "ipywidgets==7.7.1",
    "jupyter-client==7.4.9",
    "tornado==6.5.1",
    "traitlets==5.7.1",
    # what these need, and newer ones do without
    "backcall==0.2.0",
    "decorator==5.2.1",
    "entrypoints==0.4",
    "ipython-genutils==0.2.0",
    "nest-asyncio==1.6.0",
    "pickleshare==0.7.5",
)
STACKS: dict[str, tuple[str, ...]] = {
    # Google Colab's
    "colab": (*_COLAB, "anywidget==0.9.21"),
    "6.31": ("ipykernel==6.31.0", "ipython==8.37.0", "ipywidgets==8.1.7", "decorator==5.2.1", "nest-asyncio==1.6.0"),
    "7.3": ("ipykernel==7.3.0", "ipython==9.9.0", "decorator==5.2.1"),
    "7.4": ("ipykernel==7.4.0", "ipython==9.14.1", "decorator==5.2.1"),
    # what the tests themselves run on; no environment is made
    "newest": (),
}
"""Name of a stack and its packages; those that it does not name are the running interpreter's."""
IN_A_NEWER_LAB = {
    # the page's anywidget has to be of the kernel's version, and a server has only one
    "colab-kernel": _COLAB,
}


@dataclass(frozen=True)
class Environment:
    """An interpreter with a Jupyter stack in which kernels can be started."""

    name: str
    """Of the stack, and of its kernelspec."""
    python: Path

    @property
    def variables(self):
        """What the interpreter needs beside the variables of this process: the path of the accum_magic under test."""
        # first on sys.path, so never a folder of packages: they would hide those of the stack
        path = [] if CHECKOUT.resolve() == PACKAGES.resolve() else [str(CHECKOUT)]
        return {"PYTHONPATH": os.pathsep.join(path), "PYDEVD_DISABLE_FILE_VALIDATION": "1"}

    @property
    def kernelspec(self):
        """The content of `kernel.json`."""
        return {
            "argv": [str(self.python), "-Xfrozen_modules=off", "-m", "ipykernel_launcher", "-f", "{connection_file}"],
            "display_name": f"Python ({self.name})",
            "language": "python",
            "env": self.variables,
            "metadata": {"debugger": True},
        }

    def write_kernelspec(self, jupyter_path):
        """Write `kernels/NAME/kernel.json` into a folder that JUPYTER_PATH names; return the kernel's name."""
        folder = Path(jupyter_path) / "kernels" / self.name
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "kernel.json").write_text(json.dumps(self.kernelspec), encoding="utf-8")
        return self.name

    def version(self, package):
        """Version of a package as the environment sees it."""
        code = f"from importlib.metadata import version; print(version({package!r}))"
        environment = {**os.environ, **self.variables}
        run = subprocess.run([self.python, "-c", code], env=environment, check=True, capture_output=True, text=True)
        return run.stdout.strip()


@functools.cache
def environment(name):
    """Return the environment of a stack, made when it is first asked for."""
    packages = {**STACKS, **IN_A_NEWER_LAB}[name]
    if not packages:
        return Environment(name, Path(sys.executable))
    folder = _folder() / f"{name}-{_key(packages)}"
    if not folder.exists():
        _make(folder, packages)
    return Environment(name, folder / "bin" / "python")


@functools.cache
def _folder():
    kept = os.environ.get(KEPT_IN)
    if kept:
        Path(kept).mkdir(parents=True, exist_ok=True)
        return Path(kept)
    made = tempfile.mkdtemp(prefix="accum_magic-environments-")
    return Path(made)


def forget():
    """Remove what was made for this session only."""
    if not os.environ.get(KEPT_IN) and _folder.cache_info().currsize:
        shutil.rmtree(_folder())


def _key(packages):
    """Tell environments apart that were made of other packages, or for another interpreter."""
    text = "\n".join([*packages, str(PACKAGES), sys.version])
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def _make(folder, packages):
    """Make an environment under another name first, so that no half-made one is ever found."""
    half = Path(tempfile.mkdtemp(prefix=f"{folder.name}-", dir=folder.parent))
    venv.create(half, symlinks=True, with_pip=False)
    python = half / "bin" / "python"
    install = [sys.executable, "-m", "pip", "--python", python, "install", "-q", "--no-deps", "--no-compile"]
    done = subprocess.run([*install, *packages], check=False, capture_output=True, text=True)
    assert done.returncode == 0, f"pip could not install {' '.join(packages)}:\n{done.stdout}{done.stderr}"
    own = next(half.glob("lib/python*/site-packages"))
    # `zz`: .pth files are read in the order of their names, and each adds to the end of sys.path
    (own / "zz_accum_magic_tests.pth").write_text(f"{PACKAGES}\n", encoding="utf-8")
    try:
        half.rename(folder)
    except OSError:  # another session was faster
        shutil.rmtree(half)
