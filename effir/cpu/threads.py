"""How many threads to compute with: the cores that this process may use, which can be fewer than the machine shows.

Libraries look at the affinity, not at a container's CPU quota: with a quota of 2 on a machine of 64 processors, 64
threads wait for each other most of the time. Two hyper-threads share the units that multiply matrices.
"""

import logging
import math
import os
from functools import cache
from pathlib import Path

VARIABLE = "OMP_NUM_THREADS"


def limit_threads() -> None:
    """Let PyTorch, FAISS and NumPy use the usable cores alone; call it before they are imported.

    Where the user has set ``OMP_NUM_THREADS``, or the machine shows what may be used, nothing changes.
    """
    if VARIABLE not in os.environ and (cores := usable_cores()) < shown_processors():
        os.environ[VARIABLE] = str(cores)


@cache
def say_threads() -> None:
    """Log, once in a process, how many threads compute, where the machine shows more than may be used."""
    shown = shown_processors()
    if (cores := usable_cores()) < shown:
        logging.getLogger("effir").info(
            f"computing on {os.environ.get(VARIABLE, cores)} of the {shown} processors that this machine shows"
        )


def shown_processors() -> int:
    """Count the processors that the machine shows, hyper-threads included."""
    return os.cpu_count() or 1


def usable_cores(root: Path = Path("/")) -> int:
    """Count the physical cores that this process may run on; at most the quota of its cgroups, rounded up."""
    allowed = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(shown_processors())
    cores = {_read(root / f"sys/devices/system/cpu/cpu{i}/topology/thread_siblings_list") or str(i) for i in allowed}
    return max(1, math.ceil(min(len(cores), _quota(root))))


def _quota(root: Path) -> float:
    """Return the processors that the cgroups of this process may use, the least of all above it; inf: no limit."""
    least = math.inf
    for line in _read(root / "proc/self/cgroup").splitlines():
        _, kinds, path = line.split(":", 2)
        if not kinds or "cpu" in kinds.split(","):
            mount = root / "sys/fs/cgroup" / kinds
            place = mount / path.strip("/")
            above = [place, *place.parents]
            for folder in above[: above.index(mount) + 1]:
                least = min(least, _limit(folder))
    return least


def _limit(folder: Path) -> float:
    quota, _, period = _read(folder / "cpu.max").partition(" ")  # version 2, then version 1
    if not period:
        quota, period = _read(folder / "cpu.cfs_quota_us"), _read(folder / "cpu.cfs_period_us")
    known = quota.isdecimal() and period.isdecimal() and int(quota) > 0 and int(period) > 0  # "max" and -1: none
    return int(quota) / int(period) if known else math.inf


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii").strip()
    except (OSError, ValueError):
        return ""
