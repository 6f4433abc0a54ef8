"""Cells composed of the pieces that people write: the accumulated cell leaves what the plain one leaves.

Each bug that this has found is a case of tests/corpus.
"""

import textwrap
from dataclasses import dataclass

import corpus_tools
import pytest
import torch
from corpus_tools import Case
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import accum_magic

SETUP = """
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
X, Y = torch.randn(23, 6), torch.randint(0, 3, (23,))
loader = DataLoader(TensorDataset(X, Y), batch_size=8 * WINDOW)
model = nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3))
head = nn.Linear(6, 3)
criterion = nn.CrossEntropyLoss()
optimizer = torch.optim.SGD([*model.parameters(), *head.parameters()], lr=0.2, momentum=0.9)
scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.9)
scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
device, history, counts = "cpu", [], {"seen": 0, "right": 0}
step = seen = 0
running = 0.0

def accuracy(out, y):
    return (out.argmax(1) == y).double().mean().item()

def shift(x):
    return x + 0.1
"""


@dataclass(frozen=True)
class Loop:
    head: str
    unpack: tuple[str, ...] = ()
    windowed: bool = True


LOOPS = [
    Loop("for x, y in loader:"),
    Loop("for i, (x, y) in enumerate(loader):"),
    Loop("for batch in loader:", ("x, y = batch",)),
    Loop("for i, data in enumerate(loader, 0):", ("x, y = data[0], data[1]",)),
    Loop("for i in range(0, 23, 8):", ("x, y = X[i : i + 8], Y[i : i + 8]",), windowed=False),
    Loop("for _ in range(3):", ("ix = torch.randint(0, 23, (9,))", "x, y = X[ix], Y[ix]"), windowed=False),
    Loop("for epoch in range(2):", ("x, y = X, Y",), windowed=False),
]
PREPARE = [
    (),
    ("x, y = x.to(device), y.to(device)",),
    ("x = (x - x.mean(0)) / (x.std(0) + 1e-3)",),
    ("noise = 0.1 * torch.randn_like(x)", "x = x + noise"),
    ("x = x.view(x.size(0), -1)",),
    ("seen += len(x)", "batch_size = x.shape[0]"),
    ("x = shift(x)",),
    ("weight = 0.5 + torch.rand(len(x))",),
    ("step += 1", "beta = min(1.0, step / 4)"),
    ("lam = 0.3", "index = torch.randperm(len(x))", "x = lam * x + (1 - lam) * x[index]"),
]
FORWARD = [
    ("out = model(x)",),
    ("out = model(x) + head(x)",),
    ("hidden = model[1](model[0](x))", "out = model[2](hidden)"),
    ("with torch.autocast('cpu', enabled=False):", "    out = model(x)"),
    ("logits = model(x)", "out = logits - logits.logsumexp(1, keepdim=True)"),
    ("with torch.no_grad():", "    teacher = head(x)", "out = model(x) + 0.1 * teacher"),
    ("if step % 2 == 0:", "    out = model(x)", "else:", "    out = head(x)"),
]
LOSS = [
    ("loss = criterion(out, y)",),
    ("loss = F.cross_entropy(out, y, reduction='sum')",),
    ("loss = F.cross_entropy(out, y, reduction='none').mean()",),
    ("loss = F.nll_loss(F.log_softmax(out, dim=1), y) * 2",),
    ("loss = ((out - F.one_hot(y, 3)) ** 2).sum() / x.size(0)",),
    ("loss = criterion(out, y) + 1e-3 * sum(p.square().sum() for p in model.parameters())",),
    ("ce = criterion(out, y)", "reg = out.square().mean()", "loss = ce + 0.1 * reg"),
    ("target = F.one_hot(y, 3).double()", "loss = F.mse_loss(out, target)"),
    (
        "mask = (y > 0).double()",
        "loss = (F.cross_entropy(out, y, reduction='none') * mask).sum() / mask.sum().clamp(min=1)",
    ),
]  # fmt: skip
UPDATE = [
    ("optimizer.zero_grad()", "loss.backward()", "optimizer.step()"),
    ("loss.backward()", "optimizer.step()", "optimizer.zero_grad()"),
    ("optimizer.zero_grad()", "scaler.scale(loss).backward()", "scaler.step(optimizer)", "scaler.update()"),
    ("model.zero_grad()", "head.zero_grad()", "loss.backward()",
     "nn.utils.clip_grad_norm_(model.parameters(), 0.5)", "optimizer.step()"),
    ("optimizer.zero_grad()", "loss.backward()", "optimizer.step()", "scheduler.step()"),
    ("loss.backward()", "with torch.no_grad():", "    for p in model.parameters():", "        if p.grad is not None:",
     "            p -= 0.1 * p.grad", "            p.grad = None"),
]  # fmt: skip
BETWEEN = [(), ("counts['seen'] += len(y)",), ("running += loss.item()",), ("if torch.isnan(loss): break",)]
BEHIND = [
    (),
    ("history.append(loss.item())",),
    ("counts['right'] += (out.argmax(1) == y).sum().item()",),
    ("history.append(accuracy(out, y))",),
    ("print(f'{loss.item():.5f}', len(x))",),
    ("running += float(loss.detach()) * x.size(0)",),
    ("pred = out.max(1)[1]", "history.extend(pred.eq(y).tolist())"),
    ("with torch.no_grad():", "    history.append(model(x).sum().item())"),
    ("if seen % 2 == 0:", "    history.append(round(loss.item(), 6))"),
]
LAST = [(), ("del out",), ("best = out.detach().clone()",)]
PIECES = [LOOPS, PREPARE, PREPARE, FORWARD, LOSS, BETWEEN, UPDATE, BEHIND, BEHIND, LAST]


