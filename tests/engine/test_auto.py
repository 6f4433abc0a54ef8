"""`%%accumulate auto` on real cells: the plain cell's result while it still looks for its size, notes, what is kept."""

import re
from array import array

import pytest
import torch
from torch import nn

import accum_magic
from accum_magic.engine import planner
from accum_magic.engine.events import StepDone
from accum_magic.testing import run_accumulated, run_plain

STEP = """\
for x, y in loader:
    optimizer.zero_grad()
    loss = {loss}
    loss.backward()
    optimizer.step()
    losses.append(loss.item())
"""
GAN = """\
for x, z in loader:
    fake = generator(z)
    d_optimizer.zero_grad()
    d_loss = F.softplus(-critic(x)).mean() + F.softplus(critic(fake.detach())).mean()
    d_loss.backward()
    d_optimizer.step()
    optimizer.zero_grad()
    g_loss = F.softplus(-critic(fake)).mean()
    g_loss.backward()
    optimizer.step()
    losses.append((d_loss.item(), g_loss.item()))
"""
FULL_BATCH = """\
for epoch in range(9):
    optimizer.zero_grad()
    loss = F.mse_loss(model(X), Y)
    loss.backward()
    optimizer.step()
    losses.append(loss.item())
"""
LBFGS = """\
def closure():
    optimizer.zero_grad()
    loss = F.mse_loss(model(X), Y)
    loss.backward()
    losses.append(loss.item())
    return loss
for _ in range(2):
    optimizer.step(closure)
"""
CONTRASTIVE = STEP.format(loss="F.cross_entropy(model(x) @ F.normalize(y, dim=1).T, torch.arange(len(x)))")
CLASSES, WIDTH, BATCH = 5, 8, 40


@pytest.fixture(autouse=True)
def nothing_is_known():
    planner._PLANS.clear()


@pytest.fixture(autouse=True)
def float64_in_one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)
    torch.set_num_threads(threads)


def mlp(out=CLASSES):
    return nn.Sequential(nn.Linear(WIDTH, 16), nn.Tanh(), nn.Linear(16, out))


class Reader(nn.Module):
    """A transformer that tells a class per token."""

    def __init__(self):
        super().__init__()
        self.words = nn.Embedding(20, WIDTH)
        self.block = nn.TransformerEncoderLayer(WIDTH, 2, 16, dropout=0.0, batch_first=True)
        self.head = nn.Linear(WIDTH, CLASSES)

    def forward(self, x):
        return self.head(self.block(self.words(x)))


def classes(count=BATCH):
    labels = torch.randint(CLASSES, (count,))
    return labels.masked_fill(torch.rand(count) < 0.4, -100)


def of_classes(*counts):
    return [(torch.randn(count, WIDTH), classes(count)) for count in counts]


def of_tokens(lengths):
    return [(torch.randint(20, (24, n)), torch.randint(CLASSES, (24, n))) for n in lengths]


def notebook(model=mlp, optimizer=torch.optim.Adam, **more):
    torch.manual_seed(0)
    made = model()
    names = {
        "F": nn.functional, "torch": torch, "model": made, "losses": [],
        "optimizer": optimizer(made.parameters(), lr=0.01), "generator": made, "critic": None, **more,
    }  # fmt: skip
    if "GAN" in more:
        names["critic"] = mlp(1)
        names["d_optimizer"] = torch.optim.Adam(names["critic"].parameters(), lr=0.01)
    return {name: value() if name in {"loader", "X", "Y"} else value for name, value in names.items()}


