"""Layers in a store: nothing is lost or rounded twice, in few files, within the memory."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

from i2am.capture.recording.options import DEFAULT_MEMORY_BYTES
from i2am.capture.writer.layer_writer import LayerWriter, write_layers
from i2am.capture.writer.object_folder import ObjectFolder
from i2am.capture.writer.sharded_array import (
    ShardedArray,
    ShardLayout,
    encode_shard,
    plan_shards,
)
from i2am.capture.writer.staging import StagingArea
from i2am.capture.writer.zarr_objects import write_nodes
from i2am.schemas import CaptureError, LayerAttributes

Array = np.ndarray[Any, np.dtype[Any]]
BOTH = ("unconditional", "conditional")
ONE = ("conditional",)
FLOAT16 = np.dtype(np.float16)
# From a whole run in one shard to every step on its own.
MEMORIES = st.sampled_from([2**30, 20_000, 6_000, 1_000, 1])


def attributes(**changed: Any) -> LayerAttributes:
    described = {
        "scale": 0.5,
        "generated_grid": (2, 3),
        "reference_grid": None,
        "special_tokens": 0,
        "order": 0,
        "block": "down",
        "representation": "factors",
    }
    return LayerAttributes(**described | changed)


def write(
    arrays: dict[str, Array],
    branches: tuple[str, ...] = ONE,
    *,
    is_known: bool = True,
    memory_bytes: int = 2**30,
    repeats: Any = (),
    flushed_after: int | None = None,
    dtype: Any = FLOAT16,
) -> zarr.Group:
    """Write arrays (guidance, step, …) through a layer, one branch and step at a time."""
    sample = zarr.create_group({})
    layers = ObjectFolder(sample.create_group("layers").store_path)
    staging = StagingArea(memory_bytes)
    layer = LayerWriter(layers, "a", attributes(), dtype, staging, branches if is_known else None)
    for step in range(len(next(iter(arrays.values()))[0])):
        for index, branch in reversed(list(enumerate(branches))):
            values = {n: torch.from_numpy(np.array(a[index, step])) for n, a in arrays.items()}
            if step in repeats:  # The sampler corrects a step: the last call counts.
                layer.append(step, branch, {n: torch.full_like(v, 9) for n, v in values.items()})
            layer.append(step, branch, values)
        if step == flushed_after:
            layer.flush()
    layer.close(branches)
    write_layers(layers, [layer], staging)
    staging.close()
    group = sample["layers/a"]
    assert isinstance(group, zarr.Group)
    return group


def new_layer(staging: StagingArea, branches: tuple[str, ...] | None) -> LayerWriter:
    path = ObjectFolder(zarr.create_group({}).store_path)
    return LayerWriter(path, "a", attributes(), FLOAT16, staging, branches)


def read(group: zarr.Group, name: str) -> tuple[Array, tuple[str, ...]]:
    array: Any = group[name]
    return np.asarray(array[...]), array.metadata.dimension_names


@settings(max_examples=100, deadline=None)
@given(
    steps=st.integers(1, 30),
    branches=st.sampled_from([ONE, BOTH]),
    is_known=st.booleans(),
    memory_bytes=MEMORIES,
    overflow_at=st.none() | st.integers(0, 29),
    key_changes_at=st.none() | st.integers(1, 29),
    repeats=st.sets(st.integers(0, 29)),
    flushed_after=st.none() | st.integers(0, 29),
)
def test_what_is_appended_is_what_a_reader_finds(
    steps: int,
    branches: tuple[str, ...],
    is_known: bool,
    memory_bytes: int,
    overflow_at: int | None,
    key_changes_at: int | None,
    repeats: set[int],
    flushed_after: int | None,
) -> None:
    rng = np.random.default_rng(steps)
    # Values that float16 holds exactly, so that they are the same after it has become float32.
    query = rng.integers(-99, 99, size=(len(branches), steps, 2, 6, 3)).astype(np.float32)
    is_wide = overflow_at is not None and overflow_at < steps
    if is_wide:
        query[-1, overflow_at, 1, 5, 2] = 70_000
    key = np.repeat(rng.integers(-99, 99, size=(len(branches), 1, 2, 4, 3)), steps, axis=1)
    is_constant = key_changes_at is None or key_changes_at >= steps
    if key_changes_at is not None:
        key[0, key_changes_at:] += 1
    arrays = {
        "query": query,
        "key": key.astype(np.float32),
        "logsumexp": rng.normal(size=(len(branches), steps, 2, 6)).astype(np.float32),
    }
    group = write(
        arrays,
        branches,
        is_known=is_known,
        memory_bytes=memory_bytes,
        repeats=repeats,
        flushed_after=flushed_after,
    )
    assert dict(group.attrs) == attributes().to_store()
    for name, rest in (
        ("query", ("head", "generated", "channel")),
        ("key", ("head", "reference", "channel")),
        ("logsumexp", ("head", "generated")),
    ):
        wanted, dims = arrays[name], ("guidance", "step", *rest)
        values, found = read(group, name)
        # Where steps are stored one by one, one that was replaced may have looked like a change.
        if name == "key" and is_constant and not (repeats and "step" in found):
            wanted, dims = wanted[:, 0], ("guidance", *rest)
        if len(branches) == 1:
            wanted, dims = wanted[0], dims[1:]
        assert found == dims
        assert values.dtype == (np.float32 if is_wide or name == "logsumexp" else np.float16)
        assert np.array_equal(values, wanted)


@pytest.mark.parametrize("changes", [False, True], ids=["the same", "two by turns"])
def test_shards_that_threads_store_at_once_are_what_a_reader_finds(changes: bool) -> None:
    steps, group = 400, zarr.create_group({})
    folder = ObjectFolder(group.store_path)
    dims, layout = ("head", "reference", "channel"), ShardLayout(1, (1, 1, 2, 2), 2)
    array = ShardedArray(folder / "key", dims, layout, ONE, may_be_constant=True)
    values = torch.arange(steps).remainder(2 if changes else 1).half()[:, None, None, None]
    values = values.expand(steps, 1, 2, 2).contiguous()

    def store(step: int) -> None:
        array.store(ONE[0], step, values[step : step + 1], FLOAT16)

    usual_s = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)  # Threads meet in each other's midst.
    try:
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(store, range(steps)))
    finally:
        sys.setswitchinterval(usual_s)
    for work in array.finalize(steps, FLOAT16):
        work(np.empty(0, np.uint8))
    node, whole = array.metadata(steps, (1, 2, 2), FLOAT16)
    write_nodes(folder, {"key": node}, {} if whole is None else {"key": whole})
    found, found_dims = read(group, "key")
    assert found_dims == (("step", *dims) if changes else dims)
    np.testing.assert_array_equal(found, values.numpy() if changes else values[0].numpy())


NATIVE = [torch.float64, torch.float32, torch.float16, torch.bfloat16]


@pytest.mark.parametrize("kind", NATIVE, ids=str)
@pytest.mark.parametrize("dtype", [np.float16, np.float32], ids=str)
def test_every_native_dtype_is_stored_rounded_once(kind: torch.dtype, dtype: Any) -> None:
    values = torch.randn((1, 3, 2, 5, 4), generator=torch.Generator().manual_seed(0)).to(kind)
    layers: Any = zarr.create_group({})
    staging = StagingArea()
    layer = LayerWriter(
        ObjectFolder(layers.store_path), "a", attributes(), np.dtype(dtype), staging, ONE
    )
    for step in range(3):
        # A view whose channels come before its tokens.
        query = values[0, step].transpose(1, 2).contiguous().mT
        layer.append(step, "conditional", {"query": query, "key": values[0, 0]})
    layer.close(ONE)
    write_layers(ObjectFolder(layers.store_path), [layer], staging)
    staging.close()
    wanted = values[0].double().numpy().astype(dtype)
    for name, expected in (("query", wanted), ("key", wanted[0])):
        stored, _ = read(layers["a"], name)
        assert stored.dtype == dtype
        assert np.array_equal(stored, expected)


def test_a_value_that_is_infinite_itself_does_not_widen_the_layer() -> None:
    values = np.zeros((1, 2, 1, 2, 2), np.float32)
    values[0, 1, 0, 0] = np.inf, np.nan
    stored, _ = read(write({"query": values}), "query")
    assert stored.dtype == np.float16
    assert np.array_equal(stored, values[0], equal_nan=True)


def test_an_overflowing_key_turns_the_queries_to_float32_as_well() -> None:
    query, key = np.ones((2, 1, 5, 1, 2, 2), np.float32)
    key[0, 4, 0, 0, 0] = 65_520  # The smallest number that rounds to infinity.
    group = write({"query": query, "key": key})
    assert {read(group, name)[0].dtype for name in ("query", "key")} == {np.dtype(np.float32)}
    key[0, 4, 0, 0, 0] = 65_519
    assert read(write({"query": query, "key": key}), "key")[0].dtype == np.float16


def test_a_layer_of_maps_is_float32() -> None:
    names = ("r2g", "g2r", "mass")
    rng = np.random.default_rng(0)
    arrays = {name: rng.random((1, 3, 2, 4)).astype(np.float32) for name in names}
    group = write(arrays)
    for name, last in zip(names, ("generated", "reference", "generated"), strict=True):
        values, dims = read(group, name)
        assert dims == ("step", "head", last)
        assert np.array_equal(values, arrays[name][0])


@pytest.mark.parametrize(
    ("shape", "item_bytes", "steps"),
    [((8, 4096, 40), 2, 12), ((4, 256, 16), 2, 25), ((24, 4096, 128), 4, 1), ((1, 1, 1), 2, 1)],
    ids=["sd15", "tiny", "transformer", "smallest"],
)
def test_a_chunk_is_a_tile_of_patches_with_all_heads_over_a_few_steps(
    shape: tuple[int, ...], item_bytes: int, steps: int
) -> None:
    layout = plan_shards(steps, shape, item_bytes)
    chunk_steps, heads, tokens, channels = layout.chunk
    assert (heads, channels) == (shape[0], shape[2])
    assert chunk_steps == min(steps, 5)
    # One patch less stays within the size, and no tile is empty.
    assert chunk_steps * heads * (tokens - 1) * channels * item_bytes < 320 * 2**10
    assert 0 <= layout.shape[2] - shape[1] < tokens
    assert steps <= layout.steps < steps + chunk_steps
    assert all(s % c == 0 for s, c in zip(layout.shape, layout.chunk, strict=True))


def test_only_chunks_that_hold_a_step_take_room_in_a_shard() -> None:
    layout = plan_shards(15, (8, 257, 40), 2)
    values = torch.randn((15, 8, 257, 40))
    index_bytes = 3 * layout.tiles * 16 + 4
    row_bytes = layout.tiles * (int(np.prod(layout.chunk)) * 2 + 4)
    for steps, rows in ((1, 1), (5, 1), (6, 2), (15, 3)):
        encoded = encode_shard(values[:steps], FLOAT16, layout)
        assert len(encoded) == index_bytes + rows * row_bytes + 4
    assert row_bytes < 5 * values[0].numel() * 2 * 1.02


def test_a_sample_is_tens_of_files(tmp_path: Path) -> None:
    """Stable Diffusion 1.5 with one of its eight heads, in an eighth of the memory."""
    layers: Any = zarr.create_group(tmp_path / "run.zarr")
    factors = [(torch.zeros(1, 64**2, 40), 5), (torch.zeros(1, 32**2, 80), 5)]
    logits = [(torch.zeros(1, 16**2, 257), 5), (torch.zeros(1, 8**2, 257), 1)]
    arrays = [
        {"query": q, "key": torch.zeros(1, 257, q.shape[2])} for q, n in factors for _ in range(n)
    ]
    arrays += [{"logits": values} for values, count in logits for _ in range(count)]
    staging = StagingArea(DEFAULT_MEMORY_BYTES // 8, layers=len(arrays))
    opened = [
        LayerWriter(
            ObjectFolder(layers.store_path), str(number), attributes(), FLOAT16, staging, ONE
        )
        for number in range(len(arrays))
    ]
    for step in range(50):
        for layer, values in zip(opened, arrays, strict=True):
            # Queries that change: what stays the same is stored once.
            changed = {name: values[name] + step for name in values.keys() - {"key"}}
            layer.append(step, "conditional", values | changed)
    for layer in opened:
        layer.close(ONE)
    write_layers(ObjectFolder(layers.store_path), opened, staging)
    staging.close()
    files = [path for path in (tmp_path / "run.zarr").rglob("*") if path.is_file()]
    assert len(files) < 120


@pytest.mark.parametrize(("sharers", "steps"), [(1, 20), (4, 5)])
def test_writers_of_a_layers_references_share_its_memory(sharers: int, steps: int) -> None:
    sample, slab = zarr.create_group({}), torch.zeros(1, 256, 32)  # 32 KiB
    staging = StagingArea(22 * 2**20, threads=2)  # 704 KiB for one of a layer
    layer = LayerWriter(
        ObjectFolder(sample.store_path), "a", attributes(), FLOAT16, staging, ONE, sharers
    )
    for step in range(20):
        layer.append(step, "conditional", {"query": slab + step})
    layer.close(ONE)
    write_layers(ObjectFolder(sample.store_path), [layer], staging)
    staging.close()
    array: Any = sample["a/query"]
    assert array.shards[0] == steps


def test_a_step_that_was_left_out_is_an_error() -> None:
    layer = new_layer(StagingArea(), ONE)
    layer.append(0, "conditional", {"query": torch.zeros(1, 2, 3)})
    with pytest.raises(CaptureError, match=r"Expected step 1 .*, got step 2 .*, at .*a \("):
        layer.append(2, "conditional", {"query": torch.zeros(1, 2, 3)})


@pytest.mark.parametrize(
    "other",
    [
        {"query": torch.zeros(1, 4, 3)},
        {"query": torch.zeros(1, 2, 3, dtype=torch.float16)},
        {"query": torch.zeros(1, 2, 3), "key": torch.zeros(1, 1, 3)},
    ],
    ids=["shape", "dtype", "arrays"],
)
def test_a_step_of_another_shape_is_an_error(other: dict[str, torch.Tensor]) -> None:
    layer = new_layer(StagingArea(), ONE)
    layer.append(0, "conditional", {"query": torch.zeros(1, 2, 3)})
    with pytest.raises(
        CaptureError, match=r"query 1×2×3 float32, got step 1 of .*, at .*of one size"
    ):
        layer.append(1, "conditional", other)


@pytest.mark.parametrize(
    ("put", "closed"),
    [(["conditional", "conditional"], BOTH), ([*BOTH, "conditional"], BOTH), ([*BOTH], ONE)],
    ids=["one never came", "one is shorter", "one is not wanted"],
)
def test_branches_that_do_not_match_are_an_error(put: list[str], closed: tuple[str, ...]) -> None:
    layer = new_layer(StagingArea(), None)
    seen: dict[str, int] = {}
    for branch in put:
        seen[branch] = seen.get(branch, -1) + 1
        layer.append(seen[branch], branch, {"query": torch.zeros(1, 2, 3)})
    with pytest.raises(CaptureError, match="Expected equally many steps of the branches"):
        layer.close(closed)


class FullDisk(zarr.storage.MemoryStore):
    """Takes the metadata and no shard."""

    async def set(self, key: str, value: Any, byte_range: Any = None) -> None:
        if not key.endswith("zarr.json"):
            raise OSError(28, "No space left on device")
        await super().set(key, value, byte_range)


@pytest.mark.parametrize("memory_bytes", [2**30, 1000], ids=["at the end", "on the way"])
def test_a_full_disk_ends_the_capture_with_an_error(memory_bytes: int) -> None:
    staging = StagingArea(memory_bytes)
    path = ObjectFolder(zarr.create_group(FullDisk()).store_path)
    layer = LayerWriter(path, "a", attributes(), FLOAT16, staging, ONE)
    with pytest.raises(
        CaptureError, match=r"room to write, got 'No space left on device'.* Make room"
    ):
        for step in range(5000):
            layer.append(step, "conditional", {"query": torch.full((1, 2, 3), float(step))})
            if memory_bytes > 1000:
                layer.close(ONE)
                write_layers(path, [layer], staging)
    with pytest.raises(CaptureError, match="No space left"):
        staging.close()


THREADS = """
import os, threading
import torch, zarr
from i2am.capture.writer.layer_writer import LayerWriter, write_layers
from i2am.capture.writer.object_folder import ObjectFolder
from i2am.capture.writer.staging import StagingArea
from tests.capture.writer.test_layer_writer import FLOAT16, ONE, attributes

