"""Runs a program and says what it used: python3 measured.py LIMIT_S PROGRAM [ARGUMENT]…

The last line of standard error is `seconds CPU-seconds peak-KiB` of the program and of all that it started: this
process adopts what the program leaves behind (a JVM, for one), ends it and waits for it. The peak is that of the largest
single process.
"""

import contextlib
import ctypes
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

PR_SET_CHILD_SUBREAPER = 36


def end_all():
    """Ends every child, those that are adopted by it too, and waits for them."""
    children = Path(f"/proc/self/task/{os.getpid()}/children")
    with contextlib.suppress(ChildProcessError):
        while True:
            for child in children.read_text().split():
                os.kill(int(child), signal.SIGKILL)
            os.wait()


def main():
    limit, command = float(sys.argv[1]), sys.argv[2:]
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    began = time.perf_counter()
    program = subprocess.Popen(command)
    try:
        code = program.wait(limit)
        took = time.perf_counter() - began
    except subprocess.TimeoutExpired:
        sys.exit(f"not done after {limit:.0f} s")
    finally:
        end_all()
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    print(took, used.ru_utime + used.ru_stime, used.ru_maxrss, file=sys.stderr)
    # A signal's number is no exit code.
    sys.exit(code if code >= 0 else 128 - code)


if __name__ == "__main__":
    main()
