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
def test_capture_overhead_tells_every_variant_of_both_models(tmp_path: Path) -> None:
    out, figures = tmp_path / "out", tmp_path / "figures.json"
    printed = run("capture_overhead.py", "--quick", "--dir", out, "--json", figures).splitlines()
    variants = list(VARIANTS)
    if importlib.util.find_spec("attention_map_diffusers"):
        variants.append("attention-map-diffusers")
    for name in variants:
        assert sum(line.startswith(f"| {name}  ") for line in printed) == 2
    assert list(out.iterdir()) == []  # It takes away what it wrote.

    found = json.loads(figures.read_text())
    assert found["machine"]["accelerator"] == "none"
    assert found["quick"]
    for section in found["sections"].values():
        assert "2 steps" in section["title"]
        cells = {(one["row"], one["column"]): one for one in section["figures"]}
        for name in variants:
            assert len(cells[name, "time"]["values"]) == 1
            assert cells[name, "time"]["median"] > 0
        # More than a Python process with torch takes, less than what the machine has to have.
        assert 1e2 < cells["generation alone", "peak memory"]["median"] < 1e4
        for name in (name for name in VARIANTS if name.startswith("capture()")):
            layers, sample = (
                cells[name, f"{what} on disk"]["median"] for what in ("layers", "sample")
            )
            assert 0 < layers < sample
            assert cells[name, "files"]["median"] > 16
            assert cells[name, "over generation alone"]["bar"] == {"sense": "≤", "limit": 1.1}

    def formula(kind: str, name: str) -> float:
        (one,) = (
            one for one in found["sections"][kind]["figures"] if one["row"] == f"formula: {name}"
        )
        return float(one["median"])

    # By hand: 2 bytes × heads × steps × the sum over the layers of P·R, or of (P + R)·d.
    logits = 2 * 4 * 2 * (3 * 256 + 4 * 64) * 257 / 1e6
    factors = 2 * 4 * 2 * (3 * (256 + 257) * 16 + 4 * (64 + 257) * 32) / 1e6
    smaller = "the smaller one of each layer"
    assert formula("tiny", "logits") == pytest.approx(logits, rel=1e-5)
    assert formula("tiny", "factors") == pytest.approx(factors, rel=1e-5)
    assert formula("tiny", smaller) == formula("tiny", "factors")
    logits = 2 * 8 * 2 * (5 * 256 + 5 * 64 + 5 * 16 + 4) * 257 / 1e6
    assert formula("sd15", "logits") == pytest.approx(logits, rel=1e-5)
    # At 2 × 2 patches, 4·257 < (4 + 257)·16; at 4 × 4, 16·257 < (16 + 257)·16 as well.
    factors = 5 * (256 + 257) * 4 + 5 * (64 + 257) * 8
    chosen = 2 * 8 * 2 * (factors + (5 * 16 + 4) * 257) / 1e6
    assert formula("sd15", smaller) == pytest.approx(chosen, rel=1e-5)


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


def test_make_bench_runs_every_benchmark(import_benchmark: Callable[[str], Any]) -> None:
    target = (BENCHMARKS.parent / "Makefile").read_text("utf-8").partition("\nbench:")[2]
    assert "benchmarks/run_all.py $(QUICK)" in target
    scripts = {path.stem for path in BENCHMARKS.glob("*.py")}
    assert {*import_benchmark("run_all").NAMES, "run_all"} == scripts


