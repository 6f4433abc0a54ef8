"""The step that rewritten cells call: gradients, failures, values, and what it says of them."""

import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - as everybody writes it
from torch import nn
from torch.overrides import TorchFunctionMode
from torch.utils.flop_counter import FlopCounterMode

import accum_magic
from accum_magic.engine.gradients import PARTED
from accum_magic.engine.run import ApproximateWarning, begin


@pytest.fixture
def run():
    run = begin()
    yield run
    run.end()


@pytest.fixture
def model():
    torch.manual_seed(0)
    return nn.Linear(3, 4).double()


X = torch.randn(7, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
Y = torch.tensor([0, 1, 2, 3, 0, 1, 2])


def gradients(model):
    return [p.grad.clone() for p in model.parameters()]


def plain_gradients(model, loss):
    model.zero_grad()
    loss(X, Y).backward()
    found = gradients(model)
    model.zero_grad()
    return found


def assert_same(left, right):
    for a, b in zip(left, right, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12)


def step(loss, n=3, **options):
    def micro_step(x, y):
        value = loss(x, y)
        return (value,), (value,)

    [value] = accum_magic.step(micro_step, {"x": X, "y": Y}, n=n, read=("loss",), **options)
    return value


@pytest.mark.usefixtures("run")
def test_gradients_from_before_stay_and_the_same_tensors_hold_them(model):
    def loss(x, y):
        return F.cross_entropy(model(x), y)

    expected = [g + 1 for g in plain_gradients(model, loss)]
    before = [torch.ones_like(p) for p in model.parameters()]
    for parameter, gradient in zip(model.parameters(), before, strict=True):
        parameter.grad = gradient
    step(loss)
    assert_same(gradients(model), expected)
    assert [p.grad is b for p, b in zip(model.parameters(), before, strict=True)] == [True, True]


@pytest.mark.parametrize("failure", [ValueError("in the forward pass"), KeyboardInterrupt()])
@pytest.mark.usefixtures("run")
def test_a_failure_leaves_the_gradients_as_they_were(model, failure):
    for parameter in model.parameters():
        parameter.grad = torch.full_like(parameter, 2.0)
    seen = []

    def loss(x, y):
        seen.append(len(x))
        if len(seen) == 3:  # what the probe appended is taken back; two micro-batches, then this
            raise failure
        return F.cross_entropy(model(x), y)

    with pytest.raises(type(failure)):
        step(loss)
    assert all(torch.equal(p.grad, torch.full_like(p, 2.0)) for p in model.parameters())


@pytest.mark.usefixtures("run")
def test_targets_made_inside_the_model_are_weighed_by_what_each_graph_tells(model):
    def loss(x, y):
        inner = torch.where(y == 0, torch.full_like(y, -100), y)  # not a leaf of the batch
        return F.cross_entropy(model(x), inner)

    expected = plain_gradients(model, loss)
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    value = step(loss)
    assert_same(gradients(model), [g + 1 for g in expected])
    torch.testing.assert_close(value, loss(X, Y).detach(), rtol=1e-9, atol=1e-12)
    assert accum_magic.last_run().verdict == "exact"


@pytest.mark.usefixtures("run")
def test_a_micro_batch_without_a_valid_target_adds_nothing(model):
    ignored = Y.clone()
    ignored[:3] = -100

    def micro_step(x, y):
        value = F.cross_entropy(model(x), y)
        return (value,), (value,)

    model.zero_grad()
    F.cross_entropy(model(X), ignored).backward()
    expected = gradients(model)
    model.zero_grad()
    [value] = accum_magic.step(micro_step, {"x": X, "y": ignored}, n=3, read=("loss",))
    assert_same(gradients(model), expected)
    assert value.isfinite()


@pytest.mark.usefixtures("run")
def test_a_graph_computed_once_is_back_propagated_once(model):
    scale = nn.Parameter(torch.tensor(0.3, dtype=torch.float64))
    calls = []
    scale.register_hook(calls.append)

    def loss(x, y, factor):
        return F.cross_entropy(model(x) * factor, y)

    loss(X, Y, scale.exp()).backward()
    expected, calls[:] = [scale.grad.clone(), *gradients(model)], []
    scale.grad = None
    model.zero_grad()

    def micro_step(x, y, factor):
        return (loss(x, y, factor),), ()

    accum_magic.step(micro_step, {"x": X, "y": Y, "factor": scale.exp()}, n=3, fixed=("factor",))
    assert_same([scale.grad, *gradients(model)], expected)
    assert len(calls) == 1


@pytest.mark.usefixtures("run")
def test_more_micro_batches_than_samples_is_noted(model):
    step(lambda x, y: F.cross_entropy(model(x), y), n=50)
    summary = accum_magic.last_run()
    assert summary.micro_batches == 7
    assert summary.notes == ("the batch has fewer samples than N = 50: one micro-batch per sample",)


@pytest.mark.usefixtures("run")
def test_batch_norm_is_approximate_and_never_gets_a_single_sample():
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)).double()
    step(lambda x, y: F.cross_entropy(model(x), y), n=7)
    summary = accum_magic.last_run()
    assert (summary.verdict, summary.micro_batches) == ("approximate", 3)


