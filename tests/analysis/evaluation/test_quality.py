"""Generated images against true ones, and how that goes with the scores of maps."""

from __future__ import annotations

import math
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import zarr
from PIL import Image
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from i2am.analysis import (
    find_true_pictures,
    picture_distances,
    picture_quality,
    rank_correlations,
)
from i2am.analysis.evaluation.true_pictures import read_picture
from i2am.analysis.intervals.rank_correlation import rank_correlation
from i2am.schemas import AnalysisError, MissingExtra, SchemaError, StoreError
from tests.support.synthetic_run import SyntheticLayer, write_run

SAMPLES = list("abcd")
SIZE = (24, 32)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    layers = [SyntheticLayer("one", (2, 2), (2, 2))]
    return write_run(tmp_path / "run.zarr", SAMPLES, layers, steps=1, size_px=SIZE)


def generated(run: Path, sample: str) -> np.ndarray:
    stored: Any = zarr.open_group(run, mode="r")[f"{sample}/images/generated"]
    return np.asarray(stored[:])


@pytest.fixture
def truths(run: Path, tmp_path: Path) -> Path:
    """Return a folder with the generated images and some noise, which grows from sample to sample."""
    folder = tmp_path / "truths"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for number, name in enumerate(SAMPLES):
        noise = rng.normal(0, 4 * (number + 1), (*SIZE, 3))
        values = np.clip(generated(run, name) + noise, 0, 255).astype(np.uint8)
        Image.fromarray(values).save(folder / f"{name}.png")
    return folder


def by_score(table: pd.DataFrame, sample: str) -> dict[str, float]:
    own = table[table["sample"] == sample]
    return dict(zip(own["score"], own["value"], strict=True))


def test_whole_values_are_scikit_images_and_those_inside_are_weighed_by_the_mask(
    run: Path, truths: Path
) -> None:
    found = by_score(picture_quality(run, truths), "b")
    ours, true = generated(run, "b"), read_picture(truths / "b.png")
    options: Any = {"channel_axis": -1, "gaussian_weights": True, "sigma": 1.5}
    options |= {"use_sample_covariance": False, "data_range": 255}
    assert found["ssim"] == pytest.approx(structural_similarity(ours, true, **options))
    assert found["psnr"] == pytest.approx(peak_signal_noise_ratio(true, ours))
    # The mask is white in rows 6 to 12 and columns 8 to 16.
    inside = slice(6, 12), slice(8, 16)
    assert found["psnr_inside"] == pytest.approx(
        peak_signal_noise_ratio(true[inside], ours[inside])
    )
    _, values = structural_similarity(ours, true, full=True, **options)
    assert found["ssim_inside"] == pytest.approx(values[inside].mean())


def test_a_change_outside_the_mask_is_seen_by_the_whole_values_alone(run: Path) -> None:
    true = {name: generated(run, name).copy() for name in SAMPLES}
    for picture in true.values():
        picture[:, 26:] ^= 255
    table = picture_quality(run, true, samples=["a"])
    # Two pictures that are the same inside have no PSNR there.
    assert set(table["score"]) == {"ssim", "psnr", "ssim_inside"}
    found = by_score(table, "a")
    assert found["ssim_inside"] == pytest.approx(1)
    assert found["ssim"] < 0.9
    assert set(picture_quality(run, true, metrics="psnr")["score"]) == {"psnr"}


def test_true_pictures_come_from_a_folder_a_manifest_or_a_mapping(
    run: Path, truths: Path, tmp_path: Path
) -> None:
    wanted = picture_quality(run, truths)
    rows = [{"sample": name, "target": f"truths/{name}.png", "prompt": "x, y"} for name in SAMPLES]
    manifest = pd.DataFrame(rows)
    manifest.to_csv(tmp_path / "rows.csv", index=False, sep=";")
    manifest.to_json(tmp_path / "rows.jsonl", orient="records", lines=True)
    manifest.to_parquet(tmp_path / "rows.parquet")
    for name in ("rows.csv", "rows.jsonl", "rows.parquet"):
        found = picture_quality(run, tmp_path / name, column="target")
        pd.testing.assert_frame_equal(found, wanted)
    arrays = {name: read_picture(truths / f"{name}.png") for name in SAMPLES}
    out = tmp_path / "quality.csv"
    pd.testing.assert_frame_equal(picture_quality(run, arrays, out=out), wanted)
    pd.testing.assert_frame_equal(pd.read_csv(out), wanted)


