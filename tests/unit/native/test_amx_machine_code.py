"""The tile instructions themselves, carried out one by one where the CPU lacks them.

tile_trap.cpp says how.
"""

import os
import platform
import shutil
import subprocess
from pathlib import Path

import pytest

from kept import machine

HERE = Path(__file__).parent
NATIVE = HERE.parents[2] / "native"
NEEDS = ("avx2", "fma", "f16c", "avx512f", "avx512bw", "avx512dq", "avx512vl")
FLAGS = [f"-m{name}" for name in (*NEEDS, "avx512bf16", "avx512vbmi", "amx-tile", "amx-bf16")]
FEATURES = {*machine.describe_machine().features}
COMPILER = os.environ.get("CXX") or shutil.which("c++")


@pytest.mark.skipif(COMPILER is None, reason="no C++ compiler")
@pytest.mark.skipif(platform.system() != "Linux", reason="decodes Linux' signal frames")
@pytest.mark.skipif(
    not {*NEEDS, "avx512_bf16", "avx512_vbmi"} <= FEATURES,
    reason="the kernels around the tiles need AVX-512 with BF16",
)
@pytest.mark.skipif("amx_bf16" in FEATURES, reason="this CPU has AMX")
def test_trapped_and_emulated_instructions_agree(tmp_path: Path) -> None:
    program = tmp_path / "tile_trap"
    # Of pack.cpp the tables of codes alone are linked, so that no other source is needed.
    options = ["-std=c++20", "-O1", "-ffp-contract=off", "-ffunction-sections", "-fdata-sections"]
    sources = [HERE / "tile_trap.cpp", NATIVE / "pack.cpp", NATIVE / "top_logits.cpp"]
    command = [COMPILER, *options, *FLAGS, f"-I{NATIVE}", *sources, "-Wl,--gc-sections"]
    subprocess.run([*command, "-o", program], check=True)
    done = subprocess.run([program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith(" instructions\n")