def torch_threads():
    return len(os.listdir("/proc/self/task")) - len(threading.enumerate())

torch.set_num_threads(4)
layers = ObjectFolder(zarr.create_group({}).store_path)
staging = StagingArea(2**26)
layer = LayerWriter(layers, "a", attributes(), FLOAT16, staging, ONE)
query, key = torch.randn(8, 4096, 40), torch.randn(8, 257, 40)
query.exp(), (query @ key.mT)  # What the model itself starts.
before = torch_threads()
for step in range(12):
    query[0, 0, 0] = 1e5 if step > 8 else torch.inf
    layer.append(step, "conditional", {"query": query, "key": key})
layer.close(ONE)
write_layers(layers, [layer], staging)
print(torch_threads() - before)
staging.close()
"""


@pytest.mark.skipif(sys.platform != "linux", reason="counts threads in Linux' /proc")
def test_writers_leave_the_models_threads_alone() -> None:
    """PyTorch starts threads for each thread that gives it much to do: on a CPU they compete."""
    done = subprocess.run(
        [sys.executable, "-c", THREADS],
        check=True,
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[3],
    )
    assert int(done.stdout) == 0


SLOW_DISK = """
import asyncio, sys
import numpy as np, torch, zarr
from i2am.capture.writer.layer_writer import LayerWriter, write_layers
from i2am.capture.writer.object_folder import ObjectFolder
from i2am.capture.writer.staging import StagingArea
from tests.capture.writer.test_layer_writer import FLOAT16, ONE, attributes

