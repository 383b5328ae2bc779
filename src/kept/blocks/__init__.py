"""Blocks of tokens: who holds which of them, which are free, and which texts begin with which.
Knows no tensors, and of a token only whether it equals another."""

from kept.blocks.ages import BOUNDS, Ages, Histogram
from kept.blocks.budget import UNLIMITED, Budget, Reservation
from kept.blocks.entries import Entry
from kept.blocks.keys import Namespace, Tokens
from kept.blocks.lease import Lease
from kept.blocks.match import Match, Miss, Reason
from kept.blocks.pool import BLOCK, Block, BlockPool, blocks_of
from kept.blocks.prefix_tree import LONGEST_RETAIN, PrefixTree
from kept.blocks.stack import Stack
from kept.blocks.texts import KnownText, count_texts, list_texts
from kept.blocks.window_shelf import WindowShelf

__all__ = [
    "BLOCK",
    "BOUNDS",
    "LONGEST_RETAIN",
    "UNLIMITED",
    "Ages",
    "Block",
    "BlockPool",
    "Budget",
    "Entry",
    "Histogram",
    "KnownText",
    "Lease",
    "Match",
    "Miss",
    "Namespace",
    "PrefixTree",
    "Reason",
    "Reservation",
    "Stack",
    "Tokens",
    "WindowShelf",
    "blocks_of",
    "count_texts",
    "list_texts",
]
