"""Loading a pipeline as a batch takes it: with the weights that it has learned, or others."""

from __future__ import annotations

from typing import Any

from i2am.capture.pipelines.load import LoadOptions, load_pipeline
from i2am.capture.pipelines.random_weights import randomize_weights
from i2am.capture.profiles.denoisers import find_denoisers

__all__ = ["load_model"]


def load_model(model: str, loading: LoadOptions, denoiser: str | None = None) -> Any:
    """Return a pipeline.

    Parameters
    ----------
    model : str
        See `i2am.capture.load_pipeline`.
    loading : LoadOptions
    denoiser : str, optional
        Where the pipeline has its denoiser; see `find_denoisers`.

    Raises
    ------
    CaptureError
        If it cannot be loaded.
    """
    options = {name: value for name, value in vars(loading).items() if name != "randomize_weights"}
    pipeline = load_pipeline(model, **options)
    if loading.randomize_weights is not None:
        for number, module in enumerate(find_denoisers(pipeline, denoiser)):
            randomize_weights(module, loading.randomize_weights + number)
    return pipeline
