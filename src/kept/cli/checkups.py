"""What can be wrong with a machine, one check each; none of them changes or measures anything."""

from __future__ import annotations

import errno
import os
import shutil
import socket
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from kept.cli.extras import EXTRAS, missing_extras
from kept.format import format_bytes
from kept.options import PREFIX_STORE

State = Literal["ok", "warning", "error"]

FEW_FILES: Final = 4096  # descriptors; each connection takes one
NO_ADDRESS: Final = (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)
LITTLE_ROOM: Final = 2 << 30  # bytes of a disk
FAR: Final = frozenset({"nfs", "nfs4", "cifs", "smb3", "fuse.sshfs", "9p", "ceph", "glusterfs"})
NO_EARLIER: Final = 1_750_000_000  # seconds of a clock that may be right: June 2025


@dataclass(frozen=True, slots=True)
class Finding:
    """What a check has found. remedy: what to do about it, empty where nothing is to be done."""

    name: str
    state: State
    text: str
    remedy: str = ""


@dataclass(frozen=True, slots=True)
class Asked:
    """What the machine is to do. weights: bytes of the model, None: unknown. store: the folder of
    the prefix store."""

    host: str
    port: int
    weights: int | None
    store: str = PREFIX_STORE


def native_module(asked: Asked) -> Finding:
    """Whether the kernels are there."""
    from kept.machine import NATIVE_AVAILABLE, native_error

    if NATIVE_AVAILABLE:
        return Finding("native module", "ok", "built")
    return Finding(
        "native module",
        "error",
        f"missing: {native_error()}",
        "install a C++20 compiler and run `pip install .` again; until then torch computes, many "
        "times slower and without the promise of equal bits",
    )


def instructions(asked: Asked) -> Finding | None:
    """Whether the best kernels this CPU can run are used."""
    from kept.machine import NATIVE_AVAILABLE

    if not NATIVE_AVAILABLE:
        return None
    from kept import _native
    from kept.ops import isa

    used, names = isa(), list(_native.isa_names())
    if os.environ.get("KEPT_ISA") and used != names[0]:
        text, remedy = f"{used}, by KEPT_ISA", "unset KEPT_ISA for the best"
        return Finding("instructions", "warning", text, remedy)
    if used == "portable":
        return Finding(
            "instructions",
            "warning",
            f"{used} C++: this CPU, or what the virtual machine shows of it, has no vectors",
            "give the virtual machine the host's CPU model (QEMU: -cpu host)",
        )
    return Finding("instructions", "ok", f"{used}, of {', '.join(names)}")


def threads(asked: Asked) -> Finding:
    """Whether as many threads compute as there are CPUs to be had."""
    from kept.machine import num_cores
    from kept.ops import num_threads

    cores, count = num_cores(), num_threads()
    if count > cores:
        return Finding(
            "threads",
            "warning",
            f"{count} on {cores} CPUs, as affinity and the control group's quota leave",
            f"unset KEPT_NUM_THREADS, or set it to {cores}; more wait for each other",
        )
    shown = os.cpu_count() or cores
    behind = "" if shown <= cores else f" (of {shown} CPUs; the rest are another's by quota)"
    return Finding("threads", "ok", f"{count} on {cores} CPUs{behind}")


def load(asked: Asked) -> Finding:
    """Whether others compute here."""
    from kept.machine import num_cores

    now, cores = os.getloadavg()[0], num_cores()
    if now > 0.5 * cores:
        return Finding(
            "load",
            "warning",
            f"{now:.1f} tasks ran in the last minute, on {cores} CPUs",
            "end them, or give kept CPUs of its own (taskset, cpuset); a step waits for its "
            "slowest thread",
        )
    return Finding("load", "ok", f"{now:.1f} in the last minute")


def huge_pages(asked: Asked) -> Finding | None:
    """Whether the system may give weights and cache large pages."""
    text = _read("/sys/kernel/mm/transparent_hugepage/enabled")
    if text is None:
        return None
    chosen = text[text.index("[") + 1 : text.index("]")] if "[" in text else text
    if chosen == "never":
        return Finding(
            "huge pages",
            "warning",
            "off",
            "echo madvise | sudo tee /sys/kernel/mm/transparent_hugepage/enabled",
        )
    return Finding("huge pages", "ok", chosen)


def memory(asked: Asked) -> Finding:
    """Whether the model and some cache fit."""
    from kept import system

    total, free = system.memory()
    if total is None or free is None:
        return Finding("memory", "ok", "unknown")
    text = f"{format_bytes(free)} available of {format_bytes(total)}"
    if asked.weights is None:
        return Finding("memory", "ok", text)
    text += f", the model takes {format_bytes(asked.weights)}"
    if asked.weights > free:
        remedy = "take a smaller model, `kept quantize` it, or end what holds memory"
        return Finding("memory", "error", text, remedy)
    if asked.weights * 1.25 > free:
        remedy = "little is left for keys and values; see `kept plan`"
        return Finding("memory", "warning", text, remedy)
    return Finding("memory", "ok", text)


