"""What a cell changes through its names is put back: values, places in memory, attributes, random states."""

import random
import sys
from collections import Counter, OrderedDict, defaultdict, deque
from dataclasses import dataclass
from types import ModuleType

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import accum_magic
from accum_magic.engine.snapshot import Snapshot


@pytest.fixture(autouse=True)
def _users_own(monkeypatch):
    """The classes of this file are a user's: as if they stood in a notebook."""
    for kind in (Meter, Slotted, Frozen, Counted, Endless):
        monkeypatch.setattr(kind, "__module__", "__main__")


class Meter:
    def __init__(self):
        self.total, self.seen = 0.0, []


class Slotted:
    __slots__ = ("count", "later")

    def __init__(self):
        self.count = 1


@dataclass(frozen=True, slots=True)
class Frozen:
    values: list


class Counted:
    made = 0


class Endless:
    """An iterator in Python: where it stands is an attribute."""

    def __init__(self):
        self.place = 0

    def __iter__(self):
        return self

    def __next__(self):
        self.place += 1
        return self.place


def undone(code, **names):
    """Run code on names between a snapshot and its end."""
    snap = Snapshot(names, list(names))
    with snap:
        exec(code, names)
    names.pop("__builtins__", None)
    return names, snap


@pytest.mark.parametrize(
    ("value", "code"),
    [
        ([1, [2]], "v.append(3); v[1].clear()"),
        ({"a": 1, "b": {}}, "del v['a']; v['b']['c'] = 1; v['d'] = 2"),
        (OrderedDict(a=1, b=2), "v.move_to_end('a'); v.pop('b')"),
        (Counter("aab"), "v.update('abc'); v.clear()"),
        (defaultdict(list, a=[1]), "v['b'].append(1); v['a'].append(2)"),
        (deque([1, 2], maxlen=2), "v.append(3)"),
        ({1, 2}, "v.add(3); v.discard(1)"),
        (bytearray(b"ab"), "v[0] = 0"),
        (([1],), "v[0].append(2)"),
    ],
    ids=lambda v: type(v).__name__ if not isinstance(v, str) else "",
)
def test_containers_hold_what_they_held_in_their_order(value, code):
    before, told = value, repr(value)
    names, _ = undone(code, v=value)
    assert names["v"] is before
    assert repr(names["v"]) == told


def test_names_are_bound_as_before():
    first, second = object(), object()
    names, _ = undone("b = 1; del a; c = 2\nfor i in range(3): pass", a=first, b=second)
    assert names == {"a": first, "b": second}
    assert list(names) == ["a", "b"]


def test_objects_with_attributes_and_slots():
    meter, slotted, frozen = Meter(), Slotted(), Frozen([1])
    undone("m.total = 5; m.seen.append(1); m.new = 2; s.count = 7; s.later = 3; f.values.append(2)", m=meter, s=slotted,
           f=frozen)  # fmt: skip
    assert vars(meter) == {"total": 0.0, "seen": []}
    assert (slotted.count, hasattr(slotted, "later"), frozen.values) == (1, False, [1])


def test_class_attributes_and_those_of_a_users_module(monkeypatch):
    module = ModuleType("a_users_module")
    exec("count = 0\ndef up():\n    global count\n    count += 1", vars(module))
    monkeypatch.setitem(sys.modules, module.__name__, module)
    undone("K.made += 1; K.new = 1; mod.up(); mod.extra = 1", K=Counted, mod=module)
    assert Counted.made == 0
    assert not hasattr(Counted, "new")
    assert module.count == 0
    assert not hasattr(module, "extra")


def test_what_functions_reach_closures_globals_defaults():
    names = {"__name__": "__main__"}
    exec(
        "total, log = 0, []\n"
        "def make():\n    count = 0\n    def up(kept=[]):\n        nonlocal count\n        global total\n"
        "        count += 1; total += 1; log.append(1); kept.append(1)\n        return count, total, len(kept)\n"
        "    return up\nup = make()",
        names,
    )
    with Snapshot(names, ["up"]):
        assert names["up"]() == (1, 1, 1)
    assert names["log"] == []
    assert names["up"]() == (1, 1, 1)


# ---------------------------------------------------------------- tensors


