"""What IPython 7 lacks, which Colab still runs: silencing a magic by `;`, and the names of cells."""

from __future__ import annotations

import functools
import io
import linecache
import re
import tokenize
from collections.abc import Callable
from typing import Any

_BEHIND_THE_CODE = (tokenize.ENDMARKER, tokenize.NL, tokenize.NEWLINE, tokenize.COMMENT, tokenize.DEDENT)


def output_can_be_silenced(magic: Callable[[Any, str, str], Any]) -> Callable[[Any, str, str], Any]:
    """Let a cell magic return nothing where its cell ends in `;` (of IPython 8, under the same name)."""

    @functools.wraps(magic)
    def silenceable(magics: Any, line: str, cell: str) -> Any:
        __tracebackhide__ = True
        value = magic(magics, line, cell)
        return None if ends_in_semicolon(cell) else value

    return silenceable


def ends_in_semicolon(cell: str) -> bool:
    """Whether the last thing in a cell is a semicolon.

    >>> ends_in_semicolon("1; # quiet"), ends_in_semicolon("'1;'"), ends_in_semicolon("!ls ')';")
    (True, False, True)
    """
    last = None
    try:
        for token in tokenize.generate_tokens(io.StringIO(cell).readline):
            if token.type not in _BEHIND_THE_CODE:
                last = token
    except (tokenize.TokenError, SyntaxError):  # shell lines and magics are no Python
        return cell.rstrip().endswith(";")
    return last is not None and last.string == ";"


def cell_number(filename: str, history: Any) -> int | None:
    """Return the n of the cell `In[n]` that a file name stands for; None for a file.

    >>> cell_number("<ipython-input-3-0123456789ab>", None)
    3
    """
    named = re.match(r"<ipython-input-(\d+)-", filename)
    if named or history is None:
        return int(named[1]) if named else None
    text = "".join(linecache.getlines(filename)).rstrip("\n")
    # under ipykernel the name is a hash of the text: the last cell with that text
    return next((n for n, one in reversed([*enumerate(history.input_hist_parsed)]) if text and one == text), None)
