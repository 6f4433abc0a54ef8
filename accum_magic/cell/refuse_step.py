"""What in a step cannot be moved out of the way of the micro-batches, said with the line and what to write instead."""

from __future__ import annotations

import ast
from collections.abc import Sequence

from accum_magic.cell.batch import BatchNames, loop_names
from accum_magic.cell.branches import exclude, waits_for
from accum_magic.cell.effects import (
    bound_names,
    expression_effects,
    overlap,
    overlaps,
    path_of,
    root,
    sequence_effects,
    statement_effects,
)
from accum_magic.cell.hoist import Hoist, replaced
from accum_magic.cell.namespace import Lookup, NameFact
from accum_magic.cell.parse import Place, is_loop
from accum_magic.cell.reach import Flow
from accum_magic.cell.recognise import (
    BackwardCall,
    backward_call,
    calls,
    head_of,
    is_clearing,
    is_only_detached,
    is_reentrant,
    last_name,
    returns_jump,
    steps_optimizer,
)
from accum_magic.cell.regions import MICRO, Placement, Region, Slice, exports_above
from accum_magic.cell.units import Fork, Unit, inside
from accum_magic.errors import Refusal


def backward_calls(triple: Sequence[BackwardCall]) -> None:
    """Refuse backwards that take a gradient of their own."""
    for call in triple:
        extra = [a for a in call.call.args if a is not call.loss]
        gradient = next((k for k in call.call.keywords if k.arg in {"gradient", "grad_tensors", "inputs"}), None)
        if extra or gradient is not None:
            given = ast.unparse(extra[0] if extra else gradient.value)  # type: ignore[union-attr]
            message = (
                f"line {call.line}: `backward({given})` is given a gradient, so the loss is no single number whose "
                "weight is known. Reduce the loss first: `loss.mean().backward()` or `loss.sum().backward()`."
            )
            raise Refusal(message)


def different_conditions(first: BackwardCall, second: BackwardCall) -> Refusal:
    """Two losses of one graph, of which one is not always back-propagated."""
    return Refusal(
        f"line {second.line}: this backward and the one in line {first.line} share a graph, but they do not run under "
        f"the same tests. Add the losses up under that test, and call `backward()` once, on the sum."
    )


def gradients_inside(units: Sequence[Unit], lookup: Lookup) -> None:
    """Refuse a forward pass that calls a function which takes gradients itself, such as a gradient penalty."""
    for unit in units:
        for call in calls(unit.node):
            path = path_of(call.func)
            fact = None if path is None else lookup(path)
            if fact is not None and fact.takes_gradients:
                message = (
                    f"line {unit.line}: `{path}` takes gradients inside the loss (`torch.autograd.grad`); "
                    "micro-batches cannot be added up through it. Run this cell without `%%accumulate`."
                )
                raise Refusal(message)


def try_around_part(cut: Slice, call: BackwardCall, places: Sequence[Place]) -> None:
    """Refuse a `try` that holds the backward but not the forward pass it belongs to."""
    owner = places[-1].owner
    if not isinstance(owner, ast.Try | ast.TryStar | ast.ExceptHandler):
        return
    above = places[-2].body[: places[-2].index] if isinstance(owner, ast.Try | ast.TryStar) else []
    for statement in above:
        made = statement_effects(statement).writes
        if overlap(made, cut.inputs) and any(True for _ in calls(statement)) and _is_forward(statement):
            raise _try_in_step(owner.lineno, call)


def _is_forward(statement: ast.stmt) -> bool:
    moves = {"to", "cuda", "cpu", "float", "next", "iter", "view", "reshape", "long", "size", "len", "items"}
    return any(last_name(c.func) not in moves for c in calls(statement))


def _jump(unit: Unit, jump: ast.stmt) -> Refusal:
    word = type(jump).__name__.lower()
    return Refusal(
        f"line {jump.lineno}: `{word}` leaves the step between the forward pass and the backward "
        f"(`{head_of(unit.node)}`). "
        "Move it before the forward pass, or after `backward()`."
    )


