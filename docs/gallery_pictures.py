"""Make docs/gallery/figures.md and its pictures: every kind of figure, at the width of a column.

    python docs/gallery_pictures.py [--out docs/gallery/figures] [--format png pdf svg]

Two samples are drawn. The doughnut of `i2am demo` is painted here by the shipped model. The cat is no
model's work: its attention is laid down by hand, over pictures that are not square, with two references
and text, so that it has the figures which the demo's model cannot have, and all its maps are known.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator, Mapping
from io import BytesIO
from pathlib import Path
from typing import Any, Final

import numpy as np
import xarray as xr
from PIL import Image
from skimage import data, transform

from i2am.analysis import analyze, maps_of, open_effects, open_run
from i2am.analysis.figures import FIGURES, FigureStyle, existing_kinds, load_figure, render
from i2am.cli import main as i2am

WIDTH: Final = 3.3
# Half of a print's, so that the page stays small.
DPI: Final = 140
COLORS: Final = 256
STEPS, HEADS, CHANNELS = 6, 3, 48
SCENE_PX, CAT_PX, ROCKET_PX = (384, 512), (256, 384), (384, 256)
# The painted part of the scene: top, left, height and width in pixels.
PAINTED: Final = (96, 208, 192, 224)
LAYERS: Final = {
    "down.attn": ((12, 16), (8, 12), (12, 8)),
    "mid.attn": ((6, 8), (8, 12), (12, 8)),
    "up.attn": ((24, 32), (16, 24), (24, 16)),
}

Floats = np.ndarray[Any, Any]


def main() -> None:
    """Make all pictures, and the page."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "gallery" / "figures")
    parser.add_argument("--format", nargs="+", default=["png"])
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    made: dict[str, list[str]] = {kind: [] for kind in FIGURES}
    with tempfile.TemporaryDirectory() as folder:
        for name, kind, figure in (*demo_figures(Path(folder)), *cat_figures()):
            figure.set_dpi(DPI)
            for ending in options.format:
                content = render(figure, ending)
                path = options.out / f"{name}-{kind}.{ending}"
                path.write_bytes(small(content) if ending == "png" else content)
            made[kind].append(name)
    (options.out.parent / "figures.md").write_text(page(made, options.out.name), encoding="utf-8")


def small(png: bytes) -> bytes:
    """Return a PNG of few colors; dithered, so that the bars have no steps."""
    buffer = BytesIO()
    with Image.open(BytesIO(png)) as picture:
        whole = picture.convert("RGB")
        palette = whole.quantize(COLORS)
        shown = whole.quantize(palette=palette, dither=Image.Dither.FLOYDSTEINBERG)
        shown.save(buffer, "png", optimize=True)
    return buffer.getvalue()


def page(made: Mapping[str, list[str]], folder: str) -> str:
    """Return the gallery as Markdown."""
    parts = [
        "# Gallery: every kind of figure",
        "",
        f"Each is drawn by `i2am figure run.zarr --kinds KIND --width {WIDTH}`, or in Python by the function of",
        "its name in `i2am.analysis.figures`; all options: [analysis.md](../how-to/analysis.md#figures). Left the",
        "doughnut of `i2am demo`; right a cat whose attention was made by hand, over pictures that are",
        "not square, with two references and text. Made by `python docs/gallery_pictures.py`.",
        "",
    ]
    for kind, names in made.items():
        own = FIGURES[kind]
        parts += [f"## {kind}", "", own.caption, *([own.missing] if own.missing else []), ""]
        parts += [f"![{name}: {kind}]({folder}/{name}-{kind}.png)" for name in names]
        parts += [""]
    parts += [
        "Pictures: scikit-image's coffee (Rachel Michetti, CC0), Chelsea the cat (Stéfan van der Walt,",
        "CC0), and rocket (SpaceX, CC0).",
    ]
    return "\n".join(parts) + "\n"


