"""The commands ``i2am info`` and ``i2am validate``: what is in a store, and whether it is right."""

from __future__ import annotations

import argparse
from typing import Any

from i2am.cli.arguments import add_command, existing_store
from i2am.schemas.text import safe_text

__all__ = ["add"]


def add(commands: Any) -> None:
    """Add the commands to a parser's commands."""
    _add_info(commands)
    _add_validate(commands)


def _add_info(commands: Any) -> None:
    command = add_command(commands, "info", _info, "tell what is in a store")
    command.add_argument("store", type=existing_store, metavar="STORE")


def _add_validate(commands: Any) -> None:
    command = add_command(commands, "validate", _validate, "check that a store keeps the contract")
    command.add_argument("store", type=existing_store, metavar="STORE")


def _info(options: argparse.Namespace) -> None:
    from i2am.analysis import summarise_store

    for name, fact in summarise_store(options.store).items():
        lines = [safe_text(line) for line in ([fact] if isinstance(fact, str) else fact)]
        print(f"{safe_text(name) + ':':14} " + f"\n{'':15}".join(lines))


def _validate(options: argparse.Namespace) -> int:
    from i2am.analysis import describe_store
    from i2am.schemas import find_faults

    faults = [safe_text(fault) for fault in find_faults(describe_store(options.store))]
    print(*(faults or [f"{options.store} keeps the contract"]), sep="\n")
    return 1 if faults else 0
