"""What commands that load a model and call it have in common: how it is loaded, with which arguments."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from i2am.cli.arguments import call_argument, number, seed
from i2am.schemas import SchemaError
from i2am.schemas.choices import MODEL_DTYPES

if TYPE_CHECKING:
    from i2am.capture.pipelines.load import LoadOptions

__all__ = ["add_arguments", "add_loading", "arguments_by_name", "loading_options"]


def add_loading(group: Any, *, weights: bool = False) -> None:
    """Add the options that say how a model is loaded; with `weights`, also with which weights."""
    group.add_argument("--revision", help="branch, tag or commit of a hub model")
    group.add_argument("--device", help="cpu, cuda, cuda:1, xpu, mps, …; default: a GPU if any")
    group.add_argument(
        "--model-dtype", choices=MODEL_DTYPES, default="float32", help="what the model computes in"
    )
    group.add_argument(
        "--allow-pickle", action="store_true", help="load weights that could run code, too"
    )
    group.add_argument("--ip-adapter", metavar="PATH_OR_ID[:WEIGHT]", help="as REPO:models/X")
    group.add_argument("--ip-adapter-scale", type=number, help="default 1")
    group.add_argument(
        "--ip-adapter-encoder",
        metavar="FOLDER",
        default="image_encoder",
        help="of the image encoder, beside WEIGHT or, with a slash in it, from the top",
    )
    if weights:
        group.add_argument(
            "--randomize-weights",
            type=seed,
            metavar="SEED",
            help="draw the denoiser's weights anew, each tensor's with its mean and deviation: a baseline",
        )


def loading_options(options: argparse.Namespace) -> LoadOptions:
    """Return how the model is loaded."""
    from i2am.capture.pipelines.load import LoadOptions

    return LoadOptions(
        revision=options.revision,
        device=options.device,
        dtype=options.model_dtype,
        allow_pickle=options.allow_pickle,
        ip_adapter=options.ip_adapter,
        ip_adapter_scale=options.ip_adapter_scale,
        ip_adapter_encoder=options.ip_adapter_encoder,
        randomize_weights=getattr(options, "randomize_weights", None),
    )


def add_arguments(group: Any) -> None:
    """Add the option that gives further arguments of the pipeline's call."""
    group.add_argument(
        "--argument",
        action="append",
        type=call_argument,
        default=[],
        metavar="NAME=VALUE",
        help="of the pipeline's call, as strength=0.8; JSON or a Python literal, else a text; may be "
        "repeated",
    )


def arguments_by_name(given: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    """Return the arguments of the pipeline's call by name, each given once."""
    found: dict[str, Any] = {}
    for name, value in given:
        if name in found:
            msg = f"Expected --argument {name}=… once, got it twice. Leave one of them out."
            raise SchemaError(msg)
        found[name] = value
    return found
