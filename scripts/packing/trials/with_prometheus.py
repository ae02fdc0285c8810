"""Figures of a run are served."""

import sys
import urllib.request

from mpengine import Engine
from mpengine.monitor.prometheus import PrometheusExporter

exporter = PrometheusExporter()
Engine(2, observers=[exporter]).run([range(5), str]).unwrap()
with urllib.request.urlopen(f"http://127.0.0.1:{exporter.port}/metrics") as figures:
    if b"mpengine_" not in figures.read():
        sys.exit("no figures")
exporter.close()
print("prometheus: good")
