"""What replay costs and saves: InfoNCE on the plain batch, by GradCache's way written by hand, and ours."""

import ast
import functools

import torch
from engine_tools import LiveBytes
from torch import nn

import accum_magic
from accum_magic.engine.run import begin
from benchmarks import cells
from benchmarks.contenders import OURS, PLAIN, Contender, N
from benchmarks.report import Goal
from benchmarks.rounds import Rounds
from benchmarks.test_time import against

GRAD_CACHE = "GradCache, hand-written"
SAMPLES, ROUNDS = 128, 15


class Encoder(nn.Module):
    """A transformer that embeds a sequence."""

    def __init__(self, width=128):
        super().__init__()
        layer = nn.TransformerEncoderLayer(width, 4, 4 * width, dropout=0.0, batch_first=True)
        self.embed, self.layers = nn.Embedding(100, width), nn.TransformerEncoder(layer, 4, enable_nested_tensor=False)

    def forward(self, tokens):
        return self.layers(self.embed(tokens)).mean(1)


def namespace():
    torch.manual_seed(0)
    model = Encoder()
    loader = [(torch.randint(100, (SAMPLES, 32)), torch.randint(100, (SAMPLES, 32)))]
    return {"model": model, "optimizer": torch.optim.SGD(model.parameters(), lr=1e-3), "loader": loader,
            "F": nn.functional, "N": N, "torch": torch}  # fmt: skip


def contenders():
    names = namespace()
    ours = accum_magic.rewrite(cells.INFONCE, N, batch="x,z", namespace=names)
    return [
        Contender(PLAIN, cells.INFONCE, namespace()),
        Contender(GRAD_CACHE, cells.GRAD_CACHE, namespace()),
        Contender(OURS, ast.fix_missing_locations(ours.tree), names),
    ]


def gradients_of(contender):
    contender.run()
    return [p.grad.clone() for p in contender.namespace["model"].parameters()]


def peak_bytes(contender):
    """The most bytes alive in a step, the gradients aside."""
    with LiveBytes() as live:
        contender.run()
    return live.peak_bytes - sum(p.nbytes for p in contender.namespace["model"].parameters())


def test_replay(benchmark, report):
    torch.set_default_dtype(torch.float64)
    try:
        plain, *others = map(gradients_of, contenders())
    finally:
        torch.set_default_dtype(torch.float32)
    for gradients in others:
        torch.testing.assert_close(gradients, plain, rtol=1e-9, atol=1e-12)
    run = begin()
    taking_part = contenders()
    for contender in taking_part:
        contender.run()  # ours is measured once, before its first update
    peaks = {c.name: peak_bytes(c) for c in taking_part}
    turns = {c.name: functools.partial(in_ms, c) for c in taking_part}
    rounds = Rounds(turns)
    benchmark.pedantic(rounds.play, args=(turns, 1), rounds=ROUNDS)
    run.end()
    times = rounds.part(0)
    compared = {name: times.compare(name, PLAIN) for name in turns}
    rows = [
        (name, f"{c.value:,.0f}", *against(c)[1:], f"{peaks[name] / 2**20:,.1f}", f"{peaks[name] / peaks[PLAIN]:.3f}")
        for name, c in compared.items()
    ]
    title = f"replay: InfoNCE, two views of {SAMPLES} sequences of 32 tokens through 4 layers, N = {N}; {ROUNDS} rounds"
    report.table(title, ("", "ms", "/ plain", "", "peak MiB", "/ plain"), rows)
    ours = compared[OURS]
    report.goals.append(Goal(f"replay, N = {N}: time / plain step", 1.5, ours.ratio, ours.ratio_noise))
    report.goals.append(Goal(f"replay, N = {N}: peak / plain step", 0.25, peaks[OURS] / peaks[PLAIN], 0.0))
    benchmark.extra_info["ms"] = {name: c.value for name, c in compared.items()}


def in_ms(contender):
    return [1e3 * s for s in contender.timed()]
