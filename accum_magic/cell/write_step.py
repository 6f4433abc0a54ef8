"""One planned step → its statements: what runs before, the micro step, the call of the engine, what runs after."""

from __future__ import annotations

import ast
import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from accum_magic.cell.branches import answered
from accum_magic.cell.effects import overlap
from accum_magic.cell.hoist import rebuilt
from accum_magic.cell.made import (
    FreshNames,
    Node,
    UndoBeforeJump,
    is_detach,
    joined,
    name_of,
    options_of,
    parsed_expression,
    placed_at,
    tuple_of,
)
from accum_magic.cell.planned import Plan, StepPlan
from accum_magic.cell.recognise import BackwardCall, backward_call, is_only_detached, is_pure_test, nodes, returns_jump
from accum_magic.cell.regions import Region, exports_above
from accum_magic.cell.units import Fork, Unit, project


@dataclass(frozen=True, slots=True)
class StepOptions:
    """How the engine runs a step: `n` micro-batches, or as many as needed for `size` samples at most."""

    n: int | Literal["auto"] | None = None
    size: int | None = None
    window: bool = False  # the batch is `n` loader batches together, and is split at their borders
    replay: str = "auto"
    grad_dtype: str | None = None
    noise: bool = False
    memory: str | None = None  # "6GiB" or "80%": the budget, and what "auto" plans for


