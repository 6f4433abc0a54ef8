"""`ParsedCell` → `Plan`: for each triple of a cell what runs when, and which names go in and come out."""

from __future__ import annotations

import ast
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from accum_magic.cell import batch as batches
from accum_magic.cell import refuse, refuse_order, refuse_step
from accum_magic.cell.axes import (
    factory_helpers,
)
from accum_magic.cell.branches import Path, conditions_of, roots_of, waits_for
from accum_magic.cell.definitions import Definitions
from accum_magic.cell.effects import expression_effects, overlap, overlaps, root, sequence_effects
from accum_magic.cell.hoist import Hoist, hoists_of
from accum_magic.cell.liveness import live_after
from accum_magic.cell.modes import batch_norms
from accum_magic.cell.namespace import Lookup, NameFact, nothing_known
from accum_magic.cell.naming import Naming
from accum_magic.cell.parse import Backward, ParsedCell, Place, enclosing_loops, local_names
from accum_magic.cell.planned import Plan, PlanOptions, StepPlan
from accum_magic.cell.reach import Flow
from accum_magic.cell.recognise import BackwardCall, is_literal, names_with_gradient, nodes
from accum_magic.cell.recompute import computed_again
from accum_magic.cell.regions import (
    MICRO,
    Placement,
    Region,
    Slice,
    backward_slice,
    conflict,
    exports_above,
    place_rest,
    slice_regions,
)
from accum_magic.cell.sink import sink
from accum_magic.cell.triples import Candidates, made_above, triple_size
from accum_magic.cell.units import Fork, Unit


def plan(parsed: ParsedCell, options: PlanOptions | None = None, lookup: Lookup = nothing_known) -> Plan:
    """Plan the rewrite of a cell.

    Raises:
        Refusal: The cell cannot be rewritten exactly; the message says why and what to do.

    """
    options = options or PlanOptions()
    for _ in range(4 * len(parsed.backwards)):  # a value may be built of another that crosses too
        try:
            return _plan(parsed, options, lookup)
        except refuse.GraphCrossesError as crossing:
            again = computed_again(parsed, crossing, lookup)
            if again is None:
                raise
            parsed = again
    return _plan(parsed, options, lookup)


def _plan(parsed: ParsedCell, options: PlanOptions, lookup: Lookup) -> Plan:
    refuse.whole_cell(parsed, lookup)
    blocks: dict[int, list[Backward]] = {}
    for backward in parsed.backwards:
        blocks.setdefault(id(backward.places[backward.block_depth].body), []).append(backward)
    given = _Given(parsed, options, _of_this_cell(parsed, lookup))
    steps = [step for block in blocks.values() for step in _plan_block(given, block)]
    return Plan(parsed, options, tuple(steps))


def _of_this_cell(parsed: ParsedCell, lookup: Lookup) -> Lookup:
    """Look up names in the namespace, but not the data under names that the cell itself binds anew."""
    bound = {n.id for n in nodes(parsed.tree) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}

    def known(path: str) -> NameFact | None:
        fact = lookup(path)
        is_stale = root(path) in bound and fact is not None and fact.kind in {"tensor", "container", "value", "object"}
        return None if is_stale else fact

    return known


def _beyond(local: frozenset[str], lookup: Lookup) -> Lookup:
    """Look up names in the namespace, but not those that stand for something of their own here."""
    return lambda path: None if root(path) in local else lookup(path)


@dataclass(frozen=True, slots=True)
class _Given:
    """What every step of a cell is planned with."""

    parsed: ParsedCell
    options: PlanOptions
    lookup: Lookup


def _plan_block(given: _Given, backwards: Sequence[Backward]) -> list[StepPlan]:
    depth = backwards[0].block_depth
    places = backwards[0].places[: depth + 1]
    steps: list[StepPlan] = []
    start = 0
    fed = made_above(places, _beyond(local_names(places), given.lookup))
    while backwards:
        count = triple_size(Candidates(places, start, tuple(backwards)), partial(_built, given, fed))
        triple, last = [b.call for b in backwards[:count]], backwards[count - 1].places[depth].index
        if count < len(backwards) and backwards[count].places[depth].index == last:
            raise refuse.several_updates_in_one_statement(backwards[count].call, places[-1].body[last])
        planner = _Planner(given, places, (start, last + 1), triple)
        refuse.graph_from_earlier_step(planner.cut, steps, triple[0])
        steps.append(planner.plan(fed))
        fed |= planner.handed_on()  # what earlier triples of the block have made of the batch
        backwards, start = backwards[count:], last + 1
    return steps


def _built(given: _Given, fed: frozenset[str], joint: Candidates, count: int) -> list[Unit]:
    """What the first `count` backwards could share with the last one: the units above them that build a graph."""
    planner = _Planner(given, joint.places, (joint.start, joint.top(-1) + 1), joint.calls)
    return planner.built(fed, joint.calls[count - 1])


