"""Runs in an object store, over HTTP from a server of its own; and runs that several make at once."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import zarr
from obstore.store import from_url
from zarr.core.sync import sync
from zarr.storage import ObjectStore

from i2am.capture import capture
from i2am.capture.writer.layer_writer import LayerWriter, write_layers
from i2am.capture.writer.run_store import (
    finished_samples,
    open_run_group,
    open_sample,
)
from i2am.capture.writer.staging import StagingArea
from i2am.schemas import CaptureError, LayerAttributes, StoreError
from i2am.storage.buckets import RETRY_VARIABLE
from tests.support import s3_bucket as bucket
from tests.support.tiny_pipelines import models

ROOT = Path(__file__).parents[3]
FLOAT16 = np.dtype(np.float16)


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    with bucket.serve_bucket() as (url, _):
        yield url


@pytest.fixture(autouse=True)
def _environment(endpoint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in bucket.credentials(endpoint).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv(RETRY_VARIABLE, "0.2")


RUNNING = {"status": "running"}


def described() -> LayerAttributes:
    return LayerAttributes(
        scale=1.0,
        generated_grid=(8, 8),
        reference_grid=None,
        special_tokens=0,
        order=0,
        block="down",
        representation="factors",
    )


def record(location: str, values: dict[str, torch.Tensor], sample: str = "shirt") -> None:
    """Write a complete sample whose layer holds `values`, each (step, head, token, channel)."""
    group = open_sample(location, sample, overwrite=True, attributes=RUNNING)
    # So little memory that shards leave on the way.
    staging = StagingArea(100_000)
    layers = group.folder / "layers"
    layer = LayerWriter(layers, "down.0.attn2", described(), FLOAT16, staging, ("conditional",))
    steps = len(next(iter(values.values())))
    for step in range(steps):
        layer.append(step, "conditional", {name: array[step] for name, array in values.items()})
    layer.close(("conditional",))
    write_layers(layers, [layer], staging)
    staging.close()
    group.write_images({"generated": np.full((4, 4, 3), 7, np.uint8)})
    group.write_coordinates(range(steps), np.linspace(900, 0, steps).tolist(), ("conditional",))
    group.set_status({"status": "complete"})


def objects(url: str) -> dict[str, bytes]:
    """Return all objects below a URL, by their keys relative to it."""
    store: Any = from_url(url)
    names = [found["path"] for batch in store.list() for found in batch]
    return {name: bytes(store.get(name).bytes()) for name in names}


def test_a_run_in_an_object_store_is_that_of_a_directory_byte_for_byte(tmp_path: Path) -> None:
    values = {
        "query": torch.randn(20, 2, 64, 8).half(),
        "key": torch.randn(1, 2, 5, 8).half().expand(20, -1, -1, -1),
    }
    record("s3://bucket/run.zarr", values)
    record(str(tmp_path / "run.zarr"), values)
    files = {
        path.relative_to(tmp_path / "run.zarr").as_posix(): path.read_bytes()
        for path in (tmp_path / "run.zarr").rglob("*")
        if path.is_file()
    }
    stored = objects("s3://bucket/run.zarr")
    assert stored == files
    assert sum("query/c/" in name for name in stored) > 1
    store: Any = from_url("s3://bucket/run.zarr")
    layer: Any = zarr.open_group(ObjectStore(store), mode="r")["shirt/layers/down.0.attn2"]
    assert np.array_equal(layer["query"][...], values["query"].numpy())
    assert np.array_equal(layer["key"][...], values["key"][0].numpy())
    assert finished_samples("s3://bucket/run.zarr") == {"shirt"}


@pytest.mark.filterwarnings("ignore:Samples .'a'. stay incomplete")
def test_several_samplings_of_one_block_lie_in_an_object_store_as_in_a_directory(
    tmp_path: Path,
) -> None:
    pipeline, blank = models.reference_inpaint(), np.zeros((8, 8, 3), np.uint8)
    places = ["s3://bucket/seeds.zarr", str(tmp_path / "seeds.zarr")]
    for place in places:
        with capture(pipeline, place, sample="a") as recording:
            models.run(pipeline, 1)
            recording.next_sample("b")
            models.run(pipeline, 2)
            recording.add_images(generated=blank, reference=blank)
        recording.add_images(sample="a", generated=blank, reference=blank)
        assert finished_samples(place) == {"a", "b"}
    local = {
        path.relative_to(places[1]).as_posix(): path.read_bytes()
        for path in Path(places[1]).rglob("*")
        if path.is_file() and path.name != "zarr.json"  # It holds the time.
    }
    remote = {name: v for name, v in objects(places[0]).items() if not name.endswith("zarr.json")}
    assert remote == local


@pytest.mark.parametrize("is_remote", [False, True], ids=["directory", "object store"])
def test_what_an_unfinished_capture_left_is_removed(tmp_path: Path, is_remote: bool) -> None:
    location = "s3://bucket/left.zarr" if is_remote else str(tmp_path / "left.zarr")
    record(location, {"query": torch.randn(20, 2, 64, 8)})
    root = open_run_group(location)
    root["shirt"].update_attributes({"i2am": {"status": "running"}})
    # Another one died while it was being deleted, and is no group any more.
    orphan: Any = root.store_path / "hat"
    zarr.create_array(orphan / "layers" / "old", data=np.ones(4))
    sync((orphan / "zarr.json").delete())
    assert finished_samples(location) == set()
    for sample in ("shirt", "hat"):
        open_sample(location, sample, overwrite=False, attributes=RUNNING)
        group: Any = open_run_group(location)[sample]
        fresh = dict(group.members(max_depth=None))
        assert fresh.keys() == {"images", "layers"}
    if is_remote:
        names = set(objects(location))
    else:
        names = {
            p.relative_to(location).as_posix() for p in Path(location).rglob("*") if p.is_file()
        }
    parts = ("", "/images", "/layers")
    assert names == {"zarr.json", *(f"{s}{p}/zarr.json" for s in ("shirt", "hat") for p in parts)}


def test_a_complete_sample_in_an_object_store_is_not_replaced_unasked() -> None:
    location = "s3://bucket/complete.zarr"
    record(location, {"query": torch.zeros(1, 1, 2, 2)})
    with pytest.raises(StoreError, match="'shirt', which is complete in s3://bucket/complete"):
        open_sample(location, "shirt", overwrite=False, attributes=RUNNING)
    assert finished_samples(location) == {"shirt"}


@pytest.mark.parametrize(
    ("location", "reason"),
    [
        ("s3://nobodys/run.zarr", r"404 Not Found \(NoSuchBucket\)"),
        ("nonsense://bucket/run.zarr", "GenericError: .*Unable to recognise URL"),
    ],
)
def test_a_place_that_is_not_there_is_one_clear_line(location: str, reason: str) -> None:
    with pytest.raises(StoreError, match=rf"Expected a store that can be .*{reason}") as caught:
        open_sample(location, "shirt", overwrite=False, attributes=RUNNING)
    assert "\n" not in str(caught.value)
    assert re.search(f"at {location}[^ ]*\\. Check the address", str(caught.value))


def test_a_server_that_is_not_there_is_one_clear_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{bucket.free_port()}")
    for use in (finished_samples, open_run_group):
        with pytest.raises(
            StoreError, match=r"got no connection, at s3://bucket/run\.zarr"
        ) as caught:
            use("s3://bucket/run.zarr")
        assert "\n" not in str(caught.value)


def test_a_server_that_goes_away_ends_the_capture(monkeypatch: pytest.MonkeyPatch) -> None:
    with bucket.serve_bucket() as (url, server):
        monkeypatch.setenv("AWS_ENDPOINT_URL", url)
        group = open_sample("s3://bucket/gone.zarr", "shirt", overwrite=False, attributes=RUNNING)
        staging = StagingArea(100_000)
        layer = LayerWriter(group.folder, "a", described(), FLOAT16, staging, ("conditional",))
        layer.append(0, "conditional", {"query": torch.zeros(2, 64, 8)})
        server.terminate()
        server.wait()
        with pytest.raises(
            CaptureError, match=r"got no connection, at s3://bucket/gone\.zarr/shirt"
        ):
            for step in range(1, 10_000):
                layer.append(step, "conditional", {"query": torch.zeros(2, 64, 8)})
        with pytest.raises(CaptureError, match=r"got no connection, .*Check the endpoint"):
            staging.close()
        with pytest.raises(StoreError, match="Check the endpoint"):
            group.set_status({"status": "failed"})


MAKE_ROOT = """
import sys
from i2am.capture.writer.run_store import open_sample
RUNNING = {"status": "running"}
print("ready", flush=True)
for line in sys.stdin:
    open_sample(line.strip(), sys.argv[1], overwrite=False, attributes=RUNNING)
    print("made", flush=True)
"""


@pytest.mark.parametrize("is_remote", [False, True], ids=["directory", "object store"])
def test_two_processes_may_make_one_run_at_the_same_time(tmp_path: Path, is_remote: bool) -> None:
    names = ["left", "right"]
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", MAKE_ROOT, name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
        )
        for name in names
    ]
    runs = [f"s3://bucket/{n}" if is_remote else str(tmp_path / str(n)) for n in range(40)]
    try:
        say(processes, None, "ready")
        for run in runs:
            say(processes, run, "made")
    finally:
        for process in processes:
            process.communicate()
    for run in runs:
        root = open_run_group(run)
        assert sorted(root.group_keys()) == names
        assert root.attrs["i2am"] == {"schema": 1, "kind": "run"}


def say(processes: list[subprocess.Popen[str]], order: str | None, answer: str) -> None:
    for process in processes:
        if order is not None and process.stdin is not None:
            process.stdin.write(order + "\n")
            process.stdin.flush()
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == answer + "\n"
