#!/usr/bin/env python3
"""The sample jobs in Spark Structured Streaming: spark_jobs.py filter|count signs.csv FOLDER

Needs Java and `pip install pyspark`.

Lines go to FOLDER/out/. Exactly once: a checkpoint, and the file sink; the counts, which that sink does not take, are
written anew by each micro-batch in place of those of the one before.
"""
import os
import sys
import time
from pathlib import Path

from pyspark.sql import SparkSession

COLUMNS = "OBJECTID STRING, Sign_Type STRING, Size_ STRING, Sign_Post STRING, Category STRING, Notes STRING"


def main():
    if len(sys.argv) != 4 or sys.argv[1] not in ("filter", "count"):
        sys.exit("usage: spark_jobs.py filter|count signs.csv FOLDER")
    job, data, folder = sys.argv[1], Path(sys.argv[2]).resolve(), Path(sys.argv[3]).resolve()
    source, out = folder / "source", str(folder / "out")
    source.mkdir(parents=True)
    # A source is a folder.
    (source / data.name).symlink_to(data)
    cores = len(os.sched_getaffinity(0))
    spark = (
        SparkSession.builder.master(f"local[{cores}]")
        .config("spark.sql.shuffle.partitions", cores)
        .config("spark.ui.enabled", "false")
        .config("spark.log.level", "ERROR")
        .config("spark.local.dir", str(folder / "scratch"))
        .getOrCreate()
    )
    began = time.perf_counter()
    rows = spark.readStream.schema(COLUMNS).option("header", True).option("escape", '"').csv(str(source))
    if job == "filter":
        posts = rows.where(rows.Sign_Post == "Punched Telespar").select("OBJECTID", "Category")
        sink = posts.writeStream.format("csv").option("escape", '"').option("path", out)
    else:
        counts = rows.where(rows.Sign_Post.contains("Telespar")).groupBy("Category").count()
        write = lambda frame, batch: frame.write.mode("overwrite").option("escape", '"').csv(out)
        sink = counts.writeStream.outputMode("complete").foreachBatch(write)
    query = sink.option("checkpointLocation", str(folder / "checkpoint")).trigger(availableNow=True).start()
    query.awaitTermination()
    print("job_seconds", time.perf_counter() - began)
    spark.stop()


if __name__ == "__main__":
    main()
