"""Virtual environments with nothing in them but what they are given: no pip, no setuptools, nothing of anybody's."""

from __future__ import annotations

import importlib.metadata
import os
import re
import subprocess
import sys
from typing import TYPE_CHECKING

from environments import ROOT

from packing.building import PackageError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

PATIENCE_S = 300
_NAME = re.compile(r"[\w.-]+")


class Place:
    """An environment in ``folder``, of the Python ``python``; ``pip``: an interpreter that has it."""

    def __init__(self, folder: Path, python: str = sys.executable, pip: str = sys.executable) -> None:
        """Make it."""
        self.folder = folder
        self.python = folder / "bin" / "python"
        self._pip = pip
        _checked([python, "-I", "-m", "venv", "--without-pip", str(folder)])

    def install(self, *what: str, constraints: Path | None = None) -> str:
        """Install with pip, nothing newer than the constraints say; return what pip said."""
        pip = [self._pip, "-I", "-m", "pip", "--disable-pip-version-check", "--python", str(self.python), "install"]
        limits = {} if constraints is None else {"PIP_CONSTRAINT": str(constraints)}
        return _checked([*pip, "--quiet", *what], variables={**os.environ, **limits})

    def adopt(self, *distributions: str) -> None:
        """Have what the interpreter that runs this has of these, and of all that they need, without a download."""
        (packages,) = (self.folder / "lib").glob("python*/site-packages")
        for distribution in _with_all_they_need(distributions):
            for top in {
                path.parts[0] for path in distribution.files or () if path.parts[0] not in ("..", "__pycache__")
            }:
                (packages / top).symlink_to(str(distribution.locate_file(top)))

    def run(self, *arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
        """Run its Python, apart from the checkout and from whatever is set for the Python that runs this."""
        return self.call(str(self.python), "-I", *arguments, stdin=stdin)

    def call(self, *command: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
        """Run a program, the environment's own first, in its folder."""
        variables = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
        variables["PATH"] = os.pathsep.join([str(self.folder / "bin"), variables.get("PATH", "")])
        return subprocess.run(
            command, cwd=self.folder, env=variables, input=stdin, capture_output=True, text=True, timeout=PATIENCE_S,
            check=False,
        )  # fmt: skip


def constraints(into: Path) -> Path:
    """Write all pinned versions into one file, which pip takes as an upper and lower limit of each."""
    pinned = {
        line
        for lock in (ROOT / "requirements" / "run.lock", ROOT / "requirements" / "test.lock")
        for line in lock.read_text(encoding="utf-8").splitlines()
        if line and not line.startswith(("#", "-r"))
    }
    into.write_text("".join(line + "\n" for line in sorted(pinned)), encoding="utf-8")
    return into


def _with_all_they_need(names: tuple[str, ...]) -> Iterator[importlib.metadata.Distribution]:
    waiting, seen = list(names), set()
    while waiting:
        name = waiting.pop()
        if name.lower() in seen:
            continue
        seen.add(name.lower())
        distribution = importlib.metadata.distribution(name)
        yield distribution
        waiting += [
            found[0]
            for needed in distribution.requires or ()
            if ";" not in needed and (found := _NAME.match(needed)) is not None
        ]


def _checked(command: list[str], variables: dict[str, str] | None = None) -> str:
    done = subprocess.run(
        command, env=variables, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        timeout=PATIENCE_S, check=False,
    )  # fmt: skip
    if done.returncode:
        raise PackageError(f"{' '.join(command)}\n{done.stdout}")
    return done.stdout
