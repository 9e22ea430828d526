"""A store that a stranger made is refused in words, before zarr or a decompressor believes it."""

from __future__ import annotations

import os
import pickle
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from zarr.abc.store import RangeByteRequest
from zarr.core.sync import sync
from zarr.storage import LocalStore, MemoryStore

from i2am.analysis import open_run
from i2am.cli import main
from i2am.schemas import StoreError
from i2am.storage.addresses import open_group
from i2am.storage.guard.guarded_store import GuardedStore, guarded, native_array
from tests.support.hostile_stores import HOSTILE, LAYER, QUERY, Hostile, refusal, write_victim

BY_NAME = {one.name: one for one in HOSTILE}


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_victim(tmp_path_factory.mktemp("sound") / "run.zarr")


@pytest.fixture
def store(sound: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(sound, tmp_path / "run.zarr", symlinks=True))


@pytest.mark.parametrize("hostile", HOSTILE, ids=lambda one: one.name)
def test_a_hostile_store_is_refused_in_words(store: Path, hostile: Hostile) -> None:
    hostile.change(store)
    with pytest.raises(StoreError, match=hostile.told) as raised:
        _read(store)
    message = str(raised.value)
    assert message.startswith("Expected ")
    assert len(message) < 600
    assert message.isprintable()


def _read(store: Path) -> None:
    if (told := refusal(store)) is not None:
        raise StoreError(told)


def test_there_are_many_of_them() -> None:
    assert len(BY_NAME) == len(HOSTILE) >= 60


def test_a_sound_store_reads_as_it_does_without_a_guard(sound: Path) -> None:
    plain: Any = zarr.open_group(sound, mode="r")
    watched: Any = open_group(sound)
    assert isinstance(watched.store, GuardedStore)
    arrays = [path for path, node in plain.members(max_depth=None) if isinstance(node, zarr.Array)]
    assert len(arrays) > 10
    for path in arrays:
        np.testing.assert_array_equal(watched[path][...], plain[path][...])
    np.testing.assert_array_equal(watched[QUERY][0, 2, 1, 3], plain[QUERY][0, 2, 1, 3])


def test_a_pickle_of_format_2_runs_nothing(store: Path) -> None:
    BY_NAME["format 2 with pickles"].change(store)
    for command in ("validate", "info", "analyze"):
        assert main([command, str(store)]) == 1
    assert not (Path(tempfile.gettempdir()) / "i2am-was-here").exists()


