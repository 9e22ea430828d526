"""Which share of a manifest is this process's: told by the caller, or by who started it.

Rows are dealt in turn, so that N processes on any number of machines share one manifest and one
run without knowing of each other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from i2am.schemas import SchemaError

__all__ = ["Shard", "find_shard"]

_Item = TypeVar("_Item")


@dataclass(frozen=True)
class Shard:
    """One of `count` shares, and which process of its machine takes it.

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
                "or set --shard if the environment tells something else."
            )
            raise SchemaError(msg)

    def __str__(self) -> str:
        """Return I/N."""
        return f"{self.index}/{self.count}"

    def deal(self, items: Sequence[_Item]) -> Sequence[_Item]:
        """Return this shard's items.

        Examples
        --------
        >>> Shard(1, 3).deal("abcdefg")
        'be'
        """
        return items[self.index :: self.count]


def find_shard(environment: Mapping[str, str], wanted: tuple[int, int] | None = None) -> Shard:
    """Return the shard of this process.

    Parameters
    ----------
    environment : mapping
        As `os.environ`: of torchrun (``RANK``, ``WORLD_SIZE``, ``LOCAL_RANK``), or of Slurm
        (``SLURM_PROCID``, ``SLURM_NTASKS``, ``SLURM_LOCALID``, and for a job array
        ``SLURM_ARRAY_TASK_ID`` with ``…_MIN``, ``…_STEP`` and ``…_COUNT``).
    wanted : (int, int), optional
        (I, N), which goes before what the environment tells; I counts from 0.

    Raises
    ------
    SchemaError
        If that is no shard.

    Examples
    --------
    >>> find_shard({"RANK": "3", "WORLD_SIZE": "8", "LOCAL_RANK": "1"})
    Shard(index=3, count=8, local_rank=1)
    """

    def read(name: str, default: int) -> int:
        text = environment.get(name) or str(default)
        if not text.isdecimal():
            msg = f"Expected a whole number, got {text!r}, at environment variable {name}. "
            raise SchemaError(msg + "Unset it, or set --shard.")
        return int(text)

    local_rank = read("LOCAL_RANK" if "LOCAL_RANK" in environment else "SLURM_LOCALID", 0)
    if wanted is not None:
        return Shard(*wanted, local_rank)
    if "RANK" in environment and "WORLD_SIZE" in environment:
        return Shard(read("RANK", 0), read("WORLD_SIZE", 1), local_rank)
    index, count = read("SLURM_PROCID", 0), read("SLURM_NTASKS", 1)
    if "SLURM_ARRAY_TASK_ID" in environment:
        first, step = read("SLURM_ARRAY_TASK_MIN", 0), read("SLURM_ARRAY_TASK_STEP", 1)
        place = (read("SLURM_ARRAY_TASK_ID", 0) - first) // max(step, 1)
        index, count = place * count + index, count * read("SLURM_ARRAY_TASK_COUNT", 1)
    return Shard(index, count, local_rank)
