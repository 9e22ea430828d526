"""The effects of a whole run: each captured sample is painted again, first as it is, then with cuts."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from tqdm import tqdm

from i2am.capture.batch.batch_summary import BatchSummary
from i2am.capture.batch.capture_manifest import painted_size, row_inputs
from i2am.capture.batch.load_model import load_model
from i2am.capture.batch.manifest_shard import find_shard
from i2am.capture.batch.sample_images import SampleImages
from i2am.capture.causal.effects_store import (
    enter_effects,
    is_measured,
    is_new_store,
    start_sample,
)
from i2am.capture.causal.forced import chosen_steps
from i2am.capture.causal.measure import EffectOptions, MeasuredEffects, kinds_of, measure
from i2am.capture.causal.painting import Painter, Painting
from i2am.capture.causal.repeated_call import RepeatedCall
from i2am.capture.causal.stored_run import StoredRun, StoredSample
from i2am.capture.families.lookup import find_profile, named_profile
from i2am.capture.pipelines.call import (
    GenerationSettings,
    SampleInputs,
    output_images,
    sample_arguments,
)
from i2am.capture.pipelines.load import default_device
from i2am.capture.profiles.denoisers import find_denoiser
from i2am.capture.profiles.profile import Profile
from i2am.schemas import (
    CaptureError,
    ManifestRow,
    SchemaError,
    StorageError,
    StoreError,
    read_manifest,
)
from i2am.storage.owners import SampleTaken, Writer
from i2am.storage.sources import source_of
from i2am.storage.strikes import StoreStrikes

__all__ = ["EffectsSummary", "SampleOrders", "measure_run"]

# From a sample's name and the boxes of its regions to their orders; see `Orders`.
SampleOrders = Callable[[str, NDArray[np.float64]], Mapping[str, Sequence[int]]]

# An 8-bit level may round either way. Beyond that only what rounding does in this very model is taken for
# the same image: the keys in another order change rounding in the attention alone, another batch size or
# device in every layer.
_LEVELS: Final = 1.0
_ROUNDINGS: Final = 4.0


@dataclass
class EffectsSummary(BatchSummary):
    """The result of `measure_run`.

    Parameters
    ----------
    shard, finished, skipped, failed, untried, taken, elapsed_s
        See `BatchSummary`.
    pictures : int
        Number of images that were painted for the finished samples.

    Examples
    --------
    >>> str(EffectsSummary(finished=["a", "b"], elapsed_s=60, pictures=150))
    '2 measured, 0 were complete, 0 failed; 75 pictures and 30.0 s a sample'
    """

    pictures: int = 0

    def __str__(self) -> str:
        """Return a summary in one line."""
        counts = self.counts("measured")
        if not self.finished:
            return counts
        each = len(self.finished)
        return f"{counts}; {self.pictures / each:.0f} pictures and {self.elapsed_s / each:.1f} s a sample"


def measure_run(
    model: str,
    run: str | Path,
    out: str | Path,
    *,
    options: EffectOptions | None = None,
    manifest: str | Path | None = None,
    samples: Iterable[str] | None = None,
    orders: SampleOrders | None = None,
    order_names: Sequence[str] = (),
    loading: Mapping[str, Any] | None = None,
    settings: GenerationSettings | None = None,
    shard: tuple[int, int] | None = None,
    tolerance: float | None = None,
    profile: str | None = None,
    denoiser: str | None = None,
    overwrite: bool = False,
    durable: bool = True,
    progress: bool = True,
) -> EffectsSummary:
    """Measure the effects of a run's samples, and store them.

    Each sample is painted again by what the run says of it, and must come out as it is stored. Samples
    that were measured before are skipped, unless they were captured again since; unfinished ones are
    measured again. A sample that fails is marked as failed, and the next one follows.

    Parameters
    ----------
    model : str
        That the run was captured with; see `i2am.capture.load_pipeline`.
    run : str or Path
        A folder or a URL.
    out : str or Path
        The store of effects, a folder or a URL; created if there is none.
    options : EffectOptions, optional
        What is measured.
    manifest : str or Path, optional
        Of the run's rows, where what it stores does not suffice: it gives pictures, prompt and seed.
    samples : iterable of str, optional
        None measures all.
    orders : callable (sample, boxes) -> mapping of str to sequence of int, optional
        Of which curves are measured; see `knock_out`.
    order_names : sequence of str
        The names of these orders.
    loading : mapping of str to object, optional
        Fields of `LoadOptions`, instead of what the run says of how its model was loaded.
    settings : GenerationSettings, optional
        What is set there takes the place of what the run says of how its samples were generated.
    shard : (int, int), optional
        (I, N) with I from 0: every N-th sample from the I-th on. None reads the environment of
        torchrun or Slurm.
    tolerance : float, optional
        By how many levels of 255 an image may differ from the stored one; None takes one, and four
        times what rounding changes in it.
    profile, denoiser
        As in `capture`.
    overwrite : bool
        Replace a store that was written with other options.
    durable : bool
        Whether a sample is complete only once it would outlive a power cut.
    progress : bool
        Whether to show bars: one over the samples and, in a terminal, one over the images.

    Returns
    -------
    EffectsSummary

    Raises
    ------
    SchemaError
        If the manifest, the shard or an option is not valid.
    StoreError
        If the run cannot be read; if `out` is another store, or was written with other options.
    CaptureError
        If the model cannot be loaded.

    Examples
    --------
    ::

        summary = measure_run("i2am-tiny", "run.zarr", "effects.zarr")
        print(summary)
    """
    options = options or EffectOptions()
    stored = StoredRun(run)
    summary = EffectsSummary(shard=find_shard(os.environ, shard))
    names = list(summary.shard.select(stored.select(None if samples is None else list(samples))))
    rows = {} if manifest is None else {row.sample: row for row in read_manifest(manifest)}
    if not names:
        return summary
    first = stored.read(names[0])
    if options.forced and options.forced_steps is None:
        options = replace(options, forced_steps=_direct_steps(first))
    _check_direct_steps(options, first, settings)
    if profile is not None:
        named_profile(profile)
    described = _described(options, order_names)
    how = replace(first.loading(), **(loading or {}))
    if how.device is None:
        how = replace(how, device=default_device(summary.shard.local_rank))
    # A store is made for a model that loads, and no model is loaded for a store that is complete.
    pipeline = load_model(model, how, denoiser) if is_new_store(out) else None
    with enter_effects(out, source_of(run, out), described, overwrite=overwrite) as writer:
        waiting = [name for name in names if not _is_done(writer, stored, name)]
        summary.skipped = [name for name in names if name not in set(waiting)]
        if not waiting:
            return summary
        pipeline = pipeline or load_model(model, how, denoiser)
        pipeline.set_progress_bar_config(disable=True)
        work = _RunMeasurement(
            pipeline,
            find_profile(pipeline, profile, find_denoiser(pipeline, denoiser)),
            denoiser,
            stored,
            settings or GenerationSettings(),
            options,
            rows if manifest is not None else None,
            orders,
            tolerance,
            writer,
            durable,
            progress,
        )
        start_s, strikes = time.monotonic(), StoreStrikes()
        with tqdm(total=len(waiting), desc="causal", unit="sample", disable=not progress) as bar:
            for number, name in enumerate(waiting):
                _measure_one(work, name, summary, strikes)
                bar.update()
                if strikes.is_out:
                    summary.untried = waiting[number + 1 :]
                    break
        for name in [] if strikes.is_out else list(summary.taken):
            if writer.wait_for(name):  # Its owner may have ended, complete or not.
                del summary.taken[name]
                _measure_one(work, name, summary, strikes)
        summary.elapsed_s = time.monotonic() - start_s
    return summary


def _check_direct_steps(
    options: EffectOptions, sample: StoredSample, settings: GenerationSettings | None
) -> None:
    """Check that the steps of direct effects are among those that are painted."""
    asked = None if settings is None else settings.steps
    count = asked or sample.provenance.get("steps")
    if not isinstance(count, int) or not options.forced:
        return
    if beyond := [step for step in options.forced_steps or () if step >= count]:
        msg = (
            f"Expected steps of direct effects from 0 to {count - 1}, got {beyond}, at --direct-steps. "
            "Give others."
        )
        raise SchemaError(msg)


def _direct_steps(sample: StoredSample) -> list[int]:
    count = sample.provenance.get("steps")
    if not isinstance(count, int) or count < 1:
        msg = (
            f"Expected a sample that says how many steps it had, for direct effects, got {count!r}, at "
            f"{sample.name!r}. Give the steps: forced_steps=[…] (--direct-steps)."
        )
        raise StoreError(msg)
    return chosen_steps(count)


def _described(options: EffectOptions, order_names: Sequence[str]) -> dict[str, Any]:
    """Return what the root of the store says of the measurement; JSON types."""
    is_apart = "region" in options.per
    has_regions = is_apart or options.occlusion or bool(order_names)
    return {
        "grid": list(options.regions) if has_regions else None,
        "adaptive": options.adaptive and is_apart,
        "kinds": kinds_of(options),
        "layers": "layer" in options.per,
        "edges": list(options.edges) if "edge" in options.per else [],
        "direct_steps": list(options.forced_steps or []) if options.forced else None,
        "guidance": options.guidance,
        "curves": list(order_names),
    }


def _is_done(writer: Writer, stored: StoredRun, name: str) -> bool:
    return is_measured(writer.root, name, stored.source(name))


def _measure_one(
    work: _RunMeasurement, name: str, summary: EffectsSummary, strikes: StoreStrikes
) -> None:
    try:
        effects = work.measure(name)
    except SampleTaken as e:
        summary.taken[name] = str(e)
    except Exception as e:  # noqa: BLE001 - one sample must not end a night's batch
        strikes.failed(e)
        reason = [f"{type(e).__name__}: {e}", *getattr(e, "__notes__", ())]
        summary.failed[name] = " ".join(reason)
    else:
        strikes.done()
        if effects is None:  # Another process was faster.
            summary.skipped.append(name)
            return
        summary.finished.append(name)
        summary.pictures += effects.pictures


@dataclass(frozen=True)
class _RunMeasurement:
    """Measures samples of one run: what they have in common."""

    pipeline: Any
    profile: Profile
    denoiser: str | None
    stored: StoredRun
    settings: GenerationSettings
    options: EffectOptions
    rows: Mapping[str, ManifestRow] | None
    orders: SampleOrders | None
    tolerance: float | None
    writer: Writer
    durable: bool
    progress: bool

    def measure(self, name: str) -> MeasuredEffects | None:
        """Measure and store a sample; None if that was done meanwhile."""
        source = self.stored.source(name)
        self.writer.claim(name)
        if is_measured(self.writer.root, name, source):
            self.writer.release(name)
            return None
        store = start_sample(self.writer, name, source, durable=self.durable)
        try:
            sample = self.stored.read(name)
            effects, difference = self._effects(sample)
            painted = sample.boxes["generated"]
            store.finish(effects, painted, difference)
        except StorageError:
            raise
        except Exception as e:
            store.fail(e)
            raise
        return effects

    def _effects(self, sample: StoredSample) -> tuple[MeasuredEffects, float]:
        """Return a sample's effects, and by how much it came out other than it is stored."""
        settings = sample.settings(self.pipeline, self.settings)
        inputs = self._inputs(sample, settings)
        call = _SampleCall(self.pipeline, self.profile, inputs, settings)
        painter = Painter(
            self.pipeline,
            call,
            min(self.options.batch, call.most),
            sample.surroundings().frames,
            sample.sizes(),
            sample.boxes,
            self.options.guidance,
            self.profile,
            self.denoiser,
        )
        repaint = _Repaint(sample, self.tolerance, str(self.stored.address))
        orders = self.orders
        with tqdm(
            desc=sample.name,
            unit="picture",
            position=1,
            leave=False,
            disable=None if self.progress else True,
        ) as bar:
            effects = measure(
                painter,
                sample.surroundings(),
                self.options,
                orders=None if orders is None else lambda boxes: orders(sample.name, boxes),
                reference=inputs.reference,
                check=repaint.check,
                done=bar.update,
            )
        return effects, repaint.difference

    def _inputs(self, sample: StoredSample, settings: GenerationSettings) -> SampleInputs:
        """Return the inputs that a sample was generated from."""
        own, row = sample.provenance, None
        if self.rows is not None:
            if (row := self.rows.get(sample.name)) is None:
                msg = f"Expected a row for {sample.name!r} in the manifest, got none. Add it."
                raise SchemaError(msg)
            prompt = own.get("prompt") if row.prompt is None else row.prompt
            seed = own.get("seed") if row.seed is None else row.seed
        else:
            prompt, seed = own.get("prompt"), own.get("seed")
        if not isinstance(seed, int):
            msg = (
                f"Expected a sample with the seed of its noise, got none, at {sample.name!r} in "
                f"{self.stored.address}. Give a manifest with a column 'seed': --manifest FILE."
            )
            raise CaptureError(msg)
        if row is not None:
            images = SampleImages.open(row)
            size = painted_size(self.pipeline, settings, images)
            return row_inputs(images, row.model_copy(update={"prompt": prompt, "seed": seed}), size)
        pictures = {name: Image.fromarray(image) for name, image in sample.images.items()}
        others = sorted(
            (name for name in pictures if name.removeprefix("reference_").isdecimal()),
            key=lambda name: int(name.removeprefix("reference_")),
        )
        return SampleInputs(
            pictures.get("source"),
            pictures.get("inpainting_mask"),
            pictures["reference"],
            prompt,
            seed,
            tuple(pictures[name] for name in others),
        )


