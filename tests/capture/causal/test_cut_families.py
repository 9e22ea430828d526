"""A cut in every family, against the same model with an explicit mask in explicit attention."""

from __future__ import annotations

import fnmatch
import functools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from i2am.capture import Cut, capture
from i2am.capture.causal.cut import cutting
from i2am.schemas import Box
from tests.support.explicit_attention import explicit_attention
from tests.support.tiny_pipelines import models
from tests.support.tiny_pipelines.catalogue import FAMILIES
from tests.support.tiny_pipelines.family import Family
from tests.support.tiny_pipelines.small_images import small_images

pytestmark = pytest.mark.filterwarnings("ignore:__array")  # in a scheduler
STEPS = 2
# The pictures of all families count as 8 × 8 pixels, all of which the model saw.
BOXES = {name: Box(0, 0, 8, 8) for name in ("generated", "reference", "reference_1")}
# Their only layer that has text is the last one: what the text reads there, nothing reads.
LAST_OF_TEXT = {"z-image-omni"}
LEFT, LOWER = (0, 0, 8, 4), (4, 0, 8, 8)


@pytest.fixture(autouse=True)
def _small_images() -> Iterator[None]:
    with small_images():
        yield


@functools.cache
def shared(name: str) -> Family:
    """Return a family's pipeline, which cuts must leave as they found it."""
    torch.manual_seed(0)
    return FAMILIES[name]()


@pytest.fixture(params=FAMILIES)
def name(request: pytest.FixtureRequest) -> str:
    found: str = request.param
    return found


@functools.cache
def clean(name: str) -> Any:
    return shared(name).run(STEPS)


def run_cut(name: str, cut: Cut) -> Any:
    family = shared(name)
    with cutting(family.pipeline, [cut], boxes=BOXES):
        return family.run(STEPS)


def test_nothing_cut_is_bit_identical_and_leaves_nothing(name: str) -> None:
    expected = clean(name)
    before = _hooks(shared(name))  # Pipelines leave things of their own.
    assert torch.equal(run_cut(name, Cut(scale=1.0)), expected)
    assert _hooks(shared(name)) == before
    assert torch.equal(shared(name).run(STEPS), clean(name))


def test_keys_in_another_order_change_rounding_alone(name: str) -> None:
    assert difference(run_cut(name, Cut(reorder=True)), clean(name)) < 1e-5


@pytest.mark.parametrize(
    "situation",
    [
        Cut(),
        Cut(generated=LOWER),
        Cut(region=LEFT, generated=LOWER),
        Cut(region=LEFT, scale=0.5, heads=[0], steps=[1]),
        Cut(edges=["text->generated"], generated=LOWER),
        Cut(edges=["reference->text"], region=LEFT),
        Cut(edges=["reference->generated", "reference->text", "text->generated"], scale=3.0),
    ],
    ids=["all", "patches", "region", "weighed", "text", "by-text", "three-edges"],
)
def test_a_cut_equals_a_mask_in_explicit_attention(
    situation: Cut, name: str, layers: dict[str, Any]
) -> None:
    family = shared(name)
    if not is_possible(situation, family):
        return
    mask = Mask(family, situation, layers)
    with explicit_attention(*family.denoisers, change=mask.change):
        expected = family.run(STEPS)
    assert mask.changed, "the comparison must compare something"
    found = run_cut(name, situation)
    assert difference(found, expected) < 1e-5
    is_dead_end = situation.edges == ["reference->text"] and name in LAST_OF_TEXT
    assert (difference(found, clean(name)) > 1e-7) != is_dead_end


def test_nothing_is_left_after_an_exception(name: str) -> None:
    family, expected = shared(name), clean(name)
    before = _hooks(family)
    with pytest.raises(ZeroDivisionError), cutting(family.pipeline, [Cut()]):
        handle = _some_layer(family).register_forward_hook(_fail)
        try:
            family.run(STEPS)
        finally:
            handle.remove()
    assert _hooks(family) == before
    assert torch.equal(family.run(STEPS), expected)


_grids: dict[str, dict[str, Any]] = {}


@pytest.fixture
def layers(name: str, tmp_path: Path) -> dict[str, Any]:
    if name not in _grids:
        _grids[name] = grids(shared(name), tmp_path / "run.zarr")
    return _grids[name]


def grids(family: Family, store: Path) -> dict[str, Any]:
    """Return the grid of each layer's generated patches, as a capture stores it."""
    with capture(family.pipeline, store, sample="one", representation="factors") as recording:
        family.run(STEPS)
        square = np.zeros((8, 8, 3), np.uint8)
        recording.add_images(generated=family.blank(), reference=square)
    return {
        path.partition(".reference_")[0]: tuple(layer.attrs["i2am"]["generated_grid"])
        for path, layer in models.opened(store / "one" / "layers").groups()
    }


