"""The hall: `%%accumulate` in IPython. Parses the line, runs the pipeline, executes, shows."""

from __future__ import annotations

import ast
import inspect
import os
from typing import TYPE_CHECKING, Any

from IPython.core.error import UsageError
from IPython.core.getipython import get_ipython
from IPython.core.magic import Magics, cell_magic, line_magic, magics_class
from IPython.core.magic_arguments import argument, magic_arguments, parse_argstring
from IPython.display import display

from accum_magic.api import rewrite_with
from accum_magic.cell.explain import explain
from accum_magic.cell.parse import refuse_cell_magic
from accum_magic.check import checking
from accum_magic.errors import AccumulateError, OptionError
from accum_magic.forgetting import Forgetting
from accum_magic.old_ipython import cell_number
from accum_magic.options import REPLAY, command_from, options_from
from accum_magic.session import Session
from accum_magic.showing import PANELS

try:
    from IPython.core.magic import output_can_be_silenced
except ImportError:  # IPython 7
    from accum_magic.old_ipython import output_can_be_silenced  # type: ignore[assignment]

if TYPE_CHECKING:
    from IPython.core.interactiveshell import InteractiveShell

    from accum_magic.cell.rewrite import Rewrite

_NAME = "accumulate"


@magics_class
class AccumulateMagics(Magics):
    """`%%accumulate N`: run a training cell in micro-batches."""

    def __init__(self, shell: InteractiveShell) -> None:
        super().__init__(shell)
        self.forgetting = Forgetting()
        self._numbers: dict[str, int] = {}

    @magic_arguments()
    @argument("n", nargs="?", metavar="N", help="micro-batches per update, at least 1, or auto: the fastest that fit")
    @argument("--size", metavar="M", help="in place of N: micro-batches of at most M samples")
    @argument("--window", action="store_true", help="accumulate over N batches of the loader instead of splitting one")
    @argument("--batch", metavar="x,y", help="names or expressions that hold the batch, where inference is ambiguous")
    @argument("--dim", metavar="x=1,h=1", help="batch dimension of a name, where it is not 0")
    @argument(
        "--replay",
        choices=REPLAY,
        default="auto",
        help="the exact two-pass mode for losses that are no mean over samples: where it is needed, always or never",
    )
    @argument("--memory", metavar="6GiB", help="the memory budget: 6GiB, 500MB, or 80%% of what this process may have")
    @argument("--grad-dtype", metavar="float32", help="accumulate low-precision gradients in float32")
    @argument("--noise", action="store_true", help="also estimate the gradient noise scale")
    @argument("--show", action="store_true", help="print exactly the code that would run; run nothing")
    @argument("--explain", action="store_true", help="print the cell's lines, each with when it runs; run nothing")
    @argument("--check", action="store_true", help="run a step both ways on a few samples and compare; train nothing")
    @argument(
        "--panel", choices=PANELS, default="live", help="what shows the run; text stands for what cannot show live"
    )
    @output_can_be_silenced
    @cell_magic(_NAME)  # type: ignore[arg-type]
    def accumulate(self, line: str, cell: str) -> Any:
        """Run a training cell in N micro-batches per update: the same result, a 1/N of the activation memory."""
        __tracebackhide__ = True  # IPython leaves our frames out: the user's own line comes first
        arguments, rewritten, filename = self._prepare(line, cell)
        if arguments.show or arguments.explain:
            print(explain(rewritten) if arguments.explain else rewritten.source, end="")
            return None
        if arguments.check:
            with self.forgetting.noticing(), checking(rewritten, self.shell.user_ns) as check:
                Session(self.shell, rewritten, arguments, filename).execute()
            return display(check.result)
        with self.forgetting.noticing(), Session(self.shell, rewritten, arguments, filename) as session:
            return session.execute()

    async def accumulate_awaiting(self, line: str, cell: str) -> Any:
        """Do the same for a cell with top-level `await`, which a cell magic cannot run."""
        __tracebackhide__ = True
        arguments, rewritten, filename = self._prepare(line, cell)
        if arguments.show or arguments.explain:
            print(explain(rewritten) if arguments.explain else rewritten.source, end="")
            return None
        if arguments.check:
            with self.forgetting.noticing(), checking(rewritten, self.shell.user_ns) as check:
                await Session(self.shell, rewritten, arguments, filename).execute_awaiting()
            return display(check.result)
        with self.forgetting.noticing(), Session(self.shell, rewritten, arguments, filename) as session:
            return await session.execute_awaiting()

    @line_magic(_NAME)  # type: ignore[arg-type]
    def control(self, line: str) -> None:
        """Tell the running cell what to do, or show what became of the last one.

        `%accumulate status` shows the summary of the last run. `%accumulate pause`, `resume`, `stop` and `n=8` are the
        controls of the panel, for a notebook where a line can run beside the cell, such as a console on a subshell.
        """
        from accum_magic.engine.commands import ask
        from accum_magic.engine.run import last_run

        wish = line.strip()
        if wish == "status":
            print(last_run() or "accum_magic: no cell has run in micro-batches yet")
        else:
            ask(command_from(wish))

    shell: InteractiveShell

    def _prepare(self, line: str, cell: str) -> tuple[Any, Rewrite, str]:
        arguments = self._arguments(line)
        options = options_from(
            arguments.n,
            arguments.size,
            _unquoted(arguments.batch),
            _unquoted(arguments.dim),
            window=arguments.window,
            replay=arguments.replay,
            grad_dtype=arguments.grad_dtype,
            noise=arguments.noise,
            memory=_unquoted(arguments.memory),
        )
        __tracebackhide__ = True
        magics = self._lines_above(line, cell)
        blank = len(cell) - len(cell.lstrip("\n"))  # IPython's transformation drops blank lines at the top
        above = len(magics) + blank
        refuse_cell_magic("\n" * len(magics) + cell)
        text = "\n" * above + self.shell.transform_cell(cell)
        # what tracebacks show has to be Python, so the magics above the body are comments there
        shown = "".join(f"#{m}\n" for m in magics) + text[len(magics) :]
        filename = self.shell.compile.cache(shown, self._cell_number(), raw_code=shown)
        self._numbers[filename] = self._cell_number()
        # alone first: the cell's own syntax errors are reported at the user's line
        compile(text, filename, "exec", ast.PyCF_ONLY_AST | ast.PyCF_ALLOW_TOP_LEVEL_AWAIT, dont_inherit=True)
        return arguments, rewrite_with(text, options, self.shell.user_ns, self._name_of_file), filename

    def _name_of_file(self, filename: str) -> str:
        """Return `In[3]` for a cell's file name, else the last part of its path."""
        compiler = self.shell.compile
        if hasattr(compiler, "format_code_name"):
            name = compiler.format_code_name(filename)
        else:  # IPython 7
            number = self._numbers.get(filename) or cell_number(filename, self.shell.history_manager)
            name = None if number is None else ("Cell", f"In[{number}]")
        return name[1] if name is not None else os.path.basename(filename)  # noqa: PTH119 - it may be `<string>`

    def _arguments(self, line: str) -> Any:
        try:
            return parse_argstring(self.accumulate, line)
        except UsageError as error:
            message = f"{error}. `%%accumulate?` shows all options."
            raise OptionError(message) from None

    def _inputs(self) -> list[str]:
        history = self.shell.history_manager
        return [] if history is None else list(history.input_hist_raw)

    def _cell_number(self) -> int:
        """Return the n of `In[n]`; IPython has counted on already when a cell runs."""
        return max(len(self._inputs()) - 1, 1)

    def _lines_above(self, line: str, cell: str) -> list[str]:
        """Return the lines of the notebook's cell that stand above the body."""
        raw, body = (self._inputs() or [""])[-1].rstrip("\n"), cell.rstrip("\n")
        if body and raw.endswith(body):
            return raw[: -len(body)].split("\n")[:-1]
        return [f"%%{_NAME} {line}"]


