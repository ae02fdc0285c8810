"""A program that runs joblib's tests, aimed at one backend, and what came of each."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ET
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from borrowed.aiming import aim

if TYPE_CHECKING:
    from borrowed.aiming import Target

SCRIPTS = Path(__file__).parent.parent
HANG_S = 90
"""A test of joblib's that takes so long hangs."""


@dataclass
class Outcomes:
    """What came of each test, and what went wrong, in a line."""

    of: dict[str, str] = field(default_factory=dict)
    why: dict[str, str] = field(default_factory=dict)

    def count(self, outcome: str) -> int:
        """Return how many ended so."""
        return Counter(self.of.values())[outcome]


def run(target: Target, arguments: list[str]) -> Outcomes:
    """Run the tests in a process group of their own; a test that hangs is failed, and the others go on."""
    with tempfile.TemporaryDirectory(prefix="aimed-") as name:
        folder = Path(name)
        path = aim(target, folder)
        (folder / "temp").mkdir()
        paths = [str(folder), str(SCRIPTS.parent), str(SCRIPTS), *filter(None, [os.environ.get("PYTHONPATH")])]
        environ = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "TMPDIR": str(folder / "temp")}
        command = [
            sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-c", os.devnull, f"--rootdir={folder}",
            "-o", f"timeout={HANG_S}", "-o", "junit_family=xunit1", f"--junitxml={folder / 'told.xml'}",
            "-p", "no:mpengine", *arguments, str(path),
        ]  # fmt: skip
        subprocess.run(command, cwd=folder, env=environ, check=False, stdout=sys.stderr)
        return read(folder / "told.xml")


def read(path: Path) -> Outcomes:
    """Return what pytest has told in a file."""
    outcomes = Outcomes()
    for case in ET.parse(path).iter("testcase"):  # noqa: S314 - pytest's own
        name, parts = str(case.get("name")), list(case)
        kinds = [part.tag for part in parts if part.tag in ("failure", "error", "skipped")]
        kind = kinds[0] if kinds else "passed"
        message = next((str(part.get("message")) for part in parts if part.tag == kind), "")
        if kind in ("failure", "error"):
            kind = "hung" if "Timeout (>" in message else "failed"
        elif kind == "skipped" and next(part.get("type") for part in parts) == "pytest.xfail":
            kind = "expected to fail"
        outcomes.of[name] = kind
        if kind in ("failed", "hung"):
            outcomes.why[name] = " ".join(message.split())[:160]
    return outcomes