def _try_in_step(line: int, call: BackwardCall | None) -> Refusal:
    where = "" if call is None else f" (the backward is in line {call.line})"
    return Refusal(
        f"line {line}: `try` stands around a part of the step{where}: after a failure there half a gradient "
        "would stay. "
        "Put it around the whole step, or around the loop."
    )


def graph_from_earlier_cell(cut: Slice, call: BackwardCall, lookup: Lookup) -> None:
    """Refuse a loss computed from what an earlier cell computed with a graph."""
    outside = next((p for p in sorted(cut.inputs) if _has_graph(lookup(p))), None)
    if outside is not None:
        message = (
            f"line {call.line}: the graph behind `{outside}` was built outside this cell. Put the forward "
            "pass, the loss "
            "and `backward()` together in one cell."
        )
        raise Refusal(message)


def graph_from_inner_step(cut: Slice, flow: Flow, call: BackwardCall) -> None:
    """Refuse a loss computed from what a loop with a step of its own, above it, has computed with a graph."""
    for position, unit in enumerate(cut.units[: cut.last]):
        if not unit.has_own_step:
            continue
        behind = [u for u in cut.units[position + 1 : cut.last] if u in cut.members and not u.is_head]
        nodes = [u.node for u in behind] + [call.loss]
        exposed = sequence_effects([*(u.node for u in behind), ast.Expr(call.loss)]).reads
        carried = {root(p) for p in exposed if overlaps(root(p), unit.effects.writes & flow.reaching)}
        name = next((n for n in sorted(carried) if not is_only_detached(n, nodes)), None)
        if name is not None:
            reader = next((u.line for u in behind if overlaps(name, u.effects.reads)), call.line)
            built = next(u.line for u in inside(unit) if name in u.effects.writes)
            message = (
                f"line {reader}: `{name}` carries a graph that line {built} built in a loop with an update of its own "
                f"(line {unit.line}). Compute `{name}` again after that loop, right before line {reader}."
            )
            raise Refusal(message)


def per_sample(cut: Slice, call: BackwardCall, places: Sequence[Place], lookup: Lookup) -> None:
    """Refuse updates after every single sample: there is no batch to split."""
    inner = next((p.owner for p in reversed(places) if is_loop(p.owner)), None)
    if not isinstance(inner, ast.For):
        return
    source = inner.iter
    if isinstance(source, ast.Call) and last_name(source.func) == "window":
        source = source.args[0]
    loops = [p.owner for p in places if isinstance(p.owner, ast.For) and p.owner is not inner]
    from_loader = frozenset().union(*(loop_names(loop) for loop in loops))
    over = [a for a in source.args if isinstance(a, ast.Name)] if isinstance(source, ast.Call) else [source]
    names = [n.id for n in over if isinstance(n, ast.Name)]
    tensors = [n for n in names if n in from_loader or _is_matrix(lookup(n))]
    is_plain_source = isinstance(source, ast.Name) or last_name(getattr(source, "func", source)) in {"zip", "enumerate"}
    if tensors and is_plain_source and bound_names(inner.target):
        raise _one_by_one(inner.lineno, tensors[0], call)
    if isinstance(source, ast.Call) and last_name(source.func) == "range" and isinstance(inner.target, ast.Name):
        for unit in (u for u in cut.units if u in cut.members):
            indexed = _indexed_by(unit.node, inner.target.id)
            name = next((n for n in indexed if n in from_loader or _is_matrix(lookup(n))), None)
            if name is not None:
                raise _one_by_one(unit.line, name, call)


def _is_matrix(fact: NameFact | None) -> bool:
    few = 2  # a data set held in memory is rows by features; a stack of batches has three dimensions or more
    return fact is not None and fact.kind == "tensor" and 1 <= len(fact.shape) <= few and not fact.reaches


def _indexed_by(node: ast.AST, index: str) -> list[str]:
    parts = [n for n in ast.walk(node) if isinstance(n, ast.Subscript) and isinstance(n.value, ast.Name)]
    return [n.value.id for n in parts if isinstance(n.slice, ast.Name) and n.slice.id == index]  # type: ignore[attr-defined]


def _one_by_one(line: int, name: str, call: BackwardCall) -> Refusal:
    return Refusal(
        f"line {line}: `{name}` is taken one sample at a time, with a backward in line {call.line} for each sample: "
        "there is no batch to split. Pass whole batches to the model, and drop the inner loop."
    )


