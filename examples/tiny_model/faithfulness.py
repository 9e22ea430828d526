"""Measure whether the shipped model's maps can be believed, on compositions that training never saw.

    python examples/tiny_model/faithfulness.py OUT [--compositions 40]

Runs the commands that any user has, at the demo's settings: captures the compositions, and once more with
random weights; cuts regions and layers out of the attention (`i2am causal`); holds the maps against what
that changed. We paste the objects, so we also know the true source of every patch. Prints the tables of
docs/how-to/causal.md and draws a sheet of eight samples. Stopped and started again, it goes on.
"""

from __future__ import annotations

import argparse
import csv
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
from compositions import SIZE_PX, Batch, Compositions, read_objects
from make_demo import to_mask, to_picture
from numpy.typing import NDArray
from torch.nn import functional

from i2am.analysis import (
    Effects,
    causal_weights,
    cell_order,
    open_effects,
    open_run,
    region_masses,
    score_effects,
    summarise_effect_scores,
)
from i2am.analysis.effects.faithfulness import curve_shares
from i2am.analysis.effects.region_masses import mean_over_layers
from i2am.analysis.intervals.bootstrap import bootstrap_mean_interval
from i2am.capture import SHIPPED_MODEL, EffectOptions
from i2am.capture.causal.measure_run import measure_run
from i2am.cli import main as i2am
from i2am.schemas.choices import EffectKind

HERE = Path(__file__).parent
STEPS = 25  # as in the demo
SEED = 2024  # of the compositions; training uses 0
SHOWN = 8
MAPS = ("mean", "causal", "mean rank", "causal rank")
ORDERS = ("map", "random", "least")
BASELINES = ("random", "uniform", "position", "randomised")

Floats = NDArray[np.float64]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path, help="folder for the stores, tables and pictures")
    parser.add_argument("--compositions", type=int, default=40, help="default 40")
    parser.add_argument("--grid", type=int, default=8, help="regions on a side; default 8")
    parser.add_argument(
        "--also", type=int, default=4, help="samples with occlusion, and with adaptive regions"
    )
    arguments = parser.parse_args()
    pairs = Compositions(read_objects(HERE / "held-out.zip", held_out=True), seed=SEED)
    names = write_pictures(pairs, arguments.compositions, arguments.out)
    measure(arguments.out, names, arguments.grid, arguments.also)
    measure_curves(arguments.out, pairs, names, arguments.grid)
    report(arguments.out, pairs, names, arguments.also)


def write_pictures(pairs: Compositions, count: int, out: Path) -> list[str]:
    """Write the compositions' pictures and a manifest, and return their names."""
    folder = out / "pictures"
    folder.mkdir(parents=True, exist_ok=True)
    names = [f"{index:04d}" for index in range(count)]
    with (folder / "manifest.csv").open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(("sample", "source", "mask", "reference", "reference_mask"))
        for index, name in enumerate(names):
            batch = pairs.batch(index, index + 1)
            pictures = {
                # The model must not see what it shall paint.
                "source": to_picture(batch.composite * (1 - batch.mask)),
                "mask": to_mask(batch.mask),
                "reference": to_picture(batch.reference),
                "reference_mask": to_mask(batch.reference_alpha),
            }
            for column, picture in pictures.items():
                picture.save(folder / f"{name}-{column}.png")
            rows.writerow([name, *(f"{name}-{column}.png" for column in pictures)])
    return names


def measure(out: Path, names: list[str], grid: int, also: int) -> None:
    """Run the commands; each goes on where it was stopped."""
    model, run = "--model i2am-tiny", f"{shlex.quote(str(out))}/run.zarr"
    capture = f"capture {model} --manifest {out}/pictures/manifest.csv --inference-steps {STEPS}"
    causal = f"causal {run} {model} --grid {grid} --batch-size 16 --no-fsync"
    some = " ".join(names[:also])
    commands = [
        f"{capture} --out {run}",
        f"{capture} --out {out}/randomised.zarr --randomize-weights 0",
        f"{causal} --cut-layers --direct --out {out}/effects.zarr",
    ]
    if some:
        commands += [
            f"{causal} --adaptive --out {out}/adaptive.zarr --samples {some}",
            f"{causal} --no-regions --occlusion --out {out}/occlusion.zarr --samples {some}",
        ]
    for command in commands:
        print(f"$ i2am {command}", flush=True)
        if code := i2am(shlex.split(command)):
            raise SystemExit(code)


