"""The README's Python runs as it stands, top to bottom, on the bundled model."""

import re
from pathlib import Path

README = Path(__file__).parents[2] / "README.md"


def test_the_readmes_code_runs(capsys):
    blocks = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    assert len(blocks) >= 4
    exec(compile("\n".join(blocks), str(README), "exec"), {})
    written = capsys.readouterr().out
    cached = re.search(r"(\d+) tokens came from the cache", written)
    assert cached is not None
    assert int(cached[1]) > 0


def test_the_guide_to_transformers_runs(capsys):
    guide = README.parent / "docs/transformers.md"
    blocks = re.findall(r"```python\n(.*?)```", guide.read_text(encoding="utf-8"), re.DOTALL)
    exec(compile("\n".join(blocks), str(guide), "exec"), {})
    assert "torch.Size([1, 28])" in capsys.readouterr().out


def test_the_readmes_tree_names_every_folder():
    text = README.read_text(encoding="utf-8")
    root = README.parent
    folders = [p for p in (root / "src/kept").iterdir() if p.is_dir() and p.name != "__pycache__"]
    missing = [p.name for p in folders if f"`src/kept/{p.name}`" not in text]
    assert not missing