@pytest.mark.parametrize(
    "name",
    ["no JSON", "nested 100,000 times", "objects", "4e9 coordinates", "a blosc bomb in a shard",
     "a missing shard", "a pipe", "chunks elsewhere", "a line break in a name"],
)  # fmt: skip
def test_no_command_shows_a_traceback_or_asks_for_a_report(
    store: Path, name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from i2am.viewer.reader import read_layers

    BY_NAME[name].change(store)
    commands = {
        "validate": [],
        "info": [],
        "analyze": ["--out", str(tmp_path / "maps.zarr")],
        "report": ["--out", str(tmp_path / "report.html")],
    }
    for command, options in commands.items():
        # What is wrong with a chunk is for those who read it.
        assert main([command, str(store), *options]) in (0, 1)
        err = capsys.readouterr().err
        assert "Traceback" not in err
        assert "report what" not in err
        assert "\x1b[2J" not in err
    with pytest.raises(StoreError):
        for layer in read_layers(str(store)):
            np.asarray(layer[0])
        _read(store)


_BOUNDED = """
import resource, sys
from pathlib import Path
from tests.support.hostile_stores import refusal
store, sound, *names = sys.argv[1:]
assert refusal(Path(sound)) is None  # Packages that reading loads are not counted.
own = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (own + 600 * 2**20,) * 2)
for name in names:
    print(name, refusal(Path(store) / name.replace(" ", "-").replace("*", "")))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="needs a limit of the address space")
def test_the_worst_stores_take_little_memory(sound: Path, tmp_path: Path) -> None:
    names = [
        "4e9 coordinates", "coordinates, many times", "a chunk of 8 GB", "ten petabytes",
        "10**15 chunks along a dim", "an index of gigabytes", "a blosc bomb", "a bomb of zeros",
        "a zstd bomb", "four billion texts", "a bomb of texts", "nested 100,000 times", "17 MiB",
        "a device without end", "a pipe",
    ]  # fmt: skip
    for name in names:
        path = tmp_path / name.replace(" ", "-").replace("*", "")
        shutil.copytree(sound, path)
        BY_NAME[name].change(path)
    told = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", _BOUNDED, str(tmp_path), str(sound), *names],
        capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert told.returncode == 0, told.stderr
    lines = told.stdout.splitlines()
    assert len(lines) == len(names)
    assert all("Expected" in line for line in lines)


def test_a_store_and_what_is_in_it_may_be_links_within_it(sound: Path, tmp_path: Path) -> None:
    store = Path(shutil.copytree(sound, tmp_path / "real.zarr"))
    (store / LAYER).rename(store / "shirt/layers/moved")
    (store / LAYER).symlink_to("moved")
    (tmp_path / "run.zarr").symlink_to(store)
    assert refusal(tmp_path / "run.zarr") is None or "order" in str(refusal(tmp_path / "run.zarr"))
    group: Any = open_group(tmp_path / "run.zarr")
    assert group[QUERY][...].size > 0


def test_keys_that_lead_out_are_refused(sound: Path) -> None:
    store = guarded(LocalStore(sound, read_only=True))
    for key in (
        "../secret",
        "shirt/../../secret/zarr.json",
        "/etc/passwd",
        "a//b",
        "a/./b",
        "a\\b",
    ):
        with pytest.raises(StoreError, match="names"):
            sync(store.get(key))
        with pytest.raises(StoreError, match="names"):
            sync(store.exists(key))


def test_metadata_that_are_not_there_stay_so_and_old_ones_are_not_seen(store: Path) -> None:
    (store / "shirt/.zarray").write_text("{}")
    watched = guarded(LocalStore(store, read_only=True))
    assert sync(watched.get("nothing/zarr.json")) is None
    assert sync(watched.get("shirt/.zarray")) is None
    assert not sync(watched.exists("shirt/.zarray"))


def test_nothing_is_written(sound: Path) -> None:
    group: Any = open_group(sound)
    with pytest.raises(ValueError, match="read-only"):
        group.attrs["mine"] = 1
    with pytest.raises(ValueError, match="read-only"):
        sync(group.store.delete("zarr.json"))
    assert group.store.with_read_only(True) is group.store


def test_another_process_gets_the_guard_with_the_array(store: Path) -> None:
    BY_NAME["a blosc bomb in a shard"].change(store)
    array: Any = pickle.loads(pickle.dumps(open_group(store)[QUERY]))
    assert isinstance(array.store, GuardedStore)
    with pytest.raises(StoreError, match="announces"):
        array[...]


def test_copies_of_metadata_are_not_believed(store: Path) -> None:
    BY_NAME["objects"].change(store)
    import json

    node = json.loads((store / "zarr.json").read_bytes())
    node["consolidated_metadata"] = {"kind": "inline", "must_understand": False, "metadata": {}}
    (store / "zarr.json").write_text(json.dumps(node))
    assert open_group(store).metadata.consolidated_metadata is None
    with pytest.raises(StoreError, match="a data_type"):
        _read(store)


def test_a_part_of_a_shard_is_no_larger_than_a_chunk_and_never_empty(sound: Path) -> None:
    store = guarded(LocalStore(sound, read_only=True))
    key = f"{QUERY}/c/0/0/0/0/0"
    for start, end in ((0, 2**40), (5, 5), (9, 3)):
        with pytest.raises(StoreError, match="in its shard"):
            sync(store.get(key, byte_range=RangeByteRequest(start, end)))
    size = (sound / key).stat().st_size
    with pytest.raises(StoreError, match="bytes or more"):
        sync(store.get(key, byte_range=RangeByteRequest(size - 4, size + 4)))


def test_a_chunk_that_zarr_left_out_is_one_of_fill_values_where_that_was_ever_so(
    tmp_path: Path,
) -> None:
    root = zarr.create_group(tmp_path / "maps.zarr")
    root.create_array("a/r2g/head", data=np.zeros(1, np.int64), dimension_names=["head"])
    root.create_array("a/layers/one/key", data=np.zeros((2, 2), np.float32))
    root.create_array(
        "a/sound", data=np.zeros((2, 2), np.float32), compressors=zarr.codecs.Crc32cCodec()
    )
    assert not list(tmp_path.rglob("c"))
    group: Any = open_group(tmp_path / "maps.zarr")
    assert group["a/r2g/head"][...].tolist() == [0]
    for name in ("a/layers/one/key", "a/sound"):
        with pytest.raises(StoreError, match=f"one that is missing, at .*{name}/c/0/0"):
            group[name][...]


def test_what_is_in_memory_is_guarded_too(sound: Path) -> None:
    memory = MemoryStore()
    for file in sound.rglob("*"):
        if file.is_file():
            buffer = zarr.buffer.cpu.Buffer.from_bytes(file.read_bytes())
            sync(memory.set(file.relative_to(sound).as_posix(), buffer))
    group: Any = open_group(memory)
    plain: Any = zarr.open_group(sound, mode="r")
    np.testing.assert_array_equal(group[QUERY][...], plain[QUERY][...])
    sync(memory.delete(f"{QUERY}/c/0/0/0/0/0"))
    with pytest.raises(StoreError, match="one that is missing"):
        group[QUERY][...]


def test_code_that_reads_files_itself_gets_plain_numbers_that_are_all_there(store: Path) -> None:
    run = open_group(store)
    array: Any = run[f"{LAYER}/key"]
    assert native_array(array) is None  # Compressed: a chunk could announce anything.
    plain: Any = zarr.open_group(store, mode="r+")
    values = plain[f"{LAYER}/key"][...]
    plain.create_array("plain", data=values, compressors=None, chunks=values.shape)
    array = open_group(store)["plain"]
    native = native_array(array)
    assert native is not None
    assert isinstance(native.store, LocalStore)
    np.testing.assert_array_equal(np.asarray(native[...]), values)
    file = next(one for one in (store / "plain/c").rglob("*") if one.is_file())
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(StoreError, match="an object of"):
        native_array(array)
    file.unlink()
    assert native_array(array) is None
    os.mkfifo(file)
    with pytest.raises(StoreError, match="a pipe"):
        native_array(array)


def test_a_run_in_a_folder_is_opened_through_the_guard(sound: Path) -> None:
    assert isinstance(open_run(sound)._root.store, GuardedStore)
    assert isinstance(open_run(f"file://{sound}")._root.store, GuardedStore)
    assert isinstance(open_run(f"local://{sound}")._root.store, GuardedStore)
