"""A table is written and read."""

import sys
import tempfile
from pathlib import Path

from mpengine import Engine, Pipeline, sinks, sources

with tempfile.TemporaryDirectory() as folder:
    table = Path(folder) / "squares.parquet"
    rows = [{"n": number, "square": number * number} for number in range(5)]
    (Pipeline(rows) >> dict).to(sinks.parquet(table), Engine(2)).unwrap()
    found = Engine(2).run([sources.parquet(table), dict]).unwrap().values
    if found != rows:
        sys.exit(f"{found}")
print("parquet: good")
