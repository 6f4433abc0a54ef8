"""The options of `%%accumulate`, checked once for the magic and for the Python API."""

from __future__ import annotations

import ast
import operator
from dataclasses import dataclass
from typing import Literal

from accum_magic.cell.planned import PlanOptions
from accum_magic.cell.write_step import StepOptions
from accum_magic.engine.amounts import amount_from
from accum_magic.engine.control import Command
from accum_magic.errors import OptionError

REPLAY = ("auto", "always", "never")
GRAD_DTYPES = (None, "float32")
_COMMANDS = {"pause": Command("pause"), "resume": Command("resume"), "stop": Command("stop")}
_HOW = "Write %%accumulate 10, %%accumulate auto, or %%accumulate --size 100 for micro-batches of at most 100 samples."


@dataclass(frozen=True, slots=True)
class Options:
    """What the user asks for."""

    step: StepOptions
    plan: PlanOptions


def options_from(  # noqa: PLR0913 - the options of the magic
    n: str | int | None,
    size: str | int | None = None,
    batch: str | None = None,
    dim: str | None = None,
    *,
    window: bool = False,
    replay: str = "auto",
    grad_dtype: str | None = None,
    noise: bool = False,
    memory: str | None = None,
) -> Options:
    """Check the options of one rewrite.

    Raises:
        OptionError: One of them cannot be understood; the message shows how to write it.

    """
    if n is None and size is None:
        message = f"how many micro-batches? {_HOW}"
        raise OptionError(message)
    if n is not None and size is not None:
        message = f"N = {n} and --size {size} both say how to split; give one of them. {_HOW}"
        raise OptionError(message)
    if window and n is None:
        message = f"--window puts N loader batches together, found --size {size}. Write %%accumulate 4 --window."
        raise OptionError(message)
    if window and _is_auto(n):
        message = "--window takes N loader batches per update, so N cannot be `auto`. Write %%accumulate 4 --window."
        raise OptionError(message)
    for option, value, allowed in (("--replay", replay, REPLAY), ("--grad-dtype", grad_dtype, GRAD_DTYPES)):
        if value not in allowed:
            message = f"{option} takes {' or '.join(str(a) for a in allowed if a)}, found `{value}`."
            raise OptionError(message)
    count: int | Literal["auto"] | None = "auto" if _is_auto(n) else _count("N", n)
    step = StepOptions(count, _count("--size", size), window, replay, grad_dtype, noise, _memory(memory))
    names, dims = _names(batch), _dims(dim)
    alone = next((name for name, _ in dims if "." in name and name not in names), None)
    if alone is not None:
        message = (
            f"--dim names `{alone}`, which is no plain name. Name it as the batch too: --batch {alone} --dim {dim}"
        )
        raise OptionError(message)
    return Options(step, PlanOptions(names, dims))


def command_from(text: str) -> Command:
    """Return what `%accumulate` is to tell the running cell.

    Raises:
        OptionError: It cannot be understood.

    >>> command_from("n=8")
    Command(kind='n', value=8)
    """
    kind, _, number = text.partition("=")
    if kind.strip() == "n" and number.strip().isdecimal():
        return Command("n", int(number))
    if text in _COMMANDS:
        return _COMMANDS[text]
    message = f"%accumulate takes status, pause, resume, stop, or n=8 for 8 micro-batches, found `{text}`."
    raise OptionError(message)


def _is_auto(n: object) -> bool:
    return isinstance(n, str) and n == "auto"


def _memory(text: object) -> str | None:
    if text is None:
        return None
    amount = amount_from(text) if isinstance(text, str) else None
    if amount is None:
        message = f"--memory takes an amount with its unit, such as 6GiB, 500MB or 80%, found `{text}`."
        raise OptionError(message)
    return amount.text


def _count(what: str, value: str | int | None) -> int | None:
    if value is None:
        return None
    try:
        number = int(value) if isinstance(value, str) else operator.index(value)
    except (ValueError, TypeError):
        kind = "a whole number or `auto`" if what == "N" else "a whole number"
        message = f"{what} must be {kind}, found `{value}`. {_HOW}"
        raise OptionError(message) from None
    if number < 1:
        message = f"{what} must be at least 1, found {number}. {_HOW}"
        raise OptionError(message)
    return number


def _names(text: str | None) -> tuple[str, ...]:
    if text is None:
        return ()
    try:
        node = ast.parse(f"({text},)", mode="eval").body
    except SyntaxError:
        node = None
    if not isinstance(node, ast.Tuple) or not all(
        isinstance(e, ast.Name | ast.Attribute | ast.Subscript) for e in node.elts
    ):
        message = f'--batch takes names or expressions such as x,y or batch["ids"], found `{text}`.'
        raise OptionError(message)
    return tuple(ast.unparse(e) for e in node.elts)


def _dims(text: str | None) -> tuple[tuple[str, int], ...]:
    if text is None:
        return ()
    pairs = [part.partition("=") for part in text.split(",")]
    if not all(
        all(n.isidentifier() for n in name.strip().split(".")) and number.strip().isdigit() for name, _, number in pairs
    ):
        message = f"--dim takes name=dimension pairs such as x=1,h=1, found `{text}`."
        raise OptionError(message)
    return tuple((name.strip(), int(number)) for name, _, number in pairs)
