"""The held-out part is the one the bundled model was not trained on, wherever it is read."""

from pathlib import Path

import pytest

from kept.bench.standard_library import is_held_out, read_held_out, read_modules
from kept.errors import OptionError


def test_the_split_is_that_of_the_training() -> None:
    held_out = ("socket.py", "turtle.py", "test/test_re.py", "asyncio/futures.py", "statistics.py")
    assert all(map(is_held_out, held_out))
    assert not any(map(is_held_out, ("os.py", "re/__init__.py", "json/decoder.py", "argparse.py")))
    assert 25 < sum(is_held_out(f"module_{i}.py") for i in range(1000)) < 45


def test_modules_are_read_once_and_as_text(tmp_path: Path) -> None:
    for path, content in {
        "b.py": b"x = 1\n",
        "a/copy.py": b"x = 1\n",
        "socket.py": "caf\u00e9".encode(),
        "latin.py": "caf\u00e9".encode("latin-1"),
        "empty.py": b" \n",
        "site-packages/other.py": b"import os\n",
        "notes.txt": b"x",
    }.items():
        file = tmp_path / path
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(content)
    modules = read_modules(tmp_path)
    assert [module.path for module in modules] == ["a/copy.py", "socket.py"]
    assert [module.num_bytes for module in modules] == [6, 5]
    assert read_held_out(tmp_path) == [modules[1]]


def test_this_python_has_a_held_out_part() -> None:
    paths = [module.path for module in read_held_out()]
    assert "socket.py" in paths
    assert paths == sorted(paths)


def test_a_python_without_sources(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match=r"has none of the held-out modules.*--text"):
        read_held_out(tmp_path)
