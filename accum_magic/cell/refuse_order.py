"""Statements of a step that cannot be moved out of the way of its micro-batches, and tests that cannot be answered."""

from __future__ import annotations

import ast
from collections.abc import Sequence

from accum_magic.cell.branches import exclude, waits_for
from accum_magic.cell.effects import expression_effects, overlap, overlaps, root
from accum_magic.cell.hoist import Hoist, replaced
from accum_magic.cell.reach import Flow
from accum_magic.cell.recognise import (
    backward_call,
    calls,
    head_of,
    is_clearing,
    is_reentrant,
    last_name,
    nodes,
    returns_jump,
    steps_optimizer,
)
from accum_magic.cell.refuse_step import try_in_step
from accum_magic.cell.regions import MICRO, Placement, Region, Slice, exports_above
from accum_magic.cell.units import Fork, Unit
from accum_magic.errors import Refusal


def _jump(unit: Unit, jump: ast.stmt) -> Refusal:
    word = type(jump).__name__.lower()
    return Refusal(
        f"line {jump.lineno}: `{word}` leaves the step between the forward pass and the backward "
        f"(`{head_of(unit.node)}`). "
        "Move it before the forward pass, or after `backward()`."
    )


def regions(cut: Slice, placement: Placement, common: Sequence[Fork], flow: Flow, hoists: Sequence[Hoist]) -> None:
    """Refuse what cannot be moved out of the way of the micro-batches."""
    micro = [u for u in cut.units if Region.MICRO in placement.regions.get(u, frozenset())]
    first_backward = next(i for i, u in enumerate(cut.units) if backward_call(u.node) is not None)
    for position, unit in enumerate(cut.units):
        runs = placement.regions.get(unit, frozenset())
        if Region.MICRO in runs:
            _inside_slice(unit)
            _test_of_micro_batch(unit, flow, hoists)
            _changes_outer_object(unit, micro, cut)
        if placement.first <= position <= cut.last and not unit.is_head:
            _retains_gradient(unit, micro)
        if unit.is_head:
            _head_of_split(unit, position, cut, placement, common)
        elif placement.first < position <= cut.last and runs != MICRO and not _is_behind_backwards(unit, position, cut):
            above = [u for u in cut.units[:position] if u in micro]
            _between_forward_and_backward(unit, flow, placement, above, is_before=position < first_backward)


def _retains_gradient(unit: Unit, micro: Sequence[Unit]) -> None:
    """`out.retain_grad()`: the gradient of a value that exists once per micro-batch, and of which none is kept."""
    call = next((c for c in calls(unit.node) if last_name(c.func) == "retain_grad"), None)
    if call is not None:
        message = (
            f"line {call.lineno}: `{ast.unparse(call)}` keeps the gradient of a value that is made once per "
            f"micro-batch (from line {micro[0].line} on). Take it out, or run this cell without `%%accumulate`."
        )
        raise Refusal(message)


def _inside_slice(unit: Unit) -> None:
    for node in nodes(unit.node):
        if isinstance(node, ast.Await | ast.Yield | ast.YieldFrom | ast.AsyncFor):
            word = "await" if isinstance(node, ast.Await | ast.AsyncFor) else "yield"
            message = (
                f"line {unit.line}: `{word}` stands between the batch and the loss, inside what runs once per "
                f"micro-batch. Move it before the forward pass or after `backward()`."
            )
            raise Refusal(message)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "super" and not node.args:
            message = (
                f"line {unit.line}: `super()` without arguments stands in the forward pass. Name the class instead."
            )
            raise Refusal(message)
    if isinstance(unit.node, ast.Try | ast.TryStar):
        raise try_in_step(unit.line, None)
    jump = returns_jump(unit.node)
    if jump is not None:
        raise _jump(unit, jump)


def _picks_other_samples(unit: Unit, flow: Flow, hoists: Sequence[Hoist]) -> None:
    """`out[perm]`: positions in the whole batch would be looked up in one micro-batch."""
    named = {h.expression: h.name for h in hoists}
    for node in nodes(replaced(unit.node, named)):
        if isinstance(node, ast.Subscript) and isinstance(node.ctx, ast.Load) and flow.is_fed(node.value):
            index = overlap(expression_effects(node.slice).reads, flow.indices)
            if index is not None:
                message = (
                    f"line {unit.line}: `{ast.unparse(node)}` looks up positions in the whole batch (`{index}`), and a "
                    "micro-batch has only some of its samples. Pick the samples before the forward pass instead."
                )
                raise Refusal(message)


