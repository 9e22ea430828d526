"""What `add_images` stores of the forms that people have, and how the images must fit."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from i2am.analysis import describe_store
from i2am.capture import capture
from i2am.capture.images.added_images import read_images
from i2am.schemas import CaptureError, InputWarning, SchemaError, find_faults
from tests.support.tiny_pipelines import families, models

BLANK = np.zeros((16, 32, 3), np.uint8)
MARKED = np.zeros((16, 32), np.uint8)
MARKED[4:12, 8:24] = 1
WHITE = MARKED * 255


def _read(known: Mapping[str, tuple[int, ...]] | None = None, **images: Any) -> dict[str, Any]:
    found, notes = read_images(images, known or {}, "one")
    assert notes == ()
    return found


def test_a_capture_stores_masks_and_pictures_of_every_form_as_they_are_meant(
    tmp_path: Path,
) -> None:
    palette = Image.new("P", (32, 16))
    palette.putdata(MARKED.flatten().tolist())
    palette.putpalette([0, 0, 0, 128, 0, 0] + [0] * 750)
    masks = {
        "bool": MARKED.astype(bool),
        "u8-01": MARKED,
        "float01": MARKED.astype(np.float32),
        "int64-01": MARKED.astype(int),
        "pil-P": palette,
        "pil-RGBA": Image.merge(
            "RGBA", [Image.new("L", (32, 16), 255)] * 3 + [Image.fromarray(WHITE)]
        ),
        "rgb255": np.dstack([WHITE] * 3),
        "torch": torch.tensor(WHITE),
    }
    shades = np.random.default_rng(0).integers(0, 256, (16, 32, 3), dtype=np.uint8)
    pictures = {
        "float": shades / 255,
        "first": np.moveaxis(shades, 2, 0),
        "u16": shades.astype(np.uint16) * 257,
        "tensor": torch.from_numpy(shades).permute(2, 0, 1)[None] / 255,
        "list": [shades],
    }
    family = families.ip_adapter("full")
    cases: list[tuple[str, dict[str, Any]]] = [
        (name, {"generated": shades, "inpainting_mask": mask}) for name, mask in masks.items()
    ]
    cases += [(name, {"generated": picture}) for name, picture in pictures.items()]
    for name, images in cases:
        with capture(
            family.pipeline, tmp_path / "run.zarr", sample=name, layers="mid*", steps=[0]
        ) as recording:
            family.run(1)
            recording.add_images(reference=BLANK, **images)
        stored = models.opened(tmp_path / "run.zarr")[f"{name}/images"]
        assert np.array_equal(stored["generated"][...], shades), name
        if "inpainting_mask" in images:
            assert np.array_equal(stored["inpainting_mask"][...], WHITE), name
    assert list(find_faults(describe_store(tmp_path / "run.zarr"))) == []


def test_a_note_is_a_warning_at_the_callers_line(tmp_path: Path) -> None:
    pipeline = models.reference_inpaint()
    cut_out = Image.new("RGBA", (8, 8))
    with capture(pipeline, tmp_path / "run.zarr", sample="one", layers="mid*") as recording:
        models.run(pipeline, 1)
        with pytest.warns(InputWarning, match="100.0% of the picture is transparent") as caught:
            recording.add_images(generated=np.zeros((8, 8, 3), np.uint8), reference=cut_out)
    assert [warning.filename for warning in caught] == [__file__]
    stored = models.opened(tmp_path / "run.zarr")["one/images/reference"][...]
    assert (stored == 255).all()


def test_images_in_the_size_of_those_that_they_lie_over_stay_as_they_are() -> None:
    shades = np.random.default_rng(0).integers(0, 256, (16, 32, 3), dtype=np.uint8)
    found = _read(generated=BLANK, source=shades, inpainting_mask=WHITE, reference=BLANK[:8])
    assert np.array_equal(found["source"], shades)
    assert np.array_equal(found["inpainting_mask"], WHITE)
    assert found["reference"].shape == (8, 32, 3)


def test_images_of_the_same_shape_are_resized() -> None:
    found = _read(
        generated=BLANK[::2, ::2],
        source=BLANK,
        inpainting_mask=WHITE,
        reference=BLANK,
        reference_mask=WHITE[::2, ::2],
    )
    assert found["source"].shape == (8, 16, 3)
    assert np.array_equal(found["inpainting_mask"], WHITE[::2, ::2])
    assert np.array_equal(found["reference_mask"], WHITE)


def test_a_mask_fits_what_was_stored_before() -> None:
    found = _read({"generated": (8, 16, 3)}, inpainting_mask=WHITE)
    assert np.array_equal(found["inpainting_mask"], WHITE[::2, ::2])


@pytest.mark.parametrize(
    ("images", "known", "message"),
    [
        (
            {"generated": BLANK, "inpainting_mask": WHITE[:, :16]},
            {},
            "shape of image 'generated', 32 × 16 px, got 16 × 16 px, at image 'inpainting_mask'",
        ),
        (
            {"reference_mask": WHITE},
            {"reference": (16, 16, 3)},
            "shape of image 'reference', 16 × 16 px, got 32 × 16 px, at image 'reference_mask'",
        ),
        (
            {"generated": BLANK, "source": BLANK[:, :16]},
            {},
            "image 'source' in the shape of 'generated', 32 × 16 px, got 16 × 16 px",
        ),
        (
            {"generated": BLANK},
            {"inpainting_mask": (8, 16)},
            "'generated' in the size of 'inpainting_mask', which is stored already",
        ),
        ({"inpainting_mask": WHITE * 0}, {}, "marks 0 %, at image 'inpainting_mask'"),
    ],
)
def test_what_does_not_lie_over_its_image_is_refused(
    images: dict[str, Any], known: dict[str, tuple[int, ...]], message: str
) -> None:
    with pytest.raises(SchemaError, match=message):
        read_images(images, known, "one")


def test_names_are_checked_before_images() -> None:
    with pytest.raises(CaptureError, match=r"got 'genrated'\. Did you mean 'generated'"):
        read_images({"genrated": object()}, {}, "one")
    with pytest.raises(CaptureError, match="image 'generated' once, got it again, at sample 'one'"):
        read_images({"generated": BLANK}, {"generated": (16, 32, 3)}, "one")


def test_a_path_is_read_as_a_file(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (16, 8), (9, 8, 7)).save(tmp_path / "phone.png", exif=exif)
    found = _read(reference=tmp_path / "phone.png")
    assert found["reference"].shape == (16, 8, 3)
    assert found["reference"][0, 0].tolist() == [9, 8, 7]
