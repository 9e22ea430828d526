"""By what a layer multiplies a reference's contribution: a weight at each step, and a region.

The weight is an IP-Adapter's scale, the region its mask. Both are read at every call of the layer,
since a callback may change them; what the store cannot hold is refused.
"""

from __future__ import annotations

import numpy as np
import torch

from i2am.capture.writer.zarr_objects import Array
from i2am.schemas import CaptureError, LayerAttributes
from i2am.schemas.dims import REGION, WEIGHT

__all__ = ["Contribution"]


class Contribution:
    """Weights and region of one reference in one layer, over the steps of a sample.

    Parameters
    ----------
    layer : str
        Its name, for messages.

    Examples
    --------
    >>> one = Contribution("up.attn2")
    >>> one.add(0, "conditional", 0.7, None)
    >>> one.add(1, "conditional", 0.25, None)
    >>> attributes = LayerAttributes(
    ...     scale=1.0, generated_grid=(2, 2), reference_grid=None, special_tokens=0, order=0,
    ...     block="up", representation="factors", weight=0.7,
    ... )
    >>> attributes, arrays = one.stored(attributes)
    >>> arrays["weight"].tolist(), attributes.weight
    ([0.699999988079071, 0.25], 1.0)
    """

    def __init__(self, layer: str) -> None:
        self._layer = layer
        self._weights: dict[int, dict[str, float]] = {}  # by step and guidance branch
        self._region: Array | None = None

    def add(self, step_index: int, branch: str, weight: float, region: torch.Tensor | None) -> None:
        """Take those of one guidance branch of one step.

        Parameters
        ----------
        step_index : int
            Among the steps that are kept. The latest may come again and is replaced.
        branch : str
        weight : float
        region : Tensor, dims (1, generated), float32, on the host, optional

        Raises
        ------
        CaptureError
            If the region is another one than before.
        """
        own = None if region is None else region[0].numpy()
        if not self._weights:
            self._region = own
        elif not _are_equal(self._region, own):
            msg = (
                f"Expected one mask of the IP-Adapter at all steps and in all guidance branches, got "
                f"another one at kept step {step_index} ({branch} branch), at layer {self._layer!r}. "
                "Keep the mask as it is, or capture with representation='maps', which hold it."
            )
            raise CaptureError(msg)
        self._weights.setdefault(step_index, {})[branch] = weight

    def stored(self, attributes: LayerAttributes) -> tuple[LayerAttributes, dict[str, Array]]:
        """Return the layer's attributes, and its arrays ``weight`` and ``region`` where it has them.

        Parameters
        ----------
        attributes : LayerAttributes
            With the weight of the first step.

        Raises
        ------
        CaptureError
            If the guidance branches of a step have different weights.
        """
        by_step = [set(branches.values()) for _, branches in sorted(self._weights.items())]
        if any(len(weights) > 1 for weights in by_step):
            msg = (
                "Expected one scale of the IP-Adapter in all guidance branches of a step, got several, "
                f"at layer {self._layer!r}. Capture with guidance='conditional'."
            )
            raise CaptureError(msg)
        weights = [weight for (weight,) in by_step]
        arrays: dict[str, Array] = {}
        if len(set(weights)) > 1:
            arrays[WEIGHT] = np.array(weights, np.float32)
            attributes = attributes.model_copy(update={WEIGHT: 1.0})  # Then it is not stored.
        if self._region is not None:
            arrays[REGION] = self._region
        return attributes, arrays


def _are_equal(one: Array | None, other: Array | None) -> bool:
    if one is None or other is None:
        return one is other
    return np.array_equal(one, other)
