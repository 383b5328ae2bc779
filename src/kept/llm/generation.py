"""One call of generate: its requests, its engine, and its results."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace

from kept.engine import (
    Completion,
    Continuation,
    GenerationError,
    GenerationInterrupted,
    Request,
    make_group,
)
from kept.errors import OptionError
from kept.llm.caching import context_rule
from kept.llm.conversation import Conversation
from kept.llm.engines import Engines
from kept.models import Adapter, CausalLM, EncoderDecoderLM
from kept.options import ResolvedCacheOptions
from kept.sampling import ResolvedParams, fresh_seed
from kept.text import Tokenizer


class Generation:
    """Prompts on their way to completions.

    options: of the cache. engines: where they run. start: the token that the decoder of an
    encoder-decoder model starts from, to whose encoder the prompts go; else None. vary: give each
    prompt but the first a seed of its own in place of `params.seed`. conversation: go on from it,
    as far as the only prompt begins like it; mutated, once everything that can be checked has been.
    interactive: somebody reads along. adapter: what the texts go through, None: nothing.
    """

    def __init__(
        self,
        model: CausalLM,
        tokenizer: Tokenizer | None,
        prompts: Sequence[Sequence[int]],
        params: ResolvedParams,
        options: ResolvedCacheOptions,
        engines: Engines,
        *,
        start: int | None = None,
        vary: bool = False,
        conversation: Conversation | None = None,
        interactive: bool = False,
        adapter: Adapter | None = None,
    ) -> None:
        if params.stop_strings and tokenizer is None:
            raise OptionError("stop_strings need a tokenizer, and this checkpoint has none")
        rule = context_rule(model, options)
        self.groups = []
        for index, prompt in enumerate(prompts):
            own = replace(params, seed=fresh_seed()) if vary and index else params
            source, read = (None, prompt) if start is None else (tuple(prompt), [start])
            if isinstance(model, EncoderDecoderLM):
                model.check_input(len(prompt))
            self.groups.append(
                make_group(read, own, rule, index, tokenizer=tokenizer, source=source)
            )
        self.adapter = adapter
        self.requests = [
            Request(group, interactive=interactive, adapter=adapter) for group in self.groups
        ]
        self._num_begun = 0  # requests that the engine has
        lengths = [len(prompt) if start is None else 1 for prompt in prompts]
        slots = self._num_slots(engines.num_slots)
        self.engine = engine = engines.find(options, params, lengths, slots, conversation)
        for request in self.requests:
            engine.check(request)
        if conversation is not None:
            self._go_on(conversation, prompts[0])

    def _num_slots(self, most: int) -> int:
        widths = [group.width for group in self.groups]
        return max(*widths, min(most, sum(widths)), 1)

    def _go_on(self, conversation: Conversation, prompt: Sequence[int]) -> None:
        leader = self.groups[0].live[0]
        leader.num_computed = conversation.reuse(prompt)
        leader.usage.cached["conversation"] = leader.num_computed

    def begin(self) -> None:
        """Hand the prompts to the engine, if that has not been done."""
        while self._num_begun < len(self.requests):
            request = self.requests[self._num_begun]
            self._num_begun += 1
            self.engine.submit(request)

    @property
    def continuations(self) -> list[Continuation]:
        """Every result, prompt after prompt."""
        return [c for group in self.groups for c in group.results]

    def completions(self) -> list[Completion]:
        """What every result has come to."""
        return [continuation.completion() for continuation in self.continuations]

    @property
    def finished(self) -> bool:
        """Whether every result is final."""
        return all(request.finished for request in self.requests)

    def advance(self) -> None:
        """Wait for a step, by taking it where no other thread does. Raises the error of a pass that
        any of the prompts was in, once all of them have ended with it."""
        if not self.finished:  # as it may be by now, by another thread's step
            self.engine.advance(lambda: self.finished)
        for request in self.requests:
            if request.pass_error is not None:
                raise request.pass_error

    def run(self, progress: Callable[[int, int], None] | None = None) -> list[Completion]:
        """Generate to the end. progress: called after each step with finished and all results.

        Raises GenerationInterrupted on Ctrl-C, GenerationError once all others are done where some
        texts failed, and whatever else ends the call; each with the `completions` so far.
        """
        total = len(self.continuations)
        try:
            self.begin()
            while not self.finished:
                self.advance()
                if progress is not None:
                    done = sum(c.finish_reason is not None for c in self.continuations)
                    progress(done, total)
        except KeyboardInterrupt:
            self.end()
            raise GenerationInterrupted(self.completions()) from None
        except Exception as error:
            self.end_with(error)
            raise
        except BaseException:  # SystemExit, or what cancels a task
            self.end()
            raise
        self.raise_failure()
        return self.completions()

    def end(self, error: Exception | None = None) -> None:
        """End every text as it stands, for Ctrl-C or an error."""
        self.engine.end(self.requests, error)

    def end_with(self, error: Exception) -> None:
        """End for an error that concerns every text, and let it carry what they have come to."""
        self.end(error)
        with suppress(AttributeError):  # of an exception with slots
            error.completions = self.completions()  # type: ignore[attr-defined]

    def raise_failure(self) -> None:
        """Raise GenerationError if a text has failed."""
        failed = next((c.error for c in self.continuations if c.error is not None), None)
        if failed is not None:
            raise GenerationError(self.completions()) from failed


def remember(generation: Generation, options: ResolvedCacheOptions) -> Conversation | None:
    """The conversation a turn leaves behind, or None if there is nothing to go on from."""
    continuation = generation.continuations[0]
    if continuation.offset:
        return None
    held = generation.engine.hand_over(continuation)
    if held is None:
        return None
    tokens = continuation.history.tokens[: held.cache.lengths[0]].tolist()
    return Conversation(held, tokens, options, generation.adapter)
