"""Packed token blocks and the order in which training reads them."""

from __future__ import annotations

import hashlib
from pathlib import Path

import torch
from corpus import read_modules, split
from tokenizer import END_OF_TEXT
from tokenizers import Tokenizer
from torch import Tensor


def encode_documents(tokenizer: Tokenizer, texts: list[str]) -> list[Tensor]:
    """Each text as token ids after one separator."""
    separator = tokenizer.token_to_id(END_OF_TEXT)
    encoded = tokenizer.encode_batch(texts)
    return [torch.tensor([separator, *one.ids], dtype=torch.int32) for one in encoded]


def load_train_documents(tokenizer_folder: Path) -> list[Tensor]:
    """The train part as token ids, kept beside the tokenizer once encoded.

    What is kept carries the tokenizer's fingerprint, so another tokenizer encodes anew.
    """
    from safetensors import safe_open
    from safetensors.torch import save_file

    path = tokenizer_folder / "tokenizer.json"
    fingerprint = hashlib.sha256(path.read_bytes()).hexdigest()
    cache = tokenizer_folder / "train_tokens.safetensors"
    if cache.exists():
        with safe_open(cache, framework="pt") as stored:
            if (stored.metadata() or {}).get("tokenizer") == fingerprint:
                lengths: list[int] = stored.get_tensor("lengths").tolist()
                return list(torch.split(stored.get_tensor("tokens"), lengths))
    train, _ = split(read_modules())
    tokenizer = Tokenizer.from_file(str(path))
    documents = encode_documents(tokenizer, [module.text for module in train])
    counts = torch.tensor([len(document) for document in documents])
    content = {"tokens": torch.cat(documents), "lengths": counts}
    save_file(content, cache, metadata={"tokenizer": fingerprint})
    return documents


class PackedRows:
    """Rows of `length + 1` tokens drawn from all documents, every token once an epoch.

    An epoch shuffles the documents, packs them end to end and cuts the pack into blocks of
    `context` tokens, whose order is shuffled again. Blocks are dealt in groups of `group_blocks`:
    within a group, rows of the length asked for are mixed, so a batch of short rows holds many
    documents. The order depends only on the seed and the group's number, so a run resumes exactly.
    """

    def __init__(self, documents: list[Tensor], context: int, group_blocks: int, seed: int) -> None:
        self.documents = documents
        self.context = context
        self.group_blocks = group_blocks
        self.seed = seed
        self.num_tokens = sum(len(document) for document in documents)
        self.groups_per_epoch = (self.num_tokens - 1) // context // group_blocks
        self._epoch = -1
        self._pack = torch.empty(0, dtype=torch.int32)
        self._order = torch.empty(0, dtype=torch.int64)

    def group(self, number: int, length: int) -> Tensor:
        """Group `number` as rows `(group_blocks * context / length, length + 1)` of int64."""
        epoch, index = divmod(number, self.groups_per_epoch)
        if epoch != self._epoch:
            self._shuffle(epoch)
        blocks = self._order[index * self.group_blocks : (index + 1) * self.group_blocks]
        starts = (blocks * self.context)[:, None] + torch.arange(0, self.context, length)
        mixer = torch.Generator().manual_seed(self.seed * 1_000_003 + number)
        flat = starts.flatten()
        flat = flat[torch.randperm(len(flat), generator=mixer)]
        return self._pack[flat[:, None] + torch.arange(length + 1)].long()

    def _shuffle(self, epoch: int) -> None:
        """Pack the documents in this epoch's order."""
        generator = torch.Generator().manual_seed(self.seed * 7_919 + epoch)
        order = torch.randperm(len(self.documents), generator=generator).tolist()
        self._pack = torch.cat([self.documents[i] for i in order])
        blocks = (len(self._pack) - 1) // self.context
        self._order = torch.randperm(blocks, generator=generator)
        self._epoch = epoch
