"""Losses of several terms: each has weights of its own, so that gradients and logged values are the full batch's."""

import itertools

import pytest
import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812  as users write it

import accum_magic
from accum_magic.engine.run import begin

TOTAL = 11
COUNTS = (2, 3, 7)
DOUBLE = torch.float64


@pytest.fixture(autouse=True)
def run():
    run = begin()
    yield run
    run.end()


def batch(samples=TOTAL, seed=0):
    """Inputs, targets, labels, labels with holes (the last four rows have none), and a mask with empty rows."""
    generator = torch.Generator().manual_seed(seed)
    y = torch.randint(0, 3, (samples,), generator=generator)
    holes = torch.where(torch.rand(samples, generator=generator) < 0.4, -100, y)
    holes[-4:] = -100
    holes[0] = 1
    mask = (torch.rand(samples, 3, generator=generator) > 0.4).to(DOUBLE)
    mask[-4:] = 0
    return {
        "x": torch.randn(samples, 4, dtype=DOUBLE, generator=generator),
        "t": torch.randn(samples, 3, dtype=DOUBLE, generator=generator),
        "y": y,
        "holes": holes,
        "mask": mask,
        "tokens": torch.where(torch.rand(samples, 5, generator=generator) < 0.4, -100, y[:, None]),
    }


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.body, self.head = nn.Linear(4, 8), nn.Linear(8, 3)
        self.log_vars = nn.Parameter(torch.tensor([0.3, -0.2]))
        self.double()

    def forward(self, x):
        return self.head(torch.tanh(self.body(x)))

    def penalty(self):
        return 0.1 * sum(p.square().sum() for p in (*self.body.parameters(), *self.head.parameters()))


@pytest.fixture
def net():
    torch.manual_seed(0)
    return Net()


WEIGHT = torch.tensor([0.2, 1.0, 3.0], dtype=DOUBLE)


def shifted(net, b):
    """A language model's own loss, whose labels are shifted inside, beside a mean of its own."""
    hidden = net(b["x"])[:, None].expand(-1, 5, -1) * torch.arange(1, 6, dtype=DOUBLE)[:, None]
    labels = F.pad(b["tokens"], (0, 1), value=-100)[:, 1:].contiguous()
    return F.cross_entropy(hidden.reshape(-1, 3), labels.view(-1)), 0.01 * hidden.square().mean()


def uncertainty(net, b):
    o, (s, u) = net(b["x"]), net.log_vars
    ce, mse = F.cross_entropy(o, b["holes"]), F.mse_loss(o, b["t"])
    return torch.exp(-s) * ce, torch.exp(-u) * mse, s + u


def over_len_and_whole(left, right):
    return (left / len(left) + right).sum() - 3


def masked_mean(losses, mask):
    return (losses * mask).sum() / mask.sum()


def columns(net, b):
    o = net(b["x"])
    return tuple(F.cross_entropy(o * (t + 1), b["tokens"][:, t]) for t in range(5))


def kl(o):
    return -0.5 * (1 + o - o.square() - o.exp())


