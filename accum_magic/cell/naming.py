"""Which names go into the micro step, which of them are split, and along which dimension."""

from __future__ import annotations

import ast
from collections.abc import Sequence
from dataclasses import dataclass

from accum_magic.cell import batch as batches
from accum_magic.cell import refuse_step
from accum_magic.cell.axes import is_made_of_other_axes, keeps_axes, moved_batch_dim, moves_axes, size_dim
from accum_magic.cell.batch import BatchNames
from accum_magic.cell.effects import expression_effects, overlap, overlaps, root, sequence_effects
from accum_magic.cell.hoist import Hoist, replaced
from accum_magic.cell.namespace import Lookup
from accum_magic.cell.parse import Place, is_function, is_loop
from accum_magic.cell.planned import PlanOptions
from accum_magic.cell.reach import Flow
from accum_magic.cell.recognise import BackwardCall, is_transparent, nodes
from accum_magic.cell.regions import Placement, Region, Slice, is_shape_read_unit
from accum_magic.cell.units import Unit, project


@dataclass(frozen=True, slots=True)
class Naming:
    """A triple whose units have their places, asked for the names of its micro step."""

    tree: ast.Module
    options: PlanOptions
    lookup: Lookup
    places: tuple[Place, ...]
    body: Sequence[ast.stmt]  # of the triple
    triple: tuple[BackwardCall, ...]
    cut: Slice
    flow: Flow
    loader: frozenset[str]  # names that the loop around the step binds to its batch
    placement: Placement
    hoists: Sequence[Hoist]

    @property
    def micro(self) -> list[Unit]:
        """The units that run per micro-batch."""
        return [u for u in self.cut.units if self.placement.runs_in(u, Region.MICRO)]

    def batch(self) -> BatchNames:
        """Return the names that are split, and those that are handed over whole.

        Raises:
            Refusal: No name holds the batch, several could, or one carries a value from batch to batch.

        """
        strict: list[str] = []
        loose: list[str] = []
        fixed: list[str] = []
        micro = self.micro
        rebound = frozenset(n for u in micro for n in u.effects.writes)
        batches.refuse_attributes(micro, self.flow.crossing, self.options.declared)
        for name in self._micro_reads():
            if name in rebound and self._is_bound_inside_only(name):
                continue
            hoist = next((h for h in self.hoists if h.name == name), None)
            if hoist is not None:
                (strict if hoist.is_batch else fixed if hoist.is_whole else loose).append(name)
                continue
            kind = self._kind_of(name)
            is_carried = overlaps(name, self.cut.inputs) and (kind != "free" or is_loop(self.places[-1].owner))
            if name in rebound and kind not in {"strict", "loose"}:
                if is_carried:
                    raise refuse_step.carried_state(name, micro)
                kind = "loose" if kind == "free" else "fixed"
            {"strict": strict, "loose": loose, "free": loose, "fixed": fixed}.get(kind, []).append(name)
        if not strict and loose and not self.options.batch:
            strict, loose = self._primary(loose, micro)
        suspicious = [n for n in loose if self._is_free(n) and not self.loader and not self._may_be_split(n, micro)]
        names = BatchNames(tuple(strict), tuple(n for n in loose if n not in suspicious), tuple(fixed + suspicious))
        if not names.strict:
            raise refuse_step.nothing_to_split(self.cut, self.triple[0], self.places)
        refuse_step.ambiguous(names, self.lookup, micro, self.options)
        return names

    def _micro_reads(self) -> list[str]:
        """Paths the micro step takes from outside, in the order of their first use."""
        named = {h.expression: h.name for h in self.hoists}
        kept = {u.node: replaced(u.node, named) for u in self.micro}
        kept |= {c.statement: ast.Expr(value=replaced(c.loss, named)) for c in self.triple}
        branches = project(self.body, self.cut.is_split, lambda node: [kept[node]] if node in kept else [], {})
        exposed = {root(p) for p in sequence_effects(branches).reads}
        order: dict[str, None] = {}
        for node in kept.values():
            found = [n for n in nodes(node) if isinstance(n, ast.Name)]
            order |= dict.fromkeys(n.id for n in sorted(found, key=lambda n: (n.lineno, n.col_offset)))
        return [n for n in order if n in exposed]

    def _is_bound_inside_only(self, name: str) -> bool:
        """Whether a name that a loop of the micro step binds, and that is read behind it, is bound nowhere above."""
        micro = self.micro
        inside = {n for u in micro for n in nodes(u.node)}
        scope = next((p.owner for p in reversed(self.places) if is_function(p.owner)), self.tree)
        above = [n for n in nodes(scope) if getattr(n, "lineno", micro[0].line) < micro[0].line and n not in inside]
        is_bound = any(isinstance(n, ast.Name) and n.id == name and isinstance(n.ctx, ast.Store) for n in above)
        is_argument = any(isinstance(n, ast.arg) and n.arg == name for n in nodes(scope))
        return not (is_bound or is_argument or overlaps(name, self.cut.inputs))

    def _kind_of(self, name: str) -> str:
        before = [u for u in self.cut.units[: self.cut.last + 1] if self.placement.runs_in(u, Region.BEFORE)]
        writers = [u for u in before if name in u.effects.writes and not u.is_head]
        fact = self.lookup(name)
        if not writers and fact is not None and fact.kind in {"library", "module", "function", "value"}:
            return "known"
        if name in self.options.named:
            return "strict"
        dims = self._kept_dims(before)
        if writers and all(is_made_of_other_axes(u.node, dims, self.flow.fed - {name}) for u in writers):
            return "whole"
        if any(batches.is_whole(u) for u in writers):
            return "fixed" if name in self.flow.reaching else "whole"
        if not writers and is_transparent(name):
            return "known"
        if overlaps(name, self.flow.crossing):
            if not writers:
                return "strict" if name in self.loader else "free"
            handed_on = all(batches.is_handed_on(u, self._strict_sources()) for u in writers)
            return "strict" if handed_on and self.loader else "loose"
        if writers:
            return "loose" if any(batches.is_drawn(u) for u in writers) else "fixed"
        if self.options.batch or self.flow.draws_feed or name in batches.callees([u.node for u in self.micro]):
            return "known"
        is_value = name in batches.data_inputs(frozenset({name}), [u.node for u in self.micro], self.lookup)
        return "fixed" if is_value else "known"

    def _kept_dims(self, before: Sequence[Unit]) -> dict[str, int]:
        """Batch dimensions that the user names, and those of what keeps the axes of such a name: `tgt[:-1, :]`."""
        found = dict(self.options.dims)
        for unit in before:
            dims = {found[root(p)] for p in unit.effects.reads if root(p) in found}
            if len(dims) == 1 and keeps_axes(getattr(unit.node, "value", None)):
                found = {**dict.fromkeys(unit.effects.writes, *dims), **found}
        return found

    def dims(self, names: BatchNames) -> tuple[tuple[str, int | None], ...]:
        """Batch dimensions other than 0: those the user names, and those that a change of axes or a size shows.

        None where a function has made the value of a batch that is not in front: its own shape tells.
        """
        found: dict[str, int | None] = dict(self.options.dims)
        before = [u for u in self.cut.units[: self.cut.last + 1] if self.placement.runs_in(u, Region.BEFORE)]
        sizes = frozenset(n for u in before if is_shape_read_unit(u, self.flow.is_fed) for n in u.effects.writes)
        for unit in before:
            value = getattr(unit.node, "value", None)
            for name in sorted(unit.effects.writes & {*names.strict, *names.loose} - {n for n, _ in self.options.dims}):
                moved = moves_axes(unit.node)
                dim = moved_batch_dim(value) if moved else size_dim(value, sizes) if value is not None else None
                inherited = {found.get(p, found.get(root(p), 0)) for p in unit.effects.reads} - {0}
                if dim is None and inherited and isinstance(value, ast.Call) and isinstance(value.func, ast.Name):
                    found[name] = None
                    continue
                if dim is None and inherited and not moved:
                    dim = inherited.pop() if len(inherited) == 1 and keeps_axes(value) else None
                    moved = dim is None
                if moved and dim is None:
                    raise refuse_step.batch_moved(unit, name)
                found[name] = dim or 0
        return tuple((name, dim) for name, dim in found.items() if dim != 0)

    def _strict_sources(self) -> frozenset[str]:
        """The loader's names and what has been unpacked from them."""
        sources = set(self.loader)
        for unit in self.cut.units[: self.cut.last + 1]:
            if self.placement.runs_in(unit, Region.BEFORE) and batches.is_handed_on(unit, frozenset(sources)):
                sources |= unit.effects.writes
        return frozenset(sources)

    def _primary(self, loose: list[str], micro: Sequence[Unit]) -> tuple[list[str], list[str]]:
        """Where no loop binds the batch: it is what the first module is called with."""
        for unit in micro:
            for call in (n for n in nodes(unit.node) if isinstance(n, ast.Call)):
                callee = expression_effects(call.func).reads
                if overlap(callee, self.flow.modules) or overlap(self.flow.modules, callee):
                    reads = {root(p) for a in call.args for p in expression_effects(a).reads}
                    reads |= {root(p) for k in call.keywords for p in expression_effects(k.value).reads}
                    found = next((n for n in loose if n in reads), None)
                    if found is not None:
                        return [found], [n for n in loose if n != found]
        return loose[:1], loose[1:]

    def _is_free(self, name: str) -> bool:
        return overlaps(name, self.cut.inputs)

    def _may_be_split(self, name: str, micro: Sequence[Unit]) -> bool:
        statements = [u.node for u in micro]
        views = [n for u in micro if batches.is_view_of(name, u) for n in u.effects.writes]
        return any(batches.is_in_target_position(n, statements) for n in (name, *views))
