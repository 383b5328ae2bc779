"""T5 beside its peers: reading a prompt and drawing from it with beams.

    python benchmarks/encoder_decoder.py FOLDER --peers PYTHON

writes FOLDER/t5-base, random weights of T5-base's shape (how fast a model runs does not depend on
its values). kept runs with this Python, its peers CTranslate2 and transformers with PYTHON.
Each run is a process of its own, which loads, warms up and times its calls; they take turns for
--rounds. A call reads a prompt that nobody has read before.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

VOCABULARY, BEAMS = 32128, 4
RUNS = (
    ("kept", "int8"), ("ctranslate2", "int8"), ("kept", "bfloat16"), ("transformers", "bfloat16"),
    ("transformers", "float32"),
)  # fmt: skip
Generate = Callable[[list[int], int], int]  # prompt, new tokens -> how many were drawn


def write_checkpoint(folder: Path) -> None:
    """T5-base with a tokenizer that nothing is spelled with; one that is there stays."""
    if (folder / "config.json").exists():
        return
    import torch
    from tokenizers import Tokenizer, models
    from transformers import T5Config, T5ForConditionalGeneration

    torch.manual_seed(0)
    config = T5Config(
        vocab_size=VOCABULARY, d_model=768, d_kv=64, d_ff=3072, num_layers=12, num_heads=12,
        decoder_start_token_id=0,
    )  # fmt: skip
    T5ForConditionalGeneration(config).save_pretrained(folder)
    special = ["<pad>", "</s>", "<unk>"]
    names = [*special, *(f"t{i}" for i in range(len(special), VOCABULARY))]
    vocabulary = {name: i for i, name in enumerate(names)}
    Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>")).save(str(folder / "tokenizer.json"))
    described = {"tokenizer_class": "PreTrainedTokenizerFast"} | dict(
        zip(("pad_token", "eos_token", "unk_token"), special, strict=True)
    )
    (folder / "tokenizer_config.json").write_text(json.dumps(described), encoding="utf-8")


def load_kept(folder: Path, kind: str) -> Generate:
    """In the format or the dtype of this name."""
    import kept

    llm = kept.LLM(folder, **({"quantize": kind} if kind == "int8" else {"dtype": kind}))

    def generate(prompt: list[int], new: int) -> int:
        options = {"max_new_tokens": new, "min_new_tokens": new, "num_beams": BEAMS}
        return len(llm.generate([prompt], **options)[0].token_ids)

    return generate


def load_ctranslate2(folder: Path, kind: str) -> Generate:
    """Quantized as it loads; what is not int8 it keeps in float32."""
    import ctranslate2
    from ctranslate2.converters import TransformersConverter

    converted = folder.with_name(f"ct2-{folder.name}")
    if not converted.exists():
        TransformersConverter(str(folder)).convert(str(converted))
    translator = ctranslate2.Translator(
        str(converted), device="cpu", compute_type=kind, intra_threads=2, inter_threads=1
    )
    names = json.loads((converted / "shared_vocabulary.json").read_text(encoding="utf-8"))

    def generate(prompt: list[int], new: int) -> int:
        found = translator.translate_batch(
            [[names[i] for i in prompt]],
            beam_size=BEAMS, max_decoding_length=new, min_decoding_length=new,
        )  # fmt: skip
        return len(found[0].hypotheses[0])

    return generate


def load_transformers(folder: Path, kind: str) -> Generate:
    """In the dtype of this name, on two threads."""
    import torch
    from transformers import T5ForConditionalGeneration

    torch.set_num_threads(2)
    model = T5ForConditionalGeneration.from_pretrained(folder, dtype=getattr(torch, kind)).eval()

    def generate(prompt: list[int], new: int) -> int:
        ids = torch.tensor([prompt])
        rows = model.generate(
            ids, attention_mask=torch.ones_like(ids), do_sample=False, num_beams=BEAMS,
            max_new_tokens=new, min_new_tokens=new,
        )  # fmt: skip
        return int(rows.shape[1]) - 1

    return generate


LOADERS = {"kept": load_kept, "ctranslate2": load_ctranslate2, "transformers": load_transformers}


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """Seconds of each call, for one new token and for all of them."""
    engine, kind = args.run.split("/")
    generate, draw = LOADERS[engine](args.folder / "t5-base", kind), random.Random(0)
    found: dict[str, Any] = {}
    for new in (1, args.new):
        for number in range(args.calls + 1):
            prompt = [draw.randrange(3, VOCABULARY) for _ in range(args.prompt)]
            start = time.perf_counter()
            assert generate(prompt, new) == new, "a text ended early"
            if number:  # the first warms up
                found.setdefault(str(new), []).append(time.perf_counter() - start)
    return found


def main() -> None:
    """Run all of them in turn, or in a process of its own one."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--peers", default=sys.executable, help="the Python that has the peers")
    parser.add_argument("--prompt", type=int, default=512)
    parser.add_argument("--new", type=int, default=64)
    parser.add_argument("--calls", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", nargs="+", help="such as kept/int8 transformers/bfloat16")
    parser.add_argument("--run", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.run:
        print(json.dumps(measure(args)))
        return
    write_checkpoint(args.folder / "t5-base")
    sizes = [f"--{name}={getattr(args, name)}" for name in ("prompt", "new", "calls")]
    times: dict[str, dict[str, list[float]]] = {}
    for _ in range(args.rounds):
        for engine, kind in RUNS:
            python, run = sys.executable if engine == "kept" else args.peers, f"{engine}/{kind}"
            if args.only and run not in args.only:
                continue
            command = [python, __file__, str(args.folder), f"--run={run}", *sizes]
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            for new, seconds in json.loads(done.stdout.splitlines()[-1]).items():
                times.setdefault(run, {}).setdefault(new, []).extend(seconds)
    print(f"{args.prompt} tokens in, {BEAMS} beams; median seconds of {args.rounds * args.calls}")
    for run, found in times.items():
        told = (f"{new} out {statistics.median(each):.3f}" for new, each in found.items())
        print(f"{run:24}", "   ".join(told))


if __name__ == "__main__":
    main()
