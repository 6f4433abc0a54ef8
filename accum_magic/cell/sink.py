"""What stands above the line and may run below it all the same (SPEC section 4): sizes, literals, changes of layout."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator, Sequence

from accum_magic.cell.axes import is_layout_change, is_shape_read, is_size_factory
from accum_magic.cell.effects import overlap, path_of
from accum_magic.cell.recognise import is_literal, last_name, nodes
from accum_magic.cell.regions import (
    AFTER,
    BEFORE,
    MICRO,
    Region,
    Slice,
    assigned_value,
    is_literal_unit,
    is_shape_read_unit,
)
from accum_magic.cell.units import Unit


def sink(
    cut: Slice, regions: dict[Unit, frozenset[Region]], fed: Callable[[ast.expr], bool], helpers: frozenset[str]
) -> None:
    """Let literals, sizes and changes of layout run below the line, where splitting commutes with them."""
    members = [u for u in cut.units[: cut.last + 1] if u in regions]
    sizes = frozenset(n for u in members if is_shape_read_unit(u, fed) for n in u.effects.writes)
    for position in range(len(members) - 1, -1, -1):
        unit = members[position]
        value = assigned_value(unit)
        if value is None or regions[unit] != BEFORE or not cut.is_certain(unit):
            continue
        readers = _readers(unit, members[position + 1 :])
        if not any(Region.MICRO in regions[r] for r in readers):
            continue
        is_factory = is_size_factory(value, sizes, helpers)
        is_sized = is_factory and not any(fed(n) and n.id not in sizes for n in _bare_names(value))
        if (is_shape_read(value) or is_sized) and fed(value):
            micro_readers = [r for r in readers if Region.MICRO in regions[r]]
            if not _changed_later(cut, regions, unit) and not _counts_samples(value, unit, micro_readers):
                regions[unit] = BEFORE | MICRO
        elif is_literal_unit(unit) or (is_layout_change(value, sizes) and fed(value)):
            others = _readers(unit, [u for u in cut.units[: cut.last + 1] if u not in regions])
            rebound = any(
                u.effects.writes & unit.effects.writes and regions[u] == BEFORE for u in members[position + 1 :]
            )
            if not rebound and all(regions[r] == MICRO for r in readers) and not _comes_before(others, cut, regions):
                again = any(
                    overlap(u.effects.changes, unit.effects.writes)
                    for u in members[position + 1 :]
                    if Region.MICRO in regions[u]
                )
                regions[unit] = MICRO if again or is_literal(value) else MICRO | AFTER


def _bare_names(node: ast.expr) -> Iterator[ast.Name]:
    """Names in an expression that are not asked for their shape: a size that an earlier triple has read is one."""
    if isinstance(node, ast.Name):
        yield node
    elif not is_shape_read(node):
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.expr):
                yield from _bare_names(child)


def _readers(unit: Unit, behind: Sequence[Unit]) -> list[Unit]:
    """Units that may see what `unit` binds."""
    names = set(unit.effects.writes)
    readers = []
    for other in behind:
        if overlap(other.effects.reads, names) or overlap(other.effects.mutates, names):
            readers.append(other)
        if not other.is_conditional:
            names -= other.effects.kills
    return readers


def _changed_later(cut: Slice, regions: dict[Unit, frozenset[Region]], unit: Unit) -> bool:
    """Whether what a size is read of is changed once more before the micro-batches start."""
    behind = cut.units[cut.units.index(unit) + 1 : cut.last + 1]
    whole = [u for u in behind if regions.get(u, BEFORE) == BEFORE]
    return any(
        overlap(unit.effects.reads, u.effects.changes)
        or overlap(unit.effects.writes, u.effects.mutates | (u.effects.writes - u.effects.kills))
        or overlap(unit.effects.writes, u.effects.writes & u.effects.reads)
        for u in whole
    )


def _counts_samples(value: ast.expr, unit: Unit, readers: Sequence[Unit]) -> bool:
    """Whether a factory numbers the samples and the numbers are calculated with: `0.9 ** torch.arange(len(x))`."""
    if not isinstance(value, ast.Call) or last_name(value.func) not in {"arange", "linspace"}:
        return False
    operands = (side for r in readers for n in nodes(r.node) if isinstance(n, ast.BinOp) for side in (n.left, n.right))
    return last_name(value.func) == "linspace" or any(path_of(o) in unit.effects.writes for o in operands)


def _comes_before(others: Sequence[Unit], cut: Slice, regions: dict[Unit, frozenset[Region]]) -> bool:
    """Whether one of these units, outside the slice, will run before the micro-batches."""
    first = next(i for i, u in enumerate(cut.units) if Region.MICRO in regions.get(u, frozenset()))
    return any(cut.units.index(u) < first for u in others)
