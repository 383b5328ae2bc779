"""Whatever a directory holds of texts, and however it fails, no token or log-probability changes.

The law of `test_serving_laws.py` with another axis: the store behind the prefix tree is cold, warm,
found by another process later, shared by two at a time, or read from and written to a disk that
fails, hangs and lies.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from interrupting import interrupted, some_of
from thinning import examples

from kept import machine
from kept.engine import Engine, stored
from kept.ops import use_threads
from kept.store import Disk, PrefixStore, reading
from kept.store import section as sections
from laws.interruptible import interruptible
from laws.pool_sums import check_nothing_is_left, check_pool
from laws.serving import Ask, Served, Setting, check_alone, serve
from laws.serving_draws import (
    CROWDED_SETTINGS,
    LONG_ASKS,
    SETTINGS,
    SOME_ASKS,
    WINDOW_SETTINGS,
    crowd,
)
from laws.store_faults import READS, WRITES, FaultyDisk, cut, files_of, flip, swap, total_bytes

pytestmark = pytest.mark.skipif(
    not machine.NATIVE_AVAILABLE, reason="installed without a C++ compiler"
)
LIMIT = 4 << 20
SEEDS = st.integers(0, 1 << 16)
KEYS = st.sampled_from([None, None, b"k" * 32])


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(stored, "LEAST_PATIENCE", 0.05)
    yield
    use_threads()


def opened(
    folder: Path, setting: Setting, key: bytes | None = None, disk: Disk | None = None
) -> PrefixStore:
    """The store of a setting's model, as a process of its own opens it."""
    store = PrefixStore(folder, LIMIT, key=key, disk=disk)
    store.identify(f"{setting.model} {setting.format}", str(setting.isa), "test")
    return store


def check(setting: Setting, asks: Sequence[Ask], store: PrefixStore) -> list[Served]:
    served = serve(setting, asks, store)
    for one in served:
        check_alone(setting, one)
    assert store.flush(300)
    assert not store._num_waiting
    assert total_bytes(store.folder) <= LIMIT
    return served


def law(setting: Setting, asks: Sequence[Ask], key: bytes | None) -> None:
    """Cold, warm, and restarted."""
    with TemporaryDirectory() as name:
        store = opened(Path(name), setting, key)
        check(setting, asks, store)
        check(setting, asks, store)
        check(setting, asks, opened(Path(name), setting, key))


@settings(max_examples=examples(6, 40))
@given(setting=SETTINGS, asks=SOME_ASKS, key=KEYS)
def test_a_store_changes_no_bit(setting: Setting, asks: list[Ask], key: bytes | None) -> None:
    law(setting, asks, key)


@settings(max_examples=examples(3, 20))
@given(setting=CROWDED_SETTINGS, asks=crowd("GSS"), key=KEYS)
def test_nor_where_texts_make_room(setting: Setting, asks: list[Ask], key: bytes | None) -> None:
    """Who is parked goes on from files."""
    law(setting, asks, key)


@settings(max_examples=examples(4, 20))
@given(setting=WINDOW_SETTINGS, asks=LONG_ASKS, key=KEYS)
def test_nor_where_windows_have_passed(
    setting: Setting, asks: list[Ask], key: bytes | None
) -> None:
    law(setting, asks, key)


@settings(max_examples=examples(4, 30))
@given(setting=st.one_of(SETTINGS, WINDOW_SETTINGS), asks=LONG_ASKS, seed=SEEDS, key=KEYS)
def test_nor_a_disk_that_fails(
    setting: Setting, asks: list[Ask], seed: int, key: bytes | None
) -> None:
    """And what goes wrong is counted."""
    with TemporaryDirectory() as name:
        check(setting, asks, opened(Path(name), setting, key))
        disk = FaultyDisk(seed, READS, WRITES)
        faulty = opened(Path(name), setting, key, disk)
        check(setting, asks, faulty)
        check(setting, asks, opened(Path(name), setting, key))
        found = faulty.counters.faults
        for kind in ("full", "unwritable"):
            assert found[kind] == disk.injected[kind], kind
        # A bit that flips in the magic, the version or a length is told as what it makes of these.
        planted = sum(disk.injected[kind] for kind in ("damaged", "truncated", "unreadable"))
        kinds = ("damaged", "truncated", "unreadable", "stale", "sealed", "foreign")
        assert sum(found[kind] for kind in kinds) == planted


@settings(max_examples=examples(3, 20))
@given(setting=st.one_of(SETTINGS, WINDOW_SETTINGS), asks=LONG_ASKS, seed=SEEDS)
def test_nor_files_that_were_changed(setting: Setting, asks: list[Ask], seed: int) -> None:
    """Cut short, a bit flipped, in each other's place, or in that of another model's."""
    draws = Random(seed)
    with TemporaryDirectory() as name:
        folder = Path(name)
        check(setting, asks, opened(folder, setting))
        other = opened(folder, setting)
        other.identify("another", "", "")
        check(setting, asks, other)
        for path in files_of(folder):
            kind = draws.choice(["cut", "flip", "swap", ""])
            if kind == "cut":
                cut(path, draws)
            elif kind == "flip":
                flip(path, draws)
            elif kind == "swap":
                swap(path, draws.choice(files_of(folder)))
        check(setting, asks, opened(folder, setting))


