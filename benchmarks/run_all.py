"""All benchmarks, one after the other, into one JSON; and the pages that show it.

    python benchmarks/run_all.py [--only NAME …] [--dir DIR] [--json FILE] [--quick]
    python benchmarks/run_all.py --render-only FILE

Each benchmark is a process of its own: what fails is named at the end, and the others go on. Figures are
kept in ``results/figures.json``, each benchmark's with the day, the commit and the machine; one that was
not run, or failed, keeps its earlier ones. The tables of ``results/`` and of ``docs/reference/benchmarks.md`` are
rendered from there. Figures of ``--quick`` are never kept, nor are those for another ``--json`` rendered.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from support.pages import KEPT, FigureError, check_kept, read_kept, render_pages, write_kept

HERE = Path(__file__).resolve().parent
NAMES = sorted(path.stem for path in HERE.glob("*.py") if path.name != Path(__file__).name)
# What says nothing without an accelerator, but that it works.
FOR_ACCELERATORS = ("on_gpu",)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run, keep and render; return 1 if anything failed."""
    options = _parse(arguments)
    try:
        if options.render_only is not None:
            kept = read_kept(options.render_only)
            check_kept(kept, options.render_only)
            render_pages(kept)
            return 0
        return run_all(options)
    except FigureError as error:
        print(error, file=sys.stderr)
        return 1


def run_all(options: argparse.Namespace) -> int:
    """Run the benchmarks that were asked for, and keep their figures as they come."""
    kept = read_kept(options.json) if options.json else None
    failed = []
    for name in options.only or NAMES:
        if name in FOR_ACCELERATORS and not (options.quick or torch.accelerator.is_available()):
            print(f"\n# {name}: left out, as there is no accelerator", flush=True)
            continue
        print(f"\n# {name}", flush=True)
        try:
            record = run_benchmark(name, quick=options.quick, folder=options.dir)
        except subprocess.CalledProcessError as error:
            failed.append(f"{name} failed, with exit status {error.returncode}")
            continue
        if kept is not None:
            kept["benchmarks"] = dict(sorted({**kept["benchmarks"], name: record}.items()))
            write_kept(kept, options.json)
    if failed:
        print("", *failed, sep="\n", file=sys.stderr)
    if kept is not None and options.json.resolve() == KEPT:
        render_pages(kept)
    return 1 if failed else 0


def run_benchmark(name: str, *, quick: bool, folder: Path | None) -> Mapping[str, Any]:
    """Run one benchmark in a process of its own, and return what it tells."""
    with tempfile.TemporaryDirectory(dir=folder) as place:
        told = Path(place) / "figures.json"
        command = [sys.executable, str(HERE / f"{name}.py"), "--json", str(told)]
        command += ["--quick"] if quick else []
        command += ["--dir", str(folder)] if folder else []
        subprocess.run(command, check=True)
        record: dict[str, Any] = json.loads(told.read_text("utf-8"))
        return record


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--only", nargs="+", choices=NAMES, metavar="NAME", help=", ".join(NAMES))
    parser.add_argument("--dir", type=Path, help="where to write; default: the temporary directory")
    parser.add_argument("--quick", action="store_true", help="only whether they work")
    parser.add_argument("--json", type=Path, metavar="FILE", help=f"instead of {KEPT.name}")
    parser.add_argument(
        "--render-only", type=Path, metavar="FILE", help="run nothing; bring the pages up to date"
    )
    options = parser.parse_args(arguments)
    if options.json is None and not options.quick:
        options.json = KEPT
    if options.quick and options.json is not None and options.json.resolve() == KEPT:
        parser.error(
            f"expected measured figures for {KEPT.name}, got those of --quick: name another file"
        )
    return options


if __name__ == "__main__":
    sys.exit(main())
