"""What the members of a cluster use of this machine, as /proc tells it.

A member is found by its address: its worker holds the UDP port that `.cluster/members` names. So a cluster of which a
part runs elsewhere, or belongs to another user, is not measured at all: half a sum would say nothing.
"""

import contextlib
import os
import re
import socket
import time
from pathlib import Path

TICKS = os.sysconf("SC_CLK_TCK")


def stat_of(pid):
    """The fields of /proc/PID/stat behind the program's name; None if there is no such process."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


def with_descendants(pid):
    yield pid
    for path in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            for child in path.read_text().split():
                yield from with_descendants(int(child))


def is_local(host):
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        try:
            probe.bind((host, 0))
        except OSError:
            return False
    return True


def sockets_by_port():
    """Port to the inodes of the UDP sockets that are bound to it."""
    found = {}
    for table in ["udp", "udp6"]:
        with contextlib.suppress(OSError):
            for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
                fields = line.split()
                found.setdefault(int(fields[1].rpartition(":")[2], 16), set()).add(f"socket:[{fields[9]}]")
    return found


def holders_of(inodes):
    """Socket inode to the process that holds it, as far as this user may look."""
    found = {}
    for descriptors in Path("/proc").glob("[0-9]*/fd"):
        with contextlib.suppress(OSError):
            for descriptor in os.scandir(descriptors):
                with contextlib.suppress(OSError):
                    target = os.readlink(descriptor.path)
                    if target in inodes:
                        found[target] = int(descriptors.parent.name)
    return found


def workers_of(mount):
    """The workers of all members, or none if not all of them run here, visible to this user."""
    lines = map(str.split, (mount / ".cluster" / "members").read_text().splitlines())
    addresses = [address for _, address, state, *_ in lines if state == "alive"]
    sockets, wanted = sockets_by_port(), []
    for address in addresses:
        host, _, port = address.rpartition(":")
        if not is_local(host.strip("[]")):
            return []
        wanted.append(sockets.get(int(port), set()))
    holders = holders_of(set().union(*wanted))
    workers = [{holders[inode] for inode in inodes if inode in holders} for inodes in wanted]
    return [min(found) for found in workers] if all(len(found) == 1 for found in workers) else []


class Members:
    """All members of the cluster that is mounted at `mount`; `known` says whether they can be measured."""

    def __init__(self, mount):
        self.workers = workers_of(mount)
        self.roots = [self._supervisor(worker) for worker in self.workers]
        self.known = bool(self.workers)
        self.peaks_known = self.known

    @staticmethod
    def _supervisor(worker):
        """The member's first process: the worker's parent, if that is the same program."""
        parent = int(stat_of(worker)[1])
        name = lambda pid: Path(f"/proc/{pid}/comm").read_text()
        return parent if parent > 1 and name(parent) == name(worker) else worker

    def cpu_seconds(self):
        """Of all members and their operators since they began: what lives, and what they have waited for. An operator
        that ends passes its time on to its member, so a difference of two sums misses nothing."""
        ticks = 0
        for root in self.roots:
            for pid in with_descendants(root):
                # utime, stime, cutime, cstime
                ticks += sum(map(int, (stat_of(pid) or [0] * 15)[11:15]))
        return ticks / TICKS

    def settle(self, limit_s=30):
        """Waits until what was written before is merged: until all members together use less than a tenth of a core."""
        deadline = time.monotonic() + limit_s
        while self.known and time.monotonic() < deadline:
            before = self.cpu_seconds()
            time.sleep(0.5)
            if self.cpu_seconds() - before < 0.05:
                return

    def forget_peaks(self):
        for worker in self.workers:
            try:
                Path(f"/proc/{worker}/clear_refs").write_text("5")
            except OSError:
                self.peaks_known = False

    def peak_mib(self):
        """Resident at most, in the largest worker since `forget_peaks`; None if not known, or a worker has ended."""
        if not self.peaks_known:
            return None
        status = lambda worker: Path(f"/proc/{worker}/status").read_text()
        with contextlib.suppress(OSError):
            return max(int(re.search(r"VmHWM:\s*(\d+)", status(worker))[1]) for worker in self.workers) / 1024
