"""What happens to requests and in passes, as lines of the log "kept.engine", at its level DEBUG.

    logging.getLogger("kept.engine").setLevel(logging.DEBUG)

Requests go by the number in which they came. Where nobody listens a line costs a look at its level.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from kept.engine.request import Request
from kept.format import format_seconds

if TYPE_CHECKING:
    from kept.engine.counters import PoolBlocks
    from kept.engine.passes import Work

log = logging.getLogger("kept.engine")


def listens() -> bool:
    """Whether anybody reads these lines."""
    return log.isEnabledFor(logging.DEBUG)


def arrived(request: Request) -> None:
    """It was heard of, and waits."""
    if listens():
        live = request.live[0]
        whose = f" of {request.tenant!r}" if request.tenant else ""
        first = f", priority {request.priority}" if request.priority else ""
        texts = f", {request.width} sequences" if request.width > 1 else ""
        log.debug(
            "request %d%s arrives: %s prompt tokens, at most %s new%s%s",
            request.number, whose, f"{live.history.num_prompt:,}",
            f"{live.limit - live.history.num_prompt:,}", texts, first,
        )  # fmt: skip


def held(request: Request, leader: Request, num_shared: int) -> None:
    """It waits for another to compute what both begin with."""
    if listens() and leader is request:
        log.debug("request %d waits for up to %s stored tokens", request.number, f"{num_shared:,}")
    elif listens():
        log.debug(
            "request %d waits for request %d to read the %s tokens that both begin with",
            request.number, leader.number, f"{num_shared:,}",
        )  # fmt: skip


def started(request: Request) -> None:
    """It has slots, and what was found of its prompt."""
    if not listens():
        return
    usage, live = request.live[0].usage, request.live[0]
    waited = format_seconds(time.perf_counter() - usage.arrived)
    if usage.num_parked:
        log.debug(
            "request %d goes on, %s after it came: %s of %s tokens found", request.number, waited,
            f"{live.num_computed:,}", f"{len(live.history):,}",
        )  # fmt: skip
        return
    sources = ", ".join(f"{count:,} {source}" for source, count in usage.cached.items())
    log.debug(
        "request %d starts after %s: %s prompt tokens, cached: %s%s", request.number, waited,
        f"{live.history.num_prompt:,}", sources or "none", f"; {usage.miss}" if usage.miss else "",
    )  # fmt: skip


def parked(request: Request) -> None:
    """It has given up its room, and waits again."""
    if listens():
        drawn = sum(c.history.num_generated for c in request.live)
        log.debug("request %d is parked with %s tokens drawn", request.number, f"{drawn:,}")


def ended(request: Request) -> None:
    """Its texts are final."""
    if not listens():
        return
    first = request.group.results[0]
    drawn = sum(c.history.num_generated for c in request.group.results)
    took = ""
    if first.first_token_at is not None:
        took = f", the first after {format_seconds(first.first_token_at - first.usage.arrived)}"
    error = "" if first.error is None else f": {first.error}"
    log.debug(
        "request %d ends after %s: %s, %s tokens%s%s", request.number,
        format_seconds(time.perf_counter() - first.usage.arrived),
        first.finish_reason or "interrupted", f"{drawn:,}", took, error,
    )  # fmt: skip


def passed(
    work: Sequence[Work], seconds: float, num_waiting: int, blocks: PoolBlocks | None
) -> None:
    """A pass that read of a prompt has been taken; others would be a line a token."""
    read = [item for item in work if item.is_prompt]
    if not read or not listens():
        return
    of = ", ".join(f"{item.num_new:,} of request {item.request.number}" for item in read)
    pool = ""
    if blocks is not None:
        pool = f"; blocks: {blocks.free:,} free, {blocks.findable:,} findable, {blocks.held:,} held"
    log.debug(
        "pass of %s: %d decode, prompts: %s; %d wait%s", format_seconds(seconds),
        len(work) - len(read), of, num_waiting, pool,
    )  # fmt: skip
