"""An explanation as JSON: what `--json` writes, and what the page draws."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import Tensor

from kept.bench.json_report import origin
from kept.explain.codecs import CodecEffect
from kept.explain.counts import Count
from kept.explain.explanation import DIGITS, CodecResult, Explanation, Policy, View
from kept.format import dtype_name
from kept.ops import isa


def as_json(found: Explanation) -> dict[str, Any]:
    """A JSON-ready record. Bytes and counts are whole numbers, weights and errors shares of 1.

    views: `rows[i]` are the i + 1 weights of token i. policies: of the view `shown`. codecs:
    errors (L, S), and for each view and step the row of the step's last token over coded keys.
    totals: of all steps. `format` in the header counts the layout of this record.
    """
    recording = found.recording
    return {
        "record": "explain",
        **origin(threads=torch.get_num_threads()),
        "model": _model(found),
        "settings": dataclasses.asdict(found.settings)
        | {"window": found.window, "budget": found.budget, "layer": found.shown.layer},
        "tokens": [
            {"id": token, "text": text}
            for token, text in zip(recording.token_ids, found.texts, strict=True)
        ],
        "num_prompt": recording.num_prompt,
        "finish_reason": recording.finish_reason,
        "steps": [_step(found, i) for i in range(found.num_drawn)],
        "totals": {
            name: dataclasses.asdict(sum((getattr(c, name) for c in found.counts), Count()))
            for name in ("model_with", "model_without")
        },
        "views": [_view(view) for view in found.views],
        "shown": found.views.index(found.shown),
        "policies": [_policy(policy) for policy in found.policies],
        "codecs": [_codec(found, result) for result in found.codecs],
    }


def _model(found: Explanation) -> dict[str, Any]:
    llm, config = found.llm, found.llm.model.config
    return {
        "name": found.name,
        "model_type": llm.checkpoint.config.get("model_type"),
        "num_layers": config.num_layers,
        "num_heads": config.num_heads,
        "kv_shapes": [dataclasses.asdict(shape) for shape in llm.model.kv_shapes],
        "num_parameters": llm.model.num_parameters,
        "dtype": dtype_name(llm.model.dtype),
        "kernels": "torch" if llm.model.native is None else f"native {isa()}",
    }


def _step(found: Explanation, index: int) -> dict[str, Any]:
    step, counts = found.recording.steps[index], found.counts[index]
    return dataclasses.asdict(step) | {
        "layers_with": [dataclasses.asdict(c) for c in counts.layers_with],
        "layers_without": [dataclasses.asdict(c) for c in counts.layers_without],
        "model_with": dataclasses.asdict(counts.model_with),
        "model_without": dataclasses.asdict(counts.model_without),
    }


def _view(view: View) -> dict[str, Any]:
    return {"name": view.name, "layer": view.layer, "head": view.head, "rows": view.rows}


def _policy(policy: Policy) -> dict[str, Any]:
    lost = [step.lost for step in policy.steps]
    return {
        "kind": policy.kind,
        "name": policy.name,
        "size": policy.size,
        "sinks": policy.sinks,
        "agreeing": policy.agreeing,
        "steps": [{"kept": list(s.kept), "lost": round(s.lost, DIGITS)} for s in policy.steps],
        "mean_lost": round(sum(lost) / len(lost), DIGITS),
        "max_lost": round(max(lost), DIGITS),
    }


def _codec(found: Explanation, result: CodecResult) -> dict[str, Any]:
    effect = result.effect
    ends = [step.end for step in found.recording.steps]
    return {
        "name": effect.name,
        "bytes_per_token": effect.bytes_per_token,
        "agreeing": result.agreeing,
        "key_errors": _rounded(effect.key_errors),
        "value_errors": _rounded(effect.value_errors),
        "views": [_codec_view(effect, view, ends) for view in found.views],
    }


def _codec_view(effect: CodecEffect, view: View, ends: list[int]) -> dict[str, Any]:
    weights = effect.weights[view.layer]
    chosen = slice(None) if view.head is None else slice(view.head, view.head + 1)
    last = [end - 1 for end in ends]
    rows = weights[chosen].mean(0)[last]
    return {
        "rows": [_rounded(row[:end]) for row, end in zip(rows, ends, strict=True)],
        "moved": _rounded(effect.moved[view.layer][chosen].mean(0)[last]),
        "output_errors": _rounded(effect.output_errors[view.layer][chosen].mean(0)[last]),
    }


def _rounded(x: Tensor) -> Any:
    if x.ndim > 1:
        return [_rounded(part) for part in x]
    return [round(value, DIGITS) for value in x.tolist()]
