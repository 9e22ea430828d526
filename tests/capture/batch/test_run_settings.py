"""One run, one setting: what a run's samples have in common, and what its next ones may not change."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import zarr

from i2am.capture import CaptureOptions, Profile, capture, capture_manifest, cross_attention
from i2am.capture.batch.run_settings import EarlierSamples, settings_before_loading
from i2am.capture.pipelines.call import GenerationSettings
from i2am.capture.pipelines.load import LoadOptions
from i2am.cli import main
from i2am.schemas import CaptureError, SchemaError, StoreError
from tests.support.reference_maps import change_attributes
from tests.support.tiny_pipelines import models

KEPT = CaptureOptions().describe()


def write_manifest(folder: Path) -> Path:
    for name, image in models.noise_images(64).items():
        image.save(folder / f"{name}.png")
    columns = "image.png,mask_image.png,example_image.png"
    rows = [f"s{number},{columns}" for number in range(2)]
    path = folder / "rows.csv"
    path.write_text("\n".join(["sample,source,mask,reference", *rows, ""]))
    return path


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a manifest of two rows, the first of which is captured in run.zarr beside it."""
    path = write_manifest(tmp_path_factory.mktemp("settings"))
    assert run(path, shard=(0, 2)).finished == ["s0"]
    return path


def run(manifest: Path, model: str = "i2am-tiny", **options: Any) -> Any:
    out = options.pop("out", manifest.parent / "run.zarr")
    return capture_manifest(model, manifest, out, **{"steps": 1, "progress": False} | options)


# --- What is compared.

EARLIER: dict[str, Any] = {
    "model": "some/model",
    "revision": None,
    "requested_revision": None,
    "pipeline": "Pipeline",
    "profile": "unet",
    "dtype": "float32",
    "scheduler": "DDIMScheduler",
    "scheduler_config": {"beta_start": 0.1, "_new": 1},
    "steps": 20,
    "num_inference_steps": 20,
    "guidance_scale": 7.5,
    "size": [512, 384],
    "arguments": {"strength": 0.8, "width": 384, "prompt": "a hat"},
    "ip_adapter": "some/adapter:weights",
    "ip_adapter_scale": None,
    "options": KEPT,
    "seed": 7,
    "prompt": "a hat",
    "versions": {"torch": "2.1", "python": "3.11"},
    "device": "cuda:1",
}
NOW: dict[str, Any] = EARLIER | {"guidance_arguments": ("guidance_scale",)}


def earlier(**changes: Any) -> EarlierSamples:
    found = EarlierSamples("run.zarr")
    found.add("first", EARLIER | changes)
    return found


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"model": "other/model"}, "model some/model → other/model"),
        ({"pipeline": "Other"}, "pipeline Pipeline → Other"),
        ({"profile": "mine"}, "profile unet → mine"),
        ({"dtype": "float16"}, "model dtype float32 → float16"),
        (
            {"scheduler": "Euler", "scheduler_config": {"beta_start": 1}},
            "scheduler DDIMScheduler → E",
        ),
        ({"scheduler_config": {"beta_start": 0.2}}, "scheduler beta_start 0.1 → 0.2"),
        ({"num_inference_steps": 30}, "steps 20 → 30"),
        ({"guidance_scale": 1.0}, "guidance scale 7.5 → 1"),
        ({"guidance_scale": None}, "guidance scale 7.5 → none"),
        ({"size": [512, 512]}, "size 512,384 → 512,512"),
        ({"requested_revision": "v2"}, "revision none → v2"),
        ({"arguments": {"strength": 0.5}}, "argument strength 0.8 → 0.5"),
        ({"arguments": {"strength": 0.8, "eta": 1}}, "argument eta none → 1"),
        ({"ip_adapter": None}, "IP-Adapter some/adapter:weights → none"),
        ({"ip_adapter_scale": 0.5}, "IP-Adapter scale none → 0.5"),
        ({"options": KEPT | {"layers": ["up*"]}}, "kept layers none → up*"),
        ({"options": KEPT | {"steps": "2:8"}}, "kept steps none → 2:8"),
        ({"options": KEPT | {"heads": [0, 1]}}, "kept heads none → 0,1"),
        ({"options": KEPT | {"guidance": "both"}}, "kept guidance conditional → both"),
        ({"options": KEPT | {"representation": "maps"}}, "kept representation auto → maps"),
        ({"options": KEPT | {"dtype": "float32"}}, "kept dtype float16 → float32"),
    ],
)
def test_other_settings_are_refused_and_told(changes: dict[str, Any], told: str) -> None:
    with pytest.raises(StoreError) as caught:
        earlier().check(NOW | changes)
    message = str(caught.value)
    assert message.startswith(f"Expected the settings of 'first' in run.zarr, got others: {told}")
    assert "--out" in message
    assert "--overwrite" in message
    assert message.count("\n") < 3


