"""`--grad-dtype float32`: bfloat16 and float16 gradients are added up in float32 and cast back once."""

import copy

import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - as everybody writes it
from engine_tools import LiveBytes
from torch import nn

import accum_magic
from accum_magic.engine.gradients import SetAside
from accum_magic.engine.run import begin
from accum_magic.testing import run_accumulated, run_plain

NARROW = (torch.bfloat16, torch.float16)


@pytest.fixture
def run():
    run = begin()
    yield run
    run.end()


def classifier(dtype=torch.bfloat16):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(64, 64), nn.GELU(), nn.Linear(64, 16)).to(dtype)


def data(samples, dtype=torch.bfloat16):
    torch.manual_seed(1)
    return torch.randn(samples, 64).to(dtype), torch.randint(16, (samples,))


def cross_entropy_step(model):
    def micro_step(x, y):
        return (F.cross_entropy(model(x), y),), ()

    return micro_step


def gradients(model):
    return [p.grad for p in model.parameters()]


def relative_error(found, exact):
    found, exact = (torch.cat([g.double().flatten() for g in each]) for each in (found, exact))
    return float((found - exact).norm() / exact.norm())


def exact_sum(model, micro_step, pieces, weights):
    """The same low-precision gradients of the micro-batches, added up in float64."""
    sums = [torch.zeros_like(p, dtype=torch.float64) for p in model.parameters()]
    for piece, weight in zip(pieces, weights, strict=True):
        model.zero_grad()
        for root in micro_step(*piece)[0]:
            root.backward(torch.full_like(root, weight))
        for total, parameter in zip(sums, model.parameters(), strict=True):
            if parameter.grad is not None:
                total.add_(parameter.grad.double())
    model.zero_grad()
    return sums


def one_by_one(*batch):
    return list(zip(*(value.split(1) for value in batch), strict=True))


# ---------------------------------------------------------------- how exact


@pytest.mark.usefixtures("run")
def test_the_sum_of_1024_bfloat16_gradients_is_right_to_three_thousandths():
    # DeepSpeed#2768: a bfloat16 sum stops growing. Beside the exact sum of the very same gradients, and beside a
    # float64 model: what is left there is the rounding of the plain bfloat16 cell's own backward.
    model, (x, y) = classifier(), data(1024)
    micro_step = cross_entropy_step(model)
    exact = exact_sum(model, micro_step, one_by_one(x, y), [1 / 1024] * 1024)
    wide = copy.deepcopy(model).double()
    F.cross_entropy(wide(x.double()), y).backward()
    errors = {}
    for dtype in (None, "float32"):
        model.zero_grad()
        accum_magic.step(micro_step, {"x": x, "y": y}, n=1024, grad_dtype=dtype)
        errors[dtype] = relative_error(gradients(model), exact), relative_error(gradients(model), gradients(wide))
    model.zero_grad()
    F.cross_entropy(model(x), y).backward()
    plain = relative_error(gradients(model), gradients(wide))
    assert 0.1 < errors[None][0] < 0.3
    assert errors["float32"][0] <= 0.003
    assert errors["float32"][1] <= plain + 0.001


@pytest.mark.usefixtures("run")
def test_the_sum_of_1024_float16_gradients_is_as_right_as_one_rounding():
    model, (x, y) = classifier(torch.float16), data(1024, torch.float16)
    micro_step = cross_entropy_step(model)
    exact = exact_sum(model, micro_step, one_by_one(x, y), [1 / 1024] * 1024)
    accum_magic.step(micro_step, {"x": x, "y": y}, n=1024, grad_dtype="float32")
    assert relative_error(gradients(model), exact) <= torch.finfo(torch.float16).eps


def test_a_weight_leaves_the_backward_pass_of_float16_in_the_plain_cells_range(run):
    # 1/N multiplies a mean over k samples, not over B: what flows back to each sample is the plain cell's, to the bit,
    # so nothing underflows there that did not. A loss scale that suits the plain cell suits the accumulated one.
    model, (x, y) = classifier(torch.float16), data(256, torch.float16)
    seen = []

    def micro_step(x, y):
        logits = model(x)
        logits.register_hook(lambda gradient: seen.append(gradient.clone()))
        loss = F.cross_entropy(logits, y)
        return (loss,), ()

    accum_magic.step(micro_step, {"x": x, "y": y}, n=64, grad_dtype="float32")
    accumulated, seen[:] = torch.cat(seen), []
    micro_step(x, y)[0][0].backward()
    assert relative_error([accumulated], seen) <= torch.finfo(torch.float16).eps
    assert run.steps == 1


