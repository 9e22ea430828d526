"""Cuts in research code and toys, whom they touch, where regions lie, and what is refused."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from typing import Any

import numpy as np
import pytest
import torch
from diffusers.models.attention_processor import AttnProcessor
from torch import nn
from torch.nn import functional

from i2am.capture import Cut, cut, cutting
from i2am.capture.causal.cut import layer_names
from i2am.schemas import Box, CaptureError, SchemaError
from tests.support.compvis.checks import BUILDERS
from tests.support.compvis.models import (
    DDIMSampler,
    LatentDiffusion,
    cross_attentions,
)
from tests.support.joint_toy import GRID, REFERENCES, TEXT, JointToy, toy_profile
from tests.support.research.canvases import CANVASES
from tests.support.research.garments import GARMENTS
from tests.support.research.models import Research
from tests.support.research.super_resolution import SUPER_RESOLUTION
from tests.support.research.witness import explicit_kernels
from tests.support.tiny_pipelines import models
from tests.support.tiny_pipelines.families import ip_adapter, noise_image

STEPS = 2
RESEARCH = GARMENTS | CANVASES | SUPER_RESOLUTION
WHOLE = {f"reference{suffix}": Box(0, 0, 8, 8) for suffix in ("", "_1")}
LEFT = (0, 0, 8, 4)
GARMENT = {"reference": Box(0, 0, 32, 24)}
LEFT_OF_GARMENT = (0, 0, 32, 12)


def difference(found: torch.Tensor, expected: torch.Tensor) -> float:
    """Return the largest difference, as a share of the largest value."""
    return float((found - expected).abs().max() / expected.abs().max())


def hooked(model: nn.Module) -> list[str]:
    return [
        name
        for name, module in model.named_modules()
        if module._forward_hooks or module._forward_pre_hooks
    ]


@pytest.mark.parametrize("region", [None, LEFT], ids=["all", "region"])
@pytest.mark.parametrize("name", RESEARCH)
def test_a_cut_of_a_research_model_equals_a_mask(name: str, region: Any) -> None:
    research = RESEARCH[name]()
    if region and all(
        one.grid is None for own in research.layers.values() for one in own.references
    ):
        return
    clean = research.sample(STEPS)
    with explicit_kernels(research.denoiser, mask_of(research, region)):
        expected = research.sample(STEPS)
    settings = {key: own for key, own in research.options.items() if key in ("profile", "steps")}
    with cutting(research.target, [Cut(region=region)], boxes=WHOLE, **settings):
        found = research.sample(STEPS)
    assert difference(found, expected) < 1e-5
    assert difference(found, clean) > 1e-7
    assert hooked(research.denoiser) == []
    assert torch.equal(research.sample(STEPS), clean)


def mask_of(research: Research, region: Any) -> Any:
    """Return the change of scores that a cut of the first reference (a region), or of all, makes."""
    row = research.guidance.index("conditional")

    def change(path: str, call: int, scores: torch.Tensor) -> torch.Tensor:
        layer = research.layers.get(path)
        if layer is None or call % layer.kernels != layer.kernel:
            return scores
        cut_keys: list[int] = []
        for reference in layer.references if region is None else layer.references[:1]:
            tokens = list(reference.tokens)
            if region is not None and reference.grid is None:
                continue
            if region is not None:
                assert reference.grid is not None
                height, width = reference.grid
                tokens = [
                    tokens[reference.special + y * width + x]
                    for y in range(height)
                    for x in range(width)
                    if (x + 0.5) / width < 0.5
                ]
            cut_keys += tokens
        changed = scores.clone()
        queries = torch.as_tensor(list(layer.generated))[:, None]
        changed[row, :, queries, torch.as_tensor(cut_keys, dtype=torch.long)] = -math.inf
        return changed

    return change


@pytest.mark.parametrize("name", BUILDERS)
def test_a_cut_of_compvis_code_equals_a_mask(name: str) -> None:
    model = BUILDERS[name]()
    sampler = DDIMSampler(model)
    clean = sampler.sample(STEPS)
    with cut(model):
        found = sampler.sample(STEPS)
    assert difference(found, masked(model, sampler, {})) < 1e-5
    assert difference(found, clean) > 1e-4
    with cut(model, scale=1.0):
        assert torch.equal(sampler.sample(STEPS), clean)
    assert hooked(model) == []


@pytest.mark.parametrize("scale", [0.0, 0.25])
def test_a_region_of_stablevitons_garment_is_cut_as_a_mask_cuts_it(scale: float) -> None:
    model = BUILDERS["stableviton"]()
    sampler = DDIMSampler(model)
    options: Any = {"region": LEFT_OF_GARMENT, "boxes": {"reference": GARMENT["reference"]}}
    with cut(model, layers="warp*", scale=scale, pictures={"reference": (32, 24)}, **options):
        found = sampler.sample(STEPS)
    columns = {12 * 16: 12, 6 * 8: 6, 24 * 32: 24}
    left = {
        keys: [key for key in range(keys) if key % width < width // 2]
        for keys, width in columns.items()
    }
    expected = masked(model, sampler, left, only="warp", scale=scale)
    assert difference(found, expected) < 1e-5
    assert difference(found, sampler.sample(STEPS)) > 1e-5


def masked(
    model: LatentDiffusion,
    sampler: DDIMSampler,
    keys: dict[int, list[int]],
    *,
    only: str = "",
    scale: float = 0.0,
) -> torch.Tensor:
    """Return latents of the model with cross-attention that is written out, and other scores.

    `keys` has those that are changed, by the number of all; without them it is all.
    """
    layers = {n: module for n, module in cross_attentions(model).items() if n.startswith(only)}
    logarithm = math.log(scale) if scale else -math.inf

    def forward(layer: Any) -> Any:
        def attend(x: torch.Tensor, context: Any = None, **_: Any) -> torch.Tensor:
            query, key, value = layer.project(x, context)
            scores = query @ key.transpose(-1, -2) * query.shape[-1] ** -0.5
            scores[..., keys.get(scores.shape[-1], range(scores.shape[-1]))] += logarithm
            joined: torch.Tensor = layer.join(scores.softmax(-1).nan_to_num(0.0) @ value)
            return joined

        return attend

    for layer in layers.values():
        layer.forward = forward(layer)
    try:
        return sampler.sample(STEPS)
    finally:
        for layer in layers.values():
            del layer.forward


def test_only_the_rows_of_the_conditional_branch_and_of_images_with_a_cut_change() -> None:
    family = ip_adapter("full")
    unet = family.denoiser
    seen: list[torch.Tensor] = []
    layer = unet.mid_block.attentions[0].transformer_blocks[0].attn2
    plain: list[torch.Tensor] = []

    def run(into: list[torch.Tensor], cuts: Sequence[Cut | None]) -> None:
        keep = layer.register_forward_hook(lambda *found: into.append(found[2].clone()))
        call = {key: own for key, own in family.call.items() if key != "generator"}
        try:
            with cutting(family.pipeline, cuts, boxes=WHOLE):
                family.pipeline(
                    **call,
                    num_inference_steps=1,
                    output_type="latent",
                    num_images_per_prompt=2,
                    generator=torch.Generator().manual_seed(0),
                )
        finally:
            keep.remove()

    run(plain, [Cut(scale=1.0), None])
    # The middle layer's inputs change, too, if layers before it are cut.
    run(seen, [None, Cut(layers="mid_block*")])
    changed = [not torch.equal(a, b) for a, b in zip(plain[0], seen[0], strict=True)]
    assert changed == [False, False, False, True], "unconditional images, then conditional ones"


def test_both_branches_are_cut_where_that_is_asked() -> None:
    model = BUILDERS["stableviton"]()
    sampler = DDIMSampler(model)

    def run(**options: Any) -> torch.Tensor:
        with cut(model, layers="warp*", **options):
            return sampler.sample(STEPS, scale=3.0)

    assert difference(run(guidance="both"), run()) > 1e-5


# The text reads the reference in the first layer, the patches read the text in the second; there they
# read the reference, too. What a patch gets of the reference's value is 0.062 directly, and 0.1 × 0.38
# through the text.
SOURCE = {("reference", "reference_0"): [1 / 6] * 6}
ROADS_LAYER = {
    ("text", "text"): [0.62, 0, 0],
    ("text", "reference_0"): [0.38, 0, 0, 0, 0, 0],
    ("generated", "generated"): [1.0] + [0] * 7,
    **SOURCE,
}
SECOND_LAYER = {
    ("text", "text"): [1.0, 0, 0],
    ("generated", "text"): [0.1, 0, 0],
    ("generated", "reference_0"): [0.062, 0, 0, 0, 0, 0],
    ("generated", "generated"): [0.838] + [0] * 7,
    **SOURCE,
}


def run_toy(toy: JointToy, **options: Any) -> torch.Tensor:
    latents = torch.zeros_like(JointToy.latents())
    first = TEXT + math.prod(GRID)
    latents[:, first : first + math.prod(REFERENCES[0])] = 1.0
    with ExitStack() as stack:
        if options:
            stack.enter_context(cut(toy, profile=toy_profile(), **options))
        found: torch.Tensor = toy(latents, torch.tensor([1]))
    return found


def test_the_shares_of_two_roads_are_recovered() -> None:
    toy = JointToy([ROADS_LAYER, SECOND_LAYER])
    patches = slice(TEXT, TEXT + math.prod(GRID))
    clean = run_toy(toy)[:, patches]
    assert clean.mean() == pytest.approx(0.1, abs=1e-6)

    def share(*edges: Any) -> float:
        cut_off = run_toy(toy, edges=edges, reference=0)[:, patches]
        return float((clean - cut_off).mean() / clean.mean())

    assert share("reference->generated") == pytest.approx(0.62, abs=0.05)
    assert share("reference->text") == pytest.approx(0.38, abs=0.05)
    assert share("reference->generated", "reference->text") == pytest.approx(1.0, abs=1e-6)
    assert share("text->generated") == pytest.approx(0.38, abs=0.1)  # What is left weighs more.


class Hidden(nn.Module):
    """A processor whose softmax is neither a kernel's nor PyTorch's."""

    def __call__(
        self, attention: Any, states: Any, encoder_hidden_states: Any = None, **_: Any
    ) -> torch.Tensor:
        tokens = states if encoder_hidden_states is None else encoder_hidden_states
        query, key, value = (
            own.unflatten(-1, (attention.heads, -1)).transpose(1, 2)
            for own in (attention.to_q(states), attention.to_k(tokens), attention.to_v(tokens))
        )
        mixed = self.attend(query, key, value)
        found: torch.Tensor = attention.to_out[0](mixed.transpose(1, 2).flatten(2))
        return found

    def attend(self, query: Any, key: Any, value: Any) -> Any:
        weights = (query @ key.mT * query.shape[-1] ** -0.5).exp()
        return (weights / weights.sum(-1, keepdim=True)) @ value


class Rotated(Hidden):
    """A processor that gives the kernel other keys than its projection's."""

    def attend(self, query: Any, key: Any, value: Any) -> Any:
        return functional.scaled_dot_product_attention(query, key.flip(-1), value)


