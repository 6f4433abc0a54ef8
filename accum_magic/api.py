"""The Python side: `rewrite` a cell's text without running it."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

from accum_magic.cell import refuse
from accum_magic.cell.namespace import nothing_known
from accum_magic.cell.parse import ParsedCell, parse
from accum_magic.cell.plan import plan
from accum_magic.cell.planned import Plan
from accum_magic.cell.recognise import trains
from accum_magic.cell.rewrite import FunctionRewrite, Rewrite, rewrite_plan
from accum_magic.errors import Refusal
from accum_magic.options import Options, options_from

if TYPE_CHECKING:
    from accum_magic.follow import Followed
    from accum_magic.training_calls import TrainingCalls


def rewrite(  # noqa: PLR0913 - the options of the magic, by keyword
    cell_text: str,
    n: int | Literal["auto"] | None = None,
    *,
    size: int | None = None,
    batch: str | None = None,
    dim: str | None = None,
    window: bool = False,
    replay: str = "auto",
    grad_dtype: str | None = None,
    noise: bool = False,
    memory: str | None = None,
    namespace: Mapping[str, Any] | None = None,
) -> Rewrite:
    '''Rewrite a training cell into micro-batches, without running it.

    Args:
        cell_text: The cell, as Python.
        n: Number of micro-batches per update, at least 1, or "auto": as many as the memory needs.
        size: In place of `n`: samples per micro-batch at most.
        batch: Names (or expressions) that hold the batch, comma separated, where inference is ambiguous.
        dim: Batch dimensions that are not 0, such as `x=1,h=1`.
        window: Accumulate over `n` batches of the loader, in place of splitting one.
        replay: "auto", "always" or "never": the exact two-pass mode for losses that are no mean over samples.
        grad_dtype: "float32" accumulates low-precision gradients in float32.
        noise: Also estimate the gradient noise scale.
        memory: The budget, such as "6GiB" or "80%" of what this process may have.
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
    options = options_from(
        n, size, batch, dim, window=window, replay=replay, grad_dtype=grad_dtype, noise=noise, memory=memory
    )
    return rewrite_with(cell_text, options, namespace)


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
        if not parsed.backwards:
            refuse.whole_cell(parsed, nothing_known, options.step.n)
        refuse.unknown_batch_names(options.plan.named, refuse.names_used(parsed))
        _widened(parsed, (), options, some_train=True)
        return rewrite_plan(plan(parsed, options.plan), options.step)
    from accum_magic.follow import follow
    from accum_magic.namespace import describe
    from accum_magic.training_calls import TrainingCalls, is_changed

    lookup = describe(namespace)
    following = follow(parsed, namespace)
    followed = following.steps
    if not followed and not parsed.backwards:
        refuse.whole_cell(parsed, lookup, options.step.n, following.unreadable)
    used = frozenset().union(*(refuse.names_used(p) for p in (parsed, *(f.parsed for f in followed))))
    refuse.unknown_batch_names(options.plan.named, used)
    some_train = bool(parsed.backwards) or any(trains(f.parsed.tree) for f in followed)
    callers = _widened(parsed, following.visited, options, some_train=some_train)
    plans = [(one, p) for one in followed if (p := _planned(one, options, name_of_file, some_train=some_train))]
    calls = TrainingCalls(following, [one for one, _ in plans])
    plans += [(one, Plan(one.parsed, options.plan, ())) for one in callers]
    functions = [_function(one, p, options, name_of_file, calls) for one, p in plans]
    changed = {id(one) for one, _ in plans}
    for one in (one for one in calls.callers if id(one) not in changed):
        function = _function(one, Plan(one.parsed, options.plan, ()), options, name_of_file, calls)
        functions += [function] if is_changed(function) else []
    planned = plan(parsed, options.plan, lookup) if parsed.backwards else Plan(parsed, options.plan, ())
    return replace(rewrite_plan(planned, options.step, calls.paths(None)), functions=tuple(functions))


def _widened(parsed: ParsedCell, visited: Sequence[Followed], options: Options, *, some_train: bool) -> list[Followed]:
    """Under `--window`, widen the loaders; return functions that are rewritten for that alone."""
    n = options.step.n
    if not options.step.window or not isinstance(n, int):
        return []
    from accum_magic.windows import Windows

    return Windows(parsed, visited, n, options.plan).widen(some_train=some_train)


def _planned(one: Followed, options: Options, name_of_file: Callable[[str], str], *, some_train: bool) -> Plan | None:
    """Plan the rewrite of a function that a cell calls.

    None for one that only back-propagates, such as a saliency map's, where something else trains.
    """
    from accum_magic.namespace import describe

    try:
        asked = options.plan.within(refuse.names_used(one.parsed))
        return plan(one.parsed, asked, describe(one.names))
    except Refusal as refusal:
        if some_train and not trains(one.parsed.tree):
            return None
        where = name_of_file(one.function.__code__.co_filename)
        message = f"{one.called_in} calls `{one.function.__qualname__}` ({where}), and there {refusal}"
        raise Refusal(message) from None


def _function(
    one: Followed, planned: Plan, options: Options, name_of_file: Callable[[str], str], calls: TrainingCalls
) -> FunctionRewrite:
    where = name_of_file(one.function.__code__.co_filename)
    return FunctionRewrite(one.function, where, one.called_in, rewrite_plan(planned, options.step, calls.paths(one)))
