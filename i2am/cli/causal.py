"""The command ``i2am causal``: cut reference tokens out of the attention, and store what that changes."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from i2am.cli.arguments import (
    add_command,
    existing_file,
    existing_store,
    grid,
    labels,
    new_address,
    number,
    positive,
    print_summary,
    sample_name,
    shard,
)
from i2am.cli.model import add_arguments, add_loading, arguments_by_name, loading_options
from i2am.schemas.choices import EDGE_NAMES, GUIDANCE_OPTIONS

if TYPE_CHECKING:
    from i2am.capture import EffectOptions, LoadOptions
    from i2am.capture.causal.measure_run import SampleOrders

__all__ = ["add"]

_CURVES = ("map", "least", "random")


def add(commands: Any) -> None:
    """Add the command to a parser's commands."""
    command = add_command(
        commands,
        "causal",
        _causal,
        "cut reference tokens out of the attention, paint a run's samples again, and store what changed",
        ["capture"],
    )
    command.add_argument("store", type=existing_store, metavar="RUN.zarr")
    command.add_argument("--model", required=True, metavar="ID_OR_DIR", help="that of the run")
    command.add_argument(
        "--out", type=new_address, metavar="EFFECTS.zarr", help="default: beside the run"
    )
    command.add_argument(
        "--manifest",
        type=existing_file,
        metavar="FILE",
        help="of the run, for pictures, prompts and seeds that it does not hold",
    )
    command.add_argument(
        "--samples", type=sample_name, nargs="+", metavar="NAME", help="default: all"
    )
    command.add_argument(
        "--overwrite",
        action="store_true",
        help="replace effects that were measured with other options",
    )
    _add_repainting(command)
    _add_measuring(command.add_argument_group("what is measured"))
    _add_running(command.add_argument_group("running"))


def _add_repainting(command: argparse.ArgumentParser) -> None:
    add_loading(command.add_argument_group("loading the model; default: as the run says"))
    # None says that nothing was given.
    command.set_defaults(model_dtype=None, ip_adapter_encoder=None)
    group = command.add_argument_group("painting again; default: as the run says")
    group.add_argument("--steps", type=positive, help="denoising steps")
    group.add_argument("--guidance-scale", type=number)
    add_arguments(group)


def _add_measuring(group: Any) -> None:
    group.add_argument(
        "--grid",
        type=_regions,
        default=(8, 8),
        metavar="N|HxW",
        help="regions of the reference that are cut one by one; default 8, which is 8x8",
    )
    group.add_argument(
        "--adaptive",
        action="store_true",
        help="begin with 4x4 regions, and split the strongest quarter of each size, down to --grid",
    )
    group.add_argument("--no-regions", action="store_true", help="cut no regions")
    group.add_argument("--layers", action="store_true", help="also cut each layer alone")
    group.add_argument(
        "--edges",
        nargs="+",
        choices=EDGE_NAMES,
        metavar="EDGE",
        help=f"also cut these apart: {', '.join(EDGE_NAMES)}",
    )
    group.add_argument(
        "--direct",
        action="store_true",
        help="also direct effects: of single steps that begin where the untouched run had them",
    )
    group.add_argument(
        "--direct-steps", type=labels, metavar="A:B[:S]|LIST", help="default: four of them"
    )
    group.add_argument(
        "--occlusion",
        action="store_true",
        help="also hide each region of the reference picture, painted over from its surroundings",
    )
    group.add_argument(
        "--curves",
        nargs="*",
        metavar="ORDER",
        help=f"also deletion and insertion curves: {', '.join(_CURVES)} (default: these), position, or a "
        "layer's name, whose map gives the order",
    )
    group.add_argument(
        "--guidance",
        choices=GUIDANCE_OPTIONS,
        default="conditional",
        help="the guidance branches in which is cut",
    )
    group.add_argument("--profile", help="instead of the one found by the pipeline's class")
    group.add_argument("--denoiser", metavar="PATH", help="as for i2am capture")


def _add_running(group: Any) -> None:
    group.add_argument("--batch-size", type=positive, default=8, help="images in one call")
    group.add_argument(
        "--shard",
        type=shard,
        metavar="I/N",
        help="every N-th sample from the I-th on; default: as torchrun or Slurm say",
    )
    group.add_argument(
        "--tolerance",
        type=number,
        metavar="LEVELS",
        help="by how many of 255 a repainted image may differ from the stored one; default: 1, and four "
        "times what rounding changes in it",
    )
    group.add_argument(
        "--no-fsync", action="store_true", help="do not wait until a sample is on the disk"
    )


def _regions(text: str) -> tuple[int, int]:
    if "x" in text:
        return grid(text)
    side = positive(text)
    return side, side


def _causal(options: argparse.Namespace) -> int:
    from i2am.capture import GenerationSettings
    from i2am.capture.causal.measure_run import measure_run

    curves = _curves(options.curves)
    out = options.out or _default_out(options.store)
    summary = measure_run(
        options.model,
        options.store,
        out,
        options=_measuring(options),
        manifest=options.manifest,
        samples=options.samples,
        orders=_orders(options.store, curves) if curves else None,
        order_names=curves,
        loading=_given(loading_options(options)),
        settings=GenerationSettings(
            options.steps, options.guidance_scale, arguments_by_name(options.argument)
        ),
        shard=options.shard,
        tolerance=options.tolerance,
        profile=options.profile,
        denoiser=options.denoiser,
        overwrite=options.overwrite,
        durable=not options.no_fsync,
    )
    return print_summary(out, summary)


def _measuring(options: argparse.Namespace) -> EffectOptions:
    from i2am.capture import EffectOptions

    asked = {
        "region": not options.no_regions,
        "layer": options.layers,
        "edge": bool(options.edges),
    }
    # Regions, layers and all tokens are cut over what begins at the reference.
    edges = options.edges or []
    if not any(edge.startswith("reference->") for edge in edges):
        edges = [EDGE_NAMES[0], *edges]
    return EffectOptions(
        regions=options.grid,
        adaptive=options.adaptive,
        edges=list(dict.fromkeys(edges)),
        per=[name for name, is_asked in asked.items() if is_asked],  # type: ignore[misc]
        forced=options.direct or options.direct_steps is not None,
        occlusion=options.occlusion,
        forced_steps=options.direct_steps,
        guidance=options.guidance,
        batch=options.batch_size,
    )


def _given(loading: LoadOptions) -> dict[str, Any]:
    """Return what was given of how the model is loaded; the rest is as the run says."""
    return {
        name: value
        for name, value in vars(loading).items()
        if value is not None and value is not False
    }


def _curves(given: list[str] | None) -> list[str]:
    if given is None:
        return []
    return list(dict.fromkeys(given or _CURVES))


def _orders(run: str | Path, names: Sequence[str]) -> SampleOrders:
    """Return what orders a sample's regions: by its maps, which the analysis makes."""
    from i2am.analysis import cell_order, open_run

    samples = open_run(run)

    def orders(sample: str, boxes: Any) -> Mapping[str, Sequence[int]]:
        return {name: cell_order(samples[sample], boxes, name) for name in names}

    return orders


def _default_out(run: str) -> Path:
    from i2am.analysis import default_effects_path

    return default_effects_path(run)
