"""Pictures to train and test the shipped model on, made on the fly, with known correspondence.

An object (a 64 × 64 picture with an alpha channel) is pasted upright, at a random place and size,
into a random crop of a photograph. Its box is the mask, the object on white is the reference.
Because we paste, we know for every painted pixel which reference pixel it came from.
"""

from __future__ import annotations

import re
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from skimage import data
from torch.nn import functional

SIZE_PX = 64
SMALLEST_PX, LARGEST_PX = 28, 60
# Photographs in the public domain or under CC0 that every scikit-image wheel carries.
PHOTOGRAPHS = (
    "astronaut", "chelsea", "coffee", "rocket", "hubble_deep_field",
    "brick", "grass", "gravel", "camera",
)  # fmt: skip


@dataclass(frozen=True)
class Batch:
    """N compositions. Pictures are float32 in [-1, 1], masks and alphas in [0, 1]."""

    composite: torch.Tensor  # (N, 3, y, x)
    mask: torch.Tensor  # (N, 1, y, x), 1 = to be painted
    reference: torch.Tensor  # (N, 3, y, x)
    alpha: torch.Tensor  # (N, 1, y, x), the object in the composite
    reference_alpha: torch.Tensor  # (N, 1, y, x)
    box: torch.Tensor  # (N, 3) int: top, left, side, in pixels


def family(name: str) -> str:
    """Return what an emoji file shows, without skin tone and gender.

    >>> family("1f9d1-1f3fd-200d-1f680.png") == family("1f469-200d-1f680.png")
    True
    """
    codes = [c for c in Path(name).stem.split("-") if not re.fullmatch(r"1f3f[b-f]", c)]
    codes = ["person" if c in {"1f468", "1f469", "1f9d1"} else c for c in codes]
    return "-".join(c for c in codes if c not in {"2640", "2642", "200d", "fe0f"})


def is_held_out(name: str) -> bool:
    """Tell whether a picture belongs to the tenth of the families that training never sees."""
    return zlib.crc32(family(name).encode()) % 10 == 0


def read_objects(source: Path, *, held_out: bool) -> dict[str, np.ndarray]:
    """Return {file name: uint8 (64, 64, 4)} of one side of the split, from a folder or a zip."""
    if source.suffix == ".zip":
        with zipfile.ZipFile(source) as archive:
            names = [n for n in archive.namelist() if n.endswith(".png")]
            return {n: _rgba(archive.open(n)) for n in sorted(names) if is_held_out(n) == held_out}
    files = sorted(f for f in source.glob("*.png") if is_held_out(f.name) == held_out)
    return {f.name: _rgba(f) for f in files}


def _rgba(file: object) -> np.ndarray:
    picture = Image.open(file).convert("RGBA")  # type: ignore[arg-type]
    return np.asarray(picture.resize((SIZE_PX, SIZE_PX), Image.Resampling.LANCZOS))


class Compositions:
    """A reproducible, endless sequence of compositions: the same index gives the same picture."""

    def __init__(self, objects: dict[str, np.ndarray], seed: int = 0) -> None:
        self.names = sorted(objects)
        pixels = np.stack([objects[name] for name in self.names])
        self._pixels = torch.from_numpy(pixels).permute(0, 3, 1, 2)
        members: dict[str, list[int]] = {}
        for position, name in enumerate(self.names):
            members.setdefault(family(name), []).append(position)
        # Families, not files, are drawn: otherwise 60 % of all objects would be people.
        self._families = list(members.values())
        photographs = [np.atleast_3d(getattr(data, name)()) for name in PHOTOGRAPHS]
        self._photographs = [
            torch.from_numpy(
                np.repeat(p, 4 - p.shape[2], axis=2) if p.shape[2] == 1 else p
            ).permute(2, 0, 1)[:3]
            for p in photographs
        ]
        self._seed = seed

    def draw(self, index: int) -> int:
        """Return the position in `names` of the object of composition `index`."""
        chosen = np.random.default_rng([self._seed, index, 1])
        return int(chosen.choice(self._families[int(chosen.integers(len(self._families)))]))

    def box(self, index: int) -> tuple[int, int, int]:
        """Return (top, left, side) of composition `index`, in pixels."""
        return self._place(np.random.default_rng([self._seed, index]))

    def _place(self, rng: np.random.Generator) -> tuple[int, int, int]:
        side = int(rng.integers(SMALLEST_PX, LARGEST_PX))
        top, left = (int(v) for v in rng.integers(0, SIZE_PX - side + 1, 2))
        return top, left, side

    def batch(self, start: int, stop: int, objects: list[int] | None = None) -> Batch:
        """Return compositions start … stop − 1, of the drawn objects or of those given."""
        drawn = objects or [self.draw(index) for index in range(start, stop)]
        rows = [self._one(index, o) for index, o in zip(range(start, stop), drawn, strict=True)]
        return Batch(*(torch.stack(column) for column in zip(*rows, strict=True)))

    def _one(self, index: int, chosen: int) -> tuple[torch.Tensor, ...]:
        rng = np.random.default_rng([self._seed, index])
        picture = self._pixels[chosen].float() / 255
        colour, alpha = picture[:3] * picture[3:], picture[3:]
        top, left, side = self._place(rng)
        small = functional.interpolate(
            torch.cat([colour, alpha])[None], (side, side), mode="bilinear", antialias=True
        )[0]
        window = (slice(None), slice(top, top + side), slice(left, left + side))
        composite, mask = self._background(rng), torch.zeros(1, SIZE_PX, SIZE_PX)
        placed = torch.zeros(1, SIZE_PX, SIZE_PX)
        composite[window] = composite[window] * (1 - small[3:]) + small[:3]
        mask[window], placed[window] = 1, small[3:]
        reference = colour + 1 - alpha
        box = torch.tensor([top, left, side])
        return composite * 2 - 1, mask, reference * 2 - 1, placed, alpha, box

    def _background(self, rng: np.random.Generator) -> torch.Tensor:
        photograph = self._photographs[int(rng.integers(len(self._photographs)))]
        height, width = photograph.shape[1:]
        side = int(rng.integers(SIZE_PX, min(height, width) + 1))
        top, left = int(rng.integers(height - side + 1)), int(rng.integers(width - side + 1))
        crop = photograph[:, top : top + side, left : left + side][None].float() / 255
        crop = crop.flip(-1) if rng.integers(2) else crop
        return functional.interpolate(crop, (SIZE_PX, SIZE_PX), mode="bilinear", antialias=True)[0]
