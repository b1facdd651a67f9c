#!/usr/bin/env python3
# Speaks the contract `lines` of jobs (docs/JOBS.md, "Executables"). An operator is one file and can import nothing that lies
# beside it: copy this to the beginning of yours, and end that with `run(work)`, or with `run(work, state)`.
import csv, re, sys


class State(dict):
    """What is remembered: text by key, a tuple of values where the stage's key has several columns. Set and deleted with [] alone."""

    def __init__(self):
        super().__init__()
        self.changed = set()

    def __setitem__(self, key, value):
        super().__setitem__(key, str(value))
        self.changed.add(key)

    def __delitem__(self, key):
        super().__delitem__(key)
        self.changed.add(key)


def run(work, state=None):
    """Writes the lines that `work(line)` yields; what it does to `state = State()` is remembered, if the spec says `state = true`."""
    for stream in (sys.stdin, sys.stdout):
        stream.reconfigure(encoding="utf-8", errors="surrogateescape", newline="\n")
    for line in sys.stdin:
        if line.startswith("\x1f") and state is not None:
            key, value = re.match(r'((?:"(?:[^"]|"")*"|[^"\t])*)\t(.*)', line[1:]).groups()
            fields = next(csv.reader([key])) or [""]
            dict.__setitem__(state, fields[0] if len(fields) == 1 else tuple(fields), value)
        elif line.startswith("\x1e"):
            changed = set() if state is None else state.changed
            for key in changed:
                fields = key if isinstance(key, tuple) else (key,)
                text = ",".join('"' + field.replace('"', '""') + '"' for field in fields)
                sys.stdout.write(f"\x1f{text}\t{state.get(key, '')}\n")
            changed.clear()
            sys.stdout.write(line)
            sys.stdout.flush()
        else:
            sys.stdout.writelines(f"{out}\n" for out in work(line[:-1]))