class SlowDisk(zarr.storage.LocalStore):
    async def set(self, key, value):
        await asyncio.sleep(len(value) / 50e6)  # 50 MB/s, and nothing else is as slow.
        await super().set(key, value)

def run(place, memory_bytes, steps):
    layers = ObjectFolder(zarr.create_group(SlowDisk(place)).store_path)
    staging = StagingArea(memory_bytes, layers=8)
    opened = [LayerWriter(layers, str(n), attributes(), FLOAT16, staging, ONE) for n in range(8)]
    noise = torch.randn(8, 1024, 64)
    for step in range(steps):
        noise += 1  # In place: holes in the heap are not the writer's.
        for layer in opened:  # 2 MiB of float32, half of it stored
            layer.append(step, "conditional", {"query": noise, "key": noise[:, :64]})
    for layer in opened:
        layer.close(ONE)
    write_layers(layers, opened, staging)
    staging.close()

def peak_bytes():
    # Of this program alone: what getrusage tells of a child includes its parent's peak.
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmHWM")) * 1024

run(sys.argv[1] + "/warm", 2**24, 4)
before = peak_bytes()
for name, memory_bytes in (("bounded", 2**26), ("unbounded", 2**32)):
    run(f"{sys.argv[1]}/{name}", memory_bytes, 30)
    print(name, peak_bytes() - before, file=sys.stdout)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak from Linux' /proc")
@pytest.mark.slow
def test_host_memory_is_bounded_when_the_disk_is_slow(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", SLOW_DISK, str(tmp_path)],
        check=True,
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[3],
    )
    grown = dict(line.split() for line in done.stdout.splitlines())
    assert int(grown["bounded"]) < 2**26
    assert int(grown["unbounded"]) > 3 * 2**26, "nothing had to wait; the test shows nothing"
