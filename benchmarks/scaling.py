"""How cost grows with the size of what is captured and analysed: exponents, with their standard errors.

    python benchmarks/scaling.py [--rounds 3] [--dir DIR] [--json FILE] [--picture FILE] [--quick]

Around one base case, one size at a time: samples, patches, reference tokens, layers, steps, heads; and
patches and tokens together, as layers have them whose reference comes from a second network. Seconds are
those of the processor. Analysis goes from the store on disk to maps on disk, on one thread, with the
kernel compiled; before each turn the run gets another name, so that nothing is known of it. Capture is
what a denoiser takes inside ``capture`` beyond what it takes alone; it does nothing but project queries
and keys, and seconds are those of our own code: what the system takes for new pages of memory and for
files, which depends on both, stands beside them. Memory is the largest resident memory of a fresh process that analyses.

Each round goes through all sizes; the line goes through the medians' logarithms.
"""

from __future__ import annotations

import resource
import shutil
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import dask
import torch
from support.bare_denoiser import BareDenoiser
from support.figures import Bar, Figures, at_most, benchmark_parser
from support.power_law import fit_power_law
from support.scaling_picture import draw_scaling
from support.synthetic_run import Layer, write_run
from support.turns import take_turns
from threadpoolctl import threadpool_limits

from i2am.analysis import analyze_run
from i2am.analysis.kernel.arithmetic import use_arithmetic

PEAK = Path(__file__).resolve().parent / "support" / "peak_of_analysis.py"
CHANNELS = 40
LINEAR_BAR, SQUARE_BAR, FLAT_BAR = 1.1, 2.2, 0.1
CLOCK_S = 1e-3  # Shorter times of a process's own code cannot be told from none.
FACTORS = (0.25, 0.5, 1, 2, 4)


@dataclass(frozen=True)
class Size:
    """A run's size; patches and tokens lie on grids whose rows are a power of two."""

    patches: int = 2048
    tokens: int = 256
    layers: int = 4
    steps: int = 20
    heads: int = 8
    samples: int = 1

    def write(self, path: Path) -> Path:
        """Write such a run, and return its path."""
        own_layers = [
            Layer(
                f"down.{number}",
                number,
                "down",
                grid_of(self.patches),
                CHANNELS,
                grid_of(self.tokens),
                special_tokens=0,
                heads=self.heads,
            )
            for number in range(self.layers)
        ]
        names = [str(number) for number in range(self.samples)]
        return write_run(path, names, steps=self.steps, own_layers=own_layers)