def _unquoted(text: str | None) -> str | None:
    """IPython keeps the quotes around an option's value."""
    if text is not None and len(text) > 1 and text[0] == text[-1] and text[0] in "'\"":
        return text[1:-1]
    return text


def _hand_over(lines: list[str]) -> list[str]:
    """Hand IPython what a cell magic cannot do itself (an input transformer).

    A cell with top-level `await` becomes an awaiting statement; one that is no Python goes to IPython
    without the magic, which then shows the syntax error as it shows any other.
    """
    if not (lines and lines[0].split()[:1] == [f"%%{_NAME}"]):
        return lines
    line, cell = lines[0][len(_NAME) + 2 :].strip(), "".join(lines[1:])
    shell = get_ipython()
    try:
        source = cell if shell is None else shell.transform_cell(cell)
        code = compile(source, "<cell>", "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT, dont_inherit=True)
    except SyntaxError:
        return lines if cell.lstrip().startswith("%%") else [f"#{lines[0]}", *lines[1:]]
    if not code.co_flags & inspect.CO_COROUTINE:
        return lines
    call = f"await get_ipython().find_cell_magic({_NAME!r}).__self__.accumulate_awaiting({line!r}, {cell!r})"
    ending = ";" if cell.rstrip().endswith(";") else ""
    return [f"{call}{ending}\n"]


# IPython then leaves it out when it asks whether the lines typed so far are a complete cell
_hand_over.has_side_effects = True  # type: ignore[attr-defined]


def load(shell: InteractiveShell) -> None:
    """Register the magic and its input transformer."""
    unload(shell)
    magics = AccumulateMagics(shell)
    shell.register_magics(magics)
    shell.events.register("post_run_cell", magics.forgetting.let_go)
    shell.input_transformers_cleanup.append(_hand_over)


def unload(shell: InteractiveShell) -> None:
    """Leave the shell as it was before `load`."""
    for kind in ("cell", "line"):
        shell.magics_manager.magics[kind].pop(_NAME, None)
    magics = shell.magics_manager.registry.pop(AccumulateMagics.__name__, None)
    if magics is not None:
        shell.events.unregister("post_run_cell", magics.forgetting.let_go)
    if _hand_over in shell.input_transformers_cleanup:
        shell.input_transformers_cleanup.remove(_hand_over)


__all__ = ["AccumulateError", "AccumulateMagics", "load", "unload"]
