"""`optimizer.step()` where memory runs out: bitwise the undisturbed step, or an error that says how far it got."""

import copy
import gc
import re
import signal
import subprocess
import sys
from collections import Counter

import pytest
import torch
from accelerate import Accelerator
from torch import nn
from torch.optim import SGD, Adagrad, Adam, AdamW, Optimizer, RMSprop
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from accum_magic.engine.run import begin, last_run
from accum_magic.errors import OptimizerStepError
from accum_magic.testing import run_accumulated


class _Failing:
    """Raises an out-of-memory error in place of the operation of a number, and of the ones behind it `times` times."""

    def __init__(self, at, times=1):
        super().__init__()
        self.at, self.left, self.count = at, times, 0

    def called(self, name, func, args, kwargs):
        if "profiler" not in name:
            self.count += 1
            if self.count >= self.at and self.left:
                self.left -= 1
                raise torch.OutOfMemoryError(f"CUDA out of memory in {name}")
        return func(*args, **(kwargs or {}))


class FailingOperation(_Failing, TorchDispatchMode):
    """Every operation of PyTorch, those within operations too. Under it lists of tensors do not count versions."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        return self.called(str(func), func, args, kwargs)


class FailingCall(_Failing, TorchFunctionMode):
    """Every call from Python of an operation that makes or changes tensors."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        name = getattr(func, "__name__", "")
        if name.startswith(("_foreach_", "zeros", "clone", "sqrt")) or (name.endswith("_") and "__" not in name):
            return self.called(name, func, args, kwargs)
        return func(*args, **(kwargs or {}))


def made(kind, **options):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3))
    return model, kind(model.parameters(), lr=0.1, **options)


def back_propagate(model, seed):
    model.zero_grad()
    torch.manual_seed(seed)
    model(torch.randn(5, 4)).square().mean().backward()


def state_of(model, optimizer):
    return copy.deepcopy(([*model.parameters()], [p.grad for p in model.parameters()], optimizer.state_dict()))


def same(one, other):
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[k], other[k]) for k in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return one == other


def trained_plainly(kind, steps, **options):
    """What a loop leaves that none of this package has touched."""
    model, optimizer = made(kind, **options)
    for seed in range(steps):
        back_propagate(model, seed)
        optimizer.step()
    return state_of(model, optimizer)


@pytest.fixture
def run():
    gc.freeze()  # what was there before the test: a collection, one per retry, then takes no time
    run = begin()
    yield run
    run.end()
    gc.unfreeze()


def disturbed(kind, steps, failing, **options):
    """Train up to the last step, and that with failing operations; return states before and after, and the error."""
    model, optimizer = made(kind, **options)
    for seed in range(steps - 1):
        back_propagate(model, seed)
        optimizer.step()
    back_propagate(model, steps - 1)
    before, error = state_of(model, optimizer), None
    try:
        with failing:
            optimizer.step()
    except OptimizerStepError as told:
        error = str(told)
    return before, state_of(model, optimizer), error


KINDS = [(SGD, {}), (SGD, {"momentum": 0.9}), (Adam, {}), (AdamW, {}), (RMSprop, {}), (Adagrad, {})]
TOLD = re.compile(
    r"line \d+: `(\w+)\.step\(\)` ran out of memory: (\d) of 4 parameters were updated(, and what the optimizer "
    r"keeps of (\d))?\. It is not tried again, since what was updated would be updated twice\. Load the model and the "
    r"optimizer from a checkpoint, or make both anew, before you train on\. Make room first: an optimizer with less "
    r"state, `foreach=False`, which needs no temporary copy of all parameters, or no other tensors on the device\."
)


