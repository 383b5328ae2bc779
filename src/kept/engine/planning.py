"""What the next pass of an engine computes, and that there is room for it."""

from __future__ import annotations

from kept.engine import journal
from kept.engine.changing import Changing
from kept.engine.counters import Counters
from kept.engine.drafting import Drafting
from kept.engine.encoding import Encoding
from kept.engine.forward import Forward
from kept.engine.passes import Work
from kept.engine.request import Phase, Request
from kept.engine.settling import Settling
from kept.engine.window import ContextRule
from kept.models import NextLogits
from kept.sampling import num_likeliest


class Planning(Changing):
    """The side of an `Engine` that says what is due."""

    rule: ContextRule
    counters: Counters
    _encoding: Encoding
    _settling: Settling
    _forward: Forward
    _drafting: Drafting
    _is_decode = False  # whether the pass that is planned gives everyone a token or more

    def _plan(self) -> list[Work]:
        """What the next pass computes, once there is room for it."""
        live = [c for request in self.scheduler.running for c in request.group.live]
        if self.rule.slides:
            for continuation in live:
                if continuation.slide(self.rule):
                    self._residents.cut(continuation)
        if (length := self.model.reread_at) is not None:
            for continuation in live:
                if continuation.outgrow(length):
                    self._residents.cut(continuation)
        work = self.scheduler.next(live, self._residents.max_steps(live))
        self._is_decode = (
            len(work) == len(live)
            and all(item.continuation.num_pending == 1 for item in work)
            and not (self.model.is_encoder_decoder and self.scheduler.moves)
        )
        if self._is_decode:
            drafted = self._drafting.drafted(work)
            if drafted is not None:
                return drafted
        if not self._takes_ahead(work):
            self._residents.make_room(work, self.scheduler, self._park)
        return [item for item in work if item.request.phase is Phase.RUNNING]

    def _takes_ahead(self, work: list[Work]) -> bool:
        """Have room for some tokens more of everyone, where passes of one token each follow and
        there is as much to be had."""
        # For tokens that may never come nothing is to go that an encoder has read.
        if not self._is_decode or self.model.native is None or self.model.is_encoder_decoder:
            return False
        return self._residents.take_ahead(len(work))

    def _compute(self, work: list[Work]) -> NextLogits:
        running = self.scheduler.running
        num_live = sum(len(request.group.live) for request in running)
        num_drafts = sum(len(item.drafts) for item in work)
        params = [request.group.params for request in running]
        top_k = num_likeliest(params, num_live + num_drafts, self.model.config.vocab_size)
        is_decode = self._is_decode and len(work) == num_live and not num_drafts
        return self._forward.run(work, top_k, is_decode)

    def _must_slide(self) -> bool:
        if self.rule.in_place:
            return False
        live = (c for request in self.scheduler.running for c in request.group.live)
        return any(self.rule.next_offset(c.offset, len(c.history)) != c.offset for c in live)

    def _park(self, request: Request) -> None:
        """Have a running request wait again, with what it has drawn."""
        self._forward.forget()
        self._settling.forget(request.group.members)
        self._residents.park(request)
        self._encoding.leave(request)
        self.scheduler.park(request)
        request.live[0].usage.num_parked += 1
        self.counters.parked += 1
        journal.parked(request)
