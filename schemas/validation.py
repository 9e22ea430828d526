"""Whether a store keeps the contract: every fault at once, each with its place.

The check runs on a description of the store (names, attributes, dimensions, shapes, dtypes), which
whoever can read a store makes; so this module needs no storage library, and one check serves them
all: `find_faults` whoever asks what is wrong with a store, `find_sample_faults` whoever opens a sample.
Of the values, those of coordinates are its business: `ArrayDescription.values`.
"""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING, Final, TypeVar

from pydantic import BaseModel, ValidationError

from i2am.schemas import coordinates, dims
from i2am.schemas.attributes import (
    ATTRIBUTE_KEY,
    AverageAttributes,
    AverageGroupAttributes,
    CaptureAttributes,
    DifferencesAttributes,
    EffectsAttributes,
    ImageAttributes,
    LayerAttributes,
    MapsAttributes,
    RunAttributes,
    SampleEffectsAttributes,
)
from i2am.schemas.boxes import Box
from i2am.schemas.description import ArrayDescription, Fault, GroupDescription
from i2am.schemas.directions import DIRECTIONS
from i2am.schemas.errors import SchemaError, describe_validation_error, did_you_mean
from i2am.schemas.manifest import check_sample_name

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from pydantic_core import ErrorDetails

__all__ = ["find_faults", "find_sample_faults"]

_Model = TypeVar("_Model", bound=BaseModel)

_ROOTS: Final[Mapping[str, type[BaseModel]]] = {
    "run": RunAttributes,
    "maps": MapsAttributes,
    "effects": EffectsAttributes,
    "average": AverageAttributes,
    "differences": DifferencesAttributes,
}
# As faults name them.
_KINDS: Final = "'run', 'maps', 'effects', 'average' or 'differences'"
_ALWAYS_SAID: Final = {"kind", "version"}
_FACTORS_AND_LOGITS: Final = {"query", "key", "logits", "text_key", "text_query"}
_REFERENCE_SUFFIX: Final = re.compile(r"\.reference_([1-9]\d*)$")
# What is wanted beside some arrays of effects: what they lie between, and which cut each one is.
_BESIDE_EFFECTS: Final[Mapping[str, tuple[str, ...]]] = {
    **dict.fromkeys(("region", "layer", "edge"), ("floor", "ceiling")),
    **dict.fromkeys(
        ("direct_region", "direct_layer", "direct_edge"), ("direct_floor", "direct_ceiling")
    ),
    **dict.fromkeys(("deletion", "insertion"), ("ceiling",)),
}
_BESIDE_DIMENSIONS: Final[Mapping[str, tuple[str, ...]]] = {
    dims.CUT: (dims.CUT_BOX,),
    dims.LAYER: (dims.LAYER_NAME,),
    dims.EDGE: (dims.EDGE_NAME,),
    dims.ORDER: (dims.ORDER_NAME, dims.ORDER_CUT),
    dims.COUNT: (dims.COUNT,),
    dims.Y: (dims.Y,),
    dims.X: (dims.X,),
}
_EFFECT_VALUES: Final[Mapping[str, coordinates.ValueCheck]] = {
    dims.LAYER_NAME: coordinates.different_names,
    dims.EDGE_NAME: coordinates.different_names,
    dims.ORDER_NAME: coordinates.different_names,
    dims.COUNT: coordinates.rising_labels,
}
# What the coordinates of a maps group hold, where it has them.
_MAP_VALUES: Final[Mapping[str, coordinates.ValueCheck]] = {
    dims.LAYER: coordinates.different_names,
    dims.HEAD: coordinates.rising_labels,
    dims.STEP: coordinates.rising_labels,
    dims.TIMESTEP: coordinates.one_way,
    dims.FIRST_STEP: coordinates.rising_labels,
    dims.LAST_STEP: coordinates.rising_labels,
}