class StepWriter:
    """Writes one triple."""

    def __init__(self, step: StepPlan, plan: Plan, options: StepOptions, module: str, names: FreshNames) -> None:
        self.step, self.plan, self.options, self.module, self.names = step, plan, options, module, names
        self.generated: list[str] = []
        self.tests: dict[ast.stmt, ast.expr] = {}
        # a loss whose name may be bound anew before the micro step ends is kept under a name of its own
        self.losses: dict[ast.stmt, str] = {}
        for group in step.roots[:-1] if len(step.roots[-1]) == 1 else step.roots:
            self.losses |= dict.fromkeys((c.statement for c in group), self._fresh("loss_to_backward"))
        jumps = any(self._jumps_before_backward(u) for u in step.cut.units[: step.cut.last])
        self.undoable = jumps or bool(step.awaited)
        self.anchor = step.backwards[-1].statement
        self.micro_name = self._fresh("micro_step")
        self.units = {u.node: u for u in step.cut.units}
        self.hoisted: dict[ast.expr, str] = {h.expression: self._fresh(h.name) for h in step.hoists}
        self.renamed = dict(zip((h.name for h in step.hoists), self.hoisted.values(), strict=True))
        self.paths = self._path_names()

    def write(self) -> list[ast.stmt]:
        """Return the statements that stand for the step's."""
        return self._nest(self.step.body, 0)

    def _fresh(self, name: str) -> str:
        made = self.names.make(name)
        self.generated.append(made)
        return made

    def _path_names(self) -> dict[str, str]:
        """Plain names for what is no plain name: `--batch 'batch["ids"]'`, `self.loss`."""
        expressions = [ast.unparse(ast.parse(b, mode="eval")) for b in self.plan.options.batch if not b.isidentifier()]
        expressions += [n for n in (*self.step.read, *self.step.unread) if "." in n]
        words = ["".join(c if c.isalnum() else "_" for c in e).strip("_") for e in expressions]
        return {e: self.names.make(w) for e, w in zip(expressions, words, strict=True)}

    def _nest(self, body: Sequence[ast.stmt], depth: int) -> list[ast.stmt]:
        """Write a list; the compound statements around the whole step stay around it."""
        if depth == len(self.step.common):
            return [*self._before(body), *self._micro_step(body), *self._after(body)]
        fork = self.step.common[depth]
        position = next(i for i, s in enumerate(body) if s is fork.node)
        around = copy.copy(fork.node)
        setattr(around, fork.field, self._nest(getattr(fork.node, fork.field), depth + 1))
        above, below = body[:position], body[position + 1 :]
        return [*self._before(above), around, *self._after([*above, *below])]

    def _before(self, body: Sequence[ast.stmt]) -> list[ast.stmt]:
        def emit(node: ast.stmt) -> list[ast.stmt]:
            unit = self.units.get(node)
            if unit is not None and unit.is_head:
                return self._test_value(unit)
            hoists = [h for h in self.step.hoists if h.statement is node]
            values = [self._assign(self.hoisted[h.expression], h.expression, node) for h in hoists]
            return [*values, *([node] if self._runs(node, Region.BEFORE) else [])]

        return project(body, self.step.cut.is_split, emit, self.tests)

    def _after(self, body: Sequence[ast.stmt]) -> list[ast.stmt]:
        def emit(node: ast.stmt) -> list[ast.stmt]:
            if node in self.step.awaited:
                return self._undo_unless(node)
            if not self._runs(node, Region.AFTER):
                return []
            unit = self.units.get(node)
            if unit is not None and self._jumps_before_backward(unit):
                return self._with_undo(node)
            return [node]

        return project(body, self.step.cut.is_split, emit, self.tests)

    def _undo_unless(self, node: ast.stmt) -> list[ast.stmt]:
        """A test of the full loss: where it does not lead to the backward, the gradients are as they were."""
        assert isinstance(node, ast.If)  # noqa: S101 - only tests are awaited
        name = self._fresh(f"condition_{node.lineno}")
        value = placed_at(ast.Name(id=name, ctx=ast.Load()), node)
        self.tests[node] = value
        is_body = self._leads_by_body(node)
        test = ast.UnaryOp(op=ast.Not(), operand=value) if is_body else value
        undo = ast.If(test=test, body=[ast.Expr(value=self._engine_call("undo_step", [], []))], orelse=[])
        return [self._assign(name, self._answered(node), node), placed_at(undo, node)]

    def _leads_by_body(self, node: ast.stmt) -> bool:
        """Whether the backward stands in the first branch of an `if`."""
        forks = [f for c in self.step.backwards for f in self.units[c.statement].forks]
        return any(f.node is node and f.field == "body" for f in forks)

    def _answered(self, node: ast.If) -> ast.expr:
        """A test that asks whether the loss requires grad is answered without the loss."""
        torch = None if "torch" in self.names.used else parsed_expression('__import__("torch")')
        return answered(node.test, exports_above(self.step.cut, self.step.placement, node), torch)

    def _jumps_before_backward(self, unit: Unit) -> bool:
        """Whether a unit may skip the backward: it runs after the loop, so the gradients are undone first."""
        is_early = self.step.cut.units.index(unit) < self.step.cut.last
        return is_early and self._is_only_after(unit) and returns_jump(unit.node) is not None

    def _runs(self, node: ast.stmt, region: Region) -> bool:
        unit = self.units.get(node)
        if unit is None:
            return region is Region.AFTER and backward_call(node) is None
        return not unit.is_head and self.step.placement.runs_in(unit, region)

    def _test_value(self, head: Unit) -> list[ast.stmt]:
        """The test of an `if` that is taken apart is evaluated once, where it stood."""
        node = head.node
        is_common = any(f.node is node for f in self.step.common)
        if not isinstance(node, ast.If) or is_common or node in self.tests or node in self.step.awaited:
            return []
        if self._can_be_asked_again(head):
            return []
        if not self._is_split_up(node):
            return []
        name = self._fresh(f"condition_{node.lineno}")
        self.tests[node] = placed_at(ast.Name(id=name, ctx=ast.Load()), node)
        return [self._assign(name, self._answered(node), node)]

    def _can_be_asked_again(self, head: Unit) -> bool:
        """Whether the test of an `if` has the same answer before, in and after the loop."""
        assert isinstance(head.node, ast.If)  # noqa: S101 - asked of `if`s only
        changed = (u.effects.changes for u in self.step.cut.units if not u.is_head)
        return is_pure_test(head.node.test) and not any(overlap(head.effects.reads, c) for c in changed)

    def _is_split_up(self, node: ast.If) -> bool:
        return any(f.node is node for u in self.step.cut.units for f in u.forks if not self._is_only_after(u))

    def _is_only_after(self, unit: Unit) -> bool:
        return self.step.placement.regions.get(unit) == frozenset({Region.AFTER})

    def _assign(self, name: str, value: ast.expr, where: ast.stmt) -> ast.stmt:
        target = ast.Name(id=name, ctx=ast.Store())
        return placed_at(ast.Assign(targets=[target], value=copy.deepcopy(value)), where)

    def _with_undo(self, node: ast.stmt) -> list[ast.stmt]:
        """Before a jump that skips the backward, the gradients are as they were."""
        undo = placed_at(ast.Expr(value=self._engine_call("undo_step", [], [])), node)
        undone = UndoBeforeJump(undo).visit(copy.deepcopy(node))
        return undone if isinstance(undone, list) else [undone]

    def _micro_step(self, body: Sequence[ast.stmt]) -> list[ast.stmt]:

        def emit(node: ast.stmt) -> list[ast.stmt]:
            if node in self.losses:
                call = next(c for c in self.step.backwards if c.statement is node)
                return [self._assign(self.losses[node], self._replaced(call.loss), node)]
            return [self._replaced(node)] if self._runs(node, Region.MICRO) else []

        # a test that waits for the full loss leads to the backward here
        taken = {n: ast.Constant(value=self._leads_by_body(n)) for n in self.step.awaited}
        tests = self.tests | {n: placed_at(test, n) for n, test in taken.items()}
        inner = project(body, self.step.cut.is_split, emit, tests)
        first = inner[0] if inner else self.anchor
        unbound = [*map(self._local, self._maybe_unbound()), *self._maybe_without_loss()]
        maybe = [self._assign(n, self._attribute("UNBOUND"), first) for n in unbound]
        parameters = [ast.arg(arg=self._parameter(p)) for p in self._inputs()]
        function = ast.FunctionDef(
            name=self.micro_name,
            args=ast.arguments(posonlyargs=[], args=parameters, kwonlyargs=[], kw_defaults=[], defaults=[]),
            body=[*maybe, *inner, placed_at(ast.Return(value=self._returned()), self.anchor)],
            decorator_list=[],
        )
        placed = placed_at(function, first)
        placed.lineno = 1  # IPython shows the lines of a long traceback relative to a code object's first line
        return [placed, *self._step_call()]

    def _replaced(self, node: Node) -> Node:
        """Put names in the place of hoisted expressions and of batch expressions."""
        if not (self.hoisted or self.paths):
            return node
        return rebuilt(node, lambda part: self.hoisted.get(part) or self.paths.get(self._text(part)))

    def _text(self, part: ast.expr) -> str:
        return ast.unparse(part) if self.paths else ""

    def _inputs(self) -> list[str]:
        """What the micro step is given, by name in the cell."""
        expressions = [e for e in self.paths if e not in (*self.step.read, *self.step.unread)]
        names = self.step.batch
        covered = {e.partition("[")[0].partition(".")[0] for e in expressions}
        plain = [self.renamed.get(n, n) for n in (*names.strict, *names.loose, *names.fixed) if n not in covered]
        return [*expressions, *plain]

    def _parameter(self, path: str) -> str:
        return self.paths.get(path, path)

    def _local(self, name: str) -> str:
        return self.paths.get(name, name)

    def _maybe_unbound(self) -> list[str]:
        outputs = {*self.step.read, *self.step.unread}
        certain = {n for u in self.step.micro_units if self._is_unconditional(u) for n in u.effects.kills}
        given = set(self._inputs())
        written = {n for u in self.step.micro_units for n in u.effects.writes}
        return sorted(n for n in outputs & written if n not in certain and n not in given)

    def _maybe_without_loss(self) -> list[str]:
        """Names of losses that a step without a backward does not reach."""
        return sorted(set(self.losses.values())) if self.step.conditions else []

    def _is_unconditional(self, unit: Unit) -> bool:
        return all(f in self.step.common or isinstance(f.node, ast.With) for f in unit.forks)

    def _returned(self) -> ast.expr:
        roots = [
            ast.Name(id=self.losses[group[0].statement], ctx=ast.Load())
            if group[0].statement in self.losses
            else self._replaced(group[0].loss)
            for group in self.step.roots
        ]
        values = [ast.Name(id=self._local(n), ctx=ast.Load()) for n in (*self.step.read, *self.step.unread)]
        return tuple_of([tuple_of(roots), tuple_of(values)])

    def _step_call(self) -> list[ast.stmt]:
        outputs = [*self.step.read, *self.step.unread]
        inputs = self._inputs()
        batch = ast.Dict(
            keys=[ast.Constant(self._parameter(p)) for p in inputs],
            values=[self._argument(p) for p in inputs],
        )
        call = self._engine_call("step", [ast.Name(id=self.micro_name, ctx=ast.Load()), batch], self._keywords(inputs))
        if not outputs:
            return [placed_at(ast.Expr(value=call), self.anchor)]
        targets = [name_of(n, ast.Store()) for n in outputs]
        target = ast.Tuple(elts=targets, ctx=ast.Store())
        statements: list[ast.stmt] = [placed_at(ast.Assign(targets=[target], value=call), self.anchor)]
        for name in self._maybe_unbound():
            test = ast.Compare(left=name_of(name, ast.Load()), ops=[ast.Is()], comparators=[self._attribute("UNBOUND")])
            forget = ast.If(test=test, body=[ast.Delete(targets=[name_of(name, ast.Del())])], orelse=[])
            statements.append(placed_at(forget, self.anchor))
        return statements

    def _argument(self, path: str) -> ast.expr:
        """What is handed to the micro step; of a value that is only read as `x.detach()`, no graph comes along."""
        read = [u.node for u in self.step.micro_units] + [c.loss for c in self.step.backwards]
        is_detached = any(is_detach(n, path) for part in read for n in nodes(part)) and is_only_detached(path, read)
        return parsed_expression(f"{path}.detach()" if is_detached else path)

    def _keywords(self, inputs: Sequence[str]) -> list[ast.keyword]:
        step = self.step
        given: dict[str, ast.expr] = {}
        how, default = self.options, StepOptions()
        given["n" if how.n is not None else "size"] = ast.Constant(how.n or how.size)
        for key in ("window", "replay", "grad_dtype", "noise", "memory"):
            if getattr(how, key) != getattr(default, key):
                given[key] = ast.Constant(getattr(how, key))
        loose = [self.renamed.get(n, n) for n in step.batch.loose if self.renamed.get(n, n) in inputs]
        fixed = [self.renamed.get(n, n) for n in step.batch.fixed if self.renamed.get(n, n) in inputs]
        for key, names in (("loose", loose), ("fixed", fixed), ("read", step.read), ("unread", step.unread)):
            if names:
                given[key] = tuple_of([ast.Constant(n) for n in names])
        dims = {self.paths.get(n, n): d for n, d in step.dims if self.paths.get(n, n) in self._parameters()}
        if dims:
            given["dims"] = ast.Dict(
                keys=[ast.Constant(n) for n in dims], values=[ast.Constant(d) for d in dims.values()]
            )
        if step.conditions:
            given["when"] = self._when(step.conditions)
        through = [self._chosen(group, [c.through for c in group]) for group in step.roots]
        if any(t is not None for t in through):
            given["backward"] = next(t for t in through if t is not None)
        if self.undoable:
            given["undoable"] = ast.Constant(True)  # noqa: FBT003 - a literal of the rewritten cell
        if any(options_of(c.call).keys for c in step.backwards):
            options = (self._chosen(group, [options_of(c.call) for c in group]) for group in step.roots)
            given["backward_options"] = tuple_of([o for o in options if o is not None])
        return [ast.keyword(arg=k, value=copy.deepcopy(v)) for k, v in given.items()]

    def _parameters(self) -> set[str]:
        return {self._parameter(p) for p in self._inputs()}

    def _when(self, conditions: Sequence[Sequence[Fork]]) -> ast.expr:
        ways = [joined(ast.And(), [self._taken(fork) for fork in path]) for path in conditions]
        return joined(ast.Or(), ways)

    def _taken(self, fork: Fork) -> ast.expr:
        assert isinstance(fork.node, ast.If)  # noqa: S101 - conditions are made of `if`s only
        test = copy.deepcopy(self.tests.get(fork.node, fork.node.test))
        return test if fork.field == "body" else ast.UnaryOp(op=ast.Not(), operand=test)

    def _chosen(self, group: Sequence[BackwardCall], values: Sequence[ast.expr | None]) -> ast.expr | None:
        """What goes with a loss that is back-propagated in one of several branches: chosen by their tests."""
        texts = {"" if v is None else ast.unparse(v) for v in values}
        chosen = values[-1]
        for call, value in zip(group[-2::-1], values[-2::-1], strict=True):
            if len(texts) > 1:
                forks = [
                    f for f in self.units[call.statement].forks[len(self.step.common) :] if isinstance(f.node, ast.If)
                ]
                test = joined(ast.And(), [self._taken(f) for f in forks])
                chosen = ast.IfExp(test=test, body=value or ast.Constant(None), orelse=chosen or ast.Constant(None))
        return chosen

    def _engine_call(self, name: str, args: list[ast.expr], keywords: list[ast.keyword]) -> ast.Call:
        return ast.Call(func=self._attribute(name), args=args, keywords=keywords)

    def _attribute(self, name: str) -> ast.Attribute:
        return ast.Attribute(value=ast.Name(id=self.module, ctx=ast.Load()), attr=name, ctx=ast.Load())
