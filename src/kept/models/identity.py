"""What keys and values depend on beside tokens and cache: the weights, and the code that runs them.

Both are hashes of files, so nobody has to remember to raise a number: a weight that changes, a
kernel that is compiled anew, a line of the model's code makes another one. What it costs to hash
the weights, a quarter of a second for each GB that the system has in memory, is paid once: a folder
remembers digests by a file's name, size, inode and times. The time of its last change of any kind
(ctime) is the system's own, so that no program can put it back.
"""

from __future__ import annotations

import json
import os
import time
from contextlib import suppress
from functools import cache
from pathlib import Path
from secrets import token_hex

import torch
from xxhash import xxh3_128, xxh3_128_hexdigest

import kept
from kept.errors import CheckpointError
from kept.models.causal_lm import CausalLM
from kept.models.checkpoint import Checkpoint
from kept.ops.backend import isa

_CHUNK = 1 << 22
_SETTLED = 2.0  # seconds after which a file that changed once more has another time
_MEMO = "weights.json"
_CODE = ("batch.py", "cache", "models", "ops")  # what decides what kernels are called with


def weights_of(
    checkpoint: Checkpoint, model: CausalLM, loaded_as: tuple[object, ...], memo: Path
) -> str:
    """A hash of the weights as they are multiplied: the checkpoint's files and how they were
    loaded.

    loaded_as: what was asked for, such as a dtype and a quantization. memo: a folder where digests
    of files are remembered. Raises CheckpointError for a file that cannot be read.
    """
    found = xxh3_128()
    config = json.dumps(dict(checkpoint.config), sort_keys=True, default=str)
    parts = [config, str(model.dtype), str(model.activations), *map(str, loaded_as)]
    for path in sorted(checkpoint.files):
        parts.append(_digest_of(path, memo))
    for part in parts:
        found.update(f"{len(part)}:{part}".encode())
    return found.hexdigest()


@cache
def kernels_of() -> str:
    """A hash of the native module, of the code that calls it, and of torch, which computes the
    tables of positions."""
    root = Path(kept.__file__).parent
    found = xxh3_128(f"{torch.__version__} {torch.backends.cpu.get_cpu_capability()}".encode())
    files = [path for name in _CODE for path in [root / name, *sorted((root / name).rglob("*.py"))]]
    for path in [*files, *sorted(root.glob("_native*"))]:
        if path.is_file():
            found.update(f"{path.relative_to(root)}:{path.stat().st_size}:".encode())
            found.update(path.read_bytes())
    return found.hexdigest()


def instructions_of(model: CausalLM) -> str:
    """The instruction set that a model runs on."""
    return "torch" if model.native is None else isa()


def _digest_of(path: Path, memo: Path) -> str:
    try:
        real = path.resolve()
        before = real.stat()
        key = f"{real} {before.st_size} {before.st_ino} {before.st_mtime_ns} {before.st_ctime_ns}"
        known = _remembered(memo)
        if key in known:
            return known[key]
        found = xxh3_128()
        with real.open("rb", buffering=0) as file:
            while chunk := file.read(_CHUNK):
                found.update(chunk)
        after = real.stat()
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}.") from error
    digest = found.hexdigest()
    if after.st_ctime_ns == before.st_ctime_ns and time.time() - after.st_ctime > _SETTLED:
        _remember(memo, {**known, key: digest})
    return digest


def _remembered(memo: Path) -> dict[str, str]:
    try:
        held = json.loads((memo / _MEMO).read_text())
        digests: dict[str, str] = held["digests"]
        return digests if held["check"] == _check(digests) else {}
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def _remember(memo: Path, digests: dict[str, str]) -> None:
    text = json.dumps({"digests": digests, "check": _check(digests)}, indent=1)
    beside = memo / f"{_MEMO}.{token_hex(4)}"
    with suppress(OSError):
        handle = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with open(handle, "w") as file:
            file.write(text)
        beside.replace(memo / _MEMO)


def _check(digests: dict[str, str]) -> str:
    return xxh3_128_hexdigest(json.dumps(digests, sort_keys=True).encode())
