"""How losses are back-propagated: what PyTorch does, and all that a user or a package has put around it."""

import functools
import types

import pytest
import torch
from torch import nn
from torch.autograd import graph
from torch.overrides import TorchFunctionMode

from accum_magic import testing
from accum_magic.engine.backward import Backward

N = 4
STEP = """\
optimizer.zero_grad()
loss = nn.functional.cross_entropy(model(x), y)
loss.backward()
optimizer.step()
"""


def names():
    torch.manual_seed(0)
    model = nn.Linear(3, 2, dtype=torch.float64)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    x, y = torch.randn(8, 3, dtype=torch.float64), torch.randint(0, 2, (8,))
    return {"nn": nn, "model": model, "optimizer": optimizer, "x": x, "y": y}


def train(cell=STEP, **more):
    """Train a step in micro-batches: the parameters are those of the plain step."""
    plain, accumulated = names(), names() | more
    testing.run_plain(STEP, plain)
    testing.run_accumulated(cell, accumulated, N)
    for made, expected in zip(accumulated["model"].parameters(), plain["model"].parameters(), strict=True):
        torch.testing.assert_close(made, expected, rtol=1e-9, atol=1e-12)


@pytest.fixture
def asked(monkeypatch):
    """What the engine is asked to do, as it does it."""
    found, own = [], graph._engine_run_backward

    @functools.wraps(own)
    def engine(*arguments, **options):
        found.append((arguments, options))
        return own(*arguments, **options)

    monkeypatch.setattr(graph, "_engine_run_backward", engine)  # torch.autograd has another name for it
    monkeypatch.setattr(torch.autograd, "_engine_run_backward", engine)
    return found


def test_the_engine_is_asked_what_the_losss_own_method_asks(asked):
    weight = torch.ones(3, requires_grad=True)
    gradient = torch.tensor(0.25)
    losses = [weight.sum(), weight.sum()]
    losses[0].backward(gradient)
    Backward(None, ())(0, losses[1], gradient)
    for (arguments, options), loss in zip(asked, losses, strict=True):
        (root,), (start,), *rest = arguments
        assert root is loss
        assert start is gradient
        assert (rest, options) == ([False, False, ()], {"allow_unreachable": True, "accumulate_grad": True})
    assert weight.grad.tolist() == [0.5] * 3


def test_each_micro_batch_asks_the_engine(asked):
    train()
    assert len(asked) == 1 + N  # and the plain step


OWNERS = {"the method of a tensor": torch.Tensor, "the function": torch.autograd}


@pytest.mark.parametrize("owner", OWNERS.values(), ids=OWNERS)
def test_what_is_put_around_a_backward_sees_each_micro_batch(owner, monkeypatch):
    seen, own = [], owner.backward

    @functools.wraps(own)
    def watched(tensor, *arguments, **options):
        seen.append(tensor)
        return own(tensor, *arguments, **options)

    monkeypatch.setattr(owner, "backward", watched)
    train()
    assert len(seen) == 1 + N


def test_a_method_of_the_loss_itself_is_called_for_each_micro_batch():
    """Its gradient may be another than the start that it is given, as under a scaler."""
    seen = []

    def criterion(output, target):
        loss = nn.functional.cross_entropy(output, target)

        def backward(self, gradient=None):
            seen.append(gradient)
            torch.Tensor.backward(self, gradient)

        loss.backward = types.MethodType(backward, loss)
        return loss

    train(STEP.replace("nn.functional.cross_entropy", "criterion"), criterion=criterion)
    assert len(seen) == N


class OfItsOwn(torch.Tensor):
    """Has its own backward, and `torch.nn.Parameter`'s way of being left alone by modes."""

    __torch_function__ = torch._C._disabled_torch_function_impl
    backwards = 0

    def backward(self, *arguments, **options):
        OfItsOwn.backwards += 1
        super().backward(*arguments, **options)


def test_a_class_of_the_users_own_that_modes_leave_alone_is_asked():
    OfItsOwn.backwards = 0
    train(STEP.replace("(model(x), y)", "(model(x), y).as_subclass(OfItsOwn)"), OfItsOwn=OfItsOwn)
    assert OfItsOwn.backwards == N


class Forwarding:
    """What wrapt makes of a function: all attributes are the function's."""

    def __init__(self, function):
        self.function, self.calls = function, 0

    def __getattr__(self, name):
        return getattr(self.function, name)

    def __get__(self, tensor, _):
        return self if tensor is None else functools.partial(self, tensor)

    def __call__(self, *arguments, **options):
        self.calls += 1
        return self.function(*arguments, **options)


@pytest.mark.parametrize(
    ("owner", "name"),
    [(torch.Tensor, "backward"), (torch.autograd, "backward"), (torch.autograd, "_engine_run_backward")],
    ids=["method", "function", "engine"],
)
def test_what_forwards_all_attributes_is_no_function_of_pytorchs(owner, name, monkeypatch):
    around = Forwarding(getattr(owner, name))
    monkeypatch.setattr(owner, name, around)
    train()
    assert around.calls == 1 + N


class Watching(TorchFunctionMode):
    def __init__(self):
        self.backwards = 0

    def __torch_function__(self, function, types, args=(), kwargs=None):
        self.backwards += function is torch.Tensor.backward
        return function(*args, **(kwargs or {}))


def test_a_mode_sees_each_micro_batch():
    with Watching() as mode:
        train()
    assert mode.backwards == 1 + N


class Loss(torch.Tensor):
    backwards = 0

    @classmethod
    def __torch_function__(cls, function, types, args=(), kwargs=None):
        Loss.backwards += function is torch.Tensor.backward
        return super().__torch_function__(function, types, args, kwargs)


def test_a_loss_of_the_users_own_kind_sees_each_micro_batch():
    Loss.backwards = 0
    train(STEP.replace("(model(x), y)", "(model(x), y).as_subclass(Loss)"), Loss=Loss)
    assert Loss.backwards == N
