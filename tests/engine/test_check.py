"""`--check`: what it finds, and that the notebook is what it was behind it."""

import copy
import random
from dataclasses import replace

import corpus_tools
import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - as everybody writes it
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import accum_magic
from accum_magic import testing
from accum_magic.engine.comparison import DRAWN, SILENCED, CheckResult, Pair, rows_of

NAN = float("nan")
TRAIN = """
for x, y in loader:
    optimizer.zero_grad()
    out = model(x)
    loss = F.cross_entropy(out, y)
    loss.backward()
    optimizer.step()
    seen.append(loss.item())
"""


@pytest.fixture(autouse=True)
def _float64():
    with corpus_tools.float64():
        yield


def notebook(*layers, rows=40, batch_size=20, **more):
    torch.manual_seed(0)
    x, y = torch.randn(rows, 4), torch.randint(0, 3, (rows,))
    model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), *layers, nn.Linear(8, 3))
    return {
        "__name__": "__main__", "torch": torch, "nn": nn, "F": F, "model": model, "seen": [],
        "optimizer": torch.optim.AdamW(model.parameters(), lr=0.1),
        "loader": DataLoader(TensorDataset(x, y), batch_size=batch_size, shuffle=True), **more,
    }  # fmt: skip


def check(cell=TRAIN, names=None, n=4, options=""):
    return testing.run_checked(cell, notebook() if names is None else names, n, options)


def differences(step):
    return {row.name: row.difference for row in step.rows}


# ---------------------------------------------------------------- what it finds


def test_under_auto_it_takes_4_micro_batches():
    result = check(n="auto", options="--memory 99%")
    assert "in 4 micro-batches" in str(result)
    assert [step.micro_batches for step in result.steps] == [4]


def test_an_exact_cell_is_the_same():
    [step] = check().steps
    assert step.is_same
    assert step.largest < 1e-12
    assert (step.samples, step.of_samples, step.micro_batches, step.where) == (8, 20, 4, "line 4")
    names = {"model.0.weight", "model.0.bias", "model.2.weight", "model.2.bias"}
    assert {r.name for r in step.rows if r.kind == "gradient"} == names
    assert [(r.name, r.shape) for r in step.rows if r.kind != "gradient"] in (
        [("out", (8, 3)), ("loss", ())],
        [("loss", ()), ("out", (8, 3))],
    )


@pytest.mark.parametrize(
    ("rows", "n", "options", "expected"),
    [(20, 4, "", (8, 4)), (200, 4, "", (50, 4)), (5, 4, "", (5, 4)), (3, 7, "", (3, 3)), (50, 3, "", (17, 3)),
     (20, 1, "", (20, 1)), (200, None, "--size 50", (50, 4))],
)  # fmt: skip
def test_as_many_samples_as_a_micro_batch_has_and_two_for_each(rows, n, options, expected):
    [step] = check(names=notebook(rows=rows, batch_size=rows), n=n, options=options).steps
    assert (step.samples, step.micro_batches) == expected
    assert step.is_same


def test_single_precision_has_a_tolerance_of_its_own():
    with_float32 = notebook()
    with_float32["model"].float()
    cell = TRAIN.replace("model(x)", "model(x.float())")
    [step] = check(cell, with_float32).steps
    assert step.is_same
    assert step.tolerance == 1e-4
    assert 1e-10 < step.largest < 1e-5
    under = "    with torch.autocast('cpu', torch.bfloat16):\n        out = model(x.float())\n"
    cell = TRAIN.replace("    out = model(x)\n", under)
    [step] = check(cell, with_float32).steps
    assert step.is_same
    assert step.tolerance == 5e-2


class Shifted(nn.Module):
    """What moves all logits of a row alike changes no softmax, so its gradient is zero in theory."""

    def __init__(self):
        super().__init__()
        self.head, self.shift = nn.Linear(4, 100), nn.Parameter(torch.zeros(1))

    def forward(self, x):
        return self.head(x) + self.shift


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_a_gradient_that_is_zero_in_theory_is_no_difference(dtype):
    torch.manual_seed(0)
    names = notebook(batch_size=40) | {"model": Shifted().to(dtype), "dtype": dtype}
    names["optimizer"] = torch.optim.SGD(names["model"].parameters())
    [step] = check(TRAIN.replace("model(x)", "model(x.to(dtype)).float()"), names).steps
    assert step.is_same, step
    assert "model.shift" in differences(step)


