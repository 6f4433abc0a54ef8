"""Reads a function's definition from the cell or file it stands in, as far as that is still what was run."""

from __future__ import annotations

import ast
import copy
import dis
import functools
import linecache
import site
import sys
import sysconfig
from pathlib import Path
from types import CodeType, FunctionType, ModuleType

from accum_magic.bind import code_like, is_rewritten
from accum_magic.cell.parse import ParsedCell, parsed_tree
from accum_magic.cell.recognise import nodes

_FOLDERS_OF_PACKAGES = ("site-packages", "dist-packages")
_COPY = "Copy the function into the notebook, or write the training loop in this cell."
_STALE = (
    "its source cannot be read, or is no longer what was run. Run the cell that defines it (or import its module) "
    "once more, or put `%%accumulate` on that cell."
)


@functools.lru_cache(maxsize=8)
def _installed_folders(path: tuple[str, ...]) -> tuple[str, ...]:
    paths = sysconfig.get_paths()
    folders = [paths[k] for k in ("stdlib", "platstdlib", "purelib", "platlib")]
    folders += [*site.getsitepackages(), site.getusersitepackages(), str(Path(__file__).parent)]
    # a `.pth` file, or an environment made on top of another one, adds packages of elsewhere
    folders += [f for f in path if Path(f).name in _FOLDERS_OF_PACKAGES]
    return tuple(dict.fromkeys(f"{Path(f)}/" for f in folders))


def _is_installed_file(filename: str) -> bool:
    return filename.startswith(("<frozen", *_installed_folders(tuple(sys.path))))


def is_installed(module: ModuleType | None) -> bool:
    """Whether a module came with Python or a package; a notebook's `__main__` has no file."""
    if module is None or module.__name__ == "__main__":
        return False
    file = getattr(module, "__file__", None)
    return file is None or _is_installed_file(file)


def source_of(function: FunctionType) -> ParsedCell | str | None:
    """Return a function's definition as a text of its own; or why one that trains cannot be read, else None."""
    code, why = function.__code__, _STALE
    if _is_installed_file(code.co_filename):
        package = (function.__module__ or "").partition(".")[0]
        why = f"belongs to an installed package (`{package}`), whose code is never rewritten. {_COPY}"
    else:
        linecache.checkcache(code.co_filename)  # a module's file may have been edited since
        text = "".join(linecache.getlines(code.co_filename, function.__globals__))
        definition = _definition(text, code)
        if definition is not None and _is_current(function, definition):
            return parsed_tree(text, ast.Module([copy.deepcopy(definition)], []))
    return why if _calls_backward(code) else None


def _calls_backward(code: CodeType) -> bool:
    if code.co_name == "backward":
        return False  # `accelerator.backward(loss)` is no training loop
    return "backward" in code.co_names or any(_calls_backward(c) for c in code.co_consts if isinstance(c, CodeType))


@functools.lru_cache(maxsize=64)
def _parsed_file(text: str) -> ast.Module | None:
    try:
        return ast.parse(text)
    except (SyntaxError, ValueError):
        return None


def _definition(text: str, code: CodeType) -> ast.FunctionDef | ast.AsyncFunctionDef | None:
    """Find the definition that a code object was compiled from; its first line is that of its first decorator."""
    tree = _parsed_file(text)
    for node in () if tree is None else nodes(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name == code.co_name:
            first = min((d.lineno for d in node.decorator_list), default=node.lineno)
            if code.co_firstlineno in {first, node.lineno}:
                return node
    return None


def _is_current(function: FunctionType, definition: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    """Whether the text is what was run; a function that `%%accumulate` has rewritten already is read anew."""
    made, code = code_like(function, definition), function.__code__
    if made is None:
        return False
    return is_rewritten(code) or _operations(made) == _operations(code)


def _operations(code: CodeType) -> list[object]:
    """Return what code does to which names and constants, in order.

    Bytecode itself depends on the rest of its module: `torch.mean()` is another instruction beside `import torch`.
    """
    operator = dis.opmap["BINARY_OP"]
    inner = [_operations(c) for c in code.co_consts if isinstance(c, CodeType)]
    tell = {*dis.hasname, *dis.hasconst, *dis.haslocal, *dis.hasfree, *dis.hascompare, operator}
    own = [i for i in dis.get_instructions(code) if i.opcode in tell and not isinstance(i.argval, CodeType)]
    return [*inner, *((type(i.argval), i.argrepr if i.opcode == operator else i.argval) for i in own)]
