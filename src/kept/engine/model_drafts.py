"""Drafts of a smaller model of the same vocabulary, by coupled draws.

It draws each token as the text itself would: with the text's options and history, keyed by its seed
and position. Where both models find about the same scores both so draw the same token, at every
temperature (draws from common random numbers, as in Daliri et al., 2024, arXiv:2408.07978).
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Final

import torch

from kept.blocks import BLOCK
from kept.engine.continuation import Continuation
from kept.engine.draft_keys import DraftKeys, DraftSlot
from kept.engine.draft_model import DraftModel
from kept.engine.draft_passes import DraftPasses
from kept.engine.draft_worth import MODEL, DraftWorth, Hope
from kept.engine.drafted import Drafted
from kept.engine.finding import num_shared
from kept.engine.model_worth import Sureness, sureness
from kept.engine.passes import Work
from kept.engine.request import Request
from kept.engine.step_time import MANY_ROWS
from kept.errors import CacheFullError
from kept.models import NextLogits, RepeatedStep
from kept.sampling import ResolvedParams, argmax_of, num_likeliest, sample_rows

READ: Final = 256  # tokens that it reads of texts in a step at most
CATCH_UP: Final = 16  # tokens that it reads in the pass of its first draft
LEAST_TAIL: Final = 32  # tokens of a text, for which it begins to read at all
PAUSE: Final = 8  # steps, after one in which nothing was worth while, until that is looked at again
OF_ACCOUNT: Final = 0.75  # of what it may spend, on reading

log = logging.getLogger(__name__)


class ModelDrafts:
    """Asks a draft model, for those that want it.

    vocab_size: of the texts; tokens beyond the draft model's own end its drafts of a text. spent:
    seconds in this step, which its engine sets to 0.
    """

    def __init__(
        self,
        draft: DraftModel,
        keys: DraftKeys,
        vocab_size: int,
        worth: DraftWorth,
        use_torch: Callable[[], None],
    ) -> None:
        """worth: of drafts whose tokens are known. use_torch: to be called before torch is asked
        for anything."""
        self.model, self.worth = draft.model, draft.worth
        self.keys, self._vocab_size = keys, vocab_size
        self._passes = DraftPasses(draft, keys)
        self._texts_worth, self._use_torch = worth, use_torch
        self.spent = 0.0
        self._pause = 0
        self._texts: dict[Continuation, tuple[Request, ResolvedParams]] = {}
        self._how: dict[Continuation, list[Sureness]] = {}

    @property
    def is_asked(self) -> bool:
        """Whether anybody who runs wants these."""
        return bool(self._texts)

    def begin(self, request: Request) -> None:
        """Note a request that starts, or starts again."""
        # A grammar cuts drafts short once they are drawn; it is not asked at each of them.
        params = replace(request.group.params, logprobs=None, grammar=None)
        for continuation in request.group.members:
            self._texts.setdefault(continuation, (request, params))

    def end(self, request: Request) -> None:
        """Note that a request has ended."""
        for continuation in request.group.members:
            if self._texts.pop(continuation, None) is not None:
                self.keys.leave(continuation)
                self._how.pop(continuation, None)

    def restart(self) -> None:
        """After an exception in a step, which may have left anything here half done: forget all."""
        self._texts.clear()
        self._how.clear()
        self.keys.forget()

    def wants(self, continuation: Continuation) -> bool:
        """Whether a text is to have drafts of it."""
        return continuation in self._texts

    def propose(self, work: Sequence[Work], most: Mapping[int, int]) -> list[Hope]:
        """Drafts of those of `work`, one token of everyone, whose numbers have some at `most`;
        where there are none to be had now, the model may have read of their texts."""
        self._pause -= 1
        plain = self._texts_worth.plain(work) if most and self._pause < 0 else None
        if plain is None:
            return []
        begin = time.perf_counter()
        try:
            return self.model.run_alone(lambda: self._propose(work, most, plain))
        except CacheFullError:  # texts have taken the room meanwhile
            return []
        except Exception as error:
            log.warning("no more drafts of the draft model, which failed: %r", error)
            self.restart()
            return []
        finally:
            seconds = time.perf_counter() - begin
            self.spent += seconds
            self.worth.earn(-seconds, plain)

    def verified(self, item: Work, num_accepted: int) -> None:
        """Learn which of the drafts that a pass verified have come."""
        how = self._how.pop(item.continuation, None)
        if how is None:
            return
        for one in how[:num_accepted]:
            self.worth.verified(one, True)
        if num_accepted < len(item.drafts) and item.continuation.finish_reason is None:
            self.worth.verified(how[num_accepted], False)

    def _propose(self, work: Sequence[Work], most: Mapping[int, int], plain: float) -> list[Hope]:
        drafting, reading = list[Drafted](), list[DraftSlot]()
        left = max(_num_left(work[number].continuation) for number in most)
        for number, count in most.items():
            continuation = work[number].continuation
            request, params = self._texts[continuation]
            slot = self.keys.find(continuation)
            if slot is None and not _is_read_for(continuation, request.salt, reading):
                slot = self.keys.seat(continuation, request.salt)
            if slot is None or not self._can_read(slot):
                continue
            if slot.num_pending > CATCH_UP:
                reading.append(slot)
            else:
                history = continuation.history
                drafting.append(Drafted(slot, number, count, continuation, params, history))
        has_read = bool(reading) and self._read(reading, plain, left)
        if not drafting or not self._is_worth(drafting, work, plain, left):
            self._pause = 0 if has_read else PAUSE
            return []
        self._draft(drafting, work, plain)
        for one in drafting:
            self._how[one.continuation] = one.how
        return [Hope(x.number, x.tokens, x.chances, MODEL) for x in drafting if x.tokens]

    def _can_read(self, slot: DraftSlot) -> bool:
        """Whether a text stays within the model's context, and what it has yet to read within its
        vocabulary; if not, it is drafted no more."""
        assert slot.continuation is not None
        history, config = slot.continuation.history, self.model.config
        pending = history.tokens[slot.start + slot.num :]
        room = config.context - (len(history) - slot.start)
        if room > 1 and pending.max(initial=0) < config.vocab_size:
            return True
        del self._texts[slot.continuation]
        self.keys.drop(slot)
        return False

    def _read(self, slots: Sequence[DraftSlot], plain: float, num_left: int) -> bool:
        """Read some more of texts, as far as there is time to spare for all that is left of each:
        of one that is not begun only its end, if no more. Whether there was for any."""
        chosen, counts, left = list[DraftSlot](), list[int](), READ
        times = self.worth.step_time
        if not times.knows_prompts:
            left = MANY_ROWS
        for slot in slots:
            pending, spare = slot.num_pending, OF_ACCOUNT * self.worth.spare(plain, num_left)
            most = times.rows_within(spare, 0, 0, slot.num, pending, 0) if spare > 0.0 else 0
            if most < pending and not slot.num and most >= LEAST_TAIL:
                slot.start += pending - most
                pending = most
            count = min(pending - 1, left) if most >= pending else 0
            if count:
                chosen.append(slot)
                counts.append(count)
                left -= count
        if not chosen or not self.keys.has_room(chosen, counts):
            return False
        self._use_torch()
        self.keys.cut()
        self._passes.run(chosen, [x.pending[:n] for x, n in zip(chosen, counts, strict=True)])
        return True

    def _is_worth(
        self, drafting: Sequence[Drafted], work: Sequence[Work], plain: float, num_left: int
    ) -> bool:
        """Whether to draft at all, and there is room for it."""
        count, most = len(drafting), max(x.most for x in drafting)
        draft, row = self._draft_seconds(drafting), self._texts_worth.row_seconds(work, count)
        with_drafts = self._texts_worth.with_drafts(work)
        depth = self.worth.depth(len(work), count, most, plain, with_drafts, draft, row)
        if not depth or depth * draft > self.worth.spare(plain, num_left):
            return False
        counts = [x.slot.num_pending + most for x in drafting]
        return self.keys.has_room([x.slot for x in drafting], counts)

    def _draft_seconds(self, drafting: Sequence[Drafted]) -> float:
        attended = sum(x.slot.num + 1 for x in drafting)
        return self.worth.draft_seconds(len(drafting), attended)

    def _draft(self, drafting: Sequence[Drafted], work: Sequence[Work], plain: float) -> None:
        """Draft for as long as one token more of everyone seems to bring more tokens a second."""
        self._use_torch()
        for one in drafting:
            if not one.params.is_argmax:
                one.history = one.continuation.history.fork()
        draft = self._draft_seconds(drafting)
        row = self._texts_worth.row_seconds(work, len(drafting))
        seconds, tokens = self._texts_worth.with_drafts(work), float(len(work))
        params = [x.params for x in drafting]
        top_k = max(2, num_likeliest(params, len(drafting), self._vocab_size))
        slots = [x.slot for x in drafting]
        self.keys.cut()
        found = self._passes.run(slots, [slot.pending for slot in slots], top_k)
        for slot in slots:
            slot.num += slot.num_pending
        again: RepeatedStep | None = None
        while True:
            going = [x for x in drafting if x.goes_on]
            begin = time.perf_counter()
            self._take(drafting, found)
            self.worth.drew(time.perf_counter() - begin)
            seconds += draft + row * len(going)
            tokens += sum(x.chance for x in going)
            going = [x for x in drafting if x.goes_on]
            more = sum(x.chance for x in going) * self.worth.mean
            best = max(tokens / seconds, len(work) / plain)
            if not going or more <= best * (draft + row * len(going)):
                return
            fed = [x.tokens[-1] if x.tokens else x.continuation.history.last for x in drafting]
            if again is None:
                numbers = tuple(slot.number for slot in slots)
                again = self.model.repeat(numbers, self.keys.cache, top_k)
            found = self._passes.run_again(slots, fed, again, top_k)
            if again is not None and not again.room:
                again = None

    def _take(self, drafting: Sequence[Drafted], found: NextLogits) -> None:
        """Draw a token of each text that is drafted on."""
        rows = [i for i, x in enumerate(drafting) if x.goes_on]
        going = [drafting[i] for i in rows]
        found = found if len(rows) == len(drafting) else found.take(rows)
        tokens = self._drawn(going, found)
        few = found.likeliest
        for row, (one, token) in enumerate(zip(going, tokens, strict=True)):
            if not 0 <= token < min(self._vocab_size, self.model.config.vocab_size):
                one.goes_on = False
                continue
            lead, is_first = 0.0, True
            if few is not None:
                lead = float(few.logits[row, 0] - few.logits[row, 1]) / one.params.temperature
                is_first = int(few.tokens[row, 0]) == token
            how = sureness(is_first, lead)
            one.take(token, how, self.worth.chance(how))

    def _drawn(self, going: Sequence[Drafted], found: NextLogits) -> Sequence[int]:
        """What the texts would draw from these logits, -1: nothing."""
        params, size = [x.params for x in going], max(self._vocab_size, found.logits.shape[1])
        likeliest = argmax_of(params, found.best, [x.history for x in going], size)
        if likeliest is not None and -1 not in likeliest:
            return likeliest
        keys = [(x.continuation.seed, len(x.continuation.history) + len(x.tokens)) for x in going]
        histories, logits = [x.history for x in going], found.logits
        if logits.shape[1] == self._vocab_size:
            few = found.likeliest
            return sample_rows(logits, params, histories, keys, found.best, few).token_ids
        missing = self._vocab_size - logits.shape[1]
        logits = torch.nn.functional.pad(logits, (0, missing), value=-torch.inf)
        return sample_rows(logits, params, histories, keys).token_ids


def _is_read_for(continuation: Continuation, salt: str, reading: Sequence[DraftSlot]) -> bool:
    """Whether others are just being read whose beginning, once it is there, is this one's too."""
    text = continuation.history.tokens
    return any(
        slot.continuation is not None
        and slot.salt == salt
        and num_shared(slot.continuation.history.tokens, text) >= BLOCK
        for slot in reading
    )


def _num_left(continuation: Continuation) -> int:
    return continuation.limit - len(continuation.history)
