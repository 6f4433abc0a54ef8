"""`%%accumulate auto` beside an exhaustive search over N, and beside the peers that look for a size."""

from statistics import median

import pytest
import torch

from accum_magic.engine.events import StepDone
from accum_magic.engine.run import begin
from benchmarks import cells
from benchmarks.contenders import PLAIN, Contender
from benchmarks.fresh import in_fresh_process
from benchmarks.jobs import JOBS, ROWS
from benchmarks.limited import JOB, ROOM_MIB, UPDATES
from benchmarks.plain_process import PlainProcess
from benchmarks.report import Goal
from benchmarks.rounds import Rounds
from benchmarks.search import Search, accumulated, forget_plans
from benchmarks.test_memory import RETURNED
from benchmarks.test_time import against, seconds

AUTO = "auto"
SETTLED = 4  # steps with the same N in succession; while auto compares two sizes they take turns
MOST_STEPS = 48  # until then
ROUNDS, PLAIN_ROUNDS, FIRST_UPDATES = 16, 9, 3
SAMPLES = UPDATES * JOB.batch
PEERS = {
    "plain": "plain full batch",
    "accelerate": "Accelerate, find_executable_batch_size",
    "lightning, power": "Lightning, scale_batch_size (power)",
    "lightning, binsearch": "Lightning, scale_batch_size (binsearch)",
    "ours": "accum_magic, auto",
}