class Centred(nn.Module):
    def forward(self, x):
        return x - x.mean(0)


class Balanced(nn.Module):
    """A gate whose auxiliary loss multiplies two means over the batch (Switch transformer, section 2.2)."""

    def __init__(self):
        super().__init__()
        self.gate = nn.Linear(8, 4)
        self.aux = torch.zeros(())

    def forward(self, x):
        shares = self.gate(x).softmax(1)
        self.aux = 4 * (F.one_hot(shares.argmax(1), 4).to(x.dtype).mean(0) * shares.mean(0)).sum()
        return x * shares.amax(1, keepdim=True)


INFO_NCE = """
for x, y in loader:
    optimizer.zero_grad()
    z = F.normalize(model(x), dim=1)
    loss = F.cross_entropy(z @ z.T, torch.arange(len(z)))
    loss.backward()
    optimizer.step()
"""
AUXILIARY = TRAIN.replace("F.cross_entropy(out, y)", "F.cross_entropy(out, y) + 0.1 * model[2].aux")


@pytest.mark.parametrize(
    ("layer", "cell", "named"),
    [
        (nn.Identity, INFO_NCE, "model.0.weight"),
        (lambda: nn.BatchNorm1d(8), TRAIN, "model.2.weight"),
        (Centred, TRAIN, "model.0.weight"),
        (Balanced, AUXILIARY, "model.2.gate.weight"),
    ],
    ids=["InfoNCE", "BatchNorm", "batch mean", "auxiliary loss"],
)
def test_what_couples_the_samples_is_found(layer, cell, named):
    names = notebook(layer())
    result = check(cell, names, options="--replay never")
    assert result.verdict == "different"
    [step] = result.steps
    assert differences(step)[named] > 1e-3
    assert step.remarks()[0].startswith(("approximate: ", "no reason is known: "))
    assert [r.difference for r in step.rows] == sorted((r.difference for r in step.rows), reverse=True)


def test_the_differences_are_those_of_the_two_ways():
    """Beside a full batch and a loop written by hand, for a batch norm."""
    names = notebook(nn.BatchNorm1d(8), rows=8, batch_size=8)
    names["loader"] = [names["loader"].dataset.tensors]
    x, y = names["loader"][0]
    model, found = copy.deepcopy(names["model"]), []
    for parts in (1, 4):
        model.zero_grad()
        for a, b in zip(x.chunk(parts), y.chunk(parts), strict=True):
            (F.cross_entropy(model(a), b) / parts).backward()
        found.append({n: p.grad.clone() for n, p in model.named_parameters()})
    plain, ours = found
    largest = max(g.abs().max() for g in plain.values())
    expected = {
        f"model.{n}": float((plain[n] - ours[n]).abs().max() / max(plain[n].abs().max(), 1e-4 * largest)) for n in plain
    }
    [step] = check(names=names).steps
    rounding = {"model.3.bias"}  # stands behind the norm, so both ways have the same one
    for name in expected.keys() - rounding:
        assert differences(step)[name] == pytest.approx(expected[name], rel=1e-9)


def test_what_has_no_gradient_in_theory_is_measured_against_the_others():
    tiny, large = torch.full((2,), 1e-17), torch.ones(2)
    pairs = [Pair("gradient", "key.bias", tiny, -tiny), Pair("gradient", "weight", large, large)]
    assert [r.difference for r in rows_of(pairs, 1e-4)] == [pytest.approx(2e-13), 0.0]


@pytest.mark.parametrize(
    ("plain", "ours", "expected"),
    [(None, torch.zeros(2), 0.0), (torch.zeros(2), torch.zeros(2), 0.0), (None, torch.ones(2), float("inf")),
     (torch.ones(2), torch.ones(3), float("inf")), (torch.tensor([NAN]), torch.tensor([NAN]), 0.0),
     (torch.ones(1), torch.tensor([NAN]), float("inf")), (torch.tensor([1, 4]), torch.tensor([1, 3]), 0.25)],
)  # fmt: skip
def test_gradients_that_are_missing_or_no_numbers(plain, ours, expected):
    assert rows_of([Pair("gradient", "w", plain, ours)], 1e-4)[0].difference == expected


def test_dropout_is_silent_for_both_ways():
    attention = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.3, batch_first=True)
    names = notebook(nn.Dropout(0.5), nn.Unflatten(1, (1, 8)), attention, nn.Flatten())
    result = check(names=names)
    assert result.verdict == "same"
    assert result.steps[0].notes == (SILENCED,)
    assert (names["model"][2].p, attention.self_attn.dropout) == (0.5, 0.3)


