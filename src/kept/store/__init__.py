"""Prefixes that outlive the process: blocks of keys and values in files of a directory. Knows no
tensors: a block is bytes, its text a chain of hashes."""

from kept.store.admin import Admin, Summary
from kept.store.counters import StoreCounters
from kept.store.disk import Disk
from kept.store.file_format import Header
from kept.store.index import Place
from kept.store.reading import Read, Sink, Wanted
from kept.store.section import Found, Section
from kept.store.store import READ_PATIENCE, PrefixStore

__all__ = [
    "READ_PATIENCE",
    "Admin",
    "Disk",
    "Found",
    "Header",
    "Place",
    "PrefixStore",
    "Read",
    "Section",
    "Sink",
    "StoreCounters",
    "Summary",
    "Wanted",
]
