"""Which samples of a run are of the same pictures, and so tell less than as many of different ones.

A reference that is painted under ten seeds gives ten samples which resemble one another. An interval that
takes them for ten independent ones is too narrow; so samples of one cluster are drawn together.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Hashable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final

from i2am.analysis.intervals.bootstrap import bootstrap_mean_interval
from i2am.analysis.stores.reader import Run
from i2am.schemas import AnalysisError, did_you_mean
from i2am.schemas.errors import shorten

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["CLUSTERS", "Clusters", "cluster_labels", "mean_interval", "sample_clusters"]

# Beside the columns of the run's table.
CLUSTERS: Final = ("picture", "sample")
Clusters = Mapping[str, Hashable]

_PICTURES: Final = re.compile(r"(?:source|reference(?:_\d+)?)")
_STORED_PICTURES: Final = re.compile(rf"images/{_PICTURES.pattern}/c(?:/.*)?")


def sample_clusters(
    run: Run, samples: Iterable[str] | None = None, by: str = "picture"
) -> dict[str, str]:
    """Return the cluster of each sample, for intervals that draw samples of one cluster together.

    Parameters
    ----------
    run : Run
        As `open_run` gives it.
    samples : iterable of str, optional
        All by default.
    by : "picture", "sample" or str
        "picture": samples with the same references and the same source are one cluster, whatever their
        seed, mask or prompt. It is told by the checksums of the files that a manifest named, or else of
        the images that are stored; a sample without either is alone. "sample": each is alone. Or a
        column of the run's table; a manifest's own columns by their name.

    Returns
    -------
    dict of str to str
        A label for each sample, in their order.

    Raises
    ------
    AnalysisError
        If no sample has such a column.
    StoreError
        If a sample is not there.

    Examples
    --------
    >>> import i2am
    >>> from i2am.analysis import open_run
    >>> run = open_run(i2am.DEMO_RUN)
    >>> len(set(sample_clusters(run).values()))  # three samples of three pictures
    3
    >>> sample_clusters(run, by="guidance_scale")
    {'doughnut': '3.0', 'frog': '3.0', 'truck': '3.0'}
    """
    names = list(run if samples is None else dict.fromkeys(samples))
    if by == "sample":
        return {name: name for name in names}
    if by == "picture":
        return {name: _picture(run, name) for name in names}
    found: dict[str, str] = {}
    known: dict[str, None] = {}
    for name in names:
        columns = dict(_columns(run.attributes_of(name)))
        known |= dict.fromkeys(columns)
        if by in columns:
            found[name] = columns[by]
    if names and not found:
        msg = f"Expected {' or '.join(map(repr, CLUSTERS))} or a column of the run's table, got {by!r}, "
        msg += f"at cluster. {did_you_mean(by, [*CLUSTERS, *known])}"
        raise AnalysisError(msg)
    return {name: found.get(name, name) for name in names}


def mean_interval(
    table: pd.DataFrame, column: str, confidence: float, clusters: Clusters | None
) -> tuple[float, float]:
    """Return the interval of the mean of a table's column, by the clusters of its samples.

    Raises
    ------
    AnalysisError
        If a sample has no cluster.
    """
    labels = None if clusters is None else cluster_labels(table["sample"], clusters)
    return bootstrap_mean_interval(table[column], confidence, labels)


def cluster_labels(samples: Iterable[str], clusters: Clusters) -> list[Hashable]:
    """Return the cluster of each of some samples, which may repeat.

    Raises
    ------
    AnalysisError
        If a sample has none.
    """
    names = list(samples)
    for name in names:
        if name not in clusters:
            msg = f"Expected the cluster of each sample, got none of {name!r}, at clusters. "
            raise AnalysisError(msg + "Give those of sample_clusters().")
    return [clusters[name] for name in names]


def _picture(run: Run, name: str) -> str:
    """Return what tells the pictures of a sample, or else its own name."""
    inputs = run.attributes_of(name).get("inputs")
    files = inputs if isinstance(inputs, Mapping) else {}
    told = {
        key: own["sha256"]
        for key, own in sorted(files.items())
        if _PICTURES.fullmatch(key) and isinstance(own, Mapping) and "sha256" in own
    }
    if told:
        return _short(told)
    inventory = run.inventory_of(name)
    stored = {
        path: tuple(facts)
        for path, facts in sorted(({} if inventory is None else inventory.objects).items())
        if _STORED_PICTURES.fullmatch(path)
    }
    return _short(stored) if stored else name


def _short(told: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(told).encode()).hexdigest()[:16]


def _columns(own: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Yield the columns of a sample's row in the run's table; those of the manifest by their name, too."""
    for key, value in own.items():
        if isinstance(value, Mapping):
            yield from _columns(value, f"{prefix}{key}.")
        elif value is not None:
            yield f"{prefix}{key}", shorten(str(value))
    if not prefix:
        for key, value in (own.get("labels") or {}).items():
            if value is not None:
                yield key, shorten(str(value))
