"""The masks of IP-Adapters: by what a layer multiplies what each image contributes to a patch.

diffusers' processors resize the mask that the call was given to each layer's grid. Other processors
have masks of their own, which nothing tells: they are refused.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from i2am.schemas import CaptureError

__all__ = ["layer_masks", "region_of"]

_ARGUMENT = "ip_adapter_masks"


def layer_masks(
    name: str, processor: Any, options: Mapping[str, Any], adapters: int
) -> Sequence[torch.Tensor | None]:
    """Return each adapter's mask in a layer, dims (batch or 1, image, y, x); None where it has none.

    Parameters
    ----------
    name : str
        The layer's.
    processor : object
        Its attention processor.
    options : mapping
        Keyword arguments of the attention's call.
    adapters : int
        Number of adapters.

    Raises
    ------
    CaptureError
        If the processor is not of diffusers and has a mask.
    """
    call = inspect.unwrap(type(processor).__call__)
    is_of_diffusers = call.__module__.startswith("diffusers.")
    if not is_of_diffusers and _has_own_mask(call):
        msg = (
            f"Expected an IP-Adapter without a mask, got one in 'region_control' of {call.__module__}, "
            f"at layer {name!r}: what it hides of the reference would stand in the maps. Take it away."
        )
        raise CaptureError(msg)
    masks = options.get(_ARGUMENT)
    if masks is None or all(mask is None for mask in masks):
        return [None] * adapters
    if is_of_diffusers:
        # As its processors take them: a list, or one tensor (adapter, 1, y, x) as in old versions.
        return masks if isinstance(masks, list) else list(masks.unsqueeze(1))
    if _ARGUMENT not in inspect.signature(call).parameters:
        return [None] * adapters  # diffusers does not give it to such a processor.
    msg = (
        f"Expected masks for a processor of diffusers, got them for {type(processor).__name__}, at layer "
        f"{name!r}: how it applies them is not known. Call the pipeline without {_ARGUMENT}."
    )
    raise CaptureError(msg)


def region_of(mask: torch.Tensor, image: int, query: torch.Tensor) -> torch.Tensor:
    """Return by what a layer of diffusers multiplies the contribution of an image to each patch.

    Parameters
    ----------
    mask : Tensor, dims (batch or 1, image, y, x)
        As `layer_masks` returns it.
    image : int
        Number of the image among the adapter's.
    query : Tensor, dims (batch, head, generated, channel)
        Of the layer.

    Returns
    -------
    Tensor, dims (batch or 1, generated), float32, 0..1, on the host

    Examples
    --------
    >>> left = torch.tensor([[[[1.0, 1.0, 0.0, 0.0]] * 2]])
    >>> region_of(left, 0, torch.zeros(2, 1, 8, 4)).tolist()
    [[1.0, 1.0, 0.0, 0.0, 1.0, 1.0, 0.0, 0.0]]
    """
    from diffusers.image_processor import IPAdapterMaskProcessor

    resized: torch.Tensor = IPAdapterMaskProcessor.downsample(
        mask[:, image].detach(), 1, query.shape[2], 1
    )
    # Bicubic: beside an edge it leaves the mask's own range, by about a tenth.
    return resized[..., 0].to(query.dtype).float().clamp(0, 1).cpu()


def _has_own_mask(call: Any) -> bool:
    """Return whether a processor's module has a mask for it, as InstantID's have."""
    control = getattr(call, "__globals__", {}).get("region_control")
    conditions = getattr(control, "prompt_image_conditioning", ())
    return any(condition.get("region_mask") is not None for condition in conditions)
