"""Settings of all tests."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

VIEWER = Path(__file__).with_name("viewer")

# How long an example takes says nothing here: the machine may be busy with something else.
settings.register_profile("i2am", deadline=None)
settings.load_profile("i2am")


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the files that hold slow tests, so that none of them is left running alone.

    The viewer's come one after the other: they share a window.
    """
    slow = {item.path for item in items if item.get_closest_marker("slow") is not None}

    def place(item: pytest.Item) -> tuple[bool, bool]:
        is_slow = item.path in slow
        return not is_slow, is_slow == (VIEWER in item.path.parents)

    items.sort(key=place)


@pytest.fixture(scope="module", autouse=True)
def _keep_the_heap_small() -> Iterator[None]:
    """Exempt what lives on after a file's tests, which is modules, from garbage collection.

    torch, diffusers and napari are some hundred thousand objects, and each full collection walks
    over all of them, as napari does for each layer that is removed: it took a third of the time of a
    file of the viewer's tests.
    """
    gc.freeze()
    yield
    gc.collect()
    gc.freeze()
