"""The pictures that generated ones ought to be: named by a folder, by a manifest, or handed over."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from i2am.schemas import AnalysisError, SchemaError, did_you_mean
from i2am.schemas.errors import shorten
from i2am.schemas.manifest_records import iter_records

__all__ = ["DEFAULT_COLUMN", "Picture", "Truth", "find_true_pictures", "read_picture"]

DEFAULT_COLUMN: Final = "truth"
Picture = NDArray[np.uint8]
Truth = str | Path | Mapping[str, Any]

_SAMPLE: Final = "sample"
_SUFFIXES: Final = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")


def find_true_pictures(truth: Truth, column: str = DEFAULT_COLUMN) -> Mapping[str, Any]:
    """Return where the true picture of each sample is; none is read.

    Parameters
    ----------
    truth : str, Path or mapping
        A folder with a picture for each sample, named as the sample is (``shirt-001.png``); a manifest
        (``.csv``, ``.jsonl`` or ``.parquet``) one of whose columns names them, relative to its folder; or
        a mapping of sample to path or array (y, x, rgb), uint8.
    column : str
        Of a manifest.

    Raises
    ------
    AnalysisError
        If there is no such folder or file, no picture in it, two for one sample, or no such column.
    SchemaError
        If the manifest cannot be read.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     Path(folder, "shirt-001.png").touch()
    ...     list(find_true_pictures(folder))
    ['shirt-001']
    """
    if isinstance(truth, Mapping):
        return truth
    path = Path(truth)
    if path.is_dir():
        return _in_folder(path)
    if path.is_file():
        return _in_manifest(path, column)
    msg = (
        f"Expected a folder of true pictures or a manifest, got nothing, at {path}. Check the path."
    )
    raise AnalysisError(msg)


def read_picture(picture: Any) -> Picture:
    """Return a picture (y, x, rgb), uint8, as people see it: turned as its camera says.

    Parameters
    ----------
    picture : str, Path or array (y, x, rgb), uint8

    Raises
    ------
    AnalysisError
        If it is no picture.
    """
    if isinstance(picture, str | Path):
        from PIL import Image, ImageOps, UnidentifiedImageError

        try:
            with Image.open(picture) as opened:
                return np.asarray(ImageOps.exif_transpose(opened).convert("RGB"))
        except (OSError, UnidentifiedImageError) as e:
            msg = f"Expected a picture, got a file that cannot be read as one ({e}), at {picture}. "
            raise AnalysisError(msg + "Replace it.") from e
    values = np.asarray(picture)
    if values.ndim != 3 or values.shape[2] != 3 or values.dtype != np.uint8:
        msg = (
            f"Expected a picture (y, x, rgb) of uint8, got {values.dtype} of shape {values.shape}, at "
            "truth. Convert it."
        )
        raise AnalysisError(msg)
    return values


def _in_folder(folder: Path) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() not in _SUFFIXES:
            continue
        if path.stem in found:
            msg = (
                f"Expected one picture for each sample, got {found[path.stem].name} and {path.name}, at "
                f"{folder}. Keep one of them."
            )
            raise AnalysisError(msg)
        found[path.stem] = path
    if not found:
        msg = f"Expected pictures named as the samples are, got none, at {folder}. Name another folder."
        raise AnalysisError(msg)
    return found


def _in_manifest(path: Path, column: str) -> dict[str, Path]:
    faults: list[str] = []
    columns: dict[str, None] = {}
    found: dict[str, Path] = {}
    wanted = {_SAMPLE, column}
    for _, record in iter_records(path, faults, lambda names: len(wanted & set(names))):
        columns |= dict.fromkeys(str(name) for name in record)
        name, file = record.get(_SAMPLE), record.get(column)
        if name not in (None, "") and isinstance(file, str) and file:
            found[str(name)] = path.parent / file
    if faults:
        msg = f"Expected a manifest, got {shorten(faults[0])}, at {path}. Correct it."
        raise SchemaError(msg)
    if not found:
        hint = did_you_mean(column, columns)
        msg = f"Expected a column {column!r} of true pictures, got none, at {path}. {hint}"
        raise AnalysisError(msg)
    return found


def iter_pictures(pictures: Mapping[str, Any]) -> Iterator[Picture]:
    """Yield every picture, one in memory at a time."""
    for picture in pictures.values():
        yield read_picture(picture)