# ---------------------------------------------------------------- every kind of step


SIZES = (3, 2, 2)
SHARES = [k / 7 for k in SIZES]


def pieces(*batch):
    return list(zip(*(value.split(SIZES) for value in batch), strict=True))


@pytest.mark.usefixtures("run")
@pytest.mark.parametrize("dtype", NARROW)
@pytest.mark.parametrize("steps", [1, 3])
def test_gradients_of_earlier_steps_stay(dtype, steps):
    model, (x, y) = classifier(dtype), data(7, dtype)
    micro_step = cross_entropy_step(model)
    exact = exact_sum(model, micro_step, pieces(x, y), SHARES)
    before = [torch.full_like(p, 0.25) for p in model.parameters()]
    for parameter, gradient in zip(model.parameters(), before, strict=True):
        parameter.grad = gradient
    for _ in range(steps):
        accum_magic.step(micro_step, {"x": x, "y": y}, n=3, grad_dtype="float32")
    expected = [0.25 + steps * g for g in exact]
    assert relative_error(gradients(model), expected) <= steps * torch.finfo(dtype).eps
    assert all(p.grad is b for p, b in zip(model.parameters(), before, strict=True))


@pytest.mark.usefixtures("run")
def test_several_backwards_of_a_micro_batch_are_folded_together():
    model, (x, y) = classifier(), data(7)

    def micro_step(x, y):
        out = model(x)
        first, second = F.cross_entropy(out, y), model[2].weight.sum() * out.square().mean()
        return (first, second), ()

    def one(x, y):
        (first, second), _ = micro_step(x, y)
        return (first + second,), ()

    exact = exact_sum(model, one, pieces(x, y), SHARES)

    def twice(x, y):
        return (F.cross_entropy(model(x), y), model[2].weight.sum() * model(x).square().mean()), ()

    accum_magic.step(twice, {"x": x, "y": y}, n=3, grad_dtype="float32")
    assert relative_error(gradients(model), exact) <= 2 * torch.finfo(torch.bfloat16).eps
    assert {p.grad.dtype for p in model.parameters()} == {torch.bfloat16}


@pytest.mark.usefixtures("run")
def test_a_graph_computed_once_is_back_propagated_from_the_whole_sum():
    model, (x, y) = classifier(), data(512)
    scale = nn.Parameter(torch.tensor(0.3, dtype=torch.bfloat16))

    def micro_step(x, y, factor):
        return (F.cross_entropy(model(x) * factor, y),), ()

    wide, wide_scale = copy.deepcopy(model).double(), scale.detach().double().requires_grad_()
    F.cross_entropy(wide(x.double()) * wide_scale.exp(), y).backward()
    batch = {"x": x, "y": y, "factor": scale.exp()}
    accum_magic.step(micro_step, batch, n=512, fixed=("factor",), grad_dtype="float32")
    assert scale.grad.dtype == torch.bfloat16
    assert relative_error([scale.grad, *gradients(model)], [wide_scale.grad, *gradients(wide)]) < 0.01


@pytest.mark.usefixtures("run")
@pytest.mark.parametrize("options", [{"grad_dtype": "float32"}, {"noise": True}])
def test_a_parameter_that_the_loop_and_a_graph_computed_once_share_gets_both(options):
    model, (x, y) = classifier(), data(7)

    def loss(model, x, y, factor):
        return F.cross_entropy(model(x) * factor, y)

    wide = copy.deepcopy(model).double()
    loss(wide, x.double(), y, wide[2].weight.square().sum()).backward()
    batch = {"x": x, "y": y, "factor": model[2].weight.square().sum()}

    def micro_step(x, y, factor):
        return (loss(model, x, y, factor),), ()

    accum_magic.step(micro_step, batch, n=3, fixed=("factor",), **options)
    assert relative_error(gradients(model), gradients(wide)) < 0.02


