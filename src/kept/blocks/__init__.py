"""Blocks of tokens: who holds which of them, and which are free. Knows no keys, values or texts."""

from kept.blocks.pool import BLOCK, Block, BlockPool

__all__ = ["BLOCK", "Block", "BlockPool"]
