"""The jobs of `scripts/bench stream`, and who does the same work beside HyDFS."""

import contextlib
import csv
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

JOBS = ["filter", "count", "grep", "python"]
SAMPLES = Path(__file__).resolve().parent.parent / "samples"
MEASURED = Path(__file__).with_name("measured.py")
LIMIT_S = 1800

# Category as it stands in the line; the columns before it are never quoted in the sample data.
AWK_CATEGORY = """
function category(rest) {
    rest = substr($0, length($1 $2 $3 $4) + 5)
    if (rest !~ /^"/) return $5
    match(rest, /^"([^"]|"")*"/)
    return substr(rest, 1, RLENGTH)
}
"""
AWK = {
    "filter": AWK_CATEGORY + '$4 == "Punched Telespar" { print $1 "," category() }',
    "count": AWK_CATEGORY + '$4 ~ /Telespar/ { n[category()]++ } END { for (key in n) print key "," n[key] }',
}

EXEC = """version = 1

[[source]]
name = "signs"
path = "{source}"

[[stage]]
name = "op"
from = "signs"
op = {{ exec = {{ {op} }} }}
tasks = 3
"""


@dataclass
class Use:
    """What one run took. Unknown is None."""

    seconds: float
    cpu_s: float | None = None
    peak_mib: float | None = None
    job_s: float | None = None


@dataclass
class Job:
    """A job, and the same work for whoever is beside; `plain` is the first of these, and says what is right."""

    name: str
    spec: str
    plain: tuple[str, list]
    limits: dict[str, list] = field(default_factory=dict)
    peers: bool = False


@dataclass
class Peer:
    """A stream processor for Python, whose script below samples/peers does the jobs `filter` and `count`."""

    module: str
    install: str
    script: str
    java: bool

    def python(self, candidates):
        """The interpreter that has it; None if there is none."""
        if self.java and not shutil.which("java"):
            return None
        probe = f"import importlib.util, sys; sys.exit(importlib.util.find_spec('{self.module}') is None)"
        for python in candidates:
            with contextlib.suppress(OSError):
                if subprocess.run([python, "-c", probe], check=False).returncode == 0:
                    return python
        return None


PEERS = {
    "Bytewax": Peer("bytewax", "pip install bytewax", "bytewax_jobs.py", False),
    "Spark": Peer("pyspark", "pip install pyspark, and Java", "spark_jobs.py", True),
    "Flink": Peer("pyflink", "pip install apache-flink, and Java", "flink_jobs.py", True),
}


def jobs_over(data, mount, source, operator):
    """All jobs: over `source` in `mount` and, beside, over the local `data`."""
    inside = lambda path: "/" + str(path.relative_to(mount))
    reference = lambda kind: [sys.executable, SAMPLES / "reference.py", kind, data]
    spec = lambda kind: (SAMPLES / f"{kind}.toml").read_text().replace("/data/signs.csv", inside(source))
    executable = lambda op: EXEC.format(source=inside(source), op=op)
    jobs = [
        Job("filter", spec("filter"), ("Python loop", reference("filter")), peers=True),
        Job("count", spec("count"), ("Python loop", reference("count")), peers=True),
        Job(
            "grep",
            executable('command = "grep", args = ["Punched Telespar"], contract = "batch", exit_ok = [0, 1]'),
            ("grep", ["grep", "Punched Telespar", data]),
        ),
        Job(
            "python",
            executable(f'path = "{inside(operator)}"'),
            # As members find it.
            ("operator alone", ["sh", "-c", f"PATH=/usr/local/bin:/usr/bin:/bin '{operator}' <'{data}'"]),
        ),
    ]
    awk = shutil.which("mawk") or shutil.which("awk")
    if awk:
        name = f"grep, {Path(awk).name}"
        for job in jobs[:2]:
            pipe = f"grep Telespar '{data}' | '{awk}' -F, '{AWK[job.name]}'"
            job.limits[name] = ["env", "LC_ALL=C", "sh", "-c", pipe]
    return {job.name: job for job in jobs}


def fingerprint(paths, name):
    """Number of lines and sum of their hashes: the same for the same lines in any order. Columns may be quoted without
    need, as Flink does."""
    lines = total = 0
    for path in paths:
        with open(path, newline="", encoding="utf-8") as file:
            for line in map(tuple, csv.reader(file)) if name in AWK else file:
                lines += 1
                total += hash(line)
    return lines, total


def check(system, job, found, expected):
    if found != expected:
        sys.exit(f"scripts/bench: {system} puts out {found[0]} lines for {job.name}, not the {expected[0]} right ones")


def run_local(command, output):
    """Runs a program whose standard output goes to a file; what it took, and what it said."""
    command = [sys.executable, MEASURED, str(LIMIT_S), *command]
    with open(output, "wb") as out:
        ran = subprocess.run(command, check=False, stdout=out, stderr=subprocess.PIPE)
    said = ran.stderr.decode(errors="replace").splitlines()
    if ran.returncode != 0:
        shown = "\n".join(said[-20:])
        sys.exit(f"scripts/bench: {' '.join(map(str, command))} ended with code {ran.returncode}:\n{shown}")
    took, cpu, peak = map(float, said[-1].split())
    return Use(took, cpu, peak / 1024)


def run_peer(peer, python, job, data, scratch):
    """What a peer took, and the files that it wrote."""
    folder, said = scratch / "peer", scratch / "said"
    use = run_local([python, SAMPLES / "peers" / peer.script, job.name, data, folder], said)
    for line in said.read_text().splitlines():
        if line.startswith("job_seconds "):
            use.job_s = float(line.split()[1])
    return use, [path for path in folder.glob("out/**/part-*") if path.is_file()]
