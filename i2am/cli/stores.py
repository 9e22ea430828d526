"""The commands ``info``, ``validate`` and ``repair``: what is in a store, and whether it is right."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Set
from typing import TYPE_CHECKING, Any

from i2am.cli.arguments import add_command, existing_store
from i2am.cli.json_output import add_json, print_json
from i2am.schemas.errors import shorten
from i2am.schemas.text import safe_text

if TYPE_CHECKING:
    from i2am.analysis.inspection.condition import Condition
    from i2am.schemas import Fault

__all__ = ["add"]

_ANY_STORE = "run, maps, averages, differences or effects, or one sample in it, as run.zarr/SAMPLE"


def add(commands: Any) -> None:
    """Add the commands to a parser's commands."""
    _add_info(commands)
    _add_validate(commands)
    _add_repair(commands)


def _add_info(commands: Any) -> None:
    command = add_command(
        commands,
        "info",
        _info,
        "show what is in a store",
        examples=("i2am info run.zarr", "i2am info run.zarr/shirt-001 --json"),
    )
    command.add_argument("store", type=existing_store, metavar="STORE", help=_ANY_STORE)
    add_json(command)


def _add_validate(commands: Any) -> None:
    command = add_command(
        commands,
        "validate",
        _validate,
        "check that a store keeps the contract",
        examples=("i2am validate run.zarr", "i2am validate run.zarr --deep"),
    )
    command.add_argument("store", type=existing_store, metavar="STORE", help=_ANY_STORE)
    command.add_argument(
        "--deep",
        action="store_true",
        help="read every value, too; else metadata, sizes and each file's last bytes",
    )
    add_json(command)


def _add_repair(commands: Any) -> None:
    command = add_command(
        commands,
        "repair",
        _repair,
        "list the samples that must be captured or analyzed again",
        examples=("i2am repair run.zarr", "i2am repair run.zarr --apply"),
    )
    command.add_argument(
        "store", type=existing_store, metavar="STORE", help="run, maps or measured effects"
    )
    command.add_argument(
        "--quick", action="store_true", help="do not read every value, only metadata and sizes"
    )
    command.add_argument(
        "--apply",
        action="store_true",
        help="mark them as failed, so that the next run of their command makes them again",
    )


def _info(options: argparse.Namespace) -> None:
    from i2am.analysis.inspection.describe import facts_in_words
    from i2am.analysis.inspection.facts import store_facts

    facts = store_facts(options.store)
    if options.json:
        print_json(facts)
        return
    for name, fact in facts_in_words(facts).items():
        lines = [safe_text(line) for line in ([fact] if isinstance(fact, str) else fact)]
        print(f"{safe_text(name) + ':':14} " + f"\n{'':15}".join(lines))


def _validate(options: argparse.Namespace) -> int:
    condition = _examine(options.store, deep=options.deep)
    if options.deep:
        for fault in _iter_not_finite(options.store, left_out=set(condition.faults)):
            condition.add(fault)
    faults = list(condition.iter_faults())
    if options.json:
        found = [{"place": fault.place, "message": fault.message} for fault in faults]
        notes = {
            "without_checksums": condition.without_checksums,
            "unfinished": condition.unfinished,
        }
        print_json(
            {"store": options.store, "valid": not faults, "deep": options.deep, "faults": found}
            | notes
        )
        return 1 if faults else 0
    for name in condition.without_checksums:
        print(f"{safe_text(name)}: without checksums, as older versions wrote it")
    if condition.unfinished:
        shown = safe_text(shorten(", ".join(condition.unfinished)))
        print(f"not complete, so that readers leave them out: {shown}")
    print(
        *([safe_text(fault) for fault in faults] or [f"{options.store} keeps the contract"]),
        sep="\n",
    )
    return 1 if faults else 0


def _iter_not_finite(address: str, left_out: Set[str]) -> Iterator[Fault]:
    """Yield the values of a run's samples that are not finite; some are left out."""
    from i2am.analysis import open_run
    from i2am.analysis.inspection.address import open_address
    from i2am.analysis.inspection.finite import iter_not_finite
    from i2am.storage.addresses import own_attributes

    store, root, only = open_address(address)
    if own_attributes(root)["kind"] != "run" or "" in left_out:
        return
    run = open_run(store)
    for name in run if only is None else [only]:
        if name not in left_out and name in run:
            yield from iter_not_finite(run[name])


def _repair(options: argparse.Namespace) -> int:
    from i2am.analysis.inspection.condition import take_out
    from i2am.analysis.stores.reader import open_root

    open_root(options.store)  # Averages and differences are made again as a whole.
    condition = _examine(options.store, deep=not options.quick)
    of_store = [safe_text(fault) for fault in condition.faults.pop("", [])]
    for name, faults in condition.faults.items():
        more = f" and {len(faults) - 1} more" if len(faults) > 1 else ""
        print(safe_text(f"{name}: damaged, as {faults[0]}{more}"))
    print(*of_store, sep="\n", end="\n" if of_store else "")
    if options.apply:
        take_out(options.store, condition.faults, "damaged")
        print(
            f"{len(condition.faults)} taken out; the next run of the command that wrote them makes them again"
        )
        return 1 if of_store else 0
    if condition.faults:
        print(
            f"'i2am repair {options.store} --apply' takes them out, so that they can be made again"
        )
    elif not of_store:
        print(f"{options.store} has no damaged sample")
    return 1 if condition.faults or of_store else 0


def _examine(store: str, *, deep: bool) -> Condition:
    """Return a store's condition; a bar shows how much of it was read."""
    from i2am.analysis.inspection.condition import examine_store, stored_bytes

    if not deep:
        return examine_store(store)
    from tqdm.auto import tqdm

    def progress(count: int) -> None:
        bar.update(count)

    with tqdm(
        total=stored_bytes(store), desc="read", unit="B", unit_scale=True, disable=None
    ) as bar:
        return examine_store(store, deep=True, progress=progress)
