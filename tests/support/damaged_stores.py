"""What every reader makes of a damaged store: the undamaged values, an error of ours, or a fault.

A reader is a function from the stores' folder and a sample's name to facts: a mapping whose values
say all that it gave out. The same facts as of the undamaged stores are right, an `I2AMError` is
right, everything else is not.
"""

from __future__ import annotations

import contextlib
import filecmp
import hashlib
import io
import itertools
import random
import shutil
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import dask
import numpy as np
import xarray as xr
import zarr

from i2am.analysis import LiveSram, analyze, open_maps, open_run, score_maps, sram
from i2am.cli import main
from i2am.schemas import I2AMError, StoreWarning
from i2am.viewer.data.open_sample import open_view
from tests.support.damages import Damage, damages
from tests.support.specimens import MAPS, RUN, SAMPLES, Specimens

__all__ = ["Trial", "Trials", "sweep"]

Facts = Mapping[str, str]
Reader = Callable[[Path, str], Facts]
DAMAGES_A_ROUND = 40
_MAPS, _OFFICIAL = MAPS
# Of the model's part of every sample's images.
_GENERATED_PX, _REFERENCE_PX = (5, 9), (3, 3)
_TRACEBACKS = ("Traceback", "report what it shows", "Expected no such error")
_MAX_LINES = 3


@dataclass
class Trial:
    """What became of one damage.

    Parameters
    ----------
    damage : Damage
    quick, deep : str
        What the two checks found; empty for nothing.
    refused : dict of str to str
        By reader, its error.
    faults : list of str
        What is wrong with us.
    """

    damage: Damage
    quick: str = ""
    deep: str = ""
    refused: dict[str, str] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)

    @property
    def outcome(self) -> str:
        """One word, as the table of all sweeps counts them."""
        if self.faults:
            return "UNDETECTED"
        return "refused" if self.refused or self.deep else "survived"


