"""Models with a reference network: IDM-VTON, OOTDiffusion, Leffa, MimicBrush, FitDiT."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import torch
from diffusers.models.attention_processor import Attention, AttnProcessor2_0
from PIL import Image
from torch import nn
from torch.nn import functional

from i2am.schemas.dims import CONDITIONAL, UNCONDITIONAL
from tests.support.research.models import Layer, Reference, Research, doubled, halves, noise
from tests.support.research.unets import (
    GRIDS,
    LATENTS,
    Block,
    blocks,
    named_as,
    narrow_unet,
    run,
    run_blocks,
    self_attentions,
)
from tests.support.tiny_pipelines import parts
from tests.support.tiny_pipelines.parts import WIDTH

__all__ = ["GARMENTS", "fitdit", "idm_vton", "leffa", "mimicbrush", "ootdiffusion"]

TEXT = 7
IP_TOKENS = 16


class _Pipeline:
    """Steps a UNet through a scheduler, from the same noise each time."""

    unet: Any
    unet_encoder: Any
    unet_garm: Any
    unet_vton: Any
    transformer_garm: Any
    transformer_vton: Any
    left: list[torch.Tensor]

    def __init__(self, **held: Any) -> None:
        vars(self).update(held)
        self.scheduler = parts.ddim()
        self.is_guided = True
        self.garment = noise(1, 4, *LATENTS, seed=1)

    @property
    def do_classifier_free_guidance(self) -> bool:
        return self.is_guided

    def sample(self, steps: int, guided: bool = True) -> torch.Tensor:
        self.is_guided = guided
        return self(steps)

    @torch.no_grad()
    def __call__(self, steps: int) -> torch.Tensor:
        return self.loop(steps)

    def loop(self, steps: int) -> torch.Tensor:
        self.scheduler.set_timesteps(steps)
        latents = noise(1, 4, *LATENTS)
        for index, timestep in enumerate(self.scheduler.timesteps):
            doubled_latents = doubled(self.is_guided, latents)
            estimate = self.estimate(index, timestep, doubled_latents, self.garment)
            if self.is_guided:
                estimate = self.guide(*estimate.chunk(2))
            latents = self.scheduler.step(estimate, timestep, latents).prev_sample
        return latents

    def estimate(self, index: int, timestep: Any, latents: Any, garment: Any) -> torch.Tensor:
        raise NotImplementedError

    def guide(self, unconditional: torch.Tensor, conditional: torch.Tensor) -> torch.Tensor:
        return unconditional + 2 * (conditional - unconditional)


def _writer() -> tuple[Any, list[torch.Tensor]]:
    """Return a UNet that leaves the input of each self-attention in a list."""
    unet, left = narrow_unet(), []

    def of(_index: int, block: Any) -> Block:
        def forward(states: torch.Tensor, encoder_hidden_states: Any = None, **_: Any) -> Any:
            left.append(block.norm1(states))
            states = states + block.attn1(left[-1])
            states = states + block.attn2(block.norm2(states), encoder_hidden_states)
            return states + block.ff(block.norm3(states))

        return forward

    run_blocks(unet, of)
    return unet, left


def _joined_after_norm(unet: Any, has_text: bool) -> None:
    """As IDM-VTON and Leffa do it: what the other UNet left is appended behind the norm."""

    def of(index: int, block: Any) -> Block:
        def forward(states: torch.Tensor, encoder_hidden_states: Any = None, **_: Any) -> Any:
            joined = torch.cat([block.norm1(states), unet.left[index]], dim=1)
            states = states + block.attn1(joined)[:, : states.shape[1]]
            if has_text:
                states = states + block.attn2(block.norm2(states), encoder_hidden_states)
            return states + block.ff(block.norm3(states))

        return forward

    run_blocks(unet, of)


class IPAttnProcessor2_0(nn.Module):
    """The IP-Adapter library's: one projection, a float scale, tokens behind the text's."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.scale, self.num_tokens = 0.7, IP_TOKENS
        self.to_k_ip, self.to_v_ip = (nn.Linear(WIDTH, width, bias=False) for _ in range(2))

    def __call__(
        self, attention: Any, hidden_states: Any, encoder_hidden_states: Any, *_: Any, **__: Any
    ) -> Any:
        def heads(states: torch.Tensor) -> torch.Tensor:
            return states.view(*states.shape[:2], attention.heads, -1).transpose(1, 2)

        end = encoder_hidden_states.shape[1] - self.num_tokens
        text, image = encoder_hidden_states[:, :end], encoder_hidden_states[:, end:]
        query = heads(attention.to_q(hidden_states))
        attend = functional.scaled_dot_product_attention
        mixed = attend(query, heads(attention.to_k(text)), heads(attention.to_v(text)))
        read = attend(query, heads(self.to_k_ip(image)), heads(self.to_v_ip(image)))
        mixed = mixed + self.scale * read
        return attention.to_out[1](attention.to_out[0](mixed.transpose(1, 2).flatten(2)))