def grid_of(count: int) -> tuple[int, int]:
    """Return rows and columns of so many places."""
    rows = 1 << ((count.bit_length() - 1) // 2)
    return rows, count // rows


SMALL = Size(patches=64, tokens=16, layers=4, steps=4, heads=4)
TOGETHER = "patches and tokens"
AXES = ("patches", "tokens", "layers", "steps", "heads", "samples", TOGETHER)
QUICK_AXES = ("steps", "samples")


def sizes_of(axis: str, base: Size) -> dict[int, Size]:
    """Return the sizes of an axis: what varies, and the whole size."""
    if axis == "samples":  # One is the least: a quarter of the steps instead.
        few = replace(base, steps=max(1, base.steps // 4))
        return {count: replace(few, samples=count) for count in (1, 2, 4, 8, 16)}
    if axis == TOGETHER:
        few = replace(base, layers=2, steps=max(1, base.steps // 5))
        counts = [int(base.patches * factor) for factor in (0.5, 0.75, 1, 1.5, 2)]
        return {count: replace(few, patches=count, tokens=count) for count in counts}
    counts = [int(getattr(base, axis) * factor) for factor in FACTORS]
    return {count: replace(base, **{axis: count}) for count in counts}


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print, and draw if a picture is asked for."""
    parser = benchmark_parser(__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--picture", type=Path, metavar="FILE", help="SVG or PNG to draw")
    options = parser.parse_args(arguments)
    rounds = 1 if options.quick else options.rounds
    sizes = {axis: sizes_of(axis, Size()) for axis in AXES}
    if options.quick:
        sizes = {axis: dict(list(sizes_of(axis, SMALL).items())[:3]) for axis in QUICK_AXES}
    figures = Figures("scaling", options)
    torch.set_num_threads(1)
    with (
        tempfile.TemporaryDirectory(dir=options.dir) as folder,
        threadpool_limits(1),
        ThreadPoolExecutor(1) as pool,
        dask.config.set(pool=pool),
        use_arithmetic("compiled"),
    ):
        measure_analysis(figures, Path(folder), sizes, rounds)
        of_one_sample = {axis: sizes[axis] for axis in sizes if axis not in ("samples", TOGETHER)}
        measure_capture(figures, Path(folder), of_one_sample, rounds)
    tell_exponents(figures)
    if options.picture is not None:
        draw_scaling(figures.as_record(), options.picture)


def measure_analysis(
    figures: Figures, folder: Path, axes: Mapping[str, Mapping[int, Size]], rounds: int
) -> None:
    """Record the analysis by each size, and its memory by samples and steps."""
    warm = folder / "warm"
    SMALL.write(warm / "run.zarr")
    seconds_of_analysis(warm)
    for axis, sizes in axes.items():
        place = folder / "axis"
        for count, size in sizes.items():
            size.write(place / str(count) / "run.zarr")
        ways = {str(count): partial(seconds_of_analysis, place / str(count)) for count in sizes}
        tell(figures, "analysis", axis, take_turns(ways, rounds, warm_up=0), "s")
        if axis in ("samples", "steps"):
            ways = {str(count): partial(peak_of_analysis, place / str(count)) for count in sizes}
            tell(figures, "memory", axis, take_turns(ways, 1, warm_up=0), "MB")
        shutil.rmtree(place)


def seconds_of_analysis(folder: Path) -> float:
    """Return the seconds of the processor that the run in a folder takes, by a name of its own."""
    (run,) = folder.glob("run*.zarr")
    run = run.rename(folder / f"run-{uuid.uuid4().hex}.zarr")
    maps, start_s = folder / "maps.zarr", time.process_time()
    analyze_run(run, maps, progress=False)
    seconds = time.process_time() - start_s
    shutil.rmtree(maps)
    return seconds


def peak_of_analysis(folder: Path) -> float:
    """Return the largest resident memory of a process that analyses the run in a folder, in MB."""
    (run,) = folder.glob("run*.zarr")
    command = [sys.executable, str(PEAK), str(run), str(folder / "maps.zarr")]
    told = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    shutil.rmtree(folder / "maps.zarr")
    return int(told) / 1e6


def measure_capture(
    figures: Figures, folder: Path, axes: Mapping[str, Mapping[int, Size]], rounds: int
) -> None:
    """Record what capture takes by each size of one sample."""
    for axis, sizes in axes.items():
        ways = {
            str(count): partial(seconds_of_capture, size, folder / "captured.zarr")
            for count, size in sizes.items()
        }
        found = take_turns(ways, rounds)
        own, system = (
            {c: [s[which] for s in each] for c, each in found.items()} for which in (0, 1)
        )
        tell(figures, "capture", axis, own, "s", system=system)


def seconds_of_capture(size: Size, run: Path) -> tuple[float, float]:
    """Return the seconds inside `capture`, less those without: of the process's own code, and the system's."""
    denoiser = BareDenoiser(
        layers=size.layers,
        heads=size.heads,
        channels=CHANNELS,
        grid=grid_of(size.patches),
        reference_grid=grid_of(size.tokens),
    )
    before = resource.getrusage(resource.RUSAGE_SELF)
    denoiser.generate(size.steps)
    alone = resource.getrusage(resource.RUSAGE_SELF)
    denoiser.capture(run, size.steps)
    captured = resource.getrusage(resource.RUSAGE_SELF)
    shutil.rmtree(run)
    own_s = captured.ru_utime - alone.ru_utime - (alone.ru_utime - before.ru_utime)
    return (
        max(own_s, CLOCK_S),
        captured.ru_stime - alone.ru_stime - (alone.ru_stime - before.ru_stime),
    )


def tell(
    figures: Figures,
    what: str,
    axis: str,
    found: Mapping[str, Sequence[float]],
    unit: str,
    *,
    system: Mapping[str, Sequence[float]] | None = None,
) -> None:
    """Record the points of a line, and beside them what the system took."""
    names = {"s": "seconds of the processor", "MB": "largest resident memory"}
    title = f"{what.capitalize()} by {axis}: {names[unit]}"
    with figures.section(f"{what}-{axis.replace(' ', '-')}", title) as section:
        for count, values in found.items():
            section.add(count, what, values, unit)
            if system is not None:
                section.add(count, "beside it, the system", system[count], unit)


def tell_exponents(figures: Figures) -> None:
    """Record the exponents of all lines, and those of their larger half, where fixed costs matter less."""
    lines = dict(figures.sections)
    with figures.section("exponents", "Cost ~ size ^ exponent, ± its standard error") as section:
        for name, points in lines.items():
            what, _, axis = name.partition("-")
            line_of = [point for point in points.figures if point.column == what]
            sizes = [int(point.row) for point in line_of]
            medians = [point.median for point in line_of]
            row, unit = f"{what}, {axis.replace('-', ' ')}", line_of[0].unit
            for end, at in (("smallest", 0), ("largest", -1)):
                section.add(row, end, sizes[at])
                section.add(row, f"cost of the {end}", medians[at], unit)
            for column, few in (("exponent", 0), ("of the three largest", -3)):
                line = fit_power_law(sizes[few:], medians[few:])
                exponent, error = round(line.exponent, 3), round(line.error, 3)
                section.add(row, column, exponent, bar=bar_of(what, axis), error=error)


def bar_of(what: str, axis: str) -> Bar | None:
    """Return the bar of a line's exponents."""
    if what == "memory":
        return at_most(FLAT_BAR) if axis == "samples" else None
    return at_most(SQUARE_BAR if axis == TOGETHER.replace(" ", "-") else LINEAR_BAR)


if __name__ == "__main__":
    main()
