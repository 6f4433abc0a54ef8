"""What an out-of-memory error is: real ones that a CPU can make, the wordings of devices, and what is none."""

import gc
import pickle
import subprocess
import sys
import textwrap
import weakref

import pytest
import torch

from accum_magic.engine.oom import forget, free_memory, is_about_memory, is_out_of_memory
from accum_magic.errors import AccumulateError, BatchError, BudgetExceededError

# Each case runs in a fork whose address space ends a little above what it has; printed is what it met with.
LIMITED = """
import glob, mmap, os, resource, sys
import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from accum_magic.engine.oom import is_out_of_memory
torch.set_num_threads(1)
F.conv2d(torch.randn(1, 3, 8, 8), torch.randn(4, 3, 3, 3))
nn.Linear(8, 8)(torch.randn(2, 8)).sum().backward()
one = torch.zeros(1)
def backward_of_a_view():
    x = torch.zeros(1000, requires_grad=True)
    x.expand(400_000, 1000)[0].sum().backward()
def convolutions():
    net = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 16, 3, padding=1))
    net(torch.randn(16, 3, 64, 64)).square().mean().backward()
CASES = {
    "linear": lambda: F.linear(torch.zeros(1, 8).expand(20_000_000, 8), torch.zeros(64, 8)),
    "convolution": lambda: F.conv2d(torch.zeros(1, 3, 8, 8).expand(100_000, 3, 8, 8), torch.zeros(64, 3, 3, 3)),
    "matmul": lambda: torch.zeros(30_000, 2) @ torch.zeros(2, 30_000),
    "embedding": lambda: F.embedding(torch.zeros(1, dtype=torch.long).expand(50_000_000), torch.zeros(4, 64)),
    "backward": backward_of_a_view,
    "cat": lambda: torch.cat([one.expand(100_000_000)] * 2),
    "shared memory": lambda: torch.UntypedStorage._new_using_fd_cpu(1 << 30),
    "numpy": lambda: np.zeros((30_000, 30_000)),
    "bytes": lambda: bytearray(1 << 32),
    "mmap": lambda: mmap.mmap(-1, 1 << 32),
    "small tensors": lambda: [torch.zeros(100) for _ in range(1_000_000)],
    "convolutions": convolutions,
}
def run(name, room_mib):
    in_use = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
    limits = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (in_use + room_mib * 2**20, limits[1]))
    met = None
    try:
        CASES[name]()
    except Exception as error:
        resource.setrlimit(resource.RLIMIT_AS, limits)
        met = error
    print(name, is_out_of_memory(met), type(met).__name__, met, sep="|", flush=True)
for case in sys.argv[1:]:
    name, room_mib = case.split("=")
    child = os.fork()
    if not child:
        run(name, int(room_mib))
        os._exit(0)
    os.waitpid(child, 0)
    for left in glob.glob(f"/dev/shm/torch_{child}_*"):
        os.unlink(left)  # PyTorch leaves a file that it could not map: a GiB of the machine's memory
"""
ALLOCATOR = "DefaultCPUAllocator: can't allocate memory"
REAL = [
    ("linear", 200, "RuntimeError", ALLOCATOR),
    ("convolution", 200, "RuntimeError", ALLOCATOR),
    ("matmul", 200, "RuntimeError", ALLOCATOR),
    ("embedding", 200, "RuntimeError", ALLOCATOR),
    ("backward", 200, "RuntimeError", ALLOCATOR),
    ("cat", 200, "RuntimeError", ALLOCATOR),
    ("small tensors", 40, "", ""),  # the allocator's, a MemoryError of Python or std::bad_alloc: whichever is first
    ("convolutions", 1, "RuntimeError", ""),  # oneDNN: "could not create a primitive", or the allocator's
    ("shared memory", 200, "RuntimeError", "unable to mmap 1073741824 bytes"),
    ("numpy", 200, "MemoryError", "Unable to allocate 6.71 GiB"),
    ("bytes", 200, "MemoryError", ""),
    ("mmap", 200, "OSError", "[Errno 12] Cannot allocate memory"),
]


@pytest.fixture(scope="module")
def met():
    """What each case has met with, by name: (is recognised, type, text)."""
    command = [sys.executable, "-c", LIMITED, *(f"{case}={room_mib}" for case, room_mib, *_ in REAL)]
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=120)
    lines = (line.split("|", 3) for line in done.stdout.splitlines())
    return {name: rest for name, *rest in lines}


@pytest.mark.parametrize(("case", "kind", "wording"), [(case, *rest) for case, _, *rest in REAL])
def test_a_real_error_of_a_cpu_is_recognised(met, case, kind, wording):
    is_recognised, name, text = met[case]
    print(f"{case}: {name}: {text}")
    assert is_recognised == "True", text
    assert name == (kind or name)
    assert wording in text


WORDINGS = [
    "CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported at some other API call",
    "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 79.15 GiB of which 1.00 GiB is free",
    "HIP out of memory. Tried to allocate 24.00 GiB.",
    "XPU out of memory. Tried to allocate 24.00 GiB.",
    "MPS backend out of memory (MPS allocated: 17.9 GB, other allocations: 1.2 GB, max allowed: 18.1 GB).",
    "Invalid buffer size: 14.90 GiB",
    "Triton Error [CUDA]: out of memory",
    "cuDNN error: CUDNN_STATUS_ALLOC_FAILED",
    "cuDNN error: CUDNN_STATUS_NOT_SUPPORTED. This error may appear if you passed in a non-contiguous input.",
    "Unable to find a valid cuDNN algorithm to run convolution",
    "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
    "CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate(handle)`",
    "cuFFT error: CUFFT_ALLOC_FAILED",
    "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to allocate 1",
    "[enforce fail at alloc_cpu.cpp:80] data. DefaultCPUAllocator: not enough memory: you tried to allocate 64 bytes.",
    "std::bad_alloc",
    "bad allocation",
    "could not create a primitive",
    "unable to mmap 160000000 bytes from file </torch_1_2_3>: Cannot allocate memory (12)",
]


