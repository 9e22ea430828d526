from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from obstore.store import from_url
from zarr.storage import ObjectStore

from i2am.analysis import analyze, analyze_run, open_run
from i2am.cli import main
from i2am.schemas import StoreError
from i2am.viewer.data.open_sample import open_store, open_view
from i2am.viewer.picking.pick import pick_in
from i2am.viewer.reader import get_reader, kind_of
from i2am.viewer.scene.placement import place_images
from i2am.viewer.session.attach import session_of
from tests.support.s3_bucket import credentials, serve_bucket
from tests.support.store_reads import watch_reads
from tests.support.synthetic_run import write_run

URL = "s3://bucket/folder/run.zarr"


def test_a_run_of_two_thousand_samples_opens_by_reading_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = write_run(tmp_path / "run.zarr", ("first",))
    one = watch_reads(monkeypatch)
    open_view(run)
    alone = [key for key, _ in one]
    metadata = json.loads((run / "first" / "zarr.json").read_text())
    metadata["attributes"]["i2am"]["status"] = "complete"
    for number in range(2000):
        folder = run / f"sample-{number:04}"
        folder.mkdir()
        (folder / "zarr.json").write_text(json.dumps(metadata))
    one.clear()
    view = open_view(run)
    assert view.source.sample == "first"
    assert sorted(key for key, _ in one) == sorted(alone)


def test_the_first_complete_sample_opens_whatever_stands_before_it(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run.zarr", ("a", "b", "c"))
    path = run / "a" / "zarr.json"
    path.write_text(path.read_text().replace('"complete"', '"running"'))
    assert open_view(run).source.sample == "b"


def test_a_run_in_a_bucket_opens_and_its_maps_come(
    monkeypatch: pytest.MonkeyPatch, open_new_window: Callable[..., Any], qtbot: Any
) -> None:
    with serve_bucket() as (endpoint, _):
        for name, value in credentials(endpoint).items():
            monkeypatch.setenv(name, value)
        store: Any = ObjectStore(from_url(URL))
        write_run(store, ("a", "b"))
        assert kind_of(URL) == "run"
        assert kind_of("s3://bucket/nothing.zarr") is None
        assert get_reader(URL) is not None
        viewer = open_new_window(URL, sample="b")
        session = session_of(viewer)
        qtbot.waitUntil(lambda: session.share_loaded == 1, timeout=60_000)
        truth = analyze(open_run(URL)["b"])["r2g"].dataset["volume"]
        shown = viewer.layers["R2G"].data
        np.testing.assert_allclose(shown[0, 1, 2, 1], truth[1, 2, 1], rtol=1e-5)
        qtbot.waitUntil(lambda: session.samples == ("a", "b"), timeout=60_000)
        assert viewer.dims.current_step[0] == 1


def test_maps_open_with_their_run_as_they_were_made(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run.zarr", ("first", "second"))
    beside, other = tmp_path / "maps.zarr", tmp_path / "other.zarr"
    analyze_run(run, beside, progress=False)
    analyze_run(run, other, samples=["second"], normalisation="density", progress=False)
    own = open_store(other).source
    assert (own.run, own.sample, own.maps) == (str(run), "second", str(other))
    assert (own.normalisation, own.computed) == ("density", False)
    assert open_store(run).source.maps == str(beside)
    assert open_store(beside, "second").source.sample == "second"
    with pytest.raises(
        StoreError, match=r"got a maps store, at .*maps\.zarr\. Give one of the two"
    ):
        open_store(beside, maps=other)


def test_maps_whose_run_is_gone_say_how_to_name_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = write_run(tmp_path / "run.zarr", ("first",))
    analyze_run(run, maps := tmp_path / "maps.zarr", progress=False)
    run.rename(moved := tmp_path / "moved.zarr")
    assert main(["view", str(maps)]) != 0
    told = capsys.readouterr().err
    assert re.search(rf"got nothing, at .*run\.zarr.*i2am view RUN --maps {maps}", told, re.DOTALL)
    assert open_view(moved, maps=maps).source.maps == str(maps)


def test_a_run_is_the_same_however_its_place_was_typed(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    typed = (run, "run.zarr", "./run.zarr/", tmp_path / ".." / tmp_path.name / "run.zarr")
    views = [open_view(place) for place in typed]
    assert {view.source.run for view in views} == {str(run)}
    assert not [view for view in views if view.source.computed]
    placed = place_images(views[1])["generated"]
    assert pick_in(views[1], "generated", placed, ((9, 30), (9, 30))).run == str(run)