# Per loss its terms; all of them are logged beside their sum.
TERMS = {
    "ce + mse": lambda n, b: (F.cross_entropy(n(b["x"]), b["holes"]), F.mse_loss(n(b["x"]), b["t"])),
    "ce + mse + penalty": lambda n, b: (
        F.cross_entropy(n(b["x"]), b["holes"]),
        F.mse_loss(n(b["x"]), b["t"]),
        n.penalty(),
    ),
    "all labels count": lambda n, b: (F.cross_entropy(n(b["x"]), b["y"]), F.mse_loss(n(b["x"]), b["t"])),
    "vae, sums": lambda n, b: (F.binary_cross_entropy_with_logits(n(b["x"]), b["t"].sigmoid(), reduction="sum"),
                               kl(n(b["x"])).sum()),
    "vae, mean and sum": lambda n, b: (F.binary_cross_entropy_with_logits(n(b["x"]), b["t"].sigmoid()),
                                       kl(n(b["x"])).sum()),
    "vae, sum and mean of sums": lambda n, b: (F.mse_loss(n(b["x"]), b["t"], reduction="sum"),
                                               kl(n(b["x"])).sum(1).mean()),
    "sum + penalty": lambda n, b: (F.mse_loss(n(b["x"]), b["t"], reduction="sum"), n.penalty()),
    "weights and smoothing + mse": lambda n, b: (
        F.cross_entropy(n(b["x"]), b["holes"], weight=WEIGHT, label_smoothing=0.1),
        F.mse_loss(n(b["x"]), b["t"]),
    ),
    "smoothing + sum": lambda n, b: (F.cross_entropy(n(b["x"]), b["holes"], label_smoothing=0.1),
                                     F.mse_loss(n(b["x"]), b["t"], reduction="sum")),
    "two tasks": lambda n, b: (F.cross_entropy(n(b["x"]), b["y"]), 0.3 * F.cross_entropy(-n(b["x"]), b["holes"])),
    "mixup": lambda n, b: (0.3 * F.cross_entropy(n(b["x"]), b["y"]), 0.7 * F.cross_entropy(n(b["x"]), b["holes"])),
    "labels shifted inside": shifted,
    "learned coefficients": uncertainty,
    "time steps": columns,
    "ce * len + mse": lambda n, b: (F.cross_entropy(n(b["x"]), b["holes"]) * len(b["x"]),
                                    F.mse_loss(n(b["x"]), b["t"])),
    "masked mean": lambda n, b: (masked_mean(n(b["x"]), b["mask"]),),
    "masked mean + mse": lambda n, b: (masked_mean(n(b["x"]), b["mask"]), F.mse_loss(n(b["x"]), b["t"])),
    "masked mean + sum + penalty": lambda n, b: (
        masked_mean(n(b["x"]), b["mask"]),
        F.mse_loss(n(b["x"]), b["t"], reduction="sum"),
        n.penalty(),
    ),
    "masked mean + ce": lambda n, b: (masked_mean(n(b["x"]), b["mask"]), F.cross_entropy(n(b["x"]), b["holes"])),
    "added before the samples are": lambda n, b: (over_len_and_whole(n(b["x"]).square(), n(b["x"]).abs()),),
    "one value in two terms": lambda n, b: (over_len_and_whole(*2 * (n(b["x"]).square(),)),),
}  # fmt: skip


def plain(net, loss, b):
    net.zero_grad()
    terms = loss(net, b)
    sum(terms).backward()
    grads = [None if p.grad is None else p.grad.clone() for p in net.parameters()]
    net.zero_grad()
    return grads, [sum(terms).detach(), *(term.detach() for term in terms)]


def accumulated(net, loss, b, n):
    def micro_step(*pieces):
        terms = loss(net, dict(zip(b, pieces, strict=True)))
        total = sum(terms)
        return (total,), (total, *terms)

    count = len(loss(net, b))
    values = accum_magic.step(micro_step, b, n=n, read=("loss", *(f"term{i}" for i in range(count))))
    grads = [p.grad for p in net.parameters()]
    return grads, values