@pytest.mark.parametrize(
    ("before", "now"),
    [
        pytest.param({}, {"seed": 8, "prompt": "a coat", "created": "later"}, id="seed and prompt"),
        pytest.param({}, {"arguments": {"strength": 0.8, "prompt": "a coat"}}, id="common prompt"),
        pytest.param({}, {"arguments": EARLIER["arguments"] | {"guidance_scale": 7.5}}, id="scale"),
        pytest.param({}, {"ip_adapter_scale": 1.0}, id="the default scale"),
        pytest.param({}, {"scheduler_config": {"beta_start": 0.1, "_newer": 2}}, id="new options"),
        pytest.param(
            {"revision": "abc"}, {"revision": "abc", "requested_revision": "main"}, id="tag"
        ),
        pytest.param({"steps": 16}, {}, id="steps that strength left out"),
        pytest.param({}, {"versions": {"torch": "2.2"}, "device": "cpu"}, id="versions"),
    ],
)
def test_what_is_no_setting_or_the_same_one_is_accepted(
    before: dict[str, Any], now: dict[str, Any]
) -> None:
    earlier(**before).check(NOW | now)


def test_of_older_samples_only_what_they_say_is_compared() -> None:
    found = EarlierSamples("run.zarr")
    names = ("model", "profile", "guidance_scale", "steps")
    found.add("old", {name: EARLIER[name] for name in names})
    found.check(NOW)
    with pytest.raises(StoreError, match=r"got others: guidance scale 7\.5 → 2\.\n"):
        found.check(NOW | {"guidance_scale": 2.0, "num_inference_steps": 30})


def test_many_differences_are_counted_and_long_ones_cut() -> None:
    changes = {"model": "m" * 99, "pipeline": "P", "profile": "p", "dtype": "d", "scheduler": "s"}
    with pytest.raises(StoreError) as caught:
        earlier().check(NOW | changes | {"num_inference_steps": 1, "guidance_scale": 1.0})
    assert " → mmm" in str(caught.value)
    assert "scheduler DDIMScheduler → s and 2 more." in str(caught.value)
    assert len(str(caught.value)) < 400


def test_every_sample_of_a_mixed_run_counts() -> None:
    found = earlier()
    found.add("second", EARLIER | {"guidance_scale": 2.0})
    for number in range(100):
        found.add(f"more-{number}", EARLIER | {"seed": number})
    assert len(found._found) == 2
    with pytest.raises(StoreError, match="settings of 'second' in"):
        found.check(NOW)


def test_a_model_is_the_same_by_another_path(tmp_path: Path, monkeypatch: Any) -> None:
    (tmp_path / "model").mkdir()
    monkeypatch.chdir(tmp_path)
    found = earlier(model="model")
    found.check(NOW | {"model": str(tmp_path / "model")})
    with pytest.raises(StoreError, match="model model → elsewhere"):
        found.check(NOW | {"model": "elsewhere"})


def test_other_versions_and_devices_are_told_in_one_warning() -> None:
    with pytest.warns(UserWarning, match=r"others: torch 2\.1 → 2\.2, device cuda → cpu\. Num"):
        earlier().warn_of_versions({"torch": "2.2", "python": "3.13"}, "cpu")
    earlier().warn_of_versions({"torch": "2.1"}, "cuda:0")


def test_what_is_known_without_the_model_says_nothing_of_the_rest() -> None:
    found = settings_before_loading("m", GenerationSettings(), LoadOptions(), CaptureOptions())
    assert not {"num_inference_steps", "guidance_scale", "size", "scheduler"} & found.keys()


# --- A run that is continued.


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"steps": 2}, "steps 1 → 2"),
        ({"guidance_scale": 2.0}, "guidance scale 3 → 2"),
        ({"arguments": {"eta": 0.5}}, "argument eta none → 0.5"),
        ({"model": "no/such-model"}, "model i2am-tiny → no/such-model"),
        ({"options": CaptureOptions(layers="up*")}, r"kept layers none → up\*"),
        ({"options": CaptureOptions(dtype="float32")}, "kept dtype float16 → float32"),
        ({"shard": (0, 2), "steps": 2}, "steps 1 → 2"),  # There is nothing to do, but not as asked.
    ],
)
def test_a_run_of_other_settings_is_refused_before_the_model_is_loaded(
    manifest: Path, changes: dict[str, Any], told: str
) -> None:
    with pytest.raises(StoreError, match=f"got others: {told}"):
        run(manifest, **{"loading": LoadOptions(device="nowhere")} | changes)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"steps": None}, "steps 1 → 50"),
        ({"loading": LoadOptions(dtype="bfloat16")}, "model dtype float32 → bfloat16"),
        (
            {"options": CaptureOptions(profile=Profile("mine", (), cross_attention))},
            "profile i2am-tiny → mine",
        ),
    ],
)
def test_settings_that_the_model_tells_are_compared_before_the_first_sample(
    manifest: Path, changes: dict[str, Any], told: str
) -> None:
    with pytest.raises(StoreError, match=f"got others: {told}"):
        run(manifest, **changes)
    assert not (manifest.parent / "run.zarr" / "s1").exists()


