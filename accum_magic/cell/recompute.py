"""A value with a graph that crosses an update, such as a GAN's fake images, is computed anew for the later loss."""

from __future__ import annotations

import ast
import copy
from collections.abc import Iterator, Sequence
from dataclasses import replace

from accum_magic.cell.effects import overlap, path_of, root, statement_effects
from accum_magic.cell.namespace import Lookup
from accum_magic.cell.parse import ParsedCell, Place, local_names, parsed_tree
from accum_magic.cell.recognise import contains_cross_sample, contains_draw, is_clearing, nodes
from accum_magic.cell.refuse import GraphCrossesError

_OF_A_MODULE = frozenset({"parameters", "zero_grad", "train", "eval", "state_dict"})
# A module that the update has changed is noticed, and what the second call changes of its buffers is put back.
_PARAMETERS, _BUFFERS = "{module}.parameters()", "{module}.buffers()"
_NOTE = ("{versions} = [_t._version for _t in ", _PARAMETERS, "]")
_CHECK = ("if {versions} != [_t._version for _t in ", _PARAMETERS, "]:\n", "    raise {error}({message!r})")
_KEEP = ("{buffers} = [(_t, _t.clone()) for _t in ", _BUFFERS, "]")
_PUT_BACK = ("[_t.data.copy_(_v) for _t, _v in {buffers}]",)
_ERROR = '__import__("accum_magic").AccumulateError'


def computed_again(parsed: ParsedCell, found: GraphCrossesError, lookup: Lookup) -> ParsedCell | None:
    """Return the cell with the crossing value computed again above its reader; None where that isn't safe.

    It is safe for a module's call on values that stay as they are; draws inside the call would be others.
    """
    places = next(b.places[: b.block_depth + 1] for b in parsed.backwards if b.call.statement is found.call.statement)
    body, module = places[-1].body, _called_module(parsed, places, found.builder, lookup)
    reader = next((i for i, s in enumerate(body) if found.reader in nodes(s)), None)
    if module is None or reader is None or found.builder not in body:
        return None
    between = body[body.index(found.builder) + 1 : reader]
    if not all(_leaves_alone(s, found.builder, module) for s in between):
        return None
    backward = next(i for i, s in enumerate(body) if found.call.statement in nodes(s))
    return _with_copy(parsed, found, module, (body, reader, backward))


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
    used = {n.id for n in nodes(parsed.tree) if isinstance(n, ast.Name)}
    versions, buffers = (next(_fresh(f"{found.name}_{word}", used)) for word in ("versions", "buffers"))
    message = f"line {found.reader.lineno}: `{module}` was updated; compute `{found.name}` again here."
    words = {"versions": versions, "buffers": buffers, "module": module, "error": _ERROR, "message": message}
    copies: dict[int, object] = {}
    tree = copy.deepcopy(parsed.tree, copies)
    copied = [copies[id(s)] for s in old_body]
    body = next(statements for statements in _lists(tree) if statements == copied)
    builder = body.index(copies[id(found.builder)])  # type: ignore[arg-type]
    again = [*_made(_CHECK, words, found.builder), *_made(_KEEP, words, found.builder), copy.deepcopy(found.builder)]
    body[backward + 1 : backward + 1] = _made(_PUT_BACK, words, found.call.statement)
    body[reader:reader] = again
    body[builder:builder] = _made(_NOTE, words, found.builder)
    out = parsed_tree(parsed.text, tree)
    return replace(out, named=(*parsed.named, *out.named, versions, buffers))


def _fresh(name: str, used: set[str]) -> Iterator[str]:
    yield from (c for c in (name, *(f"{name}_{i}" for i in range(2, len(used) + 3))) if c not in used)


def _lists(tree: ast.AST) -> Iterator[list[ast.stmt]]:
    for node in ast.walk(tree):
        lists = (getattr(node, field, None) for field in ("body", "orelse", "finalbody"))
        yield from (found for found in lists if isinstance(found, list))


def _made(template: Sequence[str], words: dict[str, str], where: ast.stmt) -> list[ast.stmt]:
    """Return generated statements, in the place of the user's statement they stand for."""
    made = ast.parse("".join(template).format(**words)).body
    for part in (n for s in made for n in ast.walk(s) if hasattr(n, "lineno")):
        ast.copy_location(part, where)
    return made
