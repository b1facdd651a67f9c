#!/usr/bin/env python3
"""An operator of the contract `lines`: every line in capitals. Store it in HyDFS, `chmod +x`, and name it in `exec`."""
import sys

for line in sys.stdin:
    if line.startswith("\x1e"):
        # The end of a batch: all of it is written out, then this line.
        sys.stdout.write(line)
        sys.stdout.flush()
    else:
        sys.stdout.write(line.upper())