def find_faults(root: GroupDescription) -> Iterator[Fault]:
    """Yield every fault of a store of ours, in the order of its groups.

    Examples
    --------
    >>> [str(fault) for fault in find_faults(GroupDescription({}))]
    ["/: expected attribute 'i2am' with a kind of 'run', 'maps', 'effects', 'average' or 'differences', got none"]
    """
    attributes = root.attributes.get(ATTRIBUTE_KEY)
    kind = attributes.get("kind") if isinstance(attributes, dict) else None
    if not isinstance(kind, str) or kind not in _ROOTS:
        got = "none" if attributes is None else repr(kind)
        msg = f"expected attribute 'i2am' with a kind of {_KINDS}, got {got}"
        yield Fault("", msg)
        return
    _, faults = _parse(_ROOTS[kind], root, "")
    yield from faults
    yield from _stray_arrays(root, "")
    for name, sample in root.groups.items():
        yield from find_sample_faults(kind, name, sample)


def find_sample_faults(kind: str, name: str, sample: GroupDescription) -> Iterator[Fault]:
    """Yield every fault of one sample; none of one that is not complete, as it does not exist.

    Parameters
    ----------
    kind : "run", "maps", "effects", "average" or "differences"
        Of its store.
    name : str
        Of its group; of averages, that of a group of samples.
    sample : GroupDescription

    Examples
    --------
    >>> [str(fault) for fault in find_sample_faults("maps", "a", GroupDescription({}))]
    ["a: expected a group 'r2g' or 'g2r', got none"]
    """
    if sample.unreadable is not None:
        yield Fault(name, sample.unreadable)
        return
    if _is_unfinished(sample):
        return
    if kind != "average":  # A group has the name of what its samples have in common.
        yield from _name_faults(name)
    yield from _CHECKS[kind](sample, name)


def _name_faults(name: str) -> Iterator[Fault]:
    try:
        check_sample_name(name)
    except SchemaError as e:
        message = str(e)
        yield Fault(name, message[0].lower() + message[1:])


def _parse(
    model: type[_Model], group: GroupDescription | ArrayDescription, place: str
) -> tuple[_Model | None, list[Fault]]:
    """Return the attributes, or None where they are not valid, and their faults."""
    where = f"{place}/attributes"
    stored = group.attributes.get(ATTRIBUTE_KEY)
    if not isinstance(stored, dict):
        came = "none" if stored is None else repr(stored)
        return None, [Fault(where, f"expected a mapping as '{ATTRIBUTE_KEY}', got {came}")]
    # The models fill these in when we write; a store must say them.
    said = [f.alias or name for name, f in model.model_fields.items() if name in _ALWAYS_SAID]
    faults = [Fault(where, f"{key}: field required") for key in said if key not in stored]
    try:
        return model.model_validate(stored), faults
    except ValidationError as e:
        return None, faults + [Fault(where, _reason(error)) for error in e.errors()]


def _reason(error: ErrorDetails) -> str:
    path = ".".join(str(part) for part in error["loc"]) or ATTRIBUTE_KEY
    return f"{path}: {describe_validation_error(error)}"


def _is_unfinished(sample: GroupDescription) -> bool:
    """Return whether a sample does not exist for a reader."""
    own = sample.attributes.get(ATTRIBUTE_KEY)
    return isinstance(own, dict) and own.get("status") in ("running", "failed")


def _stray_arrays(group: GroupDescription, place: str) -> Iterator[Fault]:
    for name in group.arrays:
        yield Fault(f"{place}/{name}", "expected no array here, got one")


