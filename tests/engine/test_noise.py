"""`--noise`: the gradient noise scale beside what it is by definition, and what it must not change."""

import dataclasses
import math

import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - as everybody writes it
from torch import nn
from torch.func import functional_call, grad, vmap
from torch.utils._python_dispatch import TorchDispatchMode

import accum_magic
from accum_magic.engine import events
from accum_magic.engine.noise import Noise, NoiseScale, norm_of, told
from accum_magic.engine.run import begin
from accum_magic.testing import run_accumulated, run_plain

F64 = torch.float64


def estimated(micro_step, batches, n, **options):
    """The summary of steps without an update between them: the noise scale stays what it is."""
    run = begin()
    try:
        for batch in batches:
            for leaf in options.get("leaves", ()):
                leaf.grad = None
            accum_magic.step(micro_step, batch, n=n, noise=True, **options.get("step", {}))
    finally:
        run.end()
    return run.summary()


def off_by(summary, truth):
    """How many of its own standard errors an estimate is off."""
    return abs(summary.noise_scale - truth) / summary.noise_scale_error


# ---------------------------------------------------------------- right


def linear_batches(seed, truth, batch, steps, width=50):
    """Samples whose own gradients of `mean(x @ w)` they are: of mean norm 1 and covariance of trace `truth`."""
    generator = torch.Generator().manual_seed(seed)
    mean = torch.ones(width, dtype=F64) / math.sqrt(width)
    deviation = math.sqrt(truth / width)
    return [{"x": mean + deviation * torch.randn(batch, width, dtype=F64, generator=generator)} for _ in range(steps)]


def linear_step(width=50):
    weight = torch.zeros(width, dtype=F64, requires_grad=True)

    def micro_step(x):
        return ((x @ weight).mean(),), ()

    return micro_step, weight


@pytest.mark.parametrize("truth", [5.0, 40.0, 200.0])
@pytest.mark.parametrize(("batch", "n"), [(64, 8), (61, 8), (60, 2)])
def test_a_linear_model_has_the_noise_scale_of_its_data(truth, batch, n):
    micro_step, weight = linear_step()
    summary = estimated(micro_step, linear_batches(0, truth, batch, steps=100), n, leaves=[weight])
    assert off_by(summary, truth) < 2
    assert summary.noise_scale_error < truth / 6


@pytest.mark.parametrize(("steps", "batch", "n"), [(1, 64, 8), (3, 61, 8), (20, 64, 8)])
def test_two_errors_hold_the_truth_nineteen_times_in_twenty(steps, batch, n):
    micro_step, weight = linear_step()
    runs = [estimated(micro_step, linear_batches(seed, 40.0, batch, steps), n, leaves=[weight]) for seed in range(60)]
    inside = sum(off_by(summary, 40.0) < 2 for summary in runs)
    assert inside >= 0.9 * len(runs)
    # nor are they wide for nothing: the estimates themselves scatter by half of it at least
    scatter = torch.tensor([summary.noise_scale for summary in runs]).std()
    assert scatter > 0.5 * torch.tensor([summary.noise_scale_error for summary in runs]).median()


def test_very_unequal_micro_batches_are_not_biased():
    # the batches of a loader, under --window; by the mean of many steps, whose spread says how near it must be
    sizes, noise, signal, width = (40, 10, 5, 5), 90.0, 2.0, 30
    generator = torch.Generator().manual_seed(0)
    mean = torch.full((width,), math.sqrt(signal / width), dtype=F64)
    found = []
    for _ in range(4000):
        samples = mean + math.sqrt(noise / width) * torch.randn(sum(sizes), width, dtype=F64, generator=generator)
        added = torch.stack([part.sum(0) / sum(sizes) for part in samples.split(sizes)])
        squares = added.square().sum(1).tolist()
        one = told(squares, float(added.sum(0).square().sum()), sizes)
        found.append((one.noise, one.signal))
    means, spreads = torch.tensor(found).mean(0), torch.tensor(found).std(0) / math.sqrt(len(found))
    assert ((means - torch.tensor([noise, signal])).abs() < 3 * spreads).all()
    assert (spreads < torch.tensor([0.02 * noise, 0.02 * signal])).all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_norms_of_narrow_gradients_are_not_narrow(dtype):
    torch.manual_seed(0)
    gradients = [torch.randn(300, 3).to(dtype), torch.randn(77).to(dtype)]
    sparse = torch.sparse_coo_tensor([[1, 2]], torch.randn(2, 5).to(dtype), (4, 5))
    exact = torch.cat([g.double().flatten() for g in (*gradients, sparse.to_dense())]).norm()
    assert float(norm_of([gradients, [sparse]])) == pytest.approx(float(exact), rel=1e-6)


