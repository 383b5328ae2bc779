"""What Prometheus reads: vLLM's names for what vLLM counts too, kept's for what only kept has.

Dashboards that chart vLLM's metrics chart these as they are. Counters of engines and of the store
are read when somebody asks; times of requests are observed as they end.
"""

from __future__ import annotations

from collections import Counter as Tally
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import fields
from itertools import accumulate
from typing import TYPE_CHECKING, Final

from prometheus_client import CollectorRegistry, Counter, generate_latest
from prometheus_client import Histogram as Observed
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from kept.blocks import BOUNDS, Histogram
from kept.engine import Completion, Snapshot

if TYPE_CHECKING:
    from kept.serve.service import Service

SECONDS: Final = (
    *(0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5),
    *(10.0, 20.0, 40.0, 80.0, 160.0, 640.0, 2560.0),
)
TOKENS: Final = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1e3, 2e3, 5e3, 1e4, 2e4, 5e4, 1e5)
CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"


class Metrics:
    """Of one service. Threads may share it."""

    def __init__(self, service: Service) -> None:
        self._labels = {"model_name": service.models[0]}
        self.registry = CollectorRegistry()
        self.registry.register(_Engines(service))
        self._first = self._histogram("time_to_first_token_seconds", "Until the first token.")
        self._between = self._histogram(
            "request_time_per_output_token_seconds", "Mean of a text's tokens after its first."
        )
        self._whole = self._histogram("e2e_request_latency_seconds", "From arrival to the end.")
        self._queued = self._histogram("request_queue_time_seconds", "Until it was admitted.")
        self._reading = self._histogram(
            "request_prefill_time_seconds", "From admission to the first token."
        )
        self._writing = self._histogram("request_decode_time_seconds", "After the first token.")
        self._prompt = self._histogram("request_prompt_tokens", "Tokens of a prompt.", TOKENS)
        self._written = self._histogram("request_generation_tokens", "Of a text.", TOKENS)
        self._computed = self._histogram(
            "request_prefill_kv_computed_tokens", "Of a prompt, that were not cached.", TOKENS
        )
        self._by_end = Counter(
            "vllm:request_success",
            "Texts that have ended, by why.",
            ("model_name", "finished_reason"),
            registry=self.registry,
        )
        self._refused = Counter(
            "vllm:admission_rejections",
            "Requests that could not start in time, or came while the server drained.",
            ("model_name", "reason"),
            registry=self.registry,
        )

    def observe(self, completions: Sequence[Completion]) -> None:
        """Note the texts of a request that has ended."""
        for found in completions:
            reason = {"interrupted": "abort"}.get(found.finish_reason, found.finish_reason)
            self._by_end.labels(**self._labels, finished_reason=reason).inc()
            self._written.observe(len(found.token_ids))
            if found.tokens_per_second:
                self._between.observe(1.0 / found.tokens_per_second)
        prompts: dict[int, Completion] = {}
        for found in completions:
            prompts.setdefault(found.prompt_index, found)
        for found in prompts.values():
            self._whole.observe(found.total_time)
            self._prompt.observe(found.prompt_tokens)
            self._computed.observe(found.prompt_tokens - found.cached_tokens)
            queued, first = found.queue_time, found.time_to_first_token
            if queued is not None:
                self._queued.observe(queued)
            if first is not None:
                self._first.observe(first)
                self._reading.observe(first - (queued or 0.0))
                self._writing.observe(found.total_time - first)

    def refuse(self, reason: str) -> None:
        """Note a request that was not taken in."""
        self._refused.labels(**self._labels, reason=reason).inc()

    def text(self) -> bytes:
        """All of them, as Prometheus reads it. Waits for a step."""
        return generate_latest(self.registry)

    def _histogram(self, name: str, text: str, buckets: Sequence[float] = SECONDS) -> Observed:
        made = Observed(
            f"vllm:{name}", text, ("model_name",), buckets=buckets, registry=self.registry
        )
        return made.labels(**self._labels)