def test_the_same_settings_said_otherwise_continue_a_run(tmp_path: Path) -> None:
    path = write_manifest(tmp_path)
    assert run(path, shard=(0, 2), guidance_scale=3.0).finished == ["s0"]
    again: dict[str, Any] = {"height": 64, "num_inference_steps": 1, "guidance_scale": 3.0}
    assert run(path, steps=None, arguments=again, seed=5).finished == ["s1"]


def test_a_scheduler_that_was_changed_beside_the_weights_is_noticed(tmp_path: Path) -> None:
    path = write_manifest(tmp_path)
    models.shipped().save_pretrained(tmp_path / "model")
    assert run(path, str(tmp_path / "model"), shard=(0, 2)).finished == ["s0"]
    config = tmp_path / "model" / "scheduler" / "scheduler_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"beta_schedule": "linear"}))
    with pytest.raises(StoreError, match="scheduler beta_schedule scaled_linear → linear"):
        run(path, str(tmp_path / "model"))


def test_overwrite_replaces_the_manifests_samples_and_no_others(tmp_path: Path) -> None:
    path = write_manifest(tmp_path)
    both = path.read_text()
    run(path)
    summary = run(path, shard=(0, 2), guidance_scale=2.0, options=CaptureOptions(overwrite=True))
    assert summary.finished == ["s0"]  # The other shard replaces the other row.
    path.write_text("\n".join(both.splitlines()[:2]))
    with pytest.raises(StoreError, match=r"settings of 's1' in .*\n.* with --out\.$"):
        run(path, guidance_scale=2.0, options=CaptureOptions(overwrite=True))
    with pytest.raises(StoreError, match=r"settings of 's.' in .*\n.* with --out\.$"):
        run(path, guidance_scale=4.0)
    # Samples that are not complete do not count.
    change_attributes(tmp_path / "run.zarr" / "s1", status="failed")
    assert run(path, guidance_scale=2.0).skipped == ["s0"]


def test_in_python_a_run_may_be_mixed(tmp_path: Path) -> None:
    pipeline, store = models.reference_inpaint(), tmp_path / "run.zarr"
    for steps in (1, 2):
        with capture(pipeline, store, sample=f"steps-{steps}") as recording:
            image = models.run(pipeline, steps)[0]
            image = (image * 255).astype("uint8")
            recording.add_images(generated=image, reference=image)
    root: Any = zarr.open_group(store, mode="r")
    assert [root[f"steps-{n}"].attrs["i2am"]["steps"] for n in (1, 2)] == [1, 2]
    assert root["steps-1"].attrs["i2am"]["options"] == KEPT


def test_the_command_line_says_it_in_one_line(
    manifest: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    call = ["capture", "--model", "i2am-tiny", "--manifest", str(manifest), "--steps", "9"]
    assert main([*call, "--out", str(manifest.parent / "run.zarr"), "--device", "nowhere"]) == 1
    told = capsys.readouterr().err
    assert "got others: steps 1 → 9. One run has one setting: name another run with --out" in told
    assert told.count("\n") == 1


# --- Options that no sample could serve.


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"options": CaptureOptions(heads=[0, 9])}, r"heads from 0 to \d, .* got \[9\]"),
        ({"options": CaptureOptions(steps=[0, 3])}, r"from 0 to 2, which the call runs, got \[3\]"),
        ({"options": CaptureOptions(steps=slice(5, 9))}, "got none of them"),
        (
            {"options": CaptureOptions(guidance="both"), "guidance_scale": 1.0},
            r"got guidance_scale 1, .* Give a scale above 1, or leave out --guidance both",
        ),
        ({"arguments": {"eta": "much"}}, "Expected a number for 'eta' .* got 'much'"),
        ({"arguments": {"height": 64.5}}, "Expected a whole number for 'height'"),
        (
            {"arguments": {"num_images_per_prompt": 2}},
            "one image for each row, got num_images_per_",
        ),
        ({"arguments": {"return_dict": False}}, "got return_dict=False. Omit it"),
        ({"batch_size": 0}, "Expected batch_size from 1 on, got 0"),
        ({"steps": 0}, "Expected steps from 1 on, got 0"),
        ({"seed": 2**64}, "Expected a seed of 64 bits, got 18446744073709551616, at sample 's0'"),
    ],
)
def test_an_option_that_would_fail_every_sample_fails_once_and_writes_nothing(
    manifest: Path, tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    call: dict[str, Any] = {"steps": 3, "out": tmp_path / "new.zarr"}
    with pytest.raises((CaptureError, SchemaError), match=message):
        run(manifest, **call | options)
    assert not (tmp_path / "new.zarr").exists()
