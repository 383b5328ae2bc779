"""What a request has waited for and been given, which its completions tell."""

from __future__ import annotations

import time
from dataclasses import dataclass, field


@dataclass(slots=True)
class Usage:
    """Of one request, whose texts share it.

    arrived, admitted: when, as `time.perf_counter` counts; None: not yet.
    num_computed: rows of the model's passes. cached: how many tokens of the prompt were not
    computed, by where their keys came from ("tree": of texts before; "store": read from files;
    "running": of one that was being computed; "conversation": of the turns before). num_parked: how
    often it made room for others. miss: why the prefix tree did not hold more of the prompt; None:
    nothing was missing, or it was not asked. miss_reason: the same as a name, see `Reason`.
    """

    arrived: float = field(default_factory=time.perf_counter)
    admitted: float | None = None
    num_computed: int = 0
    cached: dict[str, int] = field(default_factory=dict)
    num_parked: int = 0
    miss: str | None = None
    miss_reason: str | None = None