def swap(asked: Asked) -> Finding | None:
    """Whether the system writes memory to disk."""
    text = _read("/proc/meminfo")
    if text is None:
        return None
    kib = {line.split(":")[0]: int(line.split()[1]) for line in text.splitlines() if ":" in line}
    used = (kib.get("SwapTotal", 0) - kib.get("SwapFree", 0)) << 10
    if used > 256 << 20:
        return Finding(
            "swap",
            "warning",
            f"{format_bytes(used)} of memory lie on disk",
            "end what takes memory, or set a smaller --kv-memory; a step that waits for a disk "
            "takes a hundred times as long",
        )
    return Finding("swap", "ok", f"{format_bytes(used)} in use" if used else "none in use")


def store(asked: Asked) -> Finding:
    """Whether the folder of the prefix store will do."""
    if asked.store == "off":
        return Finding("prefix store", "ok", "off")
    folder = Path(asked.store).expanduser()
    there = next(p for p in (folder, *folder.absolute().parents) if p.exists())
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        return Finding(
            "prefix store",
            "error",
            f"{folder} cannot be written to",
            "give another folder by --prefix-store, or --prefix-store off",
        )
    kind, room = _file_system(there), shutil.disk_usage(there).free
    text = f"{folder}, {format_bytes(room)} free" + (f" of {kind}" if kind else "")
    if kind in FAR:
        remedy = "give a folder of a local disk by --prefix-store; what is far is read too late"
        return Finding("prefix store", "warning", text, remedy)
    if kind in ("tmpfs", "ramfs"):
        remedy = "give a folder of a disk by --prefix-store; this one is memory"
        return Finding("prefix store", "warning", text, remedy)
    if room < LITTLE_ROOM:
        remedy = "make room, give another folder by --prefix-store, or a smaller --store-bytes"
        return Finding("prefix store", "warning", text, remedy)
    return Finding("prefix store", "ok", text)


def open_files(asked: Asked) -> Finding | None:
    """Whether a server may have many connections."""
    if sys.platform == "win32":
        return None
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < FEW_FILES:
        wanted = 65_536 if hard == resource.RLIM_INFINITY else min(hard, 65_536)
        return Finding(
            "open files",
            "warning",
            f"at most {soft}, and each connection of a server takes one",
            f"ulimit -n {wanted} before `kept serve`, or LimitNOFILE= in its systemd unit",
        )
    return Finding("open files", "ok", f"at most {soft}")


def port(asked: Asked) -> Finding:
    """Whether a server could listen."""
    where = f"{asked.port} of {asked.host}"
    try:
        found = socket.getaddrinfo(asked.host, asked.port, type=socket.SOCK_STREAM)[0]
        with socket.socket(found[0], found[1]) as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(found[4])
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or error
        remedy = f"end what listens there (`ss -ltnp 'sport = :{asked.port}'`), or give --port"
        if isinstance(error, socket.gaierror | UnicodeError) or error.errno in NO_ADDRESS:
            remedy = "give an address of this machine by --host; `ip addr` lists them"
        return Finding("port", "error", f"{where} cannot be had: {reason}", remedy)
    return Finding("port", "ok", f"{where} is free")


def extras(asked: Asked) -> Finding:
    """Which parts of kept that need more packages are there."""
    missing = missing_extras()
    there = ", ".join(name for name in EXTRAS if name not in missing) or "none"
    if missing:
        names = ",".join(sorted(missing))
        state: State = "warning" if "serve" in missing else "ok"
        return Finding("extras", state, there, f"pip install 'kept-llm[{names}]' for the others")
    return Finding("extras", "ok", there)


def clock(asked: Asked) -> Finding:
    """Whether the clock can be right."""
    now = time.time()
    text = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(now))
    if now < NO_EARLIER:
        remedy = "set it (timedatectl set-ntp true); hubs refuse to talk with one that is wrong"
        return Finding("clock", "error", text, remedy)
    return Finding("clock", "ok", text)


CHECKS: Final[tuple[Callable[[Asked], Finding | None], ...]] = (
    *(native_module, instructions, threads, load, huge_pages, memory, swap, store, open_files),
    *(port, extras, clock),
)


def run(asked: Asked) -> Iterator[Finding]:
    """Every check that this system has an answer to, in order."""
    for check in CHECKS:
        found = check(asked)
        if found is not None:
            yield found


def _read(path: str) -> str | None:
    try:
        return Path(path).read_text().strip()
    except OSError:
        return None


def _file_system(folder: Path) -> str | None:
    """The kind of file system a folder is of, as Linux names it."""
    text, best = _read("/proc/self/mounts"), ("", None)
    for line in (text or "").splitlines():
        _, point, kind, *_ = line.split(" ")
        point = point.replace("\\040", " ")
        if folder.absolute().is_relative_to(point) and len(point) >= len(best[0]):
            best = (point, kind)  # type: ignore[assignment]
    return best[1]