def test_tensors_keep_their_place_in_memory_and_hold_the_old_values():
    parameter, plain = nn.Parameter(torch.ones(3)), torch.tensor([1.0, float("nan")])
    places, versions = (parameter.data_ptr(), plain.data_ptr()), (parameter._version, plain._version)
    parameter.grad = gradient = torch.full((3,), 2.0)
    undone(
        "p.data = torch.zeros(5); p.grad = None; g += 1; v.mul_(2); v.data.add_(1)",
        p=parameter, g=gradient, v=plain, torch=torch,
    )  # fmt: skip
    assert (parameter.data_ptr(), plain.data_ptr()) == places
    assert (parameter._version, plain._version) == versions
    assert parameter.tolist() == [1, 1, 1]
    assert parameter.grad is gradient
    assert gradient.tolist() == [2, 2, 2]
    torch.testing.assert_close(plain, torch.tensor([1.0, float("nan")]), equal_nan=True, rtol=0, atol=0)


def test_a_graph_from_before_can_still_run_backward():
    weight = torch.ones(3, requires_grad=True)
    loss = (weight * weight).sum()
    undone("with torch.no_grad(): w.mul_(2)", w=weight, torch=torch)
    loss.backward()
    assert weight.grad.tolist() == [2, 2, 2]


def test_what_trains_and_the_hooks_on_it():
    model = nn.Linear(2, 1)
    made = torch.zeros(2)
    undone(
        "m.weight.requires_grad_(False); m.bias.register_hook(lambda g: g * 0)\n"
        "m.register_forward_hook(lambda *a: None); m.eval(); m.extra = torch.nn.Linear(1, 1)\n"
        "b += m.bias.detach(); b += w * 2",
        m=model, b=made, w=torch.ones(2, requires_grad=True), torch=torch,
    )  # fmt: skip
    assert model.weight.requires_grad
    assert model.training
    assert len(model._forward_hooks) == 0
    assert dict(model.named_children()) == {}
    assert made.is_leaf
    assert made.tolist() == [0, 0]
    model(torch.ones(1, 2)).sum().backward()
    assert model.bias.grad.tolist() == [1]


def test_arrays_also_such_as_a_large_one_that_only_reads(tmp_path):
    path = tmp_path / "data.npy"
    np.save(path, np.full(4, np.nan))
    mapped = np.load(path, mmap_mode="r")
    with pytest.warns(UserWarning, match="not writable"):
        shared = torch.from_numpy(mapped)
    counts, boxed = np.zeros(3), np.array([[], {}], dtype=object)
    undone("c += 1; o[0].append(1)", c=counts, o=boxed, m=mapped, t=shared)  # writing into it would end the process
    assert counts.tolist() == [0, 0, 0]
    assert boxed.tolist() == [[], {}]


def test_what_is_too_large_to_be_copied_is_said_if_it_was_written_into():
    big, weight = torch.zeros(1000), nn.Parameter(torch.zeros(1000))
    snap = Snapshot({"big": big, "w": weight}, ["big", "w"], _budget=100)
    with snap:
        big[0] = 1
        weight.data[0] = 1
    assert snap.notes == ["`big` (0.0 GiB) was written into and is too large to be copied beforehand"]
    assert weight[0] == 0  # what trains is always copied


def test_a_lazy_layer_is_refused_since_it_could_not_be_put_back():
    with pytest.raises(accum_magic.AccumulateError, match="Call the model once on a batch, above this cell"):
        Snapshot({"m": nn.Sequential(nn.LazyLinear(2))}, ["m"])


# ---------------------------------------------------------------- training


def assert_unchanged(before, after):
    assert len(before) == len(after)
    for one, other in zip(before, after, strict=True):
        assert torch.equal(one, other) if isinstance(one, torch.Tensor) else one == other


def leaves_of(*holders):
    return [
        leaf.clone() if isinstance(leaf, torch.Tensor) else leaf
        for holder in holders
        for leaf in torch.utils._pytree.tree_leaves(holder.state_dict())
    ]


