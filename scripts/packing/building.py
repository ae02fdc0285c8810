"""An sdist from what the repository holds, a wheel from the sdist, and what is wrong with either."""

from __future__ import annotations

import configparser
import email
import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from dataclasses import dataclass
from typing import TYPE_CHECKING

from environments import ROOT

if TYPE_CHECKING:
    from email.message import Message
    from pathlib import Path

# Tools tell of what they will refuse one day as a warning, which nobody reads: here it ends the build.
_BUILD = "import sys; from setuptools import build_meta; print(getattr(build_meta, sys.argv[1])(sys.argv[2]))"
_TELLING = re.compile(r"warning|deprecat", re.IGNORECASE)
_OF_NO_INTEREST = ("no previously-included", "no files found matching", "no previously included")
_MADE_BY_BUILDING = ("PKG-INFO", "mpengine.egg-info/")


class PackageError(Exception):
    """The package cannot be built, or what was built is not what it should be."""


@dataclass(frozen=True)
class Built:
    """What was made, and what the tool that made it said."""

    sdist: Path
    wheel: Path
    said: str

    @property
    def warnings(self) -> list[str]:
        """Return the lines that warn of something."""
        return [
            line
            for line in self.said.splitlines()
            if _TELLING.search(line) and not any(word in line for word in _OF_NO_INTEREST)
        ]


def config() -> configparser.ConfigParser:
    """Return what ``setup.cfg`` says."""
    parser = configparser.ConfigParser()
    parser.read(ROOT / "setup.cfg")
    return parser


def tracked() -> list[str]:
    """Return the names of the files that a commit of everything here would hold."""
    command = ("git", "ls-files", "--cached", "--others", "--exclude-standard", "-z")
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return sorted(name for name in listed.split("\0") if name and (ROOT / name).is_file())


def build(folder: Path, python: str = sys.executable) -> Built:
    """Build both in ``folder``, from a copy of the repository's files: the checkout keeps no trace of it.

    Args:
        folder: where they go, and the copy.
        python: an interpreter that has the pinned setuptools.
    """
    copy = folder / "copy"
    for name in tracked():
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, copy / name)
    sdist, said = _built(python, "build_sdist", copy, folder)
    unpacked = folder / "unpacked"
    with tarfile.open(sdist) as archive:
        archive.extractall(unpacked, filter="data")
    (source,) = unpacked.iterdir()
    wheel, said_too = _built(python, "build_wheel", source, folder)
    return Built(sdist, wheel, said + said_too)


def _built(python: str, hook: str, source: Path, into: Path) -> tuple[Path, str]:
    variables = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    command = (python, "-W", "error", "-c", _BUILD, hook, str(into))
    done = subprocess.run(
        command, cwd=source, env=variables, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    if done.returncode:
        raise PackageError(f"{hook} failed:\n{done.stdout}")
    return into / done.stdout.split()[-1], done.stdout


def names_in(path: Path) -> list[str]:
    """Return the names of the files in an sdist, without its folder, or in a wheel."""
    if path.suffix == ".whl":
        with zipfile.ZipFile(path) as wheel:
            return sorted(wheel.namelist())
    with tarfile.open(path) as archive:
        return sorted(member.name.partition("/")[2] for member in archive if member.isfile())


def odd_in_sdist(sdist: Path) -> list[str]:
    """Return the names that an sdist lacks, or has and should not."""
    there = {name for name in names_in(sdist) if not name.startswith(_MADE_BY_BUILDING)}
    return sorted(there ^ set(tracked()))


def odd_in_wheel(wheel: Path) -> list[str]:
    """Return the names that a wheel lacks, or has and should not: it is the package, and what tells of it."""
    there = {name for name in names_in(wheel) if ".dist-info/" not in name}
    told = {name.rpartition("/")[2] for name in names_in(wheel) if ".dist-info/" in name}
    wanted = {"METADATA", "RECORD", "WHEEL", "LICENSE", "entry_points.txt", "top_level.txt"}
    return sorted(there ^ {name for name in tracked() if name.startswith("mpengine/")}) + sorted(told ^ wanted)


def metadata(wheel: Path) -> Message:
    """Return what a wheel says of itself."""
    with zipfile.ZipFile(wheel) as archive:
        (name,) = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
        return email.message_from_bytes(archive.read(name))


def extras() -> dict[str, list[str]]:
    """Return the extras for users, and what each brings."""
    section = config()["options.extras_require"]
    ours = ("test", "check", "docs")
    return {name: section[name].split("\n")[1:] for name in section if name not in ours}
