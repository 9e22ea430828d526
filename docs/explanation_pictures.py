"""Make the pictures of the pages in docs/start and docs/explanation, all of them of what `i2am demo` paints.

    python docs/explanation_pictures.py [--demo i2am-demo] [--effects i2am-demo/effects.zarr]

What is not given is made first: the demo in half a minute, the effects (`i2am causal i2am-demo/run.zarr
--model i2am-tiny --samples truck --grid 8 --cut-layers`) in some minutes.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import xarray as xr
from matplotlib.figure import Figure
from scipy.special import softmax

from i2am.analysis import analyze, open_effects, open_run, sram
from i2am.analysis.figures import FigureStyle, render
from i2am.analysis.figures.captions import time_titles
from i2am.analysis.figures.overlay import overlay, value_range
from i2am.analysis.figures.panels import (
    ColorBar,
    Marker,
    Panel,
    PanelGroup,
    heat_panel,
    heat_panels,
    image_panel,
    image_size,
    inpainting_mask,
    stored_image,
)
from i2am.analysis.figures.sheet import draw
from i2am.cli import main as i2am
from i2am.schemas import Box
from i2am.schemas.attributes import ATTRIBUTE_KEY

DOCS: Final = Path(__file__).parent
STYLE: Final = FigureStyle()
DPI: Final = 110
# The layer whose map finds the source best, and one that finds it and has next to no effect.
STRONG, WEAK = "up_blocks.1.attentions.1", "up_blocks.0.attentions.1"
SAMPLE: Final = "truck"
# Patches of the truck's generated image: its window, its load, its red frame; (y, x).
PATCHES: Final = ((29, 22), (26, 44), (44, 36))
PATCH_PX: Final = 4

Floats = np.ndarray[Any, Any]


def main() -> None:
    """Make all pictures."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--demo", type=Path, help="folder of a finished `i2am demo`")
    parser.add_argument("--effects", type=Path, help="effects store of that demo's truck")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        demo = options.demo or Path(name) / "demo"
        if options.demo is None:
            i2am(["demo", "--out", str(demo)])
        effects = options.effects or Path(name) / "effects.zarr"
        if options.effects is None:
            i2am(
                ["causal", str(demo / "run.zarr"), "--model", "i2am-tiny", "--samples", SAMPLE,
                 "--grid", "8", "--cut-layers", "--out", str(effects)]
            )  # fmt: skip
        for path, figure in pictures(open_run(demo / "run.zarr"), open_effects(effects)[SAMPLE]):
            figure.set_dpi(DPI)
            (DOCS / path).parent.mkdir(exist_ok=True)
            (DOCS / path).write_bytes(render(figure))


def pictures(run: Mapping[str, xr.DataTree], effects: xr.Dataset) -> Iterator[tuple[str, Figure]]:
    """Yield where each picture belongs, and the picture."""
    sample = run[SAMPLE]
    yield "start/pictures/r2g.png", first_question(sample)
    yield "start/pictures/g2r.png", second_question(sample)
    yield "start/pictures/patches.png", one_patch(sample)
    yield "start/pictures/readme.png", in_one(sample)
    yield "explanation/pictures/directions.png", directions(sample)
    yield "explanation/pictures/levels.png", levels(sample)
    yield "explanation/pictures/registers.png", registers(run)
    yield "explanation/pictures/cut-registers.png", cut_registers(sample, effects)
    yield "explanation/pictures/conventions.png", conventions(sample)
    yield "explanation/pictures/normalisation.png", normalisation(sample)
    yield "explanation/pictures/box.png", box(sample)
    yield "explanation/pictures/cause.png", cause(sample, effects)


# The two questions.


def first_question(sample: xr.DataTree) -> Figure:
    """Draw reference, painting and R2G."""
    panels = (
        image_panel(sample, "reference", "the reference"),
        image_panel(
            sample,
            "generated",
            "what the model painted,\ninside the outline",
            inpainting_mask(sample),
        ),
        r2g_panel(sample, "R2G: which regions of it\ndraw on the reference"),
    )
    return sheet(panels)


def second_question(sample: xr.DataTree) -> Figure:
    """Draw painting, reference and G2R of the painted part."""
    panels = (
        image_panel(
            sample,
            "generated",
            "what the model painted,\ninside the outline",
            inpainting_mask(sample),
        ),
        image_panel(sample, "reference", "the reference"),
        g2r_panel(sample, "G2R: which parts of it\nthe painted patches read"),
    )
    return sheet(panels)