class StableDiffusionXLInpaintPipeline(_Pipeline):
    """IDM-VTON's: its GarmentNet runs at every step."""

    def estimate(self, index: int, timestep: Any, latents: Any, garment: Any) -> torch.Tensor:
        unet, writer, left = self.unet, self.unet_encoder, self.left
        left.clear()
        writer(garment, timestep, noise(1, TEXT, WIDTH))
        features = [doubled(self.is_guided, f, torch.zeros_like(f)) for f in left]
        text = doubled(self.is_guided, noise(1, TEXT, WIDTH), -noise(1, TEXT, WIDTH))
        image = noise(1, IP_TOKENS, WIDTH)
        adapted = {"image_embeds": doubled(self.is_guided, image, torch.zeros_like(image))}
        found: torch.Tensor = unet(
            latents, timestep, text, added_cond_kwargs=adapted, garment_features=features
        )
        return found


StableDiffusionXLInpaintPipeline.__module__ = "src.tryon_pipeline"


def idm_vton(**options: Any) -> Research:
    torch.manual_seed(0)
    unet = narrow_unet()

    def forward(  # its cross-attention gets the adapter's tokens behind the text's
        self: Any,
        sample: Any,
        timestep: Any,
        encoder_hidden_states: Any,
        added_cond_kwargs: Any = None,
        garment_features: Any = None,
    ) -> torch.Tensor:
        self.left = garment_features
        states = torch.cat([encoder_hidden_states, added_cond_kwargs["image_embeds"]], dim=1)
        return run(self, sample, timestep, states)

    processors = {
        name: IPAttnProcessor2_0(unet.get_submodule(name[: -len(".processor")]).inner_dim)
        if name.endswith("attn2.processor")
        else AttnProcessor2_0()
        for name in unet.attn_processors
    }
    unet.set_attn_processor(processors)
    unet.requires_grad_(False)
    unet.encoder_hid_proj = nn.Linear(WIDTH, WIDTH)  # a Resampler, which the pipeline calls
    _joined_after_norm(unet, has_text=True)
    named_as(unet, "UNet2DConditionModel", "src.unet_hacked_tryon", forward)
    writer, left = _writer()
    pipeline = StableDiffusionXLInpaintPipeline(unet=unet, unet_encoder=writer, left=left)
    layers: dict[str, Layer] = {}
    for path, grid in GRIDS.items():
        layers[f"{path}.transformer_blocks.0.attn1"] = halves(grid)
        read = Reference(range(IP_TOKENS), None, weight=0.7)  # the second kernel of the layer
        layers[f"{path}.transformer_blocks.0.attn2"] = Layer(
            range(grid[0] * grid[1]), grid, (read,), kernel=1, kernels=2
        )
    return Research(pipeline, unet, pipeline.sample, "idm-vton", layers, **options)


class OotdPipeline(_Pipeline):
    """OOTDiffusion's: the garment's UNet runs once, and the conditional rows come first."""

    def estimate(self, index: int, timestep: Any, latents: Any, garment: Any) -> torch.Tensor:
        left, text = self.left, noise(1, TEXT, WIDTH)
        if not index:
            left.clear()
            both = torch.cat([garment, torch.zeros_like(garment)]) if self.is_guided else garment
            self.unet_garm(both, 0, text.expand(len(both), -1, -1))
        text = text.expand(len(latents), -1, -1)
        found: torch.Tensor = self.unet_vton(latents, left.copy(), timestep, text)
        return found

    def guide(self, unconditional: torch.Tensor, conditional: torch.Tensor) -> torch.Tensor:
        return super().guide(conditional, unconditional)  # The conditional rows come first.