class _Engines(Collector):
    """What engines, queue and store have counted, read at each asking."""

    def __init__(self, service: Service) -> None:
        self._service = service

    def describe(self) -> Iterable[Metric]:
        """Nothing: else all of it would be read once before there is any."""
        return ()

    def collect(self) -> Iterator[Metric]:
        """See `Collector`."""
        service = self._service
        snapshots = [engine.snapshot() for engine in service.engines]
        yield from self._of_engines(snapshots)
        yield from self._of_blocks(snapshots)
        yield self._gauge("vllm:num_requests_swapped", "Never any: they are parked.", 0)
        waiting = service.admission.num_waiting
        reasons = self._gauges(
            "vllm:num_requests_waiting_by_reason", "Requests that wait, by what for.", "reason"
        )
        reasons.add_metric([service.models[0], "capacity"], waiting)
        reasons.add_metric([service.models[0], "scoring"], service.scoring.num_waiting)
        yield reasons
        if service.llm.store is not None:
            yield from self._of_store()

    def _of_engines(self, snapshots: Sequence[Snapshot]) -> Iterator[Metric]:
        counters = [snapshot.counters for snapshot in snapshots]
        cached: Tally[str] = sum((c.cached_tokens for c in counters), Tally())
        misses: Tally[str] = sum((c.misses for c in counters), Tally())
        computed = sum(c.computed_tokens for c in counters)
        written = sum(c.generated_tokens for c in counters)
        running = sum(snapshot.running for snapshot in snapshots)
        waiting = sum(snapshot.waiting for snapshot in snapshots)
        yield self._gauge("vllm:num_requests_running", "Requests in a batch.", running)
        yield self._gauge("vllm:num_requests_waiting", "Requests that wait.", waiting)
        yield self._counter("vllm:generation_tokens", "Tokens drawn.", written)
        # Each text's last token is drawn and not read.
        read = max(computed - written, 0)
        total = read + sum(cached.values())
        yield self._counter("vllm:prompt_tokens", "Tokens of prompts.", total)
        by_source = {"computed": read, **dict.fromkeys(("tree", "store", "running"), 0), **cached}
        name, text = "vllm:prompt_tokens_by_source", "Tokens of prompts, by what became of them."
        yield self._counters(name, text, "source", by_source)
        name, text = "vllm:prompt_tokens_cached_by_source", "Of these, those not computed."
        del by_source["computed"]
        yield self._counters(name, text, "source", by_source)
        yield self._counter("vllm:prefix_cache_queries", "Tokens that were looked up.", total)
        yield self._counter("vllm:prefix_cache_hits", "And found.", sum(cached.values()))
        if self._service.llm.store is not None:
            beyond = total - cached["tree"] - cached["running"]
            name = "vllm:external_prefix_cache_queries"
            yield self._counter(name, "Tokens that files were asked for.", beyond)
            name = "vllm:external_prefix_cache_hits"
            yield self._counter(name, "And that they had.", cached["store"])
        yield self._counters(
            "kept:prefix_misses", "Requests that found no more, by why.", "reason", misses
        )
        parked = sum(c.parked for c in counters)
        yield self._counter("vllm:num_preemptions", "Requests parked for others.", parked)
        for name, text in (
            ("evicted_blocks", "Blocks of ended texts that made room."),
            ("steps", "Passes of the model."),
            ("step_seconds", "Time of passes and all around them."),
            ("repeated_steps", "Passes that needed no preparing."),
            ("drafted_steps", "Passes that verified drafts."),
            ("drafted_tokens", "Rows of drafts."),
            ("accepted_tokens", "Tokens that needed no pass of their own."),
            ("encoded_tokens", "Tokens that an encoder has read."),
        ):
            yield self._counter(f"kept:{name}", text, sum(getattr(c, name) for c in counters))

    def _of_blocks(self, snapshots: Sequence[Snapshot]) -> Iterator[Metric]:
        blocks = [snapshot.blocks for snapshot in snapshots if snapshot.blocks is not None]
        states = {name: sum(getattr(b, name) for b in blocks) for name in _STATES}
        every = sum(states.values())
        used = states["held"] / every if every else 0.0
        for name, text, of in (
            ("lifetime", "From a block's first token until it made room for others.", "lifetimes"),
            ("idle_before_evict", "From its last use until then.", "idle"),
            ("reuse_gap", "From one text that went on from it until the next.", "gaps"),
        ):
            ages = [getattr(snapshot.counters.ages, of) for snapshot in snapshots]
            yield self._histogram(f"vllm:kv_block_{name}_seconds", text, ages)
        yield self._gauge("vllm:kv_cache_usage_perc", "Share of blocks that sequences hold.", used)
        found = self._gauges("kept:kv_blocks", "Blocks of keys and values, by state.", "state")
        for name, count in states.items():
            found.add_metric([self._service.models[0], name], count)
        yield found

    def _of_store(self) -> Iterator[Metric]:
        store = self._service.llm.store
        assert store is not None
        for field in fields(store.counters):
            value = getattr(store.counters, field.name)
            name, text = f"kept:store_{field.name}", "Of the prefix store."
            if isinstance(value, Tally):
                yield self._counters(name, text, "kind", value)
            else:
                yield self._counter(name, text, value)

    def _gauge(self, name: str, text: str, value: float) -> Metric:
        found = GaugeMetricFamily(name, text, labels=["model_name"])
        found.add_metric([self._service.models[0]], value)
        return found

    def _histogram(self, name: str, text: str, of: Sequence[Histogram]) -> Metric:
        found = HistogramMetricFamily(name, text, labels=["model_name"])
        counts = [sum(each) for each in zip(*(x.counts for x in of), strict=True)]
        bounds = [*map(str, BOUNDS), "+Inf"]
        buckets = list(zip(bounds, accumulate(counts or [0] * len(bounds)), strict=True))
        found.add_metric([self._service.models[0]], buckets, sum(x.total for x in of))
        return found

    def _gauges(self, name: str, text: str, label: str) -> GaugeMetricFamily:
        return GaugeMetricFamily(name, text, labels=["model_name", label])

    def _counter(self, name: str, text: str, value: float) -> Metric:
        found = CounterMetricFamily(name, text, labels=["model_name"])
        found.add_metric([self._service.models[0]], value)
        return found

    def _counters(
        self, name: str, text: str, label: str, values: dict[str, int] | Tally[str]
    ) -> Metric:
        found = CounterMetricFamily(name, text, labels=["model_name", label])
        for each, value in values.items():
            found.add_metric([self._service.models[0], each], value)
        return found


_STATES: Final = ("free", "findable", "held")
