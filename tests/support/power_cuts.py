"""Cut the power at every moment of a command, and look at what is left."""

from __future__ import annotations

import json
import random
import re
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from i2am.analysis import open_maps, open_run
from i2am.capture.writer.run_store import enter_run
from i2am.schemas import I2AMError
from tests.support.crash_cases import CASES, CrashCase
from tests.support.power_cut import disk_states, replay
from tests.support.store_contents import contents_of, differences
from tests.support.write_log import Tree, recorded_writes, tree_of

_OWNERS = "/.captures/"
_PROCESS = re.compile(rb'("process_started": *)"[^"]*"')

__all__ = ["PowerCuts", "Tried", "fast_folder", "sweep"]


@dataclass(frozen=True)
class Tried:
    """One state of the disk, and what came of it.

    Parameters
    ----------
    event : int
        How many events came before the power was cut.
    state : str
        Which of the states that the disk may then be in.
    outcome : str
        survived: every complete sample is whole. mended: and the same command gave the whole result.
        LOST: a complete sample cannot be read, or is gone. UNDETECTED: it reads as something else.
    detail : str
    """

    event: int
    state: str
    outcome: str
    detail: str = ""


def sweep(seed: int, rounds: int) -> Iterator[tuple[str, str]]:
    """Yield what was tried and its outcome, for each state that a disk may be in.

    From 20 rounds on after every event, with a random state for each five rounds; every case's command
    is given again on as many states as there are rounds.
    """
    for case in CASES:
        with tempfile.TemporaryDirectory(dir=fast_folder()) as folder:
            cuts = PowerCuts(case, Path(folder))
            assert cuts.is_replayed()
            randoms, share = -(-rounds // 5), min(1.0, rounds / 20)
            for tried in cuts.run(randoms=randoms, reruns=rounds, seed=seed, share=share):
                where = f", {tried.state} after event {tried.event}: {tried.detail}"
                yield f"power cut in {case.name}{where if tried.detail else ''}", tried.outcome


class PowerCuts:
    """Records a command once, and checks what a power cut may leave of it.

    Parameters
    ----------
    case : CrashCase
    folder : Path
        An empty one, best in memory.
    """

    def __init__(self, case: CrashCase, folder: Path) -> None:
        self.case = case
        self._inputs, self._out, self._seen = (folder / name for name in ("in", "out", "seen"))
        for each in (self._inputs, self._out, self._seen):
            each.mkdir()
        case.prepare(self._inputs, self._out)
        with recorded_writes(self._out) as self.log:
            case.command(self._inputs, self._out)
        self.after = tree_of(self._out)
        # By sample or store: what it may read as while the command runs, and after it.
        self._wholes = self._read_all(self.log.before, self.after)
        self._right = self._read_all(self.after)
        if case.also is not None:
            _empty(self._out)
            case.also(self._inputs, self._out)
            for unit, others in self._read_all(tree_of(self._out)).items():
                self._right[unit] += others
        self._verdicts: dict[int, tuple[str, str]] = {}
        self._entered: dict[int, bool] = {}

    def is_replayed(self) -> bool:
        """Return whether the recorded events make what lies there, so that nothing was missed."""
        return replay(self.log.before, self.log.events) == self.after

    def run(self, *, randoms: int, reruns: int, seed: int, share: float = 1.0) -> Iterator[Tried]:
        """Yield what came of each state of the disk.

        Parameters
        ----------
        randoms : int
            States by chance after each event.
        reruns : int
            On how many of the states to give the command again.
        seed : int
        share : float, 0..1
            Of the events after which the power is cut; some near a change of a status always are.
        """
        rng = random.Random(seed)
        moments = {
            number
            for number, event in enumerate(self.log.events, 1)
            if rng.random() < share or _is_sample(event.target)
        }
        states = list(
            disk_states(
                self.log.before, self.log.events, randoms=randoms, seed=seed, moments=moments
            )
        )
        again = set(random.Random(seed).sample(range(len(states)), min(reruns, len(states))))
        # Complete whatever is lost: from then on it may not go.
        certain = set(_complete_units(self.log.before)) if self.case.keeps_old else set()
        for number, (event, state, tree) in enumerate(states):
            outcome, detail = self._check(tree, certain)
            if outcome == "survived" and state == "unsynced lost":
                certain |= {
                    unit
                    for unit in _complete_units(tree)
                    if _part(tree, unit) == _part(self.after, unit)
                }
            if outcome == "survived" and number in again:
                outcome, detail = self._do_again(tree)
            yield Tried(event, state, outcome, detail)

    def _check(self, tree: Tree, certain: set[str]) -> tuple[str, str]:
        for unit in _complete_units(tree):
            outcome, detail = self._verdict(tree, unit)
            if outcome != "survived":
                return outcome, f"{unit}: {detail}"
        complete = set(_complete_units(tree))
        for unit in certain - complete:
            if not self._is_whole_after_entering(tree, unit):
                return "LOST", f"{unit}: it was complete and is gone"
        return "survived", ""

    def _is_whole_after_entering(self, tree: Tree, unit: str) -> bool:
        """Return whether a sample is whole once the next capture has begun, and done nothing yet."""
        root, _, sample = unit.partition("/")
        own = {
            p: c for p, c in tree.items() if _is_read_for(p, unit) or f"/.replacing/{sample}" in p
        }
        identity = hash(tuple(own.items()))
        if identity not in self._entered:
            _empty(self._seen)
            _write_tree(self._seen, own)
            enter_run(self._seen / root).close()
            found = tree_of(self._seen)
            is_there = unit in _complete_units(found)
            self._entered[identity] = is_there and self._verdict(found, unit)[0] == "survived"
        return self._entered[identity]

    def _verdict(self, tree: Tree, unit: str) -> tuple[str, str]:
        own = tuple((path, content) for path, content in tree.items() if _is_read_for(path, unit))
        identity = hash(own)
        if identity not in self._verdicts:
            self._verdicts[identity] = self._judge(dict(own), unit, self._wholes.get(unit, []))
        return self._verdicts[identity]

    def _judge(self, tree: Tree, unit: str, wholes: Sequence[Any]) -> tuple[str, str]:
        try:
            found = self._read(tree, unit)
        except (I2AMError, OSError, ValueError, KeyError, TypeError, RuntimeError) as e:
            return "LOST", f"is complete and cannot be read: {type(e).__name__}: {str(e)[:200]}"
        if any(_is_same(found, whole) for whole in wholes):
            return "survived", ""
        names = [differences(found[0], whole[0])[:3] for whole in wholes]
        return "UNDETECTED", f"is complete and has other values, at {names}"

    def _read_all(self, *trees: Tree) -> dict[str, list[Any]]:
        found: dict[str, list[Any]] = {}
        for tree in trees:
            for unit in _complete_units(tree):
                found.setdefault(unit, []).append(self._read(tree, unit))
        return found

    def _read(self, tree: Tree, unit: str) -> Any:
        """Return a sample as plain zarr reads it, and as ours does."""
        _empty(self._seen)
        root, _, sample = unit.partition("/")
        _write_tree(self._seen, {path: c for path, c in tree.items() if _is_read_for(path, unit)})
        plain = contents_of(self._seen / unit)
        if not sample:
            return plain, None
        opened = open_run if root.startswith("run") else open_maps
        with opened(self._seen / root)[sample] as found:
            return plain, found.load()

    def _do_again(self, tree: Tree) -> tuple[str, str]:
        _empty(self._out)
        _write_tree(self._out, tree)
        try:
            self.case.command(self._inputs, self._out)
        except (
            I2AMError,
            OSError,
            ValueError,
            KeyError,
            TypeError,
            RuntimeError,
            AssertionError,
        ) as e:
            return "LOST", f"the same command again: {type(e).__name__}: {str(e)[:300]}"
        found = tree_of(self._out)
        missing = {*_complete_units(self.after)} - {*_complete_units(found)}
        if missing:
            return "LOST", f"the same command again does not give {sorted(missing)}"
        for unit in _complete_units(found):
            outcome, detail = self._judge(found, unit, self._right[unit])
            if outcome != "survived":
                return outcome, f"the same command again, {unit}: {detail}"
        return "mended", ""


def _is_same(found: Any, whole: Any) -> bool:
    if differences(found[0], whole[0]):
        return False
    return found[1] is None or _arrays(found[1]) == _arrays(whole[1])


def _arrays(tree: xr.DataTree) -> dict[str, Any]:
    return {
        f"{node.path}/{name}": (values.dims, values.to_numpy().tobytes())
        for node in tree.subtree
        for name, values in node.variables.items()
        if values.dtype.kind not in "OU"
    } | {
        f"{node.path}/{name}": np.asarray(values).tolist()
        for node in tree.subtree
        for name, values in node.variables.items()
        if values.dtype.kind in "OU"
    }


def _complete_units(tree: Tree) -> Iterator[str]:
    """Yield the path of each complete sample, and of each average that has its name."""
    for path in tree:
        parts = path.split("/")
        if parts[-1] != "zarr.json" or any(part.startswith(".") for part in parts):
            continue
        if len(parts) == 3 and _attribute(tree, path, "status") == "complete":
            yield path.rpartition("/")[0]
        elif len(parts) == 2 and parts[0].endswith(".average.zarr"):
            yield parts[0]


def _is_read_for(path: str, unit: str) -> bool:
    root = unit.partition("/")[0]
    return path.startswith(f"{unit}/") or path in {unit, f"{root}/zarr.json"}


def _attribute(tree: Tree, path: str, name: str) -> Any:
    try:
        found: Any = json.loads(tree[path] or b"")
        return found["attributes"]["i2am"].get(name)
    except (ValueError, KeyError, TypeError, AttributeError):
        return None


def _part(tree: Tree, unit: str) -> Tree:
    return {path: content for path, content in tree.items() if path.startswith(f"{unit}/")}


def _is_sample(path: str) -> bool:
    """Return whether a path is that of a sample's own metadata, where its status is."""
    return path.count("/") == 2 and path.endswith("/zarr.json")


def _empty(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.mkdir()


def _write_tree(folder: Path, tree: Tree) -> None:
    """Write a tree, and let the process that wrote it be gone: it is this one."""
    for path, content in tree.items():
        if content is None:
            (folder / path).mkdir(parents=True, exist_ok=True)
        else:
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            gone = _PROCESS.sub(rb'\1"gone"', content) if _OWNERS in path else content
            (folder / path).write_bytes(gone)


def fast_folder() -> str | None:
    """Return a folder in memory, for temporary ones; None where there is none."""
    memory = Path("/dev/shm")
    return str(memory) if memory.is_dir() else None
