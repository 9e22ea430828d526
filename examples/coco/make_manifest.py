"""Make the pictures of the detection experiment, and a manifest of them, from a local COCO folder.

    python examples/coco/make_manifest.py --annotations instances_val2017.json --pictures val2017 --out coco

Of each picture the first object whose box covers 10 to 30 % of it; README.md says what is written.
"""

from __future__ import annotations

import argparse
import csv
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from skimage.draw import polygon
from tqdm import tqdm

# Of the picture's area that a box covers, and the seed: as in the authors' code.
SMALLEST, LARGEST = 0.1, 0.3
SIZE_PX, SEED = 512, 321
FOLDERS = ("source", "mask", "reference", "reference_mask")
COLUMNS = ("sample", *FOLDERS, "box", "seed", "category", "image_id", "annotation_id")

Mask = NDArray[np.bool_]


class Chosen(NamedTuple):
    """An object of a picture, as COCO describes them."""

    picture: dict[str, Any]
    annotation: dict[str, Any]
    category: str


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--annotations", type=Path, required=True, help="instances_val2017.json")
    parser.add_argument("--pictures", type=Path, required=True, help="the folder val2017")
    parser.add_argument("--out", type=Path, required=True, help="a new folder")
    parser.add_argument("--smallest", type=float, default=SMALLEST, help="share of the area; 0.1")
    parser.add_argument("--largest", type=float, default=LARGEST, help="share of the area; 0.3")
    parser.add_argument("--size", type=int, default=SIZE_PX, help="pixels of each side; 512")
    parser.add_argument("--mask", choices=("box", "object"), default="box", help="what to paint")
    parser.add_argument("--limit", type=int, help="pictures to take; default: all")
    arguments = parser.parse_args()
    if arguments.out.exists():
        sys.exit(f"Expected a new folder, got one that is there, at {arguments.out}. Name another.")
    annotations = json.loads(arguments.annotations.read_text(encoding="utf-8"))
    chosen = list(iter_chosen(annotations, arguments.smallest, arguments.largest))
    chosen = chosen[: arguments.limit]
    if not chosen:
        sys.exit(f"Expected objects of that size, got none, at {arguments.annotations}.")
    for folder in FOLDERS:
        (arguments.out / folder).mkdir(parents=True)
    with (arguments.out / "manifest.csv").open("w", newline="", encoding="utf-8") as file:
        manifest = csv.DictWriter(file, COLUMNS)
        manifest.writeheader()
        for one in tqdm(chosen, unit="picture"):
            row = write_sample(
                one, arguments.pictures, arguments.out, arguments.size, arguments.mask
            )
            manifest.writerow(row)
    print(f"{len(chosen)} samples: {arguments.out / 'manifest.csv'}")


def iter_chosen(annotations: dict[str, Any], smallest: float, largest: float) -> Iterator[Chosen]:
    """Yield the first object of each picture whose box covers that share of it, picture by picture."""
    categories = {one["id"]: one["name"] for one in annotations["categories"]}
    of_picture: dict[int, list[dict[str, Any]]] = {}
    for annotation in annotations["annotations"]:
        of_picture.setdefault(annotation["image_id"], []).append(annotation)
    for picture in annotations["images"]:
        area = picture["width"] * picture["height"]
        for annotation in of_picture.get(picture["id"], []):
            _, _, width, height = map(int, annotation["bbox"])
            if smallest <= width * height / area <= largest:
                yield Chosen(picture, annotation, categories[annotation["category_id"]])
                break


def write_sample(chosen: Chosen, pictures: Path, out: Path, size: int, mask: str) -> dict[str, Any]:
    """Write the pictures of one sample, and return its row of the manifest."""
    picture, annotation = chosen.picture, chosen.annotation
    name = Path(picture["file_name"]).stem
    source = Image.open(pictures / picture["file_name"]).convert("RGB")
    if source.size != (picture["width"], picture["height"]):
        sys.exit(
            f"Expected {picture['width']} x {picture['height']} pixels, got {source.size[0]} x "
            f"{source.size[1]}, at {pictures / picture['file_name']}. Take COCO's own pictures."
        )
    x, y, width, height = map(int, annotation["bbox"])
    box = (x, y, x + width, y + height)
    outline = object_mask(annotation["segmentation"], source.height, source.width)
    painted = outline if mask == "object" else np.zeros_like(outline)
    if mask == "box":
        painted[y : y + height, x : x + width] = True
    square = (size, size)
    images = {
        "source": source.resize(square, Image.Resampling.BICUBIC),
        "mask": _picture(painted).resize(square, Image.Resampling.NEAREST),
        "reference": source.crop(box),
        "reference_mask": _picture(outline).crop(box),
    }
    files = {folder: f"{folder}/{name}.png" for folder in FOLDERS}
    for folder, image in images.items():
        image.save(out / files[folder])
    factors = size / source.width, size / source.height
    scaled = [round(v * factors[i % 2], 2) for i, v in enumerate(annotation["bbox"])]
    return {
        "sample": name,
        **files,
        "box": " ".join(f"{value:g}" for value in scaled),
        "seed": SEED,
        "category": chosen.category,
        "image_id": picture["id"],
        "annotation_id": annotation["id"],
    }


def object_mask(segmentation: Any, height: int, width: int) -> Mask:
    """Return the pixels of an object: polygons [[x, y, x, y, …], …], or run lengths."""
    if isinstance(segmentation, dict):
        runs = segmentation["counts"]
        return decode_runs(read_runs(runs) if isinstance(runs, str) else runs, height, width)
    mask = np.zeros((height, width), bool)
    for corners in segmentation:
        points = np.reshape(corners, (-1, 2))
        # COCO's corners are positions, where 0 is the picture's edge; a pixel is its centre.
        rows, columns = polygon(points[:, 1] - 0.5, points[:, 0] - 0.5, mask.shape)
        mask[rows, columns] = True
    return mask


def decode_runs(runs: list[int], height: int, width: int) -> Mask:
    """Return the mask of run lengths: off, on, off, … down the columns, from the left.

    >>> decode_runs([1, 2, 3], 2, 3).tolist()
    [[False, True, False], [True, False, False]]
    """
    if sum(runs) != height * width:
        sys.exit(f"Expected runs over {height * width} pixels, got {sum(runs)}, at a segmentation.")
    values = np.repeat(np.arange(len(runs)) % 2 == 1, runs)
    return values.reshape(width, height).T


def read_runs(text: str) -> list[int]:
    """Return the run lengths of COCO's compressed text.

    A character holds six bits above 48: five of the number, the lowest first, and whether more follow. From
    the fourth run on a number is the difference to the run before the last. Negative ones are filled up
    with ones.

    >>> read_runs("33O1")
    [3, 3, 31, 4]
    """
    runs: list[int] = []
    number = bits = 0
    for character in text:
        code = ord(character) - 48
        number |= (code & 0x1F) << bits
        bits += 5
        if code & 0x20:
            continue
        if code & 0x10:
            number -= 1 << bits
        runs.append(number + (runs[-2] if len(runs) > 2 else 0))
        number = bits = 0
    return runs


def _picture(mask: Mask) -> Image.Image:
    return Image.fromarray(mask.astype(np.uint8) * 255)


if __name__ == "__main__":
    main()
