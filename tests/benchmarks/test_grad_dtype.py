"""`--grad-dtype float32`: how far off a bfloat16 gradient is with and without it, and what it costs."""

import ast
import copy

import torch
from engine_tools import LiveBytes
from torch import nn

import accum_magic
from accum_magic.engine.run import begin
from benchmarks import cells
from benchmarks.contenders import HAND_WRITTEN, OURS, Contender, N
from benchmarks.report import Goal
from benchmarks.rounds import Rounds
from benchmarks.test_time import against

WIDENED = "ours, --grad-dtype float32"
MANY, ROUNDS = 1024, 15
KINDS = {"tiny MLP": 20, "8 linear layers of 1024, one sample": 1}  # and slices per round


def classifier():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(64, 64), nn.GELU(), nn.Linear(64, 16)).bfloat16()


def namespace(model, loader):
    return {"model": model, "optimizer": torch.optim.SGD(model.parameters(), lr=0.0), "loader": loader,
            "F": nn.functional, "torch": torch}  # fmt: skip


def contenders(model, loader, n):
    """The hand-written loop, ours, and ours with the option."""
    made = [Contender(HAND_WRITTEN, cells.HAND_WRITTEN, namespace(copy.deepcopy(model), loader) | {"N": n})]
    for name, dtype in ((OURS, None), (WIDENED, "float32")):
        names = namespace(copy.deepcopy(model), loader)
        tree = accum_magic.rewrite(cells.PLAIN, n, grad_dtype=dtype, namespace=names).tree
        made.append(Contender(name, ast.fix_missing_locations(tree), names))
    return made


def gradients_of(contender):
    return [p.grad.double() for p in contender.namespace["model"].parameters()]


def test_error(benchmark, report):
    model = classifier()
    torch.manual_seed(1)
    x, y = torch.randn(MANY, 64).bfloat16(), torch.randint(16, (MANY,))
    exact = [torch.zeros_like(p, dtype=torch.float64) for p in model.parameters()]
    for one_x, one_y in zip(x.split(1), y.split(1), strict=True):  # the very same gradients, added up in float64
        model.zero_grad()
        (nn.functional.cross_entropy(model(one_x), one_y) * (1 / MANY)).backward()
        for total, parameter in zip(exact, model.parameters(), strict=True):
            total.add_(parameter.grad)
    taking_part = contenders(model, [(x, y)], MANY)
    run = begin()
    benchmark.pedantic(lambda: [c.run() for c in taking_part], rounds=1)
    run.end()
    errors = {c.name: error(gradients_of(c), exact) for c in taking_part}
    rows = [(name, f"{100 * value:.3f} %") for name, value in errors.items()]
    title = f"bfloat16, N = {MANY}: error of the gradient beside the same micro-batches added up in float64"
    report.table(title, ("", "error"), rows)
    what = f"bfloat16, N = {MANY}: error under --grad-dtype float32"
    report.goals.append(Goal(what, 0.3, 100 * errors[WIDENED], 0.0, " %"))
    benchmark.extra_info["error"] = errors


def error(found, exact):
    found, exact = (torch.cat([g.flatten() for g in each]) for each in (found, exact))
    return float((found - exact).norm() / exact.norm())


def models():
    torch.manual_seed(0)
    tiny = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 3)).bfloat16()
    linear = nn.Sequential(*(nn.Linear(1024, 1024) for _ in range(8))).bfloat16()
    shapes = [(tiny, 64, 8, 3), (linear, N, 1024, 1024)]
    for kind, (model, samples, width, classes) in zip(KINDS, shapes, strict=True):
        yield kind, model, [(torch.randn(samples, width).bfloat16(), torch.randint(classes, (samples,)))]


def test_cost(benchmark, report):
    taking_part = {kind: contenders(model, loader, N) for kind, model, loader in models()}
    run = begin()
    for each in taking_part.values():
        for contender in each:
            contender.run()  # ours is measured once, before its first update
    peaks = {kind: {c.name: peak_bytes(c) for c in each} for kind, each in taking_part.items()}
    turns = {
        kind: {c.name: lambda c=c: [1e6 * s / N for s in c.timed()] for c in each} for kind, each in taking_part.items()
    }
    rounds = {kind: Rounds(each) for kind, each in turns.items()}
    benchmark.pedantic(lambda: [rounds[k].play(turns[k], KINDS[k]) for k in KINDS], rounds=ROUNDS)
    run.end()
    for kind in KINDS:
        times = rounds[kind].part(0)
        rows = []
        for name, peak in peaks[kind].items():
            c = times.compare(name, OURS)
            rows.append((name, f"{c.value:,.1f}", *against(c), f"{peak / 2**20:,.2f}"))
        title = f"bfloat16, {kind}, N = {N}: time per micro-batch and live bytes of gradients and activations"
        report.table(title, ("", "µs", "- ours (µs)", "/ ours", "", "peak MiB"), rows)


def peak_bytes(contender):
    contender.namespace["optimizer"].zero_grad()
    with LiveBytes() as live:
        contender.run()
    return live.peak_bytes
