"""`kept bench serve`: requests that arrive as traffic does, and how long they wait."""

from __future__ import annotations

from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from kept.bench.shapes import SHAPES, shape_config
from kept.cli.bench_files import (
    check_choice,
    check_targets,
    load_subject,
    write_files,
    write_json,
)
from kept.cli.options import QuantizedFormat, option
from kept.format import parse_bytes
from kept.interrupt import INTERRUPTED
from kept.options import KVDtypeName

if TYPE_CHECKING:
    from kept.bench.serve_record import ServeResult, ServeSettings
    from kept.bench.serve_work import Workload

MODEL = "Model"
WORK = "What arrives"
ENGINE = "How it is served"
REPORT = "What is reported"
_SHAPE = "qwen2.5-0.5b"


@dataclass(frozen=True, kw_only=True)
class ServedModel:
    """The model that serves."""

    model: Annotated[
        str | None,
        option(MODEL, "Serve this checkpoint: a folder or a hub id.", metavar="FOLDER|ID"),
    ] = None
    shape: Annotated[
        str | None,
        option(
            MODEL,
            "Serve random weights of a known shape; nothing is downloaded. "
            f"One of {', '.join(SHAPES)}. This is what serves without --model, as {_SHAPE}.",
            metavar="NAME",
        ),
    ] = None
    dtype: Annotated[
        str | None, option(MODEL, "float32, bfloat16 or float16. Default: the model's own.")
    ] = None
    quantize: Annotated[
        QuantizedFormat | None,
        option(MODEL, "Hold the weights as codes with scales. Default: as --dtype says."),
    ] = None
    kv_dtype: Annotated[
        KVDtypeName | None,
        option(MODEL, "Hold keys and values in this format. Default: the model's dtype."),
    ] = None
    device: Annotated[
        str | None, option(MODEL, "Where to run, as torch names devices. Default: the CPU.")
    ] = None
    threads: Annotated[
        int | None,
        typer.Option(
            min=1, help="Threads to compute on. Default: all there are.", rich_help_panel=MODEL
        ),
    ] = None


@dataclass(frozen=True, kw_only=True)
class Arriving:
    """What arrives: a scenario, or a mix that these describe."""

    scenario: Annotated[
        str | None,
        option(
            WORK,
            "A mix with a name, in place of the options below: mixed, long-prompt, questions, "
            "same-prompt, common-prefix, chats or tenants. benchmarks/README.md describes them.",
            metavar="NAME",
        ),
    ] = None
    arrivals: Annotated[
        str | None,
        option(
            WORK,
            "All requests at once (burst); N clients, each with its next request when the last is "
            "answered (closed:N); independent of each other, at --rate (poisson); at --rate in "
            "bursts, gaps having V times their mean as standard deviation (gamma:V). Default: "
            "burst.",
            metavar="PROCESS",
        ),
    ] = None
    rate: Annotated[
        str | None,
        option(
            WORK,
            "Requests a second, or a share of what is served a second when all come at once, which "
            "is then measured first. Of poisson and gamma.",
            metavar="<number, or as 70%>",
        ),
    ] = None
    prompt: Annotated[
        str | None,
        option(
            WORK,
            "Tokens of a prompt: a number, a range, or azure-conversation or azure-code, published "
            "statistics scaled down to the model's context. Default: 80-240.",
            metavar="<lengths>",
        ),
    ] = None
    output: Annotated[
        str | None,
        option(
            WORK, "Tokens drawn after it, in the same forms. Default: 32-96.", metavar="<lengths>"
        ),
    ] = None
    shared: Annotated[
        str | None,
        option(
            WORK,
            "Which share of prompt tokens begins an earlier prompt as well, as 37% or 64%, up to "
            "90%. Default: none.",
            metavar="<share>",
        ),
    ] = None
    requests: Annotated[
        int | None, typer.Option(min=1, help="How many arrive. Default: 64.", rich_help_panel=WORK)
    ] = None
    duration: Annotated[
        float | None,
        option(
            WORK, "Send nothing after this many seconds, and answer what was sent. Default: all."
        ),
    ] = None
    seed: Annotated[
        int,
        typer.Option(
            min=0, help="Draws lengths, times, tokens and random weights.", rich_help_panel=WORK
        ),
    ] = 0


@dataclass(frozen=True, kw_only=True)
class Serving:
    """How it is served, and what is reported of it."""

    max_batch_size: Annotated[
        int, typer.Option(min=1, help="Sequences side by side at most.", rich_help_panel=ENGINE)
    ] = 64
    kv_memory: Annotated[
        str | None,
        option(
            ENGINE,
            "Memory for keys and values, of running requests and of texts that may be found again. "
            "Default: half of what is free.",
            metavar="<bytes, or as 512MiB, 2GiB>",
        ),
    ] = None
    max_step_time: Annotated[
        float | None,
        option(
            ENGINE,
            "Seconds a step may take for prompts while others draw tokens. Default: three times "
            "what a step takes that reads no prompt.",
        ),
    ] = None
    goodput: Annotated[
        list[str] | None,
        option(
            REPORT,
            "Count requests that stay within this many seconds, as ttft:1.0: ttft (to the first "
            "token), tpot (each further token), gap (the longest between two), e2e (the whole "
            "request) or queue. May be given several times.",
            metavar="FIGURE:SECONDS",
        ),
    ] = None
    json_file: Annotated[
        Path | None,
        option(REPORT, "Write everything here as JSON, the time of each token too.", "--json",
               metavar="FILE"),
    ] = None  # fmt: skip
    png_file: Annotated[
        Path | None,
        option(REPORT, "Draw a timeline here; needs matplotlib.", "--png", metavar="FILE"),
    ] = None


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
        context = read_config(shape_config(model.shape or _SHAPE)).context
        workload.plan(arriving.seed, context, 1.0)
    check_targets(serving.json_file, serving.png_file)
    messages = Console(stderr=True)
    subject = load_subject(
        model.model, model.shape or _SHAPE, model.dtype, model.device, arriving.seed, model.quantize
    )
    with ServeProgress(messages) as progress:
        result = run_serve(subject, settings, workload, EngineServer.of, progress)
    if not result.measured:
        messages.print("Interrupted before anything was measured.")
        raise typer.Exit(INTERRUPTED)
    _report(result, serving)
    if result.interrupted:
        raise typer.Exit(INTERRUPTED)


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
    from rich.console import Console

    from kept.bench.serve_figures import serve_figures
    from kept.bench.serve_plot import save_timeline
    from kept.bench.serve_report import serve_json, serve_report

    figures = serve_figures(result)
    Console(highlight=False).print(serve_report(result, figures))
    write_files(
        (
            (serving.json_file, write_json(serve_json(result, figures))),
            (serving.png_file, partial(save_timeline, result, figures)),
        )
    )
