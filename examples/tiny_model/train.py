"""Train the model that ships with i2am, on a CPU or a GPU, resumable at any moment.

    npm pack emoji-datasource-twitter && tar xzf emoji-datasource-twitter-*.tgz
    python examples/tiny_model/train.py --objects package/img/twitter/64 --work training

The autoencoder comes first, then the denoiser with its reference encoder. What made attention
mean something: v-prediction, timesteps drawn toward the noisy end, a loss that counts 30 times
more inside the mask; and, until step ``--guided-steps``, a hint where to look (``guide.py``). Run
the same command again to resume; raise ``--unet-steps`` to go on. The result is WORK/model.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

import torch
from compositions import Compositions, read_objects
from diffusers import DDPMScheduler
from guide import Guide
from torch.nn import functional

from i2am.capture.pipelines.load import default_device
from i2am.capture.pipelines.reference_inpaint import ReferenceInpaintPipeline
from i2am.capture.pipelines.tiny_model import PREDICTION, build_pipeline

VAE_BATCH, VAE_CROP_PX = 16, 32
UNET_BATCH = 16
GUIDE_WEIGHT = 0.1
POOL = 16_000  # compositions, encoded once
CHECKPOINT_EVERY_S = 120


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--objects", type=Path, required=True, help="folder of 64 px PNGs")
    parser.add_argument("--work", type=Path, required=True, help="checkpoints and the result")
    parser.add_argument("--vae-steps", type=int, default=3_000)
    parser.add_argument("--unet-steps", type=int, default=8_000)
    parser.add_argument("--guided-steps", type=int, default=1_500, help="with a hint; 0: none")
    parser.add_argument("--decay-steps", type=int, default=1_500, help="last steps, falling rate")
    parser.add_argument("--device", default=default_device())
    arguments = parser.parse_args()
    arguments.work.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    pipeline = build_pipeline()
    pairs = Compositions(read_objects(arguments.objects, held_out=False))
    train_vae(pipeline, pairs, arguments)
    train_unet(pipeline, pairs, arguments)
    pipeline.to("cpu", torch.float16).save_pretrained(arguments.work / "model")
    print(f"Wrote {arguments.work / 'model'}")


class Checkpoint:
    """Parameters, optimiser, average and step of one phase, on disk every two minutes."""

    def __init__(
        self, path: Path, parameters: list[torch.nn.Parameter], rate: float, steps: int, decay: int
    ) -> None:
        self._path, self._parameters, self._steps, self._decay = path, parameters, steps, decay
        self._rate = rate
        self._optimizer = torch.optim.AdamW(
            parameters, rate, betas=(0.9, 0.99), weight_decay=0.01, fused=True
        )
        self.average = [p.detach().clone() for p in parameters]
        self.step, self._saved_s, self._seconds = 0, time.time(), 0.0
        if path.exists():
            state: dict[str, Any] = torch.load(path, weights_only=True)
            self.step, self._seconds = state["step"], state["seconds"]
            self._optimizer.load_state_dict(state["optimizer"])
            for group, stored in ((parameters, "parameters"), (self.average, "average")):
                for parameter, value in zip(group, state[stored], strict=True):
                    parameter.data.copy_(value)

    def is_done(self) -> bool:
        return self.step >= self._steps

    def update(self, loss: torch.Tensor, keep: float) -> None:
        left = (self._steps - self.step) / max(1, self._decay)
        factor = min(1.0, (self.step + 1) / 100, max(0.02, left))
        for group in self._optimizer.param_groups:
            group["lr"] = self._rate * factor
        self._optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self._parameters, 1.0)
        self._optimizer.step()
        with torch.no_grad():
            keep = min(keep, 1 - 10 / (self.step + 20))
            torch._foreach_lerp_(self.average, [p.detach() for p in self._parameters], 1 - keep)
        self.step += 1
        if time.time() - self._saved_s > CHECKPOINT_EVERY_S or self.is_done():
            self._save()
        if self.step % 100 == 0:
            elapsed_s = self._seconds + time.time() - self._saved_s
            record = {"step": self.step, "loss": round(loss.item(), 5), "s": round(elapsed_s)}
            print(self._path.stem, json.dumps(record), file=sys.stderr, flush=True)

    def _save(self) -> None:
        self._seconds, self._saved_s = self._seconds + time.time() - self._saved_s, time.time()
        state = {
            "step": self.step,
            "seconds": self._seconds,
            "optimizer": self._optimizer.state_dict(),
            "parameters": [p.detach() for p in self._parameters],
            "average": self.average,
        }
        unfinished = self._path.with_suffix(".new")
        torch.save(state, unfinished)
        unfinished.replace(self._path)

    def use_average(self) -> None:
        for parameter, value in zip(self._parameters, self.average, strict=True):
            parameter.data.copy_(value)


def train_vae(
    pipeline: ReferenceInpaintPipeline, pairs: Compositions, arguments: argparse.Namespace
) -> None:
    vae = pipeline.vae.to(arguments.device, memory_format=torch.channels_last)
    checkpoint = Checkpoint(
        arguments.work / "vae.pt",
        list(vae.parameters()),
        2e-3,
        arguments.vae_steps,
        arguments.vae_steps // 2,
    )
    while not checkpoint.is_done():
        step = checkpoint.step
        generator = torch.Generator().manual_seed(step)
        batch = pairs.batch(step * 12, step * 12 + 12)
        pictures = torch.cat([batch.composite, batch.reference[:4]])
        y, x = (4 * torch.randint(0, 9, (2,), generator=generator)).tolist()
        pictures = pictures[:, :, y : y + VAE_CROP_PX, x : x + VAE_CROP_PX].to(arguments.device)
        latent = vae.encode(pictures.contiguous(memory_format=torch.channels_last)).latent_dist
        decoded = vae.decode(latent.sample()).sample
        # The gradient term keeps edges crisp, which L1 alone blurs.
        loss = functional.l1_loss(decoded, pictures) + 1e-5 * latent.kl().mean() / 256
        for axis in (-1, -2):
            loss = loss + 0.5 * functional.l1_loss(decoded.diff(dim=axis), pictures.diff(dim=axis))
        checkpoint.update(loss, keep=0.995)
    checkpoint.use_average()
    vae.requires_grad_(False)
    with torch.no_grad():
        sample = pairs.batch(0, 500).composite.to(arguments.device)
        deviation = vae.encode(sample).latent_dist.mean.std().item()
    vae.register_to_config(scaling_factor=1 / deviation)


def encode_pool(
    pipeline: ReferenceInpaintPipeline, pairs: Compositions, arguments: argparse.Namespace
) -> tuple[torch.Tensor, ...]:
    """Return latents, masked latents, mask areas and references of the training compositions."""
    path = arguments.work / "pool.pt"
    if path.exists():
        stored: list[torch.Tensor] = torch.load(path, weights_only=True)
        return tuple(stored)
    columns: tuple[list[torch.Tensor], ...] = ([], [], [], [])
    scale = pipeline.vae.config.scaling_factor
    with torch.no_grad():
        for start in range(0, POOL, 200):
            batch = pairs.batch(start, start + 200)
            composite, mask = batch.composite.to(arguments.device), batch.mask.to(arguments.device)
            masked, area = pipeline._encode_condition(composite, mask)
            columns[0].append((pipeline.vae.encode(composite).latent_dist.mean * scale).cpu())
            columns[1].append(masked.cpu())
            columns[2].append(area.cpu())
            columns[3].append(((batch.reference + 1) * 127.5).round().byte())
    pool = tuple(torch.cat(column) for column in columns)
    torch.save(list(pool), path)
    return pool


def train_unet(
    pipeline: ReferenceInpaintPipeline, pairs: Compositions, arguments: argparse.Namespace
) -> None:
    device = arguments.device
    unet = pipeline.unet.to(device, memory_format=torch.channels_last)
    encoder = pipeline.reference_encoder.to(device)
    checkpoint = Checkpoint(
        arguments.work / "unet.pt",
        [*unet.parameters(), *encoder.parameters()],
        1.2e-3,
        arguments.unet_steps,
        arguments.decay_steps,
    )
    if checkpoint.is_done():
        return checkpoint.use_average()
    latents, masked, areas, references = encode_pool(pipeline, pairs, arguments)
    boxes = torch.tensor([pairs.box(index) for index in range(len(latents))])
    noiser, guide = DDPMScheduler(**PREDICTION), Guide(unet)
    while not checkpoint.is_done():
        generator = torch.Generator().manual_seed(1_000_000 + checkpoint.step)
        rows = torch.randint(0, len(latents), (UNET_BATCH,), generator=generator)
        noise = torch.randn(UNET_BATCH, *latents.shape[1:], generator=generator).to(device)
        clock = torch.rand(UNET_BATCH, generator=generator) ** 0.6
        timesteps = (1000 * clock).long().clamp(max=999).to(device)
        dropped = (torch.rand(UNET_BATCH, 1, 1, generator=generator) < 0.1).to(device)
        latent, area = latents[rows].to(device), areas[rows].to(device)
        reference = references[rows].to(device).float() / 127.5 - 1
        tokens = torch.where(dropped, encoder.unconditional, encoder(reference))
        noisy = noiser.add_noise(latent, noise, timesteps)
        model_input = torch.cat([noisy, masked[rows].to(device), area], dim=1)
        model_input = model_input.contiguous(memory_format=torch.channels_last)
        predicted = unet(model_input, timesteps, tokens).sample
        error = (predicted - noiser.get_velocity(latent, noise, timesteps)) ** 2
        weight = 0.1 + 3 * area
        loss = (error * weight).mean() / weight.mean()
        if checkpoint.step < arguments.guided_steps:
            loss = loss + GUIDE_WEIGHT * guide.loss(boxes[rows].to(device), dropped[:, 0, 0])
        checkpoint.update(loss, keep=0.997)
    return checkpoint.use_average()


if __name__ == "__main__":
    main()
