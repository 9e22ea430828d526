"""Loading an IP-Adapter onto a pipeline; its image encoder, too, where the pipeline has none."""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from typing import Any

from i2am.schemas import CaptureError

__all__ = ["load_adapter"]


def load_adapter(pipeline: Any, adapter: str, encoder_folder: str, *, allow_pickle: bool) -> None:
    """Load an IP-Adapter onto a pipeline.

    Parameters
    ----------
    pipeline : diffusers pipeline
    adapter : str
        ``PATH_OR_ID[:WEIGHT]``, where WEIGHT is the path of the weights below it. A path alone
        may be the weights' file, or a directory with one such file.
    encoder_folder : str
        Folder of the image encoder, beside the weights or, with a slash in it, from the top.
    allow_pickle : bool
        Whether weights may be loaded that are not in safetensors.

    Raises
    ------
    CaptureError
        If the pipeline takes no adapter, or there is none to load there.
    """
    if not hasattr(pipeline, "load_ip_adapter") or not hasattr(pipeline, "unet"):
        name = type(pipeline).__name__
        msg = f"Expected a UNet's pipeline that takes an IP-Adapter, got {name}. Omit the adapter."
        raise CaptureError(msg)
    origin, weights = _find_weights(adapter, allow_pickle=allow_pickle)
    if weights.suffix != ".safetensors" and not allow_pickle:
        msg = (
            f"Expected an IP-Adapter in safetensors, got the pickle {str(weights)!r}, which could "
            "run code. If you trust its origin, give --allow-pickle (allow_pickle=True)."
        )
        raise CaptureError(msg)
    subfolder = str(weights.parent)
    try:
        _add_encoder(pipeline, origin, subfolder, encoder_folder, allow_pickle=allow_pickle)
        pipeline.load_ip_adapter(
            origin, subfolder=subfolder, weight_name=weights.name, image_encoder_folder=None
        )
    # What comes of weights for another model is a RuntimeError or KeyError.
    except (OSError, ValueError, RuntimeError, KeyError) as e:
        reason = " ".join(str(e).split())[:200]
        msg = (
            f"Expected an IP-Adapter that fits {type(pipeline).__name__}, got "
            f"{type(e).__name__} for {adapter!r} ({reason}). Check its path, its model and where "
            f"its image encoder is (now {encoder_folder!r})."
        )
        raise CaptureError(msg) from e


def _find_weights(adapter: str, *, allow_pickle: bool) -> tuple[str, PurePosixPath]:
    """Return a directory or hub id, and the path of the weights below it."""
    origin, _, weights = adapter.partition(":")
    if weights:
        return origin, PurePosixPath(weights)
    path = Path(origin).expanduser()
    if path.is_file():
        return str(path.parent), PurePosixPath(path.name)
    kinds = ["*.safetensors", "*.bin"] if allow_pickle else ["*.safetensors"]
    found = [file.name for kind in kinds for file in sorted(path.glob(kind))]
    if len(found) == 1:
        return str(path), PurePosixPath(found[0])
    there = f"{', '.join(found)} in {origin}" if found else f"none in {origin!r}"
    msg = (
        f"Expected the weights of one IP-Adapter, got {there}. "
        f"Name them: --ip-adapter {origin}:FOLDER/FILE.safetensors."
    )
    raise CaptureError(msg)


def _add_encoder(
    pipeline: Any, origin: str, subfolder: str, folder: str, *, allow_pickle: bool
) -> None:
    """Load the image encoder as diffusers would, but never from a pickle unasked."""
    if getattr(pipeline, "image_encoder", None) is not None:
        return
    from transformers import CLIPVisionModelWithProjection

    place = folder if "/" in folder else (PurePosixPath(subfolder) / folder).as_posix()
    encoder = CLIPVisionModelWithProjection.from_pretrained(
        origin, subfolder=place, use_safetensors=None if allow_pickle else True
    )
    pipeline.register_modules(image_encoder=encoder.to(pipeline.dtype))
