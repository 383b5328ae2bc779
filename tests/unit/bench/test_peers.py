"""What the comparison with other programs makes of raw times and of failures."""

import importlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

FOLDER = Path(__file__).parents[3] / "benchmarks" / "peers"
NAMES = ("contestants", "document", "figures", "rows", "sitting", "worker")


@pytest.fixture
def peers(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, ModuleType]]:
    """The scripts' modules, which lie on no path but their own."""
    monkeypatch.syspath_prepend(FOLDER)
    yield {name: importlib.import_module(name) for name in NAMES}
    for name in NAMES:
        del sys.modules[name]


def test_every_rows_name_is_its_own(peers: dict[str, ModuleType]) -> None:
    rows = peers["rows"].ROWS
    assert len({row.name for row in rows}) == len(rows)
    assert all(set(row.peers) < set(peers["rows"].NAMES) for row in rows)


def test_only_what_all_sequences_draw_together_is_a_decode_rate(
    peers: dict[str, ModuleType],
) -> None:
    rate = peers["figures"].decode_rate
    assert rate([[1.0, 1.5, 2.0]]) == 2.0
    # The first draws while the second's prompt is read, and ends before it.
    assert rate([[1.0, 2.0, 3.0, 4.0], [2.0, 3.0, 4.0, 5.0]]) == 2.0
    with pytest.raises(ValueError, match="more new tokens"):
        rate([[1.0, 2.0], [3.0, 4.0]])


def test_a_prompt_is_read_when_the_last_sequence_has_its_first_token(
    peers: dict[str, ModuleType],
) -> None:
    row = peers["rows"].Row("x", "gpt2", "bf16", "bf16", 2, 100, 1, ())
    assert peers["figures"].prefill_rate(row, [[0.5], [2.0]]) == 100


def test_kept_is_read_from_its_own_report(peers: dict[str, ModuleType]) -> None:
    row = peers["rows"].Row("x", "gpt2", "bf16", "bf16", 2, 8, 3, ())
    report = {
        "runs": [{"step_tokens": [2, 2], "step_seconds": [0.5, 0.5]}],
        "decode": {"runs": [{"share": 0.25}, {"share": 0.5}]},
    }
    assert peers["figures"].kept_rates(row, report) == [4]
    assert peers["figures"].kept_share(row, report) == 0.5


def test_a_text_that_ends_early_is_refused(peers: dict[str, ModuleType]) -> None:
    worker = peers["worker"]
    job = worker.Job("vllm", "m", "bf16", "bf16", 1, 4, 3, 1, 1, 0)
    with pytest.raises(SystemExit, match=r"vllm drew \[2\] tokens where 1 times 3"):
        worker.check(job, [[0.1, 0.2]])


class Fake:
    """A peer that draws at once, and remembers its prompts."""

    def __init__(self) -> None:
        self.seen: list[list[int]] = []

    def generate(self, prompts: list[list[int]], new: int) -> list[list[float]]:
        self.seen += prompts
        return [[0.0] * new for _ in prompts]


def test_no_run_sees_the_prompts_of_another(peers: dict[str, ModuleType]) -> None:
    worker, fake = peers["worker"], Fake()
    runs = worker.measure(worker.Job("x", "m", "bf16", "bf16", 2, 9, 6, 3, 1, 0), fake)
    assert [len(run["stamps"]) for run in runs] == [2, 2, 2]
    assert len({tuple(prompt) for prompt in fake.seen}) == 4 * 2


def test_a_peer_that_is_not_there_is_reported(peers: dict[str, ModuleType], tmp_path: Path) -> None:
    setting = peers["contestants"].Setting(tmp_path, 1, 1, 0, 60.0)
    found = peers["contestants"].measure("vllm", peers["rows"].ROWS[0], setting)
    assert found == {
        "error": "FOLDER/vllm/bin/python is not there; benchmarks/README.md says how to make it"
    }


def test_a_peer_that_fails_is_reported_with_its_last_words(
    peers: dict[str, ModuleType], tmp_path: Path
) -> None:
    python = tmp_path / "vllm" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text("#!/bin/sh\necho trying >&2\necho no such instruction >&2\nexit 3\n")
    python.chmod(0o755)
    (tmp_path / "models" / "qwen05").mkdir(parents=True)
    setting = peers["contestants"].Setting(tmp_path, 1, 1, 0, 60.0)
    found = peers["contestants"].measure("vllm", peers["rows"].ROWS[0], setting)
    assert found == {"error": "exit code 3: trying / no such instruction"}


def results(**contestants: list[dict[str, Any]]) -> dict[str, Any]:
    """One measured row."""
    machine = {"cpu": "A CPU", "features": ["avx2"], "total_memory": 8 << 30}
    return {
        "format": 1,
        "rows": {
            "a-row": {
                "row": {"title": "qwen05 bf16: prompt 128, 64 new", "new": 64},
                "date": "2026-01-02T03:04:05+00:00",
                "machine": machine,
                "settings": {"rounds": 2, "runs": 1, "threads": 2},
                "bandwidths": [{"best": 2e10}, {"best": 2.1e10}],
                "contestants": contestants,
            }
        },
    }


def test_the_section_is_written_between_its_marks(
    peers: dict[str, ModuleType], tmp_path: Path
) -> None:
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- peers: begin -->\nold\n<!-- peers: end -->\nafter\n")
    facts = {"versions": {"kept": "0.1.0"}, "weights": "bf16"}
    found = results(
        kept=[{"rates": [20.0], "share": 0.5, "facts": facts}, {"rates": [30.0], "share": 0.6}],
        openvino=[{"rates": [24.0]}, {"rates": [22.0]}],
        vllm=[{"error": "exit code 1: no | memory"}] * 2,
    )
    peers["document"].update(page, json.loads(json.dumps(found)))
    peers["document"].update(page, found)  # writing twice changes nothing
    text = page.read_text()
    assert text.startswith("before\n<!-- peers: begin -->\n")
    assert text.endswith("<!-- peers: end -->\nafter\n")
    assert "old" not in text
    assert text.count("### qwen05 bf16: prompt 128, 64 new") == 1
    assert "2026-01-02, A CPU (avx2), 2 threads, 8 GiB; best and median of 2 runs" in text
    assert "| kept 0.1.0 (bf16 weights) | 30.0 | 25.0 | 1.25 | 60 % |" in text
    assert "| OpenVINO GenAI | 24.0 | 23.0 | 1.00 |  |" in text
    assert "| vLLM | failed | | | |" in text
    assert text.count("vLLM failed: exit code 1: no / memory") == 1
    assert "Read bandwidth between the rounds: 20.0, 21.0 GB/s." in text


def test_a_page_without_marks_is_left_alone(peers: dict[str, ModuleType], tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("nothing here\n")
    with pytest.raises(SystemExit, match="needs one line <!-- peers: begin -->"):
        peers["document"].update(page, results())
    assert page.read_text() == "nothing here\n"


def test_rows_are_added_to_earlier_results(peers: dict[str, ModuleType], tmp_path: Path) -> None:
    sitting, path = peers["sitting"], tmp_path / "peers.json"
    found = sitting.read_results(path)
    found["rows"]["a"] = {"x": 1}
    sitting.write_results(found, path)
    assert sitting.read_results(path)["rows"] == {"a": {"x": 1}}
    path.write_text('{"format": 99}')
    with pytest.raises(SystemExit, match="has format 99"):
        sitting.read_results(path)
