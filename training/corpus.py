"""The corpus: the standard library's own source, split into train and held-out modules.

    python training/corpus.py

How modules are read, and which are held out, is said in `src/kept/bench/standard_library.py`,
because `kept bench quality` scores the held-out ones.
"""

from __future__ import annotations

from kept.bench.standard_library import Module, is_held_out, read_modules


def split(modules: list[Module]) -> tuple[list[Module], list[Module]]:
    """The modules as (train, held-out)."""
    train = [module for module in modules if not is_held_out(module.path)]
    held_out = [module for module in modules if is_held_out(module.path)]
    return train, held_out


def main() -> None:
    """Print the sizes of both parts and the names of the held-out modules."""
    train, held_out = split(read_modules())
    for name, part in (("train", train), ("held-out", held_out)):
        print(f"{name:9} {len(part):5} modules {sum(m.num_bytes for m in part):11,} bytes")
    for module in held_out:
        print(f"  {module.num_bytes:9,}  {module.path}")


if __name__ == "__main__":
    main()