def _test_of_micro_batch(unit: Unit, flow: Flow, named: Sequence[Hoist]) -> None:
    """A conditional expression or a number taken from the outputs would be decided by each micro-batch alone."""
    for node in nodes(unit.node):
        if isinstance(node, ast.IfExp) and flow.is_fed(node.test) and flow.reaches(node.test):
            name = next(iter(sorted(expression_effects(node.test).reads & flow.reaching)), ast.unparse(node.test))
            message = (
                f"line {unit.line}: `{ast.unparse(node)}` tests `{name}`, which is the value of one micro-batch there. "
                "Write it without a test (`torch.where`), or test the full loss after `backward()`."
            )
            raise Refusal(message)
    _picks_other_samples(unit, flow, named)
    value = getattr(unit.node, "value", None)
    if isinstance(unit.node, ast.Assign) and isinstance(value, ast.expr) and _is_number(value):
        name = ast.unparse(unit.node.targets[0])
        message = (
            f"line {unit.line}: `{name}` is a plain number made of the model's outputs, and the loss depends "
            "on it: each "
            "micro-batch would have another one. Compute it from the batch before the forward pass, or keep "
            "it a tensor "
            "with a graph."
        )
        raise Refusal(message)


def _is_number(node: ast.expr) -> bool:
    match node:
        case ast.Call(func=ast.Attribute(attr="item" | "tolist")):
            return True
        case ast.Call(func=ast.Name(id="float" | "int")):
            return True
        case ast.BinOp(left=left, right=right):
            return _is_number(left) or _is_number(right)
        case _:
            return False


def _changes_outer_object(unit: Unit, micro: Sequence[Unit], cut: Slice) -> None:
    """A list or dict from before the step would be changed once per micro-batch."""
    own = {n for u in micro for n in u.effects.writes}
    handed = {p for p in unit.effects.mutates if root(p) not in own and overlaps(p, cut.inputs)}
    if handed and isinstance(unit.node, ast.Expr):
        name = min(handed)
        behind = next((u for u in micro if u.line > unit.line and overlaps(name, u.effects.reads)), unit)
        message = (
            f"line {unit.line} (`{head_of(unit.node)}`) changes `{name}`, which line {behind.line} "
            f"(`{head_of(behind.node)}`) reads for the loss: it would be changed once per micro-batch. Use two "
            "names, or move "
            f"line {unit.line} behind `backward()`."
        )
        raise Refusal(message)


def _head_of_split(unit: Unit, position: int, cut: Slice, placement: Placement, common: Sequence[Fork]) -> None:
    inside = [u for u in cut.units if any(f.node is unit.node for f in u.forks)]
    has_micro = any(placement.runs_in(u, Region.MICRO) for u in inside)
    has_backward = any(backward_call(u.node) is not None for u in inside)
    if isinstance(unit.node, ast.If):
        path = waits_for(unit.node.test, exports_above(cut, placement, unit.node))
        moved = has_micro or any(placement.runs_in(u, Region.BEFORE) and not is_clearing(u.node) for u in inside)
        chooses = has_backward and _is_in_both_branches(unit.node, inside)
        if path is not None and (moved or chooses):
            message = (
                f"line {unit.line}: `{head_of(unit.node)}` tests `{path}`, which is the value of one "
                "micro-batch there. "
                "Write it without a test (`torch.where`), or test the full loss after `backward()`."
            )
            raise Refusal(message)
        if path is not None and position < cut.last:
            _clearing_under_test_of_loss(unit, inside)
    elif isinstance(unit.node, ast.With) and not any(f.node is unit.node for f in common):
        closed = next((i for i in unit.node.items if not is_reentrant(i)), None)
        if closed is not None and (has_micro or has_backward):
            part = (
                "`backward()` but not the forward pass"
                if has_backward
                else ("a part of the forward pass but not `backward()`")
            )
            message = (
                f"line {unit.line}: `with {ast.unparse(closed)}` holds {part}, "
                "and may not be entered once per micro-batch. Put the whole step inside it, or outside."
            )
            raise Refusal(message)


