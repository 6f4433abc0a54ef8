"""Cells that cannot be rewritten as they are, said with the line, what was found there, and what to write instead."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Sequence
from typing import Literal

from accum_magic.cell.batch import callees
from accum_magic.cell.effects import bound_names, overlaps, path_of, root
from accum_magic.cell.frameworks import framework_call
from accum_magic.cell.made import ENGINE
from accum_magic.cell.namespace import Lookup
from accum_magic.cell.parse import ParsedCell, Place
from accum_magic.cell.planned import StepPlan
from accum_magic.cell.recognise import (
    BackwardCall,
    backward_call,
    calls,
    head_of,
    is_only_detached,
    is_update,
    last_name,
    nodes,
    steps_optimizer,
)
from accum_magic.cell.regions import Region, Slice, backward_slice
from accum_magic.cell.unaccumulate import factor_of, plain_loop
from accum_magic.cell.units import Unit
from accum_magic.errors import Refusal

_ACCUMULATION_WORDS = ("accum", "grad_acc", "virtual_batch")


class GraphCrossesError(Refusal):
    """A loss reads what was built with a graph above an update; it may be computed again."""

    def __init__(self, message: str, name: str, builder: ast.stmt, reader: ast.stmt, call: BackwardCall) -> None:
        super().__init__(message)
        self.name, self.builder, self.reader, self.call = name, builder, reader, call


def whole_cell(
    parsed: ParsedCell, lookup: Lookup, n: int | Literal["auto"] | None = None, unreadable: str | None = None
) -> None:
    """Refuse what can be told without a plan; `unreadable` tells of a function that trains and cannot be rewritten."""
    _autograd_grad(parsed)
    _step_in_hook(parsed)
    if not parsed.backwards:
        raise _no_backward(parsed, lookup, n, unreadable)
    _accumulates_by_hand(parsed)
    _updates_behind_loop(parsed)
    _hook_of_earlier_cell(parsed, lookup)


def _no_backward(
    parsed: ParsedCell, lookup: Lookup, n: int | Literal["auto"] | None, unreadable: str | None
) -> Refusal:
    found = framework_call(parsed.tree, lookup, n) or unreadable
    if found is not None:
        return Refusal(found)
    inside = next((c for c in _all_calls(parsed) if last_name(c.func) == "backward"), None)
    if inside is not None:
        return Refusal(
            f"line {inside.lineno}: `backward()` is called inside an expression, so its step cannot be found. "
            "Write it as a statement of its own, in a `for` loop."
        )
    return Refusal(
        "no `.backward()` in this cell, nor in a function of the notebook that it calls, so there is no training step "
        "to split. Put `%%accumulate` on the cell in which `loss.backward()` is written, or on one that calls it."
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
        registers = last_name(call.func) in {"register_post_accumulate_grad_hook", "register_hook"}
        if registers and (_steps(call) or _hook_steps(parsed, call)):
            message = (
                f"line {call.lineno}: an optimizer step runs in a backward hook, so it would run once per "
                "micro-batch. Call `optimizer.step()` after `loss.backward()` instead."
            )
            raise Refusal(message)


def _steps(call: ast.Call) -> bool:
    return any(last_name(c.func) == "step" for a in call.args for c in calls(a))


def _hook_steps(parsed: ParsedCell, call: ast.Call) -> bool:
    names = {a.id for a in call.args if isinstance(a, ast.Name)}
    functions = [n for n in nodes(parsed.tree) if isinstance(n, ast.FunctionDef) and n.name in names]
    return any(last_name(c.func) == "step" for f in functions for c in calls(f))


def _accumulates_by_hand(parsed: ParsedCell) -> None:
    for backward in parsed.backwards:
        block = backward.places[backward.block_depth]
        counts = _counts(block.body)
        for statement in block.body:
            if _is_step_every_k(statement, counts):
                what = f"`{head_of(statement)}` around the optimizer's step"
                raise _by_hand(f"line {statement.lineno}", what, block, _factor(statement, block.body), counts)
        divisor = next((ast.unparse(n) for n in _divisors(block.body) if _is_named_after_accumulation(n)), None)
        if divisor is not None:
            what = f"the loss is divided by `{divisor}`"
            raise _by_hand(f"line {backward.call.line}", what, block, divisor, frozenset())


def _by_hand(line: str, what: str, block: Place, factor: str | None, counts: frozenset[str]) -> Refusal:
    """Say what to write in place of an accumulation by hand: `--window` does the same to the plain loop."""
    n = factor if factor and factor.isdigit() else "N"
    meaning = "" if n == factor else f" with N = `{factor}`"
    advice = (
        f"Write the plain cell: the undivided loss, and `zero_grad()`, `backward()` and `step()` for every batch. "
        f"`%%accumulate {n} --window`{meaning} then takes {n} batches of the loader per update"
    )
    loop = (
        f":\n{plain_loop(block.owner, factor, counts)}"
        if factor and isinstance(block.owner, ast.For | ast.While)
        else "."
    )
    return Refusal(f"{line}: this cell already accumulates gradients by hand ({what}). {advice}{loop}")


def _factor(statement: ast.stmt, body: Sequence[ast.stmt]) -> str | None:
    """Return the `k` that a test compares a step's number with, in the test itself or in a name that holds it."""
    return next((f for s in (statement, *body) if (f := factor_of(s)) is not None), None)