class Trials:
    """Damages copies of the same stores, again and again.

    Parameters
    ----------
    specimens : Specimens
    folder : Path
        To work in.
    has_deep : bool
        Whether ``validate`` knows ``--deep``.
    is_thorough : bool
        Ask every reader; else one of each kind.
    """

    def __init__(
        self,
        specimens: Specimens,
        folder: Path,
        *,
        has_deep: bool = True,
        is_thorough: bool = True,
    ) -> None:
        self._specimens, self._folder, self._has_deep = specimens, folder, has_deep
        self._is_thorough = is_thorough
        self._stores, self._out = folder / "stores", folder / "out"
        self._right: dict[tuple[str, str], Facts] = {}
        shutil.copytree(specimens.new, self._stores)
        for store in (RUN, *MAPS):
            found = self._validate(store, "--deep" if has_deep else "")
            assert not found, found

    def attempt(self, damage: Damage, *, command: str | None = None) -> Trial:
        """Damage the stores, ask everybody, and mend them again.

        Parameters
        ----------
        damage : Damage
        command : str, optional
            Of `commands`; none by default, as they take the most time.
        """
        trial = Trial(damage)
        readers = {
            name: _READERS[name]
            for name in _readers_of(damage.store)
            if self._is_thorough or name not in _LIKE_OTHERS
        }
        if command is not None:
            # Others are asked the same: their facts are not these.
            readers[f"i2am {command}, {damage.store}"] = self.commands(damage.store)[command]
        sample = damage.sample or SAMPLES[0]
        for name, reader in readers.items():
            self._facts(name, reader, sample)
        damage.apply(self._stores)
        try:
            trial.quick = self._validate(damage.store)
            trial.deep = self._validate(damage.store, "--deep") if self._has_deep else trial.quick
            for name, reader in readers.items():
                self._ask(trial, name, reader, sample)
            self._ask_for_another(trial)
            self._judge(trial)
        finally:
            shutil.rmtree(self._stores / damage.store)
            shutil.copytree(self._specimens.new / damage.store, self._stores / damage.store)
        return trial

    def commands(self, store: str) -> Mapping[str, Reader]:
        """Return what the command line can be asked about a store, by its name."""
        names = _RUN_COMMANDS if store == RUN else _MAPS_COMMANDS
        return {name: self._command(name, store, given) for name, given in names.items()}

    def _ask(self, trial: Trial, name: str, reader: Reader, sample: str) -> None:
        right = self._right.get((name, sample))
        if right is None:  # This reader does not serve this sample.
            return
        try:
            found, warned = _quietly(reader, self._stores, sample)
        except I2AMError as error:
            trial.refused[name] = str(error)
            if not str(error) or len(str(error).splitlines()) > _MAX_LINES:
                trial.faults.append(f"{name}: an error of other than 1 to 3 lines: {error!r}")
        except Exception as error:  # noqa: BLE001 - that it is none of ours is what is found
            trial.faults.append(f"{name}: {type(error).__name__}: {str(error)[:200]}")
        else:
            if found != right and warned:  # It said that something was left out, and what.
                trial.refused[name] = warned
            elif found != right:
                trial.faults.append(f"{name}: another value without a word: {_odd(right, found)}")

    def _ask_for_another(self, trial: Trial) -> None:
        """Check that a sample that was not hit is read as ever, where the store's root was not."""
        store = trial.damage.store
        if trial.damage.sample is None:
            return
        for name in self._samples(store):
            one, other = (root / store / name for root in (self._stores, self._specimens.new))
            if name != trial.damage.sample and _is_same_folder(one, other):
                reader = _tree if store == RUN else _maps_tree(store)
                self._facts(f"alone {store}", reader, name)
                asked = Trial(trial.damage)
                self._ask(asked, f"alone {store}", reader, name)
                found = [*asked.refused.values(), *asked.faults]
                trial.faults += [f"another sample, {name}: {fault}" for fault in found]
                return

    def _samples(self, store: str) -> list[str]:
        return list(SAMPLES if store == RUN else MAPS[store]["samples"])

    def _judge(self, trial: Trial) -> None:
        """Add what the checks should have found and did not."""
        changes = bool(trial.refused or trial.faults)
        if changes and not trial.deep:
            trial.faults.append("validate --deep: nothing found")
        elif changes and trial.damage.is_quick and not trial.quick:
            trial.faults.append("validate: nothing found")
        for which, found in (("validate", trial.quick), ("validate --deep", trial.deep)):
            has_to_name = trial.damage.is_quick or found is trial.deep
            if any(word in found for word in _TRACEBACKS):
                trial.faults.append(f"{which}: a traceback: {found[-200:]}")
            elif found and has_to_name and not _names(found, trial.damage):
                trial.faults.append(f"{which}: sample and file are not named: {found[:300]}")

    def _facts(self, name: str, reader: Reader, sample: str) -> None:
        """Ask for the undamaged facts, once; a reader that refuses them does not serve the sample."""
        if (name, sample) not in self._right:
            with contextlib.suppress(I2AMError):
                self._right[name, sample], _ = _quietly(reader, self._stores, sample)

    def _validate(self, store: str, *options: str) -> str:
        """Return what ``i2am validate`` prints of a store; empty where it finds nothing."""
        given = ["validate", str(self._stores / store), *filter(None, options)]
        code, out, err = _run(given)
        return "" if code == 0 else f"{out}{err}" or "no word"

    def _command(self, name: str, store: str, given: str) -> Reader:
        def read(folder: Path, sample: str) -> Facts:
            shutil.rmtree(self._out, ignore_errors=True)
            self._out.mkdir()
            words = given.format(
                run=folder / RUN,
                store=folder / store,
                sample=sample,
                out=self._out,
            )
            code, out, err = _run([name.partition(" ")[0], *words.split()])
            if any(word in err for word in _TRACEBACKS):
                raise RuntimeError(err[-300:])
            if code:
                raise I2AMError(_last_error(err))
            if "Left out what cannot be read" in err or "\nunreadable:" in out:
                warnings.warn(_last_error(f"{out}{err}"), StoreWarning, stacklevel=1)
            # How many bytes are stored is right whatever they are.
            lines = [line for line in out.splitlines() if not line.startswith("stored:")]
            printed = "\n".join(lines).replace(str(self._folder), "")
            return {"printed": printed, **_files(self._out)}

        return read


def sweep(seed: int, rounds: int, folder: Path | None = None) -> Iterator[tuple[str, str]]:
    """Yield each damage and what became of it, 40 a round. A single round asks one reader of each kind.

    Parameters
    ----------
    seed : int
    rounds : int
    folder : Path, optional
        To work in; a temporary one by default.
    """
    import tempfile

    from tests.support.specimens import write_specimens

    with contextlib.ExitStack() as stack:
        if folder is None:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        specimens = write_specimens(folder / "specimens")
        count = rounds * DAMAGES_A_ROUND
        trials = Trials(specimens, folder / "work", is_thorough=rounds > 1)
        for trial in run_trials(trials, specimens, seed, count):
            yield "; ".join([str(trial.damage), *trial.faults]), trial.outcome


