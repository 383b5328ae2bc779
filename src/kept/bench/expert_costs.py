"""What the experts of a model cost: a pass reads those that its tokens chose, and no others."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from torch import nn

from kept.models.experts import Experts
from kept.models.head_matrices import LatentMatrices
from kept.models.layers import Linear
from kept.ops import PackedMatrix


@dataclass(frozen=True, slots=True)
class ExpertCosts:
    """The experts of a layer, of which a token goes to `top_k`. num_bytes, elements: of one."""

    num_experts: int
    top_k: int
    num_bytes: int
    elements: int

    @property
    def elements_met(self) -> int:
        """Numbers of matrices that a token is multiplied with."""
        return self.top_k * self.elements

    def bytes_read(self, rows: int) -> int:
        """Of a pass over so many tokens: of one, exactly those of its experts; of more, those that
        they choose on average where each chooses by itself and all experts are as likely."""
        missed = (1 - self.top_k / self.num_experts) ** rows
        return round(self.num_experts * (1 - missed) * self.num_bytes)


def expert_costs(blocks: Iterable[nn.Module], held: Iterable[nn.Module]) -> tuple[ExpertCosts, ...]:
    """Of each layer that holds experts. blocks: whose matrices have shapes; held: the same, whose
    matrices may be packed."""
    found = []
    for block, its in zip(blocks, held, strict=True):
        for layer, packed in zip(_layers(block), _layers(its), strict=True):
            found.append(
                ExpertCosts(
                    layer.config.num_experts,
                    layer.config.routing.top_k,
                    held_bytes(packed.experts[0].modules()),
                    matrix_elements(layer.experts[0]),
                )
            )
    return tuple(found)


def without_experts(part: nn.Module) -> list[nn.Module]:
    """The modules of a part of a model but for experts that tokens choose among."""
    chosen_among = {
        id(inner)
        for layer in _layers(part)
        for expert in layer.experts
        for inner in expert.modules()
    }
    return [module for module in part.modules() if id(module) not in chosen_among]


def _layers(part: nn.Module) -> list[Experts]:
    return [module for module in part.modules() if isinstance(module, Experts)]


def matrix_elements(part: nn.Module) -> int:
    """Numbers in its matrices."""
    linear = sum(m.weight.numel() for m in part.modules() if isinstance(m, Linear))
    return linear + sum(m.numel for m in part.modules() if isinstance(m, LatentMatrices))


def held_bytes(modules: Iterable[nn.Module]) -> int:
    """Bytes of the weights of modules, in the format they are held in; shared ones count once."""
    found: dict[int, int] = {}
    for module in modules:
        weight = getattr(module, "weight", None)
        if isinstance(weight, PackedMatrix):
            found[id(weight)] = weight.num_bytes
        if isinstance(module, LatentMatrices):
            found.update((id(each), each.num_bytes) for each in module.packed)
        for tensor in (*module.parameters(recurse=False), *module.buffers(recurse=False)):
            found[id(tensor)] = tensor.nbytes
    return sum(found.values())