def _is_behind_backwards(unit: Unit, position: int, cut: Slice) -> bool:
    """Whether every backward further down stands in another branch, so that it does not run after the unit."""
    above = any(backward_call(u.node) is not None for u in cut.units[:position])
    below = [u for u in cut.units[position : cut.last + 1] if backward_call(u.node) is not None]
    return above and all(exclude(unit.forks, u.forks) for u in below)


def _clearing_under_test_of_loss(unit: Unit, inside: Sequence[Unit]) -> None:
    clearing = next((u for u in inside if is_clearing(u.node)), None)
    if clearing is not None:
        message = (
            f"line {clearing.line}: `{head_of(clearing.node)}` stands under `{head_of(unit.node)}`, which is asked "
            "with the full loss, after the micro-batches. Put it on a line of its own, before the forward pass."
        )
        raise Refusal(message)


def _is_in_both_branches(node: ast.If, inside: Sequence[Unit]) -> bool:
    """Whether a test decides which loss is back-propagated, together with those inside it."""
    forks = {f for u in inside if backward_call(u.node) is not None for f in u.forks if isinstance(f.node, ast.If)}
    return len({f.field for f in forks if f.node is node}) > 1 or any(f.node in {u.node for u in inside} for f in forks)


def _between_forward_and_backward(
    unit: Unit, flow: Flow, placement: Placement, forward_units: Sequence[Unit], *, is_before: bool
) -> None:
    if is_clearing(unit.node) or not placement.regions.get(unit):
        return
    cleared = next((s for s in nodes(unit.node) if isinstance(s, ast.stmt) and is_clearing(s)), None)
    if cleared is not None and placement.runs_in(unit, Region.AFTER) and is_before:
        message = (
            f"line {cleared.lineno}: `{head_of(cleared)}` stands inside `{head_of(unit.node)}` of line {unit.line}, "
            "which has to run after the backward. Put it on a line of its own, before the forward pass."
        )
        raise Refusal(message)
    if is_before and (steps_optimizer(unit.node) or unit.has_own_step):
        message = (
            f"line {unit.line}: `{head_of(unit.node)}` updates parameters between the forward pass (line "
            f"{forward_units[0].line}) and its backward. Move it behind `backward()`."
        )
        raise Refusal(message)
    stores_data = any(isinstance(n, ast.Attribute) and n.attr == "data" for n in nodes(unit.node))
    changes = unit.effects.mutates | {
        p for p in unit.effects.writes if "." in p
    }  # another module under the name is new
    for module in sorted(flow.modules):
        changed = next((c for c in sorted(changes) if _is_part(c, module, stores_data=stores_data)), None)
        forward = next((u.line for u in forward_units if overlaps(module, u.effects.reads)), None)
        if changed is not None and forward is not None:
            message = (
                f"line {unit.line}: `{head_of(unit.node)}` changes `{root(changed)}` between its forward pass (line "
                f"{forward}) and the backward. Move it before the forward pass, or after `backward()`."
            )
            raise Refusal(message)


def _is_part(changed: str, module: str, *, stores_data: bool) -> bool:
    """Whether a change of one path is a change of the module behind another."""
    owner = module.rpartition(".")[0] or module
    if changed in {module, owner} or module.startswith(changed + "."):
        return True
    return changed.startswith(module + ".") or (changed.startswith(owner + ".") and (stores_data or owner == module))


def order_would_change(early: Unit, late: Unit, path: str, placement: Placement) -> Refusal:
    """Two statements would run in the other order although they share a name."""
    moved = "after the micro-batches" if placement.runs_in(early, Region.AFTER) else "once per micro-batch"
    return Refusal(
        f"line {early.line} (`{head_of(early.node)}`) would run {moved}, but line {late.line} "
        f"(`{head_of(late.node)}`), which runs earlier then, shares `{path}` with it. Use two names, or move line "
        f"{early.line} behind `backward()`."
    )
