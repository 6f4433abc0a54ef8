"""What cannot be rewritten exactly, said with the line, what was found there, and what to write instead."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Sequence

from accum_magic.cell.batch import BatchNames, callees
from accum_magic.cell.effects import expression_effects, overlap, overlaps, root, statement_effects
from accum_magic.cell.frameworks import framework_call
from accum_magic.cell.namespace import Lookup
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
    _magic_below(parsed)
    _autograd_grad(parsed)
    _step_in_hook(parsed)
    if not parsed.backwards:
        raise _no_backward(parsed, lookup)
    _accumulates_by_hand(parsed)


def _magic_below(parsed: ParsedCell) -> None:
    for node in ast.walk(parsed.tree):
        if isinstance(node, ast.Call) and last_name(node.func) == "run_cell_magic" and node.args:
            name = node.args[0].value if isinstance(node.args[0], ast.Constant) else "time"
            message = (
                f"line {node.lineno}: `%%{name}` stands below `%%accumulate`. Put it above: the first line "
                f"`%%{name}`, the second `%%accumulate`."
            )
            raise Refusal(message)


def _no_backward(parsed: ParsedCell, lookup: Lookup) -> Refusal:
    found = framework_call(parsed.tree, lookup)
    if found is not None:
        return Refusal(found)
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
                f"line {call.lineno}: `{ast.unparse(call.func)}` takes gradients of gradients or outside of "
                "`.backward()`; micro-batches cannot be added up through it. Run this cell without `%%accumulate`."
            )
            raise Refusal(message)


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


def graph_from_earlier_step(inputs: frozenset[str], steps: Sequence[object], call: BackwardCall) -> None:
    """Refuse a loss whose graph starts before an update of the same cell."""
    for step in steps:
        exports = step.placement.exports  # type: ignore[attr-defined]
        used = sorted(p for p in inputs if root(p) in exports)
        micro = [u.node for u in step.micro_units]  # type: ignore[attr-defined]
        if used:
            line = next(n.lineno for n in micro if root(used[0]) in statement_effects(n).writes)
            message = (
                f"line {call.line}: this loss needs the graph of `{used[0]}`, which line {line} built before an update "
                f"in between. Compute `{used[0]}` again after that update, right before this loss."
            )
            raise Refusal(message)


def nothing_to_split(parsed: ParsedCell, cut: Slice, call: BackwardCall, places: Sequence[Place]) -> Refusal:
    """No statement of the step both depends on a batch and reaches a module."""
    loss = ast.unparse(call.loss)
    made = [u for u in cut.members if not u.is_head]
    if not made and not list(calls(call.loss)):
        around = next((p.owner for p in reversed(places) if is_loop(p.owner)), None)
        where = "outside this step" if around is not None else "outside this cell"
        return Refusal(
            f"line {call.line}: the graph behind `{loss}` was built {where}. Put the forward pass, the loss and "
            "`backward()` together: in one cell, and in the same loop."
        )
    return Refusal(
        f"line {call.line}: found nothing to split: no batch reaches `{loss}`. If a name holds the batch, say "
        "which: %%accumulate 4 --batch x"
    )


def regions(cut: Slice, placement: Placement, common: Sequence[Fork], flow: Flow) -> None:
    """Refuse what cannot be moved out of the way of the micro-batches."""
    for position, unit in enumerate(cut.units):
        runs = placement.regions.get(unit, frozenset())
        if Region.MICRO in runs:
            _inside_slice(unit)
        if unit.is_head:
            _head_of_split(unit, cut, placement, common)
        elif placement.first < position <= cut.last and runs != MICRO:
            _between_forward_and_backward(unit, flow, placement)


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
    jump = returns_jump(unit.node)
    if jump is not None:
        raise _jump(unit, jump)
    if isinstance(unit.node, ast.Try | ast.TryStar):
        message = (
            f"line {unit.line}: `try` stands around a part of the step. Put it around the whole step, or around the loop."
        )
        raise Refusal(message)


def _jump(unit: Unit, jump: ast.stmt) -> Refusal:
    word = type(jump).__name__.lower()
    return Refusal(
        f"line {jump.lineno}: `{word}` leaves the step between the forward pass and the backward (`{_head(unit.node)}`). "
        "Move it before the forward pass, or after `backward()`."
    )


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


def _between_forward_and_backward(unit: Unit, flow: Flow, placement: Placement) -> None:
    jump = returns_jump(unit.node)
    if jump is not None and not overlap(unit.effects.reads, placement.exports):
        raise _jump(unit, jump)
    if is_clearing(unit.node) or not placement.regions.get(unit):
        return
    used = {root(p) for p in flow.modules} | set(flow.modules)
    changed = overlap(unit.effects.changes, used)
    stores_data = any(isinstance(n, ast.Attribute) and n.attr == "data" for n in ast.walk(unit.node))
    if changed is not None and (unit.effects.mutates or stores_data):
        message = (
            f"line {unit.line}: `{_head(unit.node)}` changes `{root(changed)}` between the forward pass and the backward. "
            "Move it before the forward pass, or after `backward()`."
        )
        raise Refusal(message)


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
