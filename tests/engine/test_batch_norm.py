"""BatchNorm's running statistics move once per batch, as in the plain cell, by the moments of the whole batch."""

import copy
import gc
import subprocess
import sys
import threading
import weakref

import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - as everybody writes it
from torch import nn
from torch.utils.checkpoint import checkpoint

import accum_magic
from accum_magic.engine.batch_norm import RunningStatistics
from accum_magic.engine.run import begin

SAMPLES = 23  # ragged for every N but 1
IMAGES = torch.randn(SAMPLES, 3, 6, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
ROWS = torch.randn(SAMPLES, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(2)) * 3 + 1
BUFFERS = ("running_mean", "running_var", "num_batches_tracked")


@pytest.fixture(autouse=True)
def run():
    run = begin()
    yield run
    run.end()


def buffers(layer):
    return {name: value.clone() for name, value in layer.named_buffers()}


def assert_same(layer, expected, rtol=1e-9):
    found = buffers(layer)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=rtol, atol=0.0)


def accumulate(forward, batch=ROWS, n=3, steps=1):
    """Run steps of `forward(x).square().mean()` in micro-batches."""

    def micro_step(x):
        loss = forward(x).square().mean()
        return (loss,), (loss,)

    for _ in range(steps):
        accum_magic.step(micro_step, {"x": batch}, n=n, read=("loss",))


def plain_and_accumulated(make, calls=lambda layer, x: layer(x), batch=ROWS, n=3, steps=1):
    torch.manual_seed(0)
    layer = make()
    torch.manual_seed(0)
    plain = make()
    for _ in range(steps):
        calls(plain, batch)
    accumulate(lambda x: calls(layer, x), batch, n, steps)
    return plain, layer


@pytest.mark.parametrize("momentum", [0.1, 0.9, 1.0, 0.0, None], ids=str)
@pytest.mark.parametrize(("n", "samples"), [(1, 23), (2, 22), (3, 21), (3, 23), (7, 23)])
def test_statistics_of_a_first_layer_are_the_plain_cells(momentum, n, samples):
    def make():
        return nn.Sequential(nn.BatchNorm1d(3, momentum=momentum), nn.Linear(3, 2)).double()

    plain, model = plain_and_accumulated(make, batch=ROWS[:samples], n=n, steps=3)
    assert_same(model, buffers(plain))
    assert model[0].num_batches_tracked == 3


@pytest.mark.parametrize(
    ("make", "batch"),
    [
        (lambda: nn.BatchNorm2d(3, affine=False), IMAGES.clone().requires_grad_()),
        (lambda: nn.BatchNorm1d(3), IMAGES.flatten(2)),
        (lambda: nn.BatchNorm3d(3), IMAGES.unsqueeze(-1)),
        (nn.LazyBatchNorm2d, IMAGES),
        (lambda: nn.SyncBatchNorm(3), IMAGES),  # without a process group it is a plain one
    ],
    ids=["2d", "1d over time", "3d", "lazy", "sync"],
)
def test_every_kind_of_layer(make, batch):
    plain, layer = plain_and_accumulated(lambda: make().double(), batch=batch)
    assert_same(layer, buffers(plain))


def test_a_layer_that_is_called_several_times_moves_as_often_as_in_the_plain_cell():
    def real_and_fake(layer, x):
        return layer(x) + layer(x[:, [1, 2, 0]] * 2 - 1).relu() + layer(x.exp())

    for momentum in (0.1, None):
        plain, layer = plain_and_accumulated(
            lambda m=momentum: nn.BatchNorm1d(3, momentum=m).double(), real_and_fake, steps=2
        )
        assert_same(layer, buffers(plain))
        assert layer.num_batches_tracked == 6


def test_layers_of_several_kinds_move_together():
    """Channels, sizes, momenta and numbers of calls that differ; each on the batch itself, so that all are exact."""

    class Many(nn.Module):
        def __init__(self):
            super().__init__()
            self.norms = nn.ModuleList(
                nn.BatchNorm2d(c, momentum=m) for c, m in ((3, 0.1), (3, 0.1), (2, 0.1), (3, None))
            )
            self.rows = nn.BatchNorm1d(3)

        def forward(self, x):
            first, second, narrow, average = self.norms
            maps = [first(x), second(2 * x), average(x[:, :, ::2]), narrow(x[:, :2]), first(x + 1), average(x - 1)]
            return sum(m.sum() for m in maps) + self.rows(x.mean((2, 3))).sum()

    plain, model = plain_and_accumulated(lambda: Many().double(), batch=IMAGES, steps=3)
    assert_same(model, buffers(plain))


