"""Replay beside the plain full batch: losses that compare samples, in float64, equal and ragged chunks."""

import gc
import random
import re

import numpy as np
import pytest
import torch
import transformers
from engine_tools import LiveBytes
from torch import nn
from torch.nn import functional as F  # noqa: N812  as users write it

import accum_magic
from accum_magic import testing
from accum_magic.engine.calls import study_calls
from accum_magic.engine.replay import ChunkedCalls
from accum_magic.engine.run import ApproximateWarning

SAMPLES = 11
STEPS = 2


class Encoder(nn.Module):
    """Has a method that users call in place of the module."""

    def __init__(self):
        super().__init__()
        self.body, self.head = nn.Sequential(nn.Linear(6, 16), nn.Tanh()), nn.Linear(16, 5)

    def encode(self, x, *, scale=1.0):
        return F.normalize(self.head(self.body(x)), dim=1) * scale

    def forward(self, x):
        return {"embedding": self.encode(x), "size": None}


class Centred(nn.Module):
    """A hand-written batch mean between two layers."""

    def __init__(self, width=6):
        super().__init__()
        self.first, self.last = nn.Linear(width, 8), nn.Linear(8, 5)

    def forward(self, x):
        h = self.first(x)
        return self.last(h - h.mean(0))


class WithLoss(nn.Module):
    """Returns its in-batch loss, as CLIP does."""

    def __init__(self):
        super().__init__()
        self.left, self.right = Encoder(), Encoder()
        self.scale = nn.Parameter(torch.tensor(2.0))

    def forward(self, a, b):
        logits = self.left.encode(a) @ self.right(b)["embedding"].T * self.scale.exp()
        return F.cross_entropy(logits, torch.arange(len(a))), logits


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.rnn, self.head = nn.LSTM(6, 7), nn.Linear(7, 5)

    def forward(self, x):
        out, (h, _) = self.rnn(x.unsqueeze(1).expand(-1, 4, -1).transpose(0, 1))
        return self.head(out[-1] + h[0])


CELL = """
for _ in range({steps}):
    opt.zero_grad()
    {forward}
    loss.backward()
    opt.step()
last = loss.item()
"""

FORWARDS = {
    "infonce, called twice": (
        Encoder,
        "a, b = model.encode(x), model.encode(z)\n    loss = F.cross_entropy(a @ b.T / 0.1, torch.arange(len(x)))",
    ),
    "simclr, views concatenated": (
        Encoder,
        (
            "e = model(torch.cat([x, z]))['embedding']\n"
            "    s = (e @ e.T / 0.1).masked_fill(torch.eye(2 * len(x), dtype=torch.bool), -1e9)\n"
            "    loss = F.cross_entropy(s, torch.cat([torch.arange(len(x)) + len(x), torch.arange(len(x))]))"
        ),
    ),
    "loss inside the model": (WithLoss, "loss, logits = model(x, z)"),
    "batch mean inside the model": (Centred, "loss = F.cross_entropy(model(x), y)"),
    "dice": (Encoder, "p = model.encode(x).sigmoid()\n    loss = 1 - 2 * (p * t).sum() / (p.sum() + t.sum())"),
    "rmse": (Recurrent, "loss = torch.sqrt(F.mse_loss(model(x), t))"),
    "the largest error": (Recurrent, "loss = (model(x) - t).abs().max()"),
    "triplets, hardest in batch": (
        Encoder,
        (
            "e = model.encode(x)\n    d = torch.cdist(e, e) + 1e-3\n    same = y[:, None] == y\n"
            "    loss = ((d * same).amax(1) - d.masked_fill(same, 9.0).amin(1) + 0.5).relu().mean()"
        ),
    ),
    "barlow twins": (
        Encoder,
        (
            "a, b = model.encode(x), model.encode(z)\n"
            "    c = ((a - a.mean(0)) / a.std(0)).T @ ((b - b.mean(0)) / b.std(0))\n"
            "    loss = (c / len(x) - torch.eye(5)).square().sum()"
        ),
    ),
    "a helper, a keyword argument, a teacher": (
        Encoder,
        (
            "with torch.no_grad():\n        target = teacher.encode(z)\n"
            "    loss = contrast(model.encode(x, scale=2.0), target)"
        ),
    ),
    "variance of the loss": (
        Encoder,
        "l = F.cross_entropy(model.encode(x), y, reduction='none')\n    loss = l.mean() + l.var()",
    ),
    "compiled": (
        lambda: torch.compile(Recurrent(), backend="eager"),
        "loss = torch.sqrt(F.mse_loss(model(x), t))",
    ),
    "compiled, batch mean inside": (
        lambda: torch.compile(Centred(), backend="eager"),
        "loss = F.cross_entropy(model(x), y)",
    ),
    "a module that writes into its input": (
        lambda: nn.Sequential(nn.Linear(6, 8), nn.ReLU(inplace=True), Centred(8)),
        "loss = F.cross_entropy(model(x), y)",
    ),
    "a criterion that the step makes": (Recurrent, "loss = nn.MSELoss()(model(x), t).sqrt()"),
    "two losses of one graph": (
        Encoder,
        (
            "a = model.encode(x)\n    loss = torch.sqrt(F.mse_loss(a, t))\n    loss.backward(retain_graph=True)\n"
            "    loss = (a @ a.T).logsumexp(1).mean()"
        ),
    ),
}


