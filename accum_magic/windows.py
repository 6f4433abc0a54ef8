"""`--window` over several texts: the cell, the function of the step, and all that count the batches of its loader."""

from __future__ import annotations

import ast
from collections.abc import Callable, Sequence
from functools import partial

from accum_magic.cell.effects import path_of, root
from accum_magic.cell.parse import ParsedCell
from accum_magic.cell.planned import PlanOptions
from accum_magic.cell.recognise import calls, nodes, trains
from accum_magic.cell.window import bound_arguments, handed, is_backward, is_mention, no_loader, recount, widen
from accum_magic.follow import Followed

_Work = list[tuple[Followed | None, frozenset[str]]]


class Windows:
    """Widens the loaders of all steps of a cell, and remembers which functions it has changed for that."""

    def __init__(self, parsed: ParsedCell, visited: Sequence[Followed], n: int, options: PlanOptions) -> None:
        self.parsed, self.visited, self.n, self.options = parsed, visited, n, options
        self.changed: list[Followed] = []
        self._seen: set[tuple[int, frozenset[str]]] = set()

    def widen(self, *, some_train: bool) -> list[Followed]:
        """Widen every step's loader; return the functions without a step of their own that are to be rewritten too.

        Raises:
            Refusal: A step takes its batch without a loader.

        """
        work: _Work = []
        if self.parsed.backwards:
            work.append((None, self._of_step(None)))
        for one in self.visited:
            if one.parsed.backwards and (trains(one.parsed.tree) or not some_train):
                work.append(self._around(one))
        while work:
            text, paths = work.pop()
            if paths and (id(text), paths) not in self._seen:
                self._seen.add((id(text), paths))
                work += [*self._above(text, paths), *self._below(text, paths), *self._beside(text, paths)]
        return [c for i, c in enumerate(self.changed) if not c.parsed.backwards and c not in self.changed[:i]]

    def _text(self, one: Followed | None) -> ParsedCell:
        return self.parsed if one is None else one.parsed

    def _of_step(self, one: Followed | None) -> frozenset[str]:
        found = widen(self._text(one), self.n, self.options, is_backward)
        if found is None:
            raise no_loader(self._text(one).backwards[0].call.line, self.n)
        return found

    def _around(self, one: Followed) -> tuple[Followed | None, frozenset[str]]:
        """The loop over the loader stands in the function of the step, in one that calls it, or in the cell."""
        text: Followed | None = one
        is_step: Callable[[ast.AST], bool] = is_backward
        while (paths := widen(self._text(text), self.n, self.options, is_step)) is None:
            if text is None:
                raise no_loader(one.parsed.backwards[0].call.line, self.n)
            is_step, text = partial(is_mention, text.path), text.caller
        if text is not None:
            self.changed.append(text)
        return text, paths

    def _recounted(self, one: Followed | None, paths: frozenset[str]) -> _Work:
        if recount(self._text(one), self.n, paths) and one is not None:
            self.changed.append(one)
        return [(one, paths)]

    def _above(self, one: Followed | None, paths: frozenset[str]) -> _Work:
        """Who hands the loader to a function counts its batches as that function does."""
        if one is None:
            return []
        found = handed(paths, one.parsed.tree.body[0], self._text(one.caller), one.path)
        return self._recounted(one.caller, found)

    def _below(self, one: Followed | None, paths: frozenset[str]) -> _Work:
        """A function that is given the loader, and never another one, counts its batches so too."""
        work: _Work = []
        for callee in (v for v in self.visited if v.caller is one):
            sites = [c for c in calls(self._text(one).tree) if path_of(c.func) == callee.path]
            given = [bound_arguments(c, callee.parsed.tree.body[0], callee.path) for c in sites]
            names = {n for arguments in given for n, value in arguments.items() if path_of(value) in paths}
            always = {n for n in names if all(n in a and path_of(a[n]) in paths for a in given)}
            work += self._recounted(callee, frozenset(always)) if always else []
        return work

    def _beside(self, one: Followed | None, paths: frozenset[str]) -> _Work:
        """Methods of one object share its attributes: `self.loader`, bound in `__init__` to what that is given."""
        if one is None or "." not in one.function.__qualname__:
            return []
        stored = {attribute for name, attribute in _stored(one) if name in paths}
        shared = frozenset(stored | {p for p in paths if "." in p and root(p) == "self"})
        owner = one.function.__qualname__.rpartition(".")[0]
        work: _Work = []
        for other in (v for v in self.visited if v.function.__qualname__.rpartition(".")[0] == owner):
            names = {name for name, attribute in _stored(other) if attribute in shared}
            work += self._recounted(other, shared | names) if shared else []
        return work


def _stored(one: Followed) -> list[tuple[str, str]]:
    """Return which arguments a method keeps under which attribute: `self.loader = loader`."""
    pairs: list[tuple[ast.expr, ast.expr]] = []
    for node in nodes(one.parsed.tree):
        match node:
            case ast.Assign(targets=[ast.Tuple(elts=targets)], value=ast.Tuple(elts=values)):
                pairs += zip(targets, values, strict=False)
            case ast.Assign(targets=[target], value=value):
                pairs.append((target, value))
    named = [(path_of(value), path_of(target)) for target, value in pairs]
    return [(value, target) for value, target in named if value and target and root(target) == "self"]