def test_deeper_layers_come_closer_than_by_an_update_per_micro_batch():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.BatchNorm2d(8), nn.Flatten()
    ).double()
    plain, by_hand = copy.deepcopy(model), copy.deepcopy(model)
    plain(IMAGES)
    for piece in IMAGES.tensor_split(6):
        by_hand(piece)
    accumulate(model, IMAGES, n=6)
    torch.testing.assert_close(model[1].running_var, plain[1].running_var, rtol=1e-9, atol=0.0)
    for name in BUFFERS[:2]:
        true = plain.get_buffer(f"4.{name}")
        ours, theirs = ((m.get_buffer(f"4.{name}") - true).norm() for m in (model, by_hand))
        assert 0 < ours < theirs / 20
    assert [m[4].num_batches_tracked.item() for m in (plain, model, by_hand)] == [1, 1, 6]


def test_the_same_buffers_are_moved_past_their_version_counters():
    layer = nn.BatchNorm1d(3).double()
    before = dict(layer.named_buffers())
    # a graph from before the step has saved the running statistics, and is back-propagated behind it
    x = ROWS.clone().requires_grad_()
    earlier = F.batch_norm(x, layer.running_mean, layer.running_var).sum()
    accumulate(layer)
    assert all(layer.get_buffer(name) is buffer for name, buffer in before.items())
    assert list(layer.state_dict()) == ["weight", "bias", *BUFFERS]
    assert layer.num_batches_tracked == 1
    earlier.backward()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_low_precision_buffers_keep_their_type(dtype):
    def make():
        return nn.BatchNorm1d(3).to(dtype)

    plain, layer = plain_and_accumulated(make, batch=ROWS.to(dtype))
    assert layer.running_mean.dtype is layer.running_var.dtype is dtype
    assert_same(layer, buffers(plain), rtol=4 * torch.finfo(dtype).eps)


@pytest.mark.parametrize("failure", [ValueError("on the way"), KeyboardInterrupt()])
@pytest.mark.parametrize("where", ["in the layer", "behind it", "in the backward pass"])
def test_a_step_that_fails_leaves_the_statistics_and_no_hook(failure, where):
    class Failing(nn.BatchNorm1d):
        def forward(self, x):
            out = super().forward(x)
            if where == "in the layer":
                count(where)
            return out

    def count(place):
        seen.append(place)  # the probe's are taken back
        if len(seen) == 3:
            raise failure

    layer, seen = Failing(3).double(), []
    before = buffers(layer)
    tensors = dict(layer.named_buffers())

    def forward(x):
        out = layer(x)
        if where == "behind it":
            count(where)
        elif where == "in the backward pass":
            seen.append(where)
            if len(seen) == 3:
                out.register_hook(raising)
        return out

    def raising(_):
        raise failure

    with pytest.raises(type(failure)):
        accumulate(forward)
    assert_same(layer, before, rtol=0.0)
    assert all(layer.get_buffer(name) is buffer for name, buffer in tensors.items())
    assert not layer._forward_hooks
    assert not layer._forward_pre_hooks
    assert not torch.nn.modules.module._global_forward_pre_hooks


def test_a_mistake_that_the_forward_pass_catches_counts_for_nothing():
    layer = nn.BatchNorm1d(3).double()
    plain = copy.deepcopy(layer)
    plain(ROWS)

    def forward(x):
        try:
            layer(x[:, :2])
        except RuntimeError:
            return layer(x)

    accumulate(forward)
    assert layer.num_batches_tracked == 1
    for name in BUFFERS[:2]:
        torch.testing.assert_close(layer.get_buffer(name), plain.get_buffer(name), rtol=1e-9, atol=0.0)