def test_a_picture_is_read_as_people_see_it(tmp_path: Path) -> None:
    values = np.zeros((2, 3, 3), np.uint8)
    values[0, 0] = 255
    exif = Image.Exif()
    exif[274] = 6  # The camera was turned: the first row is the right side.
    Image.fromarray(values).save(tmp_path / "turned.png", exif=exif)
    seen = read_picture(tmp_path / "turned.png")
    assert seen.shape == (3, 2, 3)
    assert seen[0, 1].tolist() == [255] * 3


def test_what_is_wrong_with_true_pictures_is_told(run: Path, truths: Path, tmp_path: Path) -> None:
    with pytest.raises(AnalysisError, match=r"got nothing, at .*nowhere\. Check the path"):
        picture_quality(run, tmp_path / "nowhere")
    with pytest.raises(AnalysisError, match=r"got 'sim', at metrics\. Did you mean 'ssim'"):
        picture_quality(run, truths, metrics=["sim"])
    with pytest.raises(AnalysisError, match="at least one metric, got none"):
        picture_quality(run, truths, metrics=[])
    (truths / "b.png").rename(tmp_path / "b.png")
    with pytest.raises(AnalysisError, match=r"of each sample, got none of 'b', at .*truths\."):
        picture_quality(run, truths)
    assert set(picture_quality(run, truths, samples=["c"])["sample"]) == {"c"}
    with pytest.raises(StoreError, match="none named 'z'"):
        picture_quality(run, {"z": truths / "a.png"}, samples=["z"])
    Image.new("RGB", (16, 16)).save(truths / "b.png")
    with pytest.raises(AnalysisError, match=r"image's 24 x 32 pixels, got 16 x 16, at sample 'b'"):
        picture_quality(run, truths)
    (truths / "b.png").write_text("no picture")
    with pytest.raises(AnalysisError, match="Expected a picture, got a file that cannot be read"):
        picture_quality(run, truths)
    Image.new("RGB", (16, 16)).save(truths / "b.jpg")
    with pytest.raises(AnalysisError, match=r"one picture for each sample, got b\.jpg and b\.png"):
        find_true_pictures(truths)
    with pytest.raises(AnalysisError, match=r"uint8, got float64 of shape \(2, 2\), at truth"):
        picture_quality(run, dict.fromkeys(SAMPLES, np.zeros((2, 2))))
    (tmp_path / "rows.csv").write_text("sample,target\na,truths/a.png\n")
    with pytest.raises(AnalysisError, match=r"a column 'truth' of true pictures, got none"):
        find_true_pictures(tmp_path / "rows.csv")
    (tmp_path / "rows.txt").write_text("")
    with pytest.raises(SchemaError, match=r"Expected a \.csv, \.jsonl or \.parquet manifest"):
        find_true_pictures(tmp_path / "rows.txt")
    (tmp_path / "empty").mkdir()
    with pytest.raises(AnalysisError, match="named as the samples are, got none"):
        find_true_pictures(tmp_path / "empty")


def test_an_image_smaller_than_ssims_window_is_refused(tmp_path: Path) -> None:
    small = write_run(tmp_path / "small.zarr", ["a"], [SyntheticLayer("one")], size_px=(8, 8))
    with pytest.raises(AnalysisError, match="at least 11 pixels on each side, got 8 x 8"):
        picture_quality(small, {"a": generated(small, "a")})


class Colors(torch.nn.Module):
    """A network of its own: mean and spread of each color."""

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        assert pictures.dtype == torch.uint8
        values = pictures.double() / 255
        return torch.cat([values.mean((2, 3)), values.std((2, 3))], dim=1)


def features(pictures: list[np.ndarray]) -> np.ndarray:
    stacked = np.stack([own / 255 for own in pictures])
    spread = stacked.reshape(len(stacked), -1, 3).std(axis=1, ddof=1)
    return np.concatenate([stacked.mean(axis=(1, 2)), spread], axis=1)