def noise_of_every_sample(model, x, y):
    """tr(C) / |G|^2 by its definition, from each sample's own gradient."""
    parameters = {name: p.detach() for name, p in model.named_parameters()}

    def loss(parameters, x, y):
        return F.cross_entropy(functional_call(model, parameters, (x[None],)), y[None])

    each = vmap(grad(loss), in_dims=(None, 0, 0))(parameters, x, y)
    rows = torch.cat([g.flatten(1) for g in each.values()], 1)
    mean = rows.mean(0)
    return float((rows - mean).square().sum(1).mean() / mean.square().sum())


@pytest.fixture
def network():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(10, 32), nn.GELU(), nn.LayerNorm(32), nn.Linear(32, 5)).double()
    centres, y = 2 * torch.randn(5, 10, dtype=F64), torch.randint(5, (2000,))
    return model, centres[y] + torch.randn(2000, 10, dtype=F64), y


def drawn(x, y, batch, steps):
    """Batches drawn with replacement: their samples are independent."""
    torch.manual_seed(3)
    rows = torch.randint(len(x), (steps, batch))
    return [{"x": x[index], "y": y[index]} for index in rows]


def classify(model):
    def micro_step(x, y):
        return (F.cross_entropy(model(x), y),), ()

    return micro_step


@pytest.mark.parametrize(("batch", "n", "steps"), [(64, 4, 60), (50, 7, 60), (256, 16, 3)])
def test_a_network_has_the_noise_scale_of_its_samples_own_gradients(network, batch, n, steps):
    model, x, y = network
    summary = estimated(classify(model), drawn(x, y, batch, steps), n, leaves=list(model.parameters()))
    truth = noise_of_every_sample(model, x, y)
    assert off_by(summary, truth) < 2
    assert summary.noise_scale_error < truth / 3


def test_bfloat16_gradients_added_up_in_float32_tell_the_same(network):
    model, x, y = network
    narrow = nn.Sequential(*model).bfloat16()
    batches = [{"x": b["x"].bfloat16(), "y": b["y"]} for b in drawn(x, y, 64, 20)]
    summary = estimated(classify(narrow), batches, 8, leaves=list(narrow.parameters()), step={"grad_dtype": "float32"})
    truth = noise_of_every_sample(narrow.double(), x, y)
    assert off_by(summary, truth) < 2


# ---------------------------------------------------------------- what does not change it


def values(summary):
    return summary.noise_scale, summary.noise_scale_error


