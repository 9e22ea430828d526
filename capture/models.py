"""Loading pipelines: the shipped model, a hub id, or a local directory. Never a pickle."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

from i2am.schemas import CaptureError, did_you_mean

__all__ = ["DEMO_MANIFEST", "SHIPPED_MODEL", "SHIPPED_MODEL_PATH", "load_pipeline"]

SHIPPED_MODEL = "i2am-tiny"
SHIPPED_MODEL_PATH = Path(__file__).parent / SHIPPED_MODEL
DEMO_MANIFEST = Path(__file__).parent / "demo" / "manifest.csv"


def load_pipeline(model: str, *, revision: str | None = None, device: str | None = None) -> Any:
    """Return a pipeline, ready to run.

    Parameters
    ----------
    model : str
        ``"i2am-tiny"``, the model that ships with i2am; a local directory; or a hub id.
    revision : str, optional
        Branch, tag or commit of a hub model.
    device : str, optional
        Where it runs; None takes a GPU when there is one.

    Raises
    ------
    CaptureError
        If there is no such model, or it cannot be loaded.
    """
    import torch

    if device is None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if model == SHIPPED_MODEL:
        pipeline = _load_shipped(SHIPPED_MODEL_PATH)
    else:
        pipeline = _load_diffusers(model, revision)
    try:
        pipeline = pipeline.to(device)
    except (RuntimeError, AssertionError) as e:
        reason = str(e).splitlines()[0]
        msg = f"Expected a device that torch can use, got {device!r} ({reason}). Try 'cpu'."
        raise CaptureError(msg) from e
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def _load_shipped(path: Path) -> Any:
    """Part by part: the reference encoder is ours, so diffusers could not find its class."""
    import torch
    from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel

    from i2am.capture.reference_inpaint import ReferenceInpaintPipeline
    from i2am.capture.tiny_model import ReferenceEncoder

    def load(part: Any, name: str) -> Any:
        # Stored as float16 to be small; every CPU computes in float32.
        return part.from_pretrained(path, subfolder=name, torch_dtype=torch.float32)

    pipeline = ReferenceInpaintPipeline(
        vae=load(AutoencoderKL, "vae"),
        unet=load(UNet2DConditionModel, "unet"),
        reference_encoder=load(ReferenceEncoder, "reference_encoder"),
        scheduler=DDIMScheduler.from_pretrained(path, subfolder="scheduler"),
    )
    pipeline.register_to_config(_name_or_path=SHIPPED_MODEL)
    return pipeline


def _load_diffusers(model: str, revision: str | None) -> Any:
    from diffusers import DiffusionPipeline

    directory = Path(model).expanduser()
    load: Callable[[], Any] = partial(
        DiffusionPipeline.from_pretrained, model, revision=revision, use_safetensors=True
    )
    if directory.is_dir():
        own_loader = _LOADERS.get(_read_index(directory)["_class_name"])
        if own_loader is not None:
            load = partial(own_loader, directory)
    elif model.count("/") != 1 or directory.is_absolute() or model.startswith("."):
        hint = did_you_mean(model, [SHIPPED_MODEL])
        msg = f"Expected a model's hub id or directory, got {model!r}, which is neither. {hint}"
        raise CaptureError(msg)
    _restore_paint_by_example()
    try:
        return load()
    except (OSError, ValueError, AttributeError, ImportError) as e:
        reason = " ".join(str(e).split())[:200]
        msg = (
            f"Expected a diffusers pipeline in safetensors, got {type(e).__name__} for {model!r} "
            f"({reason}). Check the name, or give a local directory when there is no network."
        )
        raise CaptureError(msg) from e


def _load_paint_by_example(directory: Path) -> Any:
    """Part by part: diffusers no longer resolves the image encoder of a saved directory."""
    import diffusers
    import transformers
    from diffusers.pipelines.deprecated import paint_by_example

    index = _read_index(directory)

    def load(part: Any, name: str, **options: Any) -> Any:
        return part.from_pretrained(directory, subfolder=name, **options)

    encoder = paint_by_example.PaintByExampleImageEncoder
    return diffusers.PaintByExamplePipeline(
        vae=load(diffusers.AutoencoderKL, "vae", use_safetensors=True),
        image_encoder=load(encoder, "image_encoder", use_safetensors=True),
        unet=load(diffusers.UNet2DConditionModel, "unet", use_safetensors=True),
        scheduler=load(getattr(diffusers, index["scheduler"][1]), "scheduler"),
        safety_checker=None,  # It would blacken pictures that somebody wants to understand.
        feature_extractor=load(transformers.CLIPImageProcessor, "feature_extractor"),
    )


_LOADERS: dict[str, Callable[[Path], Any]] = {
    "PaintByExamplePipeline": _load_paint_by_example,
    "ReferenceInpaintPipeline": _load_shipped,
}


def _read_index(directory: Path) -> dict[str, Any]:
    path = directory / "model_index.json"
    if not path.is_file():
        msg = f"Expected a diffusers directory with model_index.json, got none in {directory}. "
        raise CaptureError(msg + "Give the directory that save_pretrained wrote.")
    index: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return index


def _restore_paint_by_example() -> None:
    """Put Paint-by-Example's module back where its saved directories look for it.

    diffusers moved the class among its deprecated pipelines but still resolves the image encoder
    of a saved directory through ``diffusers.pipelines.paint_by_example``.
    """
    import diffusers.pipelines

    if hasattr(diffusers.pipelines, "paint_by_example"):
        return
    try:
        from diffusers.pipelines.deprecated import paint_by_example
    except ImportError:
        return
    module: ModuleType = paint_by_example
    diffusers.pipelines.paint_by_example = module
