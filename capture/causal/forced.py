"""Direct effects: what a cut changes in the prediction of one step, on the untouched run's trajectory.

In a run that is cut, every step begins where the cut step before it has led. Here each step begins where
the untouched run had it: the scheduler is given the recorded predictions, whatever the denoiser says.
So the denoiser need only run at the steps that are measured.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final

import numpy as np
import torch

from i2am.capture.causal.painting import Painter, WatchedDecoder
from i2am.capture.causal.patches import Values, change_of_patches, with_frames_stacked
from i2am.capture.cuts.editor import Cut
from i2am.capture.hooks.instance_method import call_instead
from i2am.capture.hooks.step_clock import step_of_evaluation
from i2am.capture.profiles.denoisers import find_denoisers
from i2am.schemas import CaptureError

__all__ = ["DIRECT_STEPS", "ForcedPainter", "chosen_steps"]

# At how many steps direct effects are measured where nobody says it.
DIRECT_STEPS: Final = 4


def chosen_steps(count: int, most: int = DIRECT_STEPS) -> list[int]:
    """Return steps that are spread evenly over a run, the first and the last among them.

    Examples
    --------
    >>> chosen_steps(50), chosen_steps(3)
    ([0, 16, 33, 49], [0, 1, 2])
    """
    return sorted({round(step) for step in np.linspace(0, count - 1, min(most, count)).tolist()})


@dataclass
class _Evaluation:
    """One evaluation of the untouched run: what the denoiser returned, and what the scheduler got."""

    outputs: list[Any] = field(default_factory=list)
    prediction: torch.Tensor | None = None


class ForcedPainter:
    """Measures direct effects.

    Parameters
    ----------
    painter : Painter
    steps : sequence of int, optional
        At which is measured; None takes `DIRECT_STEPS` of them.

    Attributes
    ----------
    steps : list of int
        At which is measured; known after the first measurement.
    """

    def __init__(self, painter: Painter, steps: Sequence[int] | None = None) -> None:
        self._painter = painter
        self._scheduler = getattr(painter.target, "scheduler", None)
        if not hasattr(self._scheduler, "step"):
            msg = (
                f"Expected a pipeline with a scheduler, for direct effects, got "
                f"{type(painter.target).__name__}. Leave forced (--direct) out."
            )
            raise CaptureError(msg)
        self._denoisers = find_denoisers(painter.target, painter.denoiser)
        self._clean: list[_Evaluation] = []
        self._decoded: list[Any] = []
        self.steps = [] if steps is None else list(steps)
        self._has_steps = steps is not None

    def changes(self, cuts: Sequence[Cut | None], grid: tuple[int, int]) -> list[Values]:
        """Return each cut's direct effect, dims (y, x) over the patches, float32.

        Parameters
        ----------
        cuts : sequence of Cut or None
        grid : (height, width)
            Of the generated patches.

        Raises
        ------
        CaptureError
            As `Painter.paint`; if the pipeline does not step with its scheduler, or this predicts
            something unknown.
        """
        if not self._clean:
            self._record()
        size, found = self._painter.size, []
        for first in range(0, len(cuts), size):
            now = cuts[first : first + size]
            squares = self._squares(now, grid)[: len(now)]
            found += [np.sqrt(one / len(self.steps)).astype(np.float32) for one in squares]
        return found

    def _record(self) -> None:
        """Run untouched, and keep what each evaluation of the denoiser gave."""
        clean = [_Evaluation()]

        def forward(method: Any, *args: Any, **kwargs: Any) -> Any:
            output = method(*args, **kwargs)
            clean[-1].outputs.append(_copied(output))
            return output

        def step(method: Any, prediction: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
            if clean[-1].outputs:
                clean[-1].prediction = prediction.detach().clone()
                clean.append(_Evaluation())
            return method(prediction, *args, **kwargs)

        with ExitStack() as stack:
            decoder = WatchedDecoder(self._painter.target, stack)
            self._replace(stack, forward, step)
            with self._painter.cutting([]):
                self._painter.call(self._painter.size)
        self._decoded = decoder.returned
        self._painter.pictures += self._painter.size
        self._clean = clean[:-1]
        if not self._clean or clean[-1].outputs:
            msg = (
                "Expected a pipeline that gives its scheduler's step every prediction, for direct effects, "
                f"got {type(self._painter.target).__name__}, which does not. Leave forced (--direct) out."
            )
            raise CaptureError(msg)
        at = [step_of_evaluation(self._scheduler, number) for number in range(len(self._clean))]
        count = 1 + max(step for step in at if step is not None)
        if not self._has_steps:
            self.steps = chosen_steps(count)
        if beyond := [step for step in self.steps if step >= count]:
            msg = (
                f"Expected steps from 0 to {count - 1}, which the pipeline runs, got {beyond}, at the steps "
                "of direct effects. Give others."
            )
            raise CaptureError(msg)
        self._measured = {number for number, step in enumerate(at) if step in set(self.steps)}
        for number in self._measured:
            self._clean[number].outputs.clear()

    def _squares(self, cuts: Sequence[Cut | None], grid: tuple[int, int]) -> list[Values]:
        """Return of each image the sum over the steps of its squared effect."""
        painter, number, calls = self._painter, 0, 0
        squares: list[Values] = [np.zeros(grid) for _ in range(painter.size)]

        def forward(method: Any, *args: Any, **kwargs: Any) -> Any:
            nonlocal calls
            calls += 1
            if number in self._measured:
                return method(*args, **kwargs)
            return _copied(self._clean[number].outputs[calls - 1])

        def step(
            method: Any,
            prediction: torch.Tensor,
            timestep: Any,
            sample: Any,
            *args: Any,
            **kwargs: Any,
        ) -> Any:
            nonlocal number, calls
            if not calls:
                return method(prediction, timestep, sample, *args, **kwargs)
            clean = self._clean[number].prediction
            if clean is None or clean.shape != prediction.shape:
                msg = "Expected the same calls of the denoiser every time, got others. Leave --direct out."
                raise CaptureError(msg)
            if number in self._measured:
                factor = _x0_factor(self._scheduler, timestep)
                change = factor * (prediction.detach() - clean).float().cpu().numpy()
                for row, one in enumerate(self._images(change, grid)):
                    squares[row] += np.square(change_of_patches(one, grid), dtype=np.float64)
            number, calls = number + 1, 0
            return method(clean.clone(), timestep, sample, *args, **kwargs)

        with ExitStack() as stack:
            WatchedDecoder(painter.target, stack, self._decoded)
            self._replace(stack, forward, step)
            with painter.cutting(cuts, self.steps):
                painter.call(painter.size)
        painter.pictures += painter.size
        return squares

    def _replace(self, stack: ExitStack, forward: Any, step: Any) -> None:
        for denoiser in self._denoisers:
            call_instead(denoiser, "forward", forward, stack)
        call_instead(self._scheduler, "step", partial(_step_by_position, step), stack)

    def _images(self, change: Values, grid: tuple[int, int]) -> Values:
        """Return predictions as (image, channel, y, x)."""
        count, frames = self._painter.size, self._painter.frames
        if change.ndim == 3 and change.shape[1] == grid[0] * grid[1]:
            return np.moveaxis(change, 1, 2).reshape(count, -1, *grid)
        if change.ndim == 5 and frames > 1 and change.shape[1] in (frames, frames + 1):
            change = np.moveaxis(change, 1, 2)
        found = with_frames_stacked(change, frames)
        if found.ndim != 4 or len(found) != count:
            msg = (
                f"Expected predictions (image, channel, y, x) of {count} images, or tokens of a "
                f"{grid[0]}×{grid[1]} grid, for direct effects, got shape {change.shape}. Leave forced "
                "(--direct) out."
            )
            raise CaptureError(msg)
        return found


def _step_by_position(step: Any, method: Any, *args: Any, **kwargs: Any) -> Any:
    """Call a replaced ``step`` with its first three arguments by position."""
    names = ("model_output", "timestep", "sample")
    given = [*args, *(kwargs.pop(name) for name in names[len(args) :])]
    return step(method, *given, **kwargs)


def _x0_factor(scheduler: Any, timestep: Any) -> float:
    """Return by what a change of the prediction changes the predicted image x0, up to its sign.

    Every kind of prediction is linear in x0: with x = a·x0 + s·noise, that of the noise by s/a, a velocity
    a·noise − s·x0 by s; a flow noise − x0, with a = 1 − s, by s.
    """
    config, name = scheduler.config, type(scheduler).__name__
    kind = getattr(config, "prediction_type", None)
    at = float(torch.as_tensor(timestep).flatten()[0])
    if kind == "flow_prediction" or "FlowMatch" in name:
        schedule = torch.as_tensor(scheduler.timesteps).flatten().float().cpu()
        nearest = int((schedule - at).abs().argmin())
        return float(scheduler.sigmas[nearest])
    cumulative = getattr(scheduler, "alphas_cumprod", None)
    if cumulative is not None and kind in ("epsilon", "v_prediction", "sample"):
        values = torch.as_tensor(cumulative).float().cpu().numpy()
        signal = float(np.interp(at, np.arange(len(values)), values))  # α²
        if kind == "sample":
            return 1.0
        noise = float(np.sqrt(1 - signal))
        return noise if kind == "v_prediction" else noise / float(np.sqrt(signal))
    msg = (
        "Expected a scheduler whose model predicts noise, velocity, flow or the image, for direct effects, "
        f"got {name} with {kind!r}. Leave forced (--direct) out."
    )
    raise CaptureError(msg)


def _copied(output: Any) -> Any:
    """Return a copy of what a denoiser returned, that nobody changes in place."""
    if isinstance(output, torch.Tensor):
        return output.detach().clone()
    if isinstance(output, tuple | list):
        return type(output)(_copied(one) for one in output)
    if isinstance(output, dict):  # diffusers' outputs are such, too.
        return type(output)(**{name: _copied(one) for name, one in output.items()})
    return output
