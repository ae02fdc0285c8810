"""A run is shown by a page, which a browser can have."""

import sys
import urllib.request

from mpengine import Engine
from mpengine.dashboard.live import Dashboard

with Dashboard() as dashboard:
    Engine(2, observers=[dashboard]).run([range(5), str]).unwrap()
    with urllib.request.urlopen(dashboard.url) as page:  # noqa: S310 - an address of this program's
        if b"<html" not in page.read():
            sys.exit("no page")
print("dashboard: good")
