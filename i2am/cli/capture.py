"""The command ``i2am capture``: of all commands the one with most to choose."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from i2am.cli.arguments import (
    add_command,
    byte_count,
    existing_file,
    kept_steps,
    labels,
    new_address,
    number,
    positive,
    print_summary,
    seed,
    shard,
)
from i2am.cli.model import add_arguments, add_loading, arguments_by_name, loading_options
from i2am.schemas.choices import GUIDANCE_OPTIONS, REPRESENTATION_OPTIONS, STORED_DTYPES

if TYPE_CHECKING:
    from i2am.capture import CaptureOptions

__all__ = ["add"]


def add(commands: Any) -> None:
    """Add the command to a parser's commands."""
    command = add_command(
        commands, "capture", _capture, "generate and capture a manifest's samples", ["capture"]
    )
    command.add_argument("--model", required=True, metavar="ID_OR_DIR", help="i2am-tiny, or …")
    command.add_argument("--manifest", required=True, type=existing_file, metavar="FILE")
    command.add_argument("--out", required=True, type=new_address, metavar="RUN.zarr")
    command.add_argument("--overwrite", action="store_true", help="replace complete samples")
    add_loading(command.add_argument_group("loading the model"), weights=True)
    _add_generation(command.add_argument_group("generating"))
    _add_keeping(command.add_argument_group("what is kept"))


def _add_generation(group: Any) -> None:
    group.add_argument("--steps", type=positive, help="denoising steps")
    group.add_argument("--guidance-scale", type=number)
    group.add_argument("--seed", type=seed, default=0, help="plus a row's position; default 0")
    add_arguments(group)
    group.add_argument("--batch-size", type=positive, default=1, help="samples in one call")
    group.add_argument(
        "--shard",
        type=shard,
        metavar="I/N",
        help="every N-th row from the I-th on, 0/N to N-1/N; default: as torchrun or Slurm say",
    )


def _add_keeping(group: Any) -> None:
    group.add_argument("--profile", help="instead of the one found by the pipeline's class")
    group.add_argument(
        "--denoiser", metavar="PATH", help="where the pipeline has it, as unet_vton, if not found"
    )
    group.add_argument("--layers", action="append", metavar="GLOB", help="may be repeated")
    group.add_argument(
        "--keep-steps", type=kept_steps, metavar="N|A:B[:S]|LIST", help="every N-th, or these"
    )
    group.add_argument("--keep-heads", type=labels, metavar="A:B[:S]|LIST")
    group.add_argument("--guidance", choices=GUIDANCE_OPTIONS, default="conditional")
    group.add_argument("--representation", choices=REPRESENTATION_OPTIONS, default="auto")
    group.add_argument("--dtype", choices=STORED_DTYPES, default="float16")
    group.add_argument(
        "--text-roads",
        action="store_true",
        help="also what the text reads of the reference, and the patches of the text, where they share "
        "a softmax",
    )
    group.add_argument(
        "--memory",
        type=byte_count,
        default=byte_count("2GiB"),
        metavar="SIZE",
        help="what may wait to be written, as 2GiB (default)",
    )
    group.add_argument(
        "--no-fsync",
        action="store_true",
        help="do not wait until a sample is on the disk; for file systems that a power cut cannot hurt",
    )


def _capture(options: argparse.Namespace) -> int:
    from i2am.capture import capture_manifest

    arguments = arguments_by_name(options.argument)
    summary = capture_manifest(
        options.model,
        options.manifest,
        options.out,
        steps=options.steps,
        guidance_scale=options.guidance_scale,
        arguments=arguments,
        seed=options.seed,
        batch_size=options.batch_size,
        shard=options.shard,
        loading=loading_options(options),
        options=_keeping(options),
    )
    return print_summary(options.out, summary)


def _keeping(options: argparse.Namespace) -> CaptureOptions:
    from i2am.capture import CaptureOptions

    return CaptureOptions(
        layers=options.layers,
        steps=options.keep_steps,
        heads=options.keep_heads,
        guidance=options.guidance,
        representation=options.representation,
        dtype=options.dtype,
        edges=("reference->text", "text->generated") if options.text_roads else (),
        profile=options.profile,
        denoiser=options.denoiser,
        memory_bytes=options.memory,
        durable=not options.no_fsync,
        overwrite=options.overwrite,
    )