def one_patch(sample: xr.DataTree) -> Figure:
    """Draw three patches, and where on the reference each read."""
    asked = sram(sample, generated=list(PATCHES)).to_numpy()
    titles = [f"patch {number} read here" for number in range(1, len(PATCHES) + 1)]
    reference = stored_image(sample, "reference")
    panels, bar = heat_panels(reference, list(asked), titles, STYLE, "attention of the patch")
    generated = image_panel(sample, "generated", "three patches of the painting")
    return sheet((marked(generated, PATCHES), *panels), bar)


def in_one(sample: xr.DataTree) -> Figure:
    """Draw what a map of all patches and two single patches say, in one row."""
    places = (PATCHES[0], PATCHES[2])
    asked = sram(sample, generated=list(places)).to_numpy()
    generated = image_panel(
        sample,
        "generated",
        "what a model painted from it,\ninside the outline",
        inpainting_mask(sample),
    )
    reference = stored_image(sample, "reference")
    read = (
        heat_panel(
            reference, values, f"SRAM: where on the reference\npatch {number} read",
            bar_of([values], "attention of the patch"),
        )
        for number, values in enumerate(asked, 1)
    )  # fmt: skip
    panels = (
        image_panel(sample, "reference", "a reference"),
        marked(generated, places),
        r2g_panel(sample, "R2G: which regions of the\npainting draw on it"),
        *read,
    )
    return sheet(panels)


def r2g_panel(sample: xr.DataTree, title: str) -> Panel:
    """Return the unified map on the generated image."""
    values = analyze(sample)["r2g/ulam"].to_numpy()
    image, mask = stored_image(sample, "generated"), inpainting_mask(sample)
    return heat_panel(image, values, title, bar_of([values], "attention per position"), mask)


def g2r_panel(sample: xr.DataTree, title: str) -> Panel:
    """Return the unified map of the painted patches on the reference."""
    values = analyze(sample, within="mask")["g2r/ulam"].to_numpy()
    image = stored_image(sample, "reference")
    return heat_panel(image, values, title, bar_of([values], "attention per position"))


# How maps are made.


def directions(sample: xr.DataTree) -> Figure:
    """Draw the logits of a layer, their two softmaxes, and the map that each becomes."""
    layer = sample["layers"][f"{STRONG}.transformer_blocks.0.attn2"]
    own = layer.attrs[ATTRIBUTE_KEY]
    step, head = layer.sizes["step"] // 2, 0
    query, key = (
        layer[name].isel({dim: at for dim, at in (("step", step), ("head", head)) if dim in layer[name].dims})
        .to_numpy().astype(np.float32)
        for name in ("query", "key")
    )  # fmt: skip
    logits = own["scale"] * query @ key.T
    over_tokens, over_patches = softmax(logits, axis=1), softmax(logits, axis=0)
    special = own["special_tokens"]
    maps = (
        over_patches.mean(1).reshape(own["generated_grid"]),
        over_tokens.mean(0)[special:].reshape(own["reference_grid"]),
    )
    figure = Figure(figsize=(11, 5.6), layout="constrained", facecolor="white")
    halves: Any = figure.subfigures(1, 2, width_ratios=(1, 2.1))
    whole, right = halves
    axes = whole.subplots()
    shown = axes.imshow(logits, cmap="viridis", aspect="auto", interpolation="nearest")
    whole.colorbar(shown, ax=axes, location="bottom", label="logits S")
    axes.set(
        title="S: each patch with each token", xlabel="reference tokens", ylabel="generated patches"
    )
    ways = (
        (over_patches, "softmax down each column:\neach token's attention over the patches", "mean over the tokens:\nR2G, on the painting", "generated"),
        (over_tokens, "softmax along each row:\neach patch's attention over the tokens", "mean over the patches:\nG2R, on the reference", "reference"),
    )  # fmt: skip
    for row, (matrix, title, result, image) in enumerate(ways):
        left, last = (right.add_subplot(2, 2, 2 * row + column) for column in (1, 2))
        # The root: most values are near 0, and would all be black.
        left.imshow(np.sqrt(matrix), cmap="inferno", aspect="auto", interpolation="nearest")
        left.set(title=title, xlabel="tokens", ylabel="patches", xticks=[], yticks=[])
        panel = heat_panel(stored_image(sample, image), maps[row], "", bar_of([maps[row]], ""))
        last.imshow(panel.pixels)
        last.set(title=result, xticks=[], yticks=[])
    return figure


