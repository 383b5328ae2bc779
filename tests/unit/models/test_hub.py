"""Checkpoints from the hub, without a network: from a cache laid out by hand."""

from __future__ import annotations

import os
import sys
from fnmatch import fnmatch
from io import BytesIO
from pathlib import Path
from typing import Any

import huggingface_hub
import huggingface_hub.errors
import pytest
import torch
from checkpoint_files import (
    CONFIG,
    INDEX,
    SHARD_1,
    assert_holds_tensors,
    write_folder,
    write_shards,
)
from gguf_files import write_gguf
from huggingface_hub import constants
from huggingface_hub.utils.tqdm import are_progress_bars_disabled, enable_progress_bars
from transformers import LlamaConfig, LlamaForCausalLM

from kept import LLM, quantize_checkpoint
from kept.cli.description import describe_model
from kept.errors import (
    CheckpointError,
    CheckpointNotFoundError,
)
from kept.models.gguf_hub import split_gguf
from kept.models.opening import open_checkpoint


@pytest.fixture
def hub_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An offline hub whose cache holds `org/tiny`: an old commit, and a new one as main."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.chdir(tmp_path)
    repo = tmp_path / "hub" / "models--org--tiny"
    write_folder(repo / "snapshots" / ("a" * 40))
    write_folder(repo / "snapshots" / ("b" * 40), {"old": torch.ones(2)})
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text("a" * 40)
    (repo / "refs" / "v1").write_text("b" * 40)
    return tmp_path / "hub"


def test_a_hub_id_from_the_cache(hub_cache: Path) -> None:
    checkpoint = open_checkpoint("org/tiny")
    assert_holds_tensors(checkpoint)
    assert hub_cache in checkpoint.folder.parents


@pytest.mark.parametrize("revision", ["v1", "b" * 40])
def test_a_pinned_revision(revision: str, hub_cache: Path) -> None:
    assert list(open_checkpoint("org/tiny", revision=revision).tensors) == ["old"]


@pytest.mark.parametrize(
    ("repo_id", "revision"), [("org/other", None), ("other", None), ("org/tiny", "v2")]
)
def test_offline_and_not_in_the_cache(repo_id: str, revision: str | None, hub_cache: Path) -> None:
    with pytest.raises(CheckpointNotFoundError, match="HF_HUB_OFFLINE forbids") as caught:
        open_checkpoint(repo_id, revision=revision)
    assert repr(repo_id) in str(caught.value)
    assert str(hub_cache) in str(caught.value)


@pytest.mark.parametrize("repo_id", ["no spaces", "org/na--me", "what?", "\0"])
def test_what_cannot_be_a_hub_id(repo_id: str, hub_cache: Path) -> None:
    with pytest.raises(CheckpointNotFoundError, match="neither a folder"):
        open_checkpoint(repo_id)


def test_a_snapshot_without_weights(hub_cache: Path) -> None:
    (hub_cache / "models--org--tiny/snapshots" / ("a" * 40) / "model.safetensors").unlink()
    with pytest.raises(CheckpointNotFoundError, match="'org/tiny' has no safetensors weights"):
        open_checkpoint("org/tiny")


def response_error(kind: str) -> Exception:
    """An exception as huggingface_hub raises it for an answer of the server's."""
    make = getattr(huggingface_hub.errors, kind)
    error = make.__new__(make)
    Exception.__init__(error, f"{kind} from the server\nand more lines")
    assert isinstance(error, Exception)
    return error


@pytest.mark.parametrize(
    ("error", "kind", "message"),
    [
        ("GatedRepoError", CheckpointNotFoundError, "gated.*HF_TOKEN"),
        ("RepositoryNotFoundError", CheckpointNotFoundError, "does not exist, or is private"),
        ("RevisionNotFoundError", CheckpointNotFoundError, "revision is not"),
        ("LocalEntryNotFoundError", CheckpointNotFoundError, "cannot be reached"),
        ("OfflineModeIsEnabled", CheckpointNotFoundError, "HF_HUB_OFFLINE forbids"),
        ("HfHubHTTPError", CheckpointError, "could not be downloaded.*from the server"),
        ("OSError", CheckpointError, "could not be downloaded.*OSError"),
        ("RuntimeError", CheckpointError, "could not be downloaded.*RuntimeError"),
    ],
)
def test_what_the_hub_refuses(
    error: str, kind: type[CheckpointError], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    builtin = {"OSError": OSError(28, "No space left"), "RuntimeError": RuntimeError()}
    raised = builtin.get(error) or response_error(error)

    def fail(*args: Any, **kwargs: Any) -> str:
        raise raised

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fail)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", error == "OfflineModeIsEnabled")
    with pytest.raises(kind, match=message) as caught:
        open_checkpoint("org/nonesuch-model", revision="r")
    assert "'org/nonesuch-model' at revision 'r'" in str(caught.value)
    assert "\n" not in str(caught.value)