class _Planner:
    """Plans one triple, in statements `span[0]` to `span[1] - 1` of a list; each method is one stage."""

    def __init__(
        self, given: _Given, places: tuple[Place, ...], span: tuple[int, int], triple: Sequence[BackwardCall]
    ) -> None:
        self.places, self.span, self.triple = places, span, tuple(triple)
        self.parsed, self.options = given.parsed, given.options
        definitions = Definitions(given.parsed.tree, places, given.lookup)
        self.lookup = definitions.lookup(_beyond(local_names(places), given.lookup))
        self.body = places[-1].body[span[0] : span[1]]
        self.cut = backward_slice(self.body, self.triple)
        self.flow = Flow(self.lookup, definitions.uses, rows_first=not self.options.dims)
        self.loader: frozenset[str] = frozenset()

    def plan(self, fed: frozenset[str]) -> StepPlan:
        """Plan the triple; `fed` are names that earlier triples of the block have computed from the batch."""
        refuse_step.backward_calls(self.triple)
        refuse_step.try_around_part(self.cut, self.triple[0], self.places)
        refuse_step.graph_from_earlier_cell(self.cut, self.triple[0], self.lookup)
        refuse_step.per_sample(self.cut, self.triple[0], self.places, self.lookup)
        regions, hoists = self._regions(fed)
        if not any(r == MICRO for r in regions.values()):
            self.flow = Flow(self.lookup, self.flow.uses, rows_first=self.flow.rows_first, doubts_functions=True)
            regions, hoists = self._regions(fed)
        refuse_step.graph_from_inner_step(self.cut, self.flow, self.triple[0])
        if not any(r == MICRO for r in regions.values()):
            raise refuse_step.nothing_to_split(self.cut, self.triple[0], self.places)
        refuse_step.gradients_inside([u for u in self.cut.units if u in self.cut.members], self.lookup)
        sink(self.cut, regions, self.flow.is_fed, factory_helpers(self.parsed.tree))
        placement = place_rest(self.cut, regions)
        common = _common_forks(self.cut, placement, self.triple)
        refuse_order.regions(self.cut, placement, common, self.flow, hoists)
        clash = conflict(self.cut, placement, self.flow.crossing)
        if clash is not None:
            raise refuse_order.order_would_change(*clash, placement)
        awaited = self._awaited(placement)
        hoists = [h for h in hoists if h.statement in {u.node for u in self._micro(placement)}]
        naming = Naming(
            self.parsed.tree, self.options, self.lookup, self.places, self.body, self.triple, self.cut, self.flow,
            self.loader, placement, hoists,
        )  # fmt: skip
        names = naming.batch()
        read, unread = self._outputs(placement)
        start, stop = self.span
        return StepPlan(
            places=self.places,
            start=start,
            stop=stop,
            cut=self.cut,
            placement=placement,
            common=common,
            hoists=tuple(hoists),
            backwards=self.triple,
            roots=roots_of(self.cut.units, self.triple),
            conditions=self._conditions(common, awaited),
            awaited=awaited,
            batch=names,
            dims=naming.dims(names),
            read=read,
            unread=unread,
            unknown_callees=frozenset(self.flow.unknown),
            batch_norms=batch_norms(self.parsed.tree, self._micro(placement), self.lookup),
        )

    def built(self, fed: frozenset[str], until: BackwardCall) -> list[Unit]:
        """Return what builds a graph above a backward of the triple; nothing is refused yet."""
        regions, _ = self._regions(fed)
        above = self.cut.units[: next(i for i, u in enumerate(self.cut.units) if u.node is until.statement)]
        return [u for u in above if regions.get(u) == MICRO]

    def _regions(self, fed: frozenset[str]) -> tuple[dict[Unit, frozenset[Region]], list[Hoist]]:
        """Place the slice, and find what its micro-batches have to be given from before the loop."""
        self._seed()
        self.flow.seed(n for n in fed if overlaps(n, self.cut.inputs))
        hoists: list[Hoist] = []
        regions = slice_regions(self.cut, self.flow, lambda unit, flow: hoists.extend(hoists_of(unit, flow)))
        return regions, hoists

    def handed_on(self) -> frozenset[str]:
        """Names that a later triple of the block may take for the batch's: they hold something per sample."""
        units = [u for u in self.cut.units if not u.is_head]
        made = [u for u in units if batches.is_drawn(u) or (u not in self.cut.members and self.flow.is_fed(u.node))]
        bound = {n for u in made if not self.flow.reaches(u.node) for n in u.effects.writes}
        exports = {n for u in self.cut.members for n in u.effects.writes if n in self.flow.fed}
        return frozenset(self.flow.crossing | bound | exports)

    def _seed(self) -> None:
        """Say what is known of the batch before the first statement of the block."""
        nodes = [u.node for u in self.cut.members if not u.is_head] + [c.loss for c in self.triple]
        called = batches.callees(nodes)
        named = self.flow.named = self.options.declared | {name for name, _ in self.options.dims}
        self.loader = self.options.declared
        if not self.options.batch:
            self.loader = batches.seeds(self.cut.inputs, enclosing_loops(self.places), called)
        self.flow.reaching |= names_with_gradient(self.parsed.tree) - self.loader - named
        self.flow.seed(self.loader | named)
        above = frozenset() if self.options.batch else batches.computed_above(self.places[:-1]) & self.cut.inputs
        self.flow.seed(n for n in above if n not in called and batches.is_in_target_position(n, nodes))
        if not self.loader:
            self.flow.draws_feed = True
            members = [u for u in self.cut.units if u in self.cut.members and not u.is_head]
            found = batches.slices_inside_calls(members)
            self.flow.slices |= {s for s in found if not (self.flow.reaches(s) or self._binds(members, s))}
            if not batches.samples_itself(members, self.cut.inputs, self.lookup):
                self.flow.seed(batches.data_inputs(self.cut.inputs, nodes, self.lookup) - self.flow.reaching)

    def _binds(self, members: Sequence[Unit], node: ast.Subscript) -> bool:
        """Whether a slice is taken of something that the step itself computes."""
        return any(overlap(expression_effects(node.value).reads, u.effects.writes) for u in members)

    def _micro(self, placement: Placement) -> list[Unit]:
        return [u for u in self.cut.units if placement.runs_in(u, Region.MICRO)]

    def _outputs(self, placement: Placement) -> tuple[tuple[str, ...], tuple[str, ...]]:
        after = [u for u in self.cut.units if placement.runs_in(u, Region.AFTER)]
        rest = self.places[-1].body[self.span[1] :]
        live = live_after(self.places, rest)
        heads = [u for u in self.cut.units if u.is_head]
        reads = {root(p) for u in after for p in u.effects.reads} | live.read
        reads |= {root(p) for u in heads for p in u.effects.reads if self._has_after(u, placement)}
        deleted = {n for u in after for n in u.effects.deletes}
        deleted |= sequence_effects(rest).deletes
        order = [n for u in self._micro(placement) for n in sorted(u.effects.writes) if n in placement.exports]
        order = list(dict.fromkeys(order))
        read = tuple(n for n in order if root(n) in reads)
        losses = {root(p) for c in self.triple for p in expression_effects(c.loss).reads}
        unread = tuple(n for n in order if n not in read and (live.at_module or n in deleted or n in losses))
        return read, unread

    def _has_after(self, head: Unit, placement: Placement) -> bool:
        return any(placement.runs_in(u, Region.AFTER) and any(f.node is head.node for f in u.forks)
                   for u in self.cut.units)  # fmt: skip

    def _conditions(self, common: Sequence[Fork], awaited: frozenset[ast.stmt]) -> tuple[tuple[Fork, ...], ...]:
        """Say under which branches the backwards run; all losses of the triple have to share them."""
        forks = {u.node: u.forks[len(common) :] for u in self.cut.units}
        found: dict[frozenset[Path], BackwardCall] = {}
        for group in roots_of(self.cut.units, self.triple):
            paths = [tuple(f for f in forks[c.statement] if isinstance(f.node, ast.If)) for c in group]
            found.setdefault(conditions_of(paths), group[0])
        if len(found) > 1:
            raise refuse_step.different_conditions(*list(found.values())[:2])
        asked = {tuple(f for f in path if f.node not in awaited) for path in next(iter(found))}
        return () if () in asked else tuple(sorted(asked, key=lambda path: [f.node.lineno for f in path]))

    def _awaited(self, placement: Placement) -> frozenset[ast.stmt]:
        around = {f.node for u in self.cut.units if u.node in {c.statement for c in self.triple} for f in u.forks}
        tests = [n for n in around if isinstance(n, ast.If)]
        return frozenset(n for n in tests if waits_for(n.test, exports_above(self.cut, placement, n)))


def _common_forks(cut: Slice, placement: Placement, triple: Sequence[BackwardCall]) -> tuple[Fork, ...]:
    """Compound statements around the whole step."""
    statements = {c.statement for c in triple}
    inside = [u.forks for u in cut.units if u.node in statements]
    literal = [u for u in cut.units if is_literal(getattr(u.node, "value", ast.Name(id="_")))]
    inside += [u.forks for u in cut.units if placement.regions.get(u) == MICRO and u not in literal and not u.is_head]
    shortest = min(inside, key=len)
    count = 0
    while count < len(shortest) and all(forks[count] == shortest[count] for forks in inside):
        count += 1
    return shortest[:count]