def _capture_faults(sample: GroupDescription, place: str) -> Iterator[Fault]:
    _, faults = _parse(CaptureAttributes, sample, place)
    yield from faults
    yield from _provenance_faults(sample, place)
    for name in ("images", "layers"):
        if name not in sample.groups:
            yield Fault(f"{place}/{name}", "expected a group, got none")
    for name in sample.groups:
        if name not in {"images", "layers"}:
            yield Fault(f"{place}/{name}", "expected only the groups 'images' and 'layers'")
    sizes: dict[str, int] = {}
    yield from _coordinate_faults(sample, sizes, place)
    if "images" in sample.groups:
        yield from _image_faults(sample.groups["images"], f"{place}/images")
        yield from _painted_box_faults(sample, place)
    layers = sample.groups.get("layers", GroupDescription({}))
    if "layers" in sample.groups and not layers.groups:
        yield Fault(f"{place}/layers", "expected at least one layer, got none")
    orders: dict[tuple[int, int], str] = {}
    for name, layer in layers.groups.items():
        where = f"{place}/layers/{name}"
        if not coordinates.is_printable(name):
            yield Fault(where, "expected a name without control characters")
        attributes, layer_faults = _parse(LayerAttributes, layer, where)
        yield from layer_faults
        if attributes is None:
            continue
        # What one layer read from several references may share its place in the order.
        order = attributes.order, attributes.reference_index
        if order in orders:
            msg = f"expected an order of its own, got {attributes.order} as in '{orders[order]}'"
            yield Fault(f"{where}/attributes", msg)
        orders[order] = name
        suffix = _REFERENCE_SUFFIX.search(name)
        if attributes.reference_index != (told := int(suffix[1]) if suffix else 0):
            msg = f"expected reference_index {told} as the name tells, got "
            yield Fault(f"{where}/attributes", f"{msg}{attributes.reference_index}")
        yield from _layer_faults(layer, attributes, sizes, where)


def _provenance_faults(sample: GroupDescription, place: str) -> Iterator[Fault]:
    """Yield the names of facts and labels that cannot be shown."""
    own = sample.attributes.get(ATTRIBUTE_KEY)
    own = own if isinstance(own, dict) else {}
    labels = own.get("labels")
    for name in (*own, *(labels if isinstance(labels, dict) else ())):
        if not coordinates.is_printable(name):
            msg = f"expected names without control characters, got {name!r}"
            yield Fault(f"{place}/attributes", msg)


def _painted_box_faults(sample: GroupDescription, place: str) -> Iterator[Fault]:
    """Yield the faults of the box (x, y, width, height) that was to be painted, where it is told."""
    own = sample.attributes.get(ATTRIBUTE_KEY)
    told = own.get("box") if isinstance(own, dict) else None
    if told is None:
        return
    where = f"{place}/attributes"
    box = Box.from_corner_and_size(told)
    if box is None:
        msg = f"box: expected x, y, width and height in pixels, got {told!r}"
        yield Fault(where, msg)
        return
    generated = sample.groups["images"].arrays.get("generated")
    if generated is not None and not _is_on(box, generated):
        yield Fault(where, f"box: {_has_no_part(told, generated)}")


def _is_on(box: Box, image: ArrayDescription) -> bool:
    return len(image.shape) < 2 or box.overlaps(*image.shape[:2])


def _has_no_part(box: object, image: ArrayDescription) -> str:
    height, width = image.shape[:2]
    return f"expected a part of the image, which has {height}×{width} px, got {box}"


def _coordinate_faults(
    sample: GroupDescription, sizes: dict[str, int], place: str
) -> Iterator[Fault]:
    """Yield the faults of a sample's coordinates, and add their sizes to `sizes`."""
    for name in (dims.STEP, dims.TIMESTEP):
        yield from _coordinate(sample, name, dims.STEP, sizes, place)
    step, timestep = (sample.arrays.get(name) for name in (dims.STEP, dims.TIMESTEP))
    if step and not step.dtype.startswith(("int", "uint")):
        yield Fault(f"{place}/step", f"expected an integer dtype, got {step.dtype}")
    else:
        yield from _value_faults(step, coordinates.rising_labels, f"{place}/step")
    yield from _value_faults(timestep, coordinates.one_way, f"{place}/timestep")
    guidance = sample.arrays.get(dims.GUIDANCE)
    if guidance is None:
        return
    yield from _coordinate(sample, dims.GUIDANCE, dims.GUIDANCE, sizes, place)
    unknown = [label for label in guidance.values or () if label not in dims.GUIDANCE_LABELS]
    for label in unknown:
        hint = did_you_mean(str(label), dims.GUIDANCE_LABELS)
        yield Fault(f"{place}/guidance", f"expected a known label, got {label!r}. {hint}")
    if not unknown:
        yield from _value_faults(guidance, coordinates.different_names, f"{place}/guidance")