def levels(sample: xr.DataTree) -> Figure:
    """Draw R2G of one sample at every level, a row a level."""
    maps = analyze(sample).children["r2g"].dataset
    layers = [
        str(name).partition(".transformer")[0].replace(".att", "\n.att")
        for name in maps["layer"].values
    ]
    heads = [f"head {head}" for head in maps["head"].values]
    rows = (
        ("ulam", "ULAM\nmean over layers,\nsteps and heads", [""]),
        ("tlam", "TLAM\none map for each\ngroup of steps", time_titles(sample, maps["tlam"])),
        ("hlam", "HLAM\none map for\neach head", heads),
        ("llam", "LLAM\none map for\neach layer", layers),
    )
    image, mask = stored_image(sample, "generated"), painted_part(sample)
    figure = Figure(figsize=(11, 7.2), layout="constrained", facecolor="white")
    grid = figure.subplots(len(rows), len(layers))
    extent = (0, mask.shape[1], mask.shape[0], 0)
    for axes in grid.flat:
        axes.axis("off")
    for places, (level, words, titles) in zip(grid, rows, strict=True):
        values = maps[level].to_numpy().reshape(len(titles), *maps[level].shape[-2:])
        # Layers of other grids have other values.
        limits = None if level == "llam" else value_range(values)
        for axes, one, title in zip(places, values, titles, strict=False):
            heat = overlay(image, one, limits or value_range([one]))
            axes.imshow(heat, extent=extent)
            axes.contour(
                mask, levels=[0.5], colors="white", linewidths=0.8, extent=extent, origin="upper"
            )
            axes.set_title(title, fontsize=7.5)
        places[0].text(
            -0.12, 0.5, words, transform=places[0].transAxes, ha="right", va="center", fontsize=9
        )
    return figure


# What maps mean.


def registers(run: Mapping[str, xr.DataTree]) -> Figure:
    """Draw, a row a sample, what the patches outside and inside the mask read of the reference."""
    panels: list[Panel] = []
    for name, sample in run.items():
        image = stored_image(sample, "reference")
        panels.append(image_panel(sample, "reference", f"{name}: the reference"))
        for inside, which in ((False, "outside"), (True, "inside")):
            values = read_by(sample, inside=inside)
            title = f"what patches {which}\nthe mask read"
            panels.append(
                heat_panel(image, values, title, bar_of([values], "attention per position"))
            )
    return draw((PanelGroup("", tuple(panels), columns=3),), STYLE)


def cut_registers(sample: xr.DataTree, effects: xr.Dataset) -> Figure:
    """Draw what the painted patches read of each region of the reference, and what cutting it changed."""
    image = stored_image(sample, "reference")
    read = by_region(read_by(sample, inside=True), effects)
    changed = on_patches(effects["region"], sample, inside=True) / on_patches(
        effects["ceiling"], sample, inside=True
    )
    panels = (
        image_panel(sample, "reference", "the reference"),
        heat_panel(image, read, "what the painted patches\nread of each region", bar_of([read], "share of attention")),
        heat_panel(
            image, changed.reshape(read.shape), "what cutting the region\nchanged in the painting",
            bar_of([changed], "share of cutting everything"),
        ),
    )  # fmt: skip
    return sheet(panels)


def cause(sample: xr.DataTree, effects: xr.Dataset) -> Figure:
    """Draw where one patch reads in two layers, and what each layer's attention does to the picture."""
    patch = PATCHES[-1]
    image = stored_image(sample, "reference")
    panels = [marked(image_panel(sample, "generated", "patch 1"), [patch])]
    for layer in (STRONG, WEAK):
        asked = sram(sample, generated=patch, layers=f"{layer}.*").to_numpy()
        share = layer_share(sample, effects, layer)
        title = f"read in {layer}:\ncutting it changes {share:.0%} of\nwhat cutting all layers does"
        panels.append(heat_panel(image, asked, title, bar_of([asked], "attention of the patch")))
    return sheet(panels)


def conventions(sample: xr.DataTree) -> Figure:
    """Draw both directions by both conventions, and R2G as the authors show it."""
    reference, generated = (stored_image(sample, name) for name in ("reference", "generated"))
    mask, inverted = inpainting_mask(sample), FigureStyle(polarity="inverted")
    groups = []
    for convention in ("i2am", "official"):
        maps = analyze(sample, convention=convention)
        r2g, g2r = (maps[f"{direction}/ulam"].to_numpy() for direction in ("r2g", "g2r"))
        panels = [
            heat_panel(generated, r2g, "R2G, direct:\nhigh attention is hot", bar_of([r2g]), mask),
            heat_panel(
                generated,
                r2g,
                "R2G, inverted:\nlow attention is hot",
                bar_of([r2g], style=inverted),
                mask,
            ),
            heat_panel(reference, g2r, "G2R, direct", bar_of([g2r])),
        ]
        groups.append(PanelGroup(f"convention: {convention}", tuple(panels), columns=3))
    return draw(groups, STYLE)


