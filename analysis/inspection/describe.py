"""Describe a store: every group's metadata for validation, a summary of facts for people."""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping, Sequence
from typing import Any, Final

import zarr

from i2am.analysis.inspection.address import member_names, open_any
from i2am.analysis.inspection.facts import Facts, describe_group, store_facts
from i2am.analysis.stores.layers import format_labels
from i2am.schemas import GroupDescription
from i2am.storage.addresses import StoreLike

__all__ = ["describe_store", "facts_in_words", "summarise_store"]

_SHOWN_NAMES: Final = 5

Words = dict[str, str | list[str]]


def describe_store(path: StoreLike, left_out: Container[str] = ()) -> GroupDescription:
    """Describe a store of any kind for `i2am.schemas.find_faults`.

    Parameters
    ----------
    path : str, Path or zarr Store
    left_out : container of str
        Samples that are not described.

    Returns
    -------
    GroupDescription
        A sample is described on access, so that a long run does not fill the memory.
        Groups of incomplete samples are there, too. Of the values only short coordinates are read.

    Raises
    ------
    StoreError
        If it is missing or no store of i2am.

    Examples
    --------
    >>> import i2am
    >>> store = describe_store(i2am.DEMO_RUN)
    >>> sorted(store.groups), store.attributes["i2am"]["kind"]
    (['doughnut', 'frog', 'truck'], 'run')
    """
    root = open_any(path)
    names = [name for name in member_names(root) if name not in left_out]
    return GroupDescription(dict(root.attrs), groups=_Samples(root, names))


def summarise_store(path: StoreLike) -> dict[str, str | list[str]]:
    """Return a summary of a store: what it is and what it holds.

    Parameters
    ----------
    path : str, Path or zarr Store
        Of a store of any kind, or of one sample in it.

    Returns
    -------
    dict of str to str or list of str
        In the order to print; a list is one line each. Layers, steps and guidance are those of the
        first complete sample, or of the sample that was named.

    Raises
    ------
    StoreError
        If it is missing or no store of i2am.

    Examples
    --------
    >>> import i2am
    >>> "truck" in str(summarise_store(i2am.DEMO_RUN))
    True
    """
    return facts_in_words(store_facts(path))


def facts_in_words(facts: Facts) -> dict[str, str | list[str]]:
    """Return facts of `store_facts` as people read them."""
    words: Words = {"kind": facts["kind"], "schema": str(facts["schema"])}
    words |= {
        key: ", ".join(map(str, facts[key])) if isinstance(facts[key], list) else str(facts[key])
        for key in ("a", "b", "convention", "normalisation", "source", "by")
        if key in facts
    }
    words |= _option_words(facts.get("options"))
    if "groups" in facts:
        words["groups"] = [
            f"{group['name']}: {_count(group['samples'], 'sample')}" for group in facts["groups"]
        ]
    if "samples" in facts:
        words["samples"] = _samples_words(facts["kind"], **facts["samples"])
    if "sample" in facts:
        words |= _sample_words(facts["kind"], facts["sample"], is_one="samples" not in facts)
    if "unreadable" in facts:
        words["unreadable"] = [f"{one['sample']}: {one['reason']}" for one in facts["unreadable"]]
    if "stored_bytes" in facts:
        words["stored"] = f"{facts['stored_bytes']:,} bytes"
    return words


def _option_words(options: Any) -> Words:
    if not isinstance(options, dict):
        return {}
    words: Words = {}
    if options.get("weights"):
        words["weights"] = f"{options['weights']}, of {options.get('effects')}"
    if options.get("within"):
        words["within"] = "the inpainting mask"
    return words


def _samples_words(kind: str, complete: int, unfinished: int, names: Sequence[str]) -> str:
    shown = ", ".join(names[:_SHOWN_NAMES]) + (", …" if names[_SHOWN_NAMES:] else "")
    if kind == "differences":
        return f"{complete}: {shown}"
    count = f"{complete} complete{f', {unfinished} not' if unfinished else ''}"
    return f"{count}: {shown}" if shown else count


