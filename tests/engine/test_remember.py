"""What is remembered of a forward pass, and where PyTorch's mode for it is off."""

import pytest
import torch
from torch import nn, overrides
from torch.nn import functional as F  # noqa: N812  as users write it

import accum_magic
from accum_magic.engine.facts import Part, Scalar
from accum_magic.engine.remember import Remembering
from accum_magic.engine.run import begin

MIXED = Scalar("mixed", parts=(Part("mean", (0,)), Part("sum", (1,))))


class Deep(nn.Module):
    """Calls many functions; notes whether a mode looked on at the end of each call."""

    def __init__(self):
        super().__init__()
        self.layer, self.watched = nn.Linear(3, 3), []

    def forward(self, x):
        for _ in range(10):
            x = torch.tanh(self.layer(x))
        self.watched.append(overrides._get_current_function_mode() is not None)
        return x


class Loss(nn.Module):
    """A loss that calls as many."""

    def forward(self, x):
        for _ in range(10):
            x = x * 1.1
        return x.square().mean()


@pytest.fixture
def parts():
    torch.manual_seed(0)
    return Deep(), Loss(), torch.randn(4, 3)


def forward(model, loss, x):
    out = model(x)
    mean, total = loss(out), F.relu(out).sum()
    return mean, total, mean + total


def block(remembering, parts):
    with remembering.block() as remembered:
        found = forward(*parts)
    values = [remembered.value_of(term.grad_fn) for term in found]
    remembering.learn(remembered, found[:0])
    return found, values


def test_values_are_found_by_their_nodes_though_the_model_is_not_looked_into(parts):
    remembering = Remembering([MIXED])
    for _ in range(3):
        found, values = block(remembering, parts)
        assert all(torch.equal(mine, theirs) for mine, theirs in zip(found, values, strict=True))
    assert parts[0].watched == [True, False, False]
    assert overrides._get_current_function_mode() is None
    assert not parts[0]._forward_hooks


def test_where_the_terms_are_values_of_the_step_nothing_has_to_be_watched(parts):
    remembering = Remembering([MIXED])
    with remembering.block() as remembered:
        mean, total, _ = forward(*parts)
        scaled = -3 * total / 2
    for term in (mean, scaled):
        remembered.value_of(term.grad_fn)
    remembering.learn(remembered, (mean, "text", total))
    with remembering.block() as remembered:
        mean, total, _ = forward(*parts)
    assert remembered is None
    assert parts[0].watched == [True, False]
    assert torch.equal(remembering.named((mean, total)).value_of(total.grad_fn), total)


def test_a_module_that_raises_leaves_no_mode_behind(parts):
    remembering = Remembering([MIXED])
    block(remembering, parts)
    with pytest.raises(RuntimeError), remembering.block():
        parts[0](torch.randn(4, 5))
    assert overrides._get_current_function_mode() is None
    with remembering.block() as remembered:
        with pytest.raises(RuntimeError):  # the user's own `try`
            parts[0](torch.randn(4, 5))
        total = parts[0](parts[2]).sum()
    assert torch.equal(remembered.value_of(total.grad_fn), total)


def test_below_a_mode_of_the_users_it_stays_on(parts):
    remembering = Remembering([MIXED])
    block(remembering, parts)
    with remembering.block() as remembered, torch.device("cpu"):
        total = parts[0](parts[2]).sum()
    assert torch.equal(remembered.value_of(total.grad_fn), total)
    assert overrides._get_current_function_mode() is None


def test_a_number_that_was_written_over_is_not_taken_for_what_it_was(parts):
    with Remembering([MIXED]).block() as remembered:
        total = parts[0](parts[2]).sum()
        node = total.grad_fn
        total.sub_(1)
        other = parts[0](parts[2]).mean()
        changed = other.grad_fn
        other.clamp_(max=0)
    torch.testing.assert_close(remembered.value_of(node), total + 1)
    assert remembered.value_of(changed) is None


def test_a_compiled_model_is_compiled_once_for_all():
    torch.manual_seed(0)
    graphs = []

    def backend(graph, _):
        graphs.append(graph)
        return graph.forward

    model = nn.Sequential(nn.Linear(3, 3), nn.Tanh(), nn.Linear(3, 2)).double()
    compiled = torch.compile(model, backend=backend, dynamic=True)
    x, t = torch.randn(8, 3, dtype=torch.float64), torch.randn(8, 2, dtype=torch.float64)

    def micro_step(x, t):
        out = compiled(x)
        loss = F.mse_loss(out, t, reduction="sum") + F.l1_loss(out, t)
        return (loss,), (loss,)

    [expected], _ = micro_step(x, t)
    expected.backward()
    grads = [p.grad.clone() for p in model.parameters()]
    before = len(graphs)
    for _ in range(2):
        run = begin()
        model.zero_grad()
        [value] = accum_magic.step(micro_step, {"x": x, "t": t}, n=3, read=("loss",))
        run.end()
        torch.testing.assert_close(value, expected.detach(), rtol=1e-9, atol=1e-12)
        for mine, theirs in zip([p.grad for p in model.parameters()], grads, strict=True):
            torch.testing.assert_close(mine, theirs, rtol=1e-9, atol=1e-12)
    assert len(graphs) == before


def test_a_summand_made_out_of_sight_is_said():
    class Square(nn.Module):
        def forward(self, x):
            return x.square().sum()

    run, square = begin(), Square()
    square.register_full_backward_hook(lambda *_: None)  # wraps what the module returns, and no function is called
    model, x = nn.Linear(3, 2), torch.randn(7, 3)

    def micro_step(x):
        loss = square(model(x)) + model(x).mean()
        return (loss,), (loss,)

    accum_magic.step(micro_step, {"x": x}, n=3, read=("loss",), replay="never")
    reason = "`loss` is put together as a mean over samples: a summand of it cannot be seen"
    assert reason in accum_magic.last_run().reasons
    run.end()
