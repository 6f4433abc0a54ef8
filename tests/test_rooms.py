"""Data goes one way, cell -> engine -> view, and only the hall (magic.py) knows IPython's shell."""

import ast
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

import accum_magic

PACKAGE = Path(accum_magic.__file__).parent
WIDGETS = ("ipywidgets", "anywidget")


@dataclass(frozen=True)
class Room:
    never: tuple[str, ...]
    """Packages that the room does not import."""
    own: tuple[str, ...]
    """The only modules of accum_magic that it imports."""


ROOMS = {
    "cell": Room(never=("torch", "IPython", *WIDGETS), own=("accum_magic.cell", "accum_magic.errors")),
    "engine": Room(never=("IPython", *WIDGETS), own=("accum_magic.engine", "accum_magic.errors")),
    "view": Room(never=("torch",), own=("accum_magic.view", "accum_magic.errors")),
}
SHELL = ("IPython.core", "IPython.terminal", "IPython.get_ipython", "IPython.InteractiveShell")
KNOWS_THE_SHELL = "magic.py"
NOT_ON_IMPORT = ("IPython", *WIDGETS, "matplotlib")


def is_within(name, roots):
    return any(name == root or name.startswith(f"{root}.") for root in roots)


def imported_names(tree, package):
    """Line and dotted name of each import, wherever it stands, in a module of `package`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) + 1 - node.level] if node.level else []
            base = ".".join([*above, *filter(None, [node.module])])
            yield from ((node.lineno, f"{base}.{alias.name}") for alias in node.names)


def arrows_back(text, room_name, package=None):
    room = ROOMS[room_name]
    for line, name in imported_names(ast.parse(text), package or f"accum_magic.{room_name}"):
        if is_within(name, room.never) or (is_within(name, ["accum_magic"]) and not is_within(name, room.own)):
            yield f"line {line}: {room_name}/ imports {name}"


def modules(folder=PACKAGE):
    return [str(path.relative_to(PACKAGE)) for path in sorted(folder.rglob("*.py"))]


def package_of(module):
    return ".".join(["accum_magic", *Path(module).parent.parts])


@pytest.mark.parametrize("room_name", ROOMS)
def test_room_has_modules(room_name):
    assert modules(PACKAGE / room_name)


@pytest.mark.parametrize("module", [module for name in ROOMS for module in modules(PACKAGE / name)])
def test_no_arrow_runs_back(module):
    text = (PACKAGE / module).read_text(encoding="utf-8")
    assert not list(arrows_back(text, Path(module).parts[0], package_of(module)))


@pytest.mark.parametrize("module", [module for module in modules() if module != KNOWS_THE_SHELL])
def test_only_the_hall_imports_the_shell(module):
    tree = ast.parse((PACKAGE / module).read_text(encoding="utf-8"))
    assert not [name for _, name in imported_names(tree, package_of(module)) if is_within(name, SHELL)]


@pytest.mark.parametrize(
    ("room_name", "text", "found"),
    [
        ("cell", "import torch.nn as nn", "line 1: cell/ imports torch.nn"),
        ("cell", "def late():\n    from ..engine import split", "line 2: cell/ imports accum_magic.engine.split"),
        ("cell", "from accum_magic import view", "line 1: cell/ imports accum_magic.view"),
        ("engine", "from IPython.display import display", "line 1: engine/ imports IPython.display.display"),
        ("engine", "from .. import cell", "line 1: engine/ imports accum_magic.cell"),
        ("view", "import torch", "line 1: view/ imports torch"),
        (
            "view",
            "from accum_magic.engine.events import Event",
            "line 1: view/ imports accum_magic.engine.events.Event",
        ),
    ],
)
def test_an_arrow_that_runs_back_is_found(room_name, text, found):
    assert list(arrows_back(text, room_name)) == [found]


@pytest.mark.parametrize(
    ("room_name", "text"),
    [
        ("cell", "import ast\nfrom ..errors import AccumulateError\nfrom . import parse"),
        ("engine", "import torch, torchmetrics\nfrom .split import split_batch"),
        (
            "view",
            "from IPython.display import display\nimport ipywidgets\nfrom accum_magic.errors import AccumulateError",
        ),
    ],
)
def test_an_arrow_that_runs_forward_is_left_alone(room_name, text):
    assert not list(arrows_back(text, room_name))


def loaded_after(statement, tmp_path):
    """The packages of NOT_ON_IMPORT that a fresh process has loaded after the statement."""
    code = f"{statement}\nimport sys\nprint(*[name for name in {NOT_ON_IMPORT!r} if name in sys.modules])"
    environment = {**os.environ, "PYTHONPATH": str(PACKAGE.parent)}
    command = [sys.executable, "-c", code]
    run = subprocess.run(command, cwd=tmp_path, env=environment, check=True, capture_output=True, text=True)
    return run.stdout.split()


def test_importing_the_package_brings_neither_ipython_nor_widgets_nor_matplotlib(tmp_path):
    assert loaded_after("import accum_magic", tmp_path) == []


def test_a_package_brought_in_is_noticed(tmp_path):
    assert loaded_after("import accum_magic, matplotlib", tmp_path) == ["matplotlib"]