@pytest.mark.parametrize("wording", WORDINGS)
def test_a_runtime_error_is_recognised_by_its_wording(wording):
    assert is_out_of_memory(RuntimeError(wording))
    assert not is_out_of_memory(ValueError(wording))


OTHERS = [
    RuntimeError("CUDA error: an illegal memory access was encountered"),
    RuntimeError("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasSgemm`"),
    RuntimeError("could not create a primitive descriptor for the matmul primitive. Run workload with ..."),
    RuntimeError("mat1 and mat2 shapes cannot be multiplied (4x3 and 4x8)"),
    RuntimeError("It is possible that dataloader's workers are out of shared memory. Please try to raise the limit."),
    OSError(2, "No such file or directory"),
    ValueError("out of memory"),
    KeyboardInterrupt(),
    AccumulateError("out of memory"),
    None,
]


@pytest.mark.parametrize("error", OTHERS, ids=repr)
def test_what_is_no_want_of_memory(error):
    assert not is_out_of_memory(error)
    assert not is_about_memory(error)


def test_the_types_that_need_no_wording():
    for error in (torch.OutOfMemoryError("anything"), MemoryError(), BudgetExceededError(2, 1)):
        assert is_out_of_memory(error)


def raised(error, cause=None, context=None):
    error.__cause__, error.__context__ = cause, context
    return error


def test_an_error_raised_from_one_counts_and_one_raised_while_it_is_handled_does_not():
    lack = torch.OutOfMemoryError("no room")
    assert is_out_of_memory(raised(ValueError("the encoder failed"), raised(KeyError("layer"), lack)))
    slip = raised(NameError("a slip in the user's except block"), context=lack)
    assert not is_out_of_memory(slip)
    assert is_about_memory(slip)


def test_our_own_message_on_top_of_one_is_not_tried_again_but_still_cleared():
    told = raised(BatchError("line 3: ..."), torch.OutOfMemoryError("no room"))
    assert not is_out_of_memory(told)
    assert is_about_memory(told)


def test_a_chain_that_bites_its_tail_ends():
    first, second = ValueError("a"), ValueError("b")
    raised(second, raised(first, second))
    assert not is_out_of_memory(first)
    assert not is_about_memory(first)
    forget(first)


def test_the_message_of_an_exceeded_budget():
    error = BudgetExceededError(5.5 * 2**30, 2**30)
    assert str(error) == (
        "the memory budget is exceeded: 5,632 MiB are in use, the budget is 1,024 MiB. Take smaller micro-batches (a "
        "larger N), or allow more with --memory."
    )
    assert isinstance(error, AccumulateError)
    assert isinstance(error, RuntimeError)
    again = pickle.loads(pickle.dumps(error))
    assert (str(again), again.in_use_bytes, again.budget_bytes) == (str(error), 5.5 * 2**30, 2**30)


class Held:
    """Something a frame holds."""


def fail(kept, kind):
    local = Held()
    kept.append(weakref.ref(local))
    raise kind("no room")


def wrapped(kept):
    try:
        fail(kept, torch.OutOfMemoryError)
    except RuntimeError:
        local = Held()
        kept.append(weakref.ref(local))
        try:
            fail(kept, KeyError)
        except KeyError as error:
            raise ValueError("in the encoder") from error


def caught(kept):
    try:
        wrapped(kept)
    except ValueError as error:
        return error
    raise AssertionError


def test_forget_clears_the_frames_of_the_whole_chain():
    kept = []
    error = caught(kept)
    gc.collect()
    assert all(ref() is not None for ref in kept)
    forget(error)
    gc.collect()
    assert [ref() for ref in kept] == [None] * 3
    lines = textwrap.dedent("".join(f"{f.tb_frame.f_code.co_name} " for f in frames(error)))
    assert lines.split() == ["caught", "wrapped"]


def frames(error):
    found = error.__traceback__
    while found is not None:
        yield found
        found = found.tb_next


def test_forget_clears_what_a_reader_of_the_locals_has_left_in_the_frames():
    kept = []
    error = caught(kept)
    assert [name for tb in frames(error) for name in tb.tb_frame.f_locals if name == "local"] == ["local"]
    forget(error)
    gc.collect()
    assert [ref() for ref in kept] == [None] * 3


def test_forget_clears_the_members_of_a_group():
    kept = []
    try:
        wrapped(kept)
    except ValueError as error:
        group = ExceptionGroup("two ranks", [error])
    forget(group)
    gc.collect()
    assert [ref() for ref in kept] == [None] * 3


def test_frames_that_still_run_are_left():
    kept = []
    mine = Held()
    try:
        fail(kept, MemoryError)
    except MemoryError as error:
        forget(error)
    gc.collect()
    assert kept[0]() is None
    assert isinstance(mine, Held)


def test_memory_that_nobody_holds_is_freed_also_out_of_cycles():
    cycle = Held()
    cycle.own = cycle
    gone = weakref.ref(cycle)
    del cycle
    free_memory()
    assert gone() is None