class OwnDropout(nn.Module):
    def __init__(self):
        super().__init__()
        self.drop_rate = 0.5

    def forward(self, x):
        return F.dropout(x, self.drop_rate, self.training)


def test_the_rate_in_a_module_of_the_users_own_is_silent_too_and_no_state_of_the_step():
    names = notebook(OwnDropout())
    [step] = check(names=names).steps
    assert step.is_same
    assert step.notes == (SILENCED,)
    assert names["model"][2].drop_rate == 0.5


def test_the_degree_of_a_norm_is_no_rate():
    cell = """
for x, y in loader:
    optimizer.zero_grad()
    loss = triplet(model(x), model(-x), model(x + 1))
    loss.backward()
    optimizer.step()
    seen.append(triplet.p)
"""
    names = notebook(triplet=nn.TripletMarginLoss(p=1.0))
    result = check(cell, names)
    assert result.verdict == "same"
    assert result.steps[0].notes == ()
    assert names["triplet"].p == 1.0


def test_other_random_numbers_are_named():
    cell = TRAIN.replace("out = model(x)", "out = F.dropout(model(F.dropout(x, 0.5)), 0.5)")
    result = check(cell)
    assert result.verdict == "different"
    assert result.steps[0].notes == (DRAWN,)
    assert f"note: {DRAWN}" in str(result)


# ---------------------------------------------------------------- which steps


GAN = """
for real, _ in loader:
    for _ in range(critics):
        noise = torch.randn(len(real), 2)
        optimizer_d.zero_grad()
        loss_d = D(G(noise).detach()).mean() - D(real).mean()
        loss_d.backward()
        optimizer_d.step()
    optimizer_g.zero_grad()
    loss_g = -D(G(noise)).mean()
    loss_g.backward()
    optimizer_g.step()
"""


def gan(critics):
    torch.manual_seed(0)
    generator = nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 4))
    critic = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1))
    return notebook(
        G=generator, D=critic, critics=critics, optimizer_d=torch.optim.Adam(critic.parameters()),
        optimizer_g=torch.optim.Adam(generator.parameters()),
    )  # fmt: skip


@pytest.mark.parametrize("critics", [1, 5])
def test_a_generator_is_checked_behind_the_updates_of_its_critic(critics):
    names = gan(critics)
    before = copy.deepcopy((names["G"].state_dict(), names["D"].state_dict()))
    result = check(GAN, names)
    assert result.verdict == "same"
    assert [{r.name for r in s.rows if r.kind == "loss"} for s in result.steps] == [{"loss_d"}, {"loss_g"}]
    torch.testing.assert_close((names["G"].state_dict(), names["D"].state_dict()), before, rtol=0, atol=0)
    assert names["optimizer_d"].state_dict()["state"] == {}


def test_a_step_that_never_comes_is_named_and_ends_soon():
    ran = []
    cell = GAN.replace(
        "    optimizer_g.zero_grad()",
        "    ran.append(1)\n    if len(ran) < 90:\n        continue\n    optimizer_g.zero_grad()",
    )
    names = gan(1) | {"loader": [(torch.ones(4, 4), 0)] * 100, "ran": ran}
    result = check(cell, names)
    assert result.verdict == "same"
    assert result.notes == ("1 more of the cell's steps did not run",)
    assert ran == []


def test_a_cell_that_only_defines_what_trains():
    cell = "def train():\n" + "".join(f"    {line}\n" for line in TRAIN.strip().splitlines())
    result = check(cell)
    assert result.verdict == "unchecked"
    assert result.steps == ()
    assert "put --check on the cell that calls it" in str(result)
    assert "`train`" in str(result)


def test_functions_of_other_cells_and_closures():
    body = "".join(f"        {line}\n" for line in TRAIN.strip().splitlines())
    names = notebook()
    testing.run_plain(
        "def make(model, optimizer):\n    calls = 0\n"
        f"    def train():\n        nonlocal calls\n        calls += 1\n{body}"
        "    return train, lambda: calls\ntrain, calls = make(model, optimizer)", names,
    )  # fmt: skip
    code = names["train"].__code__
    result = check("train()\n'never'", names)
    assert result.verdict == "same"
    assert result.steps[0].where.endswith("of `make.<locals>.train`") or "train" in result.steps[0].where
    assert names["calls"]() == 0
    assert names["train"].__code__ is code
    assert names["seen"] == []


