"""`%%accumulate N`: the same training cell, the same result, a 1/N of the activation memory.

>>> import accum_magic
>>> accum_magic.__version__
'0.1.0'
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from accum_magic.api import rewrite
from accum_magic.errors import AccumulateError

if TYPE_CHECKING:
    from accum_magic.engine.again import Again
    from accum_magic.engine.commands import pause, resume, set_n, stop
    from accum_magic.engine.run import last_run, stopped
    from accum_magic.engine.saved import SavedTensors
    from accum_magic.engine.step import step, undo_step
    from accum_magic.engine.summary import RunSummary
    from accum_magic.engine.values import UNBOUND, Released
    from accum_magic.engine.window import window

__version__ = "0.1.0"
__all__ = [
    "UNBOUND",
    "AccumulateError",
    "Again",
    "Released",
    "RunSummary",
    "SavedTensors",
    "__version__",
    "last_run",
    "load_ipython_extension",
    "pause",
    "resume",
    "rewrite",
    "set_n",
    "step",
    "stop",
    "stopped",
    "undo_step",
    "unload_ipython_extension",
    "window",
]

_ENGINE = {
    "Again": "again",
    "RunSummary": "summary",
    "last_run": "run",
    "pause": "commands",
    "resume": "commands",
    "set_n": "commands",
    "stop": "commands",
    "stopped": "run",
    "SavedTensors": "saved",
    "step": "step",
    "undo_step": "step",
    "Released": "values",
    "UNBOUND": "values",
    "window": "window",
}


def __getattr__(name: str) -> Any:
    """Import the engine, and torch with it, when it is first asked for."""
    if name not in _ENGINE:
        message = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(message)
    from importlib import import_module

    value = getattr(import_module(f"{__name__}.engine.{_ENGINE[name]}"), name)
    globals()[name] = value
    return value


def load_ipython_extension(ipython: Any) -> None:
    """Register the magics: `%load_ext accum_magic`."""
    from accum_magic.magic import load

    load(ipython)


def unload_ipython_extension(ipython: Any) -> None:
    """Take the magics away again: `%unload_ext accum_magic`."""
    from accum_magic.magic import unload

    unload(ipython)
