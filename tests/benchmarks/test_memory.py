"""Peak memory of fresh processes."""

from concurrent.futures import ThreadPoolExecutor
from statistics import median

from benchmarks.fresh import in_fresh_process
from benchmarks.in_fresh_process import SAMPLES
from benchmarks.report import Goal
from benchmarks.rounds import Rounds

# glibc keeps freed blocks of up to 32 MiB to itself, and the same program's peak varies by a tenth from one process
# to the next. With a threshold that stays where it is (mallopt(3)) each tensor goes back when it is freed.
RETURNED = {"MALLOC_MMAP_THRESHOLD_": "131072"}
AS_IT_COMES = {}
REPEATS = {"returned": 2, "as it comes": 3}
AT_ONCE = 2
LABELS = {
    "none": "model built, no step",
    "imported": "the same, accum_magic imported",
    "plain": "plain full batch",
    "hand-written": "hand-written loop",
}
COMPARED = [("hand-written", 2), ("ours", 2), ("hand-written", 10), ("ours", 10)]
WHO = [("none", 1), ("imported", 1), ("plain", 1), *COMPARED]


def test_peak_memory(benchmark, report):
    peaks = {("returned", *who): [] for who in WHO} | {("as it comes", *who): [] for who in COMPARED}
    processes = [key for key in peaks for _ in range(REPEATS[key[0]])]

    def measure():
        with ThreadPoolExecutor(AT_ONCE) as pool:
            for key, peak in zip(processes, pool.map(measured, processes), strict=True):
                peaks[key].append(peak)

    benchmark.group = "fresh processes"
    benchmark.pedantic(measure, rounds=1)
    tell(peaks, report)
    benchmark.extra_info["peak, MiB"] = {", ".join(map(str, key)): median(values) for key, values in peaks.items()}


def measured(key):
    allocator, cell, n = key
    return in_fresh_process("peak", cell, n, environment=RETURNED if allocator == "returned" else AS_IT_COMES)


def tell(peaks, report):
    floors = {"hand-written": median(peaks["returned", "none", 1]), "ours": median(peaks["returned", "imported", 1])}
    rows = []
    for cell, n in WHO:
        values = peaks["returned", cell, n]
        spread, usual = max(values) - min(values), peaks.get(("as it comes", cell, n))
        above = "" if cell in {"none", "imported"} else f"{median(values) - floors['hand-written']:,.1f}"
        as_it_comes = f"{median(usual):,.0f} ({min(usual):,.0f}-{max(usual):,.0f})" if usual else ""
        label = LABELS.get(cell, cell) + (f", N = {n}" if n > 1 else "")
        rows.append(
            (label, f"{median(values):,.1f}", f"{spread:.1f}", above, *ratios(peaks, cell, n, floors), as_it_comes)
        )
        if cell == "ours":
            report.goals.append(goal(peaks, n))
    header = ("", "peak", "spread", "above", "/ hand", "above / hand", "without imports", "as it comes")
    report.table(f"peak memory (VmHWM, MiB) of fresh processes: 6 convolutions, batch {SAMPLES}", header, rows)


def ratios(peaks, cell, n, floors):
    if cell != "ours":
        return "", "", ""
    mine, theirs = median(peaks["returned", cell, n]), median(peaks["returned", "hand-written", n])
    floor = floors["hand-written"]
    return (
        f"{mine / theirs:.4f}",
        f"{(mine - floor) / (theirs - floor):.4f}",
        f"{(mine - floors['ours']) / (theirs - floor):.4f}",
    )


def goal(peaks, n):
    rounds = Rounds(())
    rounds.figures = {name: peaks["returned", name, n] for name in ("ours", "hand-written")}
    against = rounds.compare("ours", "hand-written")
    return Goal(f"peak memory / hand-written, N = {n}", 1.01, against.ratio, against.ratio_noise, digits=4)
