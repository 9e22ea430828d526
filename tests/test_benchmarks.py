"""The benchmarks run, and measure what they say: figures are for quiet machines, not for tests."""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

from i2am.capture import capture

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
QUICK = sorted(
    path.name for path in BENCHMARKS.glob("*.py") if '"--quick"' in path.read_text("utf-8")
)
VARIANTS = (
    "generation alone",
    "capture(), auto",
    "capture(), auto, no fsync",
    "capture(), maps",
    "block hook",
)
Array = np.ndarray[Any, np.dtype[np.float64]]


@pytest.fixture
def import_benchmark(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Any]:
    monkeypatch.syspath_prepend(BENCHMARKS)  # As for a script that lies there.
    return importlib.import_module


def run(script: str, *arguments: str | Path) -> str:
    call = [sys.executable, str(BENCHMARKS / script), *map(str, arguments)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    answer = subprocess.run(call, env=environment, capture_output=True, text=True, check=False)
    assert answer.returncode == 0, answer.stderr
    return answer.stdout


@pytest.mark.slow
def test_capture_overhead_prints_a_row_for_every_variant_of_both_models(tmp_path: Path) -> None:
    out, figures = tmp_path / "out", tmp_path / "figures.json"
    printed = run("capture_overhead.py", "--quick", "--out", out, "--json", figures).splitlines()
    variants = list(VARIANTS)
    if importlib.util.find_spec("attention_map_diffusers"):
        variants.append("attention-map-diffusers")
    for name in variants:
        assert sum(line.startswith(f"{name}  ") for line in printed) == 2
    assert sum(line.startswith("bar ≤ 1.10 × generation alone: capture()") for line in printed) == 6
    assert list(out.iterdir()) == []  # It takes away what it wrote.

    found = json.loads(figures.read_text())
    assert found["machine"]["device"] == "cpu"
    for model in found["models"]:
        assert set(model["seconds"]) == set(model["peak_bytes"]) == set(variants)
        assert all(len(each) == 1 and each[0] > 0 for each in model["seconds"].values())
        # More than a Python process with torch takes, less than what the machine has to have.
        assert all(10e7 < peak < 10e9 for peak in model["peak_bytes"].values())
        assert model["steps"] == 2
        for stored in model["stored"].values():
            assert 0 < stored["layer_bytes"] < stored["bytes"]
            assert stored["files"] > 16
    tiny, narrow = (model["stored"]["capture(), auto"] for model in found["models"])
    # By hand: 2 bytes × heads × steps × the sum over the layers of P·R, or of (P + R)·d.
    assert tiny["logits_bytes"] == 2 * 4 * 2 * (3 * 256 + 4 * 64) * 257
    assert tiny["factors_bytes"] == 2 * 4 * 2 * (3 * (256 + 257) * 16 + 4 * (64 + 257) * 32)
    assert tiny["smaller_bytes"] == tiny["factors_bytes"]
    assert narrow["logits_bytes"] == 2 * 8 * 2 * (5 * 256 + 5 * 64 + 5 * 16 + 4) * 257
    # At 2 × 2 patches, 4·257 < (4 + 257)·16; at 4 × 4, 16·257 < (16 + 257)·16 as well.
    factors = 5 * (256 + 257) * 4 + 5 * (64 + 257) * 8
    assert narrow["smaller_bytes"] == 2 * 8 * 2 * (factors + (5 * 16 + 4) * 257)


def test_rates_are_those_of_the_bytes_that_are_copied_and_written(
    tmp_path: Path, import_benchmark: Callable[[str], Any]
) -> None:
    rates, budgets = map(import_benchmark, ("support.transfer_rates", "support.time_budget"))
    budget = budgets.TimeBudget(100)
    found = rates.measure_rates("cpu", tmp_path, steps=2, max_side=32, max_rounds=1, budget=budget)
    # By hand: 2 bytes, 8 heads, 2 steps; queries of 32 × 32 patches, logits of 16 × 16 and 8 × 8.
    written = 2 * 8 * 2 * (5 * 1024 * 80 + (5 * 256 + 64) * 257)
    assert found.written_bytes == written
    assert found.copied_bytes == written + 2 * 8 * 2 * 5 * 257 * 80
    assert all(each[0] > 0 for each in found.seconds.values())


def test_what_fails_or_is_wrong_on_a_gpu_fails_the_command_and_what_is_slow_does_not(
    import_benchmark: Callable[[str], Any],
) -> None:
    find_faults = import_benchmark("on_gpu").find_faults
    good: dict[str, Any] = {
        "tests": "12 passed in 3.00s",
        "equality": [{"family": "flux", "dtype": "float16", "how": "as it is", "is_met": True}],
        "rates": {"seconds": {}},
        "models": [{"model": "sd15", "failed": {}, "seconds": {"capture(), auto": [9.0]}}],
    }
    assert list(find_faults(good)) == []
    wrong = {**good["equality"][0], "is_met": False, "worst": 0.5}
    bad = good | {
        "tests": "1 failed, 11 passed in 3.00s",
        "equality": [wrong],
        "rates": {"error": "no disk"},
        "models": [{"model": "sd15", "failed": {"block hook": "out of memory"}}],
    }
    assert list(find_faults(bad)) == [
        "tests of the path to host memory: 1 failed, 11 passed in 3.00s",
        "flux, float16, as it is: off by 0.5",
        "rates: no disk",
        "sd15, block hook: out of memory",
    ]


def test_the_page_for_a_gpu_names_the_command_and_the_bars(
    import_benchmark: Callable[[str], Any],
) -> None:
    page = " ".join((BENCHMARKS / "results" / "gpu.md").read_text("utf-8").split())
    assert "python benchmarks/on_gpu.py" in page
    for bar in import_benchmark("support.gpu_page").BARS:
        assert bar in page


def test_what_does_not_fit_into_the_time_is_left_out_and_named(
    import_benchmark: Callable[[str], Any],
) -> None:
    whole = import_benchmark("support.time_budget").TimeBudget(100)
    half = whole.part(0.5)
    assert half.has_room(49, "short")
    assert not half.has_room(51, "long")
    assert whole.has_room(51, "long, of all")
    assert whole.left_out == half.left_out == ["long"]
    spent = import_benchmark("support.time_budget").TimeBudget(-1)
    assert not spent.has_room(0, "anything")


def test_make_bench_runs_every_benchmark() -> None:
    target = (BENCHMARKS.parent / "Makefile").read_text("utf-8").partition("\nbench:")[2]
    lines = target.partition("\n\n")[0].splitlines()[1:]
    called = {line.partition("benchmarks/")[2].partition(".py")[0] + ".py" for line in lines}
    assert called == set(QUICK) == {path.name for path in BENCHMARKS.glob("*.py")}
    assert all(line.endswith(" $(QUICK)") for line in lines)


def softmax_over_generated(layer: Any) -> Array:
    """Return (head, generated, reference): the softmax over the patches, summed over steps."""
    arrays = {name: np.asarray(array[...], np.float64) for name, array in layer.arrays()}
    if "logits" in arrays:
        scores = arrays["logits"]
    else:
        key = np.swapaxes(arrays["key"], -1, -2)
        scores = layer.attrs["i2am"]["scale"] * arrays["query"] @ key
    weights = np.exp(scores - scores.max(-2, keepdims=True))
    summed: Array = (weights / weights.sum(-2, keepdims=True)).sum(0)
    return summed


@pytest.mark.parametrize("kind", ["tiny", "sd15", "sdxl", "flux"])
def test_the_block_hook_sums_the_attention_that_capture_keeps(
    tmp_path: Path, import_benchmark: Callable[[str], Any], kind: str
) -> None:
    variants, models = map(import_benchmark, ("support.capture_variants", "support.models"))
    model = models.build_model(kind, "cpu", quick=True)
    with (
        variants.AttentionSums(model.denoiser) as hooks,
        capture(
            model.pipeline, tmp_path, sample="a", dtype="float32", profile=model.profile
        ) as recording,
    ):
        recording.add_images(generated=model.generate(3), reference=model.reference)
    layers: Any = dict(zarr.open_group(tmp_path, mode="r")["a/layers"].groups())  # type: ignore[union-attr]
    assert set(hooks.sums) == set(layers)
    for name, layer in layers.items():
        expected = softmax_over_generated(layer)
        np.testing.assert_allclose(hooks.sums[name], expected, rtol=1e-3, atol=1e-12)
    assert not any(module._forward_hooks for module in model.denoiser.modules())


def test_more_rounds_know_their_median_better(import_benchmark: Callable[[str], Any]) -> None:
    ratios = import_benchmark("support.ratios")
    assert ratios.median_interval(range(5)) is None
    assert ratios.median_interval([9, 1, 2, 3, 4, 5, 6]) == (1, 9)
    # Of 100 coins at least 40 and at most 60 show heads in 96 of 100 cases.
    assert ratios.median_interval(range(100)) == (40, 59)


def test_a_door_is_timed_with_its_process_and_judged_by_medians(
    import_benchmark: Callable[[str], Any],
) -> None:
    start_up = import_benchmark("start_up")
    sleeping, working = (
        start_up.time_process(["-c", f"import time as t\n{code}"])
        for code in ("t.sleep(0.5)", "while t.process_time() < 0.5: pass")
    )
    assert sleeping[0] > 0.5 > sleeping[1]
    assert min(working) > 0.5
    door = start_up.Door
    opened = {"zarr": door(()), "a": door((), "zarr", most=3), "b": door((), "zarr", most_cpu_s=1)}
    found = {
        "zarr": [(1.0, 0.5), (2.0, 0.5), (4.0, 0.5)],
        "a": [(3.0, 1.0), (2.0, 1.0), (12.0, 1.0)],  # 3, 1, 3; of the medians it would be 1.5.
        "b": [(1.0, 2.0), (1.0, 1.5), (1.0, 0.5)],
    }
    assert start_up.format_doors(opened, found)[3:] == [
        "| zarr | 2.00 | 0.50 |  |  |",
        "| a | 3.00 | 1.00 | 3.00 (1.00–3.00) × zarr | ≤ 3 ×: met |",
        "| b | 1.00 | 1.50 | 0.50 (0.25–1.00) × zarr | ≤ 1 s of the processor: missed |",
    ]


def test_a_bar_is_judged_by_the_median_of_the_rounds_ratios(
    import_benchmark: Callable[[str], Any],
) -> None:
    overhead = import_benchmark("capture_overhead")
    seconds = {
        "generation alone": [1.0, 2.0, 4.0],
        "capture(), auto": [1.0, 2.1, 9.0],  # 1, 1.05, 2.25: of the sums it would be 1.73.
        "capture(), maps": [1.0, 2.4, 4.8],
        "block hook": [1.0, 2.0, 5.0],
    }
    peaks = dict(zip(seconds, (100 * 2**20, 164 * 2**20, 165 * 2**20, 0), strict=True))
    result = {
        "model": "model", "dtype": "float32", "steps": 1, "repeats": 3, "bar": 1.1,
        "memory_bytes": 64 * 2**20, "seconds": seconds, "peak_bytes": peaks, "stored": {},
    }  # fmt: skip
    bars = [line for line in overhead.format_result(result) if line.startswith("bar")]
    assert bars == [
        "bar ≤ 1.10 × generation alone: capture(), auto 1.05 (1.00–2.25), met",
        "bar < 1 × block hook: capture(), auto 1.05 (1.00–1.80), missed",
        "bar ≤ 64 MiB more than generation alone: capture(), auto 64, met",
        "bar ≤ 1.10 × generation alone: capture(), maps 1.20 (1.00–1.20), missed",
        "bar < 1 × block hook: capture(), maps 1.00 (0.96–1.20), missed",
        "bar ≤ 64 MiB more than generation alone: capture(), maps 65, missed",
    ]
