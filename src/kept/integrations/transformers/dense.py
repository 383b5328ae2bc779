"""Attention over expanded keys and values, for what kept's own does not take."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers.integrations.sdpa_attention import repeat_kv, sdpa_attention_forward


def attend_dense(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    dropout: float,
    scaling: float | None,
    is_causal: bool | None,
    softcap: float | None,
    position_bias: Tensor | None = None,
    *,
    wanted: bool = False,
) -> tuple[Tensor, Tensor | None]:
    """(B, T, H, D) as transformers' sdpa computes it, and None. With a soft cap, or where weights
    (B, H, T, S) are wanted as well, written out as its eager attention is: sdpa does without both.

    query: (B, H, T, D). key, value: (B, G, S, D). mask: (B, 1, T, S), True or 0 where a query may
    look, or None. position_bias: (B or 1, H, T, S) to add to the scores, or None.
    """
    if softcap is None and not wanted:
        options: dict[str, Any] = {} if position_bias is None else {"position_bias": position_bias}
        options |= {"dropout": dropout, "scaling": scaling, "is_causal": is_causal}
        return sdpa_attention_forward(module, query, key, value, mask, **options)[0], None
    share = query.shape[1] // key.shape[1]
    keys, values = repeat_kv(key, share), repeat_kv(value, share)
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    scores = query @ keys.transpose(-1, -2) * scale
    if softcap is not None:
        scores = softcap * torch.tanh(scores / softcap)
    if position_bias is not None:
        scores = scores + position_bias
    causal = getattr(module, "is_causal", True) if is_causal is None else is_causal
    if mask is None and query.shape[2] > 1 and causal:
        mask = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).tril()
    if mask is not None:
        lowest = torch.finfo(scores.dtype).min
        scores = scores.masked_fill(~mask, lowest) if mask.dtype == torch.bool else scores + mask
    weights = scores.softmax(-1, dtype=torch.float32).to(query.dtype)
    weights = torch.nn.functional.dropout(weights, dropout, module.training)
    out = (weights @ values).transpose(1, 2).contiguous()
    return out, weights if wanted else None
