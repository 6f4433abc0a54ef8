"""Takes in what the page says while a cell runs: ipykernel handles one message after another, and the cell is one.

At safe places the main thread reads its own shell socket, without waiting. Messages of widgets are handled, and the
two questions that a page asks when it is loaded again; all others (cells to run, above all) go back to the kernel, in
their order. Handlers of widgets are the user's code, so within a step they wait until its update is done.
"""

from __future__ import annotations

import math
import time
from collections import deque

from accum_magic.view.interrupts import Interrupts, interrupts_wait
from accum_magic.view.main_shell import Frames, MainShell, Message
from accum_magic.view.subshells import is_main_thread

INTERVAL_S = 0.1
_QUESTIONS = ("kernel_info_request", "comm_info_request")
_OF_COMMS = ("comm_open", "comm_msg", "comm_close")


def pump_for(shell_or_kernel: object) -> Pump | None:
    """Return a pump for the kernel that runs this process; None in a terminal, and in kernels unlike ipykernel's."""
    try:
        return Pump(getattr(shell_or_kernel, "kernel", shell_or_kernel))
    except (AttributeError, ImportError):
        return None


class Pump:
    """Handles the messages of widgets in mid-run; whatever goes wrong switches it off.

    Raises:
        AttributeError: The kernel is not ipykernel's, or has no sockets.
        ImportError: There is no ZeroMQ.

    """

    def __init__(self, kernel: object) -> None:
        self._shell = MainShell(kernel)
        self._taken: deque[Frames] = deque()
        self._held: deque[Frames] = deque()  # until the step has ended
        self._next_s = 0.0
        self._is_busy = False
        self.why: str | None = None
        """What has gone wrong: messages wait for the end of the cell then, as ever."""

    @property
    def is_off(self) -> bool:
        """Whether something has gone wrong."""
        return self.why is not None

    def poll(self, is_between_updates: bool = True) -> None:  # noqa: FBT001, FBT002 - all that a run tells
        """Handle the messages that wait, on the main thread, at most once in INTERVAL_S.

        Args:
            is_between_updates: Whether no gradient is half made, so that the user's handlers may run.

        """
        now_s = time.perf_counter()
        if now_s < self._next_s and not (is_between_updates and self._held):
            return
        if self._is_busy or self.is_off or not is_main_thread():  # busy: a handler may train, too
            return
        self._is_busy = True
        try:
            if self._shell.has_messages() or self._held:
                self._take_in(is_between_updates=is_between_updates)
        except Exception as error:  # noqa: BLE001 - a kernel that is unlike those we know must not harm training
            self.why = f"{type(error).__name__}: {error}"
        finally:
            self._is_busy = False
            self._next_s = math.inf if self.is_off else now_s + INTERVAL_S

    def _take_in(self, *, is_between_updates: bool) -> None:
        with interrupts_wait() as interrupts:
            try:
                if is_between_updates:
                    self._taken, self._held = self._held, self._taken
                self._taken.extend(self._shell.take())
                while self._taken:
                    self._deal_with(self._taken.popleft(), interrupts, is_between_updates=is_between_updates)
            except BaseException:
                self._give_back()
                self._shell.look_for_itself()
                raise

    def _deal_with(self, frames: Frames, interrupts: Interrupts, *, is_between_updates: bool) -> None:
        kind = self._shell.kind(frames)
        is_of_a_comm = kind in _OF_COMMS
        if kind in _QUESTIONS or (is_of_a_comm and (is_between_updates or self._shell.is_heard_at_any_time(frames))):
            message = self._shell.read(frames)
            if message is not None:
                self._handle(message, interrupts)
        elif is_of_a_comm or self._held:
            self._hold(frames)
        else:
            self._shell.hand_back(frames)

    def _handle(self, message: Message, interrupts: Interrupts) -> None:
        with self._shell.handling(message):
            if message.kind in _QUESTIONS:
                self._shell.answer(message)
            else:
                with interrupts.let_through():
                    self._shell.to_comm(message)

    def _hold(self, frames: Frames) -> None:
        """Keep a message until the step has ended, and all that come behind it; until the cell ends, if it fails."""
        if not self._held:
            self._shell.after_the_cell(self._give_back)
        self._held.append(frames)

    def _give_back(self) -> None:
        for kept in (self._held, self._taken):
            while kept:
                self._shell.hand_back(kept.popleft())
