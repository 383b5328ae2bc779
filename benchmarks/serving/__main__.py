"""What a server does under load: streams, clients that leave, its end, too much, and its cost.

    python benchmarks/serving streams --minutes 3
    python benchmarks/serving disconnects | drain | overload | cost | floor | masks | tenants
    python benchmarks/serving cost --model FOLDER --prompt 256 --new 32

Each but masks, which asks the engine, starts `kept serve` in a process of its own, on the bundled
model or that of --model, prints one object of JSON, and exits 1 where its target was missed.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "tests"), str(Path(__file__).parent)]


def main() -> int:
    import cost
    import floor
    import leaving
    import masks
    import overload
    import streams
    import tenants

    runs = {
        "streams": streams.run,
        "disconnects": leaving.disconnects,
        "drain": leaving.drain,
        "overload": overload.run,
        "cost": cost.run,
        "floor": floor.run,
        "masks": masks.run,
        "tenants": tenants.run,
    }
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("scenario", choices=runs)
    parser.add_argument("--model", help="a checkpoint's folder")
    parser.add_argument("--minutes", type=float, default=3.0, help="of streams and overload")
    parser.add_argument("--streams", type=int, default=256, help="at a time")
    parser.add_argument("--requests", type=int, default=64, help="of cost, floor; pairs of tenants")
    parser.add_argument("--prompt", type=int, default=256, help="tokens of each, of cost, floor")
    parser.add_argument("--new", type=int, default=64, help="drawn, of cost, floor and masks")
    parser.add_argument("--runs", type=int, default=7, help="turns of cost, floor")
    given = parser.parse_args()
    found = asyncio.run(runs[given.scenario](given))
    print(json.dumps({"scenario": given.scenario, **found}))
    return 0 if found["passed"] else 1


if __name__ == "__main__":
    raise SystemExit(main())