@pytest.mark.usefixtures("run")
@pytest.mark.parametrize("steps", [1, 3])
@pytest.mark.parametrize("foreach", [False, True])
@pytest.mark.parametrize(("kind", "options"), KINDS)
def test_a_failure_at_every_operation(kind, options, foreach, steps):
    mode = FailingCall if foreach else FailingOperation
    expected = trained_plainly(kind, steps, foreach=foreach, **options)
    outcomes = Counter()
    for at in range(1, 1000):
        failing = mode(at)
        before, after, error = disturbed(kind, steps, failing, foreach=foreach, **options)
        if failing.left:
            break
        if error is None:
            assert same(after, expected)
            outcomes["the undisturbed step"] += 1
            continue
        found = TOLD.fullmatch(error)
        assert found, error
        updated = sum(not same(a, b) for a, b in zip(before[0], after[0], strict=True))
        assert (found[1], int(found[2])) == (kind.__name__, updated)
        assert not same(before, after)
        outcomes["an error"] += 1
    print(kind.__name__, options, "foreach" if foreach else "single", f"step {steps}", dict(outcomes))
    assert outcomes["the undisturbed step"]


@pytest.mark.usefixtures("run")
@pytest.mark.parametrize(("kind", "options"), KINDS)
def test_a_list_of_tensors_under_a_dispatch_mode_is_not_trusted(kind, options):
    expected = trained_plainly(kind, 3, foreach=True, **options)
    for at in range(1, 1000):
        failing = FailingOperation(at)
        _, after, error = disturbed(kind, 3, failing, foreach=True, **options)
        if failing.left:
            break
        assert same(after, expected) if error is None else "how far it got cannot be told, since" in error


@pytest.mark.usefixtures("run")
@pytest.mark.parametrize("foreach", [False, True])
def test_memory_that_is_short_twice_leaves_all_as_it_was(foreach):
    before, after, error = disturbed(Adam, 1, FailingCall(3, times=2), foreach=foreach)
    assert same(before, after)
    assert re.sub(r"line \d+", "line", error) == (
        "line: `Adam.step()` ran out of memory twice: no parameter was updated. Parameters, gradients and the "
        "optimizer's state are as they were before it, so that it can be called again. Make room first: an optimizer "
        "with less state, `foreach=False`, which needs no temporary copy of all parameters, or no other tensors on "
        "the device."
    )


@pytest.mark.usefixtures("run")
def test_it_is_tried_once_more_parameter_by_parameter_and_the_flag_comes_back():
    model, optimizer = made(Adam, foreach=True)
    back_propagate(model, 0)
    seen = []

    class Watch(FailingCall):
        def called(self, name, func, args, kwargs):
            seen.append(optimizer.param_groups[0]["foreach"])
            return super().called(name, func, args, kwargs)

    with Watch(2):
        optimizer.step()
    assert set(seen[:2]) == {True}
    assert set(seen[2:]) == {False}
    assert optimizer.param_groups[0]["foreach"] is True


@pytest.mark.usefixtures("run")
def test_another_error_is_the_users_own():
    model, optimizer = made(SGD)
    back_propagate(model, 0)
    optimizer.param_groups[0]["lr"] = "much"
    with pytest.raises(TypeError):
        optimizer.step()


class Counting(Optimizer):
    """A user's own, with a number in its state, one in its group and one of its own."""

    def __init__(self, parameters, lr):
        super().__init__(parameters, {"lr": lr, "seen": 0})
        self.calls = 0

    @torch.no_grad()
    def step(self):
        self.calls += 1
        for group in self.param_groups:
            group["seen"] += 1
            for p in group["params"]:
                state = self.state[p]
                state["steps"] = state.get("steps", 0) + 1
                p.add_(p.grad.clone(), alpha=-group["lr"] / state["steps"])


class OldStyle(Counting):
    """As optimizers were written for `Variable`s: nothing counts what is done to `.data`."""

    def step(self):
        for group in self.param_groups:
            for p in group["params"]:
                p.data.mul_(0.5)
                p.data.add_(p.grad.data.clone(), alpha=-group["lr"])


class Above(Adam):
    """A subclass that goes on to its parent."""

    def step(self, closure=None):
        return super().step(closure)