@settings(max_examples=examples(5, 20))
@given(setting=SETTINGS, asks=SOME_ASKS)
def test_nor_a_store_that_two_share(setting: Setting, asks: list[Ask]) -> None:
    """Two engines, each with a store of its own in one directory, step by step in turn."""
    setting = replace(setting, fails=None, forgotten=None)
    asks = [replace(ask, cancelled=None, deadline=None, follows=None) for ask in asks]
    with TemporaryDirectory() as name:
        stores = [opened(Path(name), setting) for _ in range(2)]
        engines = [setting.engine(asks, store) for store in stores]
        served = []
        for step, ask in enumerate(asks):
            for which in (step % 2, 1 - step % 2):
                served.append(Served(ask, ask.prompt([]), setting.rule))
                engines[which].submit(served[-1].request)
                for _ in range(40):
                    engines[which].step()
                check_pool(engines[which])
                for section in stores[1 - which]._every():
                    section.refresh()
        for engine in engines:
            run(engine)
        for one in served:
            check_alone(setting, one)
        assert all(store.flush(300) for store in stores)
        assert total_bytes(Path(name)) <= LIMIT


def test_nor_ctrl_c_at_any_line(tmp_path: Path) -> None:
    """Of who reads from files and offers blocks to them."""
    setting, asks = interruptible()
    check(setting, asks, opened(tmp_path, setting))

    def begun() -> tuple[Engine, list[Served]]:
        store = opened(tmp_path, setting)
        engine = setting.engine(asks, store)
        served = [Served(ask, ask.prompt([]), setting.rule) for ask in asks]
        for one in served:
            engine.submit(one.request)
        return engine, served

    first, _ = begun()
    count = interrupted(lambda: run(first), None, "engine", "store")
    assert first.counters.cached_tokens["store"]
    for at in some_of(count, examples(5, 40), "stored"):
        engine, served = begun()
        with suppress(KeyboardInterrupt):  # how many lines there are depends on the disk
            interrupted(lambda: run(engine), at, "engine", "store")  # noqa: B023
        run(engine)
        check_pool(engine)
        ended = [one for one in served if "half way" in str(one.outcome[0][-1])]
        assert len(ended) <= 1
        for one in served:
            if one not in ended:
                check_alone(setting, one)
        check_nothing_is_left(engine)


def run(engine: Engine) -> None:
    while engine.has_work:
        engine.step()


def plain(length: int, text: int = 0, **options: Any) -> Ask:
    return Ask(
        0, text=text, length=length, changed=None, follows=None, cut=0, tail=(),
        options={"max_new_tokens": 4, "seed": 0, **options}, tenant="", priority=0, salt="",
        interactive=False, cancelled=None, deadline=None, unspellable=None, longest=600,
    )  # fmt: skip


SOME = Setting(
    "llama", "bf16", None, "int8", slots=4, threads=1, spare=4, chunk=64, max_step_time=None,
    context=None, hop=None, forgotten=None, fails=None, seconds=(1e-3,),
)  # fmt: skip


@pytest.mark.parametrize("model", ["llama", "gemma3", "mistral"])
def test_what_is_stored_is_read_to_the_token(model: str, tmp_path: Path) -> None:
    setting = replace(SOME, model=model)
    check(setting, [plain(300)], opened(tmp_path, setting))
    again = opened(tmp_path, setting)
    whole, longer = check(setting, [plain(300), replace(plain(300), at=400, tail=(1, 2, 3))], again)
    counted = again.counters
    assert counted.read_blocks >= 1
    assert not counted.faults
    usage = whole.request.group.results[0].usage
    assert usage.cached == {"store": 299}
    assert longer.request.group.results[0].usage.cached["tree"] >= 296


def test_other_salts_models_and_instructions_find_nothing(tmp_path: Path) -> None:
    check(SOME, [plain(300)], opened(tmp_path, SOME))
    for model, isa, kernels in (
        ("x", "None", "test"),
        ("llama bf16", "x", "test"),
        ("llama bf16", "None", "x"),
    ):
        other = opened(tmp_path, SOME)
        other.identify(model, isa, kernels)
        check(SOME, [plain(300)], other)
        assert not other.counters.read_blocks
    store = opened(tmp_path, SOME)
    check(SOME, [replace(plain(300), salt="another")], store)
    assert not store.counters.read_blocks
    locked = opened(tmp_path, SOME, b"k" * 32)
    check(SOME, [plain(300)], locked)
    assert not locked.counters.read_blocks


def skip_checksums(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(reading, "checksum", lambda data: type("Any", (), {"__eq__": lambda *_: True})())


def read_another_text(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(reading, "_check_text", lambda *_: None)


def read_in_another_order(patch: pytest.MonkeyPatch) -> None:
    whole = sections.Section.find

    def find(self: Any, keys: Any, tokens: bytes) -> Any:
        found = whole(self, keys, tokens)
        return replace(found, places=found.places[::-1]) if len(found.places) > 1 else found

    patch.setattr(sections.Section, "find", find)
    patch.setattr(reading, "_check_text", lambda *_: None)


@pytest.mark.parametrize("broken", [skip_checksums, read_another_text, read_in_another_order])
def test_these_laws_can_fail(broken: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A store that is broken in one place does not get through them."""
    broken(monkeypatch)
    asks = [plain(400), plain(400, text=1)]

    @settings(max_examples=60, phases=[Phase.generate], suppress_health_check=list(HealthCheck))
    @given(seed=SEEDS)
    def damaged(seed: int) -> None:
        draws = Random(seed)
        with TemporaryDirectory() as name:
            check(SOME, asks, opened(Path(name), SOME))
            files = files_of(Path(name))
            for path in files:
                if broken is skip_checksums:
                    flip(path, draws)
                elif broken is read_another_text:
                    swap(path, draws.choice(files))
            check(SOME, asks, opened(Path(name), SOME))

    with pytest.raises(AssertionError):
        damaged()