IGNORED = STEP.format(loss="F.cross_entropy(model(x), y)")
SUM = STEP.format(loss="F.cross_entropy(model(x), y, reduction='sum')")
TOKENS = STEP.format(loss="F.cross_entropy(model(x).flatten(0, 1), y.flatten(), ignore_index=0)")
WHOLE = {"model": lambda: mlp(1), "X": lambda: torch.randn(60, WIDTH), "Y": lambda: torch.randn(60, 1)}
PAIRS = {"loader": lambda: [(torch.randn(24, WIDTH), torch.randn(24, CLASSES)) for _ in range(5)]}
IDIOMS = {
    "ignore_index": (IGNORED, {"loader": lambda: of_classes(*[BATCH] * 8)}, ""),
    "sum": (SUM, {"loader": lambda: of_classes(*[BATCH] * 8)}, ""),
    "ragged last batch": (IGNORED, {"loader": lambda: of_classes(BATCH, BATCH, 7) * 4}, ""),
    "dynamic lengths": (TOKENS, {
        "model": Reader, "optimizer": torch.optim.SGD, "loader": lambda: of_tokens([9, 5, 14, 7, 30, 9, 9, 12])}, ""),
    "GAN": (GAN, {"GAN": True, "model": lambda: mlp(WIDTH), "loader": lambda: [
        (torch.randn(BATCH, WIDTH), torch.randn(BATCH, WIDTH)) for _ in range(6)]}, ""),
    "full batch": (FULL_BATCH, WHOLE, ""),
    "closure": (LBFGS, {**WHOLE, "optimizer": torch.optim.LBFGS}, ""),
    "grad-dtype": (IGNORED, {"loader": lambda: of_classes(*[BATCH] * 6)}, "--grad-dtype float32"),
    "noise": (IGNORED, {"loader": lambda: of_classes(*[BATCH] * 6)}, "--noise"),
    "replay": (CONTRASTIVE, PAIRS, ""),
    "SGD by hand": (STEP.format(loss="F.cross_entropy(model(x), y)").replace(
        "    optimizer.zero_grad()\n", "").replace(
        "    optimizer.step()\n",
        "    with torch.no_grad():\n        for p in model.parameters():\n            p -= 0.1 * p.grad\n"
        "            p.grad = None\n"), {"loader": lambda: of_classes(*[BATCH] * 8)}, ""),
    "one sample": (IGNORED.replace("x), y)", "x), y.relu())"), {"loader": lambda: of_classes(1, 1, 1, 1)}, ""),
}  # fmt: skip


def sizes(kind=StepDone):
    """Micro-batches of each step of the last run."""
    return [event.micro_batches for event in accum_magic.last_run().events if isinstance(event, kind)]


def trained(names):
    state = [p for name in ("model", "critic") if names[name] is not None for p in names[name].state_dict().values()]
    return state, names["losses"]


@pytest.mark.parametrize("idiom", IDIOMS)
def test_it_leaves_what_the_plain_cell_leaves(idiom):
    cell, made, options = IDIOMS[idiom]
    plain, ours = notebook(**made), notebook(**made)
    run_plain(cell, plain)
    run_accumulated(cell, ours, "auto", f"{options} --memory 20GiB".strip())
    torch.testing.assert_close(trained(ours), trained(plain), rtol=1e-9, atol=1e-12)
    run = accum_magic.last_run()
    assert run.verdict == "exact"
    if idiom != "one sample":
        assert len(set(sizes())) > 1, "no size was tried but one"
    assert any("auto took" in note for note in run.notes)


def auto(cell, names, options=""):
    """Run a cell, and return its steps' micro-batches and what auto says of them."""
    run_accumulated(cell, names, "auto", options)
    return sizes(), [note for note in accum_magic.last_run().notes if "auto" in note]


def settled(model=mlp, **more):
    """Names of a cell that has run until auto knew its size."""
    names = notebook(model, loader=lambda: of_classes(*[BATCH] * 60), **more)
    run_accumulated(IGNORED, names, "auto")
    assert [plan.search.is_settled for plan in planner._PLANS.values()] == [True]
    names["loader"] = names["loader"][:6]
    return names


# ---------------------------------------------------------------- what it says


def test_the_note_of_a_search_that_has_ended():
    settled()
    [note] = [note for note in accum_magic.last_run().notes if "auto" in note]
    assert re.fullmatch(
        r"line 3: auto took micro-batches of \d+ samples?, the fastest of \d+ sizes; up to 40 fit", note
    )


def test_the_note_of_a_search_that_has_not():
    names = notebook(loader=lambda: of_classes(*[BATCH] * 4))
    _, [note] = auto(IGNORED, names)
    assert re.fullmatch(
        r"line 3: auto took micro-batches of \d+ samples?, the fastest so far of \d+ sizes; up to 40 fit", note
    )


def test_the_note_of_one_step():
    _, [note] = auto(IGNORED, notebook(loader=lambda: of_classes(BATCH)))
    assert note == "line 3: auto was still measuring when the cell ended"


def test_the_note_of_single_samples():
    _, [note] = auto(IGNORED.replace("x), y)", "x), y.relu())"), notebook(loader=lambda: of_classes(*[1] * 9)))
    assert note == "line 3: auto took micro-batches of 1 sample, the only size that was tried; up to 1 fit"


def test_batch_norm_takes_the_most_that_fits():
    def normed():
        return nn.Sequential(nn.Linear(WIDTH, 16), nn.BatchNorm1d(16), nn.Linear(16, CLASSES))

    names = notebook(normed, loader=lambda: of_classes(*[BATCH] * 4))
    counts, [note] = auto(IGNORED, names)
    assert counts == [1] * 4
    assert note == "line 3: auto took the whole batch at once, for it fits"
    assert accum_magic.last_run().verdict == "exact"  # as the plain cell has it