def assert_same(found, expected):
    for mine, theirs in zip(found, expected, strict=True):
        if theirs is None:
            assert mine is None
        else:
            torch.testing.assert_close(mine, theirs, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("n", COUNTS)
@pytest.mark.parametrize("samples", [TOTAL, 14])
@pytest.mark.parametrize("loss", TERMS.values(), ids=TERMS)
def test_gradients_and_logged_terms_are_the_full_batchs(net, loss, n, samples):
    b = batch(samples)
    grads, values = plain(net, loss, b)
    found, logged = accumulated(net, loss, b, n)
    assert_same(found, grads)
    assert_same(logged, values)
    summary = accum_magic.last_run()
    assert summary.reasons == ()
    assert not any("replayed" in note for note in summary.notes)


def ce_and_mse(net, b):
    return F.cross_entropy(net(b["x"]), b["holes"]), F.mse_loss(net(b["x"]), b["t"])


def ce_mse_and_penalty(net, b):
    return (*ce_and_mse(net, b), net.penalty())


def largest_error(found, expected):
    return max(float((a - b).norm() / b.norm()) for a, b in zip(found, expected, strict=True) if b is not None)


def test_one_weight_for_all_terms_is_far_off(net):
    b, n = batch(), 3
    expected, _ = plain(net, ce_mse_and_penalty, b)
    for start in range(0, TOTAL, 4):
        piece = {name: value[start : start + 4] for name, value in b.items()}
        valid = sum(ce_and_mse(net, piece)) if (piece["holes"] >= 0).any() else F.mse_loss(net(piece["x"]), piece["t"])
        ((valid + net.penalty()) * len(piece["x"]) / TOTAL).backward()
    by_samples = largest_error([p.grad for p in net.parameters()], expected)
    net.zero_grad()
    found, _ = accumulated(net, ce_mse_and_penalty, b, n)
    assert by_samples > 0.1
    assert largest_error(found, expected) < 1e-14


def forwards(net, loss, n):
    calls = itertools.count()  # a list would be put back after each rehearsal

    def counted(net, b):
        next(calls)
        return loss(net, b)

    accumulated(net, counted, batch(), n)
    return next(calls) - 4  # `accumulated` looks how many terms there are, the probe runs three times


@pytest.mark.parametrize(
    ("loss", "passes"), [(ce_and_mse, 1), (columns, 1), (shifted, 2), (TERMS["masked mean + mse"], 2)]
)
def test_only_totals_that_the_batch_does_not_tell_cost_a_counting_forward(net, loss, passes):
    n = 4
    assert forwards(net, loss, n) == passes * n


def test_a_counting_forward_leaves_random_states_and_counters_alone(net):
    net.register_buffer("calls", torch.zeros(()))

    def loss(x, t, y):
        net.calls += 1
        return F.cross_entropy(net(x), draw_labels(y)) + F.mse_loss(net(x), t)

    b = {name: batch()[name] for name in ("x", "t", "y")}
    torch.manual_seed(1)
    accum_magic.step(lambda *pieces: ((loss(*pieces),), ()), b, n=3)
    found, state = [p.grad for p in net.parameters() if p.grad is not None], torch.get_rng_state()
    assert net.calls == 3
    net.zero_grad()
    torch.manual_seed(1)
    labels = torch.cat([draw_labels(y) for y in b["y"].split([4, 4, 3])])
    assert torch.equal(torch.get_rng_state(), state)
    (F.cross_entropy(net(b["x"]), labels) + F.mse_loss(net(b["x"]), b["t"])).backward()
    assert_same(found, [p.grad for p in net.parameters() if p.grad is not None])


def draw_labels(y):
    """What a masked language model does by itself."""
    labels = torch.where(torch.rand(len(y)) < 0.5, -100, y)
    labels[0] = y[0]
    return labels


def test_a_batch_without_a_label_has_the_gradients_of_the_other_term(net):
    b = batch() | {"holes": torch.full((TOTAL,), -100)}
    expected, values = plain(net, ce_and_mse, b)
    found, logged = accumulated(net, ce_and_mse, b, 3)
    assert_same(found, expected)
    assert [bool(v.isnan()) for v in logged] == [bool(v.isnan()) for v in values] == [True, True, False]


@pytest.mark.parametrize("is_alone", [True, False])
def test_a_class_without_weight_alone_in_a_micro_batch_adds_nothing(net, is_alone):
    weight = torch.tensor([0.0, 1.0, 2.0], dtype=DOUBLE)
    b = batch() | {"y": torch.tensor([0, 0, 0, 0, 1, 2, 0, 1, 0, 0, 0])}

    def ce(net, b):
        return F.cross_entropy(net(b["x"]), b["y"].clone(), weight=weight)

    terms = (
        (lambda net, b: (ce(net, b),)) if is_alone else (lambda net, b: (ce(net, b), F.mse_loss(net(b["x"]), b["t"])))
    )
    expected, values = plain(net, terms, b)
    found, logged = accumulated(net, terms, b, 3)
    assert_same(found, expected)
    assert_same(logged, values)


@pytest.mark.parametrize("through", [None, lambda loss, **options: (loss / 2 * 2).backward(**options)])
def test_two_losses_of_one_graph_are_weighed_apart(net, through):
    def losses(x, t, holes):
        o = net(x)
        mixed = F.cross_entropy(o, holes.clone()) + F.mse_loss(o, t)
        return mixed, 0.5 * mixed + o.square().sum()

    b = {name: batch()[name] for name in ("x", "t", "holes")}
    sum(losses(*b.values())).backward()
    expected = [p.grad for p in net.parameters()]
    net.zero_grad()
    values = accum_magic.step(
        lambda *pieces: (losses(*pieces),) * 2,
        b,
        n=3,
        read=("first", "second"),
        backward=through,
        backward_options=({"retain_graph": True}, {}),
    )
    assert_same([p.grad for p in net.parameters()], expected)
    assert_same(values, [loss.detach() for loss in losses(*b.values())])


def test_losses_of_one_step_have_totals_of_their_own(net):
    def losses(x, holes, y):
        o = net(x)
        return F.cross_entropy(o, holes.clone()), F.cross_entropy(-o, torch.where(y == 2, -100, y))

    b = {name: batch()[name] for name in ("x", "holes", "y")}
    sum(losses(*b.values())).backward()
    expected = [p.grad for p in net.parameters()]
    net.zero_grad()
    accum_magic.step(lambda *pieces: (losses(*pieces), ()), b, n=4, backward_options=({"retain_graph": True}, {}))
    assert_same([p.grad for p in net.parameters()], expected)


def test_a_loss_that_is_added_up_in_place_is_logged_as_it_is(net):
    def loss(x, t, holes):
        o = net(x)
        total = F.cross_entropy(o, holes)
        total += F.mse_loss(o, t)
        total *= 2
        total -= o.abs().sum()
        return total

    b = {name: batch()[name] for name in ("x", "t", "holes")}
    expected = loss(*b.values())
    [found] = accum_magic.step(lambda *pieces: ((value := loss(*pieces),), (value,)), b, n=4, read=("loss",))
    assert_same([found], [expected.detach()])


def test_in_float16_nothing_overflows(net):
    net.half()
    b = {name: batch(64)[name].half() for name in ("x", "t")}

    def loss(x, t):
        return F.mse_loss(net(x), t, reduction="sum") * 100 + F.l1_loss(net(x), t)

    loss(*b.values()).backward()
    expected = [p.grad.double() for p in net.parameters() if p.grad is not None]
    net.zero_grad()
    accum_magic.step(lambda *pieces: ((loss(*pieces),), ()), b, n=32)
    found = [p.grad.double() for p in net.parameters() if p.grad is not None]
    assert all(g.isfinite().all() for g in found)
    assert largest_error(found, expected) < 1e-2


def test_losses_follow_the_batch_over_steps(net):
    for seed in range(4):  # labels that all count, and labels that do not, in turns
        b = batch(seed=seed)
        if seed % 2:
            b["holes"] = b["y"]
        expected, values = plain(net, ce_mse_and_penalty, b)
        found, logged = accumulated(net, ce_mse_and_penalty, b, 3)
        net.zero_grad()
        assert_same(found, expected)
        assert_same(logged, values)


@pytest.mark.parametrize("named", [(0, 1, 2), (0,), (1, 2), ()])
def test_a_logged_sum_is_right_whichever_of_its_terms_have_names(net, named):
    def losses(x, t, holes):
        o = net(x)
        ce, total = F.cross_entropy(o, holes), F.mse_loss(o, t, reduction="sum")
        return 0.3 * ce - total / 2 + 1, ce, total

    b = {name: batch()[name] for name in ("x", "t", "holes")}
    expected = losses(*b.values())

    def micro_step(*pieces):
        found = losses(*pieces)
        return found[:1], tuple(found[i] for i in named)

    names = [("loss", "ce", "total")[i] for i in named]
    for _ in range(2):
        found = accum_magic.step(micro_step, b, n=4, read=tuple(names))
        assert_same(found, [expected[i].detach() for i in named])


def test_a_loss_that_changes_in_mid_run_is_weighed_anew(net):
    b = batch()
    for loss in (ce_and_mse, shifted, ce_mse_and_penalty, TERMS["masked mean + mse"]):
        expected, _ = plain(net, loss, b)
        found, _ = accumulated(net, loss, b, 3)
        assert_same(found, expected)
        net.zero_grad()


def test_a_graph_that_changes_within_a_step_is_said(net):
    def micro_step(x, y):
        o = net(x)
        loss = o.square().mean() if (x > 99).any() else F.cross_entropy(o, y.clone()) + o.square().mean()
        return (loss,), (loss,)

    b = {name: batch()[name] for name in ("x", "y")}
    b["x"][-1] = 100
    accum_magic.step(micro_step, b, n=3, read=("loss",))
    reasons = accum_magic.last_run().reasons
    assert (
        "the graph changes from micro-batch to micro-batch, so the terms of a loss could not be weighed apart"
        in reasons
    )
