"""Sampling: a request's options, the processors they switch on, and the draw of the next token."""

from kept.sampling.beam_candidates import best_candidates, drawn_candidates
from kept.sampling.chain import process_scores
from kept.sampling.draw import Key, derive_seed, draw, draw_distinct, fresh_seed
from kept.sampling.generation_config import check_keywords, settings_of_model_config
from kept.sampling.history import TokenHistory
from kept.sampling.likeliest import Likeliest, num_likeliest
from kept.sampling.logprobs import TokenLogprob, TokenLogprobs, token_logprobs
from kept.sampling.params import SamplingParams
from kept.sampling.resolved import ResolvedParams
from kept.sampling.sampler import SampledTokens, argmax_of, sample, sample_rows
from kept.sampling.scanned import likeliest_of

__all__ = [
    "Key",
    "Likeliest",
    "ResolvedParams",
    "SampledTokens",
    "SamplingParams",
    "TokenHistory",
    "TokenLogprob",
    "TokenLogprobs",
    "argmax_of",
    "best_candidates",
    "check_keywords",
    "derive_seed",
    "draw",
    "draw_distinct",
    "drawn_candidates",
    "fresh_seed",
    "likeliest_of",
    "num_likeliest",
    "process_scores",
    "sample",
    "sample_rows",
    "settings_of_model_config",
    "token_logprobs",
]
