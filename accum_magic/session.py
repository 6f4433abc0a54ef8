"""One execution of a rewritten cell: a run, a view, and names that are taken away behind it."""

from __future__ import annotations

import ast
import inspect
import warnings
from contextlib import ExitStack, redirect_stdout
from io import StringIO
from typing import TYPE_CHECKING, Any, Protocol

from accum_magic.bind import as_users_code, bound
from accum_magic.cell.length import schedulers_stepped, step_counts
from accum_magic.cell.parse import enclosing_function
from accum_magic.check import checking
from accum_magic.showing import view_of
from accum_magic.view.closing import Closing

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import CodeType

    from accum_magic.cell.rewrite import Rewrite
    from accum_magic.engine.run import Run
    from accum_magic.engine.schedules import ScheduleWatch
    from accum_magic.showing import View


class Shell(Protocol):
    """What of IPython's shell a session needs."""

    user_ns: dict[str, Any]

    def transform_ast(self, node: ast.Module) -> ast.Module:
        """Apply what the user has registered."""


class ScheduleWarning(UserWarning):
    """A learning-rate schedule will not reach its end."""


class Session:
    """One execution of a rewritten cell: a run, a view, and names that are taken away behind it."""

    def __init__(self, shell: Shell, rewritten: Rewrite, arguments: Any, filename: str) -> None:
        self._shell, self._rewritten, self._arguments, self._filename = shell, rewritten, arguments, filename
        self._view: View | None = None
        self._watch: ScheduleWatch | None = None
        # what the user has under the names that the rewrite needs comes back when the cell has run
        self._kept = {n: shell.user_ns[n] for n in rewritten.generated if n in shell.user_ns}

    def __enter__(self) -> Session:  # noqa: PYI034 - not to be subclassed
        from accum_magic.engine.run import begin  # the engine is read when a cell first runs

        total_steps = _total_steps(self._rewritten, self._shell.user_ns)
        if self._arguments.window:
            self._watch_schedules(total_steps)  # warnings may be errors: then nothing is bound, and no run has begun
        trained_by = [function for function in self._rewritten.functions if function.has_step]
        self._bound = ExitStack()
        self._run: Run = begin(None if trained_by else total_steps)  # how often they are called is not known
        try:
            self._bound.enter_context(bound(self._rewritten.functions))
            for function in trained_by:
                self._run.note(f"`{function.name}` ({function.where}) ran in micro-batches, rewritten for this cell")
            self._safely(self._show)
        except BaseException as interrupt:
            self.__exit__(type(interrupt))
            raise
        return self

    def _watch_schedules(self, total_steps: int | None) -> None:
        """Warn of schedulers that were built for more steps than come under `--window`."""
        from accum_magic.engine.schedules import ScheduleWatch

        stepped = frozenset(schedulers_stepped(self._rewritten.plan))
        self._watch = ScheduleWatch(self._shell.user_ns, stepped, int(self._arguments.n))
        for text in self._watch.before(total_steps):
            warnings.warn(text, ScheduleWarning, stacklevel=1)

    def _show(self) -> None:
        another = Session(self._shell, self._rewritten, self._arguments, self._filename)  # without the run
        self._view = view_of(self._arguments, self._shell, self._run, self._rewritten, another.checked)
        if self._view is not None:
            self._view.start()

    def _safely(self, call: Callable[..., object], *arguments: object) -> None:
        """Let a view fail without harm to the training; the summary tells."""
        try:
            call(*arguments)
        except Exception as error:  # noqa: BLE001 - whatever a front end does wrong
            self._run.note(f"the view failed: {error!r}")

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._bound.close()
        self._run.end()
        for text in self._watch.after() if self._watch is not None and kind is None else ():
            self._run.note(text)
        for name in self._rewritten.generated:
            self._shell.user_ns.pop(name, None)
        self._shell.user_ns.update(self._kept)
        if self._view is not None:
            self._safely(self._view.close, self._closing(kind))

    def _closing(self, kind: type[BaseException] | None) -> Closing:
        summary, has_run = str(self._run.summary()), self._run.steps > 0
        if kind is not None:
            return Closing(f"stopped by {kind.__name__} · {summary}", "failed", kind.__name__, is_told=has_run)
        if not has_run:
            return Closing(_rewritten_functions(self._rewritten) or summary, "finished", is_told=False)
        return Closing(summary, "stopped" if self._run.control.has_stopped else "finished")

    def checked(self) -> str:
        """Run the exactness check without a word of the cell's own, and say what it has found, or why it could not."""
        if any(code is not None and code.co_flags & inspect.CO_COROUTINE for code in self._compiled()):
            return "a cell with `await` is checked by --check in its first line"
        try:
            with redirect_stdout(StringIO()), checking(self._rewritten, self._shell.user_ns) as check:
                self.execute()
        except (Exception, KeyboardInterrupt) as error:  # noqa: BLE001 - the page shows it; nothing else would
            return f"the check could not run: {type(error).__name__}: {error}"
        return str(check.result)

    def execute(self) -> Any:
        """Run the cell in the user's namespace; errors rise."""
        __tracebackhide__ = True
        body, last = self._compiled()
        exec(body, self._shell.user_ns)
        return None if last is None else eval(last, self._shell.user_ns)  # noqa: S307 - so is its last line

    async def execute_awaiting(self) -> Any:
        """Run a cell whose code may await."""
        __tracebackhide__ = True
        value = None
        for code in self._compiled():
            value = None if code is None else eval(code, self._shell.user_ns)  # noqa: S307 - the user's cell
            if inspect.iscoroutine(value):
                value = await value
        return value

    def _compiled(self) -> tuple[CodeType, CodeType | None]:
        """Compile the cell; its last expression separately, since its value is the cell's."""
        tree = self._shell.transform_ast(self._rewritten.tree)
        body, flags = tree.body, ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
        last = None
        if body and isinstance(final := body[-1], ast.Expr):
            body = body[:-1]
            last = compile(ast.Expression(final.value), self._filename, "eval", flags, dont_inherit=True)
        code = compile(ast.Module(body, []), self._filename, "exec", flags, dont_inherit=True)
        return as_users_code(code, frozenset(self._rewritten.generated), "<module>"), last


def _rewritten_functions(rewritten: Rewrite) -> str | None:
    """Say which functions were rewritten, in a cell that only defines them."""
    functions = [enclosing_function(step.places) for step in rewritten.plan.steps]
    names = dict.fromkeys(f"`{f.name}`" for f in functions if f is not None)
    return f"accum_magic: {', '.join(names)} will run in micro-batches when called" if names else None


def _total_steps(rewritten: Rewrite, namespace: dict[str, Any]) -> int | None:
    """Return how many steps the cell will take, where the loops' lengths are known beforehand."""
    counts = step_counts(rewritten.plan)
    if counts is None:
        return None
    total = 0
    for lengths in counts:
        product = 1
        for length in lengths:
            try:
                product *= int(eval(length, namespace))  # noqa: S307 - `len()` of the user's own loader
            except Exception:  # noqa: BLE001 - a generator, a loader without a length: the line shows no total then
                return None
        total += product
    return total
