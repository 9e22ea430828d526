"""One sampling: a call of the pipeline under the hooks, and the samples that it generates.

All that belongs to one sampling lives here: a recording with several begins each with a new one, so
that nothing of the last is left.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import ExitStack, nullcontext
from typing import Any, Self

import torch

from i2am.capture.hooks.denoiser import DenoiserHooks, LayerCall
from i2am.capture.recording.placement import CallPictures
from i2am.capture.recording.sample_recorder import SampleRecorder
from i2am.capture.writer.staging import StagingArea
from i2am.schemas import CaptureError, StorageError

__all__ = ["Sampling", "mark_failed"]


class Sampling:
    """Reads one call of the pipeline, and appends it to the samples that it generates.

    Parameters
    ----------
    hooks : DenoiserHooks
        Not attached yet.
    pictures : CallPictures
        How the model's pictures are prepared.
    samples : mapping of str to SampleRecorder
        By name, in the order of the batch.
    staging : StagingArea
        Of the samples.
    provenance : dict
        Of the samples; gets the number of steps.
    """

    def __init__(
        self,
        hooks: DenoiserHooks,
        pictures: CallPictures,
        samples: Mapping[str, SampleRecorder],
        staging: StagingArea,
        provenance: dict[str, Any],
    ) -> None:
        self._hooks, self._pictures = hooks, pictures
        self._samples, self._staging = samples, staging
        self._provenance, self._is_placed = provenance, False
        self._stack = ExitStack()

    def attach(self) -> Self:
        """Attach the hooks to the model; none is left if one of them cannot be attached."""
        with self._stack:
            self._hooks.attach(self._stack, self)
            self._pictures.watch(self._stack)
            self._stack = self._stack.pop_all()
        return self

    def detach(self) -> None:
        """Remove the hooks."""
        self._stack.close()

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the samples."""
        return tuple(self._samples)

    @property
    def has_begun(self) -> bool:
        """Whether the denoiser was called."""
        return self._hooks.calls > 0

    def receive(self, call: LayerCall) -> None:
        """Append to each sample its batch index of a layer's inputs; called by the hooks."""
        if not self._is_placed:
            self._place_samples(call.inputs[0].grid)
        # Pipelines have disabled gradients already; every microsecond counts for a small model.
        with torch.no_grad() if torch.is_grad_enabled() else nullcontext():
            for branch, first in call.branches:
                for batch_index, sample in enumerate(self._samples.values(), first):
                    for inputs in call.inputs:
                        sample.append(call, inputs, batch_index, branch)

    def call_ended(self) -> None:
        """Start the copies from an accelerator; called by the hooks after each call of the denoiser."""
        self._staging.flush()

    def last_step(self) -> None:
        """Let the last steps be written while the pipeline decodes the image."""
        for sample in self._samples.values():
            sample.flush()

    def _place_samples(self, grid: tuple[int, int]) -> None:
        """Ask once, while the pipeline runs, how each sample's pictures were prepared."""
        placements = self._pictures.read(len(self._samples), grid)
        for sample, placement in zip(self._samples.values(), placements, strict=True):
            sample.place(placement)
        self._is_placed = True

    def finish(self) -> None:
        """Write what is left, and mark the samples that have their images as complete.

        Raises
        ------
        CaptureError
            If the model did not run, a layer was not read, the steps cannot be counted, or anything
            could not be written.
        """
        hooks = self._hooks
        self._check_ran()
        for sample in self._samples.values():
            sample.close(hooks.branches)
        for sample in self._samples.values():
            sample.finalize()
        self._provenance["steps"] = hooks.step_count
        if len(hooks.denoisers) > 1:
            self._provenance["denoiser_first_steps"] = hooks.first_steps
        for sample in self._samples.values():
            sample.finish(hooks.steps, hooks.timesteps, hooks.branches)

    def fail(self, error: BaseException) -> None:
        """Mark the samples as failed, with the reason."""
        mark_failed(self._samples.values(), error)

    def _check_ran(self) -> None:
        hooks = self._hooks
        if not hooks.calls:
            msg = "Expected the model to run inside the with block, got no call of its denoiser. "
            raise CaptureError(msg + "Call the pipeline there.")
        if not hooks.steps:
            msg = f"Expected steps to keep, got none of the {hooks.step_count} that ran. "
            raise CaptureError(msg + "Give other steps=.")
        hooks.check_ended()


def mark_failed(samples: Iterable[SampleRecorder], error: BaseException) -> None:
    """Mark samples as failed; where the store does not even take that, `error` gets a note of it.

    What is raised in the end is the reason why they failed.
    """
    for sample in samples:
        try:
            sample.fail(error)
        except StorageError:
            error.add_note("Its status stays 'running': the store does not take that either.")
            return
