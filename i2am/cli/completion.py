"""What the shell offers at TAB: commands, options and their values, the names in a store on disk.

A shell asks for it once: ``eval "$(register-python-argcomplete i2am)"``. Then each TAB calls the program,
so nothing is imported or opened here that takes time; names come from the folders of a local store.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from typing import Final

from i2am.cli.arguments import existing_file, existing_store, new_address, new_path

__all__ = ["complete"]

_MODEL: Final = "ID_OR_DIR"
# Values that are paths; of a number or a name, files are no help.
_PATHS: Final = frozenset({existing_file, existing_store, new_address, new_path})
_PATH_NAMES: Final = frozenset({"--model", "--ip-adapter", _MODEL})


def complete(parser: argparse.ArgumentParser) -> None:
    """Answer the shell and end the process, if it was a shell that called it."""
    if "_ARGCOMPLETE" not in os.environ:
        return
    import argcomplete
    from argcomplete.completers import BaseCompleter, FilesCompleter

    class Values(BaseCompleter):
        """What may stand as a value of an option or argument that is no choice."""

        def __call__(
            self,
            *,
            prefix: str,
            action: argparse.Action,
            parser: argparse.ArgumentParser,
            parsed_args: argparse.Namespace,
        ) -> list[str]:
            files = list(FilesCompleter()(prefix)) if _is_path(action) else []
            return _names(action, parsed_args) + files

    argcomplete.autocomplete(parser, default_completer=Values(), always_complete_options="long")


def _is_path(action: argparse.Action) -> bool:
    return action.type in _PATHS or not _PATH_NAMES.isdisjoint(_names_of(action))


def _names(action: argparse.Action, options: argparse.Namespace) -> list[str]:
    """Return the names that a value may have."""
    if action.nargs == 0:
        return []
    return [name for own in _names_of(action) if own in _OFFERS for name in _OFFERS[own](options)]


def _names_of(action: argparse.Action) -> list[str]:
    """Return what an option, or an argument, is called."""
    return list(action.option_strings) or [str(action.metavar)]


def _samples(options: argparse.Namespace) -> list[str]:
    """Return the names of a store's samples, whatever their status."""
    return sorted(_folders(_store(options)))


def _layers(options: argparse.Namespace) -> list[str]:
    """Return the names of the layers of a run's first sample."""
    store = _store(options)
    for sample in _samples(options):
        if layers := sorted(_folders(os.path.join(store, sample, "layers"))):  # noqa: PTH118 - as fast
            return layers
    return []


def _devices(_options: argparse.Namespace) -> list[str]:
    return ["cpu", "cuda", "mps", "xpu"]


def _models(_options: argparse.Namespace) -> list[str]:
    return ["i2am-tiny"]


_OFFERS: Final[Mapping[str, Callable[[argparse.Namespace], list[str]]]] = {
    "--sample": _samples,
    "--samples": _samples,
    "--layers": _layers,
    "--device": _devices,
    "--model": _models,
    _MODEL: _models,
}


def _store(options: argparse.Namespace) -> str:
    return str(getattr(options, "store", None) or "")


def _folders(path: str) -> Iterator[str]:
    """Yield the names of a folder's folders that can be written in a shell as they are."""
    with suppress(OSError, ValueError), os.scandir(path or os.devnull) as entries:
        for entry in entries:
            if entry.name.isprintable() and not entry.name.startswith(".") and entry.is_dir():
                yield entry.name
