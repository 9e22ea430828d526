"""A bucket that is busy, silent, cut short, forbidden, gone, or that lies.

What passes by itself is tried again; what does not is one line that names the place. No sample is
complete that is not whole, no map is computed from what did not come, and a re-run goes on.
"""

from __future__ import annotations

import contextlib
import io
import re
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import numpy as np
import pytest
import zarr
from obstore.store import from_url
from zarr.storage import ObjectStore

from i2am.analysis import analyze_run, open_run, sram
from i2am.analysis.inspection.condition import take_out
from i2am.capture import capture, capture_manifest
from i2am.cli import main
from i2am.schemas import I2AMError, StorageError, StoreError
from i2am.storage.buckets import RETRY_VARIABLE
from i2am.viewer.data.open_sample import open_view
from tests.support.faulty_bucket import Fault, FaultKind, FaultyBucket, serve_faulty_bucket
from tests.support.s3_bucket import credentials
from tests.support.stored_values import Values, complete_samples
from tests.support.tiny_pipelines import models

_BLANK: Final = np.zeros((8, 8, 3), np.uint8)
_LAYERS: Final = ["mid_block.*", "up_blocks.0.attentions.0.*"]
# Short, so that what never answers is met in a second.
_PATIENCE: Final = {"AWS_TIMEOUT": "700ms", RETRY_VARIABLE: "0.8"}
_RUN: Final = "s3://bucket/good.zarr"

_WRITE_KINDS: Final[tuple[FaultKind, ...]] = (
    "busy",
    "silent",
    "closed",
    "short upload",
    "forbidden",
    "no bucket",
    "lost",
    "torn",
    "twice",
)
_READ_KINDS: Final[tuple[FaultKind, ...]] = (
    "busy",
    "silent",
    "closed",
    "short answer",
    "forbidden",
    "no bucket",
    "no key",
    "stale",
)


def sweep(seed: int, rounds: int) -> Iterator[tuple[str, str]]:
    """Yield what was tried and how it ended: faults of a bucket, drawn at random, four a round.

    Outcomes: survived (the result is the undisturbed one), refused (an error, while reading), mended (an
    error, while writing; a re-run gave the whole), LOST (a re-run did not), UNDETECTED (another result
    without a word).
    """
    with _serving() as bucket:
        yield from _Trials(bucket).draw(seed, 4 * rounds)


@contextlib.contextmanager
def _serving() -> Iterator[FaultyBucket]:
    """Serve a bucket, point the environment to it, and put a good run there, written twice."""
    with serve_faulty_bucket() as (address, bucket), pytest.MonkeyPatch.context() as patch:
        for name, value in (credentials(address) | _PATIENCE).items():
            patch.setenv(name, value)
        for _ in range(2):  # The second time other values, so that a stale object shows.
            seed = len(bucket.requests)
            _capture(models.reference_inpaint(), _RUN, seed=seed, overwrite=True)
        yield bucket


def _capture(pipeline: Any, run: str, seed: int = 7, *, overwrite: bool = False) -> None:
    import torch

    with capture(
        pipeline, run, sample="a", layers=_LAYERS, memory_bytes=100_000, overwrite=overwrite
    ) as recording:
        models.run(pipeline, 2, generator=torch.Generator().manual_seed(seed))
        recording.add_images(generated=_BLANK + seed % 250, reference=_BLANK)


def _stored(url: str) -> dict[str, Values]:
    """Return the complete samples at a URL, by plain zarr and obstore."""
    store: Any = from_url(url)
    try:
        zarr.open_group(ObjectStore(store), mode="r")
    except (
        FileNotFoundError,
        ValueError,
    ):  # Not even the run's own metadata came, or a half of them.
        return {}
    return complete_samples(ObjectStore(store))


