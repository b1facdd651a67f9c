#!/usr/bin/env python3
"""The sample jobs in Bytewax: bytewax_jobs.py filter|count signs.csv FOLDER (pip install bytewax)

Lines go to FOLDER/out/. With recovery on, as it comes: a snapshot each 10 s; a restart cuts the output back to it.
A file has one reader in Bytewax, so this is one worker.
"""
import sys
import time
from pathlib import Path

import bytewax.operators as op
from bytewax.connectors.files import CSVSource, FileSink
from bytewax.dataflow import Dataflow
from bytewax.recovery import RecoveryConfig, init_db_dir
from bytewax.testing import run_main


def quote(text):
    return '"' + text.replace('"', '""') + '"' if "," in text or '"' in text else text


def filtered(rows):
    """One key for all lines: the sink is one file."""
    return [
        ("all", f"{row['OBJECTID']},{quote(row['Category'])}") for row in rows if row["Sign_Post"] == "Punched Telespar"
    ]


def main():
    if len(sys.argv) != 4 or sys.argv[1] not in ("filter", "count"):
        sys.exit("usage: bytewax_jobs.py filter|count signs.csv FOLDER")
    job, data, folder = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
    out, recovery = folder / "out", folder / "recovery"
    for made in (out, recovery):
        made.mkdir(parents=True)
    began = time.perf_counter()
    init_db_dir(recovery, 1)
    flow = Dataflow(job)
    rows = op.input("signs", flow, CSVSource(data))
    if job == "filter":
        lines = op.flat_map_batch("posts", rows, filtered)
    else:
        posts = op.filter("posts", rows, lambda row: "Telespar" in row["Sign_Post"])
        counts = op.count_final("categories", posts, lambda row: row["Category"])
        lines = op.map("lines", counts, lambda pair: ("all", f"{quote(pair[0])},{pair[1]}"))
    op.output("out", lines, FileSink(out / "part-0"))
    run_main(flow, recovery_config=RecoveryConfig(recovery))
    print("job_seconds", time.perf_counter() - began)


if __name__ == "__main__":
    main()
