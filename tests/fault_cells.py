"""Small cells, one of each kind of step, that must survive an out-of-memory error at any operation."""

import random

import torch
from fault_tools import Faulty
from torch import nn
from torch.nn import functional as F  # noqa: N812  as users write it
from torch.utils.checkpoint import checkpoint

STEP = """
for x, y in batches:
    opt.zero_grad()
    {forward}
    loss.backward()
    opt.step()
    losses.append(loss.item())
"""
READ = STEP + "    outs.append(out.clone())\n"
STEPS = 2


def step(*lines, cell=STEP):
    return cell.format(forward="\n    ".join(lines))


def sgd(model, **options):
    return torch.optim.SGD(model.parameters(), lr=0.1, **({"momentum": 0.9} | options))


def data(*shape, samples=7, classes=3):
    return [(torch.randn(samples, *shape).double(), torch.randint(classes, (samples,))) for _ in range(STEPS)]


def mlp(*, dtype=torch.float64, last=3):
    return nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, last)).to(dtype)


def plain():
    model = mlp()
    return {"model": model, "opt": sgd(model), "batches": data(4)}


def two_numbers(names=None):
    names = names or plain()
    model = names["model"]
    model.scale, model.shift = (nn.Parameter(torch.zeros(1, dtype=torch.float64)) for _ in range(2))
    return {**names, "opt": sgd(model)}


class Tied(nn.Module):
    """A transformer block between an embedding and its transpose."""

    def __init__(self, **options):
        super().__init__()
        self.embed = nn.Embedding(7, 4, **options)
        self.block = nn.TransformerEncoderLayer(4, 1, 4, dropout=0.0, batch_first=True)

    def forward(self, x):
        return self.block(self.embed(x)) @ self.embed.weight.T


def transformer():
    model = Tied().double()
    batches = [(torch.randint(7, (4, 3)), torch.randint(7, (4, 3))) for _ in range(STEPS)]
    return {"model": model, "opt": torch.optim.Adam(model.parameters(), lr=0.01), "batches": batches}


def ignored():
    model = mlp()
    batches = data(4, samples=6)
    for _, y in batches:
        y[1:3] = -100
    return {"model": model, "opt": sgd(model), "batches": batches}


class ReturnsLoss(nn.Module):
    """Shifts its labels itself: their number is read from the graph, and all gradients are rescaled at the end."""

    def __init__(self):
        super().__init__()
        self.embed, self.head = nn.Embedding(7, 4), nn.Linear(4, 7)

    def forward(self, x, labels):
        logits = self.head(self.embed(x))
        return F.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), ignore_index=-100), logits


def shifted():
    model = ReturnsLoss().double()
    batches = [(torch.randint(7, (6, 4)), torch.randint(7, (6, 4))) for _ in range(STEPS)]
    for _, y in batches:
        y[0, 2:] = y[3, 1:] = -100
    return {"model": model, "opt": sgd(model), "batches": batches}


class Recurrent(nn.Module):
    """An LSTM with a head."""

    def __init__(self):
        super().__init__()
        self.rnn, self.head = nn.LSTM(3, 4, batch_first=True), nn.Linear(4, 3)

    def forward(self, x):
        return self.head(self.rnn(x)[0][:, -1])


def lstm():
    model = Recurrent().double()
    return {"model": model, "opt": sgd(model), "batches": data(2, 3)}


def gan():
    g, d = (nn.Sequential(nn.Linear(i, 4), nn.Tanh(), nn.Linear(4, o)).double() for i, o in ((2, 3), (3, 1)))
    return {
        "G": g, "D": d, "opt_g": sgd(g), "opt_d": torch.optim.Adam(d.parameters(), lr=0.1),
        "batches": torch.randn(8, 3).double().split(4), "bce": nn.BCEWithLogitsLoss(),
    }  # fmt: skip


GAN = """
for real in batches:
    ones, zeros = torch.ones(len(real), 1).double(), torch.zeros(len(real), 1).double()
    fake = G(torch.randn(len(real), 2, dtype=torch.float64))
    opt_d.zero_grad()
    loss_d = bce(D(real), ones) + bce(D(fake.detach()), zeros)
    loss_d.backward()
    opt_d.step()
    opt_g.zero_grad()
    loss_g = bce(D(fake), ones)
    loss_g.backward()
    opt_g.step()
    losses.append(loss_d.item() + loss_g.item())
"""


def normalised():
    model = nn.Sequential(nn.BatchNorm1d(4), nn.Linear(4, 3)).double()
    return {"model": model, "opt": sgd(model), "batches": data(4, samples=8)[:1]}


def pairs():
    model = mlp()
    batches = [(torch.randn(6, 4).double(), torch.randn(6, 4).double()) for _ in range(STEPS)]
    return {"model": model, "opt": sgd(model), "batches": batches}


