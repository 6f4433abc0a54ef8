"""What in a step cannot be moved out of the way of the micro-batches, said with the line and what to write instead."""

from __future__ import annotations

import ast
from collections.abc import Sequence

from accum_magic.cell.batch import BatchNames, loop_names
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
from accum_magic.cell.namespace import Lookup, NameFact
from accum_magic.cell.parse import Place, is_loop
from accum_magic.cell.reach import Flow
from accum_magic.cell.recognise import (
    BackwardCall,
    calls,
    head_of,
    is_only_detached,
    last_name,
    nodes,
)
from accum_magic.cell.regions import Slice
from accum_magic.cell.units import Unit, inside
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
            raise try_in_step(owner.lineno, call)


def _is_forward(statement: ast.stmt) -> bool:
    moves = {"to", "cuda", "cpu", "float", "next", "iter", "view", "reshape", "long", "size", "len", "items"}
    return any(last_name(c.func) not in moves for c in calls(statement))


def try_in_step(line: int, call: BackwardCall | None) -> Refusal:
    """A `try` stands around a part of the step."""
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
    parts = [n for n in nodes(node) if isinstance(n, ast.Subscript) and isinstance(n.value, ast.Name)]
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
