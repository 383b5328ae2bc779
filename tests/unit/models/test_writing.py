"""`quantize_checkpoint` and what else happens to its folder: kills, other runs, files of others."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from kept import CheckpointError, OptionError, quantize_checkpoint
from kept.bench.random_weights import random_model, save_checkpoint
from kept.machine import NATIVE_AVAILABLE
from kept.models import claim, moving

pytestmark = [
    pytest.mark.skipif(not NATIVE_AVAILABLE, reason="the native module packs"),
    pytest.mark.skipif(os.name != "posix", reason="leftovers are told by locks of a POSIX system"),
]
CONFIG = {
    "model_type": "llama",
    "vocab_size": 40,
    "hidden_size": 32,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "max_position_embeddings": 16,
    "rms_norm_eps": 1e-6,
    "hidden_act": "silu",
}
either_way = pytest.mark.parametrize("exchanges", [True, False])


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "source"
    folder.mkdir()
    save_checkpoint(random_model(CONFIG, torch.float32, seed=0), CONFIG, folder)
    (folder / "tokenizer.json").write_text("{}")
    return folder


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """In a folder of its own, so that what lies beside it is seen."""
    (tmp_path / "there").mkdir()
    return tmp_path / "there" / "out"


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def beside(out: Path) -> list[str]:
    return sorted(path.name for path in out.parent.iterdir())


class Killed(BaseException):
    """What a kill looks like from inside: no call to the file system has an effect any more."""


class FileSystem:
    """Counts the calls that change a folder or wait for the disk, and dies at one of them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, exchanges: bool) -> None:
        self.calls: list[tuple[str, Any]] = []
        self.dies_at: int | None = None
        self.dies_after = False
        real_exchange = moving.exchange
        for name in ("rename", "unlink", "rmdir", "mkdir"):
            monkeypatch.setattr(os, name, self._watched(name, getattr(os, name)))
        monkeypatch.setattr(os, "fsync", self._watched("fsync", os.fsync))
        swap = real_exchange if exchanges else lambda one, other: False
        monkeypatch.setattr(moving, "exchange", self._watched("exchange", swap))

    def _watched(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def watched(*args: Any, **options: Any) -> Any:
            self._die_if(self.dead)
            at = len(self.calls)
            what = os.fstat(args[0]).st_ino if name == "fsync" else args[0]
            self.calls.append((name, what))
            self._die_if(at == self.dies_at and not self.dies_after)
            result = call(*args, **options)
            self._die_if(at == self.dies_at)
            return result

        return watched

    @property
    def dead(self) -> bool:
        return self.dies_at is not None and len(self.calls) > self.dies_at

    def _die_if(self, dies: bool) -> None:
        if dies:
            raise Killed


@either_way
@pytest.mark.parametrize("dies_after", [False, True])
def test_a_kill_at_any_point(
    exchanges: bool, dies_after: bool, source: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    quantize_checkpoint(source, out, "int4")
    old = contents(out)
    expected = contents(quantize_checkpoint(source, out.parent.parent / "other", "int8"))
    assert old != expected
    point, kept_old, kept_new = 0, 0, 0
    while True:
        with monkeypatch.context() as patched:
            system = FileSystem(patched, exchanges)
            system.dies_at, system.dies_after = point, dies_after
            try:
                quantize_checkpoint(source, out, "int8", force=True)
            except Killed:
                pass
            else:
                break
        if exchanges:
            assert contents(out) in (old, expected), system.calls[-1]
        with claim.claimed(out):  # as the next run begins
            pass
        assert beside(out) == ["out"], system.calls[-1]
        found = contents(out)
        assert found in (old, expected), system.calls[-1]
        kept_old, kept_new = kept_old + (found == old), kept_new + (found == expected)
        if found == expected:
            quantize_checkpoint(source, out, "int4", force=True)
        assert contents(out) == old
        point += 1
    assert min(kept_old, kept_new) >= 4
    assert contents(out) == expected


@either_way
def test_all_is_on_disk_before_the_old_one_goes(
    exchanges: bool, source: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    quantize_checkpoint(source, out, "int4")
    with monkeypatch.context() as patched:
        system = FileSystem(patched, exchanges)
        quantize_checkpoint(source, out, "int8", force=True)
    kinds = [name for name, _ in system.calls]
    if exchanges:
        moved = kinds.index("exchange")
    else:
        moved = kinds.index("exchange") + 2
        assert kinds[moved - 1 : moved + 1] == ["rename", "rename"]
    gone = next(i for i, name in enumerate(kinds) if name in ("unlink", "rmdir"))
    synced = {what for name, what in system.calls[:moved] if name == "fsync"}
    assert synced >= {path.stat().st_ino for path in (out, *out.iterdir())}
    between = [what for name, what in system.calls[moved:gone] if name == "fsync"]
    assert out.parent.stat().st_ino in between


@pytest.mark.parametrize("exists", [False, True])
@pytest.mark.parametrize("locks", [False, True])
def test_what_appears_meanwhile_stays(
    exists: bool, locks: bool, source: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not locks:
        monkeypatch.setattr(claim, "_LOCKS", None)
    if exists:
        out.mkdir()

    def write(done: int, total: int) -> None:
        out.mkdir(exist_ok=True)
        (out / "thesis.odt").write_text("mine")

    with pytest.raises(OptionError, match=r"made by someone else meanwhile.*name another"):
        quantize_checkpoint(source, out, quantizing=write)
    assert contents(out) == {"thesis.odt": b"mine"}
    assert beside(out) == ["out"]


def test_a_file_that_appears_meanwhile_stays(source: Path, out: Path) -> None:
    for force in (False, True):
        with pytest.raises((OptionError, CheckpointError), match="out"):
            quantize_checkpoint(
                source, out, force=force, quantizing=lambda done, total: out.write_text("mine")
            )
        assert out.read_text() == "mine"
        assert beside(out) == ["out"]
        out.unlink()


@either_way
def test_force_replaces_nothing_that_is_no_checkpoint_by_then(
    exchanges: bool, source: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    quantize_checkpoint(source, out, "int4")
    before = contents(out)
    FileSystem(monkeypatch, exchanges)

    def write(done: int, total: int) -> None:
        (out / "thesis.odt").write_text("mine")

    with pytest.raises(OptionError, match=r"holds thesis\.odt, which no checkpoint does"):
        quantize_checkpoint(source, out, "int8", force=True, quantizing=write)
    assert contents(out) == {**before, "thesis.odt": b"mine"}
    assert beside(out) == ["out"]


@pytest.mark.parametrize("locks", [False, True])
def test_of_three_runs_one_wins(
    locks: bool, source: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not locks:
        monkeypatch.setattr(claim, "_LOCKS", None)
    start, results = threading.Barrier(3), []

    def run() -> None:
        start.wait()
        try:
            results.append(quantize_checkpoint(source, out, "int8"))
        except Exception as error:
            results.append(error)

    threads = [threading.Thread(target=run) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    errors = [result for result in results if result != out]
    assert len(errors) == 2, results
    for error in errors:
        assert isinstance(error, OptionError)
        assert "name another folder" in str(error)
    assert beside(out) == ["out"]


def test_leftovers_of_a_run_that_lives_are_left_alone(source: Path, out: Path) -> None:
    with claim.claimed(out):
        left = claim.name_beside(out, claim.UNFINISHED)
        left.mkdir()
        (left / "kept.safetensors").write_text("in the making")
        for force in (False, True):
            with pytest.raises(OptionError, match="is being written by another run"):
                quantize_checkpoint(source, out, force=force)
        assert left.is_dir()
    # The lock has ended with its run.
    quantize_checkpoint(source, out)
    assert beside(out) == ["out"]


def test_a_folder_that_a_killed_run_moved_away_comes_back(source: Path, out: Path) -> None:
    quantize_checkpoint(source, out)
    before = contents(out)
    out.rename(claim.name_beside(out, claim.OLD))
    with pytest.raises(OptionError, match="is not empty"):
        quantize_checkpoint(source, out)
    assert contents(out) == before
    assert beside(out) == ["out"]


def test_what_only_looks_like_a_leftover_stays(source: Path, out: Path) -> None:
    elsewhere = out.parent.parent / "elsewhere"
    elsewhere.mkdir()
    (out.parent / f".out.{'0' * 16}.tmp").write_text("a file")
    (out.parent / f".out.{'1' * 16}.tmp").symlink_to(elsewhere)
    (out.parent / ".out.backup.tmp").mkdir()
    names = beside(out)
    quantize_checkpoint(source, out)
    assert beside(out) == sorted([*names, "out"])
    assert elsewhere.is_dir()
