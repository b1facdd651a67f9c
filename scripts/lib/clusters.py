"""Clusters that live as long as a measurement."""

import contextlib
import subprocess
import tempfile
from pathlib import Path

CLUSTER = Path(__file__).resolve().parent.parent / "cluster"


@contextlib.contextmanager
def cluster_of(members, local):
    """The folder of a cluster below `local`, which lives as long as this, and its mounts."""
    with tempfile.TemporaryDirectory(prefix="hydfs-bench-", dir=local) as made:
        # Executables of jobs are not root, and reach their copy in a member's data folder.
        Path(made).chmod(0o711)
        try:
            command = [CLUSTER, "up", "-n", str(members), made]
            up = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
            yield made, [Path(mount) for mount in up.stdout.split()]
        finally:
            subprocess.run([CLUSTER, "down", made], check=False)


@contextlib.contextmanager
def mount_of(named, local):
    """The mount that was named, or that of a cluster which lives as long as this."""
    if named:
        yield Path(named)
        return
    with cluster_of(3, local) as (_, mounts):
        yield mounts[0]