@pytest.mark.usefixtures("run")
@pytest.mark.parametrize("steps", [1, 2])
def test_numbers_that_a_users_optimizer_counts_are_put_back(steps):
    def with_calls(state, optimizer):
        return state, optimizer.calls, optimizer.param_groups[0]["seen"]

    model, optimizer = made(Counting)
    again, disturbed_one = made(Counting)
    for seed in range(steps):
        back_propagate(model, seed)
        optimizer.step()
        back_propagate(again, seed)
        with FailingOperation(1 if seed == steps - 1 else 1000):
            disturbed_one.step()
    ours = with_calls(state_of(again, disturbed_one), disturbed_one)
    assert same(ours, with_calls(state_of(model, optimizer), optimizer))
    assert ours[1:] == (steps, steps)


@pytest.mark.usefixtures("run")
def test_what_is_done_to_data_is_not_claimed_to_be_known():
    before, after, error = disturbed(OldStyle, 1, FailingOperation(6))
    assert not same(before, after)
    assert "how far it got cannot be told, since fused kernels, lists of unlike tensors and `.data` change" in error


@pytest.mark.usefixtures("run")
@pytest.mark.parametrize("at", [1, 4])
def test_a_subclass_of_pytorchs_own_is_tried_again_once(at):
    _, after, error = disturbed(Above, 1, FailingOperation(at))
    assert error is None
    assert same(after[0], trained_plainly(Adam, 1)[0])


@pytest.mark.usefixtures("run")
def test_a_fused_kernel_that_may_have_run_is_not_claimed_to_be_known():
    model = nn.Linear(4, 3)
    groups = [{"params": [model.weight]}, {"params": [model.bias]}]
    optimizer = Adam(groups, lr=0.1, fused=True)
    model(torch.ones(2, 4)).sum().backward()
    failing = FailingCall(1000)
    with failing:
        optimizer.step()
    half = failing.count // 2 + 1
    optimizer = Adam(groups, lr=0.1, fused=True)
    with FailingCall(half), pytest.raises(OptimizerStepError, match="how far it got cannot be told"):
        optimizer.step()
    optimizer = Adam(groups, lr=0.1, fused=True)
    with FailingCall(1):
        optimizer.step()


def _scheduled(optimizer):
    torch.optim.lr_scheduler.StepLR(optimizer, 1)
    return optimizer.step


def _scaled(optimizer):
    scaler = torch.amp.GradScaler("cpu", init_scale=1.0)
    scaler.scale(torch.zeros(()))
    return lambda: scaler.step(optimizer)


def _accelerated(optimizer):
    return Accelerator(cpu=True).prepare(optimizer).step


@pytest.mark.parametrize("way", [_scheduled, _scaled, _accelerated])
@pytest.mark.parametrize("when", ["before", "in the run"])
def test_every_way_to_call_step_is_guarded(way, when):
    expected = trained_plainly(Adam, 1)[0]
    model, optimizer = made(Adam)
    step = way(optimizer) if when == "before" else None
    run = begin()
    try:
        back_propagate(model, 0)
        step = step or way(optimizer)
        inner = optimizer.__class__.step
        failing = _failing_inside(inner)
        with failing:
            step()
    finally:
        run.end()
    assert not failing.left
    assert same([*model.parameters()], expected)


def _failing_inside(step):
    class Inside(FailingCall):
        def called(self, name, func, args, kwargs):
            if not any(f.f_code is step.__wrapped__.__code__ for f in _frames()):
                return func(*args, **(kwargs or {}))
            return super().called(name, func, args, kwargs)

    return Inside(1)


def _frames():
    frame = sys._getframe(1)
    while frame is not None:
        yield frame
        frame = frame.f_back


@pytest.mark.usefixtures("run")
def test_a_step_with_a_closure_is_left_alone():
    model, optimizer = made(SGD)
    calls = []

    def closure():
        calls.append(1)
        back_propagate(model, 0)
        return torch.zeros(())

    with FailingOperation(3), pytest.raises(torch.OutOfMemoryError):
        optimizer.step(closure)
    assert calls == [1]


