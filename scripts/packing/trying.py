"""What is tried where the package is installed: with the core alone, at the command line, each extra by itself."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING

from packing.building import PackageError, config

if TYPE_CHECKING:
    import subprocess

    from packing.places import Place

TRIALS = Path(__file__).parent / "trials"
BESIDE = {"blas": ("numpy",)}
"""What an extra is of use with, and does not bring."""
NOT_MISSED = ("blas",)
"""Extras whose absence is no error: something is done less well without."""


def trial_of(extra: str) -> Path:
    """Return the program that tries an extra."""
    return TRIALS / f"with_{extra}.py"


def try_core(place: Place) -> None:
    """See that an engine runs where nothing is but what the package needs, and that everything can be imported."""
    _good(place.run(str(TRIALS / "core.py")), "core: good")


def try_command_line(place: Place) -> None:
    """See that the command works under both its names, and tells its version."""
    lines = '[1, 2]\n{"a": 3}\n'
    for command in ((str(place.python), "-I", "-m", "mpengine"), ("mpengine",)):
        mapped = place.call(*command, "map", "-w", "2", "json:loads", stdin=lines)
        _good(mapped, "")
        if [json.loads(line) for line in mapped.stdout.splitlines()] != [[1, 2], {"a": 3}]:
            raise PackageError(f"map gave {mapped.stdout!r}")
        _good(place.call(*command, "--version"), config()["metadata"]["version"])
        _good(place.call(*command, "run", "mpengine.examples.stdlib:pipeline", "--help"), "Usage")
    _good(place.run("-m", "mpengine", "doctor"), "mpengine")


def try_extra(place: Place, extra: str) -> None:
    """See that what an extra is for works, with it and nothing else."""
    _good(place.run(str(trial_of(extra))), f"{extra}: good")


def try_without(place: Place, extra: str) -> str:
    """See that its absence is told in one line, which names it; return that line."""
    done = place.run(str(trial_of(extra)))
    last = done.stderr.strip().rpartition("\n")[2]
    is_told = re.search(rf"pip install 'mpengine\[{extra}\]'", last) is not None
    if done.returncode == 0 or not is_told or " direct cause " in done.stderr.partition(last)[2]:
        raise PackageError(f"without {extra}, status {done.returncode}:\n{done.stdout}{done.stderr}")
    return last


def _good(done: subprocess.CompletedProcess[str], word: str) -> None:
    if done.returncode or word not in done.stdout or "Warning" in done.stderr:
        command = " ".join(map(str, done.args))
        raise PackageError(f"{command}\nstatus {done.returncode}\n{done.stdout}{done.stderr}")
