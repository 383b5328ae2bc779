"""The files of deploy/, held to what the server has."""

from __future__ import annotations

import configparser
import json
import re
from pathlib import Path

from .serving import Served

DEPLOY = Path(__file__).resolve().parents[2] / "deploy"


def test_the_dashboard_charts_what_there_is(server: Served) -> None:
    server.complete("def f")
    told = server.http.get("/metrics").text
    board = json.loads((DEPLOY / "grafana.json").read_text())
    charted = set()
    for panel in board["panels"]:
        for target in panel["targets"]:
            names = re.findall(r"\b(?:vllm|kept):\w+", target["expr"])
            assert names, target
            charted |= set(names)
    there = set(re.findall(r"^# TYPE (\S+) ", told, re.MULTILINE))
    there |= {f"{name}_bucket" for name in there}
    assert charted <= there, charted - there
    assert len({panel["id"] for panel in board["panels"]}) == len(board["panels"])


def test_the_image_runs_as_nobody_in_particular() -> None:
    lines = (DEPLOY / "Dockerfile").read_text().splitlines()
    [user] = [line.split()[1] for line in lines if line.startswith("USER ")]
    assert user.split(":")[0] not in ("root", "0")
    assert not any(re.search(r"(API_KEY|SECRET)[ =]\S", line) for line in lines if "ENV" in line)


def test_the_image_has_one_torch() -> None:
    """A torch that constraints.txt does not allow would be replaced by the one with CUDA."""
    lines = (DEPLOY / "Dockerfile").read_text().splitlines()
    [torch] = [at for at, line in enumerate(lines) if "download.pytorch.org/whl/cpu" in line]
    assert lines[torch].endswith("\"$(grep '^torch==' constraints.txt)\"")
    assert "COPY constraints.txt ." in lines[:torch]
    pinned = (DEPLOY.parent / "constraints.txt").read_text().splitlines()
    assert len([line for line in pinned if line.startswith("torch==")]) == 1


def test_the_unit_keeps_its_hands_to_itself() -> None:
    unit = configparser.RawConfigParser(strict=False)
    unit.optionxform = str  # type: ignore[assignment,method-assign]
    unit.read_string((DEPLOY / "kept.service").read_text())
    service = unit["Service"]
    for name in ("NoNewPrivileges", "ProtectHome", "PrivateTmp", "DynamicUser"):
        assert service[name] == "yes"
    assert service["ProtectSystem"] == "strict"
    assert int(service["TimeoutStopSec"]) > 60  # --drain-time
