"""`Plan` → `Rewrite`: the cell's tree with its steps taken apart, and its text."""

from __future__ import annotations

import ast
import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import FunctionType

from accum_magic.cell.made import ENGINE, FreshNames, Node, engine_name, placed_at
from accum_magic.cell.parse import is_function
from accum_magic.cell.planned import Plan
from accum_magic.cell.recognise import nodes
from accum_magic.cell.stops import with_stops
from accum_magic.cell.write_step import StepOptions, StepWriter


@dataclass(frozen=True, slots=True)
class Rewrite:
    """A rewritten cell: `tree` keeps the user's line numbers, `source` is what can be pasted and run."""

    plan: Plan
    tree: ast.Module
    generated: tuple[str, ...]  # names that the rewrite binds and the plain cell would not
    functions: tuple[FunctionRewrite, ...] = ()  # functions of other cells that train for this one

    @property
    def source(self) -> str:
        """The rewritten cell as text, below the functions that were rewritten for it."""
        return "".join(f"{f.source}\n\n" for f in self.functions) + ast.unparse(self.tree) + "\n"

    def __str__(self) -> str:
        """Return the rewritten cell as text."""
        return self.source


@dataclass(frozen=True, slots=True)
class FunctionRewrite:
    """A function that a cell calls, rewritten; it is bound for the time of the cell."""

    function: FunctionType
    where: str  # the file that holds it; a cell's is named by the shell
    called_in: str  # `line 3` of the cell, or `line 5 of `fit`` of another function
    rewrite: Rewrite

    @property
    def name(self) -> str:
        """Its name, that of its class before it: `Trainer.fit`."""
        return self.function.__qualname__.rpartition("<locals>.")[2]

    @property
    def has_step(self) -> bool:
        """Whether it runs in micro-batches itself, and is not rewritten only to agree with those that do."""
        return bool(self.rewrite.plan.steps)

    @property
    def source(self) -> str:
        """Its definition as text that can be pasted; a line below puts a method into its class.

        What a function closes over cannot be pasted: a comment says where it stands.
        """
        text = self.rewrite.source
        owner, _, name = self.name.rpartition(".")
        if owner:
            definition = copy.deepcopy(self.rewrite.tree.body[-1])
            text = ast.unparse(_OutsideOfClass(owner, definition).visit(definition)) + "\n"
            return f"{text}{owner}.{name} = {name}\ndel {name}\n"
        around = self.function.__qualname__.partition(".<locals>")[0]
        closed = ", ".join(self.function.__code__.co_freevars)
        return f"# `{name}` stands in `{around}`, which gives it {closed}\n{text}" if closed else text


class _OutsideOfClass(ast.NodeTransformer):
    """Writes a method so that it means the same outside of its class: `super()` and `__private` names."""

    def __init__(self, owner: str, definition: ast.stmt) -> None:
        self.owner = owner
        arguments = [n.arg for n in ast.walk(definition) if isinstance(n, ast.arg)]
        self.itself = arguments[0] if arguments else "self"

    def visit_Call(self, node: ast.Call) -> ast.Call:
        self.generic_visit(node)
        if isinstance(node.func, ast.Name) and node.func.id == "super" and not node.args:
            node.args = [ast.parse(text, mode="eval").body for text in (self.owner, self.itself)]
        return node

    def visit_Attribute(self, node: ast.Attribute) -> ast.Attribute:
        self.generic_visit(node)
        if node.attr.startswith("__") and not node.attr.endswith("__"):
            node.attr = f"_{self.owner.rpartition('.')[2].lstrip('_')}{node.attr}"
        return node


def rewrite_plan(plan: Plan, options: StepOptions, trains: Mapping[str, bool] | None = None) -> Rewrite:
    """Write a plan out as code.

    `trains` holds the paths of other texts' functions that train, each with whether it is a generator: the loops
    around their calls can be stopped like those around a step.
    """
    original = plan.parsed.tree
    names = FreshNames(original)
    module = engine_name(original)
    names.used.add(module)
    rebuild = _Rebuild(plan, options, module, names)
    tree = ast.Module(body=rebuild.statements(original.body), type_ignores=[])
    generated = frozenset(rebuild.generated)
    tree = with_stops(tree, module, trains or {}, generated)
    _import_where_read(tree, module, generated)
    ast.fix_missing_locations(tree)
    own = [] if any(isinstance(n, ast.alias) and (n.asname or n.name) == module for n in nodes(original)) else [module]
    return Rewrite(plan, tree, tuple(dict.fromkeys([*own, *rebuild.generated, *plan.parsed.named])))


class _Rebuild:
    """Copies the nodes on the way to a step, and writes the step; everything else is the user's own node."""

    def __init__(self, plan: Plan, options: StepOptions, module: str, names: FreshNames) -> None:
        self.plan, self.options, self.module, self.names = plan, options, module, names
        self.owners = {id(place.owner) for step in plan.steps for place in step.places}
        self.generated: list[str] = []

    def statements(self, body: Sequence[ast.stmt]) -> list[ast.stmt]:
        """Return a statement list with its steps written out."""
        steps = {step.start: step for step in self.plan.steps if step.places[-1].body is body}
        out: list[ast.stmt] = []
        position = 0
        while position < len(body):
            step = steps.get(position)
            if step is None:
                out.append(self._node(body[position]))
                position += 1
                continue
            writer = StepWriter(step, self.plan, self.options, self.module, self.names)
            out += map(self._node, writer.write())
            self.generated += writer.generated
            position = step.stop
        return out

    def _node(self, node: Node) -> Node:
        if not any(id(part) in self.owners for part in nodes(node)):
            return node  # a copy of an owner, such as an `if` around a loop with a step of its own, is none itself
        rebuilt = copy.copy(node)
        for field in ("body", "orelse", "finalbody"):
            body = getattr(node, field, None)
            if isinstance(body, list):
                setattr(rebuilt, field, self.statements(body))
        for field in ("handlers", "cases"):
            if hasattr(node, field):
                setattr(rebuilt, field, [self._node(child) for child in getattr(node, field)])
        return rebuilt


def _import_where_read(tree: ast.Module, module: str, generated: frozenset[str]) -> None:
    """Import the engine in every function that reads it, and in the cell where that does; generated ones see it."""
    readers: dict[ast.AST, None] = {}

    def look(node: ast.AST, scope: ast.AST) -> None:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.expr):
                if any(isinstance(n, ast.Name) and n.id == module for n in nodes(child)):
                    readers[scope] = None
                continue
            has_own = is_function(child) and child.name not in generated  # type: ignore[attr-defined]
            look(child, child if has_own else scope)

    look(tree, tree)
    for scope in readers:
        scope.body = _with_import(scope.body, module)  # type: ignore[attr-defined]


def _with_import(body: Sequence[ast.stmt], module: str) -> list[ast.stmt]:
    """Import the engine at the top, behind a docstring and `from __future__` imports, which have to come first."""
    position = 0
    for node in body:
        is_docstring = position == 0 and isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        if not is_docstring and not (isinstance(node, ast.ImportFrom) and node.module == "__future__"):
            break
        position += 1
    position = position if position < len(body) else 0
    header = ast.Import(names=[ast.alias(ENGINE, None if module == ENGINE else module)])
    return [*body[:position], placed_at(header, body[position]), *body[position:]]