def demo_figures(folder: Path) -> Iterator[tuple[str, str, Any]]:
    """Capture the demo's samples twice, measure one, and yield its figures."""
    manifest = Path(__file__).parents[1] / "capture" / "demo" / "manifest.csv"
    for name, seed in (("run", 0), ("after", 7)):
        i2am(
            ["capture", "--model", "i2am-tiny", "--manifest", str(manifest), "--guidance", "both",
             "--inference-steps", "6", "--seed", str(seed), "--out", str(folder / f"{name}.zarr")]
        )  # fmt: skip
    i2am(
        ["causal", str(folder / "run.zarr"), "--model", "i2am-tiny", "--samples", "doughnut",
         "--grid", "4", "--cut-layers", "--curves"]
    )  # fmt: skip
    run, after = (open_run(folder / f"{name}.zarr") for name in ("run", "after"))
    measured = open_effects(folder / "effects.zarr")["doughnut"]
    yield from figures_of("doughnut", run, maps_of(run), after["doughnut"], measured)


def cat_figures() -> Iterator[tuple[str, str, Any]]:
    """Yield the figures of the cat, beside one that is looked at less sharply."""
    cat = laid_down("cat", sharpness=9)
    run = {"cat": cat, "cat at a distance": laid_down("cat at a distance", sharpness=6)}
    maps = {name: analyze(sample, time_groups=3) for name, sample in run.items()}
    yield from figures_of("cat", run, maps, run["cat at a distance"])


def figures_of(
    name: str,
    run: Mapping[str, xr.DataTree],
    maps: Mapping[str, xr.DataTree],
    after: xr.DataTree,
    measured: xr.Dataset | None = None,
) -> Iterator[tuple[str, str, Any]]:
    """Yield sample, kind and figure of all that a sample has."""
    style, sample = FigureStyle(width=WIDTH), run[name]
    for kind in existing_kinds(sample, FIGURES, measured, has_other=True):
        draw, own = load_figure(kind), FIGURES[kind]
        if own.is_of_run:
            figure = draw(run, maps, style=style)
        elif own.needs:
            figure = draw(sample, measured, style=style)
        elif own.needs_other:
            figure = draw(sample, maps[name], style=style, other=after)
        else:
            figure = draw(sample, maps[name], style=style)
        yield name, kind, figure


def laid_down(name: str, sharpness: float) -> xr.DataTree:
    """Return a sample in which each painted patch reads the place of the cat that it shows.

    A part to the left of it reads the second reference, a rocket; all the rest reads both evenly.
    """
    coordinates = {
        "step": np.arange(STEPS),
        "timestep": ("step", np.linspace(981, 1, STEPS).round()),
        "guidance": np.array(["unconditional", "conditional"]),
    }
    attributes = {"i2am": {"kind": "capture", "schema": 1, "status": "complete", "steps": STEPS}}
    groups = {"/": xr.Dataset(coords=coordinates, attrs=attributes), "/images": pictures()}
    for order, (layer, (grid, *references)) in enumerate(LAYERS.items()):
        for index, arrays in enumerate(attention(grid, references, sharpness)):
            own = f"{layer}.reference_1" if index else layer
            groups[f"/layers/{own}"] = arrays.assign_attrs(
                i2am={
                    "scale": 1.0, "generated_grid": list(grid), "reference_grid": list(references[index]),
                    "special_tokens": 0, "order": order, "block": layer.partition(".")[0],
                    "representation": "factors", "reference_index": index, "causal": True,
                }
            )  # fmt: skip
    return xr.DataTree.from_dict(groups, name=name)


def pictures() -> xr.Dataset:
    """Return the images and masks of the cat's sample."""
    top, left, height, width = PAINTED
    scene = shrunk(data.coffee()[:400, :533], SCENE_PX)
    cat, rocket = shrunk(data.chelsea(), CAT_PX), shrunk(data.rocket()[:, 180:465], ROCKET_PX)
    generated, painted = scene.copy(), np.zeros(SCENE_PX, np.uint8)
    generated[top : top + height, left : left + width] = shrunk(cat, (height, width))
    painted[top : top + height, left : left + width] = 255
    object_of_cat = np.zeros(CAT_PX, np.uint8)
    object_of_cat[24:, 72:312] = 255
    return xr.Dataset(
        {
            "generated": (("y", "x", "rgb"), generated),
            "reference": (("reference_y", "reference_x", "rgb"), cat),
            "reference_1": (("reference_1_y", "reference_1_x", "rgb"), rocket),
            "inpainting_mask": (("y", "x"), painted),
            "reference_mask": (("reference_y", "reference_x"), object_of_cat),
        }
    )