def narrow():
    model = mlp(dtype=torch.bfloat16)
    return {"model": model, "opt": sgd(model), "batches": [(x.bfloat16(), y) for x, y in data(4)]}


def padded():
    model = ReturnsLoss().double()
    lengths = (3, 5, 4, 3)
    return {
        "model": model, "opt": sgd(model),
        "batches": [(torch.randint(7, (3, k)), torch.randint(7, (3, k))) for k in lengths],
    }  # fmt: skip


def with_gradients():
    names = plain()
    for parameter in names["model"].parameters():
        parameter.grad = torch.full_like(parameter, 0.5)
    return names


class Checkpointed(nn.Module):
    """A layer that several checkpointed blocks share: each of them adds to its gradient, in one backward."""

    def __init__(self, *, is_reentrant):
        super().__init__()
        self.first, self.shared, self.head = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 3)
        self.is_reentrant = is_reentrant

    def block(self, h):
        return torch.tanh(self.shared(h))

    def forward(self, x):
        h = self.first(x)
        for _ in range(3):
            h = checkpoint(self.block, h, use_reentrant=self.is_reentrant)
        return self.head(h + self.shared(h))


def checkpointed(*, is_reentrant):
    model = Checkpointed(is_reentrant=is_reentrant).double()
    return {"model": model, "opt": sgd(model), "batches": data(4, samples=4)}


def reentrant_and_two_numbers():
    return two_numbers(checkpointed(is_reentrant=True))


def hooked():
    names = plain()
    first, *_, last = names["model"].parameters()
    first.register_hook(lambda gradient: 2 * gradient)
    last.register_post_accumulate_grad_hook(reads_the_sum)
    return names


def reads_the_sum(parameter):
    parameter.grad.sum()


class Draws(nn.Module):
    """Draws numbers one by one, so that a batch in any pieces draws the same."""

    def __init__(self):
        super().__init__()
        self.body, self.head, self.own = nn.Linear(4, 6), nn.Linear(6, 3), torch.Generator().manual_seed(3)

    def forward(self, x):
        h = torch.tanh(self.body(x))
        h = h * torch.rand_like(h) * torch.rand(h.shape, dtype=h.dtype, generator=self.own)
        return self.head(h) * torch.tensor([[random.random()] for _ in x], dtype=h.dtype)


def drawing():
    random.seed(0)
    model = Draws().double()
    return {"model": model, "opt": sgd(model), "batches": data(4), "draw": random.random}


def dropping():
    model = nn.Sequential(nn.Linear(4, 6), nn.Dropout(0.5), nn.Linear(6, 3)).double()
    return {"model": model, "opt": sgd(model), "batches": data(4)}


class Counts(nn.Module):
    """Counts samples in a buffer, and adds up what it has seen."""

    def __init__(self):
        super().__init__()
        self.body = mlp()
        self.register_buffer("seen", torch.zeros(()))
        self.register_buffer("total", torch.zeros(4, dtype=torch.float64))

    def forward(self, x):
        with torch.no_grad():
            self.seen += len(x)
            self.total.add_(x.sum(0))
        return self.body(x)


def counting():
    model = Counts()
    return {"model": model, "opt": sgd(model), "batches": data(4)}


class Experts(nn.Module):
    """Some experts get no sample of a micro-batch: their parameters are in no graph of it."""

    def __init__(self):
        super().__init__()
        self.experts, self.head = nn.ModuleList(nn.Linear(4, 4) for _ in range(3)), nn.Linear(4, 3)

    def forward(self, x):
        chosen, h = x[:, :3].argmax(1), torch.zeros_like(x)
        for index, expert in enumerate(self.experts):
            if (chosen == index).any():
                h = h + expert(x) * (chosen == index).unsqueeze(1)
        return self.head(h)


def routed():
    model = Experts().double()
    return {"model": model, "opt": sgd(model), "batches": data(4)}


class Sparse(nn.Module):
    """An embedding whose gradient is sparse."""

    def __init__(self):
        super().__init__()
        self.embed, self.head = nn.Embedding(7, 4, sparse=True), nn.Linear(4, 3)

    def forward(self, x):
        return self.head(self.embed(x).mean(1))


def sparse():
    model = Sparse().double()
    batches = [(torch.randint(7, (7, 3)), torch.randint(3, (7,))) for _ in range(STEPS)]
    return {"model": model, "opt": sgd(model, momentum=0.0), "batches": batches}


def weighted():
    names = plain()
    alpha = torch.randn(3, dtype=torch.float64, requires_grad=True)
    return {**names, "alpha": alpha, "opt": torch.optim.SGD([*names["model"].parameters(), alpha], lr=0.1)}


def scaled():
    return {**plain(), "scaler": torch.amp.GradScaler("cpu", init_scale=1024.0)}


