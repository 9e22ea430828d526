"""The command ``i2am capture``: of all commands the one with most to choose."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from i2am.cli.arguments import (
    add_command,
    byte_count,
    kept_steps,
    labels,
    new_address,
    print_summary,
    seed,
)
from i2am.cli.model import add_loading, add_model, arguments_by_name, loading_options
from i2am.cli.options import add_earlier_spelling, add_option
from i2am.schemas.choices import GUIDANCE_OPTIONS, REPRESENTATION_OPTIONS, STORED_DTYPES

if TYPE_CHECKING:
    from i2am.capture import CaptureOptions

__all__ = ["add"]


def add(commands: Any) -> None:
    """Add the command to a parser's commands."""
    command = add_command(
        commands,
        "capture",
        _capture,
        "generate a manifest's samples, and capture their attention",
        ["capture"],
        examples=(
            "i2am capture --model i2am-tiny --manifest rows.csv --out run.zarr",
            "i2am capture --model i2am-tiny --manifest rows.csv --out run.zarr"
            " --inference-steps 25 --keep-steps 5 --layers 'up_blocks*'",
        ),
    )
    add_model(command)
    add_option(
        command,
        "--manifest",
        required=True,
        adds="columns sample and reference, source and mask where the pipeline takes them, "
        "optionally prompt, seed, box …",
    )
    command.add_argument(
        "--out",
        required=True,
        type=new_address,
        metavar="RUN.zarr",
        help="run to write; the complete samples of an existing run are kept",
    )
    add_option(command, "--overwrite", adds="else complete samples are skipped")
    add_loading(command.add_argument_group("loading the model"), weights=True)
    _add_generation(command.add_argument_group("generating"))
    _add_keeping(command.add_argument_group("what is kept"))


def _add_generation(group: Any) -> None:
    steps = add_option(group, "--inference-steps", adds="default: the pipeline's own")
    add_earlier_spelling(group, "--steps", steps)
    add_option(group, "--guidance-scale", adds="default: the pipeline's own")
    group.add_argument(
        "--seed",
        type=seed,
        default=0,
        metavar="N",
        help="seed of the first row, and one more for each further row; a row's own seed replaces it",
    )
    add_option(group, "--argument")
    add_option(group, "--batch-size", default=1)
    add_option(group, "--shard")


def _add_keeping(group: Any) -> None:
    for name in ("--profile", "--denoiser"):
        add_option(group, name)
    add_option(group, "--layers")
    group.add_argument(
        "--keep-steps",
        type=kept_steps,
        metavar="N|A:B[:S]|LIST",
        help="denoising steps to store: every N-th, or these, as 0,10 or 0:25; default: all",
    )
    group.add_argument(
        "--keep-heads",
        type=labels,
        metavar="A:B[:S]|LIST",
        help="attention heads to store, as 0,3 or 0:8; default: all",
    )
    group.add_argument(
        "--guidance",
        choices=GUIDANCE_OPTIONS,
        default="conditional",
        help="guidance branches to store",
    )
    group.add_argument(
        "--representation",
        choices=REPRESENTATION_OPTIONS,
        default="auto",
        help="store queries and keys (factors), their products (logits), whichever is smaller "
        "(auto), or maps alone, which show no single patches",
    )
    group.add_argument(
        "--dtype",
        choices=STORED_DTYPES,
        default="float16",
        help="type of the stored numbers; a layer with a value beyond float16 is stored as float32",
    )
    group.add_argument(
        "--text-roads",
        action="store_true",
        help="store what the text reads of the reference, and what the patches read of the text, "
        "too, where they share a softmax",
    )
    group.add_argument(
        "--memory",
        type=byte_count,
        default=byte_count("2GiB"),
        metavar="SIZE",
        help="memory for data that waits to be written, as 500MB or 2GiB; default: 2GiB",
    )
    add_option(group, "--no-fsync")


def _capture(options: argparse.Namespace) -> int:
    from i2am.capture import capture_manifest

    arguments = arguments_by_name(options.argument)
    summary = capture_manifest(
        options.model,
        options.manifest,
        options.out,
        steps=options.inference_steps,
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
