"""The store of measured effects as it is written: opened with its options, then sample by sample.

As in a run, several processes may fill one store: each claims a sample before it measures it. A
sample's arrays come first, then their metadata, its status last, when all of it is on the disk.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from zarr.storage import StorePath

from i2am.capture.causal.measure import MeasuredEffects
from i2am.capture.writer.run_store import SampleStore
from i2am.capture.writer.zarr_objects import (
    Array,
    NodeMetadata,
    single_chunk_metadata,
    write_nodes,
    write_text_array,
)
from i2am.files import check_can_hold_store
from i2am.schemas import Box, EffectsAttributes, StoreError
from i2am.schemas.attributes import ATTRIBUTE_KEY, check_schema
from i2am.schemas.dims import (
    COUNT,
    CUT_BOX,
    EDGE,
    EDGE_NAME,
    EFFECT_ARRAYS,
    EFFECT_COORDINATES,
    LAYER,
    LAYER_NAME,
    ORDER,
    ORDER_CUT,
    ORDER_NAME,
    X,
    Y,
)
from i2am.storage.addresses import path_to_write, reported_as_store_error, to_store
from i2am.storage.inventory import METADATA_KEY, own_facts, with_digest
from i2am.storage.objects import (
    create_object,
    make_durable,
    put_objects,
    read_object,
    to_buffer,
)
from i2am.storage.owners import Writer
from i2am.storage.replacement import delete_sample, empty_store
from i2am.storage.sources import CaptureSource, is_complete

__all__ = ["EffectsSource", "enter_effects", "is_measured", "start_sample"]

_TEXT_DIMS = {LAYER_NAME: LAYER, EDGE_NAME: EDGE, ORDER_NAME: ORDER}


@dataclass(frozen=True)
class EffectsSource(CaptureSource):
    """The captured sample whose effects are measured; see `CaptureSource`."""

    def attributes(self, status: str, **facts: Any) -> dict[str, Any]:
        """Return what the effects' own attributes hold."""
        return self.described("effects", status, **facts)


def enter_effects(
    out: str | Path, source: str, options: Mapping[str, Any], *, overwrite: bool = False
) -> Writer:
    """Enter this process into a store of effects: a new one, or one written with the same options.

    Parameters
    ----------
    out : str or Path
        A folder or a URL.
    source : str
        As `source_of` gives it.
    options : mapping
        What is measured; JSON types.
    overwrite : bool
        Empty a store that was written with other options.

    Returns
    -------
    Writer
        To be closed at the end.

    Raises
    ------
    StoreError
        If `out` is something else, was written with other options, or cannot be reached.
    """
    attributes = EffectsAttributes(source=source, options=dict(options)).to_store()
    node = {"attributes": attributes, "zarr_format": 3, "node_type": "group"}
    wanted = with_digest(node, "")
    root = path_to_write(out)
    with reported_as_store_error(out):
        if (content := read_object(root / METADATA_KEY)) is None:
            _check_is_free(out)
            check_can_hold_store(out)
            create_object(root / METADATA_KEY, wanted)
            make_durable(root, [METADATA_KEY])
            content = read_object(root / METADATA_KEY)  # Another process may have been faster.
        found = b"" if content is None else content.to_bytes()
        if len(found) < len(wanted) and wanted.startswith(found):  # Its creation was cut short.
            put_objects([(root / METADATA_KEY, to_buffer(wanted))], durable=True)
            found = wanted
        changed = _changed_options(own_facts(found), attributes[ATTRIBUTE_KEY], out)
        if changed and not overwrite:
            msg = (
                f"Expected the options that these effects were measured with, got other "
                f"{', '.join(changed)}, at {out}. Give another output with --out, or --overwrite."
            )
            raise StoreError(msg)
        writer = Writer(root)
        try:
            others = writer.others()  # Takes out what processes that are gone have left, too.
            if changed:
                empty_store(root, others)
                put_objects([(root / METADATA_KEY, to_buffer(wanted))], durable=True)
        except BaseException:
            writer.close()
            raise
        return writer


def is_new_store(out: str | Path) -> bool:
    """Whether a store of effects would be made at an address; nothing is written.

    Raises
    ------
    StoreError
        If something else is there, it is inside a store, or it cannot be reached.
    """
    check_can_hold_store(out)
    place = to_store(out)
    with reported_as_store_error(out):
        # To open a local store for writing would make its folder.
        if isinstance(place, Path):
            is_there = (place / METADATA_KEY).exists()
        else:
            is_there = read_object(path_to_write(out) / METADATA_KEY) is not None
        if not is_there:
            _check_is_free(out)
    return not is_there