def nothing_to_split(cut: Slice, call: BackwardCall, places: Sequence[Place]) -> Refusal:
    """No statement of the step both depends on a batch and reaches a module."""
    loss = ast.unparse(call.loss)
    made = [u for u in cut.members if not u.is_head]
    around = next((p.owner for p in reversed(places) if is_loop(p.owner)), None)
    if not made and not list(calls(call.loss)):
        where = "outside this step" if around is not None else "outside this cell"
        return Refusal(
            f"line {call.line}: the graph behind `{loss}` was built {where}. Put the forward pass, the loss "
            "and `backward()` together: in one cell, and in the same loop."
        )
    loop = next((u for u in cut.units if u in cut.members and isinstance(u.node, ast.For | ast.While)), None)
    if loop is not None:
        return Refusal(
            f"line {call.line}: `{loss}` is collected over the loop in line {loop.line} and back-propagated "
            "once behind "
            "it. Call `backward()` inside that loop, for each batch."
        )
    return Refusal(
        f"line {call.line}: found nothing to split: no batch reaches `{loss}`. If a name holds the batch, say "
        "which: %%accumulate 4 --batch x"
    )


def _has_graph(fact: NameFact | None) -> bool:
    return fact is not None and fact.has_graph


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
    for node in ast.walk(unit.node):
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
        raise _try_in_step(unit.line, None)
    jump = returns_jump(unit.node)
    if jump is not None:
        raise _jump(unit, jump)


def _picks_other_samples(unit: Unit, flow: Flow, hoists: Sequence[Hoist]) -> None:
    """`out[perm]`: positions in the whole batch would be looked up in one micro-batch."""
    named = {h.expression: h.name for h in hoists}
    for node in ast.walk(replaced(unit.node, named)):
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
    for node in ast.walk(unit.node):
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
    cleared = next((s for s in ast.walk(unit.node) if isinstance(s, ast.stmt) and is_clearing(s)), None)
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
    stores_data = any(isinstance(n, ast.Attribute) and n.attr == "data" for n in ast.walk(unit.node))
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


def batch_moved(unit: Unit, name: str) -> Refusal:
    """The batch's dimension after a change of axes cannot be told."""
    return Refusal(
        f"line {unit.line}: `{head_of(unit.node)}` moves the axes of `{name}`, and which of them is the batch cannot "
        f"be told. Say it: %%accumulate 4 --dim {name}=1"
    )


def carried_state(name: str, micro: Sequence[Unit]) -> Refusal:
    """A name is read before it is written in the step: it carries state from one batch to the next."""
    read = next((u for u in micro if overlaps(name, u.effects.reads)), micro[0])
    return Refusal(
        f"line {read.line}: `{name}` is read here before the step has bound it, so it carries a value from one batch "
        f"to the next. If it holds one row per sample, say its batch dimension: %%accumulate 4 --dim {name}=1. "
        "If not, compute it after `backward()`, from the full-batch values."
    )


def ambiguous(names: BatchNames, lookup: Lookup, micro: Sequence[Unit], options: object) -> None:
    """Refuse two names that could both be the batch, where the namespace tells before anything has run."""
    main = names.strict[0]
    fact = lookup(main)
    if getattr(options, "batch", ()) or fact is None or fact.rows is None:
        return
    for name in names.fixed:
        other = lookup(name)
        if other is not None and other.kind == "tensor" and not other.reaches and other.rows == fact.rows:
            line = next((u.line for u in micro if overlaps(name, expression_effects(u.node).reads)), micro[0].line)
            raise Refusal(ambiguous_message(line, (name, other.shape), (main, fact.shape)))


def ambiguous_message(line: int, other: tuple[str, tuple[int, ...]], main: tuple[str, tuple[int, ...]]) -> str:
    """Say that two names could be the batch; `(name, shape)` each."""
    counts = [f"`{n}` ({s[0]} {'values' if len(s) == 1 else 'rows'})" for n, s in (other, main)]
    return (
        f"line {line}: {counts[0]} and {counts[1]} could both be the batch.\n"
        f"Say which: %%accumulate 4 --batch {main[0]}"
    )