def _coordinate(
    group: GroupDescription, name: str, dim: str, sizes: dict[str, int], place: str
) -> Iterator[Fault]:
    if name not in group.arrays:
        yield Fault(f"{place}/{name}", f"expected a coordinate over '{dim}', got none")
        return
    yield from _array_faults(group.arrays[name], (dim,), f"{place}/{name}")
    yield from _size_faults(group.arrays[name], sizes, f"{place}/{name}")


def _value_faults(
    array: ArrayDescription | None, check: coordinates.ValueCheck, place: str
) -> Iterator[Fault]:
    if array is not None and array.values is not None:
        yield from (Fault(place, message) for message in check(array.values))


def _image_faults(images: GroupDescription, place: str) -> Iterator[Fault]:
    for name in ("generated", "reference"):
        if name not in images.arrays:
            yield Fault(f"{place}/{name}", "expected an image, got none")
    sizes = {dims.RGB: 3}
    for name, array in images.arrays.items():
        where = f"{place}/{name}"
        if (wanted := dims.image_dims(name)) is None:
            yield Fault(where, f"unknown image. {did_you_mean(name, dims.IMAGE_ARRAYS)}")
            continue
        yield from _array_faults(array, wanted, where, dtypes=("uint8",))
        yield from _size_faults(array, sizes, where)
        if ATTRIBUTE_KEY in array.attributes:
            attributes, faults = _parse(ImageAttributes, array, where)
            yield from faults
            if attributes is not None and not _is_on(attributes.box, array):
                msg = f"box: {_has_no_part(list(attributes.box), array)}"
                yield Fault(f"{where}/attributes", msg)


def _layer_faults(
    layer: GroupDescription, attributes: LayerAttributes, sizes: dict[str, int], place: str
) -> Iterator[Fault]:
    wanted, possible = dims.REPRESENTATIONS[attributes.representation]
    for name in wanted:
        if name not in layer.arrays:
            msg = f"expected an array, as representation is '{attributes.representation}', got none"
            yield Fault(f"{place}/{name}", msg)
    known = dict(sizes) | {dims.GENERATED: attributes.generated_tokens()}
    if attributes.heads is not None:
        known[dims.HEAD] = len(attributes.heads)
    if (tokens := attributes.reference_tokens()) is not None:
        known[dims.REFERENCE] = tokens
        if attributes.representation == "maps" and tokens > 1 and "g2r" not in layer.arrays:
            yield Fault(
                f"{place}/g2r", f"expected an array, as there are {tokens} tokens, got none"
            )
    if dims.WEIGHT in layer.arrays and dims.WEIGHT in attributes.model_fields_set:
        msg = "expected either an attribute or an array of this name, got both"
        yield Fault(f"{place}/{dims.WEIGHT}", msg)
    for name, array in layer.arrays.items():
        where = f"{place}/{name}"
        if name not in (*wanted, *possible):
            yield Fault(where, f"unknown array. {did_you_mean(name, (*wanted, *possible))}")
            continue
        optional, required = dims.LAYER_ARRAYS[name]
        present = tuple(d for d in optional if array.dims and d in array.dims)
        dtypes = ("float16", "float32") if name in _FACTORS_AND_LOGITS else ("float32",)
        yield from _array_faults(array, (*present, *required), where, dtypes=dtypes)
        yield from _size_faults(array, known, where)
        if dims.GUIDANCE in present and dims.GUIDANCE not in sizes:
            yield Fault(where, "expected a coordinate 'guidance' in the sample, got none")
    weight, region = (layer.arrays.get(name) for name in (dims.WEIGHT, dims.REGION))
    yield from _value_faults(weight, coordinates.finite, f"{place}/{dims.WEIGHT}")
    yield from _value_faults(region, coordinates.fractions, f"{place}/{dims.REGION}")