@pytest.mark.usefixtures("run")
def test_totals_measured_in_each_graph_rescale_the_sums():
    model, (x, y) = classifier(), data(7)

    def micro_step(x, y):
        inner = torch.where(y < 8, y, torch.full_like(y, -100))  # not a leaf of the batch
        return (F.cross_entropy(model(x), inner),), ()

    assert 0 < int((y < 8).sum()) < 7
    wide = copy.deepcopy(model).double()
    F.cross_entropy(wide(x.double()), torch.where(y < 8, y, torch.full_like(y, -100))).backward()
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    accum_magic.step(micro_step, {"x": x, "y": y}, n=3, grad_dtype="float32")
    assert relative_error(gradients(model), [g + 1 for g in gradients(wide)]) < 0.005


@pytest.mark.usefixtures("run")
def test_sparse_gradients_are_added_up_too():
    embed = nn.Embedding(10, 4, sparse=True, dtype=torch.bfloat16)
    tokens = torch.randint(10, (512,))

    def micro_step(tokens):
        return (embed(tokens).square().sum(1).mean(),), ()

    wide = embed.weight.detach().double().requires_grad_()
    F.embedding(tokens, wide).square().sum(1).mean().backward()
    accum_magic.step(micro_step, {"tokens": tokens}, n=512, grad_dtype="float32")
    assert embed.weight.grad.layout is torch.sparse_coo
    assert embed.weight.grad.dtype == torch.bfloat16
    assert relative_error([embed.weight.grad.to_dense()], [wide.grad]) < 0.005


# ---------------------------------------------------------------- what it leaves alone


def mixed():
    torch.manual_seed(0)
    return nn.ModuleList([nn.Linear(64, 64), nn.Linear(64, 16, dtype=torch.bfloat16)])


@pytest.mark.usefixtures("run")
def test_wider_parameters_accumulate_as_they_did():
    model, (x, y) = mixed(), data(7, torch.float32)

    def micro_step(x, y):
        return (F.cross_entropy(model[1](model[0](x).bfloat16()), y),), ()

    found = []
    for dtype in (None, "float32"):
        model.zero_grad()
        accum_magic.step(micro_step, {"x": x, "y": y}, n=3, grad_dtype=dtype)
        found.append([g.clone() for g in gradients(model[0])])
    assert all(map(torch.equal, *found))
    assert accum_magic.last_run().notes == ()


def test_without_a_narrow_parameter_nothing_is_folded_and_the_summary_says_so(run):
    model, (x, y) = classifier(torch.float32), data(7, torch.float32)
    loss = F.cross_entropy(model(x), y)
    aside = SetAside(torch.float32)
    aside.take(model.parameters())
    loss.backward()
    assert not aside.folds
    accum_magic.step(cross_entropy_step(model), {"x": x, "y": y}, n=3, grad_dtype="float32")
    [note] = run.summary().notes
    assert note.endswith("--grad-dtype float32 has nothing to do: no parameter is narrower than float32")


def test_a_users_hook_reads_the_running_sum_as_it_did(run):
    model, (x, y) = classifier(), data(7)
    seen = []
    model[0].weight.register_post_accumulate_grad_hook(lambda p: seen.append(p.grad.clone()))
    micro_step = cross_entropy_step(model)
    accum_magic.step(micro_step, {"x": x, "y": y}, n=3)
    without, seen[:] = list(seen), []
    model.zero_grad()
    accum_magic.step(micro_step, {"x": x, "y": y}, n=3, grad_dtype="float32", noise=True)
    assert len(seen) == 3
    assert all(map(torch.equal, seen, without))
    hooked = [n for n in run.summary().notes if "post-accumulate-grad hook" in n]
    assert [n.partition(": ")[2].partition(" leaves")[0] for n in hooked] == ["--grad-dtype float32", "--noise"]


# ---------------------------------------------------------------- a step that fails, or is undone


@pytest.mark.usefixtures("run")
@pytest.mark.parametrize("options", [{"grad_dtype": "float32"}, {"noise": True}])
def test_a_failure_drops_the_sums(options):
    model, (x, y) = classifier(), data(7)
    for parameter in model.parameters():
        parameter.grad = torch.full_like(parameter, 2.0)
    seen = []

    def micro_step(x, y):
        seen.append(len(x))
        if len(seen) == 3:  # what the probe appended is taken back; two micro-batches, then this
            message = "in the last micro-batch"
            raise ValueError(message)
        return (F.cross_entropy(model(x), y),), ()

    with pytest.raises(ValueError, match="in the last micro-batch"):
        accum_magic.step(micro_step, {"x": x, "y": y}, n=3, **options)
    assert seen == [3, 2, 2]
    assert all(torch.equal(p.grad, torch.full_like(p, 2.0)) for p in model.parameters())


