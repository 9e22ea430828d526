"""The files that a user submits to a cluster do there what they say, as far as one machine shows it."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml  # type: ignore[import-untyped]
from distributed import LocalCluster

from i2am.analysis import analyze_run, open_maps
from i2am.cli import build_parser
from tests.support.synthetic_run import SyntheticLayer, write_run

ROOT = Path(__file__).parents[1]
FILES = ROOT / "examples" / "clusters"
LAYERS = [SyntheticLayer("one", (4, 4), (2, 2)), SyntheticLayer("two", (2, 2), (2, 2))]

pytestmark = [
    pytest.mark.skipif(not FILES.is_dir(), reason="needs the source tree"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),  # Of processes that Dask ends.
]

# Slurm's launcher on one machine: the command as often as there are tasks, ended when it is.
SRUN = """#!/bin/bash
while [[ $1 == --* ]]; do shift; done
children=()
trap 'kill "${children[@]}"; wait; exit 143' TERM
for ((i = 0; i < SLURM_NTASKS; i++)); do "$@" & children+=($!); done
wait
"""


@pytest.fixture
def run_path(tmp_path: Path) -> Path:
    return write_run(tmp_path / "run.zarr", ["a", "b"], LAYERS, steps=2, size_px=(16, 16))


@pytest.fixture
def cluster() -> Iterator[Any]:
    with LocalCluster(  # Threads, which are there at once.
        n_workers=1, threads_per_worker=1, processes=False, dashboard_address=":0"
    ) as found:
        yield found


def slurm() -> Any:
    spec = importlib.util.spec_from_file_location("slurm_example", FILES / "slurm.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def check_maps(maps: Path, run: Path) -> None:
    wanted = open_maps(analyze_run(run, run.with_name("wanted.zarr"), progress=False))
    found = open_maps(maps)
    assert list(found) == list(wanted)
    for name in wanted:
        for array in ("r2g/volume", "g2r/ulam"):
            np.testing.assert_allclose(found[name][array], wanted[name][array], rtol=1e-6)


def test_the_python_file_analyses_a_run_on_the_cluster_it_has(
    run_path: Path, tmp_path: Path, cluster: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    slurm().analyse(cluster, str(run_path), tmp_path / "maps.zarr")
    told = capsys.readouterr().out
    assert f"Scheduler: {cluster.scheduler_address}\n" in told
    check_maps(tmp_path / "maps.zarr", run_path)


def test_the_python_file_asks_slurm_for_pinned_workers(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("dask_jobqueue")
    call = "run.zarr maps.zarr --queue cpu --account mine --cores 8 --memory 16GiB --hours 2"
    slurm().main([*call.split(), "--show-job"])
    script = capsys.readouterr().out
    for line in (
        "#SBATCH -p cpu",
        "#SBATCH -A mine",
        "#SBATCH --cpus-per-task=8",
        "#SBATCH --mem=16G",
        "#SBATCH -t 2:00:00",
        "export OMP_NUM_THREADS=1",
        "export OPENBLAS_NUM_THREADS=1",
    ):
        assert f"{line}\n" in script
    (command,) = [line for line in script.splitlines() if "dask_worker" in line]
    for option in ("--nthreads 1", "--nworkers 8", "--memory-limit 2.00GiB", "--lifetime 115m"):
        assert f" {option}" in command


@pytest.mark.slow
def test_the_batch_script_starts_all_it_needs_and_leaves_nothing(
    run_path: Path, tmp_path: Path
) -> None:
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "srun").write_text(SRUN)
    (tmp_path / "bin" / "srun").chmod(0o755)
    path = os.pathsep.join([str(tmp_path / "bin"), str(Path(sys.executable).parent)])
    environment = {
        **os.environ,
        "PATH": f"{path}{os.pathsep}{os.environ['PATH']}",
        "SLURM_JOB_ID": "17",
        "SLURM_NTASKS": "2",
        "SLURM_MEM_PER_CPU": "1000",
        "TMPDIR": str(tmp_path),
    }
    call = ["bash", str(FILES / "analyze.sbatch"), str(run_path), "new/maps.zarr"]
    options = ["--layers", "one"]
    with subprocess.Popen(
        [*call, *options],
        cwd=tmp_path,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    ) as script:
        try:
            # Ends when the last process that holds the pipe does: none is left behind.
            told, _ = script.communicate(timeout=180)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(script.pid, signal.SIGKILL)
    assert script.returncode == 0, told
    assert told.count("Registered to:") == 2
    assert told.count("900.00 MiB") == 2
    assert "Maps: new/maps.zarr" in told
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["maps.zarr"]
    found: Any = open_maps(tmp_path / "new" / "maps.zarr")["b"]
    assert found["r2g/layer"].values.tolist() == ["one"]


def test_the_resources_for_kubernetes_fit_together() -> None:
    text = (FILES / "kubernetes.yaml").read_text(encoding="utf-8")
    cluster, job = yaml.safe_load_all(text)
    assert (cluster["apiVersion"], cluster["kind"]) == ("kubernetes.dask.org/v1", "DaskCluster")
    assert (job["apiVersion"], job["kind"]) == ("batch/v1", "Job")
    worker, scheduler = cluster["spec"]["worker"], cluster["spec"]["scheduler"]
    pods = [worker["spec"], scheduler["spec"], job["spec"]["template"]["spec"]]
    containers = [container for pod in pods for container in pod["containers"]]
    assert len({container["image"] for container in containers}) == 1
    assert len({repr(container["volumeMounts"]) for container in containers}) == 1
    assert len({repr(pod["volumes"]) for pod in pods}) == 1
    for container in (containers[0], containers[2]):
        assert {"name": "OMP_NUM_THREADS", "value": "1"} in container["env"]
    # The operator's own names: it labels the pods, and sets the worker's.
    service, name = scheduler["service"], cluster["metadata"]["name"]
    assert service["selector"] == {
        "dask.org/cluster-name": name,
        "dask.org/component": "scheduler",
    }
    ports = {port["name"]: port["containerPort"] for port in containers[1]["ports"]}
    assert {port["targetPort"]: port["port"] for port in service["ports"]} == ports
    assert "$(DASK_WORKER_NAME)" in worker["spec"]["containers"][0]["args"]
    address = f"tcp://{name}-scheduler:{ports['tcp-comm']}"
    command, *arguments = containers[2]["args"]
    assert command == "i2am"
    arguments[1] = str(FILES)  # The parser asks for a store that exists.
    assert build_parser().parse_args(arguments).scheduler == address
