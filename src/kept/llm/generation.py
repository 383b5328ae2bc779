"""One call of generate: its requests, its engine, and its results."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from kept.cache import Cache
from kept.engine import (
    BeamGroup,
    Completion,
    ContextRule,
    Continuation,
    Engine,
    Group,
    SampleGroup,
)
from kept.errors import GenerationInterrupted, OptionError
from kept.llm.caching import build_cache, context_rule
from kept.models import CausalLM
from kept.sampling import ResolvedParams, TokenHistory, derive_seed
from kept.text import Tokenizer


class Generation:
    """Prompts on their way to completions.

    cache: continue from this one, whose slot 0 already holds the first `num_cached` tokens of the
    only prompt; it is mutated.
    """

    def __init__(
        self,
        model: CausalLM,
        tokenizer: Tokenizer | None,
        prompts: Sequence[Sequence[int]],
        params: ResolvedParams,
        *,
        max_slots: int,
        prefill_chunk: int,
        cache: Cache | None = None,
        num_cached: int = 0,
    ) -> None:
        if params.stop_strings and tokenizer is None:
            raise OptionError("stop_strings need a tokenizer, and this checkpoint has none")
        rule = context_rule(model, params)
        self.groups = [
            _make_group(tokenizer, prompt, index, params, rule)
            for index, prompt in enumerate(prompts)
        ]
        width = max(group.width for group in self.groups)
        slots = max(width, min(max_slots, sum(group.width for group in self.groups)))
        if cache is None:
            cache = build_cache(model, params, rule, [len(p) for p in prompts], slots)
        else:
            leader = self.groups[0].live[0]
            leader.num_computed = leader.num_cached = num_cached
        self.engine = Engine(model, cache, rule, max_slots=slots, prefill_chunk=prefill_chunk)
        for group in self.groups:
            self.engine.add(group)

    @property
    def continuations(self) -> list[Continuation]:
        """Every result, prompt after prompt."""
        return [c for group in self.groups for c in group.results]

    def completions(self) -> list[Completion]:
        """What every result has come to."""
        return [self.engine.completion(c) for c in self.continuations]

    def run(self, progress: Callable[[int, int], None] | None = None) -> list[Completion]:
        """Generate to the end. progress: called after each step with finished and all results.

        Raises GenerationInterrupted, with the completions so far, on Ctrl-C.
        """
        total = len(self.continuations)
        try:
            while self.engine.has_work:
                self.engine.step()
                if progress is not None:
                    done = sum(c.finish_reason is not None for c in self.continuations)
                    progress(done, total)
        except KeyboardInterrupt:
            self.engine.interrupt()
            raise GenerationInterrupted(self.completions()) from None
        return self.completions()


def _make_group(
    tokenizer: Tokenizer | None,
    prompt: Sequence[int],
    prompt_index: int,
    params: ResolvedParams,
    rule: ContextRule,
) -> Group:
    limit = rule.limit(len(prompt), params.new_token_limit(len(prompt)))
    offset = rule.first_offset(len(prompt))

    def continuation(index: int, spelled: bool = True) -> Continuation:
        return Continuation(
            history=TokenHistory(prompt),
            params=params,
            seed=derive_seed(params.seed, index),
            limit=limit,
            prompt_index=prompt_index,
            index=index,
            tokenizer=tokenizer if spelled else None,
            offset=offset,
        )

    results = [continuation(i) for i in range(params.num_return_sequences)]
    if params.num_beams == 1:
        return SampleGroup(results)
    return BeamGroup(results, [continuation(i, spelled=False) for i in range(params.num_beams)])
