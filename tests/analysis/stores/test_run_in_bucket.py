"""Stores in buckets, read from a real S3-compatible server on this machine."""

from __future__ import annotations

import pickle
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from obstore.store import from_url
from zarr.storage import ObjectStore

from i2am.analysis import (
    analyze,
    analyze_run,
    describe_store,
    open_maps,
    open_run,
    sram,
    summarise_store,
)
from i2am.cli import main
from i2am.schemas import MissingExtra, StoreError, find_faults
from i2am.schemas.dims import LEVELS
from i2am.schemas.directions import DIRECTIONS
from i2am.storage.buckets import RETRY_VARIABLE
from tests.support.s3_bucket import credentials, serve_bucket
from tests.support.synthetic_run import write_run

URL = "s3://bucket/folder/run.zarr"


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    """Start a server with one empty bucket; yield its address."""
    with serve_bucket() as (address, _):
        yield address


@pytest.fixture(autouse=True)
def _environment(endpoint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Point to the server by the environment alone, as a user does."""
    for name, value in credentials(endpoint).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv(RETRY_VARIABLE, "0.2")


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(tmp_path_factory.mktemp("local") / "run.zarr", ["a", "b"])


@pytest.fixture
def url() -> str:
    """Return the address of the same run in the bucket."""
    store: Any = ObjectStore(from_url(URL))
    if not store.store.list().collect():
        write_run(store, ["a", "b"])
    return URL


def test_a_run_in_a_bucket_gives_the_maps_of_the_local_one(
    url: str, local: Path, tmp_path: Path
) -> None:
    far = analyze_run(url, tmp_path / "far.zarr", progress=False)
    near = analyze_run(local, tmp_path / "near.zarr", progress=False)
    assert list(open_maps(far)) == ["a", "b"]
    assert open_maps(far).attributes["source"] == url
    for sample in ("a", "b"):
        found, wanted = open_maps(far)[sample], open_maps(near)[sample]
        for direction in DIRECTIONS:
            for level in LEVELS:
                np.testing.assert_array_equal(
                    found[f"{direction}/{level}"], wanted[f"{direction}/{level}"]
                )


def test_maps_in_a_bucket_open_as_local_ones_do(local: Path, tmp_path: Path) -> None:
    near = analyze_run(local, tmp_path / "maps.zarr", samples=["a"], progress=False)
    bucket: Any = from_url("s3://bucket/maps.zarr")
    for file in (file for file in near.rglob("*") if file.is_file()):
        bucket.put(file.relative_to(near).as_posix(), file.read_bytes())
    found = open_maps("s3://bucket/maps.zarr")["a"]
    np.testing.assert_array_equal(found["r2g/volume"], open_maps(near)["a"]["r2g/volume"])


def test_a_question_reaches_into_a_bucket(url: str, local: Path) -> None:
    found = sram(open_run(url)["b"], generated=(9, 9))
    np.testing.assert_array_equal(found, sram(open_run(local)["b"], generated=(9, 9)))


def test_a_sample_in_a_bucket_travels_to_another_process(url: str) -> None:
    maps: Any = analyze(open_run(url)["a"])["r2g/ulam"]
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(maps)), maps)


def test_a_store_in_a_bucket_is_described_and_checked(url: str) -> None:
    assert list(find_faults(describe_store(url))) == []
    facts = summarise_store(url)
    assert facts["samples"] == "2 complete: a, b"
    assert "stored" not in facts  # Counting would list every object.


def test_the_command_line_takes_urls_and_writes_maps_here(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["analyze", url, "--samples", "a"]) == 0
    assert list(open_maps(tmp_path / "maps.zarr")) == ["a"]
    assert [path.name for path in tmp_path.iterdir()] == ["maps.zarr"]
    assert main(["validate", url]) == 0


def test_a_bucket_is_opened_to_read_alone(url: str) -> None:
    group: Any = open_run(url)._root
    with pytest.raises(ValueError, match="read-only"):
        group.create_group("new")


@pytest.mark.parametrize(
    ("address", "match"),
    [
        ("s3://bucket/nothing.zarr", "got nothing of the kind, at s3://bucket/nothing.zarr"),
        ("s3://no-such-bucket/run.zarr", r"got 404 .*NoSuchBucket.*, at s3://no-such-bucket"),
        ("s3://", "Expected a store that can be reached, got .*, at s3://"),
        (f"{URL}/a", "got a sample's group, at .*Give its root"),
        (f"{URL}/a/step", "got a Zarr array"),
    ],
)
def test_what_is_no_store_in_a_bucket_is_one_line(address: str, match: str, url: str) -> None:
    with pytest.raises(StoreError, match=match) as caught:
        open_run(address)
    assert "\n" not in str(caught.value)


def test_a_server_that_does_not_answer_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    with pytest.raises(
        StoreError, match=r"got no connection, at s3://bucket/run\.zarr/.*Check the endpoint"
    ) as caught:
        open_run("s3://bucket/run.zarr")
    assert "\n" not in str(caught.value)


def test_maps_are_not_written_to_a_url(local: Path) -> None:
    with pytest.raises(
        StoreError, match=r"Expected a local folder .*, got a URL, at s3://bucket/m"
    ):
        analyze_run(local, "s3://bucket/maps.zarr")


class _NotInstalled:
    def __init__(self, package: str) -> None:
        self._package = package

    def find_spec(self, name: str, *_: Any) -> None:
        if name.split(".")[0] == self._package:
            raise ModuleNotFoundError(name=self._package)


def test_a_missing_obstore_is_named_with_the_extra_that_brings_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == "obstore"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "meta_path", [_NotInstalled("obstore"), *sys.meta_path])
    with pytest.raises(MissingExtra, match=r"obstore package is needed .*'i2am\[analysis\]'"):
        open_run(URL)


def test_buckets_are_written_with_plain_zarr(url: str) -> None:
    # The witness of this file: what is read above is what Zarr itself finds there.
    group: Any = zarr.open_group(ObjectStore(from_url(url)), mode="r")
    assert sorted(group.group_keys()) == ["a", "b"]
