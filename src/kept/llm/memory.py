"""How much memory an LLM's keys and values may take, and which files take the rest."""

from __future__ import annotations

import re
from pathlib import Path

import torch

from kept.cache import Offloaded
from kept.errors import OptionError
from kept.format import format_bytes, parse_bytes
from kept.machine import describe_machine

# Keywords of LLM that have had another name, and what to do instead.
RENAMED = {
    "kv_folder": "pass offload_folder, and as offload_memory how much of it is in memory; "
    "kv_memory is how much all keys and values may take together"
}
_FORMS = "give bytes, as a number or as in 512MiB or 2GiB, or a share of this machine's, as in 40%"


def read_place(folder: str | Path | None, memory: int | None) -> Offloaded | None:
    """Where offload_folder and offload_memory have caches lie, None: in memory.

    Raises OptionError for one without the other, or for what will not do.
    """
    if folder is None and memory is None:
        return None
    if folder is None or memory is None:
        raise OptionError(
            f"offload_folder={folder} and offload_memory={memory} go together: the folder takes "
            "what the memory does not hold; give both or neither"
        )
    return Offloaded(folder, memory)


def read_kv_memory(asked: int | str | None, device: str | torch.device | None) -> int | None:
    """The bytes that all keys and values of an LLM may take together; None: what memory holds.

    asked: bytes, or a string as "2GiB" or "40%", a share of this machine's memory as its control
    group limits it. device: where they lie, None: the CPU. Raises OptionError for what is no size,
    less than a byte, a share of another device's memory, or more than this machine has.
    """
    if asked is None:
        return None
    total = describe_machine().total_memory if _is_cpu(device) else None
    found = _read_size(asked, device, total)
    if found < 1:
        raise OptionError(f"kv_memory={asked!r} holds no token; {_FORMS}")
    if total is not None and found > total:
        raise OptionError(
            f"kv_memory={asked!r} is more than this machine's memory of {format_bytes(total)}; "
            "give less"
        )
    return found


def room_for(kv_memory: int | None, device: torch.device) -> int | None:
    """The bytes that keys and values of all texts may take: those given, or half of what is free;
    None: nobody knows, as on another device than the CPU."""
    if kv_memory is not None or device.type != "cpu":
        return kv_memory
    available = describe_machine().available_memory
    return None if available is None else available // 2


def _is_cpu(device: object) -> bool:
    return device is None or str(device).partition(":")[0] == "cpu"


def _read_size(asked: object, device: object, total: int | None) -> int:
    if isinstance(asked, int) and not isinstance(asked, bool):
        return asked
    if not isinstance(asked, str):
        raise OptionError(f"kv_memory={asked!r:.100} is a {type(asked).__name__}; {_FORMS}")
    share = re.fullmatch(r"\s*(\d{1,3}(?:\.\d+)?)\s*%\s*", asked)
    if share is None:
        try:
            return parse_bytes(asked)
        except OptionError as error:
            raise OptionError(f"kv_memory={asked!r:.100} is no size; {_FORMS}") from error
    percent = float(share[1])
    if percent > 100:
        raise OptionError(f"kv_memory={asked!r} is more than all of it; give at most 100%")
    if total is None:
        where = "this machine, whose memory is not known" if _is_cpu(device) else str(device)
        raise OptionError(f"kv_memory={asked!r} would be a share of {where}; give bytes")
    return int(total * percent / 100)