def test_the_window():
    [step] = check(options="--window", n=2).steps
    assert step.is_same
    assert (step.samples, step.of_samples, step.micro_batches) == (20, 40, 2)


def test_a_scaler_and_a_clip():
    cell = TRAIN.replace("loss.backward()", "scaler.scale(loss).backward()").replace(
        "optimizer.step()", "scaler.step(optimizer)\n    scaler.update()"
    )
    names = notebook(scaler=torch.amp.GradScaler("cpu", init_scale=1024.0))
    before = names["scaler"].state_dict()
    assert check(cell, names).verdict == "same"
    assert names["scaler"].state_dict() == before
    assert names["scaler"]._scale is None  # it is made when first used


# ---------------------------------------------------------------- everything is put back


def everything(names):
    """What training may change, deep."""
    model, optimizer = names["model"], names["optimizer"]
    random_states = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()  # noqa: NPY002
    gradients = [None if p.grad is None else p.grad.clone() for p in model.parameters()]
    held = {
        k: v
        for k, v in names.items()
        if isinstance(v, list | dict | int | float | torch.Tensor) and k != "__builtins__"
    }
    return copy.deepcopy((model.state_dict(), optimizer.state_dict(), gradients, random_states, held))


def assert_as_before(before, names, bound):
    torch.testing.assert_close(everything(names), before, rtol=0, atol=0, equal_nan=True)
    assert list(names) == bound
    assert not any("accum" in name or "micro_step" in name for name in names)


STATEFUL = """
import math
random.random(), np.random.rand(), torch.rand(1)
lr = 3.0
history = {**history, "new": []}
history["epochs"].append(0)
counts["steps"] += 1
optimizer.param_groups[0]["lr"] = lr
model.train()
for epoch in range(2):
    for i, (x, y) in enumerate(loader):
        x = x + 0.01 * torch.randn_like(x)
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        scheduler.step()
        seen.append(loss.item())
    del y
"""


def stateful():
    names = notebook(
        nn.BatchNorm1d(8), nn.Dropout(0.5), history={"epochs": []}, counts={"steps": 0}, np=np, random=random, i=7,
        lr=0.1, y=0.5,
    )  # fmt: skip
    names["scheduler"] = torch.optim.lr_scheduler.OneCycleLR(names["optimizer"], max_lr=0.1, total_steps=50)
    corpus_tools.seed(3)
    return names


@pytest.mark.parametrize("trained_before", [False, True])
def test_all_state_is_put_back_and_training_goes_on_as_if_nothing_had_been(trained_before):
    names, untouched = stateful(), stateful()
    states = []
    for one in (names, untouched):
        corpus_tools.seed(3)
        if trained_before:
            testing.run_accumulated(STATEFUL, one, 2)
        before, bound = everything(one), list(one)
        if one is names:
            check(STATEFUL, names)
            assert_as_before(before, names, bound)
        testing.run_accumulated(STATEFUL, one, 3)
        states.append(everything(one))
    torch.testing.assert_close(*states, rtol=0, atol=0)


ERRORS = [ValueError("of the user"), KeyboardInterrupt("stop"), torch.OutOfMemoryError("no room")]


@pytest.mark.parametrize("error", ERRORS)
@pytest.mark.parametrize("call", [1, 2, 4, 7], ids="call{}".format)
def test_an_error_or_an_interrupt_is_shown_and_all_is_put_back(error, call):
    """In the plain way, in the probe, in the micro-batches."""
    calls = []

    class Fails(nn.Module):
        def forward(self, x):
            calls.append(1)
            if len(calls) >= call:
                raise error
            return x

    Fails.__module__ = "torch.nn.elsewhere"  # or `calls` is put back as well
    names = notebook(Fails(), nn.BatchNorm1d(8))
    before, bound = everything(names), list(names)
    with pytest.raises((type(error), accum_magic.AccumulateError), match=str(error)):
        check(names=names)
    assert len(calls) >= call
    assert_as_before(before, names, bound)
    assert nn.modules.module._global_forward_pre_hooks == {}


def test_the_users_own_handlers_do_not_keep_the_cell_going_but_finally_runs():
    cell = "try:\n" + "".join(f"    {line}\n" for line in TRAIN.strip().splitlines())
    cell += "except Exception:\n    seen.append('caught')\nfinally:\n    log.write('finally')\nseen.append('behind')\n"
    written = []
    names = notebook(log=type("Log", (), {"write": staticmethod(written.append), "__module__": "elsewhere"}))
    assert check(cell, names).verdict == "same"
    assert written == ["finally"]
    assert names["seen"] == []


