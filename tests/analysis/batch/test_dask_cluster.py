"""Servers that are started here are reached from this machine alone."""

from __future__ import annotations

import ipaddress

import psutil

from i2am.analysis.batch.dask_cluster import open_executor


def test_a_cluster_of_this_machine_listens_to_it_alone() -> None:
    me = psutil.Process()
    before = _listening(me)
    with open_executor(workers=1) as executor:
        assert executor.dashboard is not None
        own = _listening(me) - before
        for child in me.children(recursive=True):
            own |= _listening(child)
    assert len(own) >= 4  # Scheduler, its page, the worker, its page.
    assert all(ipaddress.ip_address(host).is_loopback for host, _ in own), own


def _listening(process: psutil.Process) -> set[tuple[str, int]]:
    found = process.net_connections(kind="tcp")
    return {(one.laddr.ip, one.laddr.port) for one in found if one.status == psutil.CONN_LISTEN}