def _counts(body: Sequence[ast.stmt]) -> frozenset[str]:
    """Return names that hold whether it is every k-th step: `is_update_step = (i + 1) % k == 0`."""
    found = [s for s in body if isinstance(s, ast.Assign) and any(isinstance(n, ast.Compare) for n in nodes(s.value))]
    counted = [s for s in found if any(isinstance(n, ast.Mod) for n in nodes(s.value))]
    return frozenset(n for s in counted for n in bound_names(s))


def _is_step_every_k(statement: ast.stmt, counts: frozenset[str]) -> bool:
    if not isinstance(statement, ast.If):
        return False
    counted = any(isinstance(n, ast.Name) and n.id in counts for n in nodes(statement.test))
    if not (counted or any(isinstance(n, ast.Mod) for n in nodes(statement.test))):
        return False
    if any(backward_call(s) for s in nodes(statement) if isinstance(s, ast.stmt)):
        return False
    return any(steps_optimizer(s) for s in statement.body)


def _updates_behind_loop(parsed: ParsedCell) -> None:
    """A loop that only back-propagates, with the update behind it, adds up gradients already."""
    for backward in parsed.backwards:
        place = backward.places[backward.block_depth]
        if not (isinstance(place.owner, ast.For | ast.While) and backward.block_depth):
            continue
        around = backward.places[backward.block_depth - 1]
        inside = any(is_update(s) for s in place.body)
        behind = [s for s in around.body[around.index + 1 :] if any(last_name(c.func) == "step" for c in calls(s))]
        if not inside and behind and not isinstance(behind[0], ast.For | ast.While):
            message = (
                f"line {place.owner.lineno}: this cell already accumulates gradients by hand (the loop calls "
                f"`backward()`, line {behind[0].lineno} updates behind it). Write the plain cell: one forward pass, "
                "`backward()` and `step()` for the whole batch, without the inner loop."
            )
            raise Refusal(message)


def _hook_of_earlier_cell(parsed: ParsedCell, lookup: Lookup) -> None:
    """An optimizer step in a backward hook that was registered before this cell."""
    paths = {p for c in _all_calls(parsed) if (p := path_of(c.func)) is not None}
    for path in sorted(paths):
        fact = lookup(path)
        if fact is not None and fact.stepping_hook is not None:
            message = (
                f"`{path}` has a backward hook (`{fact.stepping_hook}`) that steps an optimizer, so it would "
                "run once per "
                "micro-batch. Remove the hook, and call `optimizer.step()` after `loss.backward()`."
            )
            raise Refusal(message)


