"""The kernel's main shell: where messages for the main thread wait while a cell runs. All that is known of ipykernel.

It has no interface for this. What is used of it is the same from 6.17 to 7.4; what is missing raises, and who asks
(`pump.py`) does without.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from accum_magic.view.subshells import call_back, is_ours

Frames = list[Any]
_HEADER, _CONTENT = 1, 4  # what stands where in a message, behind the identities
_STATES_OF_WIDGETS = "jupyter.widget.control"


@dataclass(frozen=True)
class Message:
    """A message that is signed by the page's server."""

    kind: str
    identities: list[bytes]
    body: dict[str, Any]


class MainShell:
    """Takes messages from the main shell's socket, handles them, or gives them back.

    Raises:
        AttributeError: The kernel is not ipykernel's, or has no sockets.
        ImportError: There is no ZeroMQ.

    """

    def __init__(self, kernel: Any) -> None:
        import zmq

        self._zmq, self._kernel, self._stream = zmq, kernel, _stream(kernel)
        self._socket = self._stream.socket
        for owner, names in (
            (kernel, ("session", "shell_handlers", "io_loop", "comm_manager", "set_parent", "_parent_ident")),
            (self._stream, ("_recv_callback", "_run_callback", "flush")),
            (self._socket, ("recv_multipart", "getsockopt")),
        ):
            for name in names:
                getattr(owner, name)

    def has_messages(self) -> bool:
        """Whether messages wait."""
        return bool(self._socket.getsockopt(self._zmq.EVENTS) & self._zmq.POLLIN)

    def take(self) -> Iterator[Frames]:
        """Yield all messages that wait. Only when the socket is empty does ZeroMQ tell the kernel of the next one."""
        while True:
            try:
                frames = self._socket.recv_multipart(self._zmq.NOBLOCK, copy=False)
            except self._zmq.Again:
                return
            yield frames

    def kind(self, frames: Frames) -> str | None:
        """Tell a message's type from its header only: the kernel takes one that is verified twice for a duplicate."""
        kind = self._peek(frames, _HEADER).get("msg_type")
        return kind if isinstance(kind, str) else None

    def is_heard_at_any_time(self, frames: Frames) -> bool:
        """Whether no handler of the user's comes into play: ours, and the one that tells a page of all widgets."""
        content = self._peek(frames, _CONTENT)
        comm = self._kernel.comm_manager.comms.get(str(content.get("comm_id")))
        target = content.get("target_name") if comm is None else comm.target_name
        return target == _STATES_OF_WIDGETS or is_ours(comm)

    def _peek(self, frames: Frames, part: int) -> dict[str, Any]:
        session = self._kernel.session
        try:
            _, parts = session.feed_identities(frames, copy=False)
            found = session.unpack(parts[part].bytes)
        except Exception:  # noqa: BLE001 - no message at all, or ipykernel's own `stop aborting`
            return {}
        return found if isinstance(found, dict) else {}

    def read(self, frames: Frames) -> Message | None:
        """Verify and decode a message; one that is not signed is logged and dropped, as the kernel does."""
        session = self._kernel.session
        identities, parts = session.feed_identities(frames, copy=False)
        try:
            body = session.deserialize(parts, content=True, copy=False)
            return Message(body["header"]["msg_type"], identities, body)
        except Exception:  # whatever a stranger writes to the socket
            self._kernel.log.exception("Invalid Message")
            return None

    def hand_back(self, frames: Frames) -> None:
        """Let the kernel have a message as if it had taken it from the socket itself."""
        hand_on = self._stream._recv_callback
        if inspect.iscoroutinefunction(hand_on):
            self._kernel.io_loop.add_callback(self._stream._run_callback, hand_on, frames)
        else:  # ipykernel 6: into its queue at once, for a failing cell empties the socket behind us into that queue
            hand_on(frames)

    def after_the_cell(self, call: Callable[[], object]) -> None:
        """Call something when the kernel is about to take the next message itself."""
        self._kernel.io_loop.add_callback(call)

    def look_for_itself(self) -> None:
        """Let the kernel look at its socket, once the cell has ended: it may have missed that messages came."""
        self.after_the_cell(self._stream.flush)

    @contextmanager
    def handling(self, message: Message) -> Iterator[None]:
        """Let outputs and status belong to a message for the time of a block, and then to the running cell again."""
        kernel = self._kernel
        cell, identities = kernel.get_parent("shell"), kernel._parent_ident["shell"]
        _flush()
        try:
            kernel.set_parent(message.identities, message.body, channel="shell")
            kernel._publish_status("busy", "shell", parent=message.body)
            yield
        finally:
            _flush()
            kernel._publish_status("idle", "shell", parent=message.body)
            kernel.set_parent(identities, cell, channel="shell")
            kernel._publish_status("busy", "shell", parent=cell)

    def answer(self, message: Message) -> None:
        """Answer a question of the page's: what kernel this is, or which comms are open."""
        answer = self._kernel.shell_handlers[message.kind](self._way_back(), message.identities, message.body)
        if inspect.iscoroutine(answer):
            _run(answer)
        if self._way_back() is self._stream:
            self._stream.flush(self._zmq.POLLOUT)

    def to_comm(self, message: Message) -> None:
        """Hand a message to its comm; an exception of the handler's is logged, as the kernel does."""
        kernel, content = self._kernel, message.body["content"]
        try:
            if message.kind != "comm_msg":
                kernel.shell_handlers[message.kind](self._way_back(), message.identities, message.body)
                return
            comm = kernel.comm_manager.get_comm(content["comm_id"])
            if comm is not None:
                call_back(comm, message.body)  # `handle_msg` fires `post_execute`, which closes the cell's figures
        except Exception:
            kernel.log.exception("Exception in %s for %s", message.kind, content.get("comm_id"))

    def _way_back(self) -> Any:
        """Return what replies are sent on."""
        thread = getattr(self._kernel, "shell_channel_thread", None)
        return self._stream if thread is None else thread.manager.get_subshell_to_shell_channel_socket(None)


def _stream(kernel: Any) -> Any:
    """Return the stream that messages for the main thread come on; since ipykernel 7 another thread sorts them."""
    thread = getattr(kernel, "shell_channel_thread", None)
    return kernel.shell_stream if thread is None else thread.manager.get_shell_channel_to_subshell_pair(None).to_stream


def _run(coroutine: Any) -> None:
    """Run a coroutine that awaits nothing, inside of the loop that waits for the cell."""
    try:
        coroutine.send(None)
    except StopIteration:
        return
    coroutine.close()
    message = "the kernel waits for something else before it answers"
    raise RuntimeError(message)


def _flush() -> None:
    """Let what was printed so far go out under the message that it belongs to."""
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            stream.flush()