def test_fid_and_kid_are_distances_of_the_networks_features(run: Path, truths: Path) -> None:
    found = picture_distances(run, truths, features=Colors())
    a = features([generated(run, name) for name in SAMPLES])
    b = features([read_picture(truths / f"{name}.png") for name in SAMPLES])
    cov_a, cov_b = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    eigenvalues = np.linalg.eigvals(cov_a @ cov_b).astype(complex)
    fid = np.square(a.mean(0) - b.mean(0)).sum() + np.trace(cov_a + cov_b)
    fid -= 2 * np.sqrt(eigenvalues).real.sum()
    assert found.loc["fid", "value"] == pytest.approx(fid, rel=1e-3, abs=1e-6)
    assert found["generated"].tolist() == found["true"].tolist() == [4, 4]
    assert found["std"].isna().tolist() == [True, False]
    again = picture_distances(run, truths, features=Colors())
    pd.testing.assert_frame_equal(found, again)  # The subsets of KID are drawn alike.
    (far,) = picture_distances(
        run,
        {str(number): np.full((9, 9, 3), 40 * number, np.uint8) for number in range(5)},
        metrics="kid",
        features=Colors(),
    )["value"]
    assert far > 10 * abs(found["value"].to_dict()["kid"])
    with pytest.raises(AnalysisError, match="two pictures or more on either side, got 1 generated"):
        picture_distances(run, truths, samples=["a"], features=Colors())


def test_a_network_of_ones_own_takes_lpips_place(run: Path, truths: Path) -> None:
    def distance(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
        assert first.shape == second.shape == (1, 3, *SIZE)
        return (first - second).abs().mean()

    table = picture_quality(run, truths, metrics=["lpips", "ssim"], lpips=distance)
    found = by_score(table, "c")
    assert list(found) == ["ssim", "ssim_inside", "lpips"]
    ours, true = generated(run, "c") / 255, read_picture(truths / "c.png") / 255
    assert found["lpips"] == pytest.approx(abs(ours - true).mean(), rel=1e-5)


def test_what_a_networks_package_lacks_is_named(run: Path, truths: Path) -> None:
    if find_spec("torchvision") is None:
        with pytest.raises(MissingExtra, match=r"The torchvision package .* LPIPS; .*\[metrics\]"):
            picture_quality(run, truths, metrics="lpips")
    if find_spec("torch_fidelity") is None:
        with pytest.raises(MissingExtra, match=r"The torch_fidelity package .* KID; .*\[metrics\]"):
            picture_distances(run, truths, metrics="kid")


def test_a_rank_correlation_is_spearmans_and_its_interval_draws_clusters() -> None:
    a, b = [1.0, 2.0, 2.0, 5.0, 9.0, 7.0], [3.0, 1.0, 4.0, 6.0, 5.0, 5.0]
    rho, low, high = rank_correlation(a, b)
    assert rho == pytest.approx(pd.Series(a).corr(pd.Series(b), method="spearman"))
    assert -1 <= low < rho < high <= 1
    together = rank_correlation(a, b, clusters=["x", "x", "x", "y", "y", "y"])
    assert together[0] == rho
    # A resample holds both clusters, or one of the two twice: 0, -0.87 or the whole's own.
    of_y = pd.Series(a[3:]).corr(pd.Series(b[3:]), method="spearman")
    assert together[1:] == pytest.approx((of_y, rho))
    assert rank_correlation(a, b) == (rho, low, high)
    assert all(math.isnan(end) for end in rank_correlation(a, b, clusters=["x"] * 6)[1:])
    assert all(math.isnan(own) for own in rank_correlation([1, 1, 1], [1, 2, 3]))
    assert all(math.isnan(own) for own in rank_correlation([1, 2], [1, 2]))


def test_an_interval_of_a_rank_correlation_holds_the_true_one_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(60):
        a, b = rng.multivariate_normal([0, 0], [[1, 0.5], [0.5, 1]], 60).T
        _, low, high = rank_correlation(a, b, 0.9)
        covered += low <= 6 / math.pi * math.asin(0.25) <= high
    # Two standard errors of a share of 0.9 among 60 are 0.08.
    assert covered / 60 == pytest.approx(0.9, abs=0.08)


def test_scores_and_quality_are_matched_by_sample() -> None:
    names = list("abcde")
    scores = pd.DataFrame({"sample": names, "score": "imacs_g", "value": [1.0, 2, 3, 4, 5]})
    quality = pd.DataFrame(
        {"sample": names[::-1], "score": "lpips", "value": [0.1, 0.2, 0.3, 0.4, 0.5]}
    )
    both = pd.concat([quality, quality.assign(score="ssim").iloc[:2]])
    found = rank_correlations(scores, both)
    assert found["rank_correlation"].to_dict()["imacs_g", "lpips"] == pytest.approx(-1)
    assert found["count"].tolist() == [5, 2]
    assert math.isnan(found["rank_correlation"].to_dict()["imacs_g", "ssim"])
    with pytest.raises(AnalysisError, match="the cluster of each sample, got none of 'a'"):
        rank_correlations(scores, quality, clusters={"b": 1})
