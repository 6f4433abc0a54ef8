"""State that a forward pass changes: put back after the probe, and told."""

from collections import defaultdict, deque

import pytest
import torch
from torch import nn

from accum_magic.engine.probe import probe

X, Y = torch.randn(7, 3), torch.tensor([0, 1, 2, 3, 0, 1, 2])
rebound = 0


class Net(nn.Module):
    """Does one thing more in its forward pass."""

    def __init__(self, act):
        super().__init__()
        self.act, self.layer = act, nn.Linear(3, 4)
        self.count, self.history, self.held, self.cache = 0, [], None, None
        self.register_buffer("codes", torch.zeros(4))
        self.plain = torch.zeros(4)
        self.meters = defaultdict(float)
        self.queue = deque([1, 2], maxlen=2)

    def forward(self, x):
        out = self.layer(x)
        return out if (new := self.act(self, out)) is None else new


def probed(model, sources=None):
    def forward(n):
        loss = nn.functional.cross_entropy(model(X[:n]), Y[:n])
        return (loss,), (loss,)

    return probe(forward, 2, sources)


def rebind(*_):
    global rebound  # noqa: PLW0603 - as users' helpers do
    rebound += 1


def carry(net, out):
    before = 0 if net.held is None else net.held.mean()
    net.held = out.detach()
    return out * (1 + before)


@pytest.mark.parametrize(
    ("act", "name"),
    [
        (lambda net, out: setattr(net, "count", net.count + len(out)), "Net.count"),
        (lambda net, out: net.history.append(out.mean().item()), "Net.history"),
        (lambda net, out: net.codes.mul_(0.9).add_(out.detach().mean(0)), "Net.codes"),
        (lambda net, out: net.plain.add_(out.detach().mean(0)), "Net.plain"),
        (lambda net, out: net.meters.update(seen=net.meters["seen"] + len(out)), "Net.meters"),
        (lambda net, _: net.queue.append(net.queue[-1] + 1), "Net.queue"),
        (lambda net, out: setattr(net, "codes", net.codes + out.detach().mean(0)), "Net.codes"),
        (rebind, "rebound"),
    ],
)
def test_what_changes_from_run_to_run_is_told_and_put_back(act, name):
    model = Net(lambda net, out: [act(net, out)].clear())
    before = {"codes": model.codes, **vars(model)}
    codes, plain = model.codes.clone(), model.plain.clone()
    facts = probed(model, {"act": act})
    assert facts.reasons == (f"`{name}` is changed by the forward pass: it changes once per micro-batch",)
    assert {"codes": model.codes, **vars(model)} == before
    assert (model.count, model.history, list(model.queue), dict(model.meters), rebound) == (0, [], [1, 2], {}, 0)
    assert torch.equal(model.codes, codes)
    assert torch.equal(model.plain, plain)


def test_what_is_carried_from_one_forward_to_the_next_is_told():
    (reason,) = probed(Net(carry)).reasons
    assert (
        reason == "`Net.held` is changed by the forward pass: it changes once per micro-batch" or "`Net.held`" in reason
    )


def test_outputs_kept_in_an_attribute_are_noted():
    facts = probed(Net(lambda net, out: setattr(net, "held", out)))
    assert facts.exact
    assert facts.notes == (
        "`Net.held` is set by the forward pass: after the step it holds what the last micro-batch left",
    )


def test_a_cache_is_neither():
    def act(net, _):
        if net.cache is None:
            net.cache = torch.ones(3)

    facts = probed(Net(act))
    assert (facts.reasons, facts.notes) == ((), ())


def test_a_running_mean_has_no_second_reason():
    (reason,) = probed(nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))).reasons
    assert reason.startswith("BatchNorm in training mode")


def test_generators_of_the_users_own_are_put_back():
    generator = torch.Generator().manual_seed(0)
    before = generator.get_state()
    facts = probed(Net(lambda _, out: out + torch.rand(out.shape, generator=generator)), {"generator": generator})
    assert torch.equal(generator.get_state(), before)
    assert facts.exact
    assert "random functions" in facts.notes[0]
