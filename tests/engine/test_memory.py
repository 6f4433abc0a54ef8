"""Meters: what is in use, its peak, and what it can become."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from accum_magic.engine.host_limits import host_limit_bytes
from accum_magic.engine.memory import ResidentMemory, meter_for

MIB = 2**20
RSS = 100 * MIB
PLENTY = 10_000 * MIB


@pytest.fixture
def machine(tmp_path):
    return Machine(tmp_path)


class Machine:
    """The files of a machine on which the process has 100 MiB resident, 20 of them of libraries."""

    def __init__(self, root):
        self.root = root
        self.write(
            "proc/meminfo", f"MemTotal: 99 kB\nMemFree: 12 kB\nMemAvailable:   {PLENTY // 1024} kB\nHugePages_Free: 0\n"
        )
        self.status(RssAnon=75, RssFile=20, RssShmem=5, VmSize=400, VmData=150)

    def write(self, path, text):
        file = self.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"{text}\n")

    def status(self, **mebibytes):
        rows = "".join(f"{name}:\t {count * 1024} kB\n" for name, count in mebibytes.items())
        self.write("proc/self/status", f"Name:\tpython kB\nThreads:\t3\n{rows}")

    def cgroups(self, *lines):
        self.write("proc/self/cgroup", "\n".join(lines))

    def v2(self, path, limit, use=RSS, cache=0, high="max"):
        for name, value in (("max", limit), ("current", use), ("high", high)):
            self.write(f"cgroup/{path}/memory.{name}", value)
        self.write(f"cgroup/{path}/memory.stat", f"anon 7\ninactive_file {cache}\nactive_file 3")

    def v1(self, path, limit, use=RSS, cache=0):
        self.write(f"cgroup/memory/{path}/memory.limit_in_bytes", limit)
        self.write(f"cgroup/memory/{path}/memory.usage_in_bytes", use)
        self.write(f"cgroup/memory/{path}/memory.stat", f"inactive_file 1\ntotal_inactive_file {cache}")

    def limit(self, environ=(), limits=()):
        return host_limit_bytes(
            RSS, proc=self.root / "proc", cgroups=self.root / "cgroup", environ=dict(environ), limits=dict(limits)
        )


UNLIMITED = PLENTY + 80 * MIB


# ---------------------------------------------------------------- what the machine and its keepers leave


def test_the_machine_has_what_is_available_and_what_is_the_processs_own(machine):
    assert machine.limit() == UNLIMITED  # pages of libraries are in what is available
    machine.status(VmSize=400)  # kernels before 4.5
    assert machine.limit() == PLENTY + RSS


@pytest.mark.parametrize("line", ["0::/", "0::/user.slice/kernel.scope", "0::/../../other"])
def test_a_cgroup_v2(machine, line):
    machine.cgroups(line)
    machine.v2("", 1000 * MIB)
    assert machine.limit() == 1000 * MIB


def test_v2_max_is_no_limit(machine):
    machine.cgroups("0::/a")
    machine.v2("a", "max")
    assert machine.limit() == UNLIMITED


def test_memory_high_is_where_the_kernel_puts_a_process_to_sleep(machine):
    machine.cgroups("0::/a")
    machine.v2("a", 1000 * MIB, high=700 * MIB)
    assert machine.limit() == 700 * MIB


def test_the_least_on_the_way_up_counts(machine):
    machine.cgroups("0::/slice/pod/container")
    machine.v2("slice/pod/container", "max")
    machine.v2("slice/pod", 900 * MIB)
    machine.v2("slice", 1200 * MIB)
    assert machine.limit() == 900 * MIB
    machine.v2("slice", 800 * MIB)
    machine.v2("elsewhere", 1 * MIB)
    assert machine.limit() == 800 * MIB


def test_what_other_processes_of_the_cgroup_hold_is_theirs(machine):
    machine.cgroups("0::/a")
    machine.v2("a", 1000 * MIB, use=RSS + 300 * MIB)
    assert machine.limit() == 700 * MIB
    machine.v2("a", 1000 * MIB, use=RSS + 300 * MIB, cache=250 * MIB)  # page cache goes when memory is wanted
    assert machine.limit() == 950 * MIB
    machine.v2("a", 1000 * MIB, use=5000 * MIB)
    assert machine.limit() == 0
    machine.v2("a", 1000 * MIB, use=10 * MIB)  # mapped files are charged to who read them first
    assert machine.limit() == 1000 * MIB


V1 = ("9:name=systemd:/docker/f00", "5:cpuset,memory:/docker/f00", "4:cpu,cpuacct:/", "0::/docker/f00")


def test_a_cgroup_v1(machine):
    machine.cgroups(*V1)
    machine.v1("docker/f00", 1000 * MIB, use=RSS + 500 * MIB, cache=200 * MIB)
    machine.v1("", 2**63 - 4096)
    assert machine.limit() == 700 * MIB


def test_a_cgroup_v1_seen_from_inside_its_container(machine):
    machine.cgroups(*V1)
    machine.v1("", 800 * MIB)
    assert machine.limit() == 800 * MIB


def test_v2_beside_v1(machine):
    machine.cgroups("4:cpu:/", "0::/a")
    machine.v2("unified/a", 600 * MIB)
    assert machine.limit() == 600 * MIB


@pytest.mark.parametrize(("said", "limit"), [("536870912", 512 * MIB), ("512M", UNLIMITED), ("", UNLIMITED)])
def test_what_binder_and_jupyterhub_say(machine, said, limit):
    assert machine.limit(environ={"MEM_LIMIT": said}) == limit


def test_resource_limits_leave_what_is_not_reserved_yet(machine):
    assert machine.limit(limits={"RLIMIT_AS": 1400 * MIB}) == RSS + 1000 * MIB
    assert machine.limit(limits={"RLIMIT_DATA": 650 * MIB}) == RSS + 500 * MIB
    assert machine.limit(limits={"RLIMIT_AS": 1400 * MIB, "RLIMIT_DATA": 650 * MIB}) == RSS + 500 * MIB
    assert machine.limit(limits={"RLIMIT_AS": 10 * MIB}) == 0


# ---------------------------------------------------------------- a real process


IN_PROCESS = """
import json, os, resource, sys
import torch
from accum_magic.engine.memory import ResidentMemory
torch.set_num_threads(1)  # a thread of its own takes 70 MiB of addresses
HEADROOM = 2**30
used = next(int(line.split()[1]) * 1024 for line in open("/proc/self/status") if line.startswith(sys.argv[2]))
resource.setrlimit(getattr(resource, sys.argv[1]), (used + HEADROOM, used + HEADROOM))
meter = ResidentMemory()
before, limit = meter.now_bytes(), meter.limit_bytes()
kept = torch.ones(100 * 2**18)
later = meter.limit_bytes()
some = torch.empty(int((limit - meter.now_bytes()) * 0.9), dtype=torch.uint8)
del some
try:  # last, for an error maps some memory of its own
    torch.empty(int((limit - meter.now_bytes()) * 1.1), dtype=torch.uint8)
    fits = True
