"""`--explain`: the user's own lines, each marked with when it runs, and what the plan is built on."""

from __future__ import annotations

import ast

from accum_magic.cell.planned import Plan, StepPlan
from accum_magic.cell.recognise import is_clearing
from accum_magic.cell.regions import Region
from accum_magic.cell.rewrite import Rewrite

_MARKS = {Region.BEFORE: "once before", Region.MICRO: "per micro-batch", Region.AFTER: "once after"}
_BOTH = "whole and per micro-batch"
_MOST_NAMED = 4
_BACKWARD = "per micro-batch"


def explain(rewritten: Rewrite) -> str:
    """Return the cell's lines, marked; the batch names; the losses; and what is not certain yet.

    The functions with a step for the cell come first, each with the line that calls it.
    """
    functions = [
        f"`{f.name}` ({f.where}), called in {f.called_in}:\n{_explained(f.rewrite.plan, f.rewrite.tree.body[-1])}"
        for f in rewritten.functions
        if f.has_step
    ]
    return "\n".join([*functions, _explained(rewritten.plan)])


# a line: its number, when it runs, its text; without a number the title of what follows
MarkedLine = tuple[int | None, str, str]


def marked_lines(rewritten: Rewrite) -> list[MarkedLine]:
    """Return the lines of the cell, and those of the functions that train for it above them, each with when it runs."""
    rows: list[MarkedLine] = []
    for function in (f for f in rewritten.functions if f.has_step):
        rows.append((None, "", f"`{function.name}` ({function.where}), called in {function.called_in}:"))
        rows += _marked(function.rewrite.plan, function.rewrite.tree.body[-1])
    return [*rows, (None, "", "the cell:"), *_marked(rewritten.plan)] if rows else _marked(rewritten.plan)


def _explained(plan: Plan, only: ast.stmt | None = None) -> str:
    """Explain a text, or one definition in it."""
    rows = _marked(plan, only)
    width = max((len(mark) for _, mark, _ in rows), default=0)
    gap = "  " if width else ""
    body = [f"{number:>3}  {mark:<{width}}{gap}{text}".rstrip() for number, mark, text in rows]
    facts = [text for step in plan.steps for text in _facts(step)]
    return "\n".join([*body, "", *facts, ""] if facts else [*body, ""])


def _marked(plan: Plan, only: ast.stmt | None = None) -> list[MarkedLine]:
    """Mark the lines of a text, or of one definition in it."""
    lines = plan.parsed.text.rstrip("\n").splitlines()
    marks = [""] * len(lines)
    for position, step in enumerate(plan.steps):
        earlier = any(s.places[-1].body is step.places[-1].body for s in plan.steps[:position])
        _mark(step, marks, aside=_MARKS[Region.AFTER] if earlier else _MARKS[Region.BEFORE])
    first = next((i for i, line in enumerate(lines) if line.strip()), 0) if only is None else only.lineno - 1
    last = len(lines) if only is None else only.end_lineno or len(lines)
    return [(i + 1, marks[i], lines[i]) for i in range(first, last)]


def _mark(step: StepPlan, marks: list[str], aside: str) -> None:
    """Mark the lines of a step; `aside` is for what stands above it without being part of it."""
    for statement in step.body:
        _set(marks, statement, aside if statement is not step.body[-1] else "")
    for unit in step.cut.units:
        if unit.is_head:
            _set(marks, unit.node, "", first_only=True)
            continue
        runs = step.placement.regions.get(unit, frozenset())
        if runs == frozenset({Region.MICRO, Region.AFTER}) or runs == frozenset({Region.BEFORE, Region.MICRO}):
            _set(marks, unit.node, _BOTH)
        elif runs == frozenset({Region.BEFORE}) and unit not in step.cut.members and not is_clearing(unit.node):
            _set(marks, unit.node, aside)
        elif runs:
            _set(marks, unit.node, _MARKS[min(runs)])
    for call in step.backwards:
        _set(marks, call.statement, _BACKWARD)
    for statement in step.places[-1].body[step.stop :]:
        if not marks[statement.lineno - 1]:
            _set(marks, statement, _MARKS[Region.AFTER])


def _set(marks: list[str], node: ast.stmt, mark: str, *, first_only: bool = False) -> None:
    last = node.lineno if first_only else node.end_lineno or node.lineno
    for number in range(node.lineno, last + 1):
        marks[number - 1] = mark


def _facts(step: StepPlan) -> list[str]:
    names = ", ".join(f"`{n}`" for n in step.batch.split)
    out = [f"batch: {names}"]
    for hoist in step.hoists:
        text = ast.unparse(hoist.expression)
        out.append(f"line {hoist.statement.lineno}: `{text}` is evaluated once, on the whole batch")
    losses = ", ".join(f"`{ast.unparse(c.loss)}` (line {c.line})" for c in step.backwards)
    out.append(f"loss: {losses}; its weight per micro-batch is measured before the first update")
    out += [f"read later: `{name}`, with the value of the whole batch" for name in step.read]
    if step.unknown_callees:
        unknown = ", ".join(f"`{n}`" for n in sorted(step.unknown_callees))
        out.append(f"not known: {unknown}; taken for calls that reach a module")
    out.append(f"verdict: {_verdict(step)}")
    return out


def _verdict(step: StepPlan) -> str:
    if not step.batch_norms:
        return "exact, unless the first step shows otherwise (BatchNorm, losses that are no mean or sum)"
    named = ", ".join(f"`{n}`" for n in step.batch_norms[:_MOST_NAMED])
    more = len(step.batch_norms) - _MOST_NAMED
    listed = f"{named} and {more} more" if more > 0 else named
    return f"approximate: BatchNorm in training mode ({listed}) normalises each micro-batch by itself"
