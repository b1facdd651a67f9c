#!/usr/bin/env python3
"""What the sample jobs must put out, computed in the plainest way.

    scripts/samples/reference.py filter signs.csv | sort | cmp - <(sort /hydfs/.jobs/filter/output)
    scripts/samples/reference.py count  signs.csv | sort | cmp - <(sort /hydfs/.jobs/count/output)
"""
import collections
import csv
import sys


def quote(text):
    return '"' + text.replace('"', '""') + '"' if "," in text or '"' in text else text


def main():
    if len(sys.argv) != 3 or sys.argv[1] not in ("filter", "count"):
        sys.exit("usage: scripts/samples/reference.py filter|count signs.csv")
    with open(sys.argv[2], newline="", encoding="utf-8") as file:
        rows = csv.DictReader(file)
        if sys.argv[1] == "filter":
            for row in rows:
                if row["Sign_Post"] == "Punched Telespar":
                    print(f"{row['OBJECTID']},{quote(row['Category'])}")
        else:
            counts = collections.Counter(row["Category"] for row in rows if "Telespar" in row["Sign_Post"])
            for key in sorted(counts, key=lambda key: key.encode()):
                print(f"{quote(key)},{counts[key]}")


if __name__ == "__main__":
    main()