class _Trials:
    """Faults that are drawn at random, and what becomes of them."""

    def __init__(self, bucket: FaultyBucket) -> None:
        self.bucket = bucket
        self.pipeline = models.reference_inpaint()
        start = len(bucket.requests)
        _capture(self.pipeline, "s3://bucket/wanted.zarr")
        self.puts = sum(operation == "put" for operation, _ in bucket.requests[start:])
        self.wanted = _stored("s3://bucket/wanted.zarr")
        with tempfile.TemporaryDirectory() as folder:
            start = len(bucket.requests)
            self.maps = self._maps(Path(folder))
            self.gets = sum(operation == "get" for operation, _ in bucket.requests[start:])
        self.count = 0

    def draw(self, seed: int, rounds: int) -> Iterator[tuple[str, str]]:
        rng = np.random.default_rng(seed)
        for number in range(rounds):
            is_write = number % 2 == 0
            kinds = _WRITE_KINDS if is_write else _READ_KINDS
            kind = kinds[(number // 2 + seed) % len(kinds)]
            after = int(rng.integers(0, self.puts if is_write else self.gets))
            count = None if rng.random() < 0.6 else int(rng.integers(1, 3))
            fault = Fault(kind, ("put",) if is_write else ("get",), after=after, count=count)
            if kind == "no bucket":
                fault.operations = ()
            if kind in {
                "no key",
                "stale",
            }:  # An object is stale for a while, not at one look alone.
                fault.key, fault.after, fault.count = (
                    str(rng.choice(["query", "key"])) + "/c/",
                    0,
                    None,
                )
            outcome = self.write(fault) if is_write else self.read(fault)
            times = "for ever" if fault.count is None else f"{fault.count} times"
            stage = "capture" if is_write else "analyze"
            yield f"{stage}, {kind} after {fault.after} {fault.key} {times}", outcome

    def write(self, fault: Fault) -> str:
        self.count += 1
        run, said = f"s3://bucket/trial-{self.count}.zarr", None
        with self.bucket.failing(fault):
            try:
                _capture(self.pipeline, run)
            except I2AMError as e:
                said = _checked(e)
        kept = _stored(run)
        if kept and kept != self.wanted:
            return "UNDETECTED"
        if said is None:
            return "survived" if kept == self.wanted else "UNDETECTED"
        try:
            _capture(self.pipeline, run)
        except StoreError as e:  # Half a sample's metadata may be those of one that was complete.
            if "'i2am repair RUN --apply' takes the sample out" not in str(e):
                raise
            take_out(run, ["a"], "half of its metadata are missing")
            _capture(self.pipeline, run)
        return "mended" if _stored(run) == self.wanted else "LOST"

    def read(self, fault: Fault) -> str:
        with tempfile.TemporaryDirectory() as folder:
            maps: dict[str, Values] | None = None
            with self.bucket.failing(fault), contextlib.suppress(_Said):
                maps = self._maps(Path(folder))
            if maps is not None:
                return "survived" if maps == self.maps else "UNDETECTED"
            if complete_samples(Path(folder) / "maps.zarr"):
                return "UNDETECTED"
            return "refused" if self._maps(Path(folder)) == self.maps else "LOST"

    def _maps(self, folder: Path) -> dict[str, Values]:
        try:
            analyze_run(_RUN, folder / "maps.zarr", progress=False)
        except I2AMError as e:
            raise _Said(_checked(e)) from e
        return complete_samples(folder / "maps.zarr")


class _Said(Exception):
    """What a stage said."""


def _checked(error: I2AMError) -> str:
    """Return what an error says, if a user can do something with it."""
    said = str(error)
    assert "s3://bucket/" in said, said
    assert len(said.splitlines()) == 1, said
    assert len(said) < 400, said
    return said


@pytest.fixture(scope="module")
def bucket() -> Iterator[FaultyBucket]:
    with _serving() as bucket:
        yield bucket


@pytest.fixture(scope="module")
def trials(bucket: FaultyBucket) -> _Trials:
    return _Trials(bucket)


# What is said, of a fault that stays.
_SAID: Final = {
    "busy": r"got 503 Service Unavailable \(SlowDown\), at s3://bucket/\S+\. The service is busy or "
    "broken: try again later",
    "silent": r"got no answer in time, at s3://bucket/\S+\. For a slow line set AWS_TIMEOUT=120s",
    "closed": r"got no answer, at s3://bucket/\S+\. Check the endpoint, or try again later",
    "short upload": r"got no answer, at s3://bucket/\S+\. Check the endpoint, or try again later",
    "short answer": r"got an answer that was cut short, at s3://bucket/\S+\. Try again later",
    "forbidden": r"got 403 Forbidden \(AccessDenied\), at s3://bucket/\S+\. Check the credentials and "
    "the rights",
    "no bucket": r"got 404 Not Found \(NoSuchBucket\), at s3://bucket/\S+\. Check the address",
    "no key": "Expected the object that the bucket lists, got 'not found', at s3://bucket/",
}


@pytest.mark.parametrize("kind", [kind for kind in _WRITE_KINDS if kind in _SAID])
def test_a_capture_into_a_failing_bucket_says_what_failed_and_where(
    trials: _Trials, kind: FaultKind
) -> None:
    operations = () if kind == "no bucket" else ("put",)
    run = f"s3://bucket/said-{kind.replace(' ', '-')}.zarr"
    # The first objects are written: it fails in the middle.
    fault = Fault(kind, operations, key="layers", after=3)  # type: ignore[arg-type]
    with (
        trials.bucket.failing(fault),
        pytest.raises(StorageError, match=_SAID[kind]) as caught,
    ):
        _capture(trials.pipeline, run)
    assert "\n" not in str(caught.value)
    assert _stored(run) == {}


@pytest.mark.parametrize(
    ("use", "kind"),
    [
        *(("analyze", kind) for kind in _READ_KINDS if kind in _SAID),
        *((use, kind) for use in ("sram", "view") for kind in ("busy", "no bucket", "no key")),
    ],
)
def test_whoever_reads_from_a_failing_bucket_says_what_failed_and_where(
    trials: _Trials, use: str, kind: FaultKind, tmp_path: Path
) -> None:
    sample, view = open_run(_RUN)["a"], open_view(_RUN)
    uses: dict[str, Callable[[], object]] = {
        "analyze": lambda: analyze_run(_RUN, tmp_path / "maps.zarr", progress=False),
        "sram": lambda: sram(sample, generated=(4, 4)).compute(),
        "view": lambda: view.reader.read(0, [0]),
    }
    operations = () if kind == "no bucket" else ("get",)
    with (
        trials.bucket.failing(Fault(kind, operations, key="/c/")),  # type: ignore[arg-type]
        pytest.raises(StoreError, match=_SAID[kind]) as caught,
    ):
        uses[use]()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", ["busy", "closed", "short answer", "slow", "short upload"])
def test_what_passes_by_itself_is_tried_again(
    trials: _Trials, kind: FaultKind, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(RETRY_VARIABLE, "60")
    monkeypatch.setenv("AWS_TIMEOUT", "60s")

    def fault() -> Fault:
        return Fault(kind, count=2, seconds=0.2, after=2)

    if kind != "short answer":
        assert trials.write(fault()) == "survived"
    if kind != "short upload":
        assert trials.read(Fault(kind, ("get",), count=2, seconds=0.2, after=2)) == "survived"


@pytest.mark.parametrize("kind", ["lost", "torn"])
def test_an_upload_that_was_acknowledged_and_not_kept_is_found_before_the_sample_is_complete(
    trials: _Trials, kind: FaultKind
) -> None:
    for key in ("query/c/", "key/zarr.json", "images/generated"):
        fault = Fault(kind, ("put",), key=key, count=1)
        assert trials.write(fault) == "mended", key
        assert fault.met == 1


def test_a_bucket_without_conditional_writes_takes_a_run_all_the_same(
    trials: _Trials, monkeypatch: pytest.MonkeyPatch
) -> None:
    fault = Fault("no conditions", ("put",), key=".captures/")
    assert trials.write(fault) == "survived"
    assert fault.met >= 1
    monkeypatch.setenv("AWS_CONDITIONAL_PUT", "disabled")
    assert trials.write(Fault("no conditions")) == "survived"


def _command(*arguments: str) -> tuple[int, str, list[str]]:
    """Run a command; return its exit code, its output, and what it says on standard error."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main(arguments)
    lines = re.split(r"[\n\r]", err.getvalue())
    return code, out.getvalue(), [line for line in lines if line.strip() and "%|" not in line]


def test_a_batch_stops_when_the_bucket_takes_not_even_a_status_and_goes_on_later(
    trials: _Trials, tmp_path: Path
) -> None:
    inputs = models.noise_images(64)
    inputs["example_image"].save(tmp_path / "reference.png")
    inputs["image"].save(tmp_path / "source.png")
    inputs["mask_image"].save(tmp_path / "mask.png")
    rows = [f"s{number},reference.png,source.png,mask.png" for number in range(4)]
    (tmp_path / "rows.csv").write_text("\n".join(["sample,reference,source,mask", *rows]))
    call = ["capture", "--model", "i2am-tiny", "--manifest", str(tmp_path / "rows.csv")]
    call += ["--steps", "1", "--out", "s3://bucket/batch.zarr", "--layers", "mid_block.*"]
    with trials.bucket.failing(
        Fault("busy", ("put",), key="s1/layers", after=1),
        Fault("busy", ("put",), key="s1/zarr", after=1),
    ):
        code, out, lines = _command(*call)
    assert code == 1
    assert "1 captured, 0 were complete, 1 failed, 2 not tried" in out
    assert re.search(rf"sample 's1' failed: NotStoredError: .*{_SAID['busy']}", lines[0])
    assert lines[0].endswith("Its status stays 'running': the store does not take that either.")
    assert "2 samples were not tried. The same command goes on from here" in lines[1]
    assert len(lines) == 2
    code, out, _ = _command(*call)
    assert (code, "3 captured, 1 were complete, 0 failed;" in out) == (0, True), out
    capture_manifest(
        "i2am-tiny", tmp_path / "rows.csv", tmp_path / "whole.zarr", steps=1, progress=False
    )
    whole = complete_samples(tmp_path / "whole.zarr")
    for sample, values in _stored("s3://bucket/batch.zarr").items():
        assert values == {path: whole[sample][path] for path in values}


@pytest.mark.parametrize("command", ["info", "validate", "analyze", "score", "report"])
def test_a_command_that_reads_a_failing_bucket_ends_in_one_line(
    trials: _Trials, command: str, tmp_path: Path
) -> None:
    store = _RUN
    if command in {"score", "report"}:
        store = "s3://bucket/maps.zarr"
        _upload(analyze_run(_RUN, tmp_path / "maps.zarr", progress=False), store)
    call = [command, store]
    if command in {"analyze", "score", "report"}:
        out = {"analyze": "out.zarr", "score": "out.csv", "report": "out.html"}[command]
        call += ["--out", str(tmp_path / out)]
    if command == "score":  # A URL that maps name is not followed without being asked.
        call += ["--run", _RUN]
    if command == "report":
        call[1:2] = [_RUN, "--maps", store]
    refused = 0
    for kind, after in (("busy", 0), ("forbidden", 4), ("no bucket", 9)):
        operations = () if kind == "no bucket" else ("get",)
        fault = Fault(kind, operations, after=after)  # type: ignore[arg-type]
        with trials.bucket.failing(fault):
            code, _, lines = _command(*call)
        if fault.met:
            refused += 1
            assert code == 1
            (line,) = lines
            assert re.search(_SAID[kind], line), line
    assert refused == 3


def _upload(folder: Path, url: str) -> None:
    store: Any = from_url(url)
    for file in (file for file in folder.rglob("*") if file.is_file()):
        store.put(file.relative_to(folder).as_posix(), file.read_bytes())


def test_a_wrong_time_to_try_again_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    for wrong in ("soon", "-1", "nan"):
        monkeypatch.setenv(RETRY_VARIABLE, wrong)
        with pytest.raises(I2AMError, match=f"Expected seconds from 0 on, got '{wrong}', at"):
            open_run("s3://bucket/run.zarr")
