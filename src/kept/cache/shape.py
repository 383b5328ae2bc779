"""What a model asks of its cache."""

from __future__ import annotations

from dataclasses import dataclass

from kept.ops import KVCodec


@dataclass(frozen=True, slots=True)
class KVShape:
    """What one layer stores per token: G heads of D, and the window its config gives it.

    shares: the layer whose keys and values this one attends, storing none of its own (as Gemma 3n's
    last layers do, config `num_kv_shared_layers`); None: it stores its own. cross: whether the
    tokens are those of an encoder's input, which the layer attends whole. A model's layers are
    listed so: those that store, those that share, and the cross layers. value_dim: the size of a
    value where it is not that of a key; None: D. values_in_keys: a value is the first numbers of
    its key, and nothing is stored of it beside (as in DeepSeek's latent attention).
    """

    num_kv_heads: int
    head_dim: int
    window: int | None = None
    shares: int | None = None
    cross: bool = False
    value_dim: int | None = None
    values_in_keys: bool = False

    def __post_init__(self) -> None:
        if self.value_dim is not None and self.value_dim == self.head_dim:
            # One spelling, as shapes are compared.
            object.__setattr__(self, "value_dim", None)

    @property
    def value_width(self) -> int:
        """Numbers in a value of one head."""
        return self.head_dim if self.value_dim is None else self.value_dim

    @property
    def stored_value_width(self) -> int:
        """Numbers that are stored of a value of one head, beside its key."""
        return 0 if self.values_in_keys else self.value_width

    @property
    def numel(self) -> int:
        """Numbers stored per token: a key and a value for each head."""
        if self.shares is not None:
            return 0
        return self.num_kv_heads * (self.head_dim + self.stored_value_width)

    def num_bytes(self, codec: KVCodec) -> int:
        """Bytes stored per token, scales included."""
        return 0 if self.shares is not None else self.num_bytes_read(codec)

    def num_bytes_read(self, codec: KVCodec) -> int:
        """Bytes that attending a token reads, whoever stores it."""
        return self.num_kv_heads * codec.num_bytes(self.head_dim, self.stored_value_width)
