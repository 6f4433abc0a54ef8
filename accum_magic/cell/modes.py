"""Modules in training mode: which BatchNorm layers of a step are known before it runs."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator, Sequence

from accum_magic.cell.effects import path_of, root
from accum_magic.cell.namespace import Lookup, NameFact
from accum_magic.cell.recognise import calls, nodes
from accum_magic.cell.units import Unit

_ASKS = frozenset({"parameters", "named_parameters", "modules", "named_modules", "buffers", "state_dict"})


def batch_norms(tree: ast.Module, micro: Sequence[Unit], lookup: Lookup) -> tuple[str, ...]:
    """Return the BatchNorm layers in training mode behind what the micro step names, by their access paths.

    Only what the namespace tells: a module that the cell makes itself, or that a function reaches, waits for the probe.
    """
    first = min((u.line for u in micro), default=0)
    bound = {n.id for n in nodes(tree) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}
    found: dict[str, None] = {}
    for path, fact in _modules(micro, lookup):
        if root(path) not in bound:
            layers = _in_training(tree, path, first, fact)
            found |= dict.fromkeys(f"{path}.{layer}" if layer else path for layer in layers)
    return tuple(found)


def _modules(micro: Iterable[Unit], lookup: Lookup) -> Iterator[tuple[str, NameFact]]:
    """Yield what names a module, in the order of the text: `net.encoder` of `net.encoder(x)`, not all of `net`."""
    for unit in micro:
        # of `net[2](x)` nobody can say which layers it calls
        inner = {n.value for n in nodes(unit.node) if isinstance(n, ast.Attribute | ast.Subscript)}
        for node in nodes(unit.node):
            path = path_of(node) if isinstance(node, ast.expr) and node not in inner else None
            while path and path.rpartition(".")[2] not in _ASKS:
                fact = lookup(path)
                if fact is not None and fact.kind == "module":
                    yield path, fact
                    break
                path = path.rpartition(".")[0]


def _in_training(tree: ast.Module, path: str, line: int, fact: NameFact) -> tuple[str, ...]:
    """Return the layers that will use the statistics of their batch: the cell's own calls above the step decide."""
    in_branch = {c for n in nodes(tree) if isinstance(n, ast.If) for c in calls(n)}
    mode: bool | None = None
    for call in calls(tree):
        asked = _asked(call, path) if call.lineno < line else None
        # of two branches (`if phase == "train": ... else: ...`) the one that trains is the step's
        if asked is not None and (asked or mode is None or call not in in_branch):
            mode = asked
    return fact.training_batch_norms if mode is None else fact.batch_norms if mode else ()


def _asked(call: ast.Call, path: str) -> bool | None:
    """Tell whether a call switches a module, or one that holds it, to training or to evaluation."""
    if not isinstance(call.func, ast.Attribute) or call.func.attr not in {"train", "eval"}:
        return None
    owner = path_of(call.func.value)
    if owner is None or not f"{path}.".startswith(f"{owner}."):
        return None
    said = [*call.args, *(k.value for k in call.keywords)]
    is_off = any(isinstance(value, ast.Constant) and value.value is False for value in said)
    return call.func.attr == "train" and not is_off
