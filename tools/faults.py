"""Try what may happen to a store, and print what was tried, how often, and what became of it.

Run from the project's root: ``.venv/bin/python tools/faults.py [--rounds 25] [--seed 0] [--only NAME]``.
Exit code 1 if anything was lost or undetected, or if a sweep broke off or touched nothing.

A sweep is a function ``sweep(seed, rounds)`` in a module of ``tests/support`` or ``tests/faults``: it
yields (what was tried, outcome). All of them are found.
"""

from __future__ import annotations

import argparse
import importlib
import multiprocessing
import os
import re
import sys
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))
os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")

GOOD = ("refused", "survived", "mended")
BAD = ("LOST", "UNDETECTED")

Sweep = Callable[[int, int], Iterator[tuple[str, str]]]


def main(arguments: Sequence[str] | None = None) -> int:
    """Return 1 if anything was lost or undetected."""
    modules = find_sweeps()
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=25)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="+", choices=modules, metavar="NAME", default=modules)
    parser.add_argument("--verbose", action="store_true", help="everything, not the faults alone")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="sweeps at a time")
    options = parser.parse_args(arguments)
    sweeps = {name: partial(_sweep_of, modules[name]) for name in options.only}
    return try_sweeps(
        sweeps, options.seed, options.rounds, verbose=options.verbose, jobs=options.jobs
    )


def find_sweeps() -> dict[str, str]:
    """Return the modules that have a sweep, by the sweeps' names."""
    files = [
        path
        for folder in ("tests/support", "tests/faults")
        for path in sorted((ROOT / folder).glob("*.py"))
        if re.search(r"^def sweep\(", path.read_text(encoding="utf-8"), re.MULTILINE)
    ]
    return {
        path.stem.removeprefix("test_"): ".".join(path.relative_to(ROOT).with_suffix("").parts)
        for path in files
    }


def _sweep_of(module: str, seed: int, rounds: int) -> Iterator[tuple[str, str]]:
    yield from importlib.import_module(module).sweep(seed, rounds)


def try_sweeps(
    sweeps: Mapping[str, Sweep], seed: int, rounds: int, *, verbose: bool = False, jobs: int = 1
) -> int:
    """Run sweeps, so many at a time, print the table, and return the exit code."""
    calls = [(name, sweep, seed, rounds, verbose) for name, sweep in sweeps.items()]
    if jobs == 1:
        table = [_count(*call) for call in calls]
    else:
        with ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn")) as pool:
            table = list(pool.map(_count, *zip(*calls, strict=True)))
    _print_table(dict(zip(sweeps, table, strict=True)))
    # Where all survived, nothing was tried.
    is_clean = all(set(counts) <= set(GOOD) and set(counts) - {"survived"} for counts, _ in table)
    return 0 if is_clean else 1


def _count(
    name: str, sweep: Sweep, seed: int, rounds: int, verbose: bool
) -> tuple[Counter[str], float]:
    """Return how often a sweep had each outcome, and its seconds; print what is bad."""
    counts: Counter[str] = Counter()
    start_s = time.monotonic()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            for tried, outcome in sweep(seed, rounds):
                counts[outcome] += 1
                if verbose or outcome not in GOOD:
                    _print(f"{outcome}: {name}: {tried}")
        except Exception:  # noqa: BLE001 - the other sweeps are tried all the same
            counts["BROKEN OFF"] += 1
            _print(f"BROKEN OFF: {name}\n{traceback.format_exc()}")
    return counts, time.monotonic() - start_s


def _print_table(table: Mapping[str, tuple[Counter[str], float]]) -> None:
    others = sorted({outcome for counts, _ in table.values() for outcome in counts} - {*GOOD, *BAD})
    columns = [*GOOD, *BAD, *others]
    width = max(map(len, (*table, "what was tried")))
    head = "".join(f"{column:>12}" for column in ("times", *columns, "seconds"))
    _print(f"\n{'what was tried':{width}}{head}")
    for name, (counts, seconds) in table.items():
        cells = "".join(f"{counts[column]:12}" for column in columns)
        _print(f"{name:{width}}{counts.total():12}{cells}{seconds:12.0f}")


def _print(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
