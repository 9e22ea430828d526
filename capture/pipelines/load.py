"""Loading pipelines: the shipped model, a hub id, or a local directory, with or without an adapter.

Code from a model's repository is never run, and a pickle is loaded only if the caller allows it.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from types import ModuleType
from typing import TYPE_CHECKING, Any

from i2am.schemas import CaptureError, SchemaError, did_you_mean
from i2am.schemas.choices import MODEL_DTYPES, ModelDtype

if TYPE_CHECKING:
    import torch

__all__ = [
    "DEMO_MANIFEST",
    "SHIPPED_MODEL",
    "SHIPPED_MODEL_PATH",
    "LoadOptions",
    "default_device",
    "load_adapter",
    "load_pipeline",
]

SHIPPED_MODEL = "i2am-tiny"
SHIPPED_MODEL_PATH = Path(__file__).parents[1] / SHIPPED_MODEL
DEMO_MANIFEST = Path(__file__).parents[1] / "demo" / "manifest.csv"
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")


@dataclass(frozen=True)
class LoadOptions:
    """How a model is loaded: the options of `load_pipeline`, which describes them, and one more.

    Parameters
    ----------
    revision, device : str, optional
    dtype : {"float32", "float16", "bfloat16"}
    allow_pickle : bool
    ip_adapter : str, optional
    ip_adapter_scale : float, optional
    ip_adapter_encoder : str
    randomize_weights : int, optional
        Seed with which the denoiser's weights are drawn anew after it was loaded; see
        `randomize_weights`. None keeps what it has learned.

    Examples
    --------
    >>> LoadOptions(device="cuda:1", dtype="float16").revision is None
    True
    """

    revision: str | None = None
    device: str | None = None
    dtype: ModelDtype = "float32"
    allow_pickle: bool = False
    ip_adapter: str | None = None
    ip_adapter_scale: float | None = None
    ip_adapter_encoder: str = "image_encoder"
    randomize_weights: int | None = None


def load_pipeline(
    model: str,
    *,
    revision: str | None = None,
    device: str | None = None,
    dtype: ModelDtype = "float32",
    allow_pickle: bool = False,
    ip_adapter: str | None = None,
    ip_adapter_scale: float | None = None,
    ip_adapter_encoder: str = "image_encoder",
) -> Any:
    """Return a pipeline, ready to run.

    Parameters
    ----------
    model : str
        ``"i2am-tiny"``, the model that ships with i2am; a local directory; or a hub id.
    revision : str, optional
        Branch, tag or commit of a hub model.
    device : str, optional
        ``"cpu"``, ``"cuda"``, ``"cuda:1"``, ``"xpu"``, ``"mps"`` …; None takes the accelerator if
        there is one.
    dtype : {"float32", "float16", "bfloat16"}
        Of the model's weights and computation.
    allow_pickle : bool
        Whether weights may be loaded that are not in safetensors. A pickle can run code.
    ip_adapter : str, optional
        ``PATH_OR_ID[:WEIGHT]``, the weights' path below a directory or hub id.
    ip_adapter_scale : float, optional
        Factor of the adapter's contribution; None leaves 1.
    ip_adapter_encoder : str
        Folder of the adapter's image encoder, beside the weights or, with a slash in it, from
        the top; not loaded where the pipeline has an image encoder.

    Returns
    -------
    diffusers pipeline
        On its device, without a progress bar.

    Raises
    ------
    CaptureError
        If there is no such model or adapter, or it cannot be loaded.
    SchemaError
        If the dtype is not one of the above, or there is a scale without an adapter.

    Examples
    --------
    >>> type(load_pipeline("i2am-tiny", device="cpu")).__name__
    'ReferenceInpaintPipeline'
    """
    import torch

    if dtype not in MODEL_DTYPES:
        msg = (
            f"Expected a model dtype of {', '.join(MODEL_DTYPES)}, got {dtype!r}. Name one of them."
        )
        raise SchemaError(msg)
    if ip_adapter is None and ip_adapter_scale is not None:
        msg = f"Expected an IP-Adapter for scale {ip_adapter_scale}, got none. Name it as well."
        raise SchemaError(msg)
    pipeline = _load(model, revision, getattr(torch, dtype), allow_pickle=allow_pickle)
    if ip_adapter is not None:
        load_adapter(pipeline, ip_adapter, ip_adapter_encoder, allow_pickle=allow_pickle)
        if ip_adapter_scale is not None:
            pipeline.set_ip_adapter_scale(ip_adapter_scale)
    device = device or default_device()
    try:
        pipeline = pipeline.to(_computing(device))
    except (RuntimeError, AssertionError, ImportError, NotImplementedError) as e:
        reason = str(e).partition("\n")[0]
        msg = f"Expected a device that torch can use, got {device!r} ({reason}). Try 'cpu'."
        raise CaptureError(msg) from e
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def default_device(local_rank: int | None = None) -> str:
    """Return PyTorch's accelerator (CUDA, ROCm, XPU, MPS …) if there is one, or else the CPU.

    Parameters
    ----------
    local_rank : int, optional
        Number of this process on its machine: processes with different ones take turns with the
        machine's devices.

    Examples
    --------
    ::

        default_device()  # "cuda", or "cpu"
        default_device(9)  # "cuda:1" of eight
    """
    import torch

    accelerator = torch.accelerator.current_accelerator()
    if accelerator is None or not torch.accelerator.is_available():
        return "cpu"
    if local_rank is None:
        return accelerator.type
    return f"{accelerator.type}:{local_rank % torch.accelerator.device_count()}"


def _computing(device: str) -> torch.device:
    """Return a device, but for the one that holds shapes and no values."""
    import torch

    found = torch.device(device)
    if found.type == "meta":
        msg = "it holds no values"
        raise RuntimeError(msg)
    return found


def _load(model: str, revision: str | None, dtype: torch.dtype, *, allow_pickle: bool) -> Any:
    if model == SHIPPED_MODEL:
        pipeline = _load_shipped(SHIPPED_MODEL_PATH, dtype, safetensors=True)
    else:
        _restore_paint_by_example()
        try:
            directory = _find_directory(model, revision, allow_pickle=allow_pickle)
            pipeline = _load_directory(directory, dtype, allow_pickle=allow_pickle)
        except (CaptureError, MemoryError):
            raise
        # What diffusers and transformers raise of a broken folder can be anything.
        except Exception as e:
            reason = " ".join(str(e).split())[:200]
            msg = (
                f"Expected a diffusers pipeline in safetensors, got {type(e).__name__} for "
                f"{model!r} ({reason}). Check the name, or give a local directory when there is "
                "no network."
            )
            raise CaptureError(msg) from e
    pipeline.register_to_config(_name_or_path=model)
    return pipeline


def _find_directory(model: str, revision: str | None, *, allow_pickle: bool) -> Path:
    """Return the directory of a model; one from the hub is downloaded first."""
    from diffusers import DiffusionPipeline

    directory = Path(model).expanduser()
    if directory.is_dir():
        return directory
    if model.count("/") != 1 or directory.is_absolute() or model.startswith("."):
        hint = did_you_mean(model, [SHIPPED_MODEL])
        msg = f"Expected a model's hub id or directory, got {model!r}, which is neither. {hint}"
        raise CaptureError(msg)
    safetensors = None if allow_pickle else True
    return Path(
        DiffusionPipeline.download(
            model, revision=revision, use_safetensors=safetensors, trust_remote_code=False
        )
    )


def _load_directory(directory: Path, dtype: torch.dtype, *, allow_pickle: bool) -> Any:
    from diffusers import DiffusionPipeline

    index = _read_index(directory)
    if not allow_pickle:
        _check_safetensors(directory, index)
    safetensors = None if allow_pickle else True
    own_loader = _LOADERS.get(str(index.get("_class_name")))
    if own_loader is not None:
        return own_loader(directory, dtype, safetensors=safetensors)
    with warnings.catch_warnings():
        # The name that all versions know; the newest deprecate it for `dtype`.
        warnings.filterwarnings("ignore", "`torch_dtype` is deprecated", FutureWarning)
        return DiffusionPipeline.from_pretrained(
            directory, torch_dtype=dtype, use_safetensors=safetensors, trust_remote_code=False
        )


def _check_safetensors(directory: Path, index: dict[str, Any]) -> None:
    """Raise an error with a remedy for pickles; the loaders would only report a missing file."""
    for part in sorted(name for name in index if (directory / name).is_dir()):
        pickles = sorted(path for kind in _PICKLES for path in (directory / part).glob(kind))
        if pickles and not any((directory / part).glob("*.safetensors")):
            msg = (
                f"Expected weights in safetensors, got a pickle at {pickles[0]}, which could run "
                "code. If you trust its origin, give --allow-pickle (allow_pickle=True)."
            )
            raise CaptureError(msg)


def _load_shipped(path: Path, dtype: torch.dtype, *, safetensors: bool | None) -> Any:
    """Part by part: the reference encoder is ours, so diffusers could not find its class."""
    from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel

    from i2am.capture.pipelines.reference_encoder import ReferenceEncoder
    from i2am.capture.pipelines.reference_inpaint import ReferenceInpaintPipeline

    def load(part: Any, name: str) -> Any:
        return part.from_pretrained(
            path, subfolder=name, torch_dtype=dtype, use_safetensors=safetensors
        )

    return ReferenceInpaintPipeline(
        vae=load(AutoencoderKL, "vae"),
        unet=load(UNet2DConditionModel, "unet"),
        reference_encoder=load(ReferenceEncoder, "reference_encoder"),
        scheduler=DDIMScheduler.from_pretrained(path, subfolder="scheduler"),
    )


def _load_paint_by_example(path: Path, dtype: torch.dtype, *, safetensors: bool | None) -> Any:
    """Part by part: diffusers no longer resolves the image encoder of a saved directory."""
    import diffusers
    import transformers
    from diffusers.pipelines.deprecated import paint_by_example

    index = _read_index(path)

    def load(part: Any, name: str, **options: Any) -> Any:
        return part.from_pretrained(path, subfolder=name, **options)

    weights = {"use_safetensors": safetensors, "torch_dtype": dtype}
    encoder = paint_by_example.PaintByExampleImageEncoder
    return diffusers.PaintByExamplePipeline(
        vae=load(diffusers.AutoencoderKL, "vae", **weights),
        image_encoder=load(encoder, "image_encoder", use_safetensors=safetensors).to(dtype),
        unet=load(diffusers.UNet2DConditionModel, "unet", **weights),
        scheduler=load(getattr(diffusers, index["scheduler"][1]), "scheduler"),
        safety_checker=None,  # It would replace images by black ones.
        feature_extractor=load(transformers.CLIPImageProcessor, "feature_extractor"),
    )


_LOADERS: dict[str, Callable[..., Any]] = {
    "PaintByExamplePipeline": _load_paint_by_example,
    "ReferenceInpaintPipeline": _load_shipped,
}


def _read_index(directory: Path) -> dict[str, Any]:
    path = directory / "model_index.json"
    if not path.is_file():
        msg = f"Expected a diffusers directory with model_index.json, got none in {directory}. "
        raise CaptureError(msg + "Give the directory that save_pretrained wrote.")
    try:
        index = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as e:
        reason = "too deep a nesting" if isinstance(e, RecursionError) else str(e)
        msg = (
            f"Expected a model_index.json, got no JSON ({reason}), at {path}. Save the model anew."
        )
        raise CaptureError(msg) from e
    if not (isinstance(index, dict) and isinstance(index.get("_class_name"), str)):
        msg = (
            f"Expected a model_index.json that names its pipeline in '_class_name', got none, at "
            f"{path}. Give the directory that save_pretrained wrote."
        )
        raise CaptureError(msg)
    return index


def _restore_paint_by_example() -> None:
    """Make Paint-by-Example's module importable under the name in its saved directories.

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
    except MemoryError:
        raise
    # Weights for another model and broken files raise whatever they lead to.
    except Exception as e:
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

    subfolder = folder if "/" in folder else (PurePosixPath(subfolder) / folder).as_posix()
    encoder = CLIPVisionModelWithProjection.from_pretrained(
        origin, subfolder=subfolder, use_safetensors=None if allow_pickle else True
    )
    pipeline.register_modules(image_encoder=encoder.to(pipeline.dtype))