OFFERED = [
    "config.json",
    "model.safetensors",
    INDEX,
    SHARD_1,
    "tokenizer.json",
    "chat_template.jinja",
    "pytorch_model.bin",
    "model.pt",
    "consolidated.safetensors",
    "original/model.safetensors",
    "onnx/model.onnx",
]


class FakeHub:
    """Gives out the folder of a commit, and remembers what it was asked for."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder, self.asked = folder, list[tuple[str, Any, list[str]]]()
        monkeypatch.setattr(huggingface_hub, "snapshot_download", self._download)

    def _download(self, repo_id: str, **kwargs: Any) -> str:
        taken = [
            name
            for name in OFFERED
            if any(fnmatch(name, pattern) for pattern in kwargs["allow_patterns"])
            and not any(fnmatch(name, pattern) for pattern in kwargs["ignore_patterns"])
        ]
        self.asked.append((repo_id, kwargs["revision"], taken))
        return str(self.folder)


def test_what_is_asked_of_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub = FakeHub(write_folder(tmp_path / ("c" * 40)), monkeypatch)
    open_checkpoint("org/nonesuch-model", revision="v1")
    described, whole = hub.asked
    assert described == ("org/nonesuch-model", "v1", [OFFERED[0], INDEX, *OFFERED[4:6]])
    # Of the commit that was looked at, should the branch have moved; of two sets of weights one.
    assert whole == ("org/nonesuch-model", "c" * 40, ["model.safetensors"])


def test_of_an_index_its_shards_are_fetched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub = FakeHub(write_shards(tmp_path / "m"), monkeypatch)
    assert_holds_tensors(open_checkpoint("org/nonesuch-model"))
    assert [taken for _, _, taken in hub.asked][1:] == [[SHARD_1]]


def test_weights_of_another_name_are_fetched_with_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub = FakeHub(write_folder(tmp_path / "m", name="other.safetensors"), monkeypatch)
    assert_holds_tensors(open_checkpoint("org/nonesuch-model"))
    assert [taken for _, _, taken in hub.asked][1:] == [["model.safetensors"], OFFERED[:6]]


def test_an_index_that_is_damaged_is_told_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_folder(tmp_path / "m", None)
    (folder / INDEX).write_text('{"weight_map": {"a": ["x"]}}')
    FakeHub(folder, monkeypatch)
    with pytest.raises(CheckpointError, match=r"not a \.safetensors file"):
        open_checkpoint("org/nonesuch-model")


class FakeFiles:
    """The hub's files, read over the network."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder, self.asked = folder, list[tuple[str, str | None]]()
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(huggingface_hub, "HfFileSystem", lambda: self)
        monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda *_, **__: None)

    def open(self, name: str, revision: str | None, block_size: int) -> Any:
        self.asked.append((name, revision))
        return SizedFile((self.folder / name.rpartition("/")[2]).read_bytes())


class SizedFile(BytesIO):
    @property
    def size(self) -> int:
        return len(self.getvalue())


def gguf_of(folder: Path, name: str, architecture: str = "llama") -> Path:
    folder.mkdir(exist_ok=True)
    hf = LlamaForCausalLM(
        LlamaConfig(
            **{**CONFIG, "hidden_size": 32, "intermediate_size": 32, "tie_word_embeddings": True}
        )
    )
    more = None
    if architecture != "llama":
        more = lambda w: w.add_string("general.architecture", architecture)  # noqa: E731
    return write_gguf(folder / name, hf, more=more)


