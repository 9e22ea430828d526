"""A run and its effects in an object store."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from i2am.analysis import open_effects
from i2am.capture import EffectOptions, capture_manifest
from i2am.capture.causal.measure_run import measure_run
from tests.support import s3_bucket as bucket
from tests.support.manifests import write_manifest


def test_effects_of_a_run_in_a_bucket_are_stored_in_a_bucket(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, out = "s3://bucket/run.zarr", "s3://bucket/effects.zarr"
    options = EffectOptions(regions=(1, 2), per=["region"], batch=3)
    with bucket.serve_bucket() as (address, _):
        for name, value in bucket.credentials(address).items():
            monkeypatch.setenv(name, value)
        manifest = write_manifest(tmp_path, ["a", "b"])
        capture_manifest("i2am-tiny", manifest, run, steps=1, guidance_scale=1.0, progress=False)
        summary = measure_run("i2am-tiny", run, out, options=options, progress=False)
        assert summary.finished == ["a", "b"], summary.failed
        again = measure_run("i2am-tiny", run, out, options=options, progress=False)
        assert again.skipped == ["a", "b"]
        measure_run("i2am-tiny", run, tmp_path / "local.zarr", options=options, progress=False)
        local = open_effects(tmp_path / "local.zarr")
        for name in ("a", "b"):
            np.testing.assert_array_equal(local[name]["region"], open_effects(out)[name]["region"])
