"""What became of the samples of a batch."""

from __future__ import annotations

from dataclasses import dataclass, field

from i2am.capture.batch.manifest_shard import ManifestShard

__all__ = ["BatchSummary"]


@dataclass
class BatchSummary:
    """What became of the samples that a process took.

    Parameters
    ----------
    shard : ManifestShard
        The samples that this process took; ``str(shard)`` is I/N.
    finished, skipped : list of str
        Samples that were done now, and those that were complete before.
    failed : dict of str to str
        The reason, by sample.
    untried : list of str
        Samples that were not tried any more: the store had failed two in a row, or did not even take
        a sample's status.
    taken : dict of str to str
        Which process does them at this time, by sample.
    elapsed_s : float
        Seconds of the work, without loading the model.

    Examples
    --------
    >>> BatchSummary(finished=["a"], failed={"b": "no picture"}).counts("captured")
    '1 captured, 0 were complete, 1 failed'
    """

    shard: ManifestShard = field(default_factory=ManifestShard)
    finished: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    untried: list[str] = field(default_factory=list)
    taken: dict[str, str] = field(default_factory=dict)
    elapsed_s: float = 0

    def counts(self, done: str) -> str:
        """Return the numbers of samples in words; `done` says what was done with the finished ones."""
        counts = (
            f"{len(self.finished)} {done}, {len(self.skipped)} were complete, "
            f"{len(self.failed)} failed"
        )
        if self.untried:
            counts += f", {len(self.untried)} not tried"
        if self.taken:
            counts = f"{counts}, {len(self.taken)} left to other processes"
        if self.shard.count > 1:
            counts = f"shard {self.shard}: {counts}"
        return counts
