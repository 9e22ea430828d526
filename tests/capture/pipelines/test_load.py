"""Loading: real directories, with both kinds of weights, and an adapter on top."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from i2am.capture import load_pipeline
from i2am.capture.pipelines.load import SHIPPED_MODEL_PATH, default_device
from i2am.schemas import CaptureError, SchemaError
from tests.support.tiny_pipelines import models, pipelines


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with pipelines and adapters, in safetensors and pickled."""
    folder = tmp_path_factory.mktemp("saved")
    models.paint_by_example().save_pretrained(folder / "pbe")
    models.paint_by_example().save_pretrained(folder / "pbe-pickled", safe_serialization=False)
    inpaint = pipelines.inpaint(folder)
    inpaint.save_pretrained(folder / "inpaint")
    pipelines.save_adapter(folder / "adapter", inpaint.unet)
    pipelines.save_adapter(folder / "bare", inpaint.unet, encoder=False)
    pipelines.save_adapter(folder / "pickled", inpaint.unet, pickled=True)
    return folder


def _load(model: Path, **options: Any) -> Any:
    return load_pipeline(str(model), device="cpu", **options)


def _check_same_image(pipeline: Any, other: Any) -> None:
    # Loaded weights are equal but lie elsewhere in memory, which costs the last bits.
    assert np.allclose(models.run(pipeline, 1), models.run(other, 1), atol=1e-4)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("i2am-tny", "Did you mean 'i2am-tiny'"),
        ("/no/such/folder", "which is neither"),
        (str(Path(__file__).parent), "model_index.json"),
    ],
)
def test_a_model_that_is_not_there_is_one_clear_error(model: str, message: str) -> None:
    with pytest.raises(CaptureError, match=message):
        load_pipeline(model)


def test_without_a_device_any_accelerator_is_taken_and_processes_take_turns(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: None)
    assert default_device() == default_device(3) == "cpu"
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: torch.device("xpu"))
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)  # Built, but none there.
    assert default_device() == default_device(3) == "cpu"
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    monkeypatch.setattr(torch.accelerator, "device_count", lambda: 2)
    assert default_device() == "xpu"
    assert [default_device(rank) for rank in range(3)] == ["xpu:0", "xpu:1", "xpu:0"]


@pytest.mark.parametrize("library", ["diffusers", "paint_by_example"])
def test_paint_by_example_loads_whichever_library_its_index_names(
    tmp_path: Path, saved: Path, library: str
) -> None:
    model = tmp_path / "model"
    shutil.copytree(saved / "pbe", model)
    index = json.loads((model / "model_index.json").read_text())
    index["image_encoder"][0] = library
    (model / "model_index.json").write_text(json.dumps(index))
    _check_same_image(_load(model), models.paint_by_example())


def test_pickled_weights_are_refused_until_they_are_allowed(saved: Path) -> None:
    pickled = sorted((saved / "pbe-pickled").rglob("*.bin"))
    # transformers has written safetensors alone since its fifth version.
    is_old = int(transformers.__version__.split(".")[0]) < 5
    names = ["image_encoder", "unet", "vae"] if is_old else ["unet", "vae"]
    assert [path.parent.name for path in pickled] == names
    with pytest.raises(CaptureError, match=rf"got a pickle at .*{names[0]}.*--allow-pickle"):
        _load(saved / "pbe-pickled")
    pipeline = _load(saved / "pbe-pickled", allow_pickle=True)
    _check_same_image(pipeline, models.paint_by_example())


def test_one_pickle_among_safetensors_is_refused_before_it_is_opened(
    tmp_path: Path, saved: Path
) -> None:
    model = tmp_path / "model"
    shutil.copytree(saved / "inpaint", model)
    (model / "text_encoder" / "model.safetensors").unlink()
    (model / "text_encoder" / "pytorch_model.bin").write_bytes(b"no pickle at all")
    with pytest.raises(
        CaptureError, match=r"text_encoder/pytorch_model\.bin, which could run code"
    ):
        _load(model)


def test_code_in_a_models_directory_is_not_run(tmp_path: Path, saved: Path) -> None:
    model = tmp_path / "model"
    shutil.copytree(saved / "inpaint", model)
    (model / "unet" / "evil.py").write_text(
        f"from pathlib import Path\nPath({str(tmp_path / 'ran')!r}).touch()\n"
        "from diffusers import UNet2DConditionModel\n"
        "class Evil(UNet2DConditionModel): pass\n"
    )
    index = json.loads((model / "model_index.json").read_text())
    index["unet"] = ["evil", "Evil"]
    (model / "model_index.json").write_text(json.dumps(index))
    with pytest.raises(CaptureError, match="Expected a diffusers pipeline"):
        _load(model)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("name", ["pbe", "inpaint", "shipped"])
def test_a_model_computes_in_the_dtype_that_is_asked_for(
    saved: Path, name: str, dtype: Any
) -> None:
    pipeline = _load(SHIPPED_MODEL_PATH if name == "shipped" else saved / name, dtype=dtype)
    parts = [part for part in pipeline.components.values() if isinstance(part, torch.nn.Module)]
    assert len(parts) == 3
    found = {p.dtype for part in parts for p in part.parameters()}
    assert found == {getattr(torch, dtype)}


def test_an_unknown_dtype_is_refused() -> None:
    with pytest.raises(SchemaError, match=r"Expected a model dtype .* got 'int8'"):
        load_pipeline("i2am-tiny", dtype="int8")  # type: ignore[arg-type]


