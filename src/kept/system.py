"""What the operating system says of this machine: its memory, its CPU, its containers' limits."""

from __future__ import annotations

import math
import os
import platform
import re
import sys
from functools import cache
from pathlib import Path


def memory() -> tuple[int | None, int | None]:
    """Return (total, available) bytes, cut by the memory limits of the control groups."""
    total = available = None
    try:
        text = Path("/proc/meminfo").read_text()
        kib = {name: int(value) for name, value in re.findall(r"^(\w+):\s+(\d+) kB", text, re.M)}
        total, available = kib["MemTotal"] * 1024, kib["MemAvailable"] * 1024
    except (OSError, KeyError):  # not Linux
        total = _sysconf("SC_PHYS_PAGES", "SC_PAGE_SIZE")
        available = _sysconf("SC_AVPHYS_PAGES", "SC_PAGE_SIZE")
    limits = zip(cgroup_files("memory.max"), cgroup_files("memory.current"), strict=False)
    for limit, used in limits:
        if limit != "max":
            total = min(total or sys.maxsize, int(limit))
            available = min(available or sys.maxsize, max(int(limit) - int(used), 0))
    return total, available


def _sysconf(*names: str) -> int | None:
    """Multiply values of sysconf; None where the system lacks one."""
    try:
        product = math.prod(os.sysconf(name) for name in names)
    except (AttributeError, ValueError, OSError):
        return None
    return product if product > 0 else None


def cgroup_files(name: str) -> list[str]:
    """Read a control file (cgroup v2) of this process's group and of every group above it."""
    root = Path("/sys/fs/cgroup")
    try:
        lines = Path("/proc/self/cgroup").read_text().splitlines()
    except OSError:
        return []
    own = next((line[3:] for line in lines if line.startswith("0::")), None)
    if own is None:
        return []
    group = root / own.lstrip("/")
    texts = []
    for folder in (group, *group.parents):
        path = folder / name
        if folder.is_relative_to(root) and path.is_file():
            texts.append(path.read_text().strip())
    return texts


@cache
def cpu_name() -> str:
    if sys.platform == "linux":
        text = Path("/proc/cpuinfo").read_text()
        match = re.search(r"^(?:model name|Model)\s*:\s*(.+)$", text, re.M)
        if match:
            return match[1].strip()
    return platform.processor() or platform.machine()


@cache
def last_level_cache() -> int | None:
    """Add up the distinct caches of the highest level, as Linux describes them."""
    caches: dict[tuple[int, str], int] = {}
    for index in Path("/sys/devices/system/cpu").glob("cpu[0-9]*/cache/index[0-9]*"):
        try:
            level, size, shared = (
                (index / name).read_text().strip() for name in ("level", "size", "shared_cpu_list")
            )
        except OSError:  # some virtual machines describe a cache without its size
            continue
        caches[int(level), shared] = int(size.rstrip("K")) * 1024
    last = max((level for level, _ in caches), default=None)
    return sum(size for (level, _), size in caches.items() if level == last) or None