def is_possible(situation: Cut, family: Family) -> bool:
    """Return whether the family has the tokens that a situation cuts."""
    if "text->generated" in situation.edges and not family.text:
        return False
    if "reference->text" in situation.edges and not family.text_queries:
        return False
    return situation.region is None or any(
        tokens == -1 or grid for tokens, _, grid in family.references[:1]
    )


@dataclass
class Mask:
    """What a cut does, as a change of the scores of attention that is written out.

    Layers are known by their paths and calls by their order; nothing of capture's taps is used.
    """

    family: Family
    cut: Cut
    layers: dict[str, tuple[int, int]]
    changed: int = 0
    _calls: dict[str, int] = field(default_factory=dict)

    def change(self, path: str, scores: torch.Tensor) -> torch.Tensor:
        if path not in self.layers:
            return scores
        family, grid = self.family.of(path), self.layers[path]
        patches = math.prod(grid)
        if scores.shape[-1] != family.key_count(patches):
            return scores
        call = self._calls[path] = self._calls.get(path, -1) + 1
        step, rest = divmod(call, family.calls)
        kept = self.cut.steps
        assert kept is None or isinstance(kept, list)
        if rest or (kept is not None and step not in kept):
            return scores
        added = self._added(family, path, scores, grid)
        self.changed += int((added != 0).sum())
        return scores + added

    def _added(
        self, family: Family, path: str, scores: torch.Tensor, grid: tuple[int, int]
    ) -> torch.Tensor:
        """Return what is added to the scores of each row, head, query and key."""
        patches, keys = math.prod(grid), scores.shape[-1]
        edges = self.cut.edges
        reads_text = family.text_layers is None or fnmatch.fnmatchcase(path, family.text_layers)
        of_reference, of_text = np.zeros(keys, bool), np.zeros(keys, bool)
        for index, reference in enumerate(family.references):
            if index == 0 or self.cut.region is None:
                of_reference[family.keys_of(patches, index)] = self._cells(reference, grid)
        if reads_text:
            of_text[list(family.text)] = True
        by_patch, by_text = np.zeros(keys, bool), np.zeros(keys, bool)
        by_patch |= of_reference if "reference->generated" in edges else False
        by_patch |= of_text if "text->generated" in edges else False
        by_text |= of_reference if "reference->text" in edges and reads_text else False
        is_patch = cells(grid, self.cut.generated).ravel()
        rows = family.conditional(torch.arange(len(scores)))
        weight = -math.inf if self.cut.scale == 0 else math.log(self.cut.scale)
        added = torch.zeros_like(scores)
        heads = range(scores.shape[1]) if self.cut.heads is None else self.cut.heads
        for number, row in enumerate(rows.tolist()):
            own = of_row(is_patch, number, len(rows), family.frames)
            queries = np.zeros(scores.shape[2], bool)
            queries[family.queries_before :][: len(own)] = own
            is_cut = queries[:, None] & by_patch
            if by_text.any():
                is_cut[list(family.text_queries)] |= by_text
            for head in heads:
                added[row, head][torch.from_numpy(is_cut)] = weight
        return added

    def _cells(
        self, reference: tuple[int, int, tuple[int, int] | None], grid: tuple[int, int]
    ) -> Sequence[bool] | Any:
        count, special, own_grid = reference
        if self.cut.region is None:
            return True
        if count == -1:
            own_grid = (grid[0] // self.family.frames, grid[1])
        assert own_grid is not None
        return np.concatenate([np.zeros(special, bool), cells(own_grid, self.cut.region).ravel()])


def cells(grid: tuple[int, int], region: Any) -> Any:
    """Return which cells of a grid over 8 × 8 pixels are in the left, or the lower, half."""
    found = np.ones(grid, bool)
    if region is not None and region.x1 == 4:
        found[:, grid[1] // 2 :] = False
    if region is not None and region.y0 == 4:
        found[: grid[0] // 2] = False
    return found


def of_row(is_patch: Any, number: int, rows: int, frames: int) -> Any:
    """Return the patches of one of the rows that a video model may fold frames or positions into."""
    if rows == 1:
        return is_patch
    apart = is_patch.reshape(frames, -1)
    return apart[number] if rows == frames else apart.T[number]


def difference(found: Any, expected: Any) -> float:
    """Return the largest difference, as a share of the largest value."""
    assert found.shape == expected.shape
    return float((found - expected).abs().max() / expected.abs().max())


def _hooks(family: Family) -> list[tuple[str, list[str], int]]:
    return [
        (path, sorted(vars(module)), len(module._forward_hooks) + len(module._forward_pre_hooks))
        for denoiser in family.denoisers
        for path, module in denoiser.named_modules()
    ]


def _some_layer(family: Family) -> Any:
    names = ("to_k", "img_attn_qkv")
    modules = family.denoiser.modules()
    return [m for m in modules if any(getattr(m, one, None) is not None for one in names)][-1]


def _fail(*_: Any) -> None:
    raise ZeroDivisionError
