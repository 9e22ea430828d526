"""Which share of a manifest a process takes: its own word, torchrun's or Slurm's."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from i2am.capture.batch.manifest_shard import ManifestShard, find_shard
from i2am.schemas import SchemaError

SRUN = {"SLURM_PROCID": "5", "SLURM_NTASKS": "8", "SLURM_LOCALID": "1"}
ARRAY = {
    "SLURM_ARRAY_TASK_ID": "9",
    "SLURM_ARRAY_TASK_MIN": "1",
    "SLURM_ARRAY_TASK_STEP": "4",
    "SLURM_ARRAY_TASK_COUNT": "3",
}
TORCHRUN = {"RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "2"}


@pytest.mark.parametrize(
    ("environment", "wanted", "expected"),
    [
        pytest.param({}, None, ManifestShard(0, 1, 0), id="alone"),
        pytest.param(TORCHRUN, None, ManifestShard(3, 4, 2), id="torchrun"),
        pytest.param(SRUN, None, ManifestShard(5, 8, 1), id="srun"),
        pytest.param(
            TORCHRUN | SRUN | ARRAY, None, ManifestShard(3, 4, 2), id="torchrun under Slurm"
        ),
        pytest.param(ARRAY, None, ManifestShard(2, 3, 0), id="job array"),
        pytest.param(
            ARRAY | SRUN, None, ManifestShard(2 * 8 + 5, 3 * 8, 1), id="srun in a job array"
        ),
        pytest.param(
            {"SLURM_NTASKS": "1", "SLURM_PROCID": "0"}, None, ManifestShard(0, 1, 0), id="1 task"
        ),
        pytest.param({"RANK": "1"}, None, ManifestShard(0, 1, 0), id="a rank of nothing"),
        pytest.param(
            TORCHRUN, (0, 2), ManifestShard(0, 2, 2), id="the caller's, on the rank's GPU"
        ),
        pytest.param(
            {"SLURM_NTASKS": "many"}, (1, 2), ManifestShard(1, 2, 0), id="the caller's alone"
        ),
    ],
)
def test_a_shard_is_the_callers_or_the_environments(
    environment: dict[str, str], wanted: tuple[int, int] | None, expected: ManifestShard
) -> None:
    assert find_shard(environment, wanted) == expected


@pytest.mark.parametrize(
    ("environment", "wanted", "message"),
    [
        ({"RANK": "4", "WORLD_SIZE": "4"}, None, "from 0 to N - 1, got 4/4"),
        ({"SLURM_NTASKS": "many"}, None, "got 'many', at environment variable SLURM_NTASKS"),
        ({"SLURM_NTASKS": "-2"}, None, "got '-2', at environment variable SLURM_NTASKS"),
        ({"SLURM_ARRAY_TASK_ID": "9", "SLURM_ARRAY_TASK_COUNT": "2"}, None, "got 9/2"),
        ({}, (2, 2), "got 2/2"),
        ({}, (-1, 2), "got -1/2"),
    ],
)
def test_what_is_no_shard_is_refused(
    environment: dict[str, str], wanted: tuple[int, int] | None, message: str
) -> None:
    with pytest.raises(SchemaError) as caught:
        find_shard(environment, wanted)
    assert message in str(caught.value)


@given(st.integers(0, 40), st.integers(1, 9))
def test_shards_hold_every_row_once_and_differ_by_one_at_most(rows: int, count: int) -> None:
    shares = [ManifestShard(index, count).select(range(rows)) for index in range(count)]
    assert sorted(row for share in shares for row in share) == list(range(rows))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1
