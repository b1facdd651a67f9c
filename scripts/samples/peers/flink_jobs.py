#!/usr/bin/env python3
"""The sample jobs in Flink's SQL: flink_jobs.py filter|count signs.csv FOLDER (pip install apache-flink; Java)

Lines go to FOLDER/out/. A stream with a checkpoint each second, exactly once: the file sink, which shows what is
committed; the counts, whose changes that sink does not take, are collected (in small batches) and written when they are
final. Flink's CSV has no header: that of the file is a row like others, which no job lets through.
"""
import os
import sys
import time
from pathlib import Path

from pyflink.common import Configuration
from pyflink.table import EnvironmentSettings, TableEnvironment

COLUMNS = "OBJECTID STRING, Sign_Type STRING, Size_ STRING, Sign_Post STRING, Category STRING, Notes STRING"


def quote(text):
    return '"' + text.replace('"', '""') + '"' if "," in text or '"' in text else text


def table(name, columns, path):
    return f"CREATE TABLE {name} ({columns}) WITH ('connector' = 'filesystem', 'path' = '{path}', 'format' = 'csv')"


def main():
    if len(sys.argv) != 4 or sys.argv[1] not in ("filter", "count"):
        sys.exit("usage: flink_jobs.py filter|count signs.csv FOLDER")
    job, data, out = sys.argv[1], Path(sys.argv[2]).resolve(), Path(sys.argv[3]).resolve() / "out"
    out.mkdir(parents=True)
    settings = Configuration()
    for key, value in {
        "parallelism.default": len(os.sched_getaffinity(0)),
        "execution.checkpointing.interval": "1 s",
        "execution.checkpointing.mode": "EXACTLY_ONCE",
        "table.exec.mini-batch.enabled": "true",
        "table.exec.mini-batch.allow-latency": "200 ms",
        "table.exec.mini-batch.size": 50_000,
    }.items():
        settings.set_string(key, str(value))
    flink = TableEnvironment.create(
        EnvironmentSettings.new_instance().in_streaming_mode().with_configuration(settings).build()
    )
    flink.execute_sql(table("signs", COLUMNS, data))
    began = time.perf_counter()
    if job == "filter":
        flink.execute_sql(table("posts", "OBJECTID STRING, Category STRING", out))
        flink.execute_sql(
            "INSERT INTO posts SELECT OBJECTID, Category FROM signs WHERE Sign_Post = 'Punched Telespar'"
        ).wait()
    else:
        counts = {}
        changes = flink.execute_sql(
            "SELECT Category, COUNT(*) FROM signs WHERE Sign_Post LIKE '%Telespar%' GROUP BY Category"
        )
        with changes.collect() as rows:
            for category, count in rows:
                # A value's changes come in order: the last is its result.
                counts[category] = count
        lines = "".join(f"{quote(category)},{count}\n" for category, count in counts.items())
        (out / "part-0").write_text(lines)
    print("job_seconds", time.perf_counter() - began)


if __name__ == "__main__":
    main()