class Late(SGD):
    """First made during a run."""


def test_all_steps_are_pytorchs_own_when_the_run_has_ended():
    def inside(kind):
        step = kind.step
        return step.__closure__[step.__code__.co_freevars.index("func")].cell_contents

    run = begin()
    model, optimizer = made(Late)
    back_propagate(model, 0)
    optimizer.step()
    assert inside(Late) is not Late.step.__wrapped__
    run.end()
    assert inside(Late) is Late.step.__wrapped__
    with FailingOperation(1), pytest.raises(torch.OutOfMemoryError):
        optimizer.step()


CELL = """
for x in batches:
    optimizer.zero_grad()
    loss = model(x).square().mean()
    loss.backward()
    with failing:
        optimizer.step()
"""


def test_a_cell_is_told_its_line():
    model, optimizer = made(SGD)
    names = {"model": model, "optimizer": optimizer, "batches": [torch.ones(4, 4)], "failing": FailingOperation(2)}
    with pytest.raises(OptimizerStepError, match=r"^line 7: `SGD\.step\(\)` ran out of memory: 1 of 4 parameters were"):
        run_accumulated(CELL, names, 2)
    assert last_run().optimizer_steps == 0


def test_a_cell_trains_on_as_if_nothing_had_happened():
    def train(failing, n):
        model, optimizer = made(Adam)
        names = {"model": model, "optimizer": optimizer, "batches": [torch.ones(4, 4)], "failing": failing}
        run_accumulated(CELL, names, n)
        return state_of(model, optimizer)

    failing = FailingCall(3)
    assert same(train(failing, 2), train(FailingCall(1000), 2))
    assert failing.left == 0
    assert last_run().optimizer_steps == 1


INTERRUPTED = """
import signal
import torch
from torch import nn
from accum_magic.engine.run import begin, last_run
class Slow(torch.optim.SGD):
    def step(self, closure=None):
        super().step(closure)
        signal.raise_signal(signal.SIGINT)
        super().step(closure)
model = nn.Linear(2, 2)
optimizer = KIND(model.parameters(), lr=0.1)
start = model.weight.detach().clone()
model(torch.ones(1, 2)).sum().backward()
class AtOnce(torch.overrides.TorchFunctionMode):
    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func.__name__ in {"add_", "_foreach_add_"}:
            signal.raise_signal(signal.SIGINT)
        return func(*args, **(kwargs or {}))
run = begin()
handler = signal.getsignal(signal.SIGINT)
try:
    with AtOnce():
        optimizer.step()
    print("went on")
except KeyboardInterrupt:
    print("interrupted")
print(signal.getsignal(signal.SIGINT) is handler, last_run().optimizer_steps, end=" ")
print(torch.allclose(start - model.weight, UPDATE * torch.ones(2, 2)))
"""


@pytest.mark.parametrize(("kind", "update"), [("torch.optim.SGD", 0.1), ("Slow", 0.2)])
def test_an_interrupt_waits_for_the_end_of_the_step(kind, update):
    code = INTERRUPTED.replace("KIND", kind).replace("UPDATE", str(update))
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, timeout=120)
    print(done.stdout)
    assert done.stdout.splitlines()[0] == "interrupted"
    assert done.stdout.splitlines()[1].split()[::2] == ["True", "True"]


@pytest.mark.usefixtures("run")
def test_an_interrupt_during_a_step_that_fails_is_not_lost():
    class Interrupting(FailingOperation):
        def called(self, name, func, args, kwargs):
            if "profiler" not in name:
                signal.raise_signal(signal.SIGINT)
            return super().called(name, func, args, kwargs)

    with pytest.raises(KeyboardInterrupt) as raised:
        disturbed(SGD, 1, Interrupting(3))
    assert isinstance(raised.value.__context__, OptimizerStepError)
