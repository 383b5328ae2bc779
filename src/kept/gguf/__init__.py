"""GGUF files: what their headers say, held against the file before anything is made of it."""

from kept.gguf.block_types import BLOCK_TYPES, BlockType
from kept.gguf.header import GGUFHeader, GGUFTensor, read_header, read_stream
from kept.gguf.shards import is_gguf, join_headers, read_headers, shard_names

__all__ = [
    "BLOCK_TYPES",
    "BlockType",
    "GGUFHeader",
    "GGUFTensor",
    "is_gguf",
    "join_headers",
    "read_header",
    "read_headers",
    "read_stream",
    "shard_names",
]