def composed(pieces):
    loop, first, second, forward, loss, between, update, *behind = pieces
    clears = [line for line in update if "zero_grad" in line and update.index(line) == 0]
    body = [*clears, *loop.unpack, *first, *second, *forward, *loss, *between]
    body += [line for line in update if line not in clears] + [line for lines in behind for line in lines]
    return f"{loop.head}\n" + textwrap.indent("\n".join(body), "    ") + "\n"


def case_of(cell, options=""):
    return Case("composed", "composed", "composed", SETUP, cell, options=options)


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def check(cell, n, options=""):
    case = case_of(cell, options)
    plain = corpus_tools.run_plainly(case, n)
    accumulated = corpus_tools.run_accumulated(case, n)
    found = corpus_tools.differences(case, plain, accumulated)
    assert not found, cell + "\n".join(found)
    assert accumulated.summary.verdict == "exact", cell + str(accumulated.summary)


COMPOSED = st.tuples(*map(st.sampled_from, PIECES))
SLOW = settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))


@SLOW
@given(COMPOSED, st.sampled_from([2, 3, 7]))
def test_a_composed_cell_leaves_what_the_plain_cell_leaves(pieces, n):
    check(composed(pieces), n)


@SLOW
@given(COMPOSED, st.sampled_from([2, 3]))
def test_a_composed_function_that_is_called_leaves_the_same(pieces, n):
    names = "step, seen, running"
    body = textwrap.indent(f"global {names}\n" + composed(pieces), "    ")
    case = Case("called", "called", "called", f"{SETUP}\ndef train():\n{body}    return loss\n", "last = train()\n")
    plain, accumulated = corpus_tools.run_plainly(case), corpus_tools.run_accumulated(case, n)
    found = corpus_tools.differences(case, plain, accumulated)
    assert not found, case.setup + "\n".join(found)


@SLOW
@given(COMPOSED.filter(lambda pieces: pieces[0].windowed), st.sampled_from([2, 3]))
def test_a_composed_window_leaves_what_larger_batches_leave(pieces, n):
    check(composed(pieces), n, "--window")


def test_what_is_composed_is_taken():
    """A test whose cells are all refused would say nothing."""
    for position, pieces in enumerate(PIECES):
        for piece in pieces:
            chosen = [piece if i == position else group[0] for i, group in enumerate(PIECES)]
            assert accum_magic.rewrite(composed(chosen), 3)
