"""Stores of schema 1, as i2am 0.1.0 wrote them, are read by every later release.

``make_schema1_store.py`` tells what is in them. They are never made anew: a test that fails here
asks for a reader that still takes them, not for other stores.
"""

from __future__ import annotations

import hashlib
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
import zarr

from i2am.analysis import analyze, analyze_run, describe_store, open_maps, open_run, sram
from i2am.cli import main
from i2am.schemas import find_faults
from i2am.schemas.directions import DIRECTIONS

ARCHIVE = Path(__file__).with_name("schema1.tar.xz")
SAMPLES = ["inpainting", "joint", "reduced", "two-references"]
LEVELS = {"volume", "ulam", "tlam", "hlam", "llam"}

FACTORS = {
    "query": ("guidance", "step", "head", "generated", "channel"),
    "key": ("guidance", "head", "reference", "channel"),  # the same at every step
}
SHARED_FACTORS = {
    "query": ("step", "head", "generated", "channel"),
    "key": ("head", "reference", "channel"),
    "logsumexp": ("step", "head", "generated"),
}
LOGITS = {
    "logits": ("step", "head", "generated", "reference"),
    "logsumexp": ("step", "head", "generated"),
}
MAPS = {
    "r2g": ("step", "head", "generated"),
    "g2r": ("step", "head", "reference"),
    "mass": ("step", "head", "generated"),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("schema1")
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(path, filter="data")
    return path


def test_the_archive_is_small() -> None:
    assert ARCHIVE.stat().st_size <= 300_000


@pytest.mark.parametrize(
    ("store", "groups", "arrays", "digest"),
    [
        pytest.param(
            "run.zarr",
            21,
            47,
            "fdde98a64882a57eeebc2467819c46875d5063c729bca4e922b574ae4ef9c593",
            id="run",
        ),
        pytest.param(
            "maps.zarr",
            12,
            99,
            "b6b8d97f975f25f9d9a3c5cdf04327433812faff66294a2ace57e85153ddb9a5",
            id="maps",
        ),
    ],
)
def test_the_frozen_values_are_those_of_the_first_day(
    folder: Path, store: str, groups: int, arrays: int, digest: str
) -> None:
    root: Any = zarr.open_group(folder / store, mode="r")
    found = dict(root.members(max_depth=None))
    held: dict[str, Any] = {n: node for n, node in found.items() if isinstance(node, zarr.Array)}
    together = hashlib.sha256()
    for name, array in sorted(held.items()):
        values = np.asarray(array[...])
        if values.dtype.kind not in "biuf":  # text, which NumPy's versions hold in several ways
            values = np.frombuffer("\n".join(values.tolist()).encode(), np.uint8)
        dims = array.metadata.dimension_names
        together.update(f"{name} {dims} {values.shape} {values.dtype.str}".encode())
        together.update(values.tobytes())
    assert (len(found) - len(held), len(held)) == (groups, arrays)
    assert together.hexdigest() == digest


def test_some_values_are_known_by_heart(folder: Path) -> None:
    run: Any = zarr.open_group(folder / "run.zarr", mode="r")
    key = run["inpainting/layers/mid_block.attentions.0.transformer_blocks.0.attn2/key"]
    assert key[1, 0, 0, :3].tolist() == [0.87109375, -0.459228515625, 0.95068359375]
    logits = run["joint/layers/transformer_blocks.0.attn/logits"][0, 0, 0, :3]
    assert logits.tolist() == [1.4517476558685303, 0.2070244550704956, -0.08499357849359512]
    assert run["inpainting/timestep"][...].tolist() == [667, 334, 1]
    assert run["two-references/images/generated"][0, 0].tolist() == [166, 109, 108]
    maps: Any = zarr.open_group(folder / "maps.zarr", mode="r")
    assert maps["joint/r2g/ulam"][0, :2].tolist() == [0.07431083172559738, 0.05578402802348137]
    assert maps["joint/r2g/mass"][0, :2].tolist() == [0.6499742865562439, 0.630423903465271]


@pytest.mark.parametrize(
    ("sample", "layer", "dtype", "dims"),
    [
        pytest.param("inpainting", "mid_block.attentions.0.transformer_blocks.0.attn2", "float16", FACTORS, id="factors"),
        pytest.param("two-references", "up_blocks.0.attentions.1.transformer_blocks.0.attn2", "float16", SHARED_FACTORS, id="reference"),
        pytest.param("two-references", "up_blocks.0.attentions.1.transformer_blocks.0.attn2.reference_1", "float16", SHARED_FACTORS, id="reference_1"),
        pytest.param("joint", "transformer_blocks.0.attn", "float32", LOGITS, id="logits"),
        pytest.param("reduced", "single_transformer_blocks.0.attn", "float32", MAPS, id="maps"),
    ],
)  # fmt: skip
def test_plain_zarr_finds_the_layers_of_each_kind(
    folder: Path, sample: str, layer: str, dtype: str, dims: dict[str, tuple[str, ...]]
) -> None:
    group: Any = zarr.open_group(folder / "run.zarr" / sample / "layers" / layer, mode="r")
    assert {n: a.metadata.dimension_names for n, a in group.arrays()} == dims
    expected = {name: "float32" if name in ("logsumexp", "mass") else dtype for name in dims}
    assert {name: str(array.dtype) for name, array in group.arrays()} == expected
    assert group.attrs["i2am"]["reference_index"] == int(layer.endswith("reference_1"))
    assert group.attrs["i2am"]["heads"] == ([0, 2] if sample == "inpainting" else None)


def test_plain_zarr_finds_the_images(folder: Path) -> None:
    root: Any = zarr.open_group(folder / "run.zarr", mode="r")
    shapes = {
        name: {n: a.shape for n, a in root[f"{name}/images"].arrays()} for name in root.group_keys()
    }
    joint = {"generated": (16, 16, 3), "reference": (16, 24, 3), "inpainting_mask": (16, 16)}
    assert shapes == {
        "inpainting": {
            "generated": (64, 64, 3),
            "reference": (48, 40, 3),
            "source": (64, 64, 3),
            "inpainting_mask": (64, 64),
            "reference_mask": (48, 40),
        },
        "joint": joint,
        "reduced": joint,
        "two-references": {
            "generated": (16, 32, 3),
            "reference": (32, 32, 3),
            "reference_1": (32, 32, 3),
        },
    }
    mask = root["inpainting/images/inpainting_mask"][...]
    assert (mask[16:32, 16:32] == 255).all()
    assert mask.sum() == 255 * 16 * 16
    assert root["inpainting/guidance"][...].tolist() == ["unconditional", "conditional"]


@pytest.mark.parametrize("store", ["run.zarr", "maps.zarr"])
def test_the_stores_keep_the_contract(folder: Path, store: str) -> None:
    assert list(find_faults(describe_store(folder / store))) == []


@pytest.mark.parametrize("store", ["run.zarr", "maps.zarr"])
def test_validate_says_that_they_have_no_checksums_and_finds_no_fault(
    folder: Path, store: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["validate", str(folder / store), "--deep"]) == 0
    told = capsys.readouterr().out
    assert all(f"{sample}: without checksums" in told for sample in SAMPLES)
    assert "keeps the contract" in told


def test_the_run_opens(folder: Path) -> None:
    run = open_run(folder / "run.zarr")
    assert sorted(run) == SAMPLES
    assert run["inpainting"].attrs["i2am"]["versions"]["i2am"] == "0.1.0"


@pytest.mark.parametrize("sample", SAMPLES)
def test_a_sample_analyses_to_the_maps_of_the_first_day(folder: Path, sample: str) -> None:
    frozen = open_maps(folder / "maps.zarr")[sample]
    check_same_maps(analyze(open_run(folder / "run.zarr")[sample], time_groups=2), frozen)


def test_a_run_analyses_to_the_maps_of_the_first_day(folder: Path, tmp_path: Path) -> None:
    out = analyze_run(folder / "run.zarr", tmp_path / "maps.zarr", time_groups=2, progress=False)
    maps, frozen = open_maps(out), open_maps(folder / "maps.zarr")
    assert sorted(maps) == sorted(frozen) == SAMPLES
    for sample in SAMPLES:
        check_same_maps(maps[sample], frozen[sample])


@pytest.mark.parametrize("sample", ["inpainting", "joint", "two-references"])
def test_a_place_can_be_asked_for_its_sram(folder: Path, sample: str) -> None:
    sample_tree = open_run(folder / "run.zarr")[sample]
    forward = sram(sample_tree, generated=(5, 9)).compute()
    assert forward.dims == ("reference_y", "reference_x")
    assert np.isfinite(forward).all()
    assert forward.max() > 0
    mirror = sram(sample_tree, reference=(7, 3)).compute()
    assert mirror.dims == ("y", "x")
    assert np.isfinite(mirror).all()


def check_same_maps(maps: xr.DataTree, frozen: xr.DataTree) -> None:
    """Compare both directions, every level, with what the frozen store holds."""
    assert {"r2g", "g2r"} == set(frozen.children) == set(maps.children)
    for direction in DIRECTIONS:
        expected = frozen[direction].to_dataset().compute()
        assert set(expected.data_vars) >= LEVELS
        found = maps[direction].to_dataset().compute()
        # Maps have had coordinates in pixels since; the frozen ones have none.
        plane = DIRECTIONS[direction].plane
        assert set(found.coords) - set(expected.coords) == set(plane)
        found = found.drop_vars(plane)
        xr.testing.assert_allclose(found[list(expected.data_vars)], expected, rtol=1e-5, atol=1e-9)
