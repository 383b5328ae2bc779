"""The one table of a server's settings: flags, variables and the file are all made of it."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from kept.errors import OptionError
from kept.format import parse_bytes
from kept.options.field import Field, boolean, check_given, integer, items, number

T_co = TypeVar("T_co", covariant=True)


@dataclass(frozen=True, slots=True)
class Setting(Field[T_co]):
    """One setting.

    kind: its type on the command line. text: what it does, with its default. panel: the heading it
    stands under. metavar: how its value is written.
    """

    kind: Any
    text: str
    panel: str
    metavar: str | None = None


def _text(label: str, value: object) -> str:
    if not isinstance(value, str) or not value.strip():
        raise OptionError(f"{label}={value!r}; pass a text that is not empty")
    return value


def _texts(label: str, value: object) -> tuple[str, ...]:
    given = (value,) if isinstance(value, str) else items(label, value, "a list of texts")
    return tuple(_text(label, each) for each in given)


def _size(least: int, most: int) -> Callable[[str, object], int]:
    whole = integer(least, most)

    def check(label: str, value: object) -> int:
        return whole(label, parse_bytes(value) if isinstance(value, str) else value)

    return check


def _origins(label: str, value: object) -> tuple[str, ...]:
    found = _texts(label, value)
    for each in found:
        if not re.fullmatch(r"https?://[\w.-]+(:\d+)?|https?://\[[0-9a-fA-F:]+\](:\d+)?", each):
            raise OptionError(
                f"{label} holds {each!r}; write an origin as https://chat.example.org:8443, "
                "without a path"
            )
    return found


ADDRESS, WHO, LOAD, LIMITS, LOG = "Address", "Who may ask", "Load", "Limits", "Log"

HOST = Setting(
    "host",
    _text,
    "127.0.0.1",
    str,
    "The address to listen at; 0.0.0.0 is every one of this machine. Beyond loopback an --api-key "
    "is required. Default: 127.0.0.1.",
    ADDRESS,
)
PORT = Setting(
    "port", integer(0, 65535), 8000, int, "The port; 0 is any free one. Default: 8000.", ADDRESS
)
SERVED_MODEL_NAME: Setting[tuple[str, ...]] = Setting(
    "served_model_name",
    _texts,
    (),
    list[str],
    "What the model is called in requests and answers; may be given several times, the first is "
    "what answers say. Default: the folder's name, or the hub id; kept for the bundled model.",
    ADDRESS,
    "NAME",
)
API_KEY: Setting[tuple[str, ...]] = Setting(
    "api_key",
    _texts,
    (),
    list[str],
    "A key that requests must come with, as `Authorization: Bearer KEY` or `x-api-key: KEY`; may "
    "be given several times, each as KEY or NAME:KEY. Each name is a tenant with a cache of its "
    "own. The command line is seen by other users of this machine: better --api-key-file or "
    "KEPT_API_KEY. Default: none, on loopback only.",
    WHO,
    "KEY",
)
API_KEY_FILE: Setting[str | None] = Setting(
    "api_key_file", _text, None, str, "A file of such keys, one a line.", WHO, "FILE"
)
SALT_SECRET: Setting[str | None] = Setting(
    "salt_secret",
    _text,
    None,
    str,
    "What salts of tenants are made of beside their keys; another one makes stored prefixes of "
    "tenants unfindable. Default: nothing.",
    WHO,
    "TEXT",
)
ALLOWED_HOSTS: Setting[tuple[str, ...]] = Setting(
    "allowed_hosts",
    _texts,
    (),
    list[str],
    "A name that requests may call this server by (the Host header, without its port); may be "
    "given several times, * is any. Default: those of loopback, and any where --host is beyond it.",
    WHO,
    "NAME",
)
ALLOWED_ORIGINS: Setting[tuple[str, ...]] = Setting(
    "allowed_origins",
    _origins,
    (),
    list[str],
    "An origin whose pages may call this server from a browser, as https://chat.example.org; may "
    "be given several times. Default: this server's own page alone.",
    WHO,
    "ORIGIN",
)
MAX_BATCH_SIZE = Setting(
    "max_batch_size",
    integer(1, 4096),
    16,
    int,
    "Texts computed side by side; others wait. Default: 16.",
    LOAD,
)
PREFILL_CHUNK = Setting(
    "prefill_chunk", integer(1), 512, int, "Prompt tokens of a pass, at most. Default: 512.", LOAD
)
MAX_QUEUE_TIME = Setting(
    "max_queue_time",
    number(0),
    30.0,
    float,
    "Seconds that a request may have to wait before it can start; one that would wait longer is "
    "refused at once, with 429 and when to come again. Default: 30.",
    LOAD,
)
DRAIN_TIME = Setting(
    "drain_time",
    number(0),
    60.0,
    float,
    "Seconds that answers under way have to end after SIGTERM or Ctrl-C; a second signal ends them "
    "at once. Default: 60.",
    LOAD,
)
DEFAULT_MAX_TOKENS: Setting[int | None] = Setting(
    "default_max_tokens",
    integer(1),
    None,
    int,
    "Tokens of an answer to a request that does not say how many. Default: those to the end of the "
    "context; /v1/completions has 16, as OpenAI's.",
    LIMITS,
)
MAX_BODY = Setting(
    "max_body",
    _size(1 << 10, 1 << 30),
    16 << 20,
    str,
    "The largest request. Default: 16MiB.",
    LIMITS,
    "<bytes, or as 16MiB>",
)
MAX_DEPTH = Setting(
    "max_depth", integer(4, 200), 64, int, "How deep JSON may be nested. Default: 64.", LIMITS
)
MAX_N = Setting(
    "max_n",
    integer(1, 4096),
    16,
    int,
    "Texts that one request may ask for; never more than --max-batch-size. Default: 16.",
    LIMITS,
)
BODY_TIMEOUT = Setting(
    "body_timeout",
    number(0, above_low=True),
    30.0,
    float,
    "Seconds that a request may take to arrive. Default: 30.",
    LIMITS,
)
RESPONSE_STORE = Setting(
    "response_store",
    _size(0, 1 << 36),
    64 << 20,
    str,
    "What the answers of /v1/responses that a tenant's next requests can go on from may take in "
    "memory; the oldest make room. 0: none is stored. Default: 64MiB.",
    LIMITS,
    "<bytes, or as 64MiB>",
)
ACCESS_LOG = Setting(
    "access_log",
    boolean,
    True,
    bool,
    "Write a line of JSON to stderr for each request, without what was asked. Default: on.",
    LOG,
)
LOG_PROMPTS = Setting(
    "log_prompts",
    boolean,
    False,
    bool,
    "Write what was asked into the log too. Default: off.",
    LOG,
)

SETTINGS: tuple[Setting[object], ...] = (
    *(HOST, PORT, SERVED_MODEL_NAME, API_KEY, API_KEY_FILE, SALT_SECRET, ALLOWED_HOSTS),
    *(ALLOWED_ORIGINS, MAX_BATCH_SIZE, PREFILL_CHUNK, MAX_QUEUE_TIME, DRAIN_TIME, MAX_BODY),
    *(DEFAULT_MAX_TOKENS, MAX_DEPTH, MAX_N, BODY_TIMEOUT, RESPONSE_STORE, ACCESS_LOG, LOG_PROMPTS),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """A server's settings, in their canonical form. Raises OptionError for one that will not do."""

    host: str = HOST.default
    port: int = PORT.default
    served_model_name: tuple[str, ...] = ()
    api_key: tuple[str, ...] = ()
    api_key_file: str | None = None
    salt_secret: str | None = None
    allowed_hosts: tuple[str, ...] = ()
    allowed_origins: tuple[str, ...] = ()
    max_batch_size: int = MAX_BATCH_SIZE.default
    prefill_chunk: int = PREFILL_CHUNK.default
    max_queue_time: float = MAX_QUEUE_TIME.default
    drain_time: float = DRAIN_TIME.default
    default_max_tokens: int | None = None
    max_body: int = MAX_BODY.default
    max_depth: int = MAX_DEPTH.default
    max_n: int = MAX_N.default
    body_timeout: float = BODY_TIMEOUT.default
    response_store: int = RESPONSE_STORE.default
    access_log: bool = True
    log_prompts: bool = False

    def __post_init__(self) -> None:
        check_given(self, SETTINGS)