def contrast(a, b):
    return F.cross_entropy(a @ b.T, torch.arange(len(a)))


def namespace(model_class, seed=0):
    torch.manual_seed(seed)
    model = model_class()
    return {
        "torch": torch, "F": F, "nn": nn, "contrast": contrast, "model": model, "teacher": Encoder(),
        "opt": torch.optim.SGD(model.parameters(), lr=0.1), "x": torch.randn(SAMPLES, 6), "z": torch.randn(SAMPLES, 6),
        "weight": next(model.parameters()), "t": torch.rand(SAMPLES, 5), "y": torch.arange(SAMPLES) % 3,
    }  # fmt: skip


@pytest.fixture(autouse=True)
def float64():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def batch_of(forward):
    """`--batch`, since the tensors that a notebook makes at its top could all be the batch."""
    return "--batch " + ",".join(name for name in "xzty" if re.search(rf"\b{name}\b", forward))


def assert_same(plain, accumulated, rtol=1e-9):
    assert accumulated["last"] == pytest.approx(plain["last"], rel=rtol)
    for (name, theirs), mine in zip(plain["model"].named_parameters(), accumulated["model"].parameters(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=rtol, atol=1e-12, msg=name)
        if theirs.grad is not None:
            torch.testing.assert_close(mine.grad, theirs.grad, rtol=rtol, atol=1e-12, msg=name)


@pytest.mark.parametrize("n", [2, 3, 7])
@pytest.mark.parametrize("name", FORWARDS)
def test_gradients_are_those_of_the_full_batch(name, n):
    model_class, forward = FORWARDS[name]
    cell = CELL.format(steps=STEPS, forward=forward)
    plain, accumulated = namespace(model_class), namespace(model_class)
    testing.run_plain(cell, plain)
    testing.run_accumulated(cell, accumulated, n, batch_of(forward))
    assert_same(plain, accumulated)
    summary = accum_magic.last_run()
    assert summary.verdict == "exact"
    assert any("replayed" in note for note in summary.notes)
    assert summary.micro_batches == n * STEPS


# ---------------------------------------------------------------- both passes of a chunk are the same


class Dropping(nn.Module):
    """Draws from all generators there are: PyTorch's, NumPy's, Python's, and one of its own."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(6, 16), nn.Dropout(0.5), nn.Tanh(), nn.Linear(16, 5))
        self.generator = torch.Generator().manual_seed(3)

    def forward(self, x):
        noise = torch.rand(len(x), 1, generator=self.generator) + random.random() + float(np.random.rand())  # noqa: NPY002 - the global one
        return self.layers(x) * noise


def replayed(model, x, sizes, loss, *, checkpointed):
    """Gradients of one step in chunks, with their activations dropped and computed again, or kept."""
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002 - the global one
    torch.manual_seed(0)
    calls = study_calls(lambda n: loss(model(x[:n])), 2, {"model": model})
    model.zero_grad()
    if checkpointed:
        with ChunkedCalls(calls, sizes):
            value = loss(model(x))
    else:
        value = loss(torch.cat([model(piece) for piece in x.split(sizes)]))
    value.backward(retain_graph=True)
    value.backward()
    drawn = torch.rand(1), random.random(), np.random.rand()  # noqa: NPY002 - the global one
    return [value.detach(), *(p.grad for p in model.parameters())], *drawn


def spread(out):
    return torch.sqrt(out.float().var(0).sum())


@pytest.mark.parametrize("autocast", [False, True])
def test_random_numbers_and_autocast_are_those_of_the_first_pass(autocast):
    torch.manual_seed(0)
    model, x = Dropping(), torch.randn(SAMPLES, 6)
    if autocast:
        model, x = model.float(), x.float()
    found = []
    for checkpointed in (True, False):
        model.generator.manual_seed(3)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
            found.append(replayed(model, x, (4, 4, 3), spread, checkpointed=checkpointed))
    (mine, *drawn), (theirs, *drawn_plainly) = found
    assert drawn == drawn_plainly, "the second pass leaves no trace in the generators"
    for a, b in zip(mine, theirs, strict=True):
        assert torch.equal(a, b)


# ---------------------------------------------------------------- what is asked for, what cannot be


def run(forward, options, model_class=Encoder, n=3):
    names = namespace(model_class)
    testing.run_accumulated(CELL.format(steps=1, forward=forward), names, n, f"{batch_of(forward)} {options}")
    return names, accum_magic.last_run()


def test_never_is_approximate_with_the_reason():
    _, summary = run(FORWARDS["rmse"][1], "--replay never", Recurrent)
    assert summary.verdict == "approximate"
    assert "the square root" in summary.reasons[0]


def test_always_replays_a_mean_too():
    forward = "loss = F.cross_entropy(model.encode(x), y)"
    names, summary = run(forward, "--replay always")
    plain = namespace(Encoder)
    testing.run_plain(CELL.format(steps=1, forward=forward), plain)
    assert_same(plain, names)
    assert any("replayed (asked for)" in note for note in summary.notes)


def test_a_mean_over_samples_is_not_replayed():
    _, summary = run("loss = F.cross_entropy(model.encode(x), y)", "")
    assert not any("replayed" in note for note in summary.notes)


def test_always_without_a_module_is_refused():
    with pytest.raises(
        accum_magic.AccumulateError, match="--replay always finds no module call that can run in chunks"
    ):
        run("loss = (x @ weight.T).square().mean()", "--replay always")


def test_a_step_that_fails_leaves_modules_as_they_were():
    before = nn.Module.__call__
    forward = "e = model.encode(x)\n    if len(x) > 5: raise KeyboardInterrupt\n    loss = torch.sqrt(F.mse_loss(e, t))"
    with pytest.raises(KeyboardInterrupt):
        run(forward, "")
    assert nn.Module.__call__ is before


def clip(samples, layers=2):
    """A CLIP from a configuration, its optimizer, and a batch of images and texts."""
    shape = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": layers, "num_attention_heads": 2}
    text = shape | {"vocab_size": 50, "max_position_embeddings": 8, "bos_token_id": 1, "eos_token_id": 49}
    vision = shape | {"image_size": 16, "patch_size": 4}
    config = transformers.CLIPConfig(text_config=text, vision_config=vision, projection_dim=8)
    torch.manual_seed(0)
    model = transformers.CLIPModel(config).double().train()
    batch = {"input_ids": torch.randint(2, 49, (samples, 8)), "pixel_values": torch.randn(samples, 3, 16, 16)}
    return {"model": model, "batch": batch, "opt": torch.optim.SGD(model.parameters(), lr=0.1)}


CLIP = CELL.format(steps=STEPS, forward="loss = model(**batch, return_loss=True).loss")


@pytest.mark.parametrize("n", [2, 3, 8])
def test_a_hugging_face_clip_with_its_loss_inside(n):
    plain, accumulated = clip(SAMPLES), clip(SAMPLES)
    testing.run_plain(CLIP, plain)
    testing.run_accumulated(CLIP, accumulated, n)
    assert_same(plain, accumulated)
    assert accum_magic.last_run().verdict == "exact"


def test_no_graph_waits_for_the_garbage_collector():
    names = clip(SAMPLES)
    model, batch = names["model"], names["batch"]

    def forward(n):
        return model(**{k: v[:n] for k, v in batch.items()}, return_loss=True)

    forward(2)
    gc.disable()
    try:
        with LiveBytes() as live:
            study_calls(forward, 2, {"model": model})
    finally:
        gc.enable()
    assert live.now_bytes < live.peak_bytes / 3, "each look at the step has let go of its graphs"


def test_clip_in_eight_chunks_needs_a_quarter_of_the_activation_memory():
    plain, accumulated = clip(48, layers=6), clip(48, layers=6)
    gradients = sum(p.nbytes for p in plain["model"].parameters())
    with LiveBytes() as whole:
        testing.run_plain(CLIP, plain)
    with LiveBytes() as chunked:
        testing.run_accumulated(CLIP, accumulated, 8)
    assert chunked.peak_bytes - gradients <= (whole.peak_bytes - gradients) / 4
    said = accum_magic.last_run()
    assert said.activation_bytes <= said.plain_activation_bytes / 4


class BatchAttention(nn.Module):
    """Attends over the samples of the batch, with parameters of its own and no module in it."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(6, 6))

    def forward(self, x):
        return (x @ self.weight @ x.T).softmax(1) @ x


def test_a_module_that_compares_samples_and_holds_no_module_is_refused():
    words = (
        "line 4: `BatchAttention` itself compares the samples of a batch (a matrix product compares samples with each "
        "other: two of its dimensions grow with the batch), and no module in it could run in chunks. Put its layers "
        "into modules of their own, or run the cell approximately with --replay never."
    )
    with pytest.raises(accum_magic.AccumulateError, match=re.escape(words)):
        run("loss = model(x).square().mean()", "", BatchAttention)


def test_beside_modules_that_run_in_chunks_it_runs_whole_and_is_named():
    forward = "loss = F.cross_entropy(model(x), y)"

    def model_class():
        return nn.Sequential(nn.Linear(6, 6), BatchAttention(), nn.Linear(6, 5))

    names, summary = run(forward, "", model_class)
    plain = namespace(model_class)
    testing.run_plain(CELL.format(steps=1, forward=forward), plain)
    assert_same(plain, names)
    assert any(note.startswith("`BatchAttention` runs on the whole batch: a matrix product") for note in summary.notes)


def test_batch_norm_moves_its_running_statistics_once_and_is_named():
    def model_class():
        return nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Linear(8, 5))

    for forward, calls in (
        ("loss = torch.sqrt(F.mse_loss(model(x), t))", 1),
        ("loss = F.cross_entropy(model(x) @ model(z).T, torch.arange(len(x)))", 2),
    ):
        names, summary = run(forward, "", model_class)
        plain = namespace(model_class)
        testing.run_plain(CELL.format(steps=1, forward=forward), plain)
        mine, theirs = names["model"][1], plain["model"][1]
        assert summary.verdict == "approximate"
        assert summary.reasons == ("BatchNorm in training mode (1) normalises each micro-batch by itself",)
        assert mine.num_batches_tracked == theirs.num_batches_tracked == calls
        torch.testing.assert_close(mine.running_mean, theirs.running_mean, rtol=1e-9, atol=1e-12)
        torch.testing.assert_close(mine.running_var, theirs.running_var, rtol=1e-9, atol=1e-12)


