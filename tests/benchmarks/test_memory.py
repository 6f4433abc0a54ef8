"""Peak memory of fresh processes."""

from concurrent.futures import ThreadPoolExecutor
from statistics import median

from benchmarks.fresh import in_fresh_process
from benchmarks.in_fresh_process import SAMPLES, TOKENS
from benchmarks.report import Goal
from benchmarks.rounds import Rounds

# glibc keeps freed blocks of up to 32 MiB to itself, and the same program's peak varies by a tenth from one process
# to the next. With a threshold that stays where it is (mallopt(3)) each tensor goes back when it is freed.
RETURNED = {"MALLOC_MMAP_THRESHOLD_": "131072"}
REPEATS = 2
AT_ONCE = 2
LABELS = {
    "none": "model built, no step",
    "imported": "the same, accum_magic imported",
    "plain": "plain full batch",
    "hand-written": "hand-written loop",
}
WHO = [("none", 1), ("imported", 1), ("plain", 1), ("hand-written", 2), ("ours", 2), ("hand-written", 10), ("ours", 10)]


def test_peak_memory(benchmark, report):
    peaks = {who: [] for who in WHO}

    def measure():
        with ThreadPoolExecutor(AT_ONCE) as pool:
            for who, peak in zip(WHO * REPEATS, pool.map(measured, WHO * REPEATS), strict=True):
                peaks[who].append(peak)

    benchmark.group = "fresh processes"
    benchmark.pedantic(measure, rounds=1)
    tell(peaks, report)
    benchmark.extra_info["peak, MiB"] = {f"{cell}, N = {n}": median(peaks[cell, n]) for cell, n in WHO}


def measured(who):
    return in_fresh_process("peak", *who, environment=RETURNED)


def tell(peaks, report):
    floors = {"hand-written": median(peaks["none", 1]), "ours": median(peaks["imported", 1])}
    rows = []
    for cell, n in WHO:
        values = peaks[cell, n]
        above = "" if cell in {"none", "imported"} else f"{median(values) - floors['hand-written']:,.1f}"
        label = LABELS.get(cell, cell) + (f", N = {n}" if n > 1 else "")
        spread = f"{max(values) - min(values):.1f}"
        rows.append((label, f"{median(values):,.1f}", spread, above, *ratios(peaks, cell, n, floors)))
        if cell == "ours":
            report.goals.append(goal(peaks, n))
    title = f"peak memory (VmHWM, MiB): 6 linear layers with GELU, {TOKENS} tokens, batch {SAMPLES}"
    report.table(title, ("", "peak", "spread", "above", "/ hand", "above / hand", "without imports"), rows)


def ratios(peaks, cell, n, floors):
    if cell != "ours":
        return "", "", ""
    mine, theirs = median(peaks["ours", n]), median(peaks["hand-written", n])
    floor = floors["hand-written"]
    return (
        f"{mine / theirs:.4f}",
        f"{(mine - floor) / (theirs - floor):.4f}",
        f"{(mine - floors['ours']) / (theirs - floor):.4f}",
    )


def goal(peaks, n):
    rounds = Rounds(())
    rounds.figures = {name: peaks[name, n] for name in ("ours", "hand-written")}
    against = rounds.compare("ours", "hand-written")
    return Goal(f"peak memory / hand-written, N = {n}", 1.01, against.ratio, against.ratio_noise, digits=4)
