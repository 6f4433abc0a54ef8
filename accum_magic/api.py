"""The Python side: `rewrite` a cell's text without running it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from accum_magic.cell.namespace import Lookup, nothing_known
from accum_magic.cell.parse import parse
from accum_magic.cell.plan import plan
from accum_magic.cell.rewrite import Rewrite, rewrite_plan
from accum_magic.options import Options, options_from


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


def rewrite_with(cell_text: str, options: Options, namespace: Mapping[str, Any] | None = None) -> Rewrite:
    """Rewrite a cell with checked options."""
    lookup: Lookup = nothing_known
    if namespace is not None:
        from accum_magic.namespace import describe

        lookup = describe(namespace)
    return rewrite_plan(plan(parse(cell_text), options.plan, lookup), options.into)
