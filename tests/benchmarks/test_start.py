"""What the user waits for before the first step."""

import time
from statistics import median

import pytest

import accum_magic
from benchmarks.cells import FORTY_LINES
from benchmarks.fresh import in_fresh_process
from benchmarks.report import Goal
from benchmarks.rounds import noise_of


@pytest.mark.benchmark(timer=time.process_time)
def test_rewrite_of_forty_lines(benchmark, report):
    assert len(FORTY_LINES.splitlines()) == 40
    rewritten = benchmark(accum_magic.rewrite, FORTY_LINES, 8)
    assert "accum_magic.step(" in str(rewritten)
    times = [1e3 * seconds for seconds in benchmark.stats.stats.data] if benchmark.stats else [0.0]
    report.goals.append(Goal("rewriting a 40-line cell", 10, median(times), noise_of(times), " ms", 2))


def test_load_ext(benchmark, report):
    times = []
    benchmark.group = "fresh processes"
    in_fresh_process("load_ext")  # compiles the modules
    benchmark.pedantic(lambda: times.append(in_fresh_process("load_ext")), rounds=5)
    what = "%load_ext accum_magic after torch and IPython"
    report.goals.append(Goal(what, 50, median(times), noise_of(times), " ms", 1))