def _maps_faults(sample: GroupDescription, place: str) -> Iterator[Fault]:
    if not sample.groups:
        yield Fault(place, "expected a group 'r2g' or 'g2r', got none")
    planes: dict[str, tuple[str, str]] = {own.name: own.plane for own in DIRECTIONS.values()}
    for direction, group in sample.groups.items():
        where = f"{place}/{direction}"
        if direction not in planes:
            yield Fault(where, f"unknown direction. {did_you_mean(direction, planes)}")
            continue
        yield from _direction_faults(group, planes[direction], where)


def _direction_faults(
    group: GroupDescription, plane: tuple[str, str], place: str
) -> Iterator[Fault]:
    for name in dims.LEVELS:
        if name not in group.arrays:
            yield Fault(f"{place}/{name}", "expected a map, got none")
    sizes: dict[str, int] = {}
    for name, array in group.arrays.items():
        if name in dims.LEVELS:
            wanted = (*dims.LEVELS[name], *plane)
        elif name == "mass" and plane == dims.GENERATED_PLANE:
            wanted = plane
        else:
            continue  # Coordinates.
        yield from _array_faults(array, wanted, f"{place}/{name}", dtypes=("float32",))
        yield from _size_faults(array, sizes, f"{place}/{name}")
    for name, dim in dims.MAP_COORDINATES.items():
        yield from _coordinate(group, name, dim, sizes, place)
    for name in (dims.STEP, dims.TIMESTEP):
        if name in group.arrays:
            yield from _coordinate(group, name, dims.STEP, sizes, place)
    for name, check in _MAP_VALUES.items():
        yield from _value_faults(group.arrays.get(name), check, f"{place}/{name}")
    yield from _time_group_faults(group, place)
    for name in plane:
        yield from _pixel_faults(group, name, sizes, f"{place}/{name}")


def _average_faults(group: GroupDescription, place: str) -> Iterator[Fault]:
    """Yield the faults of a mean with its variance."""
    _, faults = _parse(AverageGroupAttributes, group, place)
    yield from faults
    yield from _result_faults(group, place, dims.AVERAGED)


def _difference_faults(sample: GroupDescription, place: str) -> Iterator[Fault]:
    yield from _result_faults(sample, place, ("",))


def _result_faults(sample: GroupDescription, place: str, parts: tuple[str, ...]) -> Iterator[Fault]:
    """Yield the faults of maps that were made of maps: some levels, each in all its parts."""
    yield from _stray_arrays(sample, place)
    planes: dict[str, tuple[str, str]] = {own.name: own.plane for own in DIRECTIONS.values()}
    if not sample.groups:
        yield Fault(place, "expected a group 'r2g' or 'g2r', got none")
    for direction, group in sample.groups.items():
        where = f"{place}/{direction}"
        if direction not in planes:
            yield Fault(where, f"unknown direction. {did_you_mean(direction, planes)}")
            continue
        levels = {**dims.LEVELS, "mass": ()}
        held = [level for level in levels if any(level + part in group.arrays for part in parts)]
        if not held:
            yield Fault(where, f"expected a map, of {', '.join(levels)}, got none")
        sizes: dict[str, int] = {}
        for name in (level + part for level in held for part in parts):
            if name not in group.arrays:
                yield Fault(f"{where}/{name}", "expected a map, got none")
                continue
            wanted = (*levels[name.partition("_")[0]], *planes[direction])
            array = group.arrays[name]
            yield from _array_faults(array, wanted, f"{where}/{name}", dtypes=("float32",))
            yield from _size_faults(array, sizes, f"{where}/{name}")
        for name, check in _MAP_VALUES.items():
            yield from _value_faults(group.arrays.get(name), check, f"{where}/{name}")
        for name in planes[direction]:
            yield from _pixel_faults(group, name, sizes, f"{where}/{name}")