def test_an_approximate_result_that_nobody_shows_is_warned_of(model):
    with pytest.warns(ApproximateWarning, match="the square root of a value") as caught:
        step(lambda x, y: F.mse_loss(model(x), F.one_hot(y, 4).double()).sqrt(), replay="never")
    assert caught[0].filename == __file__


def test_a_value_that_was_not_kept_says_so():
    released = accum_magic.Released("out", "it is large, and nothing in the cell reads it")
    for use in (lambda: released.shape, lambda: released + 1, lambda: torch.exp(released), lambda: released[0]):
        with pytest.raises(accum_magic.AccumulateError, match="`out` was not kept: it is large") as caught:
            use()
        assert "`kept = out`" in str(caught.value)


@pytest.mark.usefixtures("run")
@pytest.mark.parametrize(("largest", "is_kept"), [(9, True), (2, False)])
def test_a_tensor_that_only_the_probe_found_constant_is_not_kept(model, largest, is_kept):
    def micro_step(x, y):
        value = F.cross_entropy(model(x), y)
        return (value,), (torch.arange(3) + (y > largest).any(),)

    [value] = accum_magic.step(micro_step, {"x": X, "y": Y}, n=3, read=("rows",))
    assert torch.is_tensor(value) == is_kept
    if not is_kept:
        with pytest.raises(accum_magic.AccumulateError, match="`rows` was not kept: it is another in each micro-batch"):
            value.sum()


@pytest.mark.usefixtures("run")
def test_pieces_that_are_padded_to_different_lengths_are_not_joined(model):
    longest = torch.tensor([3, 3, 3, 1, 0, 1, 2])

    def micro_step(x, y):
        return (F.cross_entropy(model(x), y),), (x.new_ones(len(x), int(y.max())),)

    [value] = accum_magic.step(micro_step, {"x": X, "y": longest}, n=3, read=("padded",))
    with pytest.raises(accum_magic.AccumulateError, match="its micro-batches are padded to different lengths"):
        value.sum()


@pytest.mark.usefixtures("run")
def test_a_users_own_dispatch_mode_is_left_alone_by_the_measurement(model):
    """A FLOP counter is such a mode; it is handed numbers that PyTorch keeps in tensors as plain ones."""

    def loss(x, y):
        return F.cross_entropy(model(x) / 2.0, y).sqrt()

    expected = plain_gradients(model, loss)
    with FlopCounterMode(display=False) as counter:
        step(loss)
    assert counter.get_total_flops() > 0
    assert_same(gradients(model), expected)


class Reads(TorchFunctionMode):
    """Counts what makes the host wait for a device: numbers that are read off tensors."""

    READERS = frozenset({torch.Tensor.item, torch.Tensor.tolist, torch.Tensor.numpy, torch.Tensor.__bool__,
                         torch.Tensor.__float__, torch.Tensor.__int__})  # fmt: skip

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_function__(self, func, types, args=(), kwargs=None):
        self.count += func in self.READERS
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("beside", [False, True], ids=["alone", "beside a mean"])
@pytest.mark.usefixtures("run")
def test_no_micro_batch_waits_for_the_device(model, beside):
    def loss(x, y):
        found = F.cross_entropy(model(x), torch.where(y == 1, -100, y))  # its total is in no leaf of the batch
        return found + model(x).square().mean() if beside else found

    def micro_step(x, y):
        value = loss(x, y)
        return (value,), (value,)

    counts = []
    for n in (2, 2, 7):
        with Reads() as reads:
            accum_magic.step(micro_step, {"x": X, "y": Y}, n=n, read=("loss",))
        counts.append(reads.count)
    assert counts[0] > counts[1] == counts[2], "measured once; then no number is read once per micro-batch"