def test_all_run_into_one_file_and_one_that_fails_takes_no_other_along(
    tmp_path: Path,
    import_benchmark: Callable[[str], Any],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run_all, pages = map(import_benchmark, ("run_all", "support.pages"))
    # A benchmark that crashes, and a cheap one, in a folder of scripts of its own.
    (tmp_path / "breaks.py").write_text("raise SystemExit(3)")
    (tmp_path / "works.py").write_text(
        f"import sys\nsys.path.insert(0, {str(BENCHMARKS)!r})\n"
        "from support.figures import Figures, at_most, benchmark_parser\n"
        "figures = Figures('works', benchmark_parser('').parse_args())\n"
        "with figures.section('one', 'A title') as section:\n"
        "    section.add('row', 'column', [3.0, 1.0, 2.0], 's', bar=at_most(2))\n"
    )
    monkeypatch.setattr(run_all, "HERE", tmp_path)
    monkeypatch.setattr(run_all, "NAMES", ["breaks", "works"])
    kept = tmp_path / "kept.json"
    earlier = {"breaks": {"quick": False, "date": "2026-01-01", "commit": "0", "sections": {}}}
    pages.write_kept({"schema": 1, "benchmarks": earlier}, kept)
    assert run_all.main(["--json", str(kept)]) == 1
    assert capsys.readouterr().err.strip() == "breaks failed, with exit status 3"
    found = json.loads(kept.read_text())["benchmarks"]
    assert found["breaks"] == earlier["breaks"]  # With the day on which it was measured.
    assert found["works"]["versions"]["numpy"] == np.__version__
    assert {"cpu", "cores", "memory_gb", "os", "accelerator"} <= set(found["works"]["machine"])
    assert found["works"]["commit"]
    (figure,) = found["works"]["sections"]["one"]["figures"]
    assert figure["values"] == [3, 1, 2]
    assert (figure["median"], figure["is_met"]) == (2, True)
    assert run_all.main(["--json", str(kept), "--only", "works"]) == 0
    assert json.loads(kept.read_text())["benchmarks"]["breaks"] == earlier["breaks"]


def test_a_benchmark_runs_from_the_command_that_runs_all(tmp_path: Path) -> None:
    figures, place = tmp_path / "figures.json", tmp_path / "place"
    place.mkdir()
    chosen = ("--only", "store_read", "--dir", place, "--json", figures)
    printed = run("run_all.py", "--quick", *chosen)
    assert "# store_read" in printed
    assert list(place.iterdir()) == []
    (record,) = json.loads(figures.read_text())["benchmarks"].values()
    assert record["quick"]
    for name in ("full-pass", "one-step", "one-patch"):
        told = record["sections"][name]["figures"]
        assert len({one["row"] for one in told}) == 5
        assert all(one["median"] > 0 for one in told)


def test_figures_of_quick_runs_are_never_kept(
    tmp_path: Path,
    import_benchmark: Callable[[str], Any],
    capsys: pytest.CaptureFixture[str],
) -> None:
    run_all, pages = map(import_benchmark, ("run_all", "support.pages"))
    with pytest.raises(SystemExit, match="2"):
        run_all.main(["--quick", "--json", str(pages.KEPT)])
    quick = tmp_path / "quick.json"
    kept = json.loads(pages.KEPT.read_text())
    for record in kept["benchmarks"].values():
        record["quick"] = True
    pages.write_kept(kept, quick)
    before = [page.read_bytes() for page in pages.PAGES]
    assert run_all.main(["--render-only", str(quick)]) == 1
    assert len(capsys.readouterr().err.splitlines()[-2:]) == 2
    assert [page.read_bytes() for page in pages.PAGES] == before


def test_pages_show_the_figures_that_are_kept(import_benchmark: Callable[[str], Any]) -> None:
    pages = import_benchmark("support.pages")
    kept = pages.read_kept(pages.KEPT)
    pages.check_kept(kept, pages.KEPT)
    assert kept["benchmarks"]
    for page in pages.PAGES:
        assert pages.render(page.read_text("utf-8"), kept, page) == page.read_text("utf-8")
    summary = (BENCHMARKS.parent / "docs" / "reference" / "benchmarks.md").read_text("utf-8")
    for benchmark, record in kept["benchmarks"].items():
        assert benchmark in summary
        assert record["commit"] in summary


def test_a_page_keeps_its_prose_and_a_comment_needs_figures(
    import_benchmark: Callable[[str], Any],
) -> None:
    figures, pages = map(import_benchmark, ("support.figures", "support.pages"))
    section = figures.Section("Two ways, rounds: 3")
    section.add("ours", "time", [2.0, 1.0, 4.0], "ms", limit=0.5)
    section.add("theirs", "time", [3.0, 3.0, 3.0], "ms", spread="95 %")
    section.add("ours", "ratio", [0.5, 0.9, 1.3], bar=figures.below(0.9), note="noisy")
    section.add("ours", "files", 1200)
    section.add("theirs", "", 0, bar=figures.at_most(0))
    section.add("fitted", "time", 1.5, "ms", error=0.25)
    record = {
        "date": "2026-11-29", "commit": "abc", "is_dirty": True,
        "sections": {
            "two": {"title": section.title, "figures": [one.to_json() for one in section.figures]}
        },
    }  # fmt: skip
    kept = {"schema": 1, "benchmarks": {"a": record}}
    page = "Before.\n\n<!-- figures: a/two -->\nold\n<!-- end -->\n\nAfter.\n"
    rendered = pages.render(page, kept, Path("page.md"))
    assert rendered.splitlines() == [
        "Before.",
        "",
        "<!-- figures: a/two -->",
        "Two ways, rounds: 3. Measured 2026-11-29, commit abc with changes.",
        "",
        "|  | time, ms | ratio | files |  |",
        "|---|---|---|---|---|",
        "| ours | 2.00 (1.00–4.00), limit 0.50 | 0.90 (0.50–1.30), bar < 0.9: missed, noisy | 1,200 |  |",
        "| theirs | 3.00 (3.00) |  |  | 0, bar ≤ 0: met |",
        "| fitted | 1.50 ± 0.25 |  |  |  |",
        "<!-- end -->",
        "",
        "After.",
    ]
    assert pages.render(rendered, kept, Path("page.md")) == rendered
    for marker in ("a/three", "b/two", "a", "machine"):
        wrong = page.replace("a/two", marker)
        with pytest.raises(pages.FigureError, match=r"^Expected figures of .*page\.md\.\n.*--only"):
            pages.render(wrong, kept, Path("page.md"))
    for wrong in (page.replace("<!-- end -->", ""), page.replace(" -->\nold", " -->old")):
        with pytest.raises(pages.FigureError, match=r"^Expected .*page\.md\.\nWrite"):
            pages.render(wrong, kept, Path("page.md"))
    with pytest.raises(pages.FigureError, match=r"^Expected figures .*\n.*make bench"):
        pages.render(page.replace("a/two", "summary"), {"benchmarks": {}}, Path("page.md"))


def test_an_exponent_is_that_of_the_points_with_its_standard_error(
    import_benchmark: Callable[[str], Any],
) -> None:
    fit = import_benchmark("support.power_law").fit_power_law
    exact = fit([1, 2, 4, 8, 16], [3 * size**0.75 for size in (1, 2, 4, 8, 16)])
    assert (exact.factor, exact.exponent) == pytest.approx((3, 0.75))
    assert exact.error == pytest.approx(0, abs=1e-12)
    assert exact.at(32) == pytest.approx(3 * 32**0.75)
    sizes, values = [1, 2, 4, 8, 16], [1.0, 2.3, 3.7, 8.4, 15.0]
    line = fit(sizes, values)
    (slope, _), covariance = np.polyfit(np.log(sizes), np.log(values), 1, cov=True)
    assert line.exponent == pytest.approx(slope)
    assert line.error == pytest.approx(covariance[0, 0] ** 0.5)
    assert str(line) == f"{slope:.2f} ± {covariance[0, 0] ** 0.5:.2f}"


def test_sizes_lie_on_whole_grids(import_benchmark: Callable[[str], Any]) -> None:
    scaling = import_benchmark("scaling")
    for base in (scaling.Size(), scaling.SMALL):
        for axis in scaling.AXES:
            sizes = scaling.sizes_of(axis, base)
            assert len(sizes) == 5
            assert max(sizes) >= 4 * min(sizes)
            for size in sizes.values():
                for count in (size.patches, size.tokens):
                    rows, columns = scaling.grid_of(count)
                    assert rows * columns == count


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
    ratios = import_benchmark("support.turns")
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
    door, section = start_up.Door, import_benchmark("support.figures").Section("Doors")
    opened = {"zarr": door(()), "a": door((), "zarr", most=3), "b": door((), "zarr", most_cpu_s=1)}
    found = {
        "zarr": [(1.0, 0.5), (2.0, 0.5), (4.0, 0.5)],
        "a": [(3.0, 1.0), (2.0, 1.0), (12.0, 1.0)],  # 3, 1, 3; of the medians it would be 1.5.
        "b": [(1.0, 2.0), (1.0, 1.5), (1.0, 0.5)],
    }
    start_up.tell(opened, found, section)
    cells = {(one.row, one.column): one.describe() for one in section.figures}
    assert cells["a", "ratio"] == "3.00 (1.00–3.00) × zarr, bar ≤ 3: met"
    assert cells["b", "of the processor"] == "1.50 (0.50–2.00) s, bar ≤ 1: missed"
    assert cells["b", "ratio"] == "0.50 (0.25–1.00) × zarr"
    assert ("zarr", "ratio") not in cells


def test_a_bar_is_judged_by_the_median_of_the_rounds_ratios(
    tmp_path: Path, import_benchmark: Callable[[str], Any]
) -> None:
    overhead = import_benchmark("capture_overhead")
    section = import_benchmark("support.figures").Section("A model")
    seconds = {
        "generation alone": [1.0, 2.0, 4.0],
        "capture(), auto": [1.0, 2.1, 9.0],  # 1, 1.05, 2.25: of the sums it would be 1.73.
        "capture(), maps": [1.0, 2.4, 4.8],
        "block hook": [1.0, 2.0, 5.0],
    }
    peaks = dict(zip(seconds, (100 * 2**20, 164 * 2**20, 165 * 2**20, 0), strict=True))
    setting = overhead.Setting("tiny", "cpu", False, 1, 3, 64 * 2**20, tmp_path, tuple(seconds))
    overhead.tell(section, setting, overhead.Measured(seconds, peaks, {}))
    told = {(one.row, one.column): one.describe() for one in section.figures if one.bar}
    assert told == {
        ("capture(), auto", "over generation alone"): "1.05 (1.00–2.25), bar ≤ 1.1: met",
        ("capture(), auto", "over block hook"): "1.05 (1.00–1.80), bar < 1: missed",
        ("capture(), auto", "more memory"): "64.0 MiB, bar ≤ 64: met",
        ("capture(), maps", "over generation alone"): "1.20 (1.00–1.20), bar ≤ 1.1: missed",
        ("capture(), maps", "over block hook"): "1.00 (0.96–1.20), bar < 1: missed",
        ("capture(), maps", "more memory"): "65.0 MiB, bar ≤ 64: missed",
    }