def measure_curves(out: Path, pairs: Compositions, names: list[str], grid: int) -> None:
    """Measure deletion curves, in the order of what the object reads: we know where it is exactly.

    `i2am causal --curves` takes the inpainting mask for the object; here that is the object's box.
    """
    run, effects = open_run(out / "run.zarr"), open_effects(out / "effects.zarr")

    def orders(name: str, boxes: Any) -> dict[str, list[int]]:
        index = names.index(name)
        region = as_mask(object_plane(pairs.batch(index, index + 1), patch_grid(effects[name])))
        return {by: cell_order(run[name], boxes, by, region=region) for by in ORDERS}

    print("\ndeletion curves", flush=True)
    summary = measure_run(
        SHIPPED_MODEL,
        out / "run.zarr",
        out / "curves.zarr",
        options=EffectOptions(regions=(grid, grid), per=(), batch=16),
        orders=orders,
        order_names=ORDERS,
    )
    print(summary)


def report(out: Path, pairs: Compositions, names: list[str], also: int) -> None:
    """Print what was found, and write the table and the sheet."""
    run, effects = open_run(out / "run.zarr"), open_effects(out / "effects.zarr")
    batches = {name: pairs.batch(index, index + 1) for index, name in enumerate(names)}
    planes = {name: object_plane(batches[name], patch_grid(effects[name])) for name in names}
    objects = {name: as_mask(plane) for name, plane in planes.items()}
    scores = score_effects(
        out / "run.zarr",
        out / "effects.zarr",
        randomised=out / "randomised.zarr",
        objects=objects,
    )
    scores.to_csv(out / "faithfulness.csv", index=False)
    print_agreement(scores)
    print_layers(scores)
    masses = {
        name: region_masses(
            run[name], effects[name]["cut_box"], grid=patch_grid(effects[name])
        ).compute()
        for name in names
    }
    print_sources(effects, masses, batches)
    print_curves(open_effects(out / "curves.zarr"), names, planes)
    print_kinds(out, effects, names, also, batches, objects)
    print_cost(out, effects, names, also, batches, objects)
    draw(run, effects, masses, batches, names[:SHOWN], out / "effects.png")


def print_agreement(scores: pd.DataFrame) -> None:
    """Print how maps and baselines agree with the total effect."""
    summary = summarise_effect_scores(scores)
    columns = ("rank_correlation", "same_peak", "near_peak", "g2r_rank_correlation")
    rows = [
        [name, *(interval(summary, name, column) for column in columns)]
        for name in (*MAPS, *BASELINES, "causal - mean", "causal rank - mean rank")
    ]
    table("Agreement with the total effect, mean [95 % interval]", ["map", *columns], rows)


def print_layers(scores: pd.DataFrame) -> None:
    """Print each layer's share of the effect, beside how well its map agrees."""
    summary = summarise_effect_scores(scores)
    layers = [
        name for name in dict.fromkeys(scores["map"]) if (name, "share_of_effect") in summary.index
    ]
    columns = ("share_of_effect", "rank_correlation", "near_peak")
    rows = [[short(name), *(interval(summary, name, c) for c in columns)] for name in layers]
    table("Layers", ["layer", *columns], rows)


def print_sources(
    effects: Effects,
    masses: Mapping[str, xr.DataArray],
    batches: Mapping[str, Batch],
) -> None:
    """Print for which share of the object's patches a peak lies at the true source."""
    hits: dict[str, list[Floats]] = {}
    count = 0
    for name, batch in batches.items():
        sample, mass = effects[name], masses[name]
        patches, source = true_sources(batch, patch_grid(sample))
        boxes = sample["cut_box"].to_numpy()
        planes = {
            "total effect": sample["region"],
            "direct effect": sample["direct_region"],
            "mean map": mean_over_layers(mass),
            "causally weighted map": mean_over_layers(mass, causal_weights(sample)),
            **{f"map of {short(str(one))}": mass.sel(layer=one) for one in mass["layer"].values},
        }
        count += len(patches)
        for kind, plane in planes.items():
            values = plane.transpose("cut", "y", "x").to_numpy()[:, patches[:, 0], patches[:, 1]]
            peaks = boxes[values.argmax(0)]
            hits.setdefault(kind, []).append(near(peaks, source))
        everywhere = np.stack([near(np.tile(box, (len(source), 1)), source) for box in boxes])
        hits.setdefault("a region chosen at random", []).append(everywhere.mean(0))
    rows = [[kind, *(f"{share:.3f}" for share in shares(own))] for kind, own in hits.items()]
    title = f"Peak at the true source, of {count} patches of {len(batches)} objects"
    table(
        title, ["peak of", "in the region", "within a token of it", "within a region of it"], rows
    )


def patch_grid(effects: xr.Dataset) -> tuple[int, int]:
    return effects.sizes["y"], effects.sizes["x"]


def shares(own: list[Floats]) -> Floats:
    """Return the share of all patches, by reach."""
    found: Floats = np.concatenate(own).mean(0)
    return found


