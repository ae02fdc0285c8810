"""The same stages run on actors of Ray."""

import sys

from mpengine import Engine

with Engine(2, backend="ray") as engine:
    found = engine.run([range(5), lambda number: number * number]).unwrap().values
if found != [0, 1, 4, 9, 16]:
    sys.exit(f"{found}")
print("ray: good")