@pytest.mark.parametrize("steps_before", [0, 2])
def test_optimizer_scheduler_scaler_and_averages(steps_before):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 1))
    names = {
        "model": model,
        "opt": (opt := torch.optim.AdamW(model.parameters(), lr=0.1)),
        "sched": (sched := torch.optim.lr_scheduler.OneCycleLR(opt, max_lr=1.0, total_steps=20)),
        "scaler": (scaler := torch.amp.GradScaler("cpu", init_scale=8.0, growth_interval=1)),
        "ema": (ema := torch.optim.swa_utils.AveragedModel(model)),
        "x": torch.randn(8, 3),
    }
    step = (
        "opt.zero_grad(); scaler.scale(model(x).square().mean()).backward(); scaler.step(opt); scaler.update()\n"
        "sched.step(); ema.update_parameters(model)"
    )
    for _ in range(steps_before):
        exec(step, names)
    identities = [id(t) for state in opt.state.values() for t in state.values()]
    before = leaves_of(model, opt, sched, scaler, ema)
    gradients = [None if p.grad is None else p.grad.clone() for p in model.parameters()]
    with Snapshot(names, ["model", "opt", "sched", "scaler", "ema", "x"]):
        exec(step, names)
        exec(step + "\nopt.add_param_group({'params': [torch.nn.Parameter(x)]})", {**names, "torch": torch})
        assert not torch.equal(before[0], model[0].weight)
    assert_unchanged(before, leaves_of(model, opt, sched, scaler, ema))
    assert identities == [id(t) for state in opt.state.values() for t in state.values()]
    for gradient, parameter in zip(gradients, model.parameters(), strict=True):
        assert (gradient is None) == (parameter.grad is None)
        assert gradient is None or torch.equal(gradient, parameter.grad)


def test_random_states_of_every_kind():
    own = {"t": torch.Generator().manual_seed(1), "n": np.random.default_rng(1), "p": random.Random(1),
           "r": np.random.RandomState(1)}  # fmt: skip
    draw = "[torch.rand(2).tolist(), np.random.rand(), random.random(), torch.rand(1, generator=t).item(), n.random(), "
    draw += "p.random(), r.rand()]"
    names = {**own, "torch": torch, "np": np, "random": random}
    with Snapshot(names, list(names)):
        drawn = eval(draw, names)  # noqa: S307 - the line above
        torch.set_default_dtype(torch.float64)
        torch.set_grad_enabled(False)
    assert eval(draw, names) == drawn  # noqa: S307
    assert torch.get_default_dtype() is torch.float32
    assert torch.is_grad_enabled()


def test_a_loader_that_keeps_its_workers_keeps_those_it_had():
    loader = DataLoader(TensorDataset(torch.arange(8)), batch_size=2, num_workers=1, persistent_workers=True)
    for _ in loader:
        pass
    workers = loader._iterator
    with Snapshot({"loader": loader}, ["loader"]):
        assert next(iter(loader))[0].tolist() == [0, 1]
        assert loader._iterator is not workers
    assert loader._iterator is workers
    assert [x.tolist() for (x,) in loader] == [[0, 1], [2, 3], [4, 5], [6, 7]]


# ---------------------------------------------------------------- iterators


@pytest.mark.parametrize(
    "make",
    [lambda: iter([1]), lambda: (i for i in [1]), lambda: enumerate([1]), lambda: zip([1]), lambda: map(str, [1]),
     lambda: iter(DataLoader(torch.arange(3)))],
)  # fmt: skip
def test_iterators_are_found_where_the_user_keeps_them(make):
    meter = Meter()
    meter.source = make()
    names = {"it": make(), "meter": meter, "state": {"it": make()}}
    found = Snapshot(names, list(names)).one_shot
    assert sorted(one.label for one in found) == ["it", "meter.source", "state['it']"]


def test_files_and_iterators_in_python_are_none(tmp_path):
    with (tmp_path / "log").open("w") as log:
        endless = Endless()
        names = {"log": log, "endless": endless, "loader": DataLoader(torch.arange(3)), "r": range(3)}
        snap = Snapshot(names, list(names))
    assert snap.one_shot == []
    with snap:
        next(endless)
    assert endless.place == 0


def test_an_interrupt_while_things_are_put_back_does_not_leave_half_of_them():
    names, asked = {"v": [1]}, []
    snap = Snapshot(names, ["v"])

    def undo():
        asked.append(1)
        if len(asked) == 1:
            raise KeyboardInterrupt

    snap._undo.insert(0, undo)

    def change():
        with snap:
            names["v"].append(2)

    with pytest.raises(KeyboardInterrupt):
        change()
    assert names == {"v": [1]}


def test_what_cannot_be_put_back_is_said_and_keeps_nothing_else_from_it(monkeypatch):
    class Stubborn(type):
        def __setattr__(cls, name, value):
            if name in vars(cls):
                raise TypeError(f"{name} stays as it is")
            super().__setattr__(name, value)

    monkeypatch.setattr(Stubborn, "__module__", "__main__")
    kind = Stubborn("Kind", (), {"values": 1, "__module__": "__main__"})
    names, snap = undone("type.__setattr__(K, 'values', 2); v.append(1)", K=kind, v=[])
    assert snap.notes == ["something could not be put back: TypeError('values stays as it is')"]
    assert names["v"] == []