def test_last_run_tells_of_the_last_real_run():
    testing.run_accumulated(TRAIN, notebook(), 2)
    before = accum_magic.last_run()
    check()
    after = accum_magic.last_run()
    assert (after.micro_batches, after.losses) == (before.micro_batches, before.losses)


def test_a_graph_from_before_the_step_is_not_used_up():
    cell = """
for x, y in loader:
    weights = torch.softmax(alpha, 0)
    first, second = weights[0], weights[1]
    out = first * model(x) + second * other(x)
    loss = F.cross_entropy(out, y)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    seen.append(alpha.grad.norm())
    loss = F.cross_entropy(model(x), y)
    loss.backward()
"""
    names = notebook(alpha=torch.zeros(2, requires_grad=True), other=nn.Linear(4, 3))
    first, second = check(cell, names).steps
    assert first.is_same
    assert second.is_same
    assert {"first", "second", "other.weight"} <= {row.name for row in first.rows}
    assert names["alpha"].grad is None


# ---------------------------------------------------------------- iterators


NEXT = "x, y = next(it)\nloss = F.cross_entropy(model(x), y)\nloss.backward()\noptimizer.step()\n"


def test_an_iterator_is_refused_before_anything_runs():
    names = notebook()
    names["it"] = iter(names["loader"])
    with pytest.raises(accum_magic.AccumulateError) as refused:
        check("seen.append(1)\n" + NEXT, names)
    assert str(refused.value) == (
        "line 2: `it` is an iterator (_SingleProcessDataLoaderIter). What --check takes from it could not be put "
        "back, and training would go on behind it. Make it in this cell, as `iter(loader)` does, loop over the loader "
        "itself, or run the cell without --check."
    )
    assert names["seen"] == []
    assert len(list(names["it"])) == 2


def test_one_that_a_helper_reads_is_refused_too():
    names = notebook()
    names["source"] = iter(names["loader"])
    testing.run_plain("def batch():\n    return next(source)", names)
    with pytest.raises(accum_magic.AccumulateError, match="a function of this cell reads an iterator: `source` is"):
        check(NEXT.replace("next(it)", "batch()"), names)
    assert len(list(names["source"])) == 2


@pytest.mark.parametrize(
    "cell",
    ["it = iter(loader)\n" + NEXT, "for it in [iter(loader)]:\n    pass\n" + NEXT,
     TRAIN.replace("out = model(x)", "model.it = 1\n    out = model(x)"),
     "def f(it):\n    return next(it)\nx, y = f(iter(loader))\n" + NEXT.partition("\n")[2]],
    ids=["made anew", "loop variable", "an attribute", "a parameter"],
)  # fmt: skip
def test_one_that_the_cell_does_not_go_on_with_is_none(cell):
    names = notebook(it=iter([1]))
    assert check(cell, names).verdict == "same"
    assert list(names["it"]) == [1]


# ---------------------------------------------------------------- how it is told


def test_the_table_names_the_worst_first_and_says_how_many_more():
    result = check(names=notebook(*(nn.Linear(8, 8) for _ in range(8)), nn.BatchNorm1d(8)))
    heading, line, *rows, rest, reason = str(result).splitlines()
    assert heading == "accum_magic: different · nothing was trained, all state is as it was"
    assert line.startswith("line 4: different · 8 of 20 samples at once and in 4 micro-batches · largest relative")
    assert line.endswith("(rounding: up to 1e-09)")
    assert len(rows) == 12
    assert rest == "  and 12 more, none further apart"
    assert reason.startswith("  approximate: BatchNorm in training mode (10)")


def test_html_shows_the_same_rows_and_escapes():
    result = check()
    page = result._repr_html_()
    assert all(f"<td>{row.name}</td><td>{row.shape}</td>" in page for row in result.steps[0].rows)
    assert "&lt;b&gt;" in CheckResult((), ("<b>",))._repr_html_()


def test_a_difference_without_a_reason_is_said():
    step = check().steps[0]
    row = replace(step.rows[0], difference=0.5)
    told = str(CheckResult((replace(step, rows=(row,)),), ()))
    assert told.endswith("  no reason is known: a run would call this step exact")
