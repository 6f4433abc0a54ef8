"""What `--noise` costs: the same run with it and without."""

import ast

import pytest

import accum_magic
from accum_magic.engine.run import begin
from benchmarks import cells
from benchmarks.contenders import OURS, Contender, N
from benchmarks.rounds import Rounds
from benchmarks.test_time import SHAPES, TINY, TRANSFORMER, against

WITH_NOISE = "ours, --noise"


def contenders(task):
    for name, noise in ((OURS, False), (WITH_NOISE, True)):
        names = task.namespace(task.steps)
        tree = accum_magic.rewrite(cells.PLAIN, N, noise=noise, namespace=names).tree
        yield Contender(name, ast.fix_missing_locations(tree), names)


@pytest.mark.parametrize("task", [TINY, TRANSFORMER], ids=lambda task: task.name)
def test_cost(task, benchmark, report):
    turns = {c.name: lambda c=c: [1e6 * s / (task.steps * N) for s in c.timed()] for c in contenders(task)}
    run = begin()
    for turn in turns.values():
        turn()  # its step is probed
    rounds = Rounds(turns)
    benchmark.pedantic(rounds.play, args=(turns, task.slices), rounds=task.rounds)
    run.end()
    assert run.summary().events
    times, wall = (rounds.part(i) for i in (0, 1))
    rows = []
    for name in turns:
        c = times.compare(name, OURS)
        rows.append((name, f"{c.value:,.1f}", *against(c), f"{wall.compare(name, OURS).ratio:.3f}"))
    title = f"time per micro-batch under --noise: {SHAPES[task]}; {task.rounds} rounds"
    report.table(title, ("", "µs", "- ours (µs)", "/ ours", "", "wall"), rows)
    benchmark.extra_info["µs per micro-batch"] = {name: times.compare(name, OURS).value for name in turns}