def _time_group_faults(group: GroupDescription, place: str) -> Iterator[Fault]:
    """Yield a fault if a time group ends before it begins, or not before the next one begins."""
    found = [group.arrays.get(name) for name in (dims.FIRST_STEP, dims.LAST_STEP)]
    first, last = ((array.values if array else None) or () for array in found)
    if any(any(coordinates.rising_labels(labels)) for labels in (first, last)):
        return  # Told already.
    for begin, end, following in zip(first, last, (*first[1:], math.inf), strict=False):
        if not begin <= end < following:
            msg = f"expected time groups one after the other, got {begin} to {end}"
            yield Fault(f"{place}/{dims.LAST_STEP}", msg)
            return


def _pixel_faults(
    group: GroupDescription, name: str, sizes: dict[str, int], place: str
) -> Iterator[Fault]:
    """Yield the faults of a coordinate in pixels; maps without one have no fault."""
    if (array := group.arrays.get(name)) is None:
        return
    yield from _array_faults(array, (name,), place, dtypes=("float64",))
    yield from _size_faults(array, sizes, place)
    if (units := array.attributes.get("units")) != dims.PIXEL_UNITS:
        yield Fault(place, f"expected the units {dims.PIXEL_UNITS!r}, got {units!r}")
    yield from _value_faults(array, coordinates.rising, place)


def _effects_faults(sample: GroupDescription, place: str) -> Iterator[Fault]:
    _, faults = _parse(SampleEffectsAttributes, sample, place)
    yield from faults
    for name in sample.groups:
        yield Fault(f"{place}/{name}", "expected no group here, got one")
    if not any(name in dims.EFFECT_ARRAYS for name in sample.arrays):
        yield Fault(place, "expected an array of effects, got none")
    known = {**dims.EFFECT_ARRAYS, **dims.EFFECT_COORDINATES}
    sizes = {dims.CORNER: len(Box._fields)}
    beside: dict[str, str] = {}
    for name, array in sample.arrays.items():
        where = f"{place}/{name}"
        if name not in known:
            yield Fault(where, f"unknown array. {did_you_mean(name, known)}")
            continue
        dtypes = ("float32",) if name in dims.EFFECT_ARRAYS else ()
        dtypes = ("float64",) if name == dims.CUT_BOX else dtypes
        yield from _array_faults(array, known[name], where, dtypes=dtypes)
        yield from _size_faults(array, sizes, where)
        of_dims = (one for dim in known[name] for one in _BESIDE_DIMENSIONS.get(dim, ()))
        for needed in (*_BESIDE_EFFECTS.get(name, ()), *of_dims):
            beside.setdefault(needed, name)
    for needed, name in beside.items():
        if needed not in sample.arrays:
            yield Fault(f"{place}/{needed}", f"expected an array beside {name!r}, got none")
    for name, check in _EFFECT_VALUES.items():
        yield from _value_faults(sample.arrays.get(name), check, f"{place}/{name}")
    for name in dims.GENERATED_PLANE:
        yield from _pixel_faults(sample, name, sizes, f"{place}/{name}")


def _array_faults(
    array: ArrayDescription,
    wanted: tuple[str, ...],
    place: str,
    dtypes: Iterable[str] = (),
) -> Iterator[Fault]:
    if array.dims != wanted:
        yield Fault(place, f"expected dims {wanted}, got {array.dims}")
    elif dtypes and array.dtype not in dtypes:
        yield Fault(place, f"expected dtype {' or '.join(dtypes)}, got {array.dtype}")


def _size_faults(array: ArrayDescription, sizes: dict[str, int], place: str) -> Iterator[Fault]:
    """Compare with the sizes known so far, and add this array's to them."""
    if array.dims is None:
        return
    for name, size in zip(array.dims, array.shape, strict=True):
        if not size:
            yield Fault(place, f"expected at least 1 along '{name}', got 0")
        elif name is not None and sizes.setdefault(name, size) != size:
            yield Fault(place, f"expected {sizes[name]} along '{name}', got {size}")


_CHECKS: Final[Mapping[str, Callable[[GroupDescription, str], Iterator[Fault]]]] = {
    "run": _capture_faults,
    "maps": _maps_faults,
    "effects": _effects_faults,
    "average": _average_faults,
    "differences": _difference_faults,
}
