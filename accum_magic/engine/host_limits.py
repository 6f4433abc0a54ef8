"""How large the resident memory of this process can become: what the machine has, and what its keepers allow."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

PROC = Path("/proc")
CGROUPS = Path("/sys/fs/cgroup")
# limit, use, and what of the use is page cache that goes first when memory is wanted; v2 (`high` throttles), then v1
_LEVELS = (
    ("memory.max", "memory.current", "inactive_file"),
    ("memory.high", "memory.current", "inactive_file"),
    ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
)
_RESOURCES = (("RLIMIT_AS", "VmSize"), ("RLIMIT_DATA", "VmData"))


def host_limit_bytes(
    resident_bytes: int,
    *,
    proc: Path = PROC,
    cgroups: Path = CGROUPS,
    environ: Mapping[str, str] = os.environ,
    limits: Mapping[str, int] | None = None,
) -> int:
    """Return the most that the resident memory of this process, now `resident_bytes`, can become.

    It is the least of what the machine has available, what each control group above the process leaves it, what
    Binder and JupyterHub say in `MEM_LIMIT`, and what the resource limits allow (`limits` in place of the system's).
    """
    status = kibibytes(proc / "self/status")
    found = [
        _available(resident_bytes, status, proc),
        *_of_cgroups(resident_bytes, proc, cgroups),
        *_of_resources(resident_bytes, status, _resource_limits() if limits is None else limits),
    ]
    if environ.get("MEM_LIMIT", "").isdigit():
        found.append(int(environ["MEM_LIMIT"]))
    return max(0, min(found))


def kibibytes(path: Path) -> dict[str, int]:
    """Return the lines `VmRSS:  512 kB` of a file, in bytes; none where there is no such file."""
    rows = (line.split() for line in _text(path).splitlines())
    # isdigit: a process may be named `python kB`
    return {row[0].rstrip(":"): int(row[1]) * 1024 for row in rows if row[2:] == ["kB"] and row[1].isdigit()}


def _available(resident_bytes: int, status: Mapping[str, int], proc: Path) -> int:
    available = kibibytes(proc / "meminfo").get("MemAvailable")
    if available is None:
        import psutil  # where there is no /proc

        return int(psutil.virtual_memory().available) + resident_bytes
    # the pages of mapped files (300 MiB of torch's libraries) are in MemAvailable already: they could be dropped
    return available + min(resident_bytes, status.get("RssAnon", resident_bytes) + status.get("RssShmem", 0))


def _of_cgroups(resident_bytes: int, proc: Path, cgroups: Path) -> Iterator[int]:
    """Yield what each control group of this process leaves it, from its own up to the root."""
    for line in _text(proc / "self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers and "memory" not in controllers.split(","):
            continue
        roots = [cgroups / "memory"] if controllers else [cgroups, cgroups / "unified"]
        # seen from inside a container, the path may be the host's, or `/../..`: then the root is the container's own
        parts = [part for part in path.split("/") if part]
        depth = 0 if ".." in parts else len(parts)
        for root in roots:
            for length in range(depth, -1, -1):
                yield from _of_cgroup(root.joinpath(*parts[:length]), resident_bytes)


def _of_cgroup(folder: Path, resident_bytes: int) -> Iterator[int]:
    for limit_file, use_file, cache in _LEVELS:
        limit = _text(folder / limit_file).strip()
        if limit.isdigit():  # or `max`
            use = int(_text(folder / use_file).strip() or 0)
            rows = (line.split() for line in _text(folder / "memory.stat").splitlines())
            use -= next((int(row[1]) for row in rows if row[0] == cache), 0)
            yield int(limit) - max(0, use - resident_bytes)


def _of_resources(resident_bytes: int, status: Mapping[str, int], limits: Mapping[str, int]) -> Iterator[int]:
    """Yield what is left of the resource limits: address space that is reserved and never touched counts there."""
    for name, used in _RESOURCES:
        if name in limits and used in status:
            yield resident_bytes + limits[name] - status[used]


def _resource_limits() -> dict[str, int]:
    if sys.platform == "win32":
        return {}
    import resource

    soft = {name: resource.getrlimit(getattr(resource, name))[0] for name, _ in _RESOURCES if hasattr(resource, name)}
    return {name: limit for name, limit in soft.items() if limit != resource.RLIM_INFINITY}


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError:  # what is not there, or may not be read, limits nothing
        return ""