@pytest.fixture(scope="module")
def exemplar() -> Any:
    return models.reference_inpaint()


def paint(pipeline: Any, **changes: Any) -> torch.Tensor:
    options: Any = {"generator": torch.Generator().manual_seed(0), "output_type": "latent"}
    call = models.noise_images(64) | changes
    found: torch.Tensor = pipeline(**call, num_inference_steps=STEPS, **options)[0]
    return found


class Processors:
    """Puts other processors into a model, and those of before back."""

    def __init__(self, unet: Any) -> None:
        self._unet, self.before = unet, unet.attn_processors

    def __call__(self, processors: Any) -> None:
        # Diffusers empties the dict that it is given.
        own = dict(processors) if isinstance(processors, dict) else processors
        self._unet.set_attn_processor(own)


@pytest.fixture
def processors(exemplar: Any) -> Iterator[Processors]:
    found = Processors(exemplar.unet)
    yield found
    found(found.before)


@pytest.mark.parametrize("scale", [0.0, 0.5])
def test_attention_that_is_written_out_is_cut_at_its_softmax(
    exemplar: Any, processors: Processors, scale: float
) -> None:
    sizes = {"reference": (8, 8), "generated": (64, 64)}
    options: Any = {"region": LEFT, "boxes": WHOLE, "pictures": sizes}
    with cut(exemplar, scale=scale, generated=(0, 0, 64, 20), **options):
        expected = paint(exemplar)
    processors(AttnProcessor())
    with cut(exemplar, scale=scale, generated=(0, 0, 64, 20), **options):
        found = paint(exemplar)
    assert difference(found, expected) < 1e-5
    assert difference(found, paint(exemplar)) > 1e-5


