"""`scripts/bench stream`: jobs beside other ways to do the same work."""

import argparse
import contextlib
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from clusters import mount_of
from members import Members
from systems import JOBS, LIMIT_S, PEERS, SAMPLES, Use, check, fingerprint, jobs_over, run_local, run_peer

SAMPLE_DATA = SAMPLES.parent / "sample-data"
NOBODY = 65534
COLUMNS = ["job", "rows", "system", "seconds", "job s", "rows/s", "MB/s", "CPU s", "peak MiB", "ratio"]

HELP = """Runs jobs over a CSV of traffic signs, each beside other ways to do the same work in the same run:

  filter  scripts/samples/filter.toml: rows of one kind of post, two columns of them
  count   scripts/samples/count.toml: rows of two kinds of posts, counted by category
  grep    `grep` as an operator, contract `batch`
  python  scripts/samples/upper.py as an operator, contract `lines`: every line in capitals

HyDFS runs as it comes: exactly once, with receipts, input and output on three copies. Beside it, on a local file: for
the first two a plain Python loop (scripts/samples/reference.py), `grep` piped to `mawk` as the limit of one thread or
two, and of Bytewax, Spark and Flink those that are installed (scripts/samples/peers/; exactly once, too); for the
others the program alone. If anybody puts out other lines than the plain program, the run ends. To have all peers,
install Java and:

  python3 -m venv /tmp/peers && /tmp/peers/bin/pip install bytewax pyspark
  python3 -m venv /tmp/flink && /tmp/flink/bin/pip install apache-flink      # it wants another py4j than Spark
  scripts/bench stream --python /tmp/peers/bin/python --python /tmp/flink/bin/python

One tab-separated table; medians of --runs runs; `-` where something is not known:

  seconds   wall time: of a job from the drop of its spec until it is done, of others from their start to their end
  job s     of peers, the part of it without their start-up
  rows/s, MB/s   of the input, by `seconds`
  CPU s     user and system time: of all members and their operators together; of all processes of the others
  peak MiB  resident at most: of the largest member (operators not counted); of the others' largest process, of which
            those below some 14 MiB show as much as the Python that starts them
  ratio     rows/s of HyDFS by those of this system

The members' figures are known if all of them run on this machine, and you are root or their owner. Before a job is
dropped the members come to rest: what they still do about input that was just written is not the job's.
"""


def say(text):
    print(f"scripts/bench: {text}", file=sys.stderr)


def numbers(text):
    found = [int(number) for number in text.split(",")]
    if min(found) < 1:
        raise ValueError(text)
    return found


def some_of(names):
    def some(text):
        found = [name for name in text.split(",") if name]
        if not set(found) <= set(names):
            raise argparse.ArgumentTypeError(f"of {','.join(names)}, not {text}")
        return found

    return some


def add_options(command):
    jobs, peers = list(JOBS), [peer.lower() for peer in PEERS]
    command.add_argument(
        "--rows", type=numbers, default=[1_000_000], metavar="N[,N…]",
        help="rows of the sample data [1000000]; 1000000,10000000 for both: with all peers a quarter of an hour, "
        "and 9 GB of disk",
    )
    which = lambda names: f"which of {','.join(names)} [all]"
    command.add_argument("--jobs", type=some_of(jobs), default=jobs, metavar="JOB[,…]", help=which(jobs))
    command.add_argument(
        "--peers", type=some_of(peers), default=peers, metavar="PEER[,…]", help=which(peers) + "; '' for none",
    )
    command.add_argument(
        "--python", action="append", default=[], metavar="PATH",
        help="an interpreter that may have peers, looked at before this one; again for another",
    )


def run_hydfs(mount, members, job, name):
    """Drops a spec and waits for its end; what that took."""
    folder, spec = mount / ".jobs" / name, mount / ".jobs" / f"{name}.toml"
    # Executables do not run as root.
    draft = mount / ".jobs" / f".{name}"
    draft.write_text(job.spec)
    if os.geteuid() == 0:
        os.chown(draft, NOBODY, NOBODY)
    members.settle()
    members.forget_peaks()
    cpu, began = members.cpu_seconds(), time.perf_counter()
    draft.rename(spec)
    while True:
        with contextlib.suppress(OSError):
            status = (folder / "status").read_text()
            if status.startswith("status = done"):
                break
            if not status.startswith("status = running"):
                sys.exit(f"scripts/bench: job {name} ended badly:\n{status}")
        if time.perf_counter() - began > LIMIT_S:
            sys.exit(f"scripts/bench: job {name} is not done after {LIMIT_S} s")
        time.sleep(0.01)
    use = Use(time.perf_counter() - began, peak_mib=members.peak_mib())
    if members.known:
        use.cpu_s = members.cpu_seconds() - cpu
    return use


