"""The command ``i2am tokens``: which tokens of which layers of a model are what."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from i2am.cli.arguments import add_command
from i2am.cli.model import MODEL, add_loading, arguments_by_name, loading_options
from i2am.cli.options import add_option

__all__ = ["add"]


def add(commands: Any) -> None:
    """Add the command to a parser's commands."""
    command = add_command(
        commands,
        "tokens",
        _tokens,
        "show what the tokens of a model's layers stand for",
        ["capture"],
        examples=(
            "i2am tokens i2am-tiny",
            "i2am tokens ./my-model --manifest rows.csv --guidance-scale 1",
        ),
    )
    command.add_argument("model", metavar="ID_OR_DIR", help=MODEL)
    add_option(
        command,
        "--manifest",
        adds="one step is run on its first row, to count the tokens; default: no "
        "run, except for i2am-tiny",
    )
    add_option(command, "--profile")
    add_loading(command.add_argument_group("loading the model"))
    running = command.add_argument_group("running it")
    add_option(running, "--guidance-scale", adds="default: the pipeline's own")
    add_option(running, "--argument")


def _tokens(options: argparse.Namespace) -> int:
    from i2am.capture import CaptureOptions, GenerationSettings
    from i2am.capture.batch.capture_manifest import run_first_row
    from i2am.capture.batch.load_model import load_model
    from i2am.capture.families.lookup import named_profile
    from i2am.capture.inspection.token_report import describe_tokens
    from i2am.schemas import read_manifest

    settings = GenerationSettings(1, options.guidance_scale, arguments_by_name(options.argument))
    manifest = options.manifest or _manifest_of_shipped(options.model)
    loading = loading_options(options)
    if options.profile is not None:
        named_profile(options.profile)
    if manifest is not None:
        read_manifest(manifest)
    pipeline = load_model(options.model, loading)
    report = describe_tokens(pipeline, profile=options.profile)
    if manifest is not None:
        with report:
            run_first_row(pipeline, manifest, settings, CaptureOptions(profile=options.profile))
    sys.stdout.write(f"{report}\n")
    if manifest is None:
        sys.stdout.write("\nGive --manifest FILE to run one step on its first row.\n")
    return 0


def _manifest_of_shipped(model: str) -> Path | None:
    """Return the manifest that the shipped model can be run with; None for another model."""
    from i2am.capture import DEMO_MANIFEST, SHIPPED_MODEL

    return DEMO_MANIFEST if model == SHIPPED_MODEL else None