def test_a_gguf_file_on_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = gguf_of(tmp_path / "m", "q[8].gguf")
    monkeypatch.setattr(sys.modules[__name__], "OFFERED", ["q8.gguf", "q[8].gguf", "config.json"])
    hub, files = FakeHub(path.parent, monkeypatch), FakeFiles(path.parent, monkeypatch)
    checkpoint = open_checkpoint("org/model:q[8].gguf", revision="v1")
    assert checkpoint.folder == path
    assert hub.asked == [("org/model", "v1", ["q[8].gguf"])]
    assert files.asked == [("org/model/q[8].gguf", "v1")]
    assert LLM("org/model:q[8].gguf").tokenizer is None
    described = describe_model("org/model:q[8].gguf")
    assert described.num_parameters == LLM(path).model.num_parameters
    assert described.tokenizer() is None
    assert not described.has_chat_template()
    assert len(hub.asked) == 2  # nothing is fetched to describe it


def test_a_gguf_file_that_kept_does_not_run_is_not_fetched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = gguf_of(tmp_path / "m", "a.gguf", "rwkv9")
    hub, _ = FakeHub(path.parent, monkeypatch), FakeFiles(path.parent, monkeypatch)
    with pytest.raises(CheckpointError, match=r"org/model/a\.gguf holds .*'rwkv9'"):
        open_checkpoint("org/model:a.gguf")
    with pytest.raises(CheckpointNotFoundError, match=r"has no file 'b\.gguf'"):
        open_checkpoint("org/model:b.gguf")
    assert not hub.asked


def test_a_repository_of_gguf_files_names_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "m").mkdir()
    FakeHub(tmp_path / "m", monkeypatch)
    names = ["README.md", "m-Q8_0.gguf", "m-Q4_K_M.gguf"]
    monkeypatch.setattr(huggingface_hub.HfApi, "list_repo_files", lambda *_, **__: names)
    with pytest.raises(CheckpointError, match=r"2 GGUF files \(.*as org/model:m-Q4_K_M\.gguf"):
        open_checkpoint("org/model")


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("org/model:a.gguf", ("org/model", "a.gguf")),
        ("org/model:BF16/a-00001-of-00002.gguf", ("org/model", "BF16/a-00001-of-00002.gguf")),
        ("model:a.GGUF", ("model", "a.GGUF")),
        ("org/model:../a.gguf", None),
        ("org/model:a.bin", None),
        ("org/model", None),
        ("org/model:/a.gguf", None),
    ],
)
def test_what_names_a_gguf_file(source: str, expected: tuple[str, str] | None) -> None:
    assert split_gguf(source) == expected


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"model_type": "xlnet"}, "'xlnet', which kept does not know"),
        ({"architectures": ["LlamaForSequenceClassification"]}, "no language-model head"),
        ({"hidden_act": "quick_gelu"}, "hidden_act = 'quick_gelu'"),
        ({"hidden_size": "4"}, "hidden_size = '4'"),
        ({"quantization_config": {"quant_method": "aqlm"}}, "quant_method 'aqlm'"),
    ],
)
def test_no_weights_are_fetched_of_what_is_refused(
    config: dict[str, Any], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub = FakeHub(write_folder(tmp_path / "m", config={**CONFIG, **config}), monkeypatch)
    for load in (LLM, lambda name: quantize_checkpoint(name, tmp_path / "out")):
        with pytest.raises(CheckpointError, match=message):
            load("org/nonesuch-model")
    assert len(hub.asked) == 2
    for _, _, taken in hub.asked:
        assert not [name for name in taken if name.endswith(".safetensors")]


def test_the_progress_bar_is_hidden_only_while_downloading(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[bool] = []

    def download(repo_id: str, **kwargs: Any) -> str:
        seen.append(are_progress_bars_disabled())
        return str(write_folder(tmp_path))

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    if "HF_HUB_DISABLE_PROGRESS_BARS" in os.environ:
        pytest.skip("the environment decides about the bars")
    enable_progress_bars()
    open_checkpoint("org/nonesuch-model", progress=False)
    open_checkpoint("org/nonesuch-model")
    assert seen == [True, True, False, False]
    assert not are_progress_bars_disabled()
