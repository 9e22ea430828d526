"""Pictures and animations: which files there are, and that they show the maps."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from i2am.analysis import analyze, export_animation, export_pictures, open_maps, open_run
from i2am.analysis.figures.overlay import overlay, value_range
from i2am.analysis.figures.style import FigureStyle
from i2am.schemas import AnalysisError, Box, MissingExtra, StoreError
from tests.analysis.export.conftest import BOX
from tests.support.synthetic_run import SyntheticLayer, write_run


def pixels(path: Path) -> Any:
    with Image.open(path) as opened:
        return np.asarray(opened)


def test_each_map_is_a_picture_over_its_image_and_alone(
    stores: dict[str, Path], tmp_path: Path
) -> None:
    levels = ["ulam", "tlam", "hlam", "mass"]
    out = export_pictures(stores["maps"], tmp_path / "new", levels=levels, samples=["007"])
    assert [path.name for path in out.iterdir()] == ["007"]
    ends = ["ulam", "tlam-steps-0-1", "tlam-steps-2-3", *(f"hlam-head-{n}" for n in range(3))]
    wanted = {f"{direction}-{end}" for direction in ("r2g", "g2r") for end in ends} | {"r2g-mass"}
    names = {path.name for path in (out / "007").iterdir()}
    assert names == {f"{one}{end}.png" for one in wanted for end in ("", "-heat")}
    maps, sample = open_maps(stores["maps"])["007"], open_run(stores["run"])["007"]
    image = sample["images/generated"].to_numpy()
    tlam = maps["r2g/tlam"].to_numpy()
    assert value_range(tlam[0]) != value_range(tlam) or value_range(tlam[1]) != value_range(tlam)
    for group, steps in enumerate(("0-1", "2-3")):
        shown = overlay(image, tlam[group], value_range(tlam), box=Box(*BOX))
        np.testing.assert_array_equal(pixels(out / "007" / f"r2g-tlam-steps-{steps}.png"), shown)
    alone = overlay(image, tlam[1], value_range(tlam), FigureStyle(base="none"), Box(*BOX))
    heat = pixels(out / "007" / "r2g-tlam-steps-2-3-heat.png")
    np.testing.assert_array_equal(heat, alone)
    assert heat.shape == shown.shape


def test_layers_of_other_grids_have_scales_of_their_own_and_a_style_is_kept(
    stores: dict[str, Path], tmp_path: Path
) -> None:
    style = FigureStyle(colormap="viridis", base="none")
    out = export_pictures(
        stores["run"], tmp_path / "new", levels=["llam"], samples=["été@1"], style=style
    )
    # A name that a file cannot have everywhere is changed; its number keeps it apart.
    assert sorted(path.name for path in (out / "été@1").iterdir()) == [
        "g2r-llam-00-down_b_ é__-heat.png".replace(" ", "_"),
        "g2r-llam-01-up.attn-heat.png",
        "r2g-llam-00-down_b_ é__-heat.png".replace(" ", "_"),
        "r2g-llam-01-up.attn-heat.png",
    ]
    llam = open_maps(stores["maps"])["été@1"]["r2g/llam"].to_numpy()
    image = open_run(stores["run"])["été@1"]["images/generated"].to_numpy()
    wanted = overlay(image, llam[0], value_range([llam[0]]), style, Box(*BOX))
    np.testing.assert_array_equal(
        pixels(out / "été@1" / "r2g-llam-00-down_b__é__-heat.png"), wanted
    )


def test_a_volume_has_no_picture_of_a_head_that_a_layer_lacks(
    stores: dict[str, Path], tmp_path: Path
) -> None:
    out = export_pictures(
        stores["run"], tmp_path / "new", levels=["volume"], samples=["007"], steps=[1]
    )
    names = {path.name for path in (out / "007").glob("r2g-volume-*-heat.png")}
    assert names == {
        f"r2g-volume-{layer}-step-1-head-{head}-heat.png"
        for layer, heads in (("00-down_b__é__", 2), ("01-up.attn", 3))
        for head in range(heads)
    }


def test_one_token_has_pictures_of_one_direction(one_token: Path, tmp_path: Path) -> None:
    out = export_pictures(one_token, tmp_path / "new", levels=["ulam"])
    assert {path.name for path in (out / "a").iterdir()} == {"r2g-ulam.png", "r2g-ulam-heat.png"}


def test_maps_without_their_run_have_no_pictures(stores: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"got one of kind 'average'"):
        export_pictures(stores["average"], tmp_path / "new")
    run = write_run(tmp_path / "run.zarr", ["b"], [SyntheticLayer("down", (4, 4), (2, 2))], steps=1)
    from i2am.analysis import analyze_run

    maps = analyze_run(run, tmp_path / "maps.zarr", progress=False)
    run.rename(tmp_path / "elsewhere.zarr")
    with pytest.raises(
        StoreError, match=r"the run of these maps, got none .*'\.\./run\.zarr'.*--maps MAPS"
    ):
        export_pictures(maps, tmp_path / "new")
    write_run(tmp_path / "run.zarr", ["c"], [SyntheticLayer("down", (4, 4), (2, 2))], steps=1)
    with pytest.raises(AnalysisError, match=r"the captured sample .*got none in the run, at 'b'"):
        export_pictures(maps, tmp_path / "new")
    assert not (tmp_path / "new").exists()


def frames_of(path: Path) -> list[Any]:
    with Image.open(path) as opened:
        found = []
        for number in range(getattr(opened, "n_frames", 1)):
            opened.seek(number)
            found.append(np.asarray(opened.convert("RGB")).astype(int))
        return found


def test_an_animation_has_a_frame_for_each_time_group(
    stores: dict[str, Path], tmp_path: Path
) -> None:
    out = export_animation(stores["maps"], tmp_path / "new" / "out.gif", samples=["007"])
    frames = frames_of(out)
    assert len(frames) == 2
    assert frames[0].shape == frames[1].shape
    assert np.abs(frames[0] - frames[1]).max() > 100
    with Image.open(out) as opened:
        assert opened.info["duration"] == 250
    every = export_animation(
        stores["maps"],
        tmp_path / "every.gif",
        samples=["007"],
        time_groups=99,
        frames_per_second=2,
    )
    assert len(frames_of(every)) == 4
    wanted = analyze(open_run(stores["run"])["007"], time_groups=99)["r2g/tlam"]
    assert len(wanted) == 4


def test_an_animation_of_one_token_is_of_one_direction(one_token: Path, tmp_path: Path) -> None:
    both = export_animation(one_token, tmp_path / "one.gif")
    assert len(frames_of(both)) == 4


def test_an_mp4_has_every_frame(stores: dict[str, Path], tmp_path: Path) -> None:
    import imageio_ffmpeg

    out = export_animation(
        stores["run"], tmp_path / "out.mp4", samples=["007"], frames_per_second=8, time_groups=4
    )
    assert imageio_ffmpeg.count_frames_and_secs(out)[0] == 4
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-i", str(out)]
    told = subprocess.run(command, capture_output=True, check=False).stderr.decode()
    assert (rate := re.search(r", ([\d.]+) fps", told))
    assert float(rate[1]) == 8


def test_what_cannot_be_animated_is_told_before_any_work(
    stores: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(AnalysisError, match=r"one sample to animate, got 2, .* such as '007'"):
        export_animation(stores["run"], tmp_path / "out.gif")
    with pytest.raises(AnalysisError, match=r"Expected a \.gif or \.mp4 file, got out\.avi"):
        export_animation(stores["run"], tmp_path / "out.avi")
    with pytest.raises(AnalysisError, match=r"frames per second above 0, got 0"):
        export_animation(stores["run"], tmp_path / "out.gif", frames_per_second=0)
    monkeypatch.setitem(__import__("sys").modules, "imageio_ffmpeg", None)
    with pytest.raises(MissingExtra, match=r"to write an MP4; install with .*'i2am\[export\]'"):
        export_animation(stores["run"], tmp_path / "out.mp4", samples=["007"])
    (tmp_path / "out.gif").write_bytes(b"mine")
    with pytest.raises(StoreError, match=r"Expected no file, got one"):
        export_animation(stores["run"], tmp_path / "out.gif", samples=["007"])
    assert (tmp_path / "out.gif").read_bytes() == b"mine"
    assert len(list(tmp_path.iterdir())) == 1
