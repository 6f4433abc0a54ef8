"""A value with a graph that crosses an update, such as a GAN's fake images, is computed anew for the later loss."""

from __future__ import annotations

import ast
import copy
from collections.abc import Iterator
from dataclasses import replace

from accum_magic.cell.effects import overlap, path_of, root, statement_effects
from accum_magic.cell.made import engine_name
from accum_magic.cell.namespace import Lookup
from accum_magic.cell.parse import ParsedCell, Place, local_names, parsed_tree
from accum_magic.cell.recognise import (
    DRAWS,
    FACTORIES,
    calls,
    contains_cross_sample,
    contains_draw,
    is_clearing,
    last_name,
    nodes,
)
from accum_magic.cell.refuse import GraphCrossesError

_OF_DATA = frozenset(
    {
        "to",
        "cuda",
        "size",
        "len",
        "type",
        "float",
        "double",
        "view",
        "unsqueeze",
        "cat",
        "concat",
        "stack",
        "one_hot",
        "long",
    }
)
_OF_A_MODULE = frozenset({"parameters", "zero_grad", "train", "eval", "state_dict"})


def computed_again(parsed: ParsedCell, found: GraphCrossesError, lookup: Lookup) -> ParsedCell | None:
    """Return the cell with the crossing value computed again above its reader; None where that isn't safe.

    It is safe for a module's call on values that stay as they are; what is drawn inside the call gets a name first.
    """
    places = next(b.places[: b.block_depth + 1] for b in parsed.backwards if b.call.statement is found.call.statement)
    drawn = _drawn_inputs(found.builder)
    if drawn and found.builder in places[-1].body:
        return _with_named_inputs(parsed, found, drawn, places[-1].body)
    body, module = places[-1].body, _called_module(parsed, places, found.builder, lookup)
    reader = next((i for i, s in enumerate(body) if found.reader in nodes(s)), None)
    if module is None or reader is None or found.builder not in body:
        return None
    between = body[body.index(found.builder) + 1 : reader]
    if not all(_leaves_alone(s, found.builder, module) for s in between):
        return None
    backward = next(i for i, s in enumerate(body) if found.call.statement in nodes(s))
    return _with_copy(parsed, found, module, (body, reader, backward))


def _drawn_inputs(builder: ast.stmt) -> list[ast.expr]:
    """Return the arguments of `fake = netG(torch.randn(n, 100, device=device))` that are made on the spot."""
    match builder:
        case ast.Assign(targets=[ast.Name()], value=ast.Call(args=args)):
            return [a for a in args if isinstance(a, ast.Call) and all(map(_makes_data, calls(a)))]
        case _:
            return []


def _makes_data(call: ast.Call) -> bool:
    return last_name(call.func) in DRAWS | FACTORIES | _OF_DATA


def _with_named_inputs(
    parsed: ParsedCell, found: GraphCrossesError, drawn: list[ast.expr], old_body: list[ast.stmt]
) -> ParsedCell:
    """Bind what a call draws to names of its own, so that it can be called again on the same values."""
    used = {n.id for n in nodes(parsed.tree) if isinstance(n, ast.Name)}
    copies: dict[int, object] = {}
    tree = copy.deepcopy(parsed.tree, copies)
    builder = copies[id(found.builder)]
    assert isinstance(builder, ast.Assign)  # noqa: S101 - `_drawn_inputs` has seen to it
    assert isinstance(builder.value, ast.Call)  # noqa: S101 - the same
    names = []
    for argument in drawn:
        names.append(next(_fresh(f"{found.name}_input", used)))
        used.add(names[-1])
        position = builder.value.args.index(copies[id(argument)])  # type: ignore[arg-type]
        builder.value.args[position] = ast.copy_location(ast.Name(id=names[-1], ctx=ast.Load()), argument)
    bound = [
        ast.copy_location(ast.Assign(targets=[ast.copy_location(ast.Name(id=n, ctx=ast.Store()), a)], value=a), builder)
        for n, a in zip(names, drawn, strict=True)
    ]
    copied = [copies[id(s)] for s in old_body]
    body = next(statements for statements in _lists(tree) if statements == copied)
    body[body.index(builder) : body.index(builder)] = bound
    out = parsed_tree(parsed.text, tree)
    return replace(out, named=(*parsed.named, *out.named, *names))


def _called_module(parsed: ParsedCell, places: tuple[Place, ...], builder: ast.stmt, lookup: Lookup) -> str | None:
    """Return the module that a statement such as `fake = netG(noise)` calls."""
    match builder:
        case ast.Assign(targets=[ast.Name()], value=ast.Call(func=func, args=args, keywords=keywords) as value):
            module = path_of(func)
        case _:
            return None
    given = [*args, *(k.value for k in keywords)]
    is_plain = not any(isinstance(n, ast.Call) for a in given for n in nodes(a))
    if module is None or not is_plain or contains_draw(value) or contains_cross_sample(value):
        return None
    fact = None if root(module) in local_names(places) else lookup(module)
    used = {path_of(n.value) for n in nodes(parsed.tree) if isinstance(n, ast.Attribute) and n.attr in _OF_A_MODULE}
    is_module = fact.kind == "module" if fact is not None else module in used
    return module if is_module else None


def _leaves_alone(statement: ast.stmt, builder: ast.stmt, module: str) -> bool:
    """Whether a statement in between changes nothing of what the value is computed from."""
    if is_clearing(statement):
        return True
    effects, read = statement_effects(statement), statement_effects(builder).reads
    inputs = {p for p in read if root(p) != root(module)}
    return not overlap({module}, effects.reads) and not overlap(effects.changes | effects.hands_over, inputs)


def _with_copy(
    parsed: ParsedCell, found: GraphCrossesError, module: str, where: tuple[list[ast.stmt], int, int]
) -> ParsedCell:
    old_body, reader, backward = where
    engine = engine_name(parsed.tree)
    again = next(_fresh(f"{found.name}_again", {n.id for n in nodes(parsed.tree) if isinstance(n, ast.Name)}))
    copies: dict[int, object] = {}
    tree = copy.deepcopy(parsed.tree, copies)
    copied = [copies[id(s)] for s in old_body]
    body = next(statements for statements in _lists(tree) if statements == copied)
    builder = body.index(copies[id(found.builder)])  # type: ignore[arg-type]
    begin = f"{again}.begin({found.name!r}, {found.reader.lineno})"
    body[backward + 1 : backward + 1] = _made(f"{again}.end()", found.call.statement)
    body[reader:reader] = [*_made(begin, found.builder), copy.deepcopy(found.builder)]
    body[builder:builder] = _made(f"{again} = {engine}.Again({module})", found.builder)
    out = parsed_tree(parsed.text, tree)
    return replace(out, named=(*parsed.named, *out.named, again))


def _fresh(name: str, used: set[str]) -> Iterator[str]:
    yield from (c for c in (name, *(f"{name}_{i}" for i in range(2, len(used) + 3))) if c not in used)


def _lists(tree: ast.AST) -> Iterator[list[ast.stmt]]:
    for node in ast.walk(tree):
        lists = (getattr(node, field, None) for field in ("body", "orelse", "finalbody"))
        yield from (found for found in lists if isinstance(found, list))


def _made(text: str, where: ast.stmt) -> list[ast.stmt]:
    """Return a generated statement, in the place of the user's statement it stands for."""
    made = ast.parse(text).body
    for part in (n for s in made for n in ast.walk(s) if hasattr(n, "lineno")):
        ast.copy_location(part, where)
    return made