OUT = ("out = model(x)", "loss = F.cross_entropy(out, y)")
CLIPPED = STEP.replace("opt.step()", "torch.nn.utils.clip_grad_norm_(model.parameters(), 0.5)\n    opt.step()")
TWICE = STEP.replace("loss.backward()", "first.backward(retain_graph=True)\n    second.backward()")
APART = STEP.replace("loss.backward()", "first.backward()\n    second.backward()")
SCALED = STEP.replace("loss.backward()", "scaler.scale(loss).backward()").replace(
    "opt.step()", "scaler.step(opt)\n    scaler.update()"
)
NOT_CLEARED = READ.replace("    opt.zero_grad()\n", "")
BOTH = "(model.scale.view(()) + model.shift.view(()))"
SHIFTED = ("loss, out = model(x, y)",)

CELLS = [
    Faulty("mlp, momentum", step(*OUT, cell=READ), plain),
    Faulty("mlp, N = 1", step(*OUT, cell=READ), plain, n=1),
    Faulty("mlp, a size", step(*OUT, cell=READ), plain, n=None, options="--size 3"),
    Faulty(
        "transformer, tied, adam, clipped",
        step("out = model(x)", "loss = F.cross_entropy(out.flatten(0, 1), y.flatten())", cell=CLIPPED),
        transformer, n=2, rtol=1e-8,
    ),
    Faulty(
        "ignored targets beside a mean",
        step("out = model(x)", "loss = F.cross_entropy(out, y) + 0.3 * out.square().mean()", cell=READ),
        ignored,
    ),
    Faulty("total read from the graph", step(*SHIFTED, cell=READ), shifted, n=2),
    Faulty("counted beforehand", step(*SHIFTED, "loss = loss + 0.1 * out.square().mean()"), shifted, n=2),
    Faulty("lstm", step(*OUT), lstm, n=2),
    Faulty(
        "two backwards of a graph",
        step("out = model(x)", "first = F.cross_entropy(out, y)", "second = out.square().mean()",
             "loss = first + second", cell=TWICE),
        plain, n=2,
    ),
    Faulty(
        "two backwards apart",
        step("first = F.cross_entropy(model(x), y)", "second = model(-x).square().mean()",
             "loss = first.detach() + second.detach()", cell=APART),
        plain, n=2,
    ),
    Faulty("gan", GAN, gan, n=2),
    Faulty(
        "replay, infonce",
        step("a, b = model(x), model(y)", "loss = F.cross_entropy(a @ b.T, torch.arange(len(x)))"),
        pairs, n=2, options="--replay auto",
    ),
    Faulty("float32 sums", step(*OUT), narrow, options="--grad-dtype float32", rtol=0.03),
    Faulty("noise", step(*OUT), plain, options="--noise"),
    Faulty("window, padded", step(*SHIFTED), padded, n=2, options="--window"),
    Faulty("gradients from before", step(*OUT, cell=NOT_CLEARED), with_gradients),
    Faulty("checkpointed", step(*OUT), lambda: checkpointed(is_reentrant=False), n=2),
    Faulty(
        "checkpointed, reentrant", step(*OUT), lambda: checkpointed(is_reentrant=True), n=2, options="--replay never"
    ),
    Faulty("checkpointed, reentrant, replayed", step(*OUT), lambda: checkpointed(is_reentrant=True), n=2),
    Faulty("parameter hooks", step(*OUT), hooked),
    Faulty("random draws", step(*OUT, cell=READ) + "next_draw = draw()\n", drawing),
    Faulty("a buffer that counts", step(*OUT), counting),
    Faulty("experts", step(*OUT), routed, options="--replay never"),
    Faulty("sparse gradients", step(*OUT), sparse),
    Faulty(
        "a graph computed once",
        step("weight = alpha.softmax(0)", "out = model(x)", "loss = (F.softmax(out, 1) * weight).sum(1).mean()"),
        weighted, n=2,
    ),
    Faulty("grad scaler", step(*OUT, cell=SCALED), scaled, n=2),
    Faulty(
        "leaves that are one value",
        step(f"loss = F.cross_entropy(model(x), y) + {BOTH}"), two_numbers,
    ),
]  # fmt: skip
SHARING = [
    CELLS[-1],
    Faulty("shared, reentrant", step(f"loss = F.cross_entropy(model(x), y) + {BOTH}"), reentrant_and_two_numbers,
           n=3, options="--replay never"),
    Faulty(
        "shared, two losses, folded",
        step("out = model(x)", f"first = F.cross_entropy(out, y) + {BOTH}", "second = out.square().mean()",
             "loss = first + second", cell=TWICE),
        two_numbers, options="--noise",
    ),
]  # fmt: skip
UNEQUAL = [
    Faulty("batch norm", step(*OUT), normalised, n=2),
    Faulty("batch norm, N = 1", step(*OUT), normalised, n=1),
    Faulty("dropout", step(*OUT), dropping, n=2),
]