def run_trials(trials: Trials, specimens: Specimens, seed: int, count: int) -> Iterator[Trial]:
    """Yield so many trials; a command is asked about every fourth damage, too."""
    stream = itertools.chain.from_iterable(damages(specimens, n) for n in itertools.count(seed))
    rng = random.Random(seed)
    for number, damage in enumerate(itertools.islice(stream, count)):
        known = [name for name in trials.commands(damage.store) if name not in _SLOW_COMMANDS]
        if number % DAMAGES_A_ROUND == 0:
            known = _SLOW_COMMANDS
        command = rng.choice(known) if number % 4 == 0 else None
        yield trials.attempt(damage, command=command)


# --- Readers: what is asked of Python, by name.


def _tree(folder: Path, sample: str) -> Facts:
    run = open_run(folder / RUN)
    return _tree_facts(run[sample])


def _listing(folder: Path, _sample: str) -> Facts:
    run = open_run(folder / RUN)
    return {"names": repr(sorted(run)), "table": run.table().to_csv()}


def _analyzed(**options: Any) -> Reader:
    return lambda folder, sample: _tree_facts(analyze(open_run(folder / RUN)[sample], **options))


def _sram(**places: Any) -> Reader:
    def read(folder: Path, sample: str) -> Facts:
        return {"map": _array_fact(sram(open_run(folder / RUN)[sample], **places).compute())}

    return read


def _live(*, use_zarrs: bool) -> Reader:
    def read(folder: Path, sample: str) -> Facts:
        live = LiveSram(open_run(folder / RUN)[sample])
        live._reads._use_zarrs = use_zarrs
        *_, last = live.ask(generated=_GENERATED_PX)
        return {"map": _array_fact(last.values)}

    return read


def _viewed(**options: Any) -> Reader:
    def read(folder: Path, sample: str) -> Facts:
        view = open_view(str(folder / RUN), sample, **options)
        facts = {"axes": repr(view.axes), "boxes": repr(view.boxes), "seen": view.seen()}
        facts |= {"provenance": view.provenance(), "note": view.note(), "layers": repr(view.layers)}
        facts |= {f"image {name}": _fact(image) for name, image in view.images.items()}
        for layer in range(len(view.axes.layers)):
            maps = view.reader.read(layer, list(range(len(view.axes.steps))))
            facts |= {f"{direction} {layer}": _fact(own) for direction, own in maps.items()}
        for direction, volume in view.volumes.items():
            levels = volume.loaded._levels
            facts |= {f"{direction} {sorted(d)}": _fact(own) for d, own in levels.items()}
        return facts

    return read


def _stored(store: str) -> Reader:
    def read(folder: Path, sample: str) -> Facts:
        maps = open_maps(folder / store)
        attributes = {name: str(own) for name, own in maps.attributes.items()}
        return {**attributes, "names": repr(sorted(maps)), **_tree_facts(maps[sample])}

    return read


def _maps_tree(store: str) -> Reader:
    return lambda folder, sample: _tree_facts(open_maps(folder / store)[sample])


def _scored(store: str) -> Reader:
    def read(folder: Path, sample: str) -> Facts:
        table = score_maps(folder / store, run=folder / RUN, samples=[sample])
        return {"table": table.to_csv()}

    return read


_READERS: Mapping[str, Reader] = {
    "tree": _tree,
    "listing": _listing,
    "analyze": _analyzed(time_groups=2),
    "analyze official": _analyzed(time_groups=2, convention="official"),
    "sram": _sram(generated=_GENERATED_PX),
    "sram of the reference": _sram(reference=_REFERENCE_PX),
    "live sram, zarr": _live(use_zarrs=False),
    "live sram, zarrs": _live(use_zarrs=True),
    "viewer": _viewed(),
    "viewer, computed": _viewed(guidance="unconditional"),
    _MAPS: _stored(_MAPS),
    _OFFICIAL: _stored(_OFFICIAL),
    f"score of {_MAPS}": _scored(_MAPS),
    f"score of {_OFFICIAL}": _scored(_OFFICIAL),
}


# Readers that open stores as others do: what they add takes half of the time.
_LIKE_OTHERS = {
    "analyze official",
    "sram",
    "sram of the reference",
    "live sram, zarr",
    "viewer, computed",
    f"score of {_OFFICIAL}",
}


def _readers_of(store: str) -> list[str]:
    """Return the readers that touch a store."""
    if store == RUN:
        return [name for name in _READERS if name not in MAPS]
    if store == _MAPS:
        return [_MAPS, f"score of {_MAPS}", "viewer"]
    return [_OFFICIAL, f"score of {_OFFICIAL}"]


# --- Commands, and what is given to them.