def test_layers_in_eval_mode_and_without_statistics_stay_as_they_are():
    frozen = nn.BatchNorm1d(3).double().eval()
    frozen.running_mean.fill_(2.0)
    bare = nn.BatchNorm1d(3, track_running_stats=False).double()
    before = buffers(frozen)
    expected = frozen(ROWS)
    found = []
    accumulate(lambda x: found.append(frozen(x)) or bare(found[-1]))
    assert_same(frozen, before, rtol=0.0)
    assert (bare.running_mean, bare.running_var, bare.num_batches_tracked) == (None, None, None)
    assert torch.equal(torch.cat(found[-3:]), expected)


def test_a_pass_without_gradients_in_training_mode_counts_too():
    features, head = nn.BatchNorm1d(3).double(), nn.Linear(3, 2).double()
    plain = copy.deepcopy(features)
    plain(ROWS)

    def forward(x):
        with torch.no_grad():
            seen = features(x)
        return head(seen)

    accumulate(forward)
    assert_same(features, buffers(plain))


def test_instance_and_group_norm_are_exact():
    model = nn.Sequential(nn.InstanceNorm2d(3, affine=True), nn.GroupNorm(1, 3)).double()
    accumulate(model, IMAGES)
    assert accum_magic.last_run().verdict == "exact"


class WithoutCount(nn.BatchNorm1d):
    """The forward that many write: it moves the statistics and leaves the counter."""

    def forward(self, x):
        return F.batch_norm(
            x, self.running_mean, self.running_var, self.weight, self.bias, self.training, self.momentum, self.eps
        )


class NewCount(nn.BatchNorm1d):
    """The forward of older releases of PyTorch: a new tensor holds the count."""

    def forward(self, x):
        self.num_batches_tracked = self.num_batches_tracked + 1
        return F.batch_norm(
            x, self.running_mean, self.running_var, self.weight, self.bias, training=True, momentum=self.momentum
        )


class Frozen(nn.BatchNorm1d):
    """The forward of a detection backbone: statistics that were learned elsewhere, in training mode too."""

    def forward(self, x):
        return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, training=False)


@pytest.mark.parametrize("kind", [WithoutCount, NewCount, Frozen])
def test_a_forward_of_the_users_own(kind):
    def make():
        layer = kind(3).double()
        layer.running_mean.fill_(0.5)
        return layer

    outputs = []

    def calls(layer, x):
        outputs.append(layer(x))
        return outputs[-1]

    plain, layer = plain_and_accumulated(make, calls, steps=2)
    assert_same(layer, buffers(plain))
    if kind is Frozen:
        assert torch.equal(torch.cat(outputs[-3:]), outputs[0])


def test_a_model_that_another_one_replaces_in_mid_run_is_found():
    models = [nn.Sequential(nn.BatchNorm1d(3), nn.Linear(3, 2)).double() for _ in range(2)]
    held = list(models)
    plain = copy.deepcopy(models[0])
    plain(ROWS)

    def micro_step(x):
        loss = held[0](x).square().mean()
        return (loss,), (loss,)

    for _ in range(2):  # two folds of a cross-validation
        accum_magic.step(micro_step, {"x": ROWS}, n=3, read=("loss",))
        held.pop(0)
    for model in models:
        assert_same(model[0], buffers(plain[0]))


def test_a_layer_that_only_some_micro_batches_reach_is_found():
    model = nn.ModuleDict({"norm": nn.BatchNorm1d(3), "head": nn.Linear(3, 2)}).double()

    class Skipping(nn.Module):
        def __init__(self):
            super().__init__()
            self.parts = model

        def forward(self, x):
            return self.parts["head"](x if len(x) == 8 else self.parts["norm"](x))

    accumulate(Skipping(), ROWS)  # 8, 8 and 7 samples
    plain = nn.BatchNorm1d(3).double()
    plain(ROWS[16:])
    assert_same(model["norm"], buffers(plain))


def test_a_recomputation_of_the_users_own_counts_as_in_the_plain_cell():
    """`checkpoint` runs the layer again in the backward pass: two updates per step, without the magic too."""
    layer = nn.BatchNorm1d(3).double()
    plain = copy.deepcopy(layer)

    def calls(layer, x):
        return checkpoint(layer, x.clone().requires_grad_(), use_reentrant=False)

    calls(plain, ROWS).square().mean().backward()
    accumulate(lambda x: calls(layer, x))
    assert plain.num_batches_tracked == 2
    assert_same(layer, buffers(plain))