def test_the_commit_of_a_hub_model_is_its_revision(tmp_path: Path, saved: Path) -> None:
    # The hub's own cache layout, and no network: what a second run on a cluster finds.
    commit = "0123456789abcdef0123456789abcdef01234567"
    cached = tmp_path / "models--someone--model"
    shutil.copytree(saved / "inpaint", cached / "snapshots" / commit)
    (cached / "refs").mkdir()
    (cached / "refs" / "main").write_text(commit)
    code = (
        "from i2am.capture import load_pipeline\n"
        "from i2am.capture.recording.provenance import describe_target\n"
        "p = load_pipeline('someone/model', revision='main', device='cpu')\n"
        "found = describe_target(p, p.unet, 'none')\n"
        "print(found['model'], found['revision'])"
    )
    environment = {**os.environ, "HF_HUB_CACHE": str(tmp_path), "HF_HUB_OFFLINE": "1"}
    call = [sys.executable, "-c", code]
    answer = subprocess.run(call, env=environment, capture_output=True, text=True, check=True)
    assert answer.stdout.splitlines()[-1] == f"someone/model {commit}"


# --- IP-Adapters.


@pytest.mark.parametrize(
    "adapter",
    ["adapter:models/adapter.safetensors", "adapter/models", "adapter/models/adapter.safetensors"],
)
def test_an_adapter_loads_with_its_encoder_and_scale(saved: Path, adapter: str) -> None:
    pipeline = _load(
        saved / "inpaint", ip_adapter=f"{saved}/{adapter}", ip_adapter_scale=0.4, dtype="float16"
    )
    assert type(pipeline.image_encoder).__name__ == "CLIPVisionModelWithProjection"
    assert pipeline.image_encoder.dtype == torch.float16
    assert pipeline.feature_extractor is not None
    scales = [
        processor.scale
        for name, processor in pipeline.unet.attn_processors.items()
        if name.endswith("attn2.processor")
    ]
    assert scales == [[0.4]] * 4


def test_an_adapters_encoder_may_lie_elsewhere(tmp_path: Path, saved: Path) -> None:
    shutil.copytree(saved / "bare", tmp_path / "adapter")
    shutil.copytree(saved / "adapter" / "models" / "image_encoder", tmp_path / "adapter/other/clip")
    adapter = f"{tmp_path}/adapter:models/adapter.safetensors"
    pipeline = _load(saved / "inpaint", ip_adapter=adapter, ip_adapter_encoder="other/clip")
    assert pipeline.image_encoder is not None


@pytest.mark.parametrize(
    ("adapter", "message"),
    [
        ("bare:models/adapter.safetensors", "where its image encoder is \\(now 'image_encoder'\\)"),
        ("adapter:models/other.safetensors", "Expected an IP-Adapter that fits .* got OSError"),
        ("adapter", "Expected the weights of one IP-Adapter, got none in"),
        ("missing", "Name them: --ip-adapter .*missing:FOLDER/FILE.safetensors"),
        ("pickled:models/adapter.bin", "got the pickle 'models/adapter.bin'.*--allow-pickle"),
    ],
)
def test_an_adapter_that_is_not_there_is_one_clear_error(
    saved: Path, adapter: str, message: str
) -> None:
    with pytest.raises(CaptureError, match=message):
        _load(saved / "inpaint", ip_adapter=f"{saved}/{adapter}")


def test_a_pickled_adapter_loads_when_pickles_are_allowed(saved: Path) -> None:
    adapter = f"{saved}/pickled:models/adapter.bin"
    pipeline = _load(saved / "inpaint", ip_adapter=adapter, allow_pickle=True)
    expected = _load(saved / "inpaint", ip_adapter=f"{saved}/adapter/models")
    own, other = (
        p.unet.state_dict()[
            "mid_block.attentions.0.transformer_blocks.0.attn2.processor.to_k_ip.0.weight"
        ]
        for p in (pipeline, expected)
    )
    assert torch.equal(own, other)


def test_a_pickled_image_encoder_is_refused_until_it_is_allowed(
    tmp_path: Path, saved: Path
) -> None:
    shutil.copytree(saved / "adapter", tmp_path / "adapter")
    encoder = tmp_path / "adapter/models/image_encoder"
    loaded = pipelines.image_variation().image_encoder
    (encoder / "model.safetensors").unlink()
    torch.save(loaded.state_dict(), encoder / "pytorch_model.bin")
    adapter = f"{tmp_path}/adapter/models"
    with pytest.raises(CaptureError, match="image encoder"):
        _load(saved / "inpaint", ip_adapter=adapter)
    pipeline = _load(saved / "inpaint", ip_adapter=adapter, allow_pickle=True)
    assert torch.equal(
        pipeline.image_encoder.visual_projection.weight, loaded.visual_projection.weight
    )


def test_a_pipeline_without_text_attention_takes_no_adapter(saved: Path) -> None:
    with pytest.raises(CaptureError, match="takes an IP-Adapter, got PaintByExamplePipeline"):
        _load(saved / "pbe", ip_adapter=f"{saved}/adapter/models")


def test_a_scale_without_an_adapter_is_refused() -> None:
    with pytest.raises(SchemaError, match=r"Expected an IP-Adapter for scale 0\.5, got none"):
        load_pipeline("i2am-tiny", ip_adapter_scale=0.5)
