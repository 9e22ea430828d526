"""Listing the members of a group: all of them, also where some are damaged."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import zarr
from zarr.storage import MemoryStore, WrapperStore

from i2am.storage.listing import (
    Unreadable,
    iter_groups,
    iter_members,
    member_metadata,
    sorted_names,
)


def fill(root: zarr.Group) -> zarr.Group:
    """Give a group three groups, an array, a group whose name begins with a dot, and groups in one."""
    for name, status in (("b.1", "complete"), ("a", "running"), ("c", None)):
        own = {} if status is None else {"i2am": {"status": status}}
        root.create_group(name, attributes=own).create_group("inner")
    root.create_array("array", shape=(2,), dtype="u1")
    root.create_group(".hidden")
    return root


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "run.zarr"
    fill(zarr.create_group(path))
    return path


def listed(folder: Path) -> dict[str, Any]:
    return dict(iter_groups(zarr.open_group(folder, mode="r")))


def open_on_disk(tmp_path: Path) -> zarr.Group:
    return zarr.create_group(tmp_path / "run.zarr")


def open_in_memory(_: Path) -> zarr.Group:
    return zarr.create_group(MemoryStore())


def open_below_another(tmp_path: Path) -> zarr.Group:
    return open_on_disk(tmp_path).create_group("x").create_group("y")


def open_wrapped(tmp_path: Path) -> zarr.Group:
    store = WrapperStore(open_on_disk(tmp_path).store)
    return zarr.open_group(store)


@pytest.mark.parametrize("build", [open_on_disk, open_in_memory, open_below_another, open_wrapped])
def test_groups_are_listed_by_name_with_their_attributes_in_every_store(
    build: Callable[[Path], zarr.Group], tmp_path: Path
) -> None:
    root = fill(build(tmp_path))
    assert list(iter_groups(root)) == [
        ("a", {"status": "running"}),
        ("b.1", {"status": "complete"}),
        ("c", {}),
    ]
    assert sorted_names(root) == ["a", "array", "b.1", "c"]
    kinds = [(name, dict(found)["node_type"]) for name, found in iter_members(root)]  # type: ignore[arg-type]
    assert kinds == [("a", "group"), ("array", "array"), ("b.1", "group"), ("c", "group")]
    found: Any = member_metadata(root, "a")
    assert found["attributes"]["i2am"] == {"status": "running"}
    assert member_metadata(root, "none") is None


def write(text: str | bytes) -> Callable[[Path], object]:
    content = text if isinstance(text, bytes) else text.encode()
    return lambda path: path.write_bytes(content)


def change(**changes: Any) -> Callable[[Path], object]:
    return lambda path: path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def become_a_link(path: Path) -> None:
    target = path.parents[2] / "elsewhere.json"
    path.replace(target)
    path.symlink_to(target)


def become_a_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def become_a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "cut short": (lambda path: path.write_bytes(path.read_bytes()[:-9]), "JSON that is cut short"),
    "emptied": (write(""), "an empty file"),
    "no JSON": (write("{'status': 1}"), "no JSON"),
    "no text": (write(b"\xff\xfe{}"), "no JSON"),
    "a list": (write("[1, 2]"), "something else than a Zarr group"),
    "nested deep": (write('{"a":' * 100_000 + "1" + "}" * 100_000), "no JSON"),
    "another node": (change(node_type="table"), "something else than a Zarr group"),
    "format 2": (change(zarr_format=2), "Zarr format 2, not 3"),
    "attributes of another kind": (change(attributes=[1]), "attributes that are no mapping"),
    "i2am of another kind": (change(attributes={"i2am": "run"}), "no mapping as its attribute"),
    "far too long": (lambda path: os.truncate(path, 2**34), "more than 16 MiB"),
    "deleted": (Path.unlink, "no zarr.json"),
    "a pipe": (become_a_pipe, "no regular file"),
    "a folder": (become_a_folder, "no regular file"),
    "a link that leads out": (become_a_link, "a link that leads out of the store"),
}


@pytest.mark.parametrize(("damage", "reason"), DAMAGES.values(), ids=list(DAMAGES))
def test_a_damaged_member_is_listed_with_the_reason_and_hides_no_other(
    folder: Path, damage: Callable[[Path], object], reason: str
) -> None:
    damage(folder / "b.1" / "zarr.json")
    found = listed(folder)
    assert isinstance(found["b.1"], Unreadable)
    assert reason in str(found["b.1"])
    assert found["b.1"].is_missing == (reason == "no zarr.json")
    assert found == {"a": {"status": "running"}, "b.1": found["b.1"], "c": {}}
    if reason != "no mapping as its attribute":
        assert member_metadata(zarr.open_group(folder, mode="r"), "b.1") == found["b.1"]


def test_damages_are_told_in_stores_that_are_no_folder(tmp_path: Path) -> None:
    root = fill(open_in_memory(tmp_path))
    stored = root.store._store_dict  # type: ignore[attr-defined]
    whole = stored["a/zarr.json"].to_bytes()
    stored["a/zarr.json"] = type(stored["a/zarr.json"]).from_bytes(whole[:-9])
    del stored["c/zarr.json"]
    stored["readme"] = stored["a/zarr.json"]
    found: Any = dict(iter_groups(root))
    assert [str(found["a"]), str(found["c"])] == ["JSON that is cut short", "no zarr.json"]
    assert set(found) == {"a", "b.1", "c"}


def test_a_link_to_another_sample_of_the_store_is_followed(folder: Path) -> None:
    (folder / "d").symlink_to("b.1")
    assert listed(folder)["d"] == {"status": "complete"}


def test_a_sample_that_leads_out_of_the_store_is_not_followed(folder: Path) -> None:
    outside = zarr.create_group(folder.parent / "x", attributes={"i2am": {"status": "complete"}})
    (folder / "d").symlink_to(folder.parent / "x")
    assert own_status(outside) == "complete"
    assert str(listed(folder)["d"]) == "a link that leads out of the store"


def own_status(group: zarr.Group) -> Any:
    return dict(group.attrs)["i2am"]["status"]  # type: ignore[call-overload, index]


def test_files_and_samples_that_just_begin_are_no_members(folder: Path) -> None:
    (folder / "notes.txt").write_text("mine")
    (folder / "d").mkdir()
    (folder / "e").mkdir()
    (folder / "e" / "zarr.json.0123.partial").touch()
    assert set(listed(folder)) == {"a", "b.1", "c"}


def test_many_members_are_listed_in_order_and_an_unfinished_listing_leaves_no_thread(
    folder: Path,
) -> None:
    text = (folder / "b.1" / "zarr.json").read_text()
    for number in range(1200):
        (folder / f"m{number:04}").mkdir()
        (folder / f"m{number:04}" / "zarr.json").write_text(text)
    (folder / "m0700" / "zarr.json").write_text(text[:-9])
    root = zarr.open_group(folder, mode="r")
    found = list(iter_groups(root))
    assert [name for name, _ in found] == ["a", "b.1", "c", *(f"m{n:04}" for n in range(1200))]
    assert [name for name, own in found if isinstance(own, Unreadable)] == ["m0700"]

    listing = iter_groups(root)
    assert len(list(islice(listing, 10))) == 10
    listing.close()  # type: ignore[attr-defined]
    assert not [t for t in threading.enumerate() if t.name.startswith("i2am-listing")]