def remove_job(mount, name):
    (mount / ".jobs" / f"{name}.toml").unlink()
    shutil.rmtree(mount / ".jobs" / name)


def runs_of(job, data, mount, members, peers, runs):
    """Each system's uses of all runs, HyDFS first, once its output is found to be right."""
    uses = {"HyDFS": []}
    for run in range(runs):
        with tempfile.TemporaryDirectory(prefix="run-", dir=data.parent) as made:
            scratch, expected = Path(made), None
            for system, command in [job.plain, *job.limits.items()]:
                output = scratch / "output"
                uses.setdefault(system, []).append(run_local(command, output))
                found = fingerprint([output], job.name)
                expected = expected or found
                check(system, job, found, expected)
                output.unlink()
            name = f"bench-{job.name}-{os.getpid()}-{run}"
            uses["HyDFS"].append(run_hydfs(mount, members, job, name))
            check("HyDFS", job, fingerprint([mount / ".jobs" / name / "output"], job.name), expected)
            remove_job(mount, name)
            for system, (peer, python) in peers.items() if job.peers else []:
                use, outputs = run_peer(peer, python, job, data, scratch)
                uses.setdefault(system, []).append(use)
                check(system, job, fingerprint(outputs, job.name), expected)
                shutil.rmtree(scratch / "peer")
    return uses


def median(uses, what):
    values = [getattr(use, what) for use in uses]
    return None if None in values else statistics.median(values)


def print_rows(job, rows, size, uses):
    own = median(uses["HyDFS"], "seconds")
    shown = lambda form, figure: "-" if figure is None else format(figure, form)
    for system, all_runs in uses.items():
        took = median(all_runs, "seconds")
        figures = [
            shown(".2f", took),
            shown(".2f", median(all_runs, "job_s")),
            f"{rows / took:.3g}",
            f"{size / took / 1e6:.1f}",
            shown(".2f", median(all_runs, "cpu_s")),
            shown(".0f", median(all_runs, "peak_mib")),
            f"{took / own:.3g}",
        ]
        print(job.name, rows, system, *figures, sep="\t", flush=True)


def peers_wanted(args):
    """The peers that can be run, with their interpreters; the others are named."""
    wanted = {}
    for system, peer in PEERS.items():
        if system.lower() not in args.peers:
            continue
        python = peer.python([*args.python, sys.executable])
        if python:
            wanted[system] = (peer, python)
        else:
            say(f"{system} is left out; to have it: {peer.install}")
    return wanted


def sample(data, rows, longest):
    """The first rows of the longest sample are the sample of fewer rows."""
    with open(data, "wb") as out:
        if longest is None:
            subprocess.run([SAMPLE_DATA, str(rows)], check=True, stdout=out)
        else:
            subprocess.run(["head", "-n", str(rows + 1), longest], check=True, stdout=out)


def bench(args):
    peers = peers_wanted(args)
    with (
        tempfile.TemporaryDirectory(prefix="hydfs-bench-data-", dir=args.local) as made,
        mount_of(args.mount, args.local) as mount,
    ):
        members = Members(mount)
        members.forget_peaks()
        if not members.known:
            say("not all members run here, visible to you: `CPU s` and `peak MiB` of HyDFS are unknown")
        elif not members.peaks_known:
            say("the members' peaks cannot be reset (/proc/PID/clear_refs): `peak MiB` of HyDFS is unknown")
        longest = Path(made) / "longest.csv"
        sample(longest, max(args.rows), None)
        operator = mount / f".bench-{os.getpid()}-upper.py"
        stored = mount / f".bench-{os.getpid()}.csv"
        try:
            shutil.copy(SAMPLES / "upper.py", operator)
            print(*COLUMNS, sep="\t", flush=True)
            for rows in args.rows:
                data = Path(made) / "sample.csv"
                sample(data, rows, longest)
                shutil.copyfile(data, stored)
                jobs = jobs_over(data, mount, stored, operator)
                for name in args.jobs:
                    uses = runs_of(jobs[name], data, mount, members, peers, args.runs)
                    print_rows(jobs[name], rows, data.stat().st_size, uses)
                data.unlink()
                stored.unlink()
        finally:
            for left in [operator, stored]:
                left.unlink(missing_ok=True)
