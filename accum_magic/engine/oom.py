"""What an out-of-memory error is, and what to do before anything is tried again: let go of it, free memory."""

from __future__ import annotations

import errno
import gc
import re
import traceback
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

import torch

from accum_magic.errors import AccumulateError, BudgetExceededError

# Wordings of RuntimeErrors. Those marked * were met with in torch 2.13 on a CPU (tests/engine/test_oom.py runs into
# them again); the others are PyTorch's own texts, and those of accelerate's `should_reduce_batch_size`, Lightning's
# `is_oom_error` and toma. One that fits too often costs little: smaller pieces meet with the same error again.
# oneDNN's can last: where its code buffer could not be mapped, convolutions of any size fail with it in that process
# when there is memory again too, and run under `torch.backends.mkldnn.flags(enabled=False)` only.
_WORDINGS = (
    r"out of memory",  # CUDA, HIP, XPU, MPS, Triton, NCCL, "CUDA error: out of memory" (pytorch#27600)
    r"DefaultCPUAllocator: can't allocate memory",  # *
    r"not enough memory",  # DefaultCPUAllocator on Windows ("Buy new RAM!"), oneMKL
    r"cannot allocate memory",  # * "unable to mmap 160000000 bytes from file </torch_1_2_3>: ... (12)"
    r"unable to mmap memory",
    r"std::bad_alloc|bad allocation",  # * oneDNN, and every small thing of C++
    r"could not create a primitive$|could not create a memory object|could not execute a primitive",  # * oneDNN
    r"_ALLOC_FAILED",  # cuBLAS, cuDNN, cuFFT, cuSPARSE, cuSOLVER and their HIP twins
    r"CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate",  # its workspace does not fit
    r"CUDNN_STATUS_NOT_SUPPORTED",  # pytorch#4107: a workspace that does not fit
    r"unable to find a valid cuDNN algorithm|unable to find an engine to execute this computation",
    r"invalid buffer size",  # MPS: larger than its largest buffer
    r"PT_DEVMEM Allocation failed",  # HPU
)
_PACKAGE = str(Path(__file__).parents[1])
_IS_WORDED = re.compile("|".join(_WORDINGS), re.IGNORECASE).search


def is_out_of_memory(error: BaseException | None) -> bool:
    """Tell whether an error says that memory has run out, whoever words it.

    An error that was raised `from` such a one counts: whoever wrote that says it failed because of it. One that was
    merely raised while it was handled (`__context__`) does not: a mistake in the user's `except` block has another
    reason, and must not be taken for want of memory. Nor does an `AccumulateError` that stands on top of one: what
    can be done about it is in its message.

    >>> is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory.")), is_out_of_memory(ValueError("memory"))
    (True, False)
    """
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        if _is_itself(error):
            return True
        if isinstance(error, AccumulateError):
            return False
        seen.add(id(error))
        error = error.__cause__
    return False


def _is_itself(error: BaseException) -> bool:
    if isinstance(error, torch.OutOfMemoryError | MemoryError | BudgetExceededError):
        return True
    if isinstance(error, OSError):  # `mmap`, and `fork` for a loader's workers
        return error.errno == errno.ENOMEM
    return isinstance(error, RuntimeError) and _IS_WORDED(str(error)) is not None


def is_about_memory(error: BaseException | None) -> bool:
    """Tell whether an error, or any that led to it, is an out-of-memory error: then nothing of it may stay alive."""
    return any(_is_itself(one) for one in _chain(error))


def forget(error: BaseException | None) -> None:
    """Let go of all that an error's frames hold, and those of the errors that led to it; running frames are left.

    A traceback keeps the locals of its frames alive, and a notebook keeps the last traceback (pytorch#27600,
    ipython#11572). File, line and text of each frame stay, so that the traceback shows what it always did.
    """
    for one in _chain(error):
        traceback.clear_frames(one.__traceback__)
        for frame, _ in traceback.walk_tb(one.__traceback__):
            # Up to Python 3.12 whoever has read `f_locals`, as a traceback with variables does, has left a dict of them
            # in the frame; reading it anew takes from it what the frame no longer has.
            frame.f_locals  # noqa: B018


def leave_out_ours(error: BaseException) -> None:
    """Take this package's frames out of a traceback: `forget` has cleared the mark that hides them."""
    entries = []
    entry = error.__traceback__
    while entry is not None:
        if not entry.tb_frame.f_code.co_filename.startswith(_PACKAGE):
            entries.append(entry)
        entry = entry.tb_next
    below = None
    for entry in reversed(entries):
        below = TracebackType(below, entry.tb_frame, entry.tb_lasti, entry.tb_lineno)
    error.__traceback__ = below


def free_memory() -> None:
    """Give back what nobody holds any more; to be called outside of an `except`, which would still hold it."""
    gc.collect()
    if torch.accelerator.is_available():
        try:
            torch.accelerator.empty_cache()
        except RuntimeError as error:  # it synchronises, and so may itself be told of an earlier failure
            if not is_out_of_memory(error):
                raise


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an error and all that it knows of, each once."""
    seen: set[int] = set()
    waiting = [error]
    while waiting:
        one = waiting.pop()
        if one is not None and id(one) not in seen:
            seen.add(id(one))
            yield one
            waiting += [one.__cause__, one.__context__]
            if isinstance(one, BaseExceptionGroup):
                waiting += one.exceptions