def _sample_words(kind: str, sample: Facts, *, is_one: bool) -> Words:
    """Return what is told of a sample: of the one that was named, its name and state, too."""
    words: Words = {}
    if is_one:
        state = "" if sample["status"] == "complete" else f", not complete ({sample['status']})"
        words["sample"] = sample["name"] + state
        words |= {key: sample[key] for key in ("reason",) if key in sample}
        if isinstance(sample.get("samples"), int):
            words["of"] = _count(sample["samples"], "sample")
    if "pipeline" in sample:
        words |= _run_words(sample)
    if "directions" in sample:
        words |= _maps_words(sample["directions"])
    if kind == "effects" and "effects" in sample:
        words |= _effects_words(sample)
    return words


def _run_words(sample: Facts) -> Words:
    steps, timesteps = sample["steps"], sample["timesteps"]
    kept = "" if steps == list(range(len(steps))) else f" ({format_labels(steps)})"
    return {
        "pipeline": f"{sample['pipeline']} ({sample['model']})",
        "steps": f"{len(timesteps)}{kept}, timestep {timesteps[0]:g} to {timesteps[-1]:g}",
        "guidance": ", ".join(sample["guidance"]) or "conditional branch alone",
        "images": ", ".join(f"{name} {_size(size)}" for name, size in sample["images"].items()),
        "arrays": f"{sample['array_bytes']:,} bytes a sample",
        "layers": [_layer_words(layer) for layer in sample["layers"]],
    }


def _layer_words(layer: Facts) -> str:
    height, width = layer["generated_grid"]
    frames, tokens = layer["frames"], layer["reference_tokens"]
    generated = f"{height // frames}x{width}"
    if frames > 1:
        generated = f"{frames} frames of {generated}"
    reference = _count(tokens, "token")
    if layer["reference_grid"]:
        special = f" + {layer['special_tokens']}" if layer["special_tokens"] else ""
        reference = _size(layer["reference_grid"]) + special
    if layer["reference"] != "reference":
        reference += f" of {layer['reference']}"
    heads = layer["heads"]
    told = f"{heads} heads" if isinstance(heads, int) else f"heads {format_labels(heads)}"
    stored = f"{layer['representation']} {', '.join(layer['dtypes'])}"
    notes = "" if layer["causal"] else "; a similarity, not causal"
    weight = layer["weight"]
    if isinstance(weight, list):
        notes += f"; weight {min(weight):g} to {max(weight):g}, by step"
    elif weight != 1:
        notes += f"; weight {weight:g}"
    if layer["mask_mean"] is not None:
        notes += f"; masked, mean {layer['mask_mean']:.2f}"
    return f"{layer['name']}: {generated} <- {reference}, {told}, {stored}{notes}"


def _maps_words(directions: Mapping[str, Facts]) -> Words:
    words: Words = {}
    first = next(iter(directions.values()))
    if "step" in first["sizes"]:
        words["steps"] = str(first["sizes"]["step"])
    lines = []
    for direction, own in directions.items():
        sizes = ", ".join(f"{size} {dim}" for dim, size in own["sizes"].items())
        lines.append(f"{direction}: {sizes}{'; mass' if 'mass' in own['levels'] else ''}")
    return words | {"directions": lines}


def _effects_words(sample: Facts) -> Words:
    height, width = sample["grid"]
    words: Words = {"grid": f"{height} y, {width} x"}
    words["effects"] = ", ".join(
        " ".join([name, *(f"({size} {dim})" for dim, size in sizes.items())])
        for name, sizes in sample["effects"].items()
    )
    if sample["regions"] is not None:
        words["regions"] = str(sample["regions"])
    if "layers" in sample:
        words["layers"] = [
            f"{own['name']}: {own['share_of_effect']:.3f} of the effect of all"
            for own in sample["layers"]
        ]
    if sample["pictures"] is not None:
        words["pictures"] = f"{sample['pictures']} a sample"
    if sample["repaint_difference"] is not None:
        words["repainted"] = (
            f"at most {sample['repaint_difference']:g} of 255 levels from the stored"
        )
    return words


def _size(size: Sequence[int]) -> str:
    return "x".join(map(str, size))


def _count(number: int | None, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


class _Samples(Mapping[str, GroupDescription]):
    """The groups below a root, each described on access."""

    def __init__(self, root: zarr.Group, names: Sequence[str]) -> None:
        self._root, self._names = root, dict.fromkeys(names)

    def __getitem__(self, name: str) -> GroupDescription:
        if name not in self._names:
            raise KeyError(name)
        return describe_group(self._root, name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)
