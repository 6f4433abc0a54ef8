"""Time per micro-batch, and what a run costs once."""

from statistics import median
from time import perf_counter

import pytest
from IPython.core.interactiveshell import InteractiveShell
from traitlets.config import Config

import accum_magic
from accum_magic.engine.run import begin, end
from benchmarks import cells
from benchmarks.contenders import (
    FABRIC,
    HAND_WRITTEN,
    OURS,
    OURS_WITH_VIEW,
    PLAIN,
    ACCELERATE,
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
TINY = Task("tiny model", batch=64, steps=100, rounds=30)
TRANSFORMER = Task("transformer", batch=32, steps=1, rounds=16)
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
        start = perf_counter()
        tree = rewritten(namespace)
        rewriting_s = perf_counter() - start
        code = compile(tree, "<ours>", "exec")
        run = begin()
        cold_s, warm_s = (seconds(lambda: exec(code, namespace)) for _ in range(2))
        end(run)
        whole_s = seconds(lambda: shell.run_cell(cell, silent=True).raise_error())
        rewriting.append(rewriting_s)
        probing.append(cold_s - warm_s)
        rest.append(whole_s - cold_s - rewriting_s)
    return {"rewriting": 1e3 * median(rewriting), "probe": 1e3 * median(probing), "shell and view": 1e3 * median(rest)}


def seconds(call):
    start = perf_counter()
    call()
    return perf_counter() - start


@pytest.mark.parametrize("task", [TINY, TRANSFORMER], ids=lambda task: task.name)
def test_time_per_micro_batch(task, benchmark, report, shell):
    check_equal_gradients(task)
    one_off = once(task, shell)
    steps = task.steps
    contenders = contenders_of(task, steps)
    run = begin()  # one run for all rounds: its step is probed once, below
    ours = contenders[-1]
    contenders.append(WithView(OURS_WITH_VIEW, rewritten(ours.namespace), ours.namespace, run))
    turns = {c.name: lambda c=c: 1e6 * c.timed() / (steps * N) for c in contenders}
    for turn in turns.values():
        turn()
    rounds = Rounds(turns)
    benchmark.group = "a round: every contender's turn"
    benchmark.pedantic(rounds.play, args=(turns,), rounds=task.rounds)
    end(run)
    tell(task, rounds, one_off, benchmark, report)


def tell(task, rounds, one_off, benchmark, report):
    included = f"{OURS_WITH_VIEW}, {RUN_STEPS}-step run"
    once_us = 1e3 * sum(one_off.values()) / (RUN_STEPS * N)
    names = (PLAIN, HAND_WRITTEN, ACCELERATE, FABRIC, OURS, OURS_WITH_VIEW)
    compared = {name: rounds.compare(name, HAND_WRITTEN) for name in names}
    compared[included] = rounds.compare(OURS_WITH_VIEW, HAND_WRITTEN, add=once_us)
    rows = [(n, f"{c.value:,.1f}", *(against(c) if n != HAND_WRITTEN else ("", "", ""))) for n, c in compared.items()]
    parts = ", ".join(f"{name} {ms:.1f}" for name, ms in one_off.items())
    count = len(rounds.figures[OURS])
    report.table(
        f"time per micro-batch: {SHAPES[task]}; {count} rounds of {task.steps * N} micro-batches each",
        ("", "µs", "- hand (µs)", "/ hand", ""),
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