class Auto:
    """The run under auto, a step at a time: its N and the samples that it has run beyond its batches."""

    def __init__(self, job, run):
        self.job, self.run_of_cell = job, run
        self.contender = accumulated("auto", job.namespace(), AUTO)
        self.counts, self.thrown_away = [], []

    def timed(self):
        before = ROWS[0]
        timed = self.contender.timed()
        self.thrown_away.append(ROWS[0] - before - self.job.batch)
        done = next(event for event in reversed(self.run_of_cell.events) if isinstance(event, StepDone))
        self.counts.append(done.micro_batches)
        return timed

    def is_settled(self):
        last = self.counts[-SETTLED:]
        return len(last) == SETTLED and len(set(last)) == 1

    def size(self):
        """Samples of a micro-batch, as settled upon."""
        return -(-self.job.batch // self.counts[-1])

    def path(self):
        """N by step, repetitions counted."""
        runs = []
        for n in self.counts:
            if runs and runs[-1][0] == n:
                runs[-1][1] += 1
            else:
                runs.append([n, 1])
        return ", ".join(f"{n} ({count} steps)" if count > 1 else str(n) for n, count in runs)


def check_equal_gradients(job, steps=3):
    """The gradients of the steps in which auto still looks for its N are those of the plain cell, in float64."""
    torch.set_default_dtype(torch.float64)
    forget_plans()
    run = begin()
    try:
        plain, auto = (
            _gradients_of(Contender(PLAIN, cells.PLAIN, names) if n is None else accumulated(n, names), steps)
            for n, names in ((None, job.namespace(job.batch // 4)), ("auto", job.namespace(job.batch // 4)))
        )
    finally:
        run.end()
        torch.set_default_dtype(torch.float32)
    torch.testing.assert_close(auto, plain, rtol=1e-9, atol=1e-12)


def _gradients_of(contender, steps):
    seen = []
    for _ in range(steps):
        contender.run()
        seen.append([p.grad.clone() for p in contender.namespace["model"].parameters()])
    return seen


def first_updates(job):
    """Milliseconds until the first update of a fresh model: plainly, and under auto with rewriting and probe."""
    plain, auto = [], []
    for _ in range(FIRST_UPDATES):
        names = [job.namespace(), job.namespace()]
        plain.append(1e3 * seconds(Contender(PLAIN, cells.PLAIN, names[0]).run))
        run = begin()
        forget_plans()
        auto.append(1e3 * seconds(lambda names=names: accumulated("auto", names[1]).run()))
        run.end()
    return median(plain), median(auto)


@pytest.mark.parametrize("job", JOBS, ids=lambda job: job.name)
def test_auto_beside_exhaustive_search(job, benchmark, report):
    check_equal_gradients(job)
    firsts = first_updates(job)
    run = begin()
    search = Search(job.namespace(), job.batch)
    search.run()
    best, second = search.best(2)
    forget_plans()
    auto = Auto(job, run)
    first_steps = Rounds((AUTO, best))
    while not auto.is_settled() and len(auto.counts) < MOST_STEPS:
        first_steps.play(turns_of(first_steps, search, auto), slices=1)
    settled = auto.counts[-1]
    rounds = Rounds(dict.fromkeys((AUTO, best, second, search.add(settled))))
    benchmark.group = f"{job.name}: a round"
    benchmark.pedantic(lambda: rounds.play(turns_of(rounds, search, auto), slices=1), rounds=ROUNDS)
    with_plain = Rounds((AUTO, PLAIN))
    with PlainProcess(job) as plain:
        both = {AUTO: lambda: in_ms(auto), PLAIN: lambda: in_ms(plain)}
        for _ in range(PLAIN_ROUNDS):
            with_plain.play(both, slices=1)
    run.end()
    tell(job, search, auto, (first_steps, rounds, with_plain), firsts, report)
    benchmark.extra_info["N by step"] = auto.counts


def turns_of(rounds, search, auto):
    everybody = {AUTO: auto, **search.contenders}
    return {name: lambda name=name: in_ms(everybody[name]) for name in rounds.figures}


def in_ms(contender):
    return [1e3 * each for each in contender.timed()]


def tell(job, search, auto, played, firsts, report):  # noqa: PLR0917 - all that was measured
    first_steps, rounds, with_plain = played
    times, wall, whole = rounds.part(0), rounds.part(1), with_plain.part(0)
    best, second = search.best(2)
    rows = []
    for name in times.figures:
        c = times.compare(name, best)
        label = f"{AUTO}, settled on N = {auto.counts[-1]}" if name == AUTO else f"N = {name}"
        label += {best: ", best of the search", second: ", second of the search"}.get(name, "")
        rows.append((label, f"{c.value:,.1f}", *against(c), f"{wall.compare(name, best).ratio:.3f}"))
    beside_plain = whole.compare(AUTO, PLAIN)
    rows.append((f"{PLAIN}, of its own process: auto / plain", f"{median(whole.figures[PLAIN]):,.1f}",
                 *against(beside_plain), f"{with_plain.part(1).compare(AUTO, PLAIN).ratio:.3f}"))  # fmt: skip
    title = f"auto: {job.what}, batch {job.batch}; {ROUNDS} rounds of a step each"
    notes = notes_of(search, auto, first_steps, firsts)
    report.table(title, ("", "ms", "- best (ms)", "/ best", "", "wall"), rows, notes)
    against_best = times.compare(best, AUTO)
    what = f"{job.name}: throughput under auto / best N of the search"
    report.goals.append(Goal(what, 0.97, against_best.ratio, against_best.ratio_noise, at_least=True))
    what = f"{job.name}: auto, thrown away before the first update"
    report.goals.append(Goal(what, 2, auto.thrown_away[0] / auto.size(), 0.0, " micro-batches"))
    if job.name == "CNN":
        what = "CNN: time of a step, auto / plain full batch"
        report.goals.append(Goal(what, 0.8, beside_plain.ratio, beside_plain.ratio_noise))


def notes_of(search, auto, first_steps, firsts):
    looked, best = (first_steps.figures[name] for name in (AUTO, search.best(1)[0]))
    part = sum(ms for ms, _ in best) / sum(ms for ms, _ in looked)
    before, after = auto.thrown_away[0], sum(auto.thrown_away[1:])
    return (
        f"N by step of auto: {auto.path()}; at last {auto.size()} samples in a micro-batch",
        f"throughput over the first {len(looked)} steps, probe and search included: {part:.3f} of the best N's"
        + ("" if len(looked) < MOST_STEPS else "; it had not settled then"),
        f"samples run and thrown away: {before} before the first update, {after} after it",
        f"first update after {firsts[1]:,.0f} ms, plain cell {firsts[0]:,.0f} ms (medians of {FIRST_UPDATES})",
        f"search, time over the best's by N: {search.curve()}",
    )


def test_peers_in_little_memory(benchmark, report):
    found = {}

    def measure():
        for who in PEERS:
            found[who] = in_fresh_process(who, environment=RETURNED, module="limited")

    benchmark.group = "fresh processes"
    benchmark.pedantic(measure, rounds=1)
    assert found["plain"]["died"]
    report.table(
        f"in {ROOM_MIB} MiB: {JOB.what}, batch {JOB.batch}; a process each",
        ("", "size", "samples per update", "thrown away", "first update, s", "samples per s"),
        [(PEERS[who], *row(figures)) for who, figures in found.items()],
    )
    benchmark.extra_info["found"] = found


def row(figures):
    """What a peer ended with: the samples that its model sees at once, and per update, and what that has cost."""
    size = f"{figures['size']:,}" if figures["size"] else "none"
    if figures["died"]:
        return size, "dies", "", "", ""
    per_update = f"{SAMPLES / figures['updates']:,.0f}"
    thrown_away, samples_per_s = f"{figures['thrown_away']:,}", f"{figures['samples_per_s']:,.0f}"
    return size, per_update, thrown_away, f"{figures['first_update_s']:.2f}", samples_per_s
