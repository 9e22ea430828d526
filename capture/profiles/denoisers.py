"""Where a target has its denoiser: the module that is called at every step, or the two that share them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import nn

from i2am.capture.profiles.refusal import no_denoiser, no_such_denoiser
from i2am.schemas import CaptureError

__all__ = ["find_denoiser", "find_denoisers", "is_compiled", "pipeline_parts", "unwrapped"]

# In pipelines: of diffusers, then of try-on models, whose `unet` or `transformer` reads the garment.
_PARTS = ("unet", "transformer", "unet_vton", "transformer_vton")
# Takes over for the late steps, as in Wan 2.2.
_SECOND_PART = "transformer_2"
_COMPVIS_PARTS = ("model.diffusion_model", "diffusion_model")


def find_denoisers(target: Any, path: str | None = None) -> tuple[nn.Module, ...]:
    """Return the modules that share the steps, the first of the noisiest step first.

    Parameters
    ----------
    target : object
        A diffusers pipeline, a CompVis-style model, or the denoiser itself.
    path : str, optional
        Where the target has its denoiser, as "unet_vton" or "model.unet"; None looks in the usual
        places.

    Returns
    -------
    tuple of Module
        One, or two of one architecture: Wan 2.2 has another ``transformer_2`` for its late steps.

    Raises
    ------
    CaptureError
        If there is none, or none at `path`.
    """
    if path is not None:
        return (_at(target, path),)
    for name in (*_PARTS, *_COMPVIS_PARTS):
        found = _part(target, name)
        if isinstance(found, nn.Module):
            second = _second(target) if name == "transformer" else None
            return tuple(unwrapped(module) for module in (found, second) if module is not None)
    if isinstance(target, nn.Module):
        return (unwrapped(target),)
    second = getattr(target, _SECOND_PART, None)  # Wan 2.2 may be loaded without its first one.
    if isinstance(second, nn.Module):
        return (unwrapped(second),)
    raise CaptureError(no_denoiser(target))


def find_denoiser(target: Any, path: str | None = None) -> nn.Module:
    """Return the denoiser of the noisiest step; see `find_denoisers`."""
    return find_denoisers(target, path)[0]


def pipeline_parts(pipeline: Any) -> Iterator[nn.Module]:
    """Yield the modules of a pipeline that may be its denoiser."""
    for name in (*_PARTS, _SECOND_PART):
        part = getattr(pipeline, name, None)
        if part is not None:
            yield unwrapped(part)


def unwrapped(module: Any) -> Any:
    """Return the original module, which holds the layers, of one that was compiled."""
    return getattr(module, "_orig_mod", module)


def is_compiled(target: Any, denoiser: nn.Module) -> bool:
    """Return whether a denoiser, or a part of it, was given to ``torch.compile``."""
    wrappers = (target, *(getattr(target, name, None) for name in (*_PARTS, _SECOND_PART)))
    return any(hasattr(wrapper, "_orig_mod") for wrapper in wrappers) or any(
        getattr(module, "_compiled_call_impl", None) is not None for module in denoiser.modules()
    )


def _at(target: Any, path: str) -> nn.Module:
    found = _part(target, path)
    if isinstance(found, nn.Module):
        return unwrapped(found)  # type: ignore[no-any-return]
    raise CaptureError(no_such_denoiser(target, path, found))


def _part(target: Any, path: str) -> Any:
    found = target
    for part in path.split("."):
        found = getattr(found, part, None)
    return found


def _second(pipeline: Any) -> Any:
    """Return the denoiser of a pipeline's late steps; None where the first serves all of them."""
    config = dict(getattr(pipeline, "config", {}))
    is_shared = config.get("boundary_ratio") is not None
    return getattr(pipeline, _SECOND_PART, None) if is_shared else None
