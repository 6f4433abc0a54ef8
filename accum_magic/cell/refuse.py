"""What cannot be rewritten exactly, said with the line, what was found there, and what to write instead."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Sequence

from accum_magic.cell.batch import BatchNames, callees, loop_names
from accum_magic.cell.effects import bound_names, expression_effects, overlap, overlaps, path_of, root, statement_effects
from accum_magic.cell.frameworks import framework_call
from accum_magic.cell.namespace import Lookup, NameFact
from accum_magic.cell.parse import ParsedCell, Place, is_loop
from accum_magic.cell.reach import Flow
from accum_magic.cell.recognise import (
    BackwardCall,
    backward_call,
    calls,
    is_clearing,
    is_reentrant,
    is_update,
    last_name,
    returns_jump,
)
from accum_magic.cell.regions import MICRO, Placement, Region, Slice, backward_slice
from accum_magic.cell.units import Fork, Unit
from accum_magic.errors import Refusal

_ACCUMULATION_WORDS = ("accum", "grad_acc", "virtual_batch")


def whole_cell(parsed: ParsedCell, lookup: Lookup) -> None:
    """Refuse what can be told without a plan."""
    _autograd_grad(parsed)
    _step_in_hook(parsed)
    if not parsed.backwards:
        raise _no_backward(parsed, lookup)
    _accumulates_by_hand(parsed)
    _updates_behind_loop(parsed)
    _hook_of_earlier_cell(parsed, lookup)


def _no_backward(parsed: ParsedCell, lookup: Lookup) -> Refusal:
    found = framework_call(parsed.tree, lookup)
    if found is not None:
        return Refusal(found)
    inside = next((c for c in _all_calls(parsed) if last_name(c.func) == "backward"), None)
    if inside is not None:
        return Refusal(
            f"line {inside.lineno}: `backward()` is called inside an expression, so its step cannot be found. Write it as "
            "a statement of its own, in a `for` loop."
        )
    return Refusal(
        "no `.backward()` in this cell, so there is no training step to split. Put `%%accumulate` on the cell "
        "(or on the function's own cell) in which `loss.backward()` is written."
    )


def _autograd_grad(parsed: ParsedCell) -> None:
    for call in _all_calls(parsed):
        doubles = any(k.arg == "create_graph" and not _is_false(k.value) for k in call.keywords)
        name = last_name(call.func)
        if (name == "grad" and "autograd" in ast.unparse(call.func)) or (name == "backward" and doubles):
            message = (
                f"line {call.lineno}: `{_short(call)}` takes gradients of gradients or outside of "
                "`.backward()`; micro-batches cannot be added up through it. Run this cell without `%%accumulate`."
            )
            raise Refusal(message)


def _short(call: ast.Call) -> str:
    doubles = [ast.unparse(k) for k in call.keywords if k.arg == "create_graph"]
    return f"{ast.unparse(call.func)}({', '.join(doubles)})" if doubles else ast.unparse(call.func)


def _is_false(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and not node.value


def _step_in_hook(parsed: ParsedCell) -> None:
    for call in _all_calls(parsed):
        if last_name(call.func) in {"register_post_accumulate_grad_hook", "register_hook"}:
            if any(last_name(c.func) == "step" for a in call.args for c in calls(a)) or _hook_steps(parsed, call):
                message = (
                    f"line {call.lineno}: an optimizer step runs in a backward hook, so it would run once per "
                    "micro-batch. Call `optimizer.step()` after `loss.backward()` instead."
                )
                raise Refusal(message)


def _hook_steps(parsed: ParsedCell, call: ast.Call) -> bool:
    names = {a.id for a in call.args if isinstance(a, ast.Name)}
    functions = [n for n in ast.walk(parsed.tree) if isinstance(n, ast.FunctionDef) and n.name in names]
    return any(last_name(c.func) == "step" for f in functions for c in calls(f))


def _accumulates_by_hand(parsed: ParsedCell) -> None:
    for backward in parsed.backwards:
        block = backward.places[backward.block_depth]
        for statement in block.body:
            if _is_step_every_k(statement):
                line = statement.lineno
                message = (
                    f"line {line}: this cell already accumulates gradients by hand (`{_head(statement)}` around the "
                    "optimizer's step). Write the plain cell: drop the `if` and the division of the loss, call "
                    "`zero_grad()`, `backward()` and `step()` for every batch, and give the loader the large batch size."
                )
                raise Refusal(message)
        words = ast.unparse(ast.Module(block.body, [])).lower()
        divisor = next((n for n in _divisors(block.body) if any(w in n.lower() for w in _ACCUMULATION_WORDS)), None)
        if divisor is not None and words:
            message = (
                f"line {backward.call.line}: this cell already accumulates gradients by hand (the loss is divided by "
                f"`{divisor}`). Write the plain cell: the undivided loss, and a step for every batch."
            )
            raise Refusal(message)


def _is_step_every_k(statement: ast.stmt) -> bool:
    if not (isinstance(statement, ast.If) and any(isinstance(n, ast.Mod) for n in ast.walk(statement.test))):
        return False
    if any(backward_call(s) for s in ast.walk(statement) if isinstance(s, ast.stmt)):
        return False
    steps = [c for s in statement.body for c in calls(s) if last_name(c.func) == "step"]
    return any("sched" not in ast.unparse(c.func).lower() for c in steps)


def _updates_behind_loop(parsed: ParsedCell) -> None:
    """A loop that only back-propagates, with the update behind it, adds up gradients already."""
    for backward in parsed.backwards:
        place = backward.places[backward.block_depth]
        if not (is_loop(place.owner) and backward.block_depth):
            continue
        around = backward.places[backward.block_depth - 1]
        inside = any(is_update(s) for s in place.body)
        behind = [s for s in around.body[around.index + 1 :] if any(last_name(c.func) == "step" for c in calls(s))]
        if not inside and behind and not isinstance(behind[0], ast.For | ast.While):
            message = (
                f"line {place.owner.lineno}: this cell already accumulates gradients by hand (the loop calls `backward()`, "  # type: ignore[attr-defined]
                f"line {behind[0].lineno} updates behind it). Write the plain cell: one forward pass, `backward()` and "
                "`step()` for the whole batch, without the inner loop."
            )
            raise Refusal(message)


def _hook_of_earlier_cell(parsed: ParsedCell, lookup: Lookup) -> None:
    """An optimizer step in a backward hook that was registered before this cell."""
    paths = {p for c in _all_calls(parsed) if (p := path_of(c.func)) is not None}
    for path in sorted(paths):
        fact = lookup(path)
        if fact is not None and fact.stepping_hook is not None:
            message = (
                f"`{path}` has a backward hook (`{fact.stepping_hook}`) that steps an optimizer, so it would run once per "
                "micro-batch. Remove the hook, and call `optimizer.step()` after `loss.backward()`."
            )
            raise Refusal(message)


def _divisors(body: Sequence[ast.stmt]) -> Iterator[str]:
    for statement in body:
        for node in ast.walk(statement):
            if isinstance(node, ast.BinOp | ast.AugAssign) and isinstance(node.op, ast.Div):
                yield ast.unparse(node.right if isinstance(node, ast.BinOp) else node.value)


def _head(statement: ast.stmt) -> str:
    return ast.unparse(statement).splitlines()[0].rstrip(":")


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


def several_updates_in_one_statement(call: BackwardCall, around: ast.stmt) -> Refusal:
    """Two updates inside one compound statement cannot be taken apart."""
    return Refusal(
        f"line {call.line}: a second backward with an update of its own stands inside `{_head(around)}` of line "
        f"{around.lineno}. Give each update its own statement."
    )


def between(body: Sequence[ast.stmt], first: BackwardCall, second: BackwardCall) -> list[ast.stmt]:
    """Return the statements of a list that stand between two backwards."""
    simple = [n for s in body for n in ast.walk(s) if isinstance(n, ast.stmt)]
    return [s for s in simple if first.line < s.lineno < second.line and not isinstance(s, ast.With | ast.If)]


def changes_parameters(statement: ast.stmt) -> bool:
    """Tell whether a statement may change parameters or gradients, as far as the next backward is concerned."""
    return is_update(statement) or is_clearing(statement)


def shares_modules(body: Sequence[ast.stmt], calls_before: Sequence[BackwardCall], call: BackwardCall) -> bool:
    """Tell whether two losses of a block go through a module of the same name."""
    first, second = backward_slice(body, calls_before), backward_slice(body, [call])
    left = callees([u.node for u in first.members if not u.is_head])
    right = callees([u.node for u in second.members if not u.is_head])
    losses = {n for n in left & right if "loss" in n.lower() or "crit" in n.lower() or n.startswith(("nn", "F"))}
    return bool((left & right) - losses)


def unknown_batch_names(parsed: ParsedCell, named: frozenset[str]) -> None:
    """Refuse names in `--batch` or `--dim` that the cell does not have."""
    used = {n.id for n in ast.walk(parsed.tree) if isinstance(n, ast.Name | ast.arg) and hasattr(n, "id")}
    used |= {n.arg for n in ast.walk(parsed.tree) if isinstance(n, ast.arg)}
    for name in sorted(named - used):
        message = f"--batch or --dim names `{name}`, which this cell does not use. Check the spelling."
        raise Refusal(message)


def graph_from_earlier_step(cut: Slice, steps: Sequence[object], call: BackwardCall) -> None:
    """Refuse a loss whose graph starts before an update of the same cell."""
    for step in steps:
        exports = step.placement.exports  # type: ignore[attr-defined]
        used = sorted(p for p in cut.inputs if root(p) in exports)
        if used:
            name = root(used[0])
            built = next(u.line for u in step.micro_units if name in u.effects.writes)  # type: ignore[attr-defined]
            reader = next((u.line for u in cut.units if u in cut.members and overlaps(name, u.effects.reads)), call.line)
            message = (
                f"line {reader}: `{name}` carries a graph that line {built} built before an update in between. "
                f"Compute `{name}` again after that update, right before line {reader}."
            )
            raise Refusal(message)


def try_around_part(cut: Slice, call: BackwardCall, places: Sequence[Place], start: int) -> None:
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
        f"line {jump.lineno}: `{word}` leaves the step between the forward pass and the backward (`{_head(unit.node)}`). "
        "Move it before the forward pass, or after `backward()`."
    )


def _try_in_step(line: int, call: BackwardCall | None) -> Refusal:
    where = "" if call is None else f" (the backward is in line {call.line})"
    return Refusal(
        f"line {line}: `try` stands around a part of the step{where}: after a failure there half a gradient would stay. "
        "Put it around the whole step, or around the loop."
    )


def graph_from_earlier_cell(cut: Slice, call: BackwardCall, lookup: Lookup) -> None:
    """Refuse a loss computed from what an earlier cell computed with a graph."""
    outside = next((p for p in sorted(cut.inputs) if _has_graph(lookup(p))), None)
    if outside is not None:
        message = (
            f"line {call.line}: the graph behind `{outside}` was built outside this cell. Put the forward pass, the loss "
            "and `backward()` together in one cell."
        )
        raise Refusal(message)


def per_sample(cut: Slice, call: BackwardCall, places: Sequence[Place], lookup: Lookup) -> None:
    """Refuse updates after every single sample: there is no batch to split."""
    inner = next((p.owner for p in reversed(places) if is_loop(p.owner)), None)
    if not isinstance(inner, ast.For):
        return
    source = inner.iter
    loops = [p.owner for p in places if isinstance(p.owner, ast.For) and p.owner is not inner]
    from_loader = frozenset().union(*(loop_names(loop) for loop in loops))
    over = [a for a in source.args if isinstance(a, ast.Name)] if isinstance(source, ast.Call) else [source]
    names = [n.id for n in over if isinstance(n, ast.Name)]
    tensors = [n for n in names if n in from_loader or _is_matrix(lookup(n))]
    is_plain_source = isinstance(source, ast.Name) or last_name(getattr(source, "func", source)) in {"zip", "enumerate"}
    if tensors and is_plain_source and bound_names(inner.target):
        raise _one_by_one(inner.lineno, tensors[0], call)
    if isinstance(source, ast.Call) and last_name(source.func) == "range" and isinstance(inner.target, ast.Name):
        for unit in cut.members:
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
    loop = next((u for u in made if isinstance(u.node, ast.For | ast.While)), None)
    if loop is not None:
        return Refusal(
            f"line {call.line}: `{loss}` is collected over the loop in line {loop.line} and back-propagated once behind "
            "it. Call `backward()` inside that loop, for each batch."
        )
    return Refusal(
        f"line {call.line}: found nothing to split: no batch reaches `{loss}`. If a name holds the batch, say "
        "which: %%accumulate 4 --batch x"
    )


def _has_graph(fact: NameFact | None) -> bool:
    return fact is not None and fact.has_graph


def regions(cut: Slice, placement: Placement, common: Sequence[Fork], flow: Flow) -> None:
    """Refuse what cannot be moved out of the way of the micro-batches."""
    micro = [u for u in cut.units if Region.MICRO in placement.regions.get(u, frozenset())]
    for position, unit in enumerate(cut.units):
        runs = placement.regions.get(unit, frozenset())
        if Region.MICRO in runs:
            _inside_slice(unit)
            _test_of_micro_batch(unit, flow)
            _changes_outer_object(unit, micro, cut)
        if unit.is_head:
            _head_of_split(unit, cut, placement, common)
        elif placement.first < position <= cut.last and runs != MICRO:
            _between_forward_and_backward(unit, flow, placement, micro)


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
            message = f"line {unit.line}: `super()` without arguments stands in the forward pass. Name the class instead."
            raise Refusal(message)
    if isinstance(unit.node, ast.Try | ast.TryStar):
        raise _try_in_step(unit.line, None)
    jump = returns_jump(unit.node)
    if jump is not None:
        raise _jump(unit, jump)


def _test_of_micro_batch(unit: Unit, flow: Flow) -> None:
    """A conditional expression or a number taken from the outputs would be decided by each micro-batch alone."""
    for node in ast.walk(unit.node):
        if isinstance(node, ast.IfExp) and flow.is_fed(node.test) and flow.reaches(node.test):
            name = next(iter(sorted(expression_effects(node.test).reads & flow.reaching)), ast.unparse(node.test))
            message = (
                f"line {unit.line}: `{ast.unparse(node)}` tests `{name}`, which is the value of one micro-batch there. "
                "Write it without a test (`torch.where`), or test the full loss after `backward()`."
            )
            raise Refusal(message)
    value = getattr(unit.node, "value", None)
    if isinstance(unit.node, ast.Assign) and isinstance(value, ast.expr) and _is_number(value):
        name = ast.unparse(unit.node.targets[0])
        message = (
            f"line {unit.line}: `{name}` is a plain number made of the model's outputs, and the loss depends on it: each "
            "micro-batch would have another one. Compute it from the batch before the forward pass, or keep it a tensor "
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
        name = sorted(handed)[0]
        behind = next((u for u in micro if u.line > unit.line and overlaps(name, u.effects.reads)), unit)
        message = (
            f"line {unit.line} (`{_head(unit.node)}`) changes `{name}`, which line {behind.line} "
            f"(`{_head(behind.node)}`) reads for the loss: it would be changed once per micro-batch. Use two names, or move "
            f"line {unit.line} behind `backward()`."
        )
        raise Refusal(message)


def _head_of_split(unit: Unit, cut: Slice, placement: Placement, common: Sequence[Fork]) -> None:
    inside = [u for u in cut.units if any(f.node is unit.node for f in u.forks)]
    has_micro = any(placement.runs_in(u, Region.MICRO) for u in inside)
    if isinstance(unit.node, ast.If):
        path = overlap(unit.effects.reads, placement.exports)
        moved = has_micro or any(placement.runs_in(u, Region.BEFORE) and not is_clearing(u.node) for u in inside)
        if path is not None and moved:
            message = (
                f"line {unit.line}: `{_head(unit.node)}` tests `{path}`, which is the value of one micro-batch there. "
                "Write it without a test (`torch.where`), or test the full loss after `backward()`."
            )
            raise Refusal(message)
    elif isinstance(unit.node, ast.With) and not any(f.node is unit.node for f in common):
        closed = next((i for i in unit.node.items if not is_reentrant(i)), None)
        if closed is not None and has_micro:
            message = (
                f"line {unit.line}: `with {ast.unparse(closed)}` holds a part of the forward pass but not "
                "`backward()`, and may not be entered once per micro-batch. Put the whole step inside it, or outside."
            )
            raise Refusal(message)


def _between_forward_and_backward(
    unit: Unit, flow: Flow, placement: Placement, forward_units: Sequence[Unit]
) -> None:
    if is_clearing(unit.node) or not placement.regions.get(unit):
        return
    stores_data = any(isinstance(n, ast.Attribute) and n.attr == "data" for n in ast.walk(unit.node))
    for module in sorted(flow.modules):
        changed = next((c for c in sorted(unit.effects.changes) if _is_part(c, module, stores_data=stores_data)), None)
        if changed is not None:
            forward = next(u.line for u in forward_units if overlaps(module, u.effects.reads))
            message = (
                f"line {unit.line}: `{_head(unit.node)}` changes `{root(changed)}` between its forward pass (line "
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
        f"line {early.line} (`{_head(early.node)}`) would run {moved}, but line {late.line} (`{_head(late.node)}`), "
        f"which runs earlier then, shares `{path}` with it. Use two names, or move line {early.line} behind `backward()`."
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
        f"line {line}: {counts[0]} and {counts[1]} could both be the batch.\nSay which: %%accumulate 4 --batch {main[0]}"
    )


def _all_calls(parsed: ParsedCell) -> Iterator[ast.Call]:
    return calls(parsed.tree)