def shrunk(picture: Floats, size: tuple[int, int]) -> Floats:
    """Return a picture at another size."""
    found = transform.resize(picture, size, preserve_range=True, anti_aliasing=True)
    pixels: Floats = np.rint(found).astype(np.uint8)
    return pixels


def attention(
    grid: tuple[int, int], references: list[tuple[int, int]], sharpness: float
) -> list[xr.Dataset]:
    """Return queries and keys of a layer for each reference, and the sum over all keys that share a softmax.

    Places are known by waves (random Fourier features): the product of two is high where they are near.
    """
    rng = np.random.default_rng(grid[0])
    waves, phase = rng.normal(size=(2, CHANNELS)) * 7, rng.uniform(0, 2 * np.pi, CHANNELS)

    def known(places: Floats, of: int = 0) -> Floats:
        # Places of the second reference are no places of the first.
        features: Floats = np.cos(places @ waves + phase * (1 + of)) * np.sqrt(2 / CHANNELS)
        return features

    top, left, height, width = (
        edge / side for edge, side in zip(PAINTED, SCENE_PX * 2, strict=True)
    )
    patches = centres(grid)
    wanted = (patches - [top, left]) / [height, width]  # On the cat, in shares of its sides.
    is_cat = np.all((wanted > 0) & (wanted < 1), axis=-1)
    is_rocket = ~is_cat & (patches[:, 1] < left) & (abs(patches[:, 0] - 0.5) < 0.3)
    # Steps see ever more sharply; heads differ in how far they look.
    strength = sharpness * np.linspace(0.55, 1, STEPS)[:, None] * np.linspace(1.1, 0.6, HEADS)
    branch = np.array([0.35, 1])[:, None, None, None, None]
    query = (
        branch
        * strength[:, :, None, None]
        * np.where(
            is_cat[:, None], known(wanted), np.where(is_rocket[:, None], known(patches, of=1), 0)
        )
    )
    keys = [known(centres(references[0])), known(centres(references[1]), of=1)]
    # The text speaks of the cat's eyes: patches that show them read it, and it reads them.
    eyes = np.array([[0.35, 0.3], [0.35, 0.7]] * 4)
    text = known(eyes) * 1.2
    text_query = np.broadcast_to(8 * known(eyes), (2, STEPS, HEADS, 8, CHANNELS))
    own = np.zeros((grid[0] * grid[1], CHANNELS))
    every = np.concatenate([*keys, text, own])
    lead = ("guidance", "step", "head")
    found = []
    for key in keys:
        arrays = {
            "query": ((*lead, "generated", "channel"), query),
            "key": (("head", "reference", "channel"), np.broadcast_to(key, (HEADS, *key.shape))),
            "logsumexp": ((*lead, "generated"), total(query, every)),
            "text_key": (
                (*lead, "text", "channel"),
                np.broadcast_to(text, (2, STEPS, HEADS, *text.shape)),
            ),
            "text_query": ((*lead, "text", "channel"), text_query),
            "text_logsumexp": ((*lead, "text"), total(text_query, every)),
        }
        found.append(xr.Dataset(arrays).astype(np.float32))
    return found


def total(query: Floats, keys: Floats) -> Floats:
    """Return the logarithm of the sum over all keys."""
    logarithms: Floats = np.log(np.exp(query @ keys.T).sum(-1))
    return logarithms


def centres(grid: tuple[int, int]) -> Floats:
    """Return where the centres of a grid's cells lie, row by row, in shares of the sides."""
    y, x = ((np.arange(count) + 0.5) / count for count in grid)
    return np.stack(np.meshgrid(y, x, indexing="ij"), axis=-1).reshape(-1, 2)


if __name__ == "__main__":
    main()
