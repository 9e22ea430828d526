"""The step clock: which denoising step a call of the denoiser belongs to, and which guidance half.

A step is a distinct timestep. Samplers of higher order call the denoiser several times at one
timestep: the last of these calls counts, because the ones before correct the previous step.
"""

from __future__ import annotations

from typing import Any

import torch

from i2am.schemas import CaptureError
from i2am.schemas.dims import CONDITIONAL

__all__ = ["StepClock", "guidance_halves", "read_timestep"]


class StepClock:
    """Counts distinct timesteps, in the order in which they come (noisiest first)."""

    def __init__(self) -> None:
        self.timesteps: list[float] = []

    def tick(self, timestep: float) -> int:
        """Return the step of a call at `timestep`."""
        if not self.timesteps or self.timesteps[-1] != timestep:
            self.timesteps.append(timestep)
        return len(self.timesteps) - 1


def read_timestep(arguments: tuple[Any, ...], options: dict[str, Any]) -> float:
    """Return the timestep from the arguments of a diffusers denoiser's forward.

    Raises
    ------
    CaptureError
        If there is none, or the samples of a batch are at different timesteps.
    """
    value = options.get("timestep", arguments[1] if len(arguments) > 1 else None)
    if value is None:
        msg = "Expected a timestep as the denoiser's second argument, got none. Pass it."
        raise CaptureError(msg)
    timesteps = torch.as_tensor(value).flatten()
    if bool((timesteps != timesteps[0]).any()):
        msg = (
            f"Expected one timestep for the whole batch, got {timesteps.tolist()}. "
            "Capture samples at different timesteps one by one."
        )
        raise CaptureError(msg)
    return float(timesteps[0])


def guidance_halves(batch: int, samples: int, labels: tuple[str, ...]) -> tuple[str, ...]:
    """Return the labels of a batch's guidance halves, in their order.

    Raises
    ------
    CaptureError
        If the batch does not divide among the samples, or by a number of halves that the
        profile does not know.

    Examples
    --------
    >>> guidance_halves(4, 2, ("unconditional", "conditional"))
    ('unconditional', 'conditional')
    >>> guidance_halves(2, 2, ("unconditional", "conditional"))
    ('conditional',)
    """
    halves, rest = divmod(batch, samples)
    if rest == 0 and halves == 1:
        return (CONDITIONAL,)
    if rest == 0 and halves == len(labels):
        return labels
    msg = (
        f"Expected a batch of {samples} or of {samples} × {len(labels)} (guidance halves), "
        f"got {batch}, for {samples} sample names. Name every image that the call generates."
    )
    raise CaptureError(msg)
