"""Which functions lead to an update, and by which names the texts that call them do so."""

from __future__ import annotations

import inspect
from collections import defaultdict
from collections.abc import Mapping, Sequence

from accum_magic.bind import code_like
from accum_magic.cell.rewrite import FunctionRewrite
from accum_magic.follow import Followed, Following


class TrainingCalls:
    """The calls of functions that train, directly or through others: a loop around one is around an update."""

    def __init__(self, following: Following, trained: Sequence[Followed]) -> None:
        self._following = following
        self._training = {id(one) for one in trained}
        self._paths: dict[int, dict[str, bool]] = defaultdict(dict)
        count = -1
        while count < len(self._training):  # a caller may itself be called further up
            count = len(self._training)
            for call in following.calls:
                if id(call.callee) in self._training:
                    self._paths[id(call.caller)][call.path] = _is_generator(call.callee)
                    self._training |= set() if call.caller is None else {id(call.caller)}

    @property
    def callers(self) -> list[Followed]:
        """The functions that train, or call what does."""
        return [one for one in self._following.visited if id(one) in self._training]

    def paths(self, text: Followed | None) -> Mapping[str, bool]:
        """Return the paths of what a function (or the cell: None) calls that trains; True for generators."""
        return self._paths.get(id(text), {})


def is_changed(rewritten: FunctionRewrite) -> bool:
    """Tell whether a rewrite differs from its function, and can stand in its place."""
    definition = rewritten.rewrite.tree.body[-1]
    if definition is rewritten.rewrite.plan.parsed.tree.body[-1]:
        return False
    return code_like(rewritten.function, definition) is not None


def _is_generator(one: Followed) -> bool:
    return inspect.isgeneratorfunction(one.function) or inspect.isasyncgenfunction(one.function)