def near(boxes: Floats, source: Floats) -> Floats:
    """Return, by reach, whether a source (y, x) lies in a box, or so far beside it; (patch, reach)."""
    beside = np.maximum(boxes[:, :2] - source, source - boxes[:, 2:]).max(1)
    token, region = SIZE_PX / 16, boxes[:, 2] - boxes[:, 0]
    return np.stack([beside <= 0, beside <= token, beside <= region], 1).astype(float)


def true_sources(batch: Batch, grid: tuple[int, int]) -> tuple[NDArray[np.intp], Floats]:
    """Return the object's patches (patch, 2), and where in the reference, in pixels, each is from."""
    alpha = functional.interpolate(batch.alpha, grid, mode="area")[0, 0].numpy()
    patches = np.argwhere(alpha > 0.5)
    top, left, side = batch.box[0].tolist()
    centres = (patches + 0.5) * (SIZE_PX / np.asarray(grid))
    return patches, (centres - [top, left]) / side * SIZE_PX


def object_plane(batch: Batch, grid: tuple[int, int]) -> NDArray[np.bool_]:
    """Return which patches are the object's; the inpainting mask is its box."""
    patches, _ = true_sources(batch, grid)
    inside = np.zeros(grid, bool)
    inside[patches[:, 0], patches[:, 1]] = True
    return inside