def is_measured(root: StorePath, sample: str, source: EffectsSource) -> bool:
    """Return whether a sample's effects are complete, and are of this capture."""
    return is_complete(root / sample, source.attributes("complete"))


def start_sample(
    writer: Writer, sample: str, source: EffectsSource, *, durable: bool = True
) -> SampleEffectsStore:
    """Claim a sample, and mark it as running; what was there of it is removed.

    Raises
    ------
    SampleTaken
        If another process measures it.
    StoreError
        If the store cannot be reached.
    """
    root = writer.root
    with reported_as_store_error(root):
        writer.claim(sample)
        delete_sample(root / sample)
    store = SampleStore(root / sample, root / sample, writer, durable)
    store.set_status(source.attributes("running"))
    return SampleEffectsStore(store, source)


@dataclass(frozen=True)
class SampleEffectsStore:
    """One sample of a store of effects as it is written.

    Parameters
    ----------
    store : SampleStore
    source : EffectsSource
    """

    store: SampleStore
    source: EffectsSource

    def finish(self, effects: MeasuredEffects, painted: Box, repaint_difference: float) -> None:
        """Write a sample's effects, and mark it as complete.

        Parameters
        ----------
        effects : MeasuredEffects
        painted : Box
            The part of the stored generated image that the patches fill.
        repaint_difference : float
            Largest difference of the untouched image to the stored one, in 8-bit levels.

        Raises
        ------
        StoreError
            If the store does not take it.
        """
        values: dict[str, Array] = {
            name: np.ascontiguousarray(array) for name, array in effects.arrays.items()
        }
        grid = values["floor"].shape
        for name, centres in zip((Y, X), painted.cell_centres((grid[0], grid[1])), strict=True):
            values[name] = np.array(centres, np.float64)
        texts = {LAYER_NAME: effects.layers, EDGE_NAME: effects.edges}
        if len(effects.boxes):
            values[CUT_BOX] = effects.boxes
        if effects.orders:
            values[ORDER_CUT] = np.array(list(effects.orders.values()), np.int64)
            values[COUNT] = np.array(effects.counts, np.int64)
            texts[ORDER_NAME] = tuple(effects.orders)
        dims = {**EFFECT_ARRAYS, **EFFECT_COORDINATES}
        nodes: dict[str, NodeMetadata] = {
            name: single_chunk_metadata(
                array, dims[name], {"units": "px"} if name in (Y, X) else None
            )
            for name, array in values.items()
        }
        folder = self.store.folder
        with reported_as_store_error(folder.path):
            write_nodes(folder, nodes, values)
            for name, labels in texts.items():
                if labels:
                    write_text_array(folder, name, labels, _TEXT_DIMS[name])
        facts = {"pictures": effects.pictures, "repaint_difference": float(repaint_difference)}
        self.store.set_status(self.source.attributes("complete", **facts))

    def fail(self, error: BaseException) -> None:
        """Mark the sample as failed, with the reason."""
        reason = f"{type(error).__name__}: {error}"
        self.store.set_status(self.source.attributes("failed", error=reason))


def _check_is_free(out: str | Path) -> None:
    place = to_store(out)
    if isinstance(place, Path) and place.exists():
        # zarr writes files under this suffix first.
        if place.is_dir() and all(entry.suffix == ".partial" for entry in place.iterdir()):
            return
        msg = f"Expected a store of effects or nothing, got another file or folder at {out}. "
        raise StoreError(msg + "Name a new one.")


def _changed_options(
    own: Mapping[str, Any], wanted: Mapping[str, Any], out: str | Path
) -> list[str]:
    """Return the names of the options that a store was written with and that differ."""
    if (kind := own.get("kind")) != "effects":
        msg = f"Expected a store of effects to write to, got {kind or 'another Zarr group'} at {out}. "
        raise StoreError(msg + "Give another output.")
    check_schema(own, out)
    plain: dict[str, Any] = json.loads(json.dumps(wanted))
    before, after = (
        {"source": one.get("source")} | dict(one.get("options") or {}) for one in (own, plain)
    )
    return [
        name for name in dict.fromkeys([*after, *before]) if before.get(name) != after.get(name)
    ]