def test_attention_that_cannot_be_cut_is_refused(exemplar: Any, processors: Processors) -> None:
    unet, written_out = exemplar.unet, Hidden()
    processors(
        {name: written_out if "mid" in name else own for name, own in processors.before.items()}
    )
    message = r"Expected attention that can be cut.*at layer 'mid_block"
    with pytest.raises(CaptureError, match=message), cut(exemplar):
        paint(exemplar)
    with cut(exemplar, layers="up_blocks*"):  # As the message says.
        paint(exemplar)
    exemplar.enable_attention_slicing(1)
    with pytest.raises(CaptureError, match="Expected attention that can be cut"), cut(exemplar):
        paint(exemplar)
    assert hooked(unet) == []


def test_keys_that_are_not_those_of_the_projection_are_refused(
    exemplar: Any, processors: Processors
) -> None:
    processors(Rotated())
    with pytest.raises(CaptureError, match="Expected attention that can be cut"), cut(exemplar):
        paint(exemplar)


def test_a_region_lies_where_the_pipelines_own_crop_puts_it() -> None:
    family = ip_adapter("full")
    wide = noise_image(32, width=96)

    def run(region: Any) -> torch.Tensor:
        with cut(family.pipeline, region=region, pictures={"reference": wide}):
            found: torch.Tensor = family.run(1, ip_adapter_image=wide)
        return found

    # CLIP's processor sees the middle square alone.
    assert torch.equal(run((0, 0, 32, 96)), run((0, 32, 32, 64)))
    with pytest.raises(CaptureError, match="Expected tokens to cut, got none, at image 0"):
        run((0, 0, 32, 32))
    as_mask = np.zeros((32, 96), bool)
    as_mask[:16, 32:64] = True
    assert torch.equal(run(as_mask), run((0, 32, 16, 64)))
    with pytest.raises(CaptureError, match="Expected a mask of the picture's size 32×96"):
        run(as_mask[:, :90])


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"edges": "generated->reference"}, SchemaError, "edge"),
        ({"edges": []}, SchemaError, "Expected edges as a list"),
        ({"scale": -1}, SchemaError, "Expected scale"),
        ({"region": (0, 0, 0, 5)}, SchemaError, "Expected a region as"),
        ({"region": np.zeros((3, 3))}, SchemaError, "Expected a region as"),
        ({"layers": "nowhere*"}, (CaptureError, SchemaError), "nowhere"),
        ({"heads": [99]}, (CaptureError, SchemaError), "head"),
        ({"edges": "text->generated"}, (CaptureError, SchemaError), "text"),
        ({"region": LEFT}, CaptureError, "Expected the size of 'reference'"),
        ({"pictures": {"reference": "file.png"}}, SchemaError, "Expected a picture or"),
        ({"steps": [7]}, CaptureError, "Expected tokens to cut, got none"),
        ({"reference": 3}, CaptureError, "Expected tokens to cut, got none"),
    ],
)
def test_what_this_model_has_not_is_refused(
    exemplar: Any, options: Any, error: Any, message: str
) -> None:
    with pytest.raises(error, match=message), cut(exemplar, **options):
        paint(exemplar)
    assert hooked(exemplar.unet) == []


def test_a_block_in_which_the_model_does_not_run_is_refused(exemplar: Any) -> None:
    with pytest.raises(CaptureError, match="Expected the model to run inside"), cut(exemplar):
        pass


def test_keys_that_all_weigh_alike_count_as_no_cut() -> None:
    pipeline = models.paint_by_example()  # One token a layer.
    with (
        pytest.raises(CaptureError, match="Expected tokens to cut, got none"),
        cut(pipeline, scale=0.5),
    ):
        paint(pipeline, **models.noise_images(models.size_of(pipeline)))


def test_the_layers_that_can_be_cut_have_names(exemplar: Any) -> None:
    names = layer_names(exemplar)
    assert len(names) == 7
    assert names[0].startswith("down_blocks")
    assert names[0].endswith("attn2")
