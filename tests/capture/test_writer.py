"""Arrays that grow step by step: nothing is lost, nothing waits without bound."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

from i2am.capture import capture
from i2am.capture.writer import BackgroundWriter, GrowingArray, plan_chunks
from i2am.schemas import CaptureError
from tests.capture import models

DIMS = ("step", "head", "generated", "channel")


@settings(max_examples=20, deadline=None)
@given(
    steps=st.integers(1, 70),
    widen_at=st.one_of(st.none(), st.integers(0, 69)),
    repeats=st.lists(st.booleans(), min_size=70, max_size=70),
)
def test_what_is_put_step_by_step_is_what_is_read(
    steps: int, widen_at: int | None, repeats: list[bool]
) -> None:
    values = np.random.default_rng(steps).normal(size=(steps, 2, 6, 3)).astype(np.float16)
    root: Any = zarr.create_group({})
    writer = BackgroundWriter()
    array = GrowingArray(root, "query", DIMS, (2, 6, 3), np.dtype(np.float16), writer)
    for step in range(steps):
        if step == widen_at:
            array.widen()
        if repeats[step]:  # The denoiser is called twice at this timestep; the last call counts.
            array.put(step, np.full_like(values[step], 9))
        array.put(step, values[step])
    array.close()
    writer.close()
    stored = root["query"]
    assert isinstance(stored, zarr.Array)
    metadata: Any = stored.metadata
    assert metadata.dimension_names == DIMS
    is_widened = widen_at is not None and widen_at < steps
    assert stored.dtype == (np.float32 if is_widened else np.float16)
    assert np.array_equal(stored[...], values)


def test_guidance_comes_before_step() -> None:
    root: Any = zarr.create_group({})
    writer = BackgroundWriter()
    dims = ("guidance", *DIMS)
    array = GrowingArray(root, "query", dims, (2, 1, 4, 3), np.dtype(np.float32), writer)
    values = np.random.default_rng(0).normal(size=(2, 40, 1, 4, 3)).astype(np.float32)
    for step in range(40):
        array.put(step, values[:, step])
    array.close()
    writer.close()
    assert np.array_equal(np.asarray(root["query"][...]), values)


@pytest.mark.parametrize(
    ("shape", "item_bytes"),
    [((50, 8, 4096, 40), 2), ((25, 4, 256, 16), 2), ((50, 24, 4096, 128), 4), ((1, 1, 1, 1), 2)],
    ids=["sd15", "tiny", "transformer", "smallest"],
)
def test_a_chunk_holds_all_heads_and_about_two_mebibytes(
    shape: tuple[int, ...], item_bytes: int
) -> None:
    chunk = plan_chunks(DIMS, shape, item_bytes)
    assert (chunk[1], chunk[3]) == (shape[1], shape[3])
    assert 8 <= chunk[0] <= 32
    one_patch_less = (*chunk[:2], chunk[2] - 1, chunk[3])
    assert np.prod(one_patch_less) * item_bytes < 2 * 2**20


def test_waiting_work_is_bounded_and_the_caller_waits() -> None:
    writer, gate, started = BackgroundWriter(limit_bytes=100), threading.Event(), threading.Event()

    def slow() -> None:
        started.set()
        gate.wait(10)

    writer.submit(100, slow)
    started.wait(10)
    done: list[str] = []

    def submit_more() -> None:
        writer.submit(1, lambda: done.append("written"))
        done.append("submitted")

    thread = threading.Thread(target=submit_more)
    thread.start()
    thread.join(0.2)
    assert thread.is_alive(), "with the limit reached, submit must wait"
    gate.set()
    thread.join(10)
    writer.close()
    assert sorted(done) == ["submitted", "written"]


def test_a_failed_write_reaches_the_caller() -> None:
    def fail() -> None:
        raise OSError("no space left")

    writer = BackgroundWriter()
    writer.submit(1, fail)
    with pytest.raises(CaptureError, match="OSError: no space left"):
        writer.close()


def test_a_failed_write_ends_the_capture_with_a_failed_sample(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline = models.reference_inpaint()

    def refuse(*_: Any) -> None:
        raise OSError("no space left")

    with (
        pytest.raises(CaptureError, match="no space left"),
        capture(pipeline, tmp_path / "run.zarr", sample="one"),
    ):
        models.run(pipeline, 1)
        monkeypatch.setattr(GrowingArray, "_write", refuse)
    monkeypatch.undo()
    attributes = models.opened(tmp_path / "run.zarr" / "one").attrs["i2am"]
    assert attributes["status"] == "failed"
