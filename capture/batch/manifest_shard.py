"""Which rows of a manifest this process takes, by its caller or by its launcher's environment.

Row i belongs to shard i modulo N, so that N processes on any number of machines share one manifest
and one run without any exchange.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from i2am.schemas import SchemaError

__all__ = ["ManifestShard", "find_shard"]

_Item = TypeVar("_Item")


@dataclass(frozen=True)
class ManifestShard:
    """One of `count` shards of a manifest, and the local rank of the process that takes it.

    Parameters
    ----------
    index : int
        From 0 to count - 1.
    count : int
    local_rank : int
        Number of the process on its machine, which chooses the GPU.

    Raises
    ------
    SchemaError
        If `index` is not one of 0 to count - 1.
    """

    index: int = 0
    count: int = 1
    local_rank: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.index < self.count:
            msg = (
                f"Expected a shard I/N with I from 0 to N - 1, got {self}. Count shards from 0, "
                "or set --shard if the environment says something else."
            )
            raise SchemaError(msg)

    def __str__(self) -> str:
        """Return I/N."""
        return f"{self.index}/{self.count}"

    def select(self, items: Sequence[_Item]) -> Sequence[_Item]:
        """Return this shard's items.

        Examples
        --------
        >>> ManifestShard(1, 3).select("abcdefg")
        'be'
        """
        return items[self.index :: self.count]


def find_shard(
    environment: Mapping[str, str], wanted: tuple[int, int] | None = None
) -> ManifestShard:
    """Return the shard of this process.

    Parameters
    ----------
    environment : mapping
        As `os.environ`; read are the variables of torchrun (``RANK``, ``WORLD_SIZE``, ``LOCAL_RANK``), and of Slurm
        (``SLURM_PROCID``, ``SLURM_NTASKS``, ``SLURM_LOCALID``, and for a job array
        ``SLURM_ARRAY_TASK_ID`` with ``…_MIN``, ``…_STEP`` and ``…_COUNT``).
    wanted : (int, int), optional
        (I, N) with I from 0; the environment is then not read.

    Raises
    ------
    SchemaError
        If the result is no shard, or a variable is no number.

    Examples
    --------
    >>> find_shard({"RANK": "3", "WORLD_SIZE": "8", "LOCAL_RANK": "1"})
    ManifestShard(index=3, count=8, local_rank=1)
    """

    def read(name: str, default: int) -> int:
        text = environment.get(name) or str(default)
        if not text.isdecimal():
            msg = f"Expected a whole number, got {text!r}, at environment variable {name}. "
            raise SchemaError(msg + "Unset it, or set --shard.")
        return int(text)

    local_rank = read("LOCAL_RANK" if "LOCAL_RANK" in environment else "SLURM_LOCALID", 0)
    if wanted is not None:
        return ManifestShard(*wanted, local_rank)
    if "RANK" in environment and "WORLD_SIZE" in environment:
        return ManifestShard(read("RANK", 0), read("WORLD_SIZE", 1), local_rank)
    index, count = read("SLURM_PROCID", 0), read("SLURM_NTASKS", 1)
    if "SLURM_ARRAY_TASK_ID" in environment:
        first, step = read("SLURM_ARRAY_TASK_MIN", 0), read("SLURM_ARRAY_TASK_STEP", 1)
        task = (read("SLURM_ARRAY_TASK_ID", 0) - first) // max(step, 1)
        index, count = task * count + index, count * read("SLURM_ARRAY_TASK_COUNT", 1)
    return ManifestShard(index, count, local_rank)