OotdPipeline.__module__ = "pipelines_ootd.pipeline_ootd"


def ootdiffusion(**options: Any) -> Research:
    torch.manual_seed(0)
    unet = narrow_unet()

    def of(index: int, block: Any) -> Block:
        def forward(states: torch.Tensor, encoder_hidden_states: Any = None, **_: Any) -> Any:
            joined = torch.cat([states, unet.left[index]], dim=1)
            states = (block.attn1(block.norm1(joined)) + joined).chunk(2, dim=1)[0]
            states = states + block.attn2(block.norm2(states), encoder_hidden_states)
            return states + block.ff(block.norm3(states))

        return forward

    def forward(
        self: Any, sample: Any, spatial_attn_inputs: Any, timestep: Any, encoder_hidden_states: Any
    ) -> torch.Tensor:
        self.left = spatial_attn_inputs
        return run(self, sample, timestep, encoder_hidden_states)

    run_blocks(unet, of)
    module = "pipelines_ootd.unet_vton_2d_condition"
    named_as(unet, "UNetVton2DConditionModel", module, forward)
    writer, left = narrow_unet(), []
    for _, block in blocks(writer):
        block.register_forward_pre_hook(lambda _, arguments: left.append(arguments[0]))
    pipeline = OotdPipeline(unet_vton=unet, unet_garm=writer, left=left)
    layers = {name: halves(grid) for name, grid in self_attentions().items()}
    order = (CONDITIONAL, UNCONDITIONAL)
    return Research(pipeline, unet, pipeline.sample, "ootdiffusion", layers, order, **options)


