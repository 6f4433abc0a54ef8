"""Time per micro-batch, and what a run costs once."""

from statistics import median
from time import process_time

import pytest
from IPython.core.interactiveshell import InteractiveShell
from traitlets.config import Config

from accum_magic.engine.run import begin
from accum_magic.view.closing import Closing
from benchmarks import cells
from benchmarks.contenders import (
    ACCELERATE,
    FABRIC,
    HAND_WRITTEN,
    OURS,
    OURS_WITH_VIEW,
    PLAIN,
    N,
    Task,
    WithView,
    check_equal_gradients,
    contenders_of,
    rewritten,
)
from benchmarks.report import Goal
from benchmarks.rounds import Rounds

RUN_STEPS = 50
TINY = Task("tiny model", batch=64, steps=5, slices=20, rounds=150)
TRANSFORMER = Task("transformer", batch=32, steps=1, slices=1, rounds=28)
SHAPES = {
    TINY: "tiny model (MLP 8-16-3, batch 64, N = 8)",
    TRANSFORMER: "transformer (4 layers, d = 256, 32 tokens, batch 32, N = 8)",
}


@pytest.fixture(scope="module")
def shell():
    config = Config()
    config.HistoryManager.enabled = False
    config.InteractiveShell.banner1 = ""
    made = InteractiveShell.instance(config=config)
    made.run_line_magic("load_ext", "accum_magic")
    yield made
    InteractiveShell.clear_instance()


def once(task, shell, repeats=9):
    """Milliseconds that a run costs once, by part: medians over fresh runs on a batch of N samples."""
    namespace = task.namespace(1, samples=N)
    shell.user_ns.update(namespace)
    cell = f"%%accumulate {N} --panel text\n{cells.PLAIN}"
    rewriting, probing, rest = [], [], []
    for _ in range(repeats):
        rewriting_s = seconds(rewritten, namespace)
        code = compile(rewritten(namespace), "<ours>", "exec")
        run = begin()
        cold_s, warm_s = (seconds(exec, code, namespace) for _ in range(2))
        run.end()
        whole_s = seconds(run_cell, shell, cell)
        rewriting.append(rewriting_s)
        probing.append(cold_s - warm_s)
        rest.append(whole_s - cold_s - rewriting_s)
    return {"rewriting": 1e3 * median(rewriting), "probe": 1e3 * median(probing), "shell and view": 1e3 * median(rest)}


def seconds(call, *arguments):
    start = process_time()
    call(*arguments)
    return process_time() - start


def run_cell(shell, cell):
    shell.run_cell(cell, silent=True).raise_error()


@pytest.mark.parametrize("task", [TINY, TRANSFORMER], ids=lambda task: task.name)
def test_time_per_micro_batch(task, benchmark, report, shell):
    check_equal_gradients(task)
    one_off = once(task, shell)
    steps = task.steps
    contenders = contenders_of(task, steps)
    run = begin()  # one run for all rounds: its step is probed once, below
    ours = contenders[-1]
    live = WithView(OURS_WITH_VIEW, rewritten(ours.namespace), ours.namespace, run)
    contenders.append(live)
    turns = {c.name: lambda c=c: [1e6 * s / (steps * N) for s in c.timed()] for c in contenders}
    for turn in turns.values():
        turn()
    rounds = Rounds(turns)
    benchmark.group = "a round: every contender's turn"
    benchmark.pedantic(rounds.play, args=(turns, task.slices), rounds=task.rounds)
    live.view.close(Closing("", "finished"))
    assert live.line.out.getvalue()
    run.end()
    tell(task, rounds, one_off, benchmark, report)


def tell(task, both_clocks, one_off, benchmark, report):
    rounds, wall = (both_clocks.part(i) for i in (0, 1))
    included = f"{OURS_WITH_VIEW}, {RUN_STEPS}-step run"
    once_us = 1e3 * sum(one_off.values()) / (RUN_STEPS * N)
    names = (PLAIN, HAND_WRITTEN, ACCELERATE, FABRIC, OURS, OURS_WITH_VIEW)
    compared = {name: rounds.compare(name, HAND_WRITTEN) for name in names}
    compared[included] = rounds.compare(OURS_WITH_VIEW, HAND_WRITTEN, add=once_us)
    rows = []
    for name, c in compared.items():
        others = against(c) if name != HAND_WRITTEN else ("", "", "")
        by_wall = f"{wall.compare(name, HAND_WRITTEN).ratio:.3f}" if name in rounds.figures else ""
        rows.append((name, f"{c.value:,.1f}", *others, by_wall))
    parts = ", ".join(f"{name} {ms:.1f}" for name, ms in one_off.items())
    count = len(rounds.figures[OURS])
    report.table(
        f"time per micro-batch: {SHAPES[task]}; {count} rounds of {task.slices} x {task.steps * N} micro-batches each",
        ("", "µs", "- hand (µs)", "/ hand", "", "wall"),
        rows,
        [f"once per run, {sum(one_off.values()):.1f} ms: {parts}"],
    )
    if task is TINY:
        live = compared[OURS_WITH_VIEW]
        what = "tiny model: overhead per micro-batch, text view live"
        report.goals.append(Goal(what, 15, live.difference, live.difference_noise, " µs", 1))
    else:
        for name in (OURS_WITH_VIEW, included):
            c = compared[name]
            report.goals.append(Goal(f"transformer: {name} / hand-written", 1.01, c.ratio, c.ratio_noise, digits=4))
    benchmark.extra_info["µs per micro-batch"] = {name: c.value for name, c in compared.items()}
    benchmark.extra_info["once per run, ms"] = one_off


def against(c):
    return (
        f"{c.difference:+,.1f} ± {c.difference_noise:,.1f}",
        f"{c.ratio:.4f} ± {c.ratio_noise:.4f}",
        "≈" if c.is_within_noise else "",
    )
