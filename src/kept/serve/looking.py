"""An engine's view in the words of the wire, as far as a tenant may see it.

Who is the only tenant sees all. Where there are several, each sees its own requests and texts and
what blocks there are; of others neither names nor lengths, and of steps only how long they took, as
the rows of one tell how long another's prompt is and whether it was known.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from kept.blocks import KnownText
from kept.engine import BlockMap, BlockState, EngineView, RequestNote, StepNote
from kept.serve.tenants import OTHERS, SHARED

MOST_USERS: Final = 63  # that a cell of a map tells apart

Cells = NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class Eyes:
    """Who looks. tenant: None: somebody who may see all."""

    tenant: str | None

    def sees(self, tenant: str | None) -> bool:
        """Whether it may know what is this tenant's."""
        return self.tenant is None or tenant == self.tenant

    def called(self, tenant: str | None) -> str:
        """What a tenant is called before it; None: one of several."""
        if tenant is None:
            return SHARED if self.tenant is None else OTHERS
        return tenant if self.sees(tenant) else OTHERS


def wall_clock(monotonic: float) -> float:
    """Seconds of 1970 for a time of `time.monotonic`."""
    return round(time.time() - time.monotonic() + monotonic, 3)


def text_entry(text: KnownText, tenant: str | None, eyes: Eyes) -> dict[str, Any]:
    """An entry of `/kept/cache`."""
    source = "computed" if not text.num_stored else "both"
    return {
        "id": text.id,
        "object": "kept.cache_entry",
        "tokens": text.num_tokens,
        "bytes": text.num_bytes,
        "own_tokens": text.num_own_tokens,
        "own_bytes": text.num_own_bytes,
        "owner": eyes.called(tenant),
        "source": "store" if text.num_stored >= text.num_tokens else source,
        "stored_tokens": text.num_stored,
        "last_used": wall_clock(text.last_use),
        "retained_until": wall_clock(text.until) if text.until > time.monotonic() else None,
        "in_use": text.is_leased,
    }


def request_entry(note: RequestNote) -> dict[str, Any]:
    """A request that waits, runs or has ended."""
    return {
        "number": note.number,
        "tenant": note.tenant,
        "state": note.state,
        "waits_for": note.waits_for,
        "age": round(note.age, 3),
        "prompt_tokens": note.prompt_tokens,
        "cached_from": note.cached_from,
        "miss_reason": note.miss_reason,
        "miss": note.miss,
        "computed_tokens": note.computed_tokens,
        "generated_tokens": note.generated_tokens,
        "drafted_tokens": note.drafted_tokens,
        "accepted_tokens": note.accepted_tokens,
        "queue_time": note.queue_time,
        "time_to_first_token": note.time_to_first_token,
        "ended": None if note.ended is None else wall_clock(note.ended),
    }


def requests_seen(notes: Sequence[RequestNote], eyes: Eyes) -> list[dict[str, Any]]:
    """Those that it may know of. Whether another's salt knows a text is none of its business."""
    found = [request_entry(note) for note in notes if eyes.sees(note.tenant)]
    if eyes.tenant is not None:
        for entry in found:
            if entry["miss_reason"] == "other-salt":
                entry["miss_reason"], entry["miss"] = "unknown", "nothing known begins like it"
    return found


def step_row(step: StepNote, eyes: Eyes) -> list[float]:
    """Number, end, seconds, and rows read, decoded and drafted, tokens drawn, requests running."""
    rows = [step.read, step.decoded, step.drafted, step.drawn, step.running]
    if eyes.tenant is not None:
        rows = [0] * len(rows)
    return [step.number, wall_clock(step.ended), round(step.seconds, 6), *rows]


def shares_seen(view: EngineView, eyes: Eyes) -> list[dict[str, Any]]:
    """What each tenant has, the others together."""
    found: dict[str, dict[str, Any]] = {}
    for share in view.tenants:
        name = eyes.called(share.tenant)
        entry = found.setdefault(name, {"tenant": name, "waiting": 0, "running": 0, "cost": 0.0})
        entry["cost"] += share.cost
        if eyes.sees(share.tenant):
            entry["waiting"] += share.waiting
            entry["running"] += share.running
    return list(found.values())


def owners_seen(view: EngineView, eyes: Eyes) -> tuple[list[str], NDArray[np.int32]]:
    """The names of owners, nobody's first, and of each of the view's owners the number of its."""
    names = [""]
    numbers = [0]
    for owner in view.owners[1:]:
        name = eyes.called(owner.tenant)
        if name not in names[1:]:
            names.append(name)
        numbers.append(names.index(name, 1))
    return names, np.array(numbers, np.int32)


def cells_of(blocks: BlockMap, names: Sequence[str], numbers: NDArray[np.int32]) -> Cells:
    """A number for each block: its state, whether it was read from files (4), by how many texts and
    sequences it is used (8), up to `MOST_USERS`, and its owner (512)."""
    owners = numbers[np.minimum(blocks.owners, len(numbers) - 1)]
    users = np.minimum(blocks.users, MOST_USERS).astype(np.int32)
    stored = blocks.stored.astype(np.int32)
    if OTHERS in names:
        hidden = owners == names.index(OTHERS)
        users[hidden], stored[hidden] = 1, 0
    taken = blocks.states != BlockState.FREE
    found = blocks.states.astype(np.int32) + (stored << 2) + (users << 3) + (owners << 9)
    return np.where(taken, found, 0)


def changes_of(before: Cells, now: Cells) -> list[list[int]]:
    """Runs of cells that have changed: first, how many, what they are now."""
    padded = np.zeros(len(now), np.int32)
    common = min(len(before), len(now))
    padded[:common] = before[:common]
    changed = np.flatnonzero(padded != now)
    if not len(changed):
        return []
    values = now[changed]
    ends = np.flatnonzero((np.diff(changed) != 1) | (np.diff(values) != 0)) + 1
    firsts = np.concatenate([[0], ends])
    counts = np.diff(np.concatenate([firsts, [len(changed)]]))
    rows = np.stack([changed[firsts], counts, values[firsts]], axis=1)
    found: list[list[int]] = rows.tolist()
    return found
