"""`kept bench serve`: requests that arrive as traffic does, and how long they wait."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from kept.bench.shapes import shape_config
from kept.cli.bench_files import (
    check_choice,
    check_file,
    check_measured,
    check_targets,
    deliver,
    load_subject,
    write_json,
)
from kept.cli.bench_serve_options import DEFAULT_SHAPE, Arriving, ServedModel, Serving
from kept.errors import KeptError
from kept.format import parse_bytes

if TYPE_CHECKING:
    from kept.bench.serve_record import ServeResult, ServeSettings
    from kept.bench.serve_work import Workload


def serve(model: ServedModel, arriving: Arriving, serving: Serving) -> None:
    """Serve requests that arrive at random or all at once, and time every token.

    Prompts are random tokens, and every request draws as many as it asks for, the likeliest ones.
    A short warm-up comes first. Tables go to stdout, progress to stderr. Ctrl-C ends it and reports
    what was measured so far (exit code 130).
    """
    from rich.console import Console

    from kept.bench.serve_engine import EngineServer
    from kept.bench.serve_progress import ServeProgress
    from kept.bench.serve_run import check_settings, run_serve
    from kept.models import read_config

    check_choice(model.model, model.shape)
    workload = _workload(arriving)
    settings = _settings(model, arriving, serving, workload)
    check_settings(settings)
    # What cannot be run or written should be known before minutes of measuring.
    if model.model is None:
        context = read_config(shape_config(model.shape or DEFAULT_SHAPE)).context
        workload.plan(arriving.seed, context, 1.0)
    check_targets(serving.json_file, serving.png_file)
    check_file(serving.log_file, "--log")
    subject = load_subject(
        model.model,
        model.shape or DEFAULT_SHAPE,
        model.dtype,
        model.device,
        arriving.seed,
        model.quantize,
        model.activations.value,
    )
    with _engine_log(serving.log_file), ServeProgress(Console(stderr=True)) as progress:
        result = run_serve(subject, settings, workload, EngineServer.of, progress)
    check_measured(result.measured)
    _report(result, serving)


@contextmanager
def _engine_log(path: Path | None) -> Iterator[None]:
    """Have the engine's log in a file meanwhile. Raises KeptError where it cannot be written."""
    if path is None:
        yield
        return
    try:
        handler = logging.FileHandler(path, mode="w", encoding="utf-8")
    except OSError as error:
        raise KeptError(f"cannot write {path} ({error.strerror}); name another file") from error
    handler.setFormatter(logging.Formatter("%(asctime)s.%(msecs)03d %(message)s", "%H:%M:%S"))
    log = logging.getLogger("kept.engine")
    before, log.propagate = (log.level, log.propagate), False
    log.setLevel(logging.DEBUG)
    log.addHandler(handler)
    try:
        yield
    finally:
        log.removeHandler(handler)
        handler.close()
        log.setLevel(before[0])
        log.propagate = before[1]


def _workload(arriving: Arriving) -> Workload:
    from kept.bench.serve_arrivals import parse_arrivals, parse_rate
    from kept.bench.serve_lengths import parse_lengths
    from kept.bench.serve_scenarios import find_scenario
    from kept.bench.serve_work import Traffic, parse_share

    if arriving.scenario is not None:
        _refuse_beside_scenario(arriving)
        return find_scenario(arriving.scenario)
    return Traffic(
        arrivals=parse_arrivals(arriving.arrivals or "burst"),
        rate=None if arriving.rate is None else parse_rate(arriving.rate),
        prompt=parse_lengths(arriving.prompt or "80-240", "prompt", "prompt"),
        output=parse_lengths(arriving.output or "32-96", "output", "output"),
        num_requests=64 if arriving.requests is None else arriving.requests,
        shared=0.0 if arriving.shared is None else parse_share(arriving.shared),
    )


def _refuse_beside_scenario(arriving: Arriving) -> None:
    kept = ("scenario", "duration", "seed")
    for field in fields(arriving):
        if field.name not in kept and getattr(arriving, field.name) is not None:
            raise typer.BadParameter(
                "a scenario says what arrives; leave this out, or describe all of it without "
                "--scenario",
                param_hint=f"--{field.name}",
            )


def _settings(
    model: ServedModel, arriving: Arriving, serving: Serving, workload: Workload
) -> ServeSettings:
    from kept.bench.serve_figures import parse_bound
    from kept.bench.serve_record import ServeSettings

    return ServeSettings(
        workload=workload.words,
        max_batch_size=serving.max_batch_size,
        kv_memory=None if serving.kv_memory is None else parse_bytes(serving.kv_memory),
        kv_dtype=model.kv_dtype,
        max_step_time=serving.max_step_time,
        duration=arriving.duration,
        bounds=tuple(parse_bound(text) for text in serving.goodput or ()),
        seed=arriving.seed,
        threads=model.threads,
    )


def _report(result: ServeResult, serving: Serving) -> None:
    from kept.bench.serve_figures import serve_figures
    from kept.bench.serve_plot import save_timeline
    from kept.bench.serve_report import serve_json, serve_report

    figures = serve_figures(result)
    targets = (
        (serving.json_file, write_json(serve_json(result, figures))),
        (serving.png_file, partial(save_timeline, result, figures)),
    )
    deliver(serve_report(result, figures), targets, interrupted=result.interrupted)