class _SampleCall:
    """Paints a sample as it was captured, some number of times; returns its images."""

    def __init__(
        self,
        pipeline: Any,
        profile: Profile,
        inputs: SampleInputs,
        settings: GenerationSettings,
    ) -> None:
        self._pipeline, self._profile = pipeline, profile
        self._inputs, self._settings = inputs, settings
        self._call: RepeatedCall | None = None
        if profile.generate is None:
            arguments = sample_arguments(pipeline, [inputs], settings)
            self._call = RepeatedCall(pipeline, arguments, inputs.seed)

    @property
    def most(self) -> int:
        """See `PaintingCall`."""
        return 1 if self._call is None else self._call.most

    @property
    def most_references(self) -> int:
        """See `PaintingCall`."""
        return 1 if self._call is None else self._call.most_references

    def __call__(
        self, count: int, references: Sequence[Image.Image | None] | None = None
    ) -> list[Image.Image]:
        """See `PaintingCall`."""
        if self._call is not None:
            return output_images(self._pipeline, self._call(count, references), count)
        inputs = self._inputs
        if references is not None and references[0] is not None:
            inputs = replace(inputs, reference=references[0])
        assert self._profile.generate is not None
        return self._profile.generate(self._pipeline, [inputs], self._settings)


class _Repaint:
    """Checks that a sample that is painted again is the stored one."""

    def __init__(self, sample: StoredSample, tolerance: float | None, run: str) -> None:
        self._sample, self._tolerance, self._run = sample, tolerance, run
        self.difference = 0.0

    def check(self, untouched: Painting, reordered: Painting) -> None:
        """Compare the untouched image with the stored one.

        Raises
        ------
        CaptureError
            If it is another one.
        """
        painted = np.asarray(untouched.output[0].convert("RGB"), np.int64)
        stored = self._sample.images["generated"].astype(np.int64)
        way_out = (
            "Give the model, device and options that it was captured with, or --manifest FILE with its "
            "pictures, prompts and seeds."
        )
        if painted.shape != stored.shape:
            msg = (
                f"Expected the stored image of {stored.shape[0]}×{stored.shape[1]} px to be painted again, "
                f"got {painted.shape[0]}×{painted.shape[1]} px, at sample {self._sample.name!r} in "
                f"{self._run}. {way_out}"
            )
            raise CaptureError(msg)
        self.difference = float(np.abs(painted - stored).max())
        rounding = 0.0
        if untouched.pixels is not None and reordered.pixels is not None:
            rounding = 255 * float(np.abs(reordered.pixels - untouched.pixels).max())
        allowed = self._tolerance
        if allowed is None:
            allowed = _LEVELS + _ROUNDINGS * rounding
        if self.difference > allowed:
            msg = (
                f"Expected the stored image to be painted again, got one that differs from it by up to "
                f"{self.difference:.0f} of 255 levels, where {allowed:.1f} may be rounding, at sample "
                f"{self._sample.name!r} in {self._run}. {way_out}"
            )
            raise CaptureError(msg)
