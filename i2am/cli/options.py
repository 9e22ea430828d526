"""The options that several commands take: each name has one meaning, one kind of value and one text.

What a command adds to the text, as its default, stands behind the first semicolon.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final

from i2am.cli.arguments import (
    call_argument,
    existing_file,
    existing_store,
    labels,
    number,
    positive,
    sample_names,
    shard,
    share,
)
from i2am.cli.parser import HIDDEN, ListAction
from i2am.schemas.choices import LEVEL_NAMES, POLARITIES, WITHIN

__all__ = ["SHARED", "add_earlier_spelling", "add_option"]

_STORE: Final = {"type": existing_store}
SHARED: Final[Mapping[str, Mapping[str, Any]]] = MappingProxyType(
    {
        "--argument": {
            "action": "append",
            "type": call_argument,
            "default": [],
            "metavar": "NAME=VALUE",
            "help": "an argument of the pipeline's call, as strength=0.8; a value in JSON "
            "or a Python literal is read as such, any other as text; may be repeated",
        },
        "--batch-size": {
            "type": positive,
            "metavar": "N",
            "help": "images in one call of the model",
        },
        "--cluster": {
            "default": "picture",
            "metavar": "COLUMN",
            "help": "samples that an interval draws together: of the same picture whatever the seed "
            "(picture), none (sample), or those with one value in a column of the run's table",
        },
        "--confidence": {
            "type": share,
            "default": 0.95,
            "metavar": "SHARE",
            "help": "level of the intervals, from 0 to 1",
        },
        "--denoiser": {
            "metavar": "PATH",
            "help": "attribute of the pipeline that holds the denoiser, as unet_vton; default: found "
            "by its class",
        },
        "--effects": {
            **_STORE,
            "metavar": "EFFECTS.zarr",
            "help": "what 'i2am causal' measured; default: beside the run, if any",
        },
        "--guidance": {
            "metavar": "BRANCH",
            "help": "guidance branch, of those that were captured; default: conditional",
        },
        "--guidance-scale": {
            "type": number,
            "metavar": "NUMBER",
            "help": "scale of classifier-free guidance",
        },
        "--heads": {
            "type": labels,
            "metavar": "A:B[:S]|LIST",
            "help": "attention heads by number, as 0,3 or 0:8; default: all",
        },
        "--inference-steps": {
            "type": positive,
            "metavar": "N",
            "help": "number of denoising steps",
        },
        "--layers": {
            "action": "append",
            "metavar": "GLOB",
            "help": "layers by name or pattern, as 'up_blocks*'; may be repeated; default: all",
        },
        "--levels": {
            "nargs": "+",
            "action": ListAction,
            "choices": LEVEL_NAMES,
            "metavar": "LEVEL",
            "help": f"levels of the maps, of {', '.join(LEVEL_NAMES)}",
        },
        "--manifest": {
            "type": existing_file,
            "metavar": "FILE",
            "help": "table of samples, .csv, .jsonl or .parquet",
        },
        "--maps": {
            **_STORE,
            "metavar": "MAPS.zarr",
            "help": "maps of the run; default: beside it, else computed",
        },
        "--no-fsync": {
            "action": "store_true",
            "help": "do not wait until each sample is on the disk; faster, but a power cut can "
            "damage samples",
        },
        "--overwrite": {"action": "store_true", "help": "replace what is there already"},
        "--polarity": {
            "choices": POLARITIES,
            "help": "what counts most: the highest attention (direct), or the lowest (inverted); default: direct",
        },
        "--profile": {
            "metavar": "NAME",
            "help": "how the model's layers are read; default: found by the pipeline's class",
        },
        "--run": {
            **_STORE,
            "dest": "source",
            "metavar": "RUN.zarr",
            "help": "run that the maps are of; default: the one that they name",
        },
        "--samples": {
            "nargs": "+",
            "action": ListAction,
            "type": sample_names,
            "metavar": "SAMPLE",
            "help": "names of samples; default: all",
        },
        "--shard": {
            "type": shard,
            "metavar": "I/N",
            "help": "every N-th sample from the I-th on, 0/N to N-1/N; default: the share that "
            "torchrun or Slurm sets, else all",
        },
        "--steps": {
            "type": labels,
            "metavar": "A:B[:S]|LIST",
            "help": "denoising steps by number, 0 is the noisiest, as 0,10 or 0:25; default: all",
        },
        "--time-groups": {
            "type": positive,
            "metavar": "N",
            "help": "number of TLAM's maps, each of equally many steps; at most the number of steps",
        },
        "--within": {
            "choices": WITHIN,
            "help": "patches that the maps are made from: all of the image, or those inside the "
            "inpainting mask; default: image",
        },
    }
)


def add_option(group: Any, name: str, *, adds: str = "", **changes: Any) -> Any:
    """Add an option that several commands take.

    Parameters
    ----------
    group : ArgumentParser or argument group
    name : str
        Of `SHARED`.
    adds : str
        What the command adds to the help, behind a semicolon, in place of what stands there.
    **changes : Any
        What else is the command's own: a default, or that it must be given.
    """
    option = {**SHARED[name], **changes}
    if adds:
        option["help"] = f"{option['help'].partition(';')[0]}; {adds}"
    return group.add_argument(name, **option)


def add_earlier_spelling(group: Any, name: str, option: Any) -> None:
    """Let an option be given by its earlier name, too, which help does not show."""
    kept = {"type": option.type} if option.nargs != 0 else {}
    action = "store" if kept else "store_true"
    group.add_argument(
        name, dest=option.dest, action=action, default=option.default, help=HIDDEN, **kept
    )
