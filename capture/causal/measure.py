"""How much of a picture changes when reference tokens are cut: by region, by layer, by edge."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import ceil
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from i2am.capture.causal.forced import ForcedPainter
from i2am.capture.causal.occlusion import occluded
from i2am.capture.causal.painting import Painter, Painting
from i2am.capture.causal.patches import Values, change_of_patches, strength
from i2am.capture.causal.region_grid import RegionGrid
from i2am.capture.causal.repeated_call import PaintingCall, RepeatedCall
from i2am.capture.causal.surroundings import Surroundings, look
from i2am.capture.cuts.cut import picture_size
from i2am.capture.cuts.editor import Cut
from i2am.capture.profiles.profile import Profile
from i2am.schemas import Box, CaptureError, SchemaError
from i2am.schemas.choices import EDGE_NAMES, EdgeName, GuidanceOption, check_choice
from i2am.schemas.dims import EFFECT_ARRAYS

__all__ = [
    "EffectOptions",
    "EffectsOf",
    "MeasuredEffects",
    "Orders",
    "kinds_of",
    "knock_out",
    "measure",
]

EffectsOf = Literal["region", "layer", "edge"]
# From the boxes of the regions to their order: numbers of regions, the first to be taken first.
Orders = Callable[[NDArray[np.float64]], Mapping[str, Sequence[int]]]

# Of the largest value: rounding is far below, other noise far above.
_COPY_TOLERANCE = 1e-2
_OTHER_CALL_TOLERANCE = 0.25
_CURVE_PARTS = 8


@dataclass(frozen=True)
class EffectOptions:
    """What `knock_out` measures.

    Parameters
    ----------
    regions : (height, width)
        The grid of regions that the reference is cut into.
    adaptive : bool
        Whether to begin with 4×4 regions and split the strongest quarter of each size into four, down to
        that grid.
    edges : sequence of str
        Over which the tokens are cut; see `i2am.capture.Cut`. Regions, layers and the ceiling are cut
        over all that begin at the reference.
    per : sequence of {"region", "layer", "edge"}
        What is cut apart.
    forced : bool
        Whether to measure direct effects, too: at some steps, each begun where the untouched run had it.
    occlusion : bool
        Whether to measure, too, what changes when each region of the reference is painted over from
        its surroundings.
    forced_steps : sequence of int, optional
        None spreads four over the run.
    guidance : {"conditional", "both"}
        The guidance branches in which tokens are cut.
    batch : int
        Number of images that one call paints.

    Raises
    ------
    SchemaError
        If a value is not valid.

    Examples
    --------
    >>> EffectOptions(regions=(4, 4), per=["layer"]).reference_edges
    ('reference->generated',)
    """

    regions: tuple[int, int] = (8, 8)
    adaptive: bool = False
    edges: Sequence[EdgeName] = ("reference->generated",)
    per: Sequence[EffectsOf] = ("region", "layer")
    forced: bool = False
    occlusion: bool = False
    forced_steps: Sequence[int] | None = None
    guidance: GuidanceOption = "conditional"
    batch: int = 8

    def __post_init__(self) -> None:
        """Check the values."""
        if isinstance(self.edges, str) or isinstance(self.per, str):
            msg = f"Expected lists, got {self.edges!r} and {self.per!r}, at edges and per. Give lists."
            raise SchemaError(msg)
        for edge in self.edges:
            check_choice("edge", edge, EDGE_NAMES, SchemaError)
        for one in self.per:
            check_choice("per", one, get_args(EffectsOf), SchemaError)
        if len(self.regions) != 2 or not all(
            isinstance(side, int) and side > 0 for side in self.regions
        ):
            msg = f"Expected a grid (height, width) from 1 on, got {self.regions!r}, at regions. "
            raise SchemaError(msg + "Give another.")
        if self.adaptive:
            RegionGrid(Box(0, 0, *self.regions), self.regions).largest()
        if not isinstance(self.batch, int) or self.batch < 1:
            msg = f"Expected a whole number from 1 on, got {self.batch!r}, at batch. Give another."
            raise SchemaError(msg)
        if not self.reference_edges:
            msg = (
                f"Expected an edge that begins at the reference, got {list(self.edges)}, at edges. Give "
                "'reference->generated', too."
            )
            raise SchemaError(msg)

    @property
    def reference_edges(self) -> tuple[EdgeName, ...]:
        """The edges over which regions, layers and all reference tokens are cut."""
        return tuple(edge for edge in self.edges if edge.startswith("reference->"))


@dataclass(frozen=True)
class MeasuredEffects:
    """Measured effects of one image.

    Parameters
    ----------
    arrays : mapping of str to array of float32
        By their names in a store of effects, whose dimensions `EFFECT_ARRAYS` tells. Each value is the
        root of a patch's mean square change, of latents, or of pixels from 0 to 1 (``…_pixels``).
    boxes : array (cut, 4) of float64
        The regions: y0, x0, y1, x1 in pixels of the reference.
    layers, edges : tuple of str
        Labels of the dimensions ``layer`` and ``edge``.
    orders : mapping of str to tuple of int
        Of each curve, the regions in the order in which they were taken.
    counts : tuple of int
        How many regions were taken at each point of a curve.
    direct_steps : tuple of int, optional
        The steps at which direct effects were measured.
    pictures : int
        Number of images that were painted.

    Examples
    --------
    >>> ones = np.ones((2, 2), np.float32)
    >>> regions = {"region": np.stack([ones / 2, ones]), "floor": 0 * ones, "ceiling": ones}
    >>> found = MeasuredEffects(regions, boxes=np.array([[0, 0, 8, 8], [8, 8, 16, 16]], float))
    >>> found.share("region").tolist()
    [0.5, 1.0]
    """

    arrays: Mapping[str, NDArray[np.float32]]
    boxes: NDArray[np.float64]
    layers: tuple[str, ...] = ()
    edges: tuple[str, ...] = ()
    orders: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    counts: tuple[int, ...] = ()
    direct_steps: tuple[int, ...] | None = None
    pictures: int = 0

    def __getitem__(self, name: str) -> NDArray[np.float32]:
        """Return an array by its name."""
        return self.arrays[name]

    def share(self, name: str) -> NDArray[np.float64]:
        """Return effects in one number each, as shares of cutting all reference tokens.

        Parameters
        ----------
        name : str
            Of an array with a dimension before y and x.

        Returns
        -------
        array, of the dimensions before y and x
        """
        prefix = "direct_" if name.startswith("direct_") else ""
        suffix = "_pixels" if name.endswith("_pixels") else ""
        whole = strength(self.arrays[f"{prefix}ceiling{suffix}"])
        values = np.square(self.arrays[name], dtype=np.float64).mean(axis=(-2, -1))
        return np.sqrt(values) / whole if whole else np.zeros(values.shape)


def kinds_of(options: EffectOptions) -> list[str]:
    """Return the kinds of effects that are measured, by their names in a store.

    Examples
    --------
    >>> kinds_of(EffectOptions(forced=True))
    ['total', 'direct']
    """
    asked = {"total": True, "direct": options.forced, "occlusion": options.occlusion}
    return [kind for kind, is_asked in asked.items() if is_asked]


def knock_out(
    pipe: Any,
    call: Mapping[str, Any] | PaintingCall,
    *,
    pictures: Mapping[str, Any] | None = None,
    regions: tuple[int, int] = (8, 8),
    edges: Sequence[EdgeName] = ("reference->generated",),
    per: Sequence[EffectsOf] = ("region", "layer"),
    forced: bool = False,
    occlusion: bool = False,
    adaptive: bool = False,
    orders: Orders | None = None,
    seed: int | None = None,
    batch: int = 8,
    boxes: Mapping[str, Sequence[float]] | None = None,
    guidance: GuidanceOption = "conditional",
    profile: str | Profile | None = None,
    denoiser: str | None = None,
) -> MeasuredEffects:
    """Measure what changes in an image when the tokens of each region, or layer, are cut.

    The same image is painted again and again, from the same noise, each time without some reference
    tokens. Afterwards nothing is left on the model.

    Parameters
    ----------
    pipe : diffusers pipeline, CompVis-style model, or denoiser module
    call : mapping of str to object, or PaintingCall
        The arguments with which the pipeline paints the image; or what paints it, as often as it is
        asked to: ``call(count)``. That may return latents, too: a tensor (image, channel, y, x).
    pictures : mapping of str to picture, or to (height, width)
        The "reference", of which regions are cut, and further ones, as in `cut`. Of a pipeline that
        takes its reference as an argument, it is found.
    regions, edges, per, forced, occlusion, adaptive, guidance, batch
        See `EffectOptions`.
    orders : callable (boxes) -> mapping of str to sequence of int, optional
        Given the regions' boxes, array (cut, 4): names of orders, and in which order each takes the
        regions. Of each, a curve is measured with the first regions cut, and with all others cut.
    seed : int, optional
        Of the noise; None takes that of the call's ``generator``, or 0.
    boxes, profile, denoiser
        See `cut`.

    Returns
    -------
    MeasuredEffects

    Raises
    ------
    CaptureError
        As `cut`; if the model does not paint the same image from the same noise, or cannot paint
        several in one call.
    SchemaError
        If a value is not valid.

    Notes
    -----
    ``floor`` is the effect of the keys in another order, which changes rounding alone. ``ceiling`` is the
    effect of cutting all reference tokens in all layers. An effect below the floor counts as none, and
    one as large as the ceiling is the whole effect of the reference's tokens.

    Examples
    --------
    ::

        effects = knock_out(
            pipe,
            {"image": person, "mask_image": mask, "example_image": garment},
            regions=(8, 8),
            seed=7,
        )
        print(effects.share("layer"))  # of all that the reference does, by layer
    """
    options = EffectOptions(
        regions=regions,
        adaptive=adaptive,
        edges=edges,
        per=per,
        forced=forced,
        occlusion=occlusion,
        guidance=guidance,
        batch=batch,
    )
    given = dict(pictures or {})
    painting_call: PaintingCall
    if isinstance(call, Mapping):
        repeated = RepeatedCall(pipe, call, seed)
        if "reference" not in given and (found := repeated.reference) is not None:
            given["reference"] = found
        painting_call = repeated
    else:
        painting_call = call
    known = {name: Box(*box) for name, box in (boxes or {}).items()}
    sizes = {name: picture_size(picture, name) for name, picture in given.items()}
    around = look(pipe, painting_call, sizes, known, profile=profile, denoiser=denoiser)
    painter = Painter(
        pipe,
        painting_call,
        min(batch, painting_call.most),
        around.frames,
        sizes,
        {**known, **around.boxes},
        guidance,
        profile,
        denoiser,
    )
    return measure(painter, around, options, orders=orders, reference=given.get("reference"))


def measure(
    painter: Painter,
    around: Surroundings,
    options: EffectOptions,
    *,
    orders: Orders | None = None,
    reference: Any = None,
    check: Callable[[Painting, Painting], None] | None = None,
    done: Callable[[int], object] = lambda _count: None,
) -> MeasuredEffects:
    """Measure the effects of one image.

    Parameters
    ----------
    painter : Painter
    around : Surroundings
        Where the layers' grids lie.
    options : EffectOptions
    orders
        See `knock_out`.
    reference : PIL image, optional
        The picture that is painted over, for occlusion.
    check : callable (untouched, reordered), optional
        Given, of the first call, what was painted untouched, and with the keys reordered; before
        anything else is painted.
    done : callable (int)
        Told how many images each call has painted.

    Raises
    ------
    CaptureError
        See `knock_out`; what `check` raises.
    """
    return _Measurement(painter, around, options, check, done).run(orders, reference)


@dataclass(frozen=True)
class _Change:
    """What a cut changes, over the patches."""

    latents: Values
    pixels: Values | None


class _Measurement:
    """One image's measurement, from the first call to the arrays."""

    def __init__(
        self,
        painter: Painter,
        around: Surroundings,
        options: EffectOptions,
        check: Callable[[Painting, Painting], None] | None,
        done: Callable[[int], object],
    ) -> None:
        self._painter, self._around, self._options = painter, around, options
        self._check, self._done = check, done
        self._clean: Painting | None = None
        self._arrays: dict[str, NDArray[np.float32]] = {}
        # What is cut, by the name of its array; the direct kind cuts the same.
        self._cuts: dict[str, list[Cut | None]] = {}

    def run(self, orders: Orders | None, reference: Any) -> MeasuredEffects:
        """Measure all that is asked for."""
        options, edges = self._options, self._options.reference_edges
        self._cuts["floor"] = [Cut(edges=edges, reorder=True)]
        self._cuts["ceiling"] = [Cut(edges=edges)]
        layers = self._around.layers if "layer" in options.per else ()
        if layers:
            self._cuts["layer"] = [Cut(edges=edges, layers=layer) for layer in layers]
        apart = tuple(options.edges) if "edge" in options.per else ()
        if apart:
            self._cuts["edge"] = [Cut(edges=(edge,)) for edge in apart]
        known = list(self._cuts)
        boxes: list[Box] = []
        is_apart = "region" in options.per
        if is_apart or orders is not None or options.occlusion:
            regions = RegionGrid(self._around.reference_box(), options.regions)
            boxes = regions.boxes(regions.largest() if options.adaptive and is_apart else 1)
        if is_apart:
            known.append("region")
            self._cuts["region"] = [Cut(edges=edges, region=box) for box in boxes]
        # Together, so that the calls are full.
        changes = dict(zip(known, self._grouped(known), strict=True))
        if options.adaptive and is_apart:
            boxes, changes["region"] = self._refined(regions, boxes, changes["region"])
            self._cuts["region"] = [Cut(edges=edges, region=box) for box in boxes]
        for name, found in changes.items():
            self._keep(name, found)
        taken: Mapping[str, tuple[int, ...]] = {}
        counts: tuple[int, ...] = ()
        if orders is not None:
            taken, counts = self._curves(orders, boxes)
        if options.occlusion:
            self._occlusion(boxes, reference)
        direct_steps = self._direct() if options.forced else None
        return MeasuredEffects(
            self._arrays,
            np.array(boxes, np.float64).reshape(-1, 4),
            tuple(layers),
            apart,
            taken,
            counts,
            direct_steps,
            self._painter.pictures,
        )

    def _grouped(self, names: Sequence[str]) -> Iterator[list[_Change]]:
        """Yield the changes by the cuts of each name."""
        found = iter(self._changes([cut for name in names for cut in self._cuts[name]]))
        for name in names:
            yield [next(found) for _ in self._cuts[name]]

    def _changes(self, cuts: Sequence[Cut | None]) -> list[_Change]:
        """Return what each of some cuts changes; the first of them is a reordering."""
        left, found = list(cuts), []
        if self._clean is None:
            found += self._first(left[: max(self._painter.size - 2, 0)])
            del left[: len(found)]
        size = self._painter.size
        for first in range(0, len(left), size):
            now = left[first : first + size]
            painting = self._paint(now)
            found += [self._change(painting, row) for row in range(len(now))]
        return found

    def _first(self, cuts: Sequence[Cut | None]) -> list[_Change]:
        """Paint untouched, with some cuts in the same call, and check that it is always the same."""
        size = self._painter.size
        painting = self._paint([None, *cuts])
        self._clean = _row(painting, 0)
        if size > 1:
            self._check_is_copy(_row(painting, size - 1), _COPY_TOLERANCE)
        if self._around.painting is not None:  # In a call of one image: rounding is another.
            self._check_is_copy(self._around.painting, _OTHER_CALL_TOLERANCE)
        if self._check is not None:
            is_there = bool(cuts)
            reordered = painting if is_there else self._paint(self._cuts["floor"])
            self._check(
                replace(self._clean, output=painting.output), _row(reordered, int(is_there))
            )
        return [self._change(painting, 1 + row) for row in range(len(cuts))]

    def _paint(
        self, cuts: Sequence[Cut | None], references: Sequence[Image.Image | None] | None = None
    ) -> Painting:
        painting = self._painter.paint(cuts, references)
        self._done(self._painter.size)
        return painting

    def _change(self, painting: Painting, row: int) -> _Change:
        assert self._clean is not None
        return _change(self._clean, _row(painting, row), self._around.grid)

    def _check_is_copy(self, other: Painting, tolerance: float) -> None:
        assert self._clean is not None
        own = self._clean.latents
        largest = float(np.abs(other.latents - own).max())
        if largest > tolerance * float(np.abs(own).max()):
            msg = (
                "Expected an image that is painted from the same noise to be the same, got ones that differ "
                f"by {largest:.2g} in their latents. Give each image the same noise; if only those of one "
                "call differ, paint one a call: batch=1 (--batch-size 1)."
            )
            raise CaptureError(msg)

    def _refined(
        self, regions: RegionGrid, boxes: list[Box], changes: list[_Change]
    ) -> tuple[list[Box], list[_Change]]:
        """Split the strongest quarter of the regions of each size, down to the finest."""
        edges, size = self._options.reference_edges, regions.largest()
        kept: list[tuple[Box, _Change]] = []
        while size > 1:
            order = np.argsort([-strength(one.latents) for one in changes], kind="stable")
            split = {int(number) for number in order[: ceil(len(boxes) / 4)]}
            kept += [
                (boxes[number], changes[number])
                for number in range(len(boxes))
                if number not in split
            ]
            boxes = [part for number in sorted(split) for part in regions.parts(boxes[number])]
            changes = self._changes([Cut(edges=edges, region=box) for box in boxes])
            size //= 2
        kept += zip(boxes, changes, strict=True)
        kept.sort(key=lambda one: one[0])
        return [box for box, _ in kept], [change for _, change in kept]

    def _keep(self, name: str, changes: Sequence[_Change]) -> None:
        """Keep the changes as arrays of this name."""
        shape = self._shape(name, len(changes))
        for suffix, values in (
            ("", [one.latents for one in changes]),
            ("_pixels", [one.pixels for one in changes if one.pixels is not None]),
        ):
            if values:
                self._arrays[name + suffix] = np.stack(values).astype(np.float32).reshape(shape)

    def _shape(self, name: str, count: int) -> tuple[int, ...]:
        dims = EFFECT_ARRAYS[name]
        return self._around.grid if len(dims) == 2 else (count, *self._around.grid)

    def _curves(
        self, orders: Orders, boxes: list[Box]
    ) -> tuple[dict[str, tuple[int, ...]], tuple[int, ...]]:
        """Measure what the first regions of each order do, and all others."""
        found = {
            name: tuple(map(int, order))
            for name, order in orders(np.array(boxes, np.float64)).items()
        }
        for name, order in found.items():
            if sorted(order) != list(range(len(boxes))):
                msg = (
                    f"Expected each of {len(boxes)} regions once, got {list(order)[:8]} …, at the order "
                    f"{name!r}. Give all of their numbers."
                )
                raise SchemaError(msg)
        parts = range(_CURVE_PARTS + 1)
        counts = tuple(sorted({round(part * len(boxes) / _CURVE_PARTS) for part in parts}))
        # The same set of regions is cut once, whatever its name.
        sets: dict[frozenset[int], None] = {}
        wanted: dict[str, list[frozenset[int]]] = {"deletion": [], "insertion": []}
        for order in found.values():
            for count in counts:
                wanted["deletion"].append(frozenset(order[:count]))
                wanted["insertion"].append(frozenset(order[count:]))
        for one in (*wanted["deletion"], *wanted["insertion"]):
            sets.setdefault(one)
        cuts = [self._union([boxes[number] for number in one]) for one in sets]
        changes = dict(zip(sets, self._changes(cuts), strict=True))
        for name, each in wanted.items():
            shape = (len(found), len(counts), *self._around.grid)
            self._arrays[name] = np.stack(
                [changes[one].latents for one in each], dtype=np.float32
            ).reshape(shape)
        return found, counts

    def _union(self, boxes: Sequence[Box]) -> Cut | None:
        """Return the cut of several regions; None if there is nothing to cut."""
        mask = RegionGrid.mask(boxes, *self._painter.sizes["reference"])
        if not mask.any():
            return None
        return Cut(edges=self._options.reference_edges, region=mask)

    def _occlusion(self, boxes: Sequence[Box], reference: Any) -> None:
        most = self._painter.call.most_references
        if not isinstance(reference, Image.Image) or not most:
            msg = (
                "Expected a pipeline that takes the reference as a picture, for occlusion, got "
                f"{type(self._painter.target).__name__}. Leave occlusion (--occlusion) out."
            )
            raise CaptureError(msg)
        own = self
        if most < self._painter.size:
            painter = replace(self._painter, size=most)
            own = _Measurement(painter, self._around, self._options, None, self._done)
            own._clean = _row(own._paint([]), 0)
        size, changes = own._painter.size, []
        for first in range(0, len(boxes), size):
            pictures = [occluded(reference, box) for box in boxes[first : first + size]]
            painting = own._paint([], pictures)
            changes += [own._change(painting, row) for row in range(len(pictures))]
        self._keep("occlusion", changes)
        if own is not self:
            self._painter.pictures += own._painter.pictures

    def _direct(self) -> tuple[int, ...]:
        forced = ForcedPainter(self._painter, self._options.forced_steps)
        before = self._painter.pictures
        found = iter(
            forced.changes([cut for cuts in self._cuts.values() for cut in cuts], self._around.grid)
        )
        self._done(self._painter.pictures - before)
        for name, cuts in self._cuts.items():
            self._keep(f"direct_{name}", [_Change(next(found), None) for _ in cuts])
        return tuple(forced.steps)


def _change(clean: Painting, other: Painting, grid: tuple[int, int]) -> _Change:
    pixels = None
    if clean.pixels is not None and other.pixels is not None:
        pixels = change_of_patches(other.pixels[0] - clean.pixels[0], grid)
    return _Change(change_of_patches(other.latents[0] - clean.latents[0], grid), pixels)


def _row(painting: Painting, row: int) -> Painting:
    pixels = None if painting.pixels is None else painting.pixels[row : row + 1]
    return Painting(painting.latents[row : row + 1], pixels, None)
