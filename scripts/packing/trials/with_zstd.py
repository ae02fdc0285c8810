"""Lines are packed, and unpacked."""

import sys
import tempfile
from pathlib import Path

from mpengine import Engine, Pipeline, sinks, sources

with tempfile.TemporaryDirectory() as folder:
    path = Path(folder) / "lines.txt.zst"
    (Pipeline(range(5)) >> str).to(sinks.lines(path), Engine(2)).unwrap()
    found = Engine(2).run([sources.lines(path), int]).unwrap().values
    if found != list(range(5)):
        sys.exit(f"{found}")
print("zstd: good")
