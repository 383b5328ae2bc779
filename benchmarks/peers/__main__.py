"""Measures kept and its peers on the same rows of work, in turn, in one sitting.

    python benchmarks/peers --peers FOLDER --json peers.json --docs docs/benchmarks.md

benchmarks/README.md says how to install the peers and what the figures mean.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from contestants import Setting
from document import update
from instruction_sets import ISAS
from rows import NAMES, ROWS
from sitting import Results, read_results, sit, write_results

from kept.machine import num_cores

INTERRUPTED = 130


def main() -> int:
    """Measure, write and, where asked to, document; returns the exit code."""
    asked = _arguments()
    results = read_results(asked.json)
    setting = Setting(asked.peers, asked.runs, asked.threads, asked.seed, asked.timeout, asked.isa)
    code = 0
    try:
        for row in [] if asked.no_measuring else ROWS:
            if asked.only and row.name not in asked.only:
                continue
            contestants = [n for n in ("kept", *row.peers) if not asked.peer or n in asked.peer]

            key = row.name if asked.isa is None else f"{row.name}@{asked.isa}"

            def keep(found: Results, name: str = key) -> None:
                results["rows"][name] = found
                write_results(results, asked.json)

            if asked.smoke:
                row = row.cut_short()
            sit(row, contestants, asked.rounds, setting, _say, keep)
    except KeyboardInterrupt:
        _say(f"Interrupted; what was measured by then is in {asked.json}.")
        code = INTERRUPTED
    if asked.docs is not None:
        update(asked.docs, results)
    return code


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python benchmarks/peers",
        description=__doc__.splitlines()[0] if __doc__ else None,
        epilog=f"Rows: {', '.join(row.name for row in ROWS)}.",
    )
    folder = os.environ.get("KEPT_PEERS")
    parser.add_argument(
        "--peers",
        type=Path,
        default=None if folder is None else Path(folder),
        help="folder of the peers' environments and models; default: $KEPT_PEERS",
    )
    parser.add_argument(
        "--only",
        action="append",
        choices=[row.name for row in ROWS],
        metavar="ROW",
        help="measure this row; may be given several times; default: all",
    )
    parser.add_argument(
        "--peer",
        action="append",
        choices=sorted(NAMES),
        metavar="NAME",
        help=f"measure only this one of {', '.join(sorted(NAMES))}; may be given several times",
    )
    parser.add_argument(
        "--isa",
        choices=ISAS,
        help="hold everybody to this instruction set; default: each takes the best it can",
    )
    parser.add_argument("--rounds", type=int, default=2, help="turns of each (%(default)s)")
    parser.add_argument(
        "--runs", type=int, default=2, help="runs in each turn, after a warm-up (%(default)s)"
    )
    parser.add_argument(
        "--threads", type=int, default=num_cores(), help="of everybody; default: all cores"
    )
    parser.add_argument("--seed", type=int, default=0, help="draws the prompts (%(default)s)")
    parser.add_argument(
        "--timeout",
        type=float,
        default=1800,
        help="seconds for one measurement, loading included (%(default)s)",
    )
    parser.add_argument(
        "--json",
        type=Path,
        default=Path("peers.json"),
        help="results, to which rows are added or replaced (%(default)s)",
    )
    parser.add_argument(
        "--docs", type=Path, help="page whose section of results is written anew from them"
    )
    parser.add_argument(
        "--no-measuring", action="store_true", help="only write --docs from what --json holds"
    )
    parser.add_argument(
        "--smoke",
        action="store_true",
        help="cut every row short, to see that everybody runs; the figures mean nothing",
    )
    asked = parser.parse_args()
    if min(asked.rounds, asked.runs, asked.threads) < 1 or asked.timeout <= 0 or asked.seed < 0:
        parser.error(
            "--rounds, --runs, --threads and --timeout must be positive, --seed not below 0"
        )
    if asked.smoke and asked.docs is not None:
        parser.error("--smoke measures nothing that --docs could show; give one of the two")
    if not asked.no_measuring and (asked.peers is None or not asked.peers.is_dir()):
        parser.error(f"--peers {asked.peers}: give the folder of the peers, or set KEPT_PEERS")
    return asked


if __name__ == "__main__":
    sys.exit(main())
