"""The options of `kept bench serve`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from kept.bench.shapes import SHAPES
from kept.cli.options import ACTIVATIONS_HELP, ActivationsName, QuantizedFormat, option
from kept.options import KVDtypeName

MODEL = "Model"
WORK = "What arrives"
ENGINE = "How it is served"
REPORT = "What is reported"
DEFAULT_SHAPE = "qwen2.5-0.5b"


@dataclass(frozen=True, kw_only=True)
class ServedModel:
    """The model that serves."""

    model: Annotated[
        str | None,
        option(MODEL, "Serve this checkpoint: a folder, GGUF file or hub id.", metavar="FOLDER|ID"),
    ] = None
    shape: Annotated[
        str | None,
        option(
            MODEL,
            "Serve random weights of a known shape; nothing is downloaded. "
            f"One of {', '.join(SHAPES)}. This is what serves without --model, as {DEFAULT_SHAPE}.",
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
    activations: Annotated[ActivationsName, option(MODEL, ACTIVATIONS_HELP)] = ActivationsName.AUTO
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
    log_file: Annotated[
        Path | None,
        option(REPORT, "Write here what happens to each request and in each pass that reads of a "
               "prompt, a line each.", "--log", metavar="FILE"),
    ] = None  # fmt: skip
