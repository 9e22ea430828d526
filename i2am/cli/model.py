"""What commands that load a model and call it have in common: how it is loaded, with which arguments."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

from i2am.cli.arguments import number, seed
from i2am.schemas import SchemaError
from i2am.schemas.choices import MODEL_DTYPES

if TYPE_CHECKING:
    from i2am.capture.pipelines.load import LoadOptions

__all__ = ["MODEL", "add_loading", "add_model", "arguments_by_name", "loading_options"]

MODEL: Final = "i2am-tiny, a hub id, or a diffusers folder"


_ENCODER: Final = "image_encoder"


def add_model(command: argparse.ArgumentParser) -> None:
    """Add the option that names the model."""
    command.add_argument("--model", required=True, metavar="ID_OR_DIR", help=MODEL)


def add_loading(group: Any, *, weights: bool = False, default: str = "") -> None:
    """Add the options that say how a model is loaded.

    Parameters
    ----------
    group : argument group
    weights : bool
        Also the one that says with which weights.
    default : str
        What is told where nothing is given, and then taken in place of these options' own defaults.
    """
    own: dict[str, str | None] = {
        "dtype": "float32",
        "ip_adapter_encoder": _ENCODER,
    }
    if default:
        own = dict.fromkeys(own)
    group.add_argument(
        "--revision",
        metavar="NAME",
        help=f"branch, tag or commit of a hub model; {default or 'default: main'}",
    )
    group.add_argument(
        "--device",
        help="where the model computes: cpu, cuda, cuda:1, xpu, mps …; default: a GPU, if any",
    )
    group.add_argument(
        "--model-dtype",
        choices=MODEL_DTYPES,
        default=own["dtype"],
        help=f"type of the numbers that the model computes with{f'; {default}' if default else ''}",
    )
    group.add_argument(
        "--allow-pickle", action="store_true", help="load weights that could run code, too"
    )
    group.add_argument(
        "--ip-adapter",
        metavar="PATH_OR_ID[:WEIGHT]",
        help=f"IP-Adapter to load, as REPO:models/NAME; {default or 'default: none'}",
    )
    group.add_argument(
        "--ip-adapter-scale",
        type=number,
        metavar="NUMBER",
        help=f"scale of the IP-Adapter; {default or 'default: 1'}",
    )
    group.add_argument(
        "--ip-adapter-encoder",
        metavar="FOLDER",
        default=own["ip_adapter_encoder"],
        help="folder of the IP-Adapter's image encoder, beside WEIGHT or, if it has a slash, from "
        f"the repository's top{f'; {default}' if default else ''}",
    )
    if weights:
        group.add_argument(
            "--randomize-weights",
            type=seed,
            metavar="SEED",
            help="replace the denoiser's weights by random ones, with each tensor's mean and deviation, "
            "for a baseline; default: the trained ones",
        )


def loading_options(options: argparse.Namespace, *, is_again: bool = False) -> LoadOptions:
    """Return how the model is loaded; `is_again` if what is not given is as a run says.

    Raises
    ------
    SchemaError
        If an IP-Adapter's encoder is named, and no IP-Adapter.
    """
    from i2am.capture.pipelines.load import LoadOptions

    is_encoder_given = options.ip_adapter_encoder not in {None, _ENCODER}
    if is_encoder_given and options.ip_adapter is None and not is_again:
        msg = (
            f"Expected --ip-adapter beside --ip-adapter-encoder {options.ip_adapter_encoder}, got none. "
            "Name the IP-Adapter, too."
        )
        raise SchemaError(msg)
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


def arguments_by_name(given: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    """Return the arguments of the pipeline's call by name, each given once."""
    found: dict[str, Any] = {}
    for name, value in given:
        if name in found:
            msg = f"Expected --argument {name}=… once, got it twice. Leave one of them out."
            raise SchemaError(msg)
        found[name] = value
    return found