ROWS = array("q", [0, 0])  # samples of all forward passes, the fewest of one; nothing that a probe would put back


class Counted(nn.Module):
    """Counts the samples that it sees, and has room for some at once."""

    def __init__(self, room=10**6):
        super().__init__()
        self.room = room
        ROWS[0], ROWS[1] = 0, room

    def forward(self, x):
        ROWS[0] += len(x)
        ROWS[1] = min(ROWS[1], len(x))
        if len(x) > self.room:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return x


@pytest.mark.parametrize("count", [4, 7, 10, 13])
def test_batch_norm_has_two_samples_in_each_micro_batch(count):
    """Three at once fit."""

    def normed():
        return nn.Sequential(Counted(3), nn.Linear(WIDTH, 16), nn.BatchNorm1d(16), nn.Linear(16, CLASSES))

    counts, _ = auto(IGNORED, notebook(normed, loader=lambda: of_classes(*[count] * 4)))
    assert ROWS[1] == 2
    assert counts[-1] >= -(-count // 3)


class Squeezed(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(WIDTH, CLASSES)

    def forward(self, x):
        return self.layer(x[:, None]).squeeze()


@pytest.mark.parametrize("count", [7, 9, 40])
def test_a_model_that_squeezes_has_two_samples_in_each_micro_batch(count):
    plain, ours = (notebook(Squeezed, loader=lambda: of_classes(*[count] * 5)) for _ in range(2))
    run_plain(IGNORED, plain)
    run_accumulated(IGNORED, ours, "auto")
    torch.testing.assert_close(trained(ours), trained(plain), rtol=1e-9, atol=1e-12)


# ---------------------------------------------------------------- what it remembers


def test_a_second_run_starts_with_what_was_learnt():
    names = settled()
    counts, _ = auto(IGNORED, names)
    assert len(set(counts)) == 1


def test_a_model_made_anew_is_known():
    names = settled()
    counts, _ = auto(IGNORED, notebook(loader=lambda: names["loader"]))
    assert len(set(counts)) == 1


def test_another_model_is_not():
    names = settled()

    def deeper():
        return nn.Sequential(nn.Linear(WIDTH, 16), nn.Tanh(), nn.Linear(16, 16), nn.Tanh(), nn.Linear(16, CLASSES))

    counts, _ = auto(IGNORED, notebook(deeper, loader=lambda: names["loader"]))
    assert len(set(counts)) > 1
    assert len(planner._PLANS) == 2


def test_another_cell_is_not():
    names = settled()
    run_accumulated(SUM, notebook(loader=lambda: names["loader"]), "auto")
    assert len(planner._PLANS) == 2


def test_the_last_plans_are_kept():
    for key in range(40):
        planner.remembered(key, object)
    planner.remembered(10, object)
    planner.remembered(41, object)
    assert [*planner._PLANS] == [9, *range(11, 40), 10, 41]


# ---------------------------------------------------------------- errors


def test_a_step_without_gradients_raises_what_the_plain_cell_raises():
    cell = "with torch.no_grad():\n" + "".join(f"    {line}\n" for line in IGNORED.splitlines())
    errors = []
    for run in (run_plain, lambda cell, names: run_accumulated(cell, names, "auto")):
        with pytest.raises(RuntimeError) as caught:
            run(cell, notebook(loader=lambda: of_classes(BATCH)))
        errors.append(str(caught.value))
    assert errors[0] == errors[1]


def test_a_budget_that_is_used_up_is_refused_before_anything_has_run():
    names = notebook(loader=lambda: of_classes(BATCH))
    before = [p.detach().clone() for p in names["model"].parameters()]
    calls = []
    names["model"].register_forward_hook(lambda *_: calls.append(1))
    with pytest.raises(accum_magic.AccumulateError, match=r"--memory 20MiB is less than what is in use already"):
        run_accumulated(IGNORED, names, "auto", "--memory 20MiB")
    assert not calls
    assert all(map(torch.equal, before, names["model"].parameters()))


# ---------------------------------------------------------------- what it costs


def test_before_the_first_update_the_probe_alone_is_thrown_away():
    """Two samples, three, and one sample twice."""
    names = notebook(lambda: nn.Sequential(Counted(), mlp()), loader=lambda: of_classes(*[BATCH] * 3))
    names["seen"] = []
    run_accumulated(f"{IGNORED}    seen.append(rows[0])\n", {**names, "rows": ROWS}, "auto")
    assert names["seen"][0] - BATCH <= 2 + 3 + 2
    assert names["seen"][1:] == [names["seen"][0] + BATCH, names["seen"][0] + 2 * BATCH]
    assert accum_magic.last_run().verdict == "exact"