@pytest.mark.usefixtures("run")
def test_nothing_overflows_under_float16_scaling():
    """The scale is such that the plain step's gradients just fit: no weight makes any of them larger on the way."""
    torch.manual_seed(0)
    model, x, target = nn.Linear(3, 4).half(), X.half(), F.one_hot(Y, 4).half()

    def loss(x, t, scale=2.0**12):
        out = model(x)
        return (F.mse_loss(out, t, reduction="sum") + out.square().mean() + model.weight.square().sum()) * scale

    loss(x, target).backward()
    plain = gradients(model)
    assert max(float(g.abs().max()) for g in plain) > torch.finfo(torch.float16).max / 4
    model.zero_grad()

    def micro_step(x, t):
        value = loss(x, t)
        return (value,), (value,)

    accum_magic.step(micro_step, {"x": x, "t": target}, n=3, read=("loss",))
    for mine, theirs in zip(gradients(model), plain, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-2, atol=1e-2 * float(theirs.abs().max()))


SHARED = {
    "one value": lambda a, b, x: a.view(()) + b.view(()) + F.cross_entropy(x, Y[: len(x)]),
    "rows": lambda a, b, x: ((a.view(1, -1) + b.view(1, -1)) * x).mean(),
    "one of them itself": lambda a, b, x: ((a.view(-1) + b) * x).mean(),
    "what it starts from": lambda a, b, x: a.view(()) + (b * x).mean(),
    "a second loss": lambda a, b, x: (((a.view(1, -1) + b.view(1, -1)) * x).mean(), (a * b).sum()),
}


@pytest.mark.parametrize("n", [2, 3, 7])
@pytest.mark.parametrize("options", [{}, {"noise": True}], ids=["in place", "folded"])
@pytest.mark.parametrize("sharing", SHARED)
def test_leaves_that_share_a_gradient_have_one_of_their_own(run, model, sharing, n, options):
    """PyTorch lets such leaves keep what a backward hands down to both; the next micro-batch would add to it twice."""
    size = 1 if sharing in {"one value", "what it starts from"} else 4
    model.a, model.b = (nn.Parameter(torch.ones(size, dtype=torch.float64)) for _ in range(2))

    def losses(x):
        found = SHARED[sharing](model.a, model.b, model(x))
        return found if isinstance(found, tuple) else (found,)

    def micro_step(x):
        found = losses(x)
        return found, found

    expected = torch.autograd.grad(sum(losses(X)), list(model.parameters()))
    accum_magic.step(micro_step, {"x": X}, n=n, unread=tuple("ab"[: len(losses(X))]), **options)
    assert_same(gradients(model), expected)
    assert (f"{next(iter(run.sites.values())).where}: {PARTED}" in run.notes) == (sharing in {"rows", "a second loss"})


@pytest.mark.usefixtures("run")
@pytest.mark.parametrize("is_whole_first", [True, False])
def test_a_leaf_that_shares_part_of_a_gradient_has_one_of_its_own(model, is_whole_first):
    """Of the sum's one gradient the whole has all, the two others a part each."""
    sizes = {"whole": 4, "first": 1, "second": 3}
    for name, size in sizes.items():
        setattr(model, name, nn.Parameter(torch.ones(size, dtype=torch.float64)))

    def loss(x, _):
        whole, parts = model.whole.view(1, -1), torch.cat([model.first, model.second]).view(1, -1)
        return ((whole + parts if is_whole_first else parts + whole) * model(x)).mean()

    expected = plain_gradients(model, loss)
    step(loss, 3)
    assert_same(gradients(model), expected)
