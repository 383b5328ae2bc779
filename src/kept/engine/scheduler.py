"""Which requests run, what each pass computes of them, and who makes room for whom."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from heapq import heapify, heappop, heappush
from itertools import count
from typing import Final

from kept.engine import journal
from kept.engine.continuation import Continuation
from kept.engine.fairness import OUTPUT_COST, PROMPT_COST, Turn
from kept.engine.holds import Hold, Holds
from kept.engine.passes import Passes, Work
from kept.engine.request import Phase, Request
from kept.engine.shares import Shares
from kept.engine.step_time import StepTime, attended_by
from kept.engine.waiting import Waiting
from kept.errors import OptionError

LEAD: Final = 4096.0  # cost served to all while one that does not fit may be passed
MAX_REFUSED: Final = 8  # requests tried in one step beyond which nobody is


class Scheduler:
    """Starts requests, plans passes, chooses who is parked. Not to be shared between threads.

    Order: by priority, then by what the tenant was served (`FairShare`), then by arrival. Who comes
    first and does not fit may be passed by other tenants' requests that do, until `LEAD` has been
    served since; then nobody starts before it. So a request starts, whatever comes behind it, once
    those of higher priority leave room.

    running: those started and not parked, in that order. shares: what tenants were served.
    """

    def __init__(
        self,
        max_slots: int,
        prefill_chunk: int | None,
        *,
        max_step_time: float | None = None,
        weights: Mapping[str, float] | None = None,
        step_time: StepTime | None = None,
    ) -> None:
        """max_slots: sequences computed side by side. weights: shares of tenants, 1 for others.

        prefill_chunk, max_step_time: see `Passes`. Raises OptionError for a weight not above 0.
        """
        self.max_slots = max_slots
        self.step_time = step_time or StepTime()
        self.passes = Passes(prefill_chunk, self.step_time, max_step_time)
        self.running: list[Request] = []
        self.shares = Shares(weights)
        self._weights = weights
        self._waiting, self._holds = Waiting(max_slots, weights), Holds()
        self._deadlines: list[tuple[float, int, Request]] = []
        self._numbers = count()
        self._used = 0  # slots
        self._served = 0.0  # cost, to all

    def restart(self, requests: Iterable[Request]) -> None:
        """Begin anew with these unfinished requests, all of them waiting, where an exception may
        have left anything here half done. What tenants were served stays."""
        self._holds = Holds()
        self.running, self._deadlines, self._used = [], [], 0
        found = list(requests)
        for request in found:
            request.num_promised = 0
            request.has_caught_up, request.refused_at = False, None
            self._number(request)
        self._waiting = self._waiting.holding(found)

    @property
    def num_waiting(self) -> int:
        """Requests that have not started or are parked, the held ones too."""
        return len(self._waiting) + len(self._holds)

    @property
    def has_work(self) -> bool:
        """Whether any request is unfinished."""
        return bool(self.running or self.num_waiting)

    @property
    def is_full(self) -> bool:
        """Whether nobody can start for want of a slot, nor is anybody held any longer than that."""
        return self._used >= self.max_slots and not len(self._holds)

    def turn(self, request: Request) -> Turn:
        """Where the request's tenant stands among those with prompts to read."""
        return self._waiting.share(request.priority).turn(request.tenant)

    @property
    def moves(self) -> bool:
        """Whether sequences of somebody running go on from each other's keys at every step."""
        return any(request.group.moves for request in self.running)

    def check(self, request: Request) -> None:
        """Raise OptionError for a request that needs more slots than there are."""
        if request.width > self.max_slots:
            raise OptionError(
                f"num_beams or num_return_sequences of {request.width} needs as many slots, and "
                f"this engine has {self.max_slots}; make it with more"
            )

    def add(self, request: Request) -> None:
        """Queue a new request, which has been checked."""
        assert request.phase is Phase.OUTSIDE
        self._number(request)
        self._waiting.enter(request)
        self._waiting.add(request)

    def _number(self, request: Request) -> None:
        request.number = next(self._numbers)
        if request.deadline is not None:
            heappush(self._deadlines, (request.deadline, request.number, request))
        journal.arrived(request)

    def admit(
        self,
        can_start: Callable[[Request], bool],
        hold: Callable[[Request], Hold | None] | None = None,
    ) -> list[Request]:
        """Start waiting requests while their slots are free; those started, in their order.

        can_start: asked of one request after the other, whether there is room besides slots; what
        it grants must be set aside at once, and what the cache holds of the prompt be counted as
        computed. hold: asked before, whether to wait for a running request that computes the same
        prefix; nobody is kept waiting by those held. Neither is asked where no slot is free.
        """
        for free in self._holds.take_free():
            self._waiting.add(free)
        started: list[Request] = []
        refused: list[Request] = []
        while self._used < self.max_slots and self._may_pass(refused):
            request = self._waiting.first(refused)
            if request is None:
                break
            held = hold(request) if hold is not None else None
            if held is not None and not held.is_over:
                self._waiting.remove(request)
                self._holds.add(request, held)
                journal.held(request, held.leader, held.num_tokens)
            elif request.width <= self.max_slots - self._used and can_start(request):
                self._start(request, refused)
                started.append(request)
            else:
                refused.append(request)
                if request.refused_at is None:
                    request.refused_at = self._served
        for request in refused:
            self._waiting.settle(request)
        return started

    def _may_pass(self, refused: list[Request]) -> bool:
        if len(refused) >= MAX_REFUSED:
            return False
        since = [r.refused_at for r in refused if r.refused_at is not None]
        return not since or self._served - min(since) < LEAD

    def _start(self, request: Request, refused: list[Request]) -> None:
        share = self._waiting.share(request.priority)
        alike = [r.tenant for r in refused if r.priority == request.priority]
        share.start(request.tenant, min(map(share.standing, [*alike, request.tenant])))
        self._waiting.remove(request)
        request.phase, request.refused_at = Phase.RUNNING, None
        request.started_at = share.standing(request.tenant)
        request.num_promised = sum(c.num_pending for c in request.live)
        request.has_caught_up, request.reads_from = False, None
        share.promise(request.tenant, request.num_promised)
        self._used += request.width
        self.running.append(request)
        journal.started(request)

    def next(self, live: Sequence[Continuation], most: Sequence[int | None]) -> list[Work]:
        """The next pass over `live`, in their order, all of running requests.

        most: how many tokens each may bring to its cache in one pass; None: any number. Who
        computes what others are held for reads with the highest of their priorities.
        """
        owner = {c: request for request in self.running for c in request.live}
        return self.passes.plan(live, most, owner, self.turn, self._holds.urgency)

    def computed(self, work: Sequence[Work], seconds: float | None) -> None:
        """Charge a pass that was computed, and learn from the time it took; None: do not.

        To be called before `num_computed` of its continuations moves on.
        """
        costs: dict[tuple[int, str], float] = {}
        for item in work:
            request = item.request
            drawn = OUTPUT_COST * item.num_known + PROMPT_COST * len(item.drafts)
            cost = self._read(item) if item.is_prompt else drawn
            whose = request.priority, request.tenant
            costs[whose] = costs.get(whose, 0.0) + cost
        for (priority, tenant), cost in costs.items():
            self._waiting.share(priority).serve(tenant, cost)
            self.shares.add(tenant, cost)
            self._served += cost
        if seconds is not None:
            rows = sum(item.num_new for item in work)
            attended = sum(attended_by(x.continuation.num_computed, x.num_new) for x in work)
            self.step_time.observe(rows, attended, seconds)

    def _read(self, item: Work) -> float:
        """Note that part of a prompt was read; what it cost, with the token drawn at its end."""
        request = item.request
        if request.reads_from is None:
            request.reads_from = self.turn(request).read
        kept = request.num_promised - item.num_new
        cost = PROMPT_COST * item.num_new
        if item.num_new == item.continuation.num_pending:
            cost += OUTPUT_COST
            request.has_caught_up = True
            kept = min(kept, sum(c.num_pending for c in request.live if c is not item.continuation))
        self._promise(request, max(kept, 0))
        return cost

    def _promise(self, request: Request, num_promised: int) -> None:
        share = self._waiting.share(request.priority)
        share.promise(request.tenant, num_promised - request.num_promised)
        request.num_promised = num_promised
        self._waiting.settle(request)

    def victim(self, wanting: Request) -> Request | None:
        """Whom to park so that `wanting` gets room: the least deserving that runs.

        None where nobody deserves less: `wanting` parks itself. A request that does not run yet may
        claim the room of lower priorities alone. While nobody of a higher priority comes, the one
        of the best `Request.rank` is never parked, so that one after the other finishes.
        """
        others = [request for request in self.running if request is not wanting]
        last = max(others, key=lambda request: request.rank, default=None)
        if last is None:
            return None
        if wanting.phase is Phase.RUNNING:
            return last if last.rank > wanting.rank else None
        return last if last.priority < wanting.priority else None

    def park(self, request: Request) -> None:
        """Let a running request wait again, for what it has left to compute."""
        self._stop(request)
        self._waiting.add(request)

    def cancel(self, request: Request) -> None:
        """Forget a request, wherever it stands. Without effect on one that is done with."""
        if request.phase is Phase.WAITING:
            self._waiting.remove(request)
        elif request.phase is Phase.HELD:
            self._holds.remove(request)
        elif request.phase is Phase.RUNNING:
            self._stop(request)
        else:
            return
        self._end(request)

    def retire(self) -> list[Request]:
        """Forget running requests that have finished; which they were."""
        done = [request for request in self.running if request.finished]
        for request in done:
            self.cancel(request)
        return done

    def expired(self, now: float) -> list[Request]:
        """Unfinished requests whose deadline is at `now` or before, each of them once.

        now: of the clock that the deadlines are of. The caller ends them and cancels them here.
        """
        found = []
        while self._deadlines and self._deadlines[0][0] <= now:
            request = heappop(self._deadlines)[2]
            if request.phase is not Phase.OUTSIDE:
                found.append(request)
        return found

    def _stop(self, request: Request) -> None:
        self._promise(request, 0)
        self._waiting.share(request.priority).stop(request.tenant)
        request.phase = Phase.OUTSIDE
        self._used -= request.width
        self.running.remove(request)

    def _end(self, request: Request) -> None:
        self._waiting.leave(request)
        if len(self._deadlines) > 4 * (len(self.running) + self.num_waiting) + 16:
            self._deadlines = [x for x in self._deadlines if x[2].phase is not Phase.OUTSIDE]
            heapify(self._deadlines)