def as_mask(plane: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return patches as a mask of the image's pixels."""
    return np.kron(plane, np.ones(SIZE_PX // np.array(plane.shape), bool))


def print_curves(
    curves: Effects, names: list[str], planes: Mapping[str, NDArray[np.bool_]]
) -> None:
    """Print the deletion curves, and in how many compositions the orders are in the expected order."""
    found, areas = [], []
    for name in names:
        taken, own = curve_shares(curves[name], "deletion", planes[name])
        found.append(own)
        areas.append(np.trapezoid(own, taken))
    header = [str(count) for count in curves[names[0]]["count"].values]
    rows = [
        [order, *(f"{value:.2f}" for value in own)]
        for order, own in zip(ORDERS, np.mean(found, axis=0), strict=True)
    ]
    title = "Deletion: share of the effect on the object, when so many regions are cut"
    table(title, ["order", *header], rows)
    by_map, random, least = np.array(areas).T
    for what, holds in (
        ("map > random > least", (by_map > random) & (random > least)),
        ("map > random", by_map > random),
        ("random > least", random > least),
    ):
        print(f"\nDeletion area {what}: {holds.sum()} of {len(names)} compositions")


def print_kinds(
    out: Path,
    effects: Effects,
    names: list[str],
    also: int,
    batches: Mapping[str, Batch],
    objects: Mapping[str, Any],
) -> None:
    """Print how the kinds of effects agree with the total one, and the maps with each."""
    pairs: dict[EffectKind, tuple[Effects, str, list[str]]] = {
        "direct": (effects, "direct_region", names)
    }
    if also:
        pairs["occlusion"] = (open_effects(out / "occlusion.zarr"), "occlusion", names[:also])
    rows = []
    for kind, (store, array, some) in pairs.items():
        correlations, peaks = [], []
        for name in some:
            patches, _ = true_sources(batches[name], patch_grid(store[name]))
            one, other = (
                own.to_numpy()[:, patches[:, 0], patches[:, 1]]
                for own in (effects[name]["region"], store[name][array])
            )
            correlations.append(rank_correlation(one, other))
            peaks.append(float((one.argmax(0) == other.argmax(0)).mean()))
        own = summarise_effect_scores(
            score_effects(out / "run.zarr", store.path, kind=kind, samples=some, objects=objects)
        )
        of_maps = [interval(own, name, "rank_correlation") for name in MAPS]
        rows.append([kind, str(len(some)), told(correlations), f"{np.mean(peaks):.2f}", *of_maps])
    header = [
        "kind",
        "samples",
        "rho with total",
        "same peak",
        *(f"rho of {name}" for name in MAPS),
    ]
    table("Kinds of effects", header, rows)


def print_cost(
    out: Path,
    effects: Effects,
    names: list[str],
    also: int,
    batches: Mapping[str, Batch],
    objects: Mapping[str, Any],
) -> None:
    """Print how many pictures were painted, and what adaptive regions save and keep."""
    # A call paints a fixed number of images; untouched ones fill the last call.
    painted = [effects[name].attrs["i2am"]["pictures"] for name in names]
    print(f"\nImages a sample, with layers and direct effects: {np.median(painted):.0f}")
    if not also:
        return
    full, adaptive = effects, open_effects(out / "adaptive.zarr")
    rows = []
    for kind, store in (("full grid", full), ("adaptive", adaptive)):
        scores = score_effects(out / "run.zarr", store.path, samples=names[:also], objects=objects)
        own = summarise_effect_scores(scores)
        cuts = np.mean([store[name].sizes["cut"] for name in names[:also]])
        rows.append(
            [
                kind,
                f"{cuts:.0f}",
                *(interval(own, "mean rank", c) for c in ("rank_correlation", "near_peak")),
            ]
        )
    agreement = []
    for name in names[:also]:
        boxes = adaptive[name]["cut_box"].to_numpy()
        centres = full[name]["cut_box"].to_numpy().reshape(-1, 2, 2).mean(1)
        inside = (boxes[:, None, :2] <= centres) & (centres < boxes[:, None, 2:])
        holder = inside.all(-1).argmax(0)
        area = np.prod(boxes[:, 2:] - boxes[:, :2], axis=1)
        coarse = (adaptive[name]["region"].to_numpy() / area[:, None, None])[holder]
        patches, _ = true_sources(batches[name], patch_grid(full[name]))
        fine = full[name]["region"].to_numpy()
        agreement.append(
            rank_correlation(*(own[:, patches[:, 0], patches[:, 1]] for own in (fine, coarse)))
        )
    table("Adaptive regions", ["regions", "cuts", "rho of mean rank", "near peak"], rows)
    print(f"\nrho of adaptive with full effects, over the finest regions: {told(agreement)}")


def draw(
    run: Mapping[str, xr.DataTree],
    effects: Effects,
    masses: Mapping[str, xr.DataArray],
    batches: Mapping[str, Batch],
    names: list[str],
    path: Path,
) -> None:
    """Draw, of each sample: reference, generated image, maps and effect of the whole object, by region."""
    import matplotlib.pyplot as plt

    titles = (
        "reference",
        "generated",
        "mean map",
        "causal map",
        "effect",
        "one patch: map",
        "its effect",
    )
    figure, axes = plt.subplots(
        len(names), len(titles), figsize=(1.6 * len(titles), 1.65 * len(names)), squeeze=False
    )
    for row, name in zip(axes, names, strict=True):
        sample, effect = run[name], effects[name]
        patches, source = true_sources(batches[name], patch_grid(effect))
        reference = sample["images/reference"].to_numpy()
        painted = sample["images/generated"].to_numpy()
        causal = (
            mean_over_layers(masses[name], causal_weights(effect))
            .transpose("cut", "y", "x")
            .to_numpy()
        )
        mean = mean_over_layers(masses[name]).transpose("cut", "y", "x").to_numpy()
        region = effect["region"].to_numpy()
        one = patches[len(patches) // 2]
        planes = [own[:, patches[:, 0], patches[:, 1]].mean(1) for own in (mean, causal, region)]
        planes += [own[:, one[0], one[1]] for own in (causal, region)]
        row[0].imshow(reference)
        row[1].imshow(painted)
        scale = SIZE_PX / np.asarray(patch_grid(effect))
        row[1].plot(*((one + 0.5) * scale - 0.5)[::-1], "r+", markersize=9)
        for axis, plane in zip(row[2:], planes, strict=True):
            side = round(len(plane) ** 0.5)
            axis.imshow(reference, alpha=0.35)
            axis.imshow(
                plane.reshape(side, side), alpha=0.75, extent=(-0.5, 63.5, 63.5, -0.5), cmap="magma"
            )
        for axis in row[5:]:
            axis.plot(*(source[len(patches) // 2] - 0.5)[::-1], "c+", markersize=9)
        row[0].set_ylabel(name)
    for axis, title in zip(axes[0], titles, strict=True):
        axis.set_title(title, fontsize=9)
    for axis in axes.flat:
        axis.set_xticks([])
        axis.set_yticks([])
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)
    print(f"\nRed: the patch. Cyan: its true source. Wrote {path}")


def rank_correlation(one: Floats, other: Floats) -> float:
    """Return Spearman's rho over the regions, mean over patches."""
    from scipy.stats import spearmanr

    found = [spearmanr(a, b).statistic for a, b in zip(one.T, other.T, strict=True)]
    return float(np.nanmean(found))


def told(values: list[float]) -> str:
    low, high = bootstrap_mean_interval(np.array(values), 0.95)
    return f"{np.mean(values):.2f} [{low:.2f}, {high:.2f}]"


def interval(summary: pd.DataFrame, name: str, score: str) -> str:
    if (name, score) not in summary.index:
        return "–"
    mean, low, high = summary.loc[(name, score), ["mean", "low", "high"]]
    return f"{mean:.3f} [{low:.3f}, {high:.3f}]"


def short(layer: str) -> str:
    return layer.removesuffix(".transformer_blocks.0.attn2")


def table(title: str, header: list[str], rows: list[list[str]]) -> None:
    """Print a table in Markdown."""
    print(f"\n{title}\n\n| {' | '.join(header)} |\n|{'---|' * len(header)}")
    for row in rows:
        print(f"| {' | '.join(row)} |", flush=True)


if __name__ == "__main__":
    main()
