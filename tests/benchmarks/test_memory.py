"""Peak memory of fresh processes."""

from concurrent.futures import ThreadPoolExecutor
from statistics import median

from benchmarks.fresh import in_fresh_process
from benchmarks.in_fresh_process import SAMPLES
from benchmarks.report import Goal
from benchmarks.rounds import Rounds

REPEATS = 3
AT_ONCE = 2
NO_STEP = ("none", 1)
PLAIN = ("plain", 1)
LABELS = {"none": "model built, no step", "plain": "plain full batch", "hand-written": "hand-written loop"}
WHO = [NO_STEP, PLAIN, ("hand-written", 2), ("ours", 2), ("hand-written", 10), ("ours", 10)]


def test_peak_memory(benchmark, report):
    peaks = {who: [] for who in WHO}

    def measure_once():
        with ThreadPoolExecutor(AT_ONCE) as pool:
            for who, peak in zip(WHO, pool.map(lambda who: in_fresh_process("peak", *who), WHO), strict=True):
                peaks[who].append(peak)

    benchmark.group = "fresh processes"
    benchmark.pedantic(measure_once, rounds=REPEATS)
    tell(peaks, report)
    benchmark.extra_info["peak, MiB"] = {f"{cell}, N = {n}": median(peaks[cell, n]) for cell, n in WHO}


def tell(peaks, report):
    floor = median(peaks[NO_STEP])
    rows = []
    for who in WHO:
        cell, n = who
        label = LABELS.get(cell, cell) + (f", N = {n}" if n > 1 else "")
        above = f"{median(peaks[who]) - floor:,.1f}" if who != NO_STEP else ""
        spread = f"{max(peaks[who]) - min(peaks[who]):,.1f}"
        rows.append((label, f"{median(peaks[who]):,.1f}", spread, above, *ratios(peaks, who, floor)))
        if cell == "ours":
            rounds = Rounds(())
            rounds.figures = {"ours": peaks[who], "hand": peaks["hand-written", n]}
            against = rounds.compare("ours", "hand")
            report.goals.append(Goal(f"peak memory / hand-written, N = {n}", 1.01, against.ratio, against.ratio_noise))
    title = f"peak memory (VmHWM, MiB): 6 convolutions, batch {SAMPLES}; medians of {REPEATS} fresh processes"
    report.table(title, ("", "peak", "max - min", "above", "/ hand", "above / hand"), rows)


def ratios(peaks, who, floor):
    cell, n = who
    if cell != "ours":
        return "", ""
    mine, theirs = median(peaks[who]), median(peaks["hand-written", n])
    return f"{mine / theirs:.4f}", f"{(mine - floor) / (theirs - floor):.4f}"