def _divisors(body: Sequence[ast.stmt]) -> Iterator[ast.expr]:
    for statement in body:
        for node in nodes(statement):
            if isinstance(node, ast.BinOp | ast.AugAssign) and isinstance(node.op, ast.Div):
                yield node.right if isinstance(node, ast.BinOp) else node.value


def _is_named_after_accumulation(divisor: ast.expr) -> bool:
    names = {
        n.id if isinstance(n, ast.Name) else n.attr for n in nodes(divisor) if isinstance(n, ast.Name | ast.Attribute)
    }
    return any(word in name.lower() for name in names - {ENGINE} for word in _ACCUMULATION_WORDS)


def several_updates_in_one_statement(call: BackwardCall, around: ast.stmt) -> Refusal:
    """Two updates inside one compound statement cannot be taken apart."""
    return Refusal(
        f"line {call.line}: a second backward with an update of its own stands inside `{head_of(around)}` of line "
        f"{around.lineno}. Give each update its own statement."
    )


def shares_modules(body: Sequence[ast.stmt], calls_before: Sequence[BackwardCall], call: BackwardCall) -> bool:
    """Tell whether two losses of a block go through a module of the same name."""
    first, second = backward_slice(body, calls_before), backward_slice(body, [call])
    left = callees([u.node for u in first.members if not u.is_head])
    right = callees([u.node for u in second.members if not u.is_head])
    losses = {n for n in left & right if "loss" in n.lower() or "crit" in n.lower() or n.startswith(("nn", "F"))}
    return bool((left & right) - losses)


def names_used(parsed: ParsedCell) -> frozenset[str]:
    """Return the names that a text reads, binds or takes as arguments."""
    names = {n.id for n in nodes(parsed.tree) if isinstance(n, ast.Name)}
    return frozenset(names | {n.arg for n in nodes(parsed.tree) if isinstance(n, ast.arg)})


def unknown_batch_names(named: frozenset[str], used: frozenset[str]) -> None:
    """Refuse names in `--batch` or `--dim` that neither the cell nor a function it calls has."""
    for name in sorted(named - used):
        message = f"--batch or --dim names `{name}`, which this cell does not use. Check the spelling."
        raise Refusal(message)


def graph_from_earlier_step(cut: Slice, steps: Sequence[StepPlan], call: BackwardCall) -> None:
    """Refuse a loss whose graph starts before an update of the same cell."""
    for step in steps:
        built = [u for u in step.micro_units if not step.placement.runs_in(u, Region.BEFORE)]
        graph_across(cut, built, call, None)


def graph_across(cut: Slice, built: Sequence[Unit], call: BackwardCall, barrier: ast.stmt | None) -> None:
    """Refuse a loss that reads what `built` computed with a graph; `barrier` is what stands in between."""
    name = crossing(cut, built, call)
    if name is None:
        return
    builder = next(u.node for u in built if name in u.effects.writes)
    readers = (u.node for u in cut.units if u in cut.members and overlaps(name, u.effects.reads))
    reader = next(readers, call.statement)
    if barrier is None or is_update(barrier):
        what, again = "an update in between", "after that update"
    else:
        what = f"line {barrier.lineno} (`{head_of(barrier)}`), which may change parameters or gradients"
        again = f"after line {barrier.lineno}"
    message = (
        f"line {reader.lineno}: `{name}` carries a graph that line {builder.lineno} built before {what}. "
        f"Compute `{name}` again {again}, right before line {reader.lineno}."
    )
    raise GraphCrossesError(message, name, builder, reader, call)


def crossing(cut: Slice, built: Sequence[Unit], call: BackwardCall) -> str | None:
    """Return the name of a graph value that a loss takes from before its own statements."""
    made = {n for u in built for n in u.effects.writes}
    nodes = [u.node for u in cut.members if not u.is_head] + [call.loss]
    used = sorted(p for p in cut.inputs if root(p) in made and not is_only_detached(root(p), nodes))
    return root(used[0]) if used else None


def _all_calls(parsed: ParsedCell) -> tuple[ast.Call, ...]:
    return calls(parsed.tree)