class LeffaPipeline:
    """Leffa's, whose scheduler has another name."""

    def __init__(self, model: Any, **options: Any) -> None:
        self.unet, self.unet_encoder, self.left = model.unet, model.unet_encoder, model.left
        self.noise_scheduler, self._options = parts.ddim(), options
        self.garment = noise(1, 4, *LATENTS, seed=1)

    def sample(self, steps: int, guided: bool = True) -> torch.Tensor:
        return self(steps, do_classifier_free_guidance=guided, **self._options)

    @torch.no_grad()
    def __call__(
        self, steps: int, do_classifier_free_guidance: bool, ref_acceleration: bool = False
    ) -> torch.Tensor:
        self.noise_scheduler.set_timesteps(steps)
        latents, garment = noise(1, 4, *LATENTS), self.garment
        garment = doubled(do_classifier_free_guidance, garment, torch.zeros_like(garment))
        timesteps = self.noise_scheduler.timesteps
        for index, timestep in enumerate(timesteps):
            if not (index and ref_acceleration):
                self.left.clear()
                at = timesteps[steps // 2] if ref_acceleration else timestep
                self.unet_encoder(garment, at, noise(1, TEXT, WIDTH).expand(len(garment), -1, -1))
            estimate = self.unet(
                doubled(do_classifier_free_guidance, latents),
                timestep,
                encoder_hidden_states=None,
                reference_features=list(self.left),
            )
            if do_classifier_free_guidance:
                unconditional, conditional = estimate.chunk(2)
                estimate = unconditional + 2 * (conditional - unconditional)
            latents = self.noise_scheduler.step(estimate, timestep, latents).prev_sample
        return latents


LeffaPipeline.__module__ = "leffa.pipeline"


def leffa(**options: Any) -> Research:
    torch.manual_seed(0)
    unet = narrow_unet()
    for _, block in blocks(unet):
        block.norm2 = block.attn2 = None  # Leffa removes its cross-attention.

    def forward(
        self: Any,
        sample: Any,
        timestep: Any,
        encoder_hidden_states: Any,
        reference_features: Any = None,
    ) -> torch.Tensor:
        self.left = reference_features
        return run(self, sample, timestep, encoder_hidden_states)

    _joined_after_norm(unet, has_text=False)
    named_as(unet, "UNet2DConditionModel", "leffa.diffusion_model.unet_gen", forward)
    writer, left = _writer()
    model = SimpleNamespace(unet=unet, unet_encoder=writer, left=left)
    pipeline = LeffaPipeline(model, **options)
    layers = {name: halves(grid) for name, grid in self_attentions().items()}
    return Research(pipeline, unet, pipeline.sample, "leffa", layers)


class MimicBrushPipeline(_Pipeline):
    """MimicBrush's: middle and up blocks are run anew while it is called, three times attn1 in each."""

    network: Any

    @torch.no_grad()
    def __call__(
        self, steps: int, source_image: Any = None, referencenet: Any = None
    ) -> torch.Tensor:
        self.referencenet = referencenet
        bank = _MimicBrushBank(self.unet, referencenet)
        try:
            return self.loop(steps)
        finally:
            bank.remove()

    def sample(self, steps: int, guided: bool = True) -> torch.Tensor:
        self.is_guided = guided
        source = Image.new("RGB", (30, 20))
        return self(steps, source_image=source, referencenet=self.network)

    def estimate(self, index: int, timestep: Any, latents: Any, garment: Any) -> torch.Tensor:
        tokens = noise(2, 257, WIDTH)
        self.referencenet(garment.repeat(2, 1, 1, 1), timestep, tokens)
        found: torch.Tensor = self.unet(latents, timestep, tokens, return_dict=False)[0]
        return found


MimicBrushPipeline.__module__ = "models.pipeline_mimicbrush"


class _MimicBrushBank:
    def __init__(self, reader: Any, writer: Any) -> None:
        self._blocks = [
            block
            for unet in (reader, writer)
            for name, block in blocks(unet)
            if not name.startswith("down_blocks")
        ]
        self._bank: dict[int, torch.Tensor] = {}
        count = len(self._blocks) // 2
        for index, block in enumerate(self._blocks):
            of: Callable[..., Block] = self._reading if index < count else self._writing
            block.forward = of(index % count, block)

    def remove(self) -> None:
        for block in self._blocks:
            del block.forward

    def _writing(self, index: int, block: Any) -> Block:
        def forward(states: torch.Tensor, encoder_hidden_states: Any = None, **_: Any) -> Any:
            normed = block.norm1(states)
            self._bank[index] = normed.clone()
            return self._rest(block, states + block.attn1(normed), encoder_hidden_states)

        return forward

    def _reading(self, index: int, block: Any) -> Block:
        def forward(states: torch.Tensor, encoder_hidden_states: Any = None, **_: Any) -> Any:
            normed = block.norm1(states)
            joined = torch.cat([normed, self._bank[index]], dim=1)
            read = block.attn1(joined, encoder_hidden_states=joined)[:, : states.shape[1]]
            own = block.attn1(normed, encoder_hidden_states=normed)
            mixed = read * 0.5 + own * 0.5 + states
            mixed = mixed.clone()
            first = slice(0, len(states) // 2)  # the unconditional rows
            alone = block.attn1(normed[first], encoder_hidden_states=normed[first])
            mixed[first] = alone + states[first]
            return self._rest(block, mixed, encoder_hidden_states)

        return forward

    @staticmethod
    def _rest(block: Any, states: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        states = states + block.attn2(block.norm2(states), tokens)
        found: torch.Tensor = states + block.ff(block.norm3(states))
        return found


def mimicbrush(**options: Any) -> Research:
    torch.manual_seed(0)
    unet = narrow_unet()
    pipeline = MimicBrushPipeline(unet=unet, network=narrow_unet())
    layers = {
        name: halves(grid, weight=0.5, kernel=0, kernels=3)
        for name, grid in self_attentions().items()
        if not name.startswith("down_blocks")
    }
    # Its reference has another shape than what is painted: it is squashed.
    size = (20, 30)
    return Research(
        pipeline, unet, pipeline.sample, "mimicbrush", layers, picture_of_reference=size, **options
    )


class _JointProcessor:
    """FitDiT's: no text; what the garment's transformer had as keys and values comes behind the own."""

    def __call__(
        self,
        attention: Any,
        hidden_states: torch.Tensor,
        encoder_hidden_states: None = None,
        attention_mask: None = None,
        ref_key: torch.Tensor | None = None,
        ref_value: torch.Tensor | None = None,
    ) -> torch.Tensor:
        query = attention.to_q(hidden_states)
        key, value = attention.to_k(hidden_states), attention.to_v(hidden_states)
        attention.left = key, value
        if ref_key is not None:
            key, value = torch.cat([key, ref_key], dim=1), torch.cat([value, ref_value], dim=1)  # type: ignore[list-item]
        query, key, value = (
            part.unflatten(-1, (attention.heads, -1)).transpose(1, 2)
            for part in (query, key, value)
        )
        mixed = functional.scaled_dot_product_attention(query, key, value, dropout_p=0.0)
        projected: torch.Tensor = attention.to_out[0](mixed.transpose(1, 2).flatten(2))
        return projected


class _JointBlock(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attn = Attention(width, heads=2, dim_head=width // 2, processor=_JointProcessor())
        self.ff = nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.Linear(width, width))

    def forward(self, states: torch.Tensor, **reference: Any) -> torch.Tensor:
        states = states + self.attn(hidden_states=self.norm1(states), **reference)
        found: torch.Tensor = states + self.ff(self.norm2(states))
        return found


class SD3Transformer2DModel(nn.Module):
    """FitDiT's two transformers, of two layers each."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.config = SimpleNamespace(patch_size=2)
        self.patch = nn.Conv2d(channels, WIDTH, 2, stride=2)
        self.time = nn.Linear(1, WIDTH)
        self.transformer_blocks = nn.ModuleList(_JointBlock(WIDTH) for _ in range(2))
        self.proj_out = nn.ConvTranspose2d(WIDTH, 4, 2, stride=2)

    def run(self, latents: Any, timestep: Any, references: list[dict[str, Any]]) -> torch.Tensor:
        patched = self.patch(latents)
        states = patched.flatten(2).mT + self.time(timestep.float()[:, None] / 1000)[:, None]
        for block, reference in zip(self.transformer_blocks, references, strict=True):
            states = block(states, **reference)
        found: torch.Tensor = self.proj_out(states.mT.reshape(patched.shape))
        return found


class _GarmentTransformer(SD3Transformer2DModel):
    def forward(self, hidden_states: Any, timestep: Any) -> list[tuple[Any, Any]]:
        self.run(hidden_states, timestep, [{}, {}])
        blocks: Any = self.transformer_blocks
        return [block.attn.left for block in blocks]


class _TryOnTransformer(SD3Transformer2DModel):
    def forward(
        self, hidden_states: Any, timestep: Any = None, ref_key: Any = None, ref_value: Any = None
    ) -> torch.Tensor:
        pairs = zip(ref_key, ref_value, strict=True)
        references = [{"ref_key": key, "ref_value": value} for key, value in pairs]
        return self.run(hidden_states, timestep, references)


for _kind, _module in ((_GarmentTransformer, "garm"), (_TryOnTransformer, "vton")):
    _kind.__name__, _kind.__module__ = "SD3Transformer2DModel", f"src.transformer_sd3_{_module}"


class StableDiffusion3TryOnPipeline(_Pipeline):
    """FitDiT's: the garment's transformer runs once."""

    def estimate(self, index: int, timestep: Any, latents: Any, garment: Any) -> torch.Tensor:
        times = timestep.expand(len(latents))
        if not index:
            garment = doubled(self.is_guided, garment, torch.zeros_like(garment))
            self.pairs = self.transformer_garm(garment, times * 0)
        keys, values = zip(*self.pairs, strict=True)
        found: torch.Tensor = self.transformer_vton(
            hidden_states=latents, timestep=times, ref_key=list(keys), ref_value=list(values)
        )
        return found


StableDiffusion3TryOnPipeline.__module__ = "src.pipeline_stable_diffusion_3_tryon"


def fitdit(**options: Any) -> Research:
    torch.manual_seed(0)
    transformer = _TryOnTransformer(4).requires_grad_(False)
    garment = _GarmentTransformer(4).requires_grad_(False)
    pipeline = StableDiffusion3TryOnPipeline(transformer_vton=transformer, transformer_garm=garment)
    layers = {f"transformer_blocks.{index}.attn": halves((4, 6)) for index in range(2)}
    return Research(pipeline, transformer, pipeline.sample, "fitdit", layers, **options)


GARMENTS: dict[str, Callable[[], Research]] = {
    "IDM-VTON": idm_vton,
    "OOTDiffusion": ootdiffusion,
    "Leffa": leffa,
    "Leffa, accelerated": lambda: leffa(ref_acceleration=True),
    "MimicBrush": mimicbrush,
    "FitDiT": fitdit,
}
