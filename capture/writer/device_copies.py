"""Copies from an accelerator into host memory, while the model computes.

All by PyTorch's device-agnostic streams and events, so that CUDA, ROCm and XPU take one path. The
model may change a tensor in place: it is copied on its device first, in the order of the model's own
work. A side stream then brings the copy into pinned host memory, and an event tells a writer when it
has arrived. A backend with a single stream for everything (MPS) has nothing beside the model's work:
there the model waits for each copy, and memory is not pinned.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

__all__ = ["Accelerator", "DeviceCopies"]


class Accelerator:
    """What copies need of the hardware: PyTorch's accelerator, of whatever maker."""

    def side_stream(self, device: torch.device) -> torch.Stream | None:
        """Return a new stream beside the model's; None where the backend has a single one."""
        accelerator = torch.accelerator.current_accelerator()
        if accelerator is None or accelerator.type != device.type:
            return None
        try:
            side = torch.Stream(device)
        except RuntimeError:  # The backend makes no streams.
            return None
        return None if side == self.current_stream(device) else side

    def current_stream(self, device: torch.device) -> torch.Stream:
        """Return the stream of a device that this thread's work goes to."""
        return torch.accelerator.current_stream(device)

    def empty_pinned(self, shape: Sequence[int], dtype: torch.dtype) -> torch.Tensor:
        """Return host memory that a device fills while nobody waits."""
        return torch.empty(shape, dtype=dtype, pin_memory=True)

    def is_pinned(self, tensor: torch.Tensor) -> bool:
        """Return whether a host tensor is such memory."""
        return tensor.is_pinned()


class DeviceCopies:
    """The copies of one model's tensors into host memory, which one thread starts.

    Parameters
    ----------
    accelerator : Accelerator
    """

    def __init__(self, accelerator: Accelerator) -> None:
        self._accelerator = accelerator
        self._sides: dict[torch.device, torch.Stream | None] = {}
        self._pending: dict[torch.Stream, list[tuple[torch.Tensor, torch.Tensor]]] = {}

    def are_pinned(self, device: torch.device) -> bool:
        """Return whether copies from a device run beside the model, and so need pinned memory."""
        return device.type != "cpu" and self._side(device) is not None

    def add(self, source: torch.Tensor, target: torch.Tensor) -> None:
        """Copy a tensor into host memory; it may change as soon as this returns.

        Parameters
        ----------
        source : Tensor, on a device
        target : Tensor of the same shape, on the host
            Pinned where `are_pinned`. Its values have arrived when all `arrivals` after the next
            `start` have come.
        """
        side = self._side(source.device)
        if side is None:
            # Into memory of its own first: MPS copies to addresses that four divides alone.
            target.copy_(source.cpu())
            return
        own = source.detach().clone(memory_format=torch.contiguous_format)
        self._pending.setdefault(side, []).append((own, target))

    def start(self) -> None:
        """Start the copies that were added; a side stream waits once for the model's work so far."""
        if not self._pending:
            return
        pending, self._pending = self._pending, {}
        for side, copies in pending.items():
            side.wait_stream(self._accelerator.current_stream(side.device))
            with side:
                for own, target in copies:
                    target.copy_(own, non_blocking=True)
                    # The model's stream gave this memory, and would take it again at once.
                    own.record_stream(side)

    def arrivals(self) -> list[torch.Event]:
        """Return events that come when all copies that were started so far have arrived."""
        return [side.record_event() for side in self._sides.values() if side is not None]

    def drop(self) -> None:
        """Forget the copies that were not started."""
        self._pending.clear()

    def _side(self, device: torch.device) -> torch.Stream | None:
        if device not in self._sides:
            self._sides[device] = self._accelerator.side_stream(device)
        return self._sides[device]
