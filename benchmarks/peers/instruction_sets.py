"""How peers are held to less than the CPU has, so that an older one can be measured on a newer."""

from __future__ import annotations

from typing import Final

# kept's name of a set: what oneDNN (OpenVINO, CTranslate2, torch) and torch's own kernels call it.
_ONEDNN: Final = {
    "avx2": "AVX2",
    "avx512": "AVX512_CORE",
    "avx512vnni": "AVX512_CORE_VNNI",
    "avx512bf16": "AVX512_CORE_BF16",
}
_TORCH: Final = {"avx2": "avx2"}
_CTRANSLATE2: Final = {"avx2": "AVX2"}
ISAS: Final = tuple(_ONEDNN)
BUILT_FOR: Final = ("llamacpp",)  # chosen when it is compiled: install.sh has an environment each
HELD_BY_ENVIRONMENT: Final = ("openvino", "ctranslate2", "transformers")


def held_to(isa: str) -> dict[str, str]:
    """The variables that keep the libraries from instructions beyond a set of `ISAS`."""
    return {
        "ONEDNN_MAX_CPU_ISA": _ONEDNN[isa],
        "ATEN_CPU_CAPABILITY": _TORCH.get(isa, "avx512"),
        "CT2_FORCE_CPU_ISA": _CTRANSLATE2.get(isa, "AVX512"),
    }
