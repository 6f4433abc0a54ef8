"""The errors a user of accum_magic can meet; every one of them is an `AccumulateError`."""


class AccumulateError(Exception):
    """What is wrong, in which line of the cell, what was found, and what to do next."""

    def _render_traceback_(self) -> list[str]:
        """Show the message alone in a notebook: the frames are ours, and the line is in the message (IPython asks)."""
        return [f"AccumulateError: {self}"]


class OptionError(AccumulateError):
    """The `%%accumulate` line (or the arguments of the Python API) cannot be understood."""


class Refusal(AccumulateError):
    """The cell cannot be rewritten exactly; nothing of it has run."""


class BatchError(AccumulateError):
    """The values found at run time cannot be split as the plan says; no update has been made."""


class BudgetError(AccumulateError):
    """The memory budget is less than what is in use already; the step has not run."""


class ControlError(AccumulateError):
    """A run cannot do what it is told, or none is running."""


class ReleasedError(AccumulateError):
    """A value of the micro-batches was not kept, and is asked for later."""


class OptimizerStepError(AccumulateError):
    """Memory ran out inside of `optimizer.step()`; the message says how far it got, and what to do."""


class BudgetExceededError(AccumulateError, RuntimeError):
    """More memory is in use than the budget allows, before the machine itself runs out of it.

    A RuntimeError like PyTorch's own out-of-memory errors, so that code which catches those catches it too.

    >>> str(BudgetExceededError(3 * 2**30, 2 * 2**30)).partition(".")[0]
    'the memory budget is exceeded: 3,072 MiB are in use, the budget is 2,048 MiB'
    """

    def __init__(self, in_use_bytes: float, budget_bytes: float) -> None:
        super().__init__(in_use_bytes, budget_bytes)  # both are its `args`: so it can be pickled
        self.in_use_bytes, self.budget_bytes = in_use_bytes, budget_bytes

    def __str__(self) -> str:
        in_use, budget = (f"{count / 2**20:,.0f} MiB" for count in (self.in_use_bytes, self.budget_bytes))
        return (
            f"the memory budget is exceeded: {in_use} are in use, the budget is {budget}. Take smaller micro-batches "
            "(a larger N), or allow more with --memory."
        )
