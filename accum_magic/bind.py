"""Puts rewritten code in the place of a function's own, for the time of a cell."""

from __future__ import annotations
import __future__

import ast
import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import CodeType, FunctionType

from accum_magic.cell.rewrite import FunctionRewrite

_FUTURES = sum({getattr(__future__, name).compiler_flag for name in __future__.all_feature_names})
_AROUND = "around"


@contextmanager
def bound(functions: Sequence[FunctionRewrite]) -> Iterator[None]:
    """Let functions run as rewritten while a `with` block runs, by whatever name, method or partial they are called.

    It is their code that is changed, not the names that hold them: so closures, defaults, decorators and other
    modules that have imported them keep working, and the functions are themselves again also when the block raises.
    """
    code = [code_of(f) for f in functions]  # all of it before any is put in place
    own = [f.function.__code__ for f in functions]
    try:
        for rewritten, made in zip(functions, code, strict=True):
            rewritten.function.__code__ = made
        yield
    finally:
        for rewritten, kept in zip(functions, own, strict=True):
            rewritten.function.__code__ = kept


def code_of(rewritten: FunctionRewrite) -> CodeType:
    """Compile a rewritten function."""
    made = code_like(rewritten.function, rewritten.rewrite.tree.body[-1])
    assert made is not None  # noqa: S101 - the rewrite reads the names that the function reads
    return as_users_code(made, frozenset(rewritten.rewrite.generated), made.co_name)


def code_like(function: FunctionType, definition: ast.stmt) -> CodeType | None:
    """Compile a definition so that it can stand for a function's own code: same file, same closure.

    None where the definition closes over other names than the function does.
    """
    assert isinstance(definition, ast.FunctionDef | ast.AsyncFunctionDef)  # noqa: S101 - for the type checker
    code = function.__code__
    bare = copy.copy(definition)
    bare.decorator_list, bare.returns, bare.args = [], None, _without_defaults(definition.args)
    body: ast.stmt = bare
    owner = [n for n in function.__qualname__.split(".")[-2:-1] if n != "<locals>"]
    if owner:  # in a class, `super()` and `__private` names mean something of their own
        body = ast.ClassDef(name=owner[0], bases=[], keywords=[], body=[bare], decorator_list=[])
    closed = [n for n in code.co_freevars if not (owner and n == "__class__")]
    around = ast.FunctionDef(name=_AROUND, args=_arguments(closed), body=[body], decorator_list=[])
    module = ast.fix_missing_locations(ast.Module([around], []))
    made: CodeType = compile(module, code.co_filename, "exec", code.co_flags & _FUTURES, dont_inherit=True)
    for name in (_AROUND, *owner, definition.name):
        made = next(c for c in made.co_consts if isinstance(c, CodeType) and c.co_name == name)
    if made.co_freevars != code.co_freevars:
        return None
    return made.replace(co_qualname=code.co_qualname)


def _arguments(names: Sequence[str]) -> ast.arguments:
    arguments = [ast.arg(arg=n) for n in names]
    return ast.arguments(posonlyargs=[], args=arguments, kwonlyargs=[], kw_defaults=[], defaults=[])


def _without_defaults(arguments: ast.arguments) -> ast.arguments:
    """Defaults and annotations belong to the function object, which stays as it is."""

    def bare(argument: ast.arg | None) -> ast.arg | None:
        return None if argument is None else ast.copy_location(ast.arg(arg=argument.arg), argument)

    return ast.arguments(
        posonlyargs=[a for a in map(bare, arguments.posonlyargs) if a],
        args=[a for a in map(bare, arguments.args) if a],
        vararg=bare(arguments.vararg),
        kwonlyargs=[a for a in map(bare, arguments.kwonlyargs) if a],
        kw_defaults=[None] * len(arguments.kwonlyargs),
        kwarg=bare(arguments.kwarg),
        defaults=[],
    )


def is_rewritten(code: CodeType) -> bool:
    """Tell whether a function's code is a rewrite: its body imports the engine."""
    return "accum_magic" in (*code.co_varnames, *code.co_cellvars)


def as_users_code(code: CodeType, generated: frozenset[str], name: str) -> CodeType:
    """Let generated functions pass for the user's own code, so that tracebacks show the user's lines."""
    inner = tuple(as_users_code(c, generated, name) if isinstance(c, CodeType) else c for c in code.co_consts)
    return code.replace(co_consts=inner, co_name=name if code.co_name in generated else code.co_name)