_RUN_COMMANDS = {
    "info": "{store}",
    "analyze": "{store} --out {out}/maps.zarr --samples {sample}",
    "figure": "{store} --samples {sample} --kinds overview sram --out {out}/figures",
    "report": "{store} --out {out}/report.html",
}
_SLOW_COMMANDS = ["figure", "report"]
_MAPS_COMMANDS = {
    "info": "{store}",
    "score": "{store} --run {run} --out {out}/scores.csv --heads {out}/heads.csv",
    "average": "{store} --samples {sample} --out {out}/average.zarr",
    "figure": "{run} --maps {store} --samples {sample} --kinds overview tlam --out {out}/figures",
    "report": "{run} --maps {store} --out {out}/report.html",
}


def _run(arguments: list[str]) -> tuple[int, str, str]:
    """Run a command in this process; return its code, and what it printed."""
    out, err = io.StringIO(), io.StringIO()
    with (
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
        warnings.catch_warnings(),
    ):
        try:
            code = main(arguments)
        except SystemExit as end:  # The call is wrong.
            code = int(end.code or 0)
        except Exception:  # noqa: BLE001 - that it comes through is what is found
            code = 1
            err.write(traceback.format_exc())
    return code, out.getvalue(), err.getvalue()


def _last_error(err: str) -> str:
    """Return the error without the progress bars before it."""
    return err.rpartition("\r")[2].rpartition("i2am: ")[2].strip() or "no word"


# --- Facts.


def _quietly(reader: Reader, folder: Path, sample: str) -> tuple[Facts, str]:
    """Return the facts, and what was warned of: that samples were left out."""
    with (
        warnings.catch_warnings(record=True) as caught,
        dask.config.set(scheduler="synchronous"),
    ):
        warnings.simplefilter("always")
        facts = reader(folder, sample)
    told = [str(one.message) for one in caught if issubclass(one.category, StoreWarning)]
    return facts, "\n".join(told)


def _tree_facts(tree: xr.DataTree) -> Facts:
    facts = {}
    for node in tree.subtree:
        facts[node.path] = repr(sorted(node.attrs.items()))
        for name, array in node.dataset.compute().variables.items():
            facts[f"{node.path}/{name}"] = _array_fact(array)
    return facts


def _array_fact(array: Any) -> str:
    return f"{array.dims} {sorted(array.attrs.items())} {_fact(array.values)}"


def _fact(values: Any) -> str:
    values = np.asarray(values)
    digest = hashlib.sha1(values.tobytes(), usedforsecurity=False).hexdigest()
    return f"{values.dtype.str} {values.shape} {digest}"


def _files(folder: Path) -> Facts:
    """Return a fact of each file below a folder, and of each array of the stores there."""
    facts = {}
    for path in sorted(folder.rglob("*")):
        inner = path.relative_to(folder)
        stores = [part for part in inner.parts if part.endswith(".zarr")]
        if path.is_file() and not stores:
            facts[str(inner)] = hashlib.sha1(path.read_bytes(), usedforsecurity=False).hexdigest()
        elif path.suffix == ".zarr":
            members: Any = zarr.open_group(path, mode="r").members(max_depth=None)
            for name, node in members:
                if isinstance(node, zarr.Array):
                    values = np.asarray(node[...])
                    facts[f"{inner}/{name}"] = (
                        _fact(values) if values.dtype.kind != "T" else repr(values.tolist())
                    )
    return facts


def _odd(right: Facts, found: Facts) -> str:
    """Return the first fact that is not as it was."""
    for name in sorted({*right, *found}):
        if (was := right.get(name)) != (now := found.get(name)):
            return f"{name}: {str(was)[:150]} became {str(now)[:150]}"
    return "nothing"


def _is_same_folder(one: Path, other: Path) -> bool:
    found = filecmp.dircmp(one, other, ignore=[], hide=[])
    return _is_same(found)


def _is_same(found: filecmp.dircmp[str]) -> bool:
    if found.left_only or found.right_only or found.funny_files or found.common_funny:
        return False
    _, mismatch, errors = filecmp.cmpfiles(
        found.left, found.right, found.common_files, shallow=False
    )
    return not mismatch and not errors and all(map(_is_same, found.subdirs.values()))


def _names(found: str, damage: Damage) -> bool:
    """Whether a line names the sample that was hit, and the file or the array that it is of."""
    parts = Path(damage.path).parts
    node = list(itertools.takewhile(lambda part: part not in {"c", "zarr.json"}, parts))
    if damage.sample is None:
        return damage.store in found or found.startswith(("/:", "/attributes:"))  # of the root
    wanted = "/".join(node[1:])
    return any(damage.sample in line and wanted in line for line in found.splitlines())
