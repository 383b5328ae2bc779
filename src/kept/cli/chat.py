"""`kept chat`: a conversation at a terminal, or line by line through a pipe."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Annotated, Final

import typer

from kept.cli.adapters import Adapters, UsedAdapter, read_adapters, used_adapter
from kept.cli.cache_flags import CacheFlags
from kept.cli.loading import load
from kept.cli.options import ModelOptions, option
from kept.cli.prompts import check_text, read_lines
from kept.cli.sampling_options import SamplingOptions
from kept.cli.saved_chat import SavedChat
from kept.cli.session import Session
from kept.cli.terminal import DIM, Writer, styled
from kept.errors import ContextLengthError, KeptError, OptionError
from kept.interrupt import INTERRUPTED
from kept.options import PREFIX_STORE

if TYPE_CHECKING:
    from kept.engine import Completion

_HELP: Final = """\
/help    show this
/stats   tokens and times of each turn: prompt tokens cached and new, tokens written
/undo    drop the last question and its answer
/reset   drop the conversation, keep the system message
/quit    leave, as do Ctrl-D and Ctrl-C here
Ctrl-C while an answer is written stops it and keeps what there is of it.
A message that begins with / is written with //."""

_NOTHING: Final = "[stopped before any answer; the turn is dropped]"


def chat(
    *,
    system: Annotated[
        str | None, option("Conversation", "A system message to begin with.", metavar="TEXT")
    ] = None,
    resume: Annotated[
        bool,
        typer.Option(
            "--resume",
            help="Go on with the last conversation with this model, from where it was; its keys "
            "are read, not computed.",
            rich_help_panel="Conversation",
        ),
    ] = False,
    adapter: Adapters = None,
    use_adapter: UsedAdapter = None,
    model: ModelOptions,
    cache: CacheFlags,
    sampling: SamplingOptions,
) -> None:
    """Talk with a model. It keeps what it has read, so a turn computes only what is new.

    What a model thinks before an answer goes to stderr, and later turns do not read it; with
    --no-skip-special-tokens it stays in the answer, marks and all.
    Ctrl-C stops an answer and keeps the conversation; at the prompt it leaves, as Ctrl-D does.
    What it has read outlives the command, in --prefix-store.
    /help lists what else can be typed. Through a pipe every line is a turn, commands included.
    """
    if sys.stdin is None:
        raise OptionError("stdin is closed, so nothing can be said; give a terminal or a pipe")
    if sampling.logprobs is not None:
        raise OptionError("--logprobs is reported only by kept generate --json; leave it out")
    if system is not None:
        check_text(system, "--system")
    params, cache_options = sampling.to_params(), cache.to_options()
    adapters = read_adapters(adapter)
    used = used_adapter(adapters, use_adapter)
    llm = load(model, PREFIX_STORE, adapters=adapters)
    saved = None if llm.store is None else SavedChat(llm.store, model.model or "")
    if resume and saved is None:
        raise OptionError("--resume needs a --prefix-store, and none is used; leave --resume out")
    session = Session(llm, params, cache_options, system, saved, resume=resume, adapter=used)
    if resume:
        _note(f"[going on after {session.num_turns:,} turns]")
    if sys.stdin.isatty():
        if sys.stdout.isatty():
            name = model.model or "the bundled model"
            print(styled(f"{name}; /help for help", DIM, sys.stdout))
        _at_terminal(session)
    else:
        _through_pipe(session)


def _at_terminal(session: Session) -> None:
    """Ask until told to leave; an error ends a turn, not the conversation."""
    read = _line_reader()
    while True:
        try:
            line = read()
        except EOFError:
            _note("")
            return
        except KeyboardInterrupt:
            _note("")
            raise
        try:
            if not _turn(session, check_text(line, "the line")):
                return
        except KeyboardInterrupt:  # before the answer began
            _note(_NOTHING)
        except KeptError as error:
            _note(f"kept: {error}")
            if isinstance(error, ContextLengthError):
                _note("/undo and /reset make room")


def _through_pipe(session: Session) -> None:
    """Every line a turn; the first error or Ctrl-C ends it."""
    for line in read_lines(sys.stdin.buffer, "stdin"):
        if not _turn(session, line):
            return


def _turn(session: Session, line: str) -> bool:
    """Answer a line or obey a command; returns whether to go on."""
    line = line.strip()
    if not line:
        return True
    if line.startswith("/") and not line.startswith("//"):
        return _obey(session, line)
    out, beside = Writer(sys.stdout), Writer(sys.stderr)

    def say(text: str) -> None:
        beside.end_line()
        out.write(text)

    def think(text: str) -> None:
        out.end_line()
        beside.write(text, DIM)

    try:
        question = line.removeprefix("/") if line.startswith("//") else line
        completion = session.ask(question, say, think)
    finally:
        beside.end_line()
        out.end_line()
    if completion.finish_reason == "interrupted" and not sys.stdin.isatty():
        raise typer.Exit(INTERRUPTED)
    _comment(completion)
    return True


def _comment(completion: Completion) -> None:
    """Say why an answer is not whole."""
    if completion.finish_reason == "interrupted":
        _note("[stopped]" if completion.text else _NOTHING)
    elif completion.finish_reason == "length":
        _note(
            f"[cut after {len(completion.token_ids):,} tokens, by --max-new-tokens or the context]"
        )


def _obey(session: Session, line: str) -> bool:
    if line in ("/quit", "/exit"):
        return False
    if line == "/help":
        print(_HELP, flush=True)
    elif line == "/stats":
        print(session.stats(), flush=True)
    elif line == "/reset":
        session.reset()
        _note("[the conversation is empty]")
    elif line == "/undo":
        _note("[the last turn is dropped]" if session.undo() else "[there is no turn to drop]")
    else:
        raise OptionError(f"there is no {line.split()[0]}; /help lists what there is")
    return True


def _note(text: str) -> None:
    """A remark beside the conversation, on stderr so that a file of answers holds only answers."""
    print(styled(text, DIM, sys.stderr), file=sys.stderr, flush=True)


def _line_reader() -> Callable[[], str]:
    """Reads a line at a terminal, with editing and history where Python was built with them."""
    with suppress(ImportError):
        import readline  # noqa: F401  # its import is what gives input() editing and history
    if not sys.stdout.isatty():

        def read() -> str:
            print("> ", end="", file=sys.stderr, flush=True)
            return input()

        return read
    return lambda: input("> ")