def normalisation(sample: xr.DataTree) -> Figure:
    """Draw R2G of a layer of each grid, and their mean, by mass and by density."""
    image, mask = stored_image(sample, "generated"), inpainting_mask(sample)
    groups = []
    for way in ("mass", "density"):
        maps = analyze(sample, normalisation=way)["r2g"]
        names = [str(name) for name in maps["llam"]["layer"].to_numpy()]
        chosen = [
            next(n for n in names if n.startswith(start))
            for start in ("mid_block", "down_blocks.1", STRONG)
        ]
        values = [
            *(maps["llam"].sel(layer=name).to_numpy() for name in chosen),
            maps["ulam"].to_numpy(),
        ]
        titles = [
            *(f"{name.partition('.transformer')[0]}\n{grid_of(sample, name)}" for name in chosen),
            "mean over all layers",
        ]
        label = "attention per position" if way == "mass" else "times uniform attention"
        panels, bar = heat_panels(image, values, titles, STYLE, label, outline=mask)
        groups.append(PanelGroup(way, panels, bar, columns=4))
    return draw(groups, STYLE)


# A picture of which the model saw a part.


def box(sample: xr.DataTree) -> Figure:
    """Draw a map laid over the whole of a wide picture, and over the part that an encoder's crop leaves."""
    square = stored_image(sample, "reference")
    side = square.shape[0]
    sky = np.full((side, side // 2, 3), (214, 228, 240), np.uint8)
    wide = np.concatenate([sky, square, sky], axis=1)
    values = read_by(sample, inside=True)
    seen = Box(0, side // 2, side, side // 2 + side)
    panels = (
        Panel("the reference as it is stored", pixels=wide, size=image_size(wide)),
        heat_panel(wide, values, "wrong: the map over the whole picture", bar_of([values])),
        heat_panel(
            wide, values, "right: over the box that the model saw", bar_of([values]), seen=seen
        ),
    )
    return sheet(panels)


# What several of them need.


def sheet(panels: Sequence[Panel], bar: ColorBar | None = None) -> Figure:
    """Return a figure of panels in one row."""
    return draw((PanelGroup("", tuple(panels), bar, columns=len(panels)),), STYLE)


def bar_of(
    maps: Sequence[Any], label: str = "attention per position", style: FigureStyle = STYLE
) -> ColorBar:
    """Return the scale of maps."""
    return ColorBar(value_range(maps), style, label)


def marked(panel: Panel, places: Sequence[tuple[int, int]]) -> Panel:
    """Return a panel with a numbered box around each patch."""
    markers = tuple(
        Marker(str(number), y // PATCH_PX * PATCH_PX, x // PATCH_PX * PATCH_PX, PATCH_PX, PATCH_PX)
        for number, (y, x) in enumerate(places, 1)
    )
    return replace(panel, markers=markers)


def read_by(sample: xr.DataTree, *, inside: bool) -> Floats:
    """Return what the patches inside the inpainting mask, or outside it, read: (reference_y, reference_x)."""
    mask = painted_part(sample)
    found: Floats = sram(sample, generated=mask if inside else ~mask).to_numpy()
    return found


def painted_part(sample: xr.DataTree) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """Return where the picture was painted, (y, x)."""
    return stored_image(sample, "inpainting_mask") > 0


def by_region(values: Floats, effects: xr.Dataset) -> Floats:
    """Return how much of a map lies in each region of a regular grid of cuts."""
    rows = round(effects.sizes["cut"] ** 0.5)
    found: Floats = values.reshape(rows, len(values) // rows, rows, -1).sum((1, 3))
    return found


def on_patches(effect: xr.DataArray, sample: xr.DataTree, *, inside: bool) -> Floats:
    """Return the mean effect on the patches of which most lies inside the mask, or outside it."""
    mask = painted_part(sample)
    rows, columns = effect.shape[-2:]
    share = mask.reshape(rows, mask.shape[0] // rows, columns, -1).mean((1, 3))
    found: Floats = effect.to_numpy()[..., (share > 0.5) == inside].mean(-1)
    return found


def layer_share(sample: xr.DataTree, effects: xr.Dataset, layer: str) -> float:
    """Return what cutting the reference in one layer alone changes, as share of cutting it in all."""
    names = [str(name) for name in effects["layer_effect"]["layer"].values]
    (at,) = (i for i, name in enumerate(names) if name.startswith(layer))
    alone = on_patches(effects["layer_effect"].isel(layer=at), sample, inside=True)
    return float(alone / on_patches(effects["ceiling"], sample, inside=True))


def grid_of(sample: xr.DataTree, layer: str) -> str:
    """Return a layer's own grid on the generated image, in words."""
    height, width = sample["layers"][layer].attrs[ATTRIBUTE_KEY]["generated_grid"]
    return f"{height} × {width} patches"


if __name__ == "__main__":
    main()
