"""The Python side: `rewrite` a cell's text without running it."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from accum_magic.cell import refuse
from accum_magic.cell.parse import parse
from accum_magic.cell.plan import plan
from accum_magic.cell.planned import Plan
from accum_magic.cell.recognise import trains
from accum_magic.cell.rewrite import FunctionRewrite, Rewrite, rewrite_plan
from accum_magic.errors import Refusal
from accum_magic.options import Options, options_from

if TYPE_CHECKING:
    from accum_magic.follow import Followed


def rewrite(  # noqa: PLR0913 - the options of the magic, by keyword
    cell_text: str,
    n: int | None = None,
    *,
    size: int | None = None,
    batch: str | None = None,
    dim: str | None = None,
    namespace: Mapping[str, Any] | None = None,
) -> Rewrite:
    '''Rewrite a training cell into micro-batches, without running it.

    Args:
        cell_text: The cell, as Python.
        n: Number of micro-batches per update, at least 1.
        size: In place of `n`: samples per micro-batch at most.
        batch: Names (or expressions) that hold the batch, comma separated, where inference is ambiguous.
        dim: Batch dimensions that are not 0, such as `x=1,h=1`.
        namespace: The names the cell will find; more cells can be read rightly with it.

    Returns:
        The rewrite; `str()` of it is plain code that can be pasted and run.

    Raises:
        AccumulateError: The cell cannot be rewritten exactly, or an option cannot be understood.
        SyntaxError: The cell is no Python.

    Example:
        >>> import accum_magic
        >>> cell = """
        ... for x, y in loader:
        ...     loss = (model(x) - y).square().mean()
        ...     loss.backward()
        ...     opt.step()
        ... """
        >>> print(accum_magic.rewrite(cell, 4).source.splitlines()[4])
                loss = (model(x) - y).square().mean()

    '''
    return rewrite_with(cell_text, options_from(n, size, batch, dim), namespace)


def rewrite_with(
    cell_text: str,
    options: Options,
    namespace: Mapping[str, Any] | None = None,
    name_of_file: Callable[[str], str] = os.path.basename,
) -> Rewrite:
    """Rewrite a cell with checked options, and the functions of the namespace that train for it.

    `name_of_file` says in messages where such a function stands: `In[3]` for the file name of a cell.
    """
    parsed = parse(cell_text)
    if namespace is None:
        refuse.unknown_batch_names(options.plan.named, refuse.names_used(parsed))
        return rewrite_plan(plan(parsed, options.plan), options.into)
    from accum_magic.follow import follow
    from accum_magic.namespace import describe

    lookup = describe(namespace)
    followed, unreadable = follow(parsed, namespace)
    used = frozenset().union(*(refuse.names_used(p) for p in (parsed, *(f.parsed for f in followed))))
    refuse.unknown_batch_names(options.plan.named, used)
    functions = [f for one in followed if (f := _followed(one, options, name_of_file, is_alone=not parsed.backwards))]
    if parsed.backwards:
        return replace(rewrite_plan(plan(parsed, options.plan, lookup), options.into), functions=tuple(functions))
    if not functions:
        refuse.whole_cell(parsed, lookup, unreadable)
    return Rewrite(Plan(parsed, options.plan, ()), parsed.tree, (), tuple(functions))


def _followed(
    one: Followed, options: Options, name_of_file: Callable[[str], str], *, is_alone: bool
) -> FunctionRewrite | None:
    """Rewrite a function that a cell calls.

    None for one that back-propagates without updating anything, such as a saliency map's, beside a cell's own step.
    """
    from accum_magic.namespace import describe

    where = name_of_file(one.function.__code__.co_filename)
    try:
        asked = options.plan.within(refuse.names_used(one.parsed))
        rewritten = rewrite_plan(plan(one.parsed, asked, describe(one.names)), options.into)
    except Refusal as refusal:
        if not is_alone and not trains(one.parsed.tree):
            return None
        message = f"{one.called_in} calls `{one.function.__qualname__}` ({where}), and there {refusal}"
        raise Refusal(message) from None
    return FunctionRewrite(one.function, where, one.called_in, rewritten)