def test_the_sums_of_a_failed_step_are_given_back():
    # a traceback keeps the step's frames, and its gradients with them
    parameter = nn.Parameter(torch.ones(4, dtype=torch.bfloat16))
    aside = SetAside(torch.float32)
    aside.take([parameter])
    parameter.sum().backward()
    with LiveBytes() as live:
        aside.fold()
        assert live.now_bytes == 4 * 4
        aside.restore()
        assert live.now_bytes == 0


@pytest.mark.usefixtures("run")
@pytest.mark.parametrize("options", [{"grad_dtype": "float32"}, {"noise": True}])
@pytest.mark.parametrize("before", [None, 2.0])
def test_an_undone_step_leaves_the_gradients_of_before(options, before):
    model, (x, y) = classifier(), data(7)
    for parameter in model.parameters():
        parameter.grad = None if before is None else torch.full_like(parameter, before)
    accum_magic.step(cross_entropy_step(model), {"x": x, "y": y}, n=3, undoable=True, **options)
    assert all(p.grad.ne(before or 0.0).any() for p in model.parameters())
    accum_magic.undo_step()
    if before is None:
        assert gradients(model) == [None] * 4
    else:
        assert all(torch.equal(p.grad, torch.full_like(p, before)) for p in model.parameters())


# ---------------------------------------------------------------- what runs behind it

CELL = """\
for x, y in loader:
    optimizer.zero_grad()
    loss = F.cross_entropy(model(x), y)
    scaler.scale(loss).backward()
    scaler.unscale_(optimizer)
    norms.append(torch.nn.utils.clip_grad_norm_(model.parameters(), 0.1))
    scaler.step(optimizer)
    scaler.update()
"""
WITHOUT_SCALER = """\
for x, y in loader:
    optimizer.zero_grad()
    loss = F.cross_entropy(model(x), y)
    loss.backward()
    norms.append(torch.nn.utils.clip_grad_norm_(model.parameters(), 0.1))
    optimizer.step()
"""


def namespace(dtype, optimizer):
    model, (x, y) = classifier(dtype), data(256, dtype)
    options = {"eps": 1e-4} if optimizer is torch.optim.AdamW else {}  # 1e-8 is zero in float16, and 0 / 0 NaN
    made = optimizer(model.parameters(), lr=0.1, **options)
    scaler = torch.amp.GradScaler("cpu", init_scale=256.0)
    return {"model": model, "optimizer": made, "loader": [(x, y)] * 2, "scaler": scaler, "norms": [], "F": F,
            "torch": torch}  # fmt: skip


@pytest.mark.parametrize("optimizer", [torch.optim.AdamW, torch.optim.SGD])
@pytest.mark.parametrize(
    ("cell", "dtype"), [(CELL, torch.bfloat16), (WITHOUT_SCALER, torch.bfloat16), (WITHOUT_SCALER, torch.float16)]
)
def test_clipping_scaler_and_optimizer_find_gradients_of_the_parameters_dtype(cell, dtype, optimizer):
    plain, narrow, ours = (namespace(dtype, optimizer) for _ in range(3))
    run_plain(cell, plain)
    run_accumulated(cell, narrow, 128)
    run_accumulated(cell, ours, 128, "--grad-dtype float32")
    for namespace_ in (plain, ours):
        assert {p.grad.dtype for p in namespace_["model"].parameters()} == {dtype}
    moved = zip(ours["model"].parameters(), classifier(dtype).parameters(), strict=True)
    assert not any(torch.equal(now, start) for now, start in moved)
    norms, of_plain, of_narrow = ([float(n) for n in each["norms"]] for each in (ours, plain, narrow))
    assert norms == pytest.approx(of_plain, rel=4 * torch.finfo(dtype).eps)
    assert abs(norms[0] - of_plain[0]) <= abs(of_narrow[0] - of_plain[0])


def test_a_scaler_refuses_float16_parameters_as_it_does_in_the_plain_cell():
    for runs, options in ((run_plain, ()), (run_accumulated, (4, "--grad-dtype float32"))):
        with pytest.raises(ValueError, match="Attempting to unscale FP16 gradients"):
            runs(CELL, namespace(torch.float16, torch.optim.AdamW), *options)