def test_a_step_that_has_to_be_replayed_from_some_epoch_on():
    forward = "e = model(x)\n    loss = F.mse_loss(e, t) if _ == 0 else torch.sqrt(F.mse_loss(e, t))"
    cell = CELL.format(steps=3, forward=forward)
    plain, accumulated = namespace(Recurrent), namespace(Recurrent)
    testing.run_plain(cell, plain)
    testing.run_accumulated(cell, accumulated, 3, batch_of(forward))
    assert_same(plain, accumulated)
    assert accum_magic.last_run().verdict == "exact"


def test_a_new_model_in_each_fold_is_measured_anew():
    cell = """
for fold in range(3):
    torch.manual_seed(fold)
    model = Recurrent()
    opt = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(2):
        opt.zero_grad()
        loss = torch.sqrt(F.mse_loss(model(x), t))
        loss.backward()
        opt.step()
last = loss.item()
"""
    plain, accumulated = namespace(Recurrent), namespace(Recurrent)
    plain["Recurrent"] = accumulated["Recurrent"] = Recurrent
    testing.run_plain(cell, plain)
    testing.run_accumulated(cell, accumulated, 3, "--batch x,t")
    assert_same(plain, accumulated)
    assert accum_magic.last_run().micro_batches == 3 * 2 * 3


def test_a_replay_that_stays_approximate_is_warned_of_at_the_users_line():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Linear(8, 5))

    def micro_step(x, t):
        value = F.mse_loss(model(x), t).sqrt()
        return (value,), (value,)

    with pytest.warns(ApproximateWarning, match="BatchNorm in training mode") as caught:
        accum_magic.step(micro_step, {"x": torch.randn(SAMPLES, 6), "t": torch.rand(SAMPLES, 5)}, n=3, read=("loss",))
    assert caught[0].filename == __file__
