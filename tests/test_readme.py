"""The README's code and commands, as they stand there; only its models are ones with tiny weights."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import diffusers
import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTokenizer,
    CLIPVisionModelWithProjection,
)

from i2am.analysis import open_run, sram
from i2am.cli import main
from tests.support.synthetic_run import write_run
from tests.support.tiny_pipelines import parts
from tests.support.tiny_pipelines.ip_adapters import checkpoint
from tests.support.tiny_pipelines.parts import WIDTH

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")
PIPELINE, ADAPTER = "stable-diffusion-v1-5/stable-diffusion-v1-5", "h94/IP-Adapter"
WEIGHTS = "ip-adapter-full-face_sd15.safetensors"


def save_models(folder: Path) -> None:
    """Save a Stable Diffusion pipeline of 512 × 512 pixels and an adapter, laid out as they are published."""
    torch.manual_seed(0)
    letters = [chr(code) for code in range(ord("!"), ord("~") + 1)]
    words = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    tokenizer = folder / "tokenizer"
    tokenizer.mkdir()
    (tokenizer / "vocab.json").write_text(json.dumps({word: i for i, word in enumerate(words)}))
    (tokenizer / "merges.txt").write_text("#version: 0.2\n")
    text = CLIPTextConfig(
        vocab_size=len(words), hidden_size=WIDTH, intermediate_size=WIDTH, num_hidden_layers=1,
        num_attention_heads=2, bos_token_id=len(words) - 2, eos_token_id=len(words) - 1,
    )  # fmt: skip
    # Latents of 32 × 32, each of 16 × 16 pixels, so that attention stays small.
    vae = diffusers.AutoencoderKL(
        block_out_channels=(4,) * 5, down_block_types=("DownEncoderBlock2D",) * 5,
        up_block_types=("UpDecoderBlock2D",) * 5, norm_num_groups=2, mid_block_add_attention=False,
    )  # fmt: skip
    pipeline = diffusers.StableDiffusionPipeline(
        vae=vae,
        text_encoder=CLIPTextModel(text),
        tokenizer=CLIPTokenizer.from_pretrained(tokenizer, model_max_length=77),
        unet=parts.unet(sample_size=32),
        scheduler=parts.ddim(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.save_pretrained(folder / "pipeline")
    models = folder / "adapter" / "models"
    parts.clip(CLIPVisionModelWithProjection).save_pretrained(models / "image_encoder")
    weights = checkpoint(pipeline.unet, "full", 32)
    flat = {f"{part}.{key}": value for part, own in weights.items() for key, value in own.items()}
    save_file(flat, models / WEIGHTS)


def test_its_code_runs_with_an_ip_adapter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (code,) = re.findall(r"^```python\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)
    lines = [line for line in code.splitlines() if line and not re.match(r"from|import", line)]
    assert len(lines) == 10
    save_models(tmp_path)
    noise = np.random.default_rng(0).integers(0, 256, (300, 400, 3), np.uint8)
    Image.fromarray(noise).save(tmp_path / "face.png")
    for name, folder in ((PIPELINE, "pipeline"), (ADAPTER, "adapter")):
        assert code.count(f'"{name}"') == 1
        code = code.replace(name, str(tmp_path / folder))
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "README.md", "exec"), {"__name__": "readme"})
    sample = open_run("run.zarr")["first"]
    assert sample["images/generated"].shape == (512, 512, 3)
    # 1 special token and a grid, so that a patch can be asked: the adapter that was chosen matters.
    assert float(sram(sample, generated=(200, 256)).sum()) > 0
    for name in ("overview.png", "patch.png"):
        with Image.open(name) as picture:
            assert np.asarray(picture).std() > 20


def test_its_commands_are_commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    demo, *others = (
        shlex.split(command)
        for command in re.findall(r"^    i2am (.*?)(?:  +#.*)?$", TEXT, re.MULTILINE)
    )
    # What it does: tests/test_demo.py.
    assert demo == ["demo"]
    write_run(tmp_path / "i2am-demo" / "run.zarr", ["doughnut", "frog", "truck"])
    monkeypatch.chdir(tmp_path)
    assert [main(command) for command in others] == [0]
    assert "truck" in Path("truck.html").read_text(encoding="utf-8")


def test_it_fits_on_a_screen() -> None:
    lines = TEXT.split("## Licence")[0].splitlines()
    assert len(lines) <= 100
    assert max(map(len, lines)) <= 140
