"""Ways to keep a model's attention, which the benchmarks compare.

Every variant runs the same generation on the same pipeline; they differ in what is kept of its
attention and where. Each leaves the pipeline as it found it.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import torch
from diffusers.models.embeddings import apply_rotary_emb

from i2am.capture import capture
from support.models import Model

__all__ = ["PEER", "VARIANTS", "AttentionSums", "is_available"]

PEER = "attention_map_diffusers"


# (model, steps, run to write into, memory in bytes) -> what the variant keeps
Variant = Callable[[Model, int, Path, int], Any]


def _generate_alone(model: Model, steps: int, _run: Path, _memory_bytes: int) -> Any:
    return model.generate(steps)


def _capture_to_disk(
    model: Model,
    steps: int,
    run: Path,
    memory_bytes: int,
    *,
    representation: Any,
    durable: bool = True,
) -> None:
    with capture(
        model.pipeline,
        run,
        sample="sample",
        representation=representation,
        profile=model.profile,
        memory_bytes=memory_bytes,
        durable=durable,
    ) as recording:
        generated = model.generate(steps)
        recording.add_images(generated=generated, reference=model.reference)


def _keep_with_peer(model: Model, steps: int, _run: Path, _memory_bytes: int) -> Any:
    """Let attention-map-diffusers keep Q and K of every step in memory, as it does.

    Of FLUX it keeps those of the picture's tokens, in the blocks that have text of their own alone.
    """
    peer: Any = importlib.import_module(PEER)
    is_unet, names = hasattr(model.pipeline, "unet"), dict(model.denoiser.named_modules())
    if is_unet:
        expected = {f"unet.{name}" for name in names if name.endswith(".attn2")}
    else:
        blocks = (name for name in names if name.startswith("transformer_blocks."))
        expected = {f"transformer.{name}" for name in blocks if name.endswith(".attn")}
    with peer.AttentionCapture(
        model.pipeline,
        mode="fast",
        relations="image->text" if is_unet else "image->image",
        layers="all",
        timesteps="all",
        max_capture_bytes=None,
        allow_large_maps=True,
    ) as kept:
        model.generate(steps)
    layers = {record.layer_id for record in kept.records}
    if layers != expected or len(kept.records) != steps * len(expected):
        msg = (
            f"Expected {steps} records of each of {len(expected)} layers, got "
            f"{len(kept.records)} of {len(layers)}, from {PEER}. Compare its version."
        )
        raise RuntimeError(msg)
    return kept.records


def _recompute_in_hooks(model: Model, steps: int, _run: Path, _memory_bytes: int) -> Any:
    with AttentionSums(model.denoiser) as sums:
        model.generate(steps)
    return sums.sums


VARIANTS: dict[str, Variant] = {
    "generation alone": _generate_alone,
    "capture(), auto": partial(_capture_to_disk, representation="auto"),
    "capture(), auto, no fsync": partial(_capture_to_disk, representation="auto", durable=False),
    "capture(), maps": partial(_capture_to_disk, representation="maps"),
    "attention-map-diffusers": _keep_with_peer,
    "block hook": _recompute_in_hooks,
}


def is_available(variant: str) -> bool:
    """Return whether what a variant needs is installed."""
    return VARIANTS[variant] is not _keep_with_peer or importlib.util.find_spec(PEER) is not None


class AttentionSums:
    """Attention recomputed in a hook on every transformer, as the method's first code does it.

    The hook gets what the transformer was given, and repeats norm, projection and the block's
    self-attention to arrive at Q and K again; the softmax over the generated patches is added to
    running sums. Where a transformer has several blocks, and in FLUX, each block has a hook.

    Parameters
    ----------
    denoiser : UNet2DConditionModel or FluxTransformer2DModel
        Of the latter, half of the picture's tokens are generated.

    Attributes
    ----------
    sums : dict of str to Tensor (head, generated, reference), float32
        By layer, summed over the steps; of the last batch index, which is conditional.
    """

    def __init__(self, denoiser: torch.nn.Module) -> None:
        self._denoiser = denoiser
        self._hooks = ExitStack()
        self.sums: dict[str, torch.Tensor] = {}

    def __enter__(self) -> AttentionSums:
        """Put the hooks on."""
        for name, module in self._denoiser.named_modules():
            kind = type(module).__name__
            if kind == "Transformer2DModel":
                blocks: Any = module.transformer_blocks
                if len(blocks) == 1:
                    self._hook(module, self._add_transformer, f"{name}.transformer_blocks.0.attn2")
                    continue
                for number, block in enumerate(blocks):
                    layer = f"{name}.transformer_blocks.{number}.attn2"
                    self._hook(block, self._add_block, layer)
            elif kind in ("FluxTransformerBlock", "FluxSingleTransformerBlock"):
                self._hook(module, self._add_flux_block, f"{name}.attn")
        return self

    def __exit__(self, *_: object) -> None:
        """Take them off."""
        self._hooks.close()

    def _hook(self, module: torch.nn.Module, add: Callable[..., None], layer: str) -> None:
        handle = module.register_forward_hook(partial(add, layer), with_kwargs=True)
        self._hooks.callback(handle.remove)

    def _add_transformer(
        self, layer: str, transformer: Any, args: Any, kwargs: Any, _output: Any
    ) -> None:
        (block,) = transformer.transformer_blocks
        states = transformer.proj_in(transformer.norm(args[0][-1:])).flatten(2).transpose(1, 2)
        self._add_cross_attention(layer, block, states, kwargs["encoder_hidden_states"])

    def _add_block(self, layer: str, block: Any, args: Any, kwargs: Any, _output: Any) -> None:
        self._add_cross_attention(layer, block, args[0][-1:], kwargs["encoder_hidden_states"])

    def _add_cross_attention(
        self, layer: str, block: Any, states: torch.Tensor, tokens: torch.Tensor
    ) -> None:
        states = block.attn1(block.norm1(states)) + states
        attention = block.attn2
        query, key = (
            projected[0].unflatten(-1, (attention.heads, -1)).transpose(0, 1)
            for projected in (attention.to_q(block.norm2(states)), attention.to_k(tokens[-1:]))
        )
        self._add(layer, query, key, attention.scale)

    def _add_flux_block(
        self, layer: str, block: Any, _args: Any, kwargs: Any, _output: Any
    ) -> None:
        states, rope = kwargs["hidden_states"][-1:], kwargs["image_rotary_emb"]
        text = kwargs["encoder_hidden_states"].shape[1]
        norm = block.norm1 if hasattr(block, "norm1") else block.norm  # Of a single-stream block.
        states = norm(states, emb=kwargs["temb"][-1:])[0]
        attention, of_picture = block.attn, tuple(part[text:] for part in rope)
        query, key = (
            apply_rotary_emb(
                own_norm(projection(states).unflatten(-1, (attention.heads, -1))),
                of_picture,
                sequence_dim=1,
            )[0].transpose(0, 1)
            for projection, own_norm in (
                (attention.to_q, attention.norm_q),
                (attention.to_k, attention.norm_k),
            )
        )
        generated = states.shape[1] // 2
        self._add(layer, query[:, :generated], key[:, generated:], query.shape[-1] ** -0.5)

    def _add(self, layer: str, query: torch.Tensor, key: torch.Tensor, scale: float) -> None:
        weights = (query @ key.transpose(-1, -2) * scale).float().softmax(dim=-2)
        known = self.sums.get(layer)
        self.sums[layer] = weights if known is None else known.add_(weights)
