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


class ReleasedError(AccumulateError):
    """A value of the micro-batches was not kept, and is asked for later."""