@pytest.mark.parametrize("in_a_thread", [False, True])
def test_a_paused_recomputation_counts_for_nothing(in_a_thread):
    layer = nn.BatchNorm1d(3).double()
    plain = copy.deepcopy(layer)
    plain(ROWS)
    with RunningStatistics() as statistics:
        statistics.find_layers()

        def again(x):
            with statistics.paused():
                layer(x)
                assert statistics.is_paused

        for statistics.micro_batch, piece in enumerate(ROWS.tensor_split(3)):
            layer(piece)
            if in_a_thread:  # as the backward pass of an accelerator is
                thread = threading.Thread(target=again, args=(piece,))
                thread.start()
                thread.join()
            else:
                again(piece)
        assert not statistics.is_paused
    assert layer.num_batches_tracked == 0
    statistics.update()
    assert_same(layer, buffers(plain))


def test_calls_belong_to_the_micro_batch_that_is_named():
    """Chunks of one module call come one after the other, then those of the next."""
    layer = nn.BatchNorm1d(3).double()
    plain = copy.deepcopy(layer)
    plain(ROWS)
    plain(-ROWS)
    with RunningStatistics() as statistics:
        statistics.find_layers()
        for x in (ROWS, -ROWS):
            for statistics.micro_batch, piece in enumerate(x.tensor_split(4)):
                layer(piece)
    statistics.update()
    assert_same(layer, buffers(plain))


def test_replicas_of_data_parallel_are_left_alone():
    layer = nn.BatchNorm1d(3, affine=False).double()
    with RunningStatistics() as statistics:
        statistics.find_layers()
        layer(ROWS[:8])
        replica = layer._replicate_for_data_parallel()  # it shares hooks and buffers with the layer
        replica.weight = replica.bias = None
        thread = threading.Thread(target=replica, args=(ROWS[8:],))
        thread.start()
        thread.join()
        assert layer.num_batches_tracked == 1
    statistics.update()
    assert layer.num_batches_tracked == 2


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.norm = nn.Linear(3, 4), nn.BatchNorm1d(4)

    def forward(self, x):
        return self.norm(self.first(x))


@pytest.mark.parametrize("how", ["module", "in place", "function"])
def test_compiled_code_runs_and_is_said_to_be_approximate(how):
    torch._dynamo.reset()
    model = Net().double()
    if how == "in place":
        model.compile(backend="eager", fullgraph=True)
    called = {
        "module": lambda: torch.compile(model, backend="eager", fullgraph=True),
        "in place": lambda: model,
        "function": lambda: torch.compile(lambda x: model(x), backend="eager", fullgraph=True),  # noqa: PLW0108
    }[how]()
    accumulate(called, ROWS[:21])
    assert "BatchNorm in training mode" in accum_magic.last_run().reasons[0]
    assert model.norm.num_batches_tracked == 3  # its graphs run no hooks


def test_a_run_does_not_keep_the_model_alive():
    model = Net().double()
    alive = weakref.ref(model.norm)
    accumulate(model)
    del model
    gc.collect()
    assert alive() is None


def test_a_network_without_batch_norm_gets_no_hook_on_all_modules():
    model = nn.Linear(3, 2).double()
    seen = []
    accumulate(lambda x: seen.append(dict(torch.nn.modules.module._global_forward_pre_hooks)) or model(x))
    assert not any(seen[-3:])


IN_A_GROUP = """
import torch, torch.distributed as dist
dist.init_process_group("gloo", init_method="tcp://127.0.0.1:0", rank=0, world_size=1)
try:
    torch.nn.SyncBatchNorm(3)(torch.ones(4, 3))
except ValueError as error:
    print(error)
"""


def test_synchronised_layers_in_a_process_group_need_an_accelerator():
    """Why only the layer without a group is compared above."""
    done = subprocess.run([sys.executable, "-c", IN_A_GROUP], capture_output=True, text=True, check=True)
    assert "SyncBatchNorm expected input tensor to be on" in done.stdout
