"""The sequences that a prompt is continued by, as its options ask for."""

from __future__ import annotations

from collections.abc import Sequence

from kept.engine.beams import BeamGroup
from kept.engine.continuation import Continuation
from kept.engine.group import Group
from kept.engine.samples import SampleGroup
from kept.engine.window import ContextRule
from kept.errors import OptionError
from kept.grammar import Compiled, Constraint, GrammarCompiler
from kept.sampling import ResolvedParams, TokenHistory, derive_seed
from kept.text import Tokenizer


def make_group(
    prompt: Sequence[int],
    params: ResolvedParams,
    rule: ContextRule,
    index: int = 0,
    *,
    tokenizer: Tokenizer | None = None,
    source: tuple[int, ...] | None = None,
) -> Group:
    """The group of a prompt.

    index: which prompt of its call it is. tokenizer: None: its texts are not spelled. source: what
    an encoder reads, where the prompt is what the decoder starts from. Raises ContextLengthError
    for a prompt that does not fit and may not slide, OptionError for one that leaves no token, or
    for a grammar that cannot be kept to.
    """
    limit = rule.limit(len(prompt), params.new_token_limit(len(prompt)))
    offset = rule.first_offset(len(prompt))
    compiled = _compiled(params, tokenizer)

    def constraint() -> Constraint | None:
        return None if compiled is None else Constraint(compiled, params.eos_token_ids)

    def continuation(number: int, spelled: bool = True) -> Continuation:
        return Continuation(
            history=TokenHistory(prompt, source, constraint()),
            params=params,
            seed=derive_seed(params.seed, number),
            limit=limit,
            prompt_index=index,
            index=number,
            tokenizer=tokenizer if spelled else None,
            offset=offset,
            source=source,
        )

    results = [continuation(i) for i in range(params.num_return_sequences)]
    if params.num_beams == 1:
        return SampleGroup(results)
    for result in results:  # one search, and one seed of its draws, found them all
        result.seed = params.seed
    return BeamGroup(results, [continuation(i, spelled=False) for i in range(params.num_beams)])


def _compiled(params: ResolvedParams, tokenizer: Tokenizer | None) -> Compiled | None:
    if params.grammar is None:
        return None
    if tokenizer is None:
        raise OptionError("a grammar needs a tokenizer, and this checkpoint has none")
    return GrammarCompiler.of(tokenizer).compile(params.grammar)
