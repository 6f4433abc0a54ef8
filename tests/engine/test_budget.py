"""The memory budget: what `--memory` says, or what there is less a margin."""

import json
import subprocess
import sys

import pytest
import torch
from torch import nn

import accum_magic
from accum_magic import testing
from accum_magic.engine import run as runs
from accum_magic.engine.budget import READ_AGAIN_S, Budget, BudgetOfRun, budget_of
from accum_magic.engine.memory import ResidentMemory
from accum_magic.errors import AccumulateError, BudgetError, OptionError

MIB = 2**20
CELL = """\
ran.append(1)
for x, y in loader:
    optimizer.zero_grad()
    loss = nn.functional.mse_loss(model(x), y)
    loss.backward()
    optimizer.step()
"""


def notebook():
    torch.manual_seed(0)
    model = nn.Linear(4, 1)
    return {
        "nn": nn, "model": model, "loader": [(torch.randn(8, 4), torch.randn(8, 1))] * 3, "ran": [],
        "optimizer": torch.optim.Adam(model.parameters()),
    }  # fmt: skip


def as_said(count):
    return f"{count / MIB:,.0f} MiB"


def test_an_amount_is_the_budget():
    assert budget_of(ResidentMemory(), "6000MiB") == Budget(6000 * MIB, "--memory 6000MiB")


def test_a_share_is_one_of_what_the_process_may_have():
    meter = ResidentMemory()
    share = budget_of(meter, "50 %")
    assert share.bytes == pytest.approx(meter.limit_bytes() / 2, rel=0.05)
    assert share.source == "--memory 50 %"


def test_by_default_a_margin_stays_free():
    meter = ResidentMemory()
    found = budget_of(meter, None)
    assert found.bytes == pytest.approx(0.9 * meter.limit_bytes(), rel=0.05)
    margin = found.bytes / 9
    assert found.source.startswith("what this process may have, less a margin of ")
    said = int(found.source.split()[-2].replace(",", ""))
    assert said == pytest.approx(margin / MIB, rel=0.01)


def test_more_than_there_is_cannot_be_kept():
    meter = ResidentMemory()
    found = budget_of(meter, "900TiB")
    assert found.bytes == pytest.approx(meter.limit_bytes(), rel=0.05)
    assert found.source == f"--memory 900TiB, of which this process may have {as_said(found.bytes)}"


def test_less_than_is_in_use_already():
    meter = ResidentMemory()
    with pytest.raises(BudgetError) as caught:
        budget_of(meter, "20MiB")
    in_use = str(caught.value).partition("(")[2].partition(" MiB)")[0]
    assert str(caught.value) == (
        f"--memory 20MiB is less than what is in use already ({in_use} MiB): give more, or free some first."
    )
    assert float(in_use.replace(",", "")) * MIB == pytest.approx(meter.now_bytes(), rel=0.1)
    assert isinstance(caught.value, AccumulateError)


def test_what_is_no_amount():
    with pytest.raises(OptionError) as caught:
        budget_of(ResidentMemory(), "lots")
    assert str(caught.value) == ("--memory takes an amount with its unit, such as 6GiB, 500MB or 80%, found `lots`.")


def test_what_is_free_follows_what_is_in_use():
    meter = ResidentMemory()
    kept = BudgetOfRun(meter, f"{meter.now_bytes() // MIB + 300}MiB")
    assert 280 * MIB < kept.free_bytes() <= 301 * MIB
    some = torch.ones(100 * MIB // 4)
    assert 180 * MIB < kept.free_bytes() < 205 * MIB
    more = torch.ones(250 * MIB // 4)
    assert -60 * MIB < kept.free_bytes() < -40 * MIB
    assert some.sum() < more.sum()


LIMITED = """
import json, resource, time
import torch
from accum_magic.engine.budget import READ_AGAIN_S, BudgetOfRun
from accum_magic.engine.memory import ResidentMemory
used = next(int(line.split()[1]) * 1024 for line in open("/proc/self/status") if line.startswith("VmSize"))
meter = ResidentMemory()
budgets = [BudgetOfRun(meter, None), BudgetOfRun(meter, "3TiB"), BudgetOfRun(meter, "80%")]
resource.setrlimit(resource.RLIMIT_AS, (used + 2**30, used + 2**30))
at_once = [b.free_bytes() / 2**20 for b in budgets]
time.sleep(READ_AGAIN_S * 1.2)
later = [b.free_bytes() / 2**20 for b in budgets]
print(json.dumps([at_once, later, meter.now_bytes() / 2**20, [b.budget.bytes / 2**20 for b in budgets]]))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="resource limits are measured by /proc")
def test_what_others_take_is_no_longer_free():
    """A limit that comes in mid-run stands for a neighbour that takes memory."""
    run = subprocess.run([sys.executable, "-c", LIMITED], check=True, capture_output=True, text=True, timeout=120)
    at_once, later, now, budgets = json.loads(run.stdout)
    assert at_once == pytest.approx([b - now for b in budgets], abs=20), "the limits were read a moment ago"
    limit = now + 1024
    assert later == pytest.approx([0.9 * limit - now, 1024, 1024], abs=40)


def test_limits_are_not_read_every_time(monkeypatch):
    meter = ResidentMemory()
    kept, seen = BudgetOfRun(meter, None), []
    monkeypatch.setattr(ResidentMemory, "limit_bytes", lambda _: seen.append(1) or 2**40)
    for _ in range(10):
        kept.free_bytes()
    assert len(seen) <= 1
    assert pytest.approx(1.0) == READ_AGAIN_S


# ---------------------------------------------------------------- in a run


def test_a_run_keeps_the_budget_of_its_steps():
    testing.run_accumulated(CELL, notebook(), 2, "--memory 8000MiB")
    assert accum_magic.last_run().budget_bytes == 8000 * MIB
    testing.run_accumulated(CELL, notebook(), 2)
    assert accum_magic.last_run().budget_bytes == pytest.approx(budget_of(ResidentMemory(), None).bytes, rel=0.1)


def test_a_budget_that_is_used_up_is_refused_before_the_first_step():
    names = notebook()
    before = names["model"].weight.detach().clone()
    with pytest.raises(BudgetError, match=r"--memory 20MiB is less than what is in use already \(\d[\d,]* MiB\)"):
        testing.run_accumulated(CELL, names, 2, "--memory 20MiB")
    assert torch.equal(names["model"].weight, before)
    assert names["model"].weight.grad is None


def test_what_a_view_sees():
    seen = []
    names = {**notebook(), "look": lambda: seen.append(runs.current_run().snapshot())}
    testing.run_accumulated(f"{CELL}    look()\n", names, 2, "--memory 8000MiB")
    assert [s.limit_bytes for s in seen] == [8000 * MIB] * 3
    assert all(0 < s.memory_bytes <= s.peak_bytes < s.limit_bytes for s in seen)
