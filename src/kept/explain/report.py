"""An explanation for a terminal, down to 40 columns."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from kept.explain.attention_text import attention_lines, kept_lines, ranges
from kept.explain.counts import Count
from kept.explain.explanation import CodecResult, Explanation, Policy
from kept.format import format_bytes, format_count

_NARROW = 72  # columns below which tables leave out what can be told from the rest
_WIDE = 112  # and from which a step's bytes have a place beside its work


def report(found: Explanation, width: int) -> RenderableType:
    """Everything about a generation, for a terminal of `width` columns."""
    return Group(*_parts(found, width))


def _parts(found: Explanation, width: int) -> Iterator[RenderableType]:
    narrow = width < _NARROW
    yield from _heading(found)
    yield Text()
    yield _steps(found, narrow, width >= _WIDE)
    yield Text(
        "New: tokens whose query, key and value are computed; without the cache those of all "
        "tokens are, at every step."
    )
    yield Text()
    yield _costs(found, narrow)
    yield Text()
    yield Text(f"Attention, {found.shown.name}", style="bold")
    yield from attention_lines(found, width)
    yield Text()
    yield _policies(found, narrow)
    for policy in found.policies:
        yield Text(f"\n{policy.name}: the mass lost; # kept, . gone", style="bold")
        yield from kept_lines(policy, width)
    yield Text()
    yield _codecs(found, narrow)
    yield Text(
        "Errors and moved attention: against keys and values in fp32, for the same queries; of "
        f"layer {found.shown.layer}. Same: drawn tokens in front of the first other one, when the "
        "text is generated with that cache."
    )


def _heading(found: Explanation) -> Iterator[Text]:
    model, recording = found.llm.model, found.recording
    shape = model.kv_shapes[found.shown.layer]
    heads = f"{model.config.num_heads} query and {shape.num_kv_heads} key/value heads"
    yield Text(
        f"{found.name}: {format_count(model.num_parameters)} parameters, "
        f"{model.config.num_layers} layers, {heads} of {shape.head_dim}, "
        f"{str(model.dtype).removeprefix('torch.')}",
        style="bold",
    )
    prompt = "".join(found.texts[: recording.num_prompt])
    drawn = "".join(found.texts[recording.num_prompt :])
    how = "the likeliest each time"
    if found.settings.seed is not None:
        how = f"seed {found.settings.seed}"
    yield Text(f"{recording.num_prompt} tokens given: {prompt}")
    yield Text(f"{found.num_drawn} drawn, {how}: {drawn}")


def _steps(found: Explanation, narrow: bool, wide: bool) -> Table:
    columns = ["step", "new", "from cache", "multiply-adds", "without", "ratio"]
    if narrow:
        columns = ["step", "new", "cached", "mult-adds", "without"]
    else:
        columns[1:1] = ["reads", "draws"]
    if wide:
        columns += ["keys, values", "without", "read"]
    table = _new_table("Step by step", columns, left=("reads", "draws"))
    for index, (step, counts) in enumerate(zip(found.recording.steps, found.counts, strict=True)):
        reads = "the prompt" if step.start == 0 else found.texts[step.start]
        texts = [] if narrow else [_cut(reads), _cut(found.texts[step.end])]
        costs = (counts.model_with, counts.model_without)
        table.add_row(str(index), *map(Text, texts), *_numbers(*costs, narrow, wide))
    table.add_section()
    texts = [] if narrow else ["", ""]
    table.add_row("all", *texts, *_numbers(*_totals(found), narrow, wide))
    return table


def _numbers(count: Count, without: Count, narrow: bool, wide: bool) -> list[str]:
    numbers = [
        f"{count.rows:,}",
        f"{count.keys_read:,}",
        format_count(count.multiply_adds),
        format_count(without.multiply_adds),
    ]
    if not narrow:
        numbers.append(f"{without.multiply_adds / count.multiply_adds:.1f}")
    return numbers + (_sizes(count, without) if wide else [])


def _sizes(count: Count, without: Count) -> list[str]:
    """Bytes of keys and values: computed with the cache and without, and read from it."""
    sizes = (count.kv_bytes_computed, without.kv_bytes_computed, count.kv_bytes_read)
    return [format_bytes(size) for size in sizes]


def _totals(found: Explanation, layer: int | None = None) -> tuple[Count, Count]:
    """Of all steps, with the cache and without: of a layer, or of the model."""
    if layer is None:
        pairs = [(c.model_with, c.model_without) for c in found.counts]
    else:
        pairs = [(c.layers_with[layer], c.layers_without[layer]) for c in found.counts]
    return sum((a for a, _ in pairs), Count()), sum((b for _, b in pairs), Count())


def _costs(found: Explanation, narrow: bool) -> Table:
    """Layers that cost alike share a row."""
    columns = ["all steps", "mult-adds", "without", "keys, values", "without", "read"]
    title = "What it took; keys and values: computed, and read from the cache"
    if narrow:
        columns = ["layers", "computed", "without", "read"]
        title = "Keys and values: computed, and read from the cache"
    table = _new_table(title, columns)
    alike: dict[tuple[Count, Count], list[int]] = {}
    for layer in range(found.llm.model.config.num_layers):
        alike.setdefault(_totals(found, layer), []).append(layer)
    for (count, without), layers in alike.items():
        _add_bytes(table, _layers(layers, narrow), count, without, narrow)
    count, without = _totals(found)
    _add_bytes(table, "model" if narrow else "the model", count, without, narrow)
    weights = format_bytes(count.weight_bytes // found.num_drawn)
    table.caption = f"and {weights} of weights read at every step, with and without."
    table.caption_justify = "left"
    return table


def _layers(layers: Sequence[int], narrow: bool) -> str:
    if len(layers) == 1:
        return f"{layers[0]}" if narrow else f"layer {layers[0]}"
    which = ranges(layers)
    if len(which) > 9:
        return f"{len(layers)}, each" if narrow else f"{len(layers)} layers, each"
    return f"{which}, each" if narrow else f"layers {which}, each"


def _add_bytes(table: Table, name: str, count: Count, without: Count, narrow: bool) -> None:
    work = [format_count(count.multiply_adds), format_count(without.multiply_adds)]
    table.add_row(name, *([] if narrow else work), *_sizes(count, without))


def _policies(found: Explanation, narrow: bool) -> Table:
    columns = ["a cache that forgets", "holds", "lost, mean", "worst", "same"]
    if narrow:
        columns = ["forgets", "lost", "worst", "same"]
    table = _new_table(
        f"What would be left behind, {found.shown.name}"
        if not narrow
        else "Attention mass left behind",
        columns,
    )
    for policy in found.policies:
        table.add_row(*_policy_row(policy, narrow, found.num_drawn))
    return table


def _policy_row(policy: Policy, narrow: bool, drawn: int) -> list[str]:
    lost = [step.lost for step in policy.steps]
    held = [] if narrow else [f"{policy.size + policy.sinks:,}"]
    same = "-" if policy.agreeing is None else f"{policy.agreeing}/{drawn}"
    return [policy.name, *held, _share(sum(lost) / len(lost)), _share(max(lost)), same]


def _codecs(found: Explanation, narrow: bool) -> Table:
    columns = ["stored as", "bytes", "key error", "value error", "moved, mean", "worst", "same"]
    if narrow:
        columns = ["codec", "keys", "values", "moved", "same"]
    table = _new_table("What rounding keys and values does", columns)
    for result in found.codecs:
        table.add_row(*_codec_row(found, result, narrow))
    return table


def _codec_row(found: Explanation, result: CodecResult, narrow: bool) -> list[str]:
    effect, layer, head = result.effect, found.shown.layer, found.shown.head
    last = [step.end - 1 for step in found.recording.steps]
    heads = slice(None) if head is None else slice(head, head + 1)
    moved = effect.moved[layer][heads].mean(0)[last].tolist()
    keys, values = (
        _share(errors[layer].mean().item()) for errors in (effect.key_errors, effect.value_errors)
    )
    same = f"{result.agreeing}/{found.num_drawn}"
    mean, worst = _share(sum(moved) / len(moved)), _share(max(moved))
    if narrow:
        return [effect.name, keys, values, mean, same]
    return [effect.name, f"{effect.bytes_per_token:,}", keys, values, mean, worst, same]


def _new_table(title: str, columns: Sequence[str], left: Sequence[str] = ()) -> Table:
    table = Table(
        title=title,
        title_justify="left",
        title_style="bold",
        header_style="",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        show_edge=False,
    )
    for index, name in enumerate(columns):
        text = not index or name in left
        table.add_column(
            name, justify="left" if text else "right", no_wrap=bool(index), min_width=4
        )
    return table


def _share(value: float) -> str:
    return f"{100 * value:.2f}%" if value < 0.1 else f"{100 * value:.1f}%"


def _cut(text: str, width: int = 10) -> str:
    return text if len(text) <= width else f"{text[: width - 1]}\u2026"
