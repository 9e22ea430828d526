"""Samples of the same pictures are one cluster, whatever tells which pictures they are of."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from i2am.analysis import open_run, sample_clusters, summarise_scores
from i2am.analysis.intervals.bootstrap import bootstrap_mean_interval
from i2am.schemas import AnalysisError
from tests.support import reference_maps
from tests.support.synthetic_run import LAYERS, write_run
from tests.support.written_run import write


def inputs(reference: str, source: str, mask: str = "m") -> dict[str, dict[str, str]]:
    digests = {"reference": reference, "source": source, "mask": mask}
    return {name: {"path": f"{own}.png", "sha256": own * 64} for name, own in digests.items()}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a run in which "a" and "b" are of the same pictures, "c" and "d" of others."""
    path = write_run(tmp_path_factory.mktemp("runs") / "run.zarr", list("abcde"), LAYERS[:1])
    told = {
        "a": inputs("1", "2"),
        "b": inputs("1", "2", mask="other"),
        "c": inputs("1", "3"),
        "d": inputs("2", "1"),
    }
    for name, own in told.items():
        labels = {"category": "dress" if name in "ad" else "shirt", "seed": 7}
        reference_maps.change_attributes(path / name, inputs=own, labels=labels)
    return path


def groups(found: dict[str, str]) -> list[str]:
    by_label: dict[str, str] = {}
    for name, label in found.items():
        by_label[label] = by_label.get(label, "") + name
    return sorted(by_label.values())


def test_a_manifests_pictures_tell_the_cluster_and_masks_do_not(run: Path) -> None:
    opened = open_run(run)
    assert groups(sample_clusters(opened)) == ["ab", "c", "d", "e"]
    assert list(sample_clusters(opened, ["c", "a", "c"])) == ["c", "a"]
    assert groups(sample_clusters(opened, by="sample")) == list("abcde")


def test_a_column_tells_the_cluster_and_a_sample_without_it_is_alone(run: Path) -> None:
    opened = open_run(run)
    for column in ("category", "labels.category"):
        assert groups(sample_clusters(opened, by=column)) == ["ad", "bc", "e"]
    assert groups(sample_clusters(opened, by="versions.i2am")) == ["abcde"]
    with pytest.raises(
        AnalysisError, match=r"got 'categoryy', at cluster\. Did you mean 'category'"
    ):
        sample_clusters(opened, by="categoryy")


def test_without_a_manifest_the_stored_pictures_tell_it(tmp_path: Path) -> None:
    for name, seed in (("x", 0), ("y", 0), ("z", 1)):
        write(tmp_path / "run.zarr", name, seed)
    # Their pictures are drawn from the seed, which here is that of the pictures.
    assert groups(sample_clusters(open_run(tmp_path / "run.zarr"))) == ["xy", "z"]


def test_a_summary_draws_clusters_together() -> None:
    values = {"a": 0.0, "b": 0.2, "c": 0.9, "d": 0.4}
    rows = [(name, "imacs_g", value) for name, value in values.items()]
    table = pd.DataFrame(rows, columns=["sample", "score", "value"])
    clusters = {"a": "one", "b": "one", "c": "two", "d": "three"}
    found = summarise_scores(table, 0.8, clusters).loc["imacs_g"]
    wanted = bootstrap_mean_interval(list(values.values()), 0.8, list(clusters.values()))
    assert tuple(found[["low", "high"]]) == wanted
    assert wanted != bootstrap_mean_interval(list(values.values()), 0.8)
    del clusters["c"]
    with pytest.raises(AnalysisError, match="the cluster of each sample, got none of 'c'"):
        summarise_scores(table, clusters=clusters)