except RuntimeError:
    fits = False
print(json.dumps([before, limit, later, fits]))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="resource limits are measured by /proc")
@pytest.mark.parametrize(("limit", "used"), [("RLIMIT_AS", "VmSize"), ("RLIMIT_DATA", "VmData")])
def test_a_process_under_a_resource_limit(limit, used):
    command = [sys.executable, "-c", IN_PROCESS, limit, f"{used}:"]
    run = subprocess.run(command, check=True, capture_output=True, text=True, timeout=120)
    before, most, later, fits = json.loads(run.stdout)
    assert abs(most - before - 2**30) < 8 * MIB
    assert abs(later - most) < 16 * MIB, "what the process takes is in what it may have"
    assert not fits


# ---------------------------------------------------------------- peaks


def ones(mebibytes):
    return torch.ones(mebibytes * MIB // 4)


def test_a_meter_follows_what_is_in_use():
    meter = ResidentMemory()
    before = meter.now_bytes()
    kept = ones(100)
    assert meter.now_bytes() - before > 90 * MIB
    del kept
    assert meter.now_bytes() - before < 50 * MIB
    assert before < meter.peak_bytes() < meter.limit_bytes()
    assert meter.peak_bytes() - before > 90 * MIB


def test_the_peak_of_a_step_is_its_own():
    meter = ResidentMemory()
    before = meter.now_bytes()
    meter.begin_step()
    kept = ones(120)
    meter.now_bytes()
    del kept
    assert 110 * MIB < meter.step_peak_bytes() - before < 200 * MIB
    meter.begin_step()
    kept = ones(40)
    assert 30 * MIB < meter.step_peak_bytes() - before < 100 * MIB
    del kept
    assert meter.peak_bytes() - before > 110 * MIB, "the run's peak is what it was"


STEPS = """
import json, resource, torch
from accum_magic.engine.memory import ResidentMemory
meter = ResidentMemory()
before = meter.now_bytes()
found = []
for size in (200, 400, 100, 500):
    meter.begin_step()
    kept = torch.ones(size * 2**18)
    del kept  # nobody looks while it is there
    found.append((meter.step_peak_bytes() - before) / 2**20)
print(json.dumps([found, (meter.peak_bytes() - before) / 2**20]))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="peaks are told by /proc")
@pytest.mark.parametrize("parent", [0, 900])
def test_a_peak_that_nobody_looked_at_is_in_the_high_water_mark(parent):
    """`ru_maxrss` would not do: a process inherits its parent's, if that was larger."""
    spawn = "import subprocess, sys, torch; kept = torch.ones(int(sys.argv[1]) * 2**18); "
    spawn += "print(subprocess.run([sys.executable, '-c', sys.argv[2]], capture_output=True, text=True).stdout)"
    command = [sys.executable, "-c", spawn, str(parent), STEPS]
    run = subprocess.run(command, check=True, capture_output=True, text=True, timeout=120)
    (first, second, third, fourth), peak = json.loads(run.stdout)
    assert first == pytest.approx(200, abs=20)
    assert second == pytest.approx(400, abs=20)
    assert third < 100
    assert fourth == peak == pytest.approx(500, abs=20)


@pytest.mark.skipif(sys.platform != "linux", reason="malloc_trim is glibc's")
def test_release_hands_free_pages_back():
    meter = ResidentMemory()
    before = meter.now_bytes()
    many = [torch.ones(4096) for _ in range(6000)]  # below the size that gets a mapping of its own
    top = torch.ones(4096)  # above them in the heap
    cycle = [many]
    cycle.append(cycle)
    del many, cycle
    assert meter.now_bytes() - before > 80 * MIB
    meter.release()
    assert meter.now_bytes() - before < 40 * MIB
    assert top.sum() == 4096


def test_meters_leave_no_open_files():
    ResidentMemory()
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(20):
        ResidentMemory().now_bytes()
    assert len(list(Path("/proc/self/fd").iterdir())) == before


# ---------------------------------------------------------------- accelerators


def test_each_device_has_its_meter():
    kinds = {kind: type(meter_for(torch.device(kind))).__name__ for kind in ("cpu", "meta")}
    assert kinds == {"cpu": "ResidentMemory", "meta": "ResidentMemory"}


if torch.accelerator.is_available():

    def test_an_accelerators_meter():
        device = torch.accelerator.current_accelerator()
        kept = torch.ones(50 * MIB // 4, device=device)
        high = torch.ones(400 * MIB // 4, device=device)
        del high
        meter = meter_for(device)
        before = meter.now_bytes()
        assert meter.peak_bytes() == before, "the peak from before is not the run's"
        made = torch.ones(200 * MIB // 4, device=device)
        del made
        assert meter.peak_bytes() - before >= 200 * MIB
        meter.begin_step()
        made = torch.ones(100 * MIB // 4, device=device)
        del made
        assert 100 * MIB <= meter.step_peak_bytes() - before < 110 * MIB
        assert 200 * MIB <= meter.peak_bytes() - before < 210 * MIB
        limit = meter.limit_bytes()
        meter.release()
        assert abs(meter.limit_bytes() - limit) < 100 * MIB, "what the allocator holds counts as free"
        assert before < limit
        assert kept.sum() > 0
