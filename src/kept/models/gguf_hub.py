"""A GGUF file on the hub: ORG/NAME:FILE.gguf. Its header is judged before the rest is fetched."""

from __future__ import annotations

import re
from contextlib import ExitStack
from pathlib import Path

from kept.gguf import GGUFHeader, join_headers, read_stream, shard_names
from kept.models import hub
from kept.models.gguf_config import gguf_config

_NAMED = re.compile(r"([^:]+):((?:[^/\\:]+/)*[^/\\:]+\.gguf)", re.IGNORECASE)


def split_gguf(source: str) -> tuple[str, str] | None:
    """The hub id and the file's name, None where that is not what `source` names."""
    found = _NAMED.fullmatch(source)
    if found is None or ".." in found[2].split("/"):
        return None
    return found[1], found[2]


def fetch_gguf(
    repo_id: str, name: str, *, revision: str | None = None, progress: bool = True
) -> Path:
    """The file in the hub's cache, with its other shards beside it.

    Of a file that is not there yet the header is read first: raises as `gguf_config` before
    anything else is fetched, and as `hub.download`.
    """
    names = shard_names(name)
    if not hub.is_cached(repo_id, names, revision):
        gguf_config(read_remote(repo_id, name, revision))
    folder = hub.download(repo_id, revision=revision, progress=progress, names=names)
    return folder / name


def read_remote(repo_id: str, name: str, revision: str | None = None) -> GGUFHeader:
    """The header of a file on the hub, of all its shards. Raises as `hub.download`."""
    with ExitStack() as opened:
        headers = []
        for each in shard_names(name):
            file, size = opened.enter_context(hub.open_remote(repo_id, each, revision))
            headers.append(read_stream(file, Path(repo_id) / each, size))
        return join_headers(headers)


def find_remote(source: str | Path | None, revision: str | None = None) -> GGUFHeader | None:
    """The header of a file on the hub that is not in its cache; None where `source` is no such."""
    named = split_gguf(source) if isinstance(source, str) else None
    if named is None or Path(str(source)).exists():
        return None
    repo_id, name = named
    if hub.is_cached(repo_id, shard_names(name), revision):
        return None
    return read_remote(repo_id, name, revision)
