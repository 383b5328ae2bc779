"""Random bytes are handed out once, to one thread and one process."""

import os
from concurrent.futures import ThreadPoolExecutor

import pytest

from kept.entropy import random_bytes, random_name


def test_nobody_gets_what_another_has() -> None:
    with ThreadPoolExecutor(8) as threads:
        found = list(threads.map(random_bytes, [16] * 5000))
    assert len(set(found)) == 5000
    assert {len(random_bytes(count)) for count in (1, 8, 16)} == {1, 8, 16}
    assert len(random_name(12)) == 24


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_child_has_its_own() -> None:
    random_bytes(16)
    ours, theirs = os.pipe()
    child = os.fork()
    if not child:
        os.write(theirs, b"".join(random_bytes(16) for _ in range(64)))
        os._exit(0)
    os.waitpid(child, 0)
    found = os.read(ours, 1024)
    parent = {random_bytes(16) for _ in range(512)}
    assert parent.isdisjoint(found[i : i + 16] for i in range(0, 1024, 16))