@pytest.mark.parametrize("inside", [False, True])
def test_a_scale_that_changes_between_steps_cancels(network, inside):
    # as `scaler.scale(loss).backward()`, and as Accelerate and Fabric do it inside their own `backward`
    model, x, y = network
    scaler = torch.amp.GradScaler("cpu", init_scale=1.0, growth_factor=4.0, growth_interval=1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    batches = drawn(x, y, 60, 10)
    plain = estimated(classify(model), batches, 4, leaves=list(model.parameters()))

    def micro_step(x, y):
        loss = F.cross_entropy(model(x), y)
        return ((loss if inside else scaler.scale(loss)),), ()

    def backward(loss, **options):
        scaler.scale(loss).backward(**options)

    run = begin()
    for batch in batches:
        optimizer.zero_grad()
        accum_magic.step(micro_step, batch, n=4, noise=True, backward=backward if inside else None)
        scaler.step(optimizer)
        scaler.update()
    run.end()
    assert scaler.get_scale() == 4.0**10
    assert values(run.summary()) == pytest.approx(values(plain), rel=1e-9)


def test_gradients_rescaled_at_the_end_tell_the_same(network):
    model, x, y = network
    batches = drawn(x, y, 60, 10)
    for step, batch in enumerate(batches):
        batch["y"][:step] = -100  # the first micro-batch lets expect too few valid ones, in each step others
    plain = estimated(classify(model), batches, 4, leaves=list(model.parameters()))

    def micro_step(x, y):
        return (F.cross_entropy(model(x), y.clone()),), ()  # targets made inside: their number is read from each graph

    rescaled = estimated(micro_step, batches, 4, leaves=list(model.parameters()))
    assert values(rescaled) == pytest.approx(values(plain), rel=1e-9)


def test_gradients_of_the_batch_itself_are_left_out(network):
    model, x, y = network
    batches = drawn(x, y, 60, 10)
    plain = estimated(classify(model), batches, 4, leaves=list(model.parameters()))
    attacked = [{"x": b["x"].clone().requires_grad_(), "y": b["y"]} for b in batches]
    summary = estimated(classify(model), attacked, 4, leaves=list(model.parameters()))
    assert values(summary) == pytest.approx(values(plain), rel=1e-9)
    assert all(b["x"].grad is not None for b in attacked)


def test_what_is_computed_once_is_left_out_with_a_note(network):
    model, x, y = network
    scale = torch.tensor(0.5, dtype=F64, requires_grad=True)
    batches = drawn(x, y, 60, 10)
    plain = estimated(lambda x, y: ((F.cross_entropy(model(x) * 0.5, y),), ()), batches, 4)

    def micro_step(x, y, factor):
        return (F.cross_entropy(model(x) * factor, y),), ()

    with_scale = [{**b, "factor": scale * 1.0} for b in batches]
    summary = estimated(micro_step, with_scale, 4, step={"fixed": ("factor",)})
    assert values(summary) == pytest.approx(values(plain), rel=1e-9)
    assert any(note.endswith("leaves out what is computed once before the micro-batches") for note in summary.notes)
    assert scale.grad is not None


CELL = """\
for x, y in loader:
    optimizer.zero_grad()
    loss = F.cross_entropy(model(x), y)
    if not torch.isfinite(loss):
        continue
    loss.backward()
    optimizer.step()
    losses.append(loss.item())
"""


def namespace(network, bad=()):
    _, x, y = network
    x = x.clone()
    x[list(bad)] = float("inf")
    torch.manual_seed(0)
    copied = nn.Sequential(nn.Linear(10, 32), nn.GELU(), nn.Linear(32, 5)).double()
    loader = list(zip(x[:300].split(32), y[:300].split(32), strict=True))  # the last is short
    optimizer = torch.optim.SGD(copied.parameters(), lr=0.1, momentum=0.9)
    return {"model": copied, "optimizer": optimizer, "loader": loader, "losses": [], "F": F, "torch": torch}


@pytest.mark.parametrize("n", [2, 5])
def test_training_is_the_same_with_it(network, n):
    plain, without, ours = (namespace(network) for _ in range(3))
    run_plain(CELL, plain)
    run_accumulated(CELL, without, n)
    run_accumulated(CELL, ours, n, "--noise")
    for other in (plain, without):
        for mine, theirs in zip(ours["model"].parameters(), other["model"].parameters(), strict=True):
            torch.testing.assert_close(mine, theirs, rtol=1e-12, atol=1e-14)
        assert ours["losses"] == pytest.approx(other["losses"], rel=1e-12)
    assert accum_magic.last_run().noise_scale > 0


def test_a_step_whose_gradients_are_undone_does_not_count(network):
    good, ours = namespace(network), namespace(network, bad=[40])
    del good["loader"][1]
    found = []
    for each in (good, ours):
        run_accumulated(CELL, each, 4, "--noise")
        found.append(values(accum_magic.last_run()))
    assert len(ours["losses"]) == len(good["losses"]) == 9
    assert found[0] == pytest.approx(found[1], rel=1e-9)


def test_a_finite_step_that_is_undone_does_not_count_either(network):
    model, x, y = network
    first, second, third = drawn(x, y, 60, 3)
    found = []
    for undone in (False, True):
        run = begin()
        accum_magic.step(classify(model), first, n=4, noise=True, undoable=True)
        if undone:
            accum_magic.step(classify(model), second, n=4, noise=True, undoable=True)
            accum_magic.undo_step()
        accum_magic.step(classify(model), third, n=4, noise=True, undoable=True)
        run.end()
        found.append(values(run.summary()))
    assert found[0] == found[1]


class Reads(TorchDispatchMode):
    """Counts what makes the host wait for the device: numbers read off tensors, and copies to the host."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.count += function is torch.ops.aten._local_scalar_dense.default
        return function(*args, **(kwargs or {}))


def test_a_step_waits_for_no_number_more(network):
    model, x, y = network
    counts = []
    for noise in (False, True):
        run = begin()
        accum_magic.step(classify(model), {"x": x[:32], "y": y[:32]}, n=8)  # probed
        with Reads() as reads:
            accum_magic.step(classify(model), {"x": x[:32], "y": y[:32]}, n=8, noise=noise)
        counts.append(reads.count)
        run.end()
    assert counts[0] == counts[1]


# ---------------------------------------------------------------- what it says


def test_the_summary_and_one_event_hold_plain_numbers(network):
    told = []
    run = begin(subscribers=(told.append,))
    model, x, y = network
    for batch in drawn(x, y, 64, 10):
        accum_magic.step(classify(model), batch, n=4, noise=True)
        model.zero_grad()
    run.end()
    summary = run.summary()
    [event] = [e for e in told if isinstance(e, events.NoiseEstimated)]
    assert told.index(event) == len(told) - 2
    assert isinstance(told[-1], events.RunEnded)
    assert dataclasses.astuple(event) == values(summary)
    assert {type(value) for value in dataclasses.astuple(event)} == {float}
    assert f"  {NoiseScale(*values(summary))}" in str(summary).splitlines()


def test_small_numbers_are_written_with_their_digits():
    assert str(NoiseScale(1234.6, 2.34)) == (
        "the gradient noise scale is about 1,235 samples (± 2.3): "
        "accumulating pays up to batches of about that size; much larger ones save hardly any update"
    )
    assert "about 0.035 samples" in str(NoiseScale(0.0346, 0.001))


def test_without_the_option_nothing_is_said(network):
    run_accumulated(CELL, namespace(network), 4)
    summary = accum_magic.last_run()
    assert values(summary) == (None, None)
    assert "noise" not in str(summary)
    assert not any(isinstance(e, events.NoiseEstimated) for e in summary.events)


def test_a_step_of_one_micro_batch_tells_nothing(network):
    run_accumulated(CELL, namespace(network), 1, "--noise")
    summary = accum_magic.last_run()
    assert values(summary) == (None, None)
    assert summary.notes == ("line 3: --noise learns nothing from a step of one micro-batch",)


def test_a_replayed_step_tells_nothing(network):
    model, x, y = network

    def micro_step(x, y):
        return (F.cross_entropy(model(x), y).sqrt(),), ()

    options = {"noise": True, "grad_dtype": "float32"}
    run = begin()
    accum_magic.step(micro_step, {"x": x[:30].bfloat16().double(), "y": y[:30]}, n=3, **options)
    narrow = model.bfloat16()
    accum_magic.step(lambda x, y: ((F.cross_entropy(narrow(x), y).sqrt(),), ()), {"x": x[:30].bfloat16(), "y": y[:30]},
                     n=3, **options)  # fmt: skip
    run.end()
    summary = run.summary()
    assert values(summary) == (None, None)
    said = [note.partition(": ")[2] for note in summary.notes if ": --" in note]
    assert said == [
        "--grad-dtype float32 has nothing to do: no parameter is narrower than float32",
        "--noise learns nothing from a step that is replayed: its chunks have no gradients of their own",
        "--grad-dtype float32 does nothing for a step that is replayed: one backward pass adds up its chunks",
        "--noise learns nothing from a step that is replayed: its chunks have no gradients of their own",
    ]


def test_a_gradient_that_drowns_in_its_noise_has_no_scale():
    # opposite gradients in the two micro-batches: their sum is zero, all that is seen is noise
    micro_step, _ = linear_step(4)
    x = torch.ones(6, 4, dtype=F64)
    x[3:] = -1
    summary = estimated(micro_step, [{"x": x}], 2)
    assert values(summary) == (None, None)
    assert [n for n in summary.notes if n.startswith("--noise")] == [
        "--noise: no gradient stands out of its noise in these steps; the noise scale is larger than they can tell"
    ]


def test_gradients_that_overflow_are_left_out(network):
    model, x, y = network
    batches = drawn(x, y, 60, 10)
    plain = estimated(classify(model), batches, 4, leaves=list(model.parameters()))
    broken = [*batches, {"x": x[:60] * float("inf"), "y": y[:60]}]
    assert values(estimated(classify(model), broken, 4, leaves=list(model.parameters()))) == values(plain)


def test_nothing_observed_is_no_estimate():
    noise = Noise()
    noise.forget()
    assert noise.estimate() is None
