"""The virtual environments of the scripts beside this file: found, or made from the lock files.

Written for any Python 3.8 or newer, since it is what looks for a newer one.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    from collections.abc import Sequence

ROOT = Path(__file__).resolve().parent.parent
VERSIONS = ("3.11", "3.12", "3.13")

# All pages anew each time: what was read before would not be warned about again.
DOCS_BUILD = (
    "sphinx-build", "--quiet", "--fail-on-warning", "--keep-going", "--fresh-env",
    "--doctree-dir", "build/doctrees", "docs", "build/docs",
)  # fmt: skip

# The Python behind an environment rather than the environment's: it must outlive the one that asks.
_ASK = "import ensurepip, sys, venv; print('%d.%d' % sys.version_info[:2], sys._base_executable)"


def interpreter(version: str | None = None) -> tuple[str, str]:
    """Return the (version, path) of a Python; of the one that runs this, where any supported one will do."""
    running = "{}.{}".format(*sys.version_info[:2])
    if version is None:
        version = running if running in VERSIONS else None
    for wanted in (version,) if version else VERSIONS:
        for candidate in _candidates(wanted):
            path = _path_of(candidate, wanted)
            if path:
                return wanted, path
    sys.exit("no Python {} here (with venv and ensurepip)".format(version or " or ".join(VERSIONS)))


def _candidates(version: str) -> list[str]:
    """Return commands that may be Python ``version``; a pyenv shim stands on PATH even when it refuses to run."""
    pyenv = Path(os.environ.get("PYENV_ROOT") or "~/.pyenv").expanduser()
    kept = sorted(map(str, pyenv.glob(f"versions/{version}*/bin/python")), reverse=True)
    return [sys.executable, f"python{version}", *kept]


def _path_of(candidate: str, version: str) -> str | None:
    """Return the path of the interpreter behind ``candidate`` if it is Python ``version`` and can make environments."""
    try:
        told = subprocess.run([candidate, "-I", "-c", _ASK], capture_output=True, text=True, check=True, timeout=60)
    except (OSError, subprocess.SubprocessError):
        return None
    found, path = told.stdout.split(maxsplit=1)
    return path.strip() if found == version else None


def environment(name: str, python: str, lock: Path, *, fresh: bool = False, lenient: bool = False) -> Path:
    """Return the folder with the programs of an environment that has what ``lock`` pins, and the package itself.

    It is made anew when anything it was made from has changed, or was not finished.  A ``lenient`` one does without
    what will not install, and its file ``not-installed`` says what and why, a line each.
    """
    folder = ROOT / name
    stamp, wanted = folder / "made-from", _fingerprint(python, lock)
    folder.mkdir(exist_ok=True)
    with (ROOT / f"{name}.lock").open("w") as guard:  # two scripts at once: the second one waits
        fcntl.flock(guard, fcntl.LOCK_EX)
        if fresh or not stamp.exists() or stamp.read_text() != wanted:
            print(f"making {name} with {python}", flush=True)
            shutil.rmtree(folder)
            _quietly(python, "-m", "venv", str(folder))
            inside = str(folder / "bin" / "python")
            if lenient:
                left_out = _install_what_can_be(inside, lock)
                (folder / "not-installed").write_text("".join(line + "\n" for line in left_out))
            else:
                _quietly(inside, "-m", "pip", "install", "--no-deps", "--requirement", str(lock))
            # The pinned setuptools builds it, not one that pip would fetch for the occasion.
            package = ("--no-build-isolation", "--use-pep517", "--editable", str(ROOT))
            _quietly(inside, "-m", "pip", "install", "--no-deps", *package)
            if not lenient:
                _quietly(inside, "-m", "pip", "check")
            stamp.write_text(wanted)
    return folder / "bin"


def _install_what_can_be(inside: str, lock: Path) -> list[str]:
    """Install what a lock file pins, at one go or else one by one; return what failed, and why."""
    install = [inside, "-m", "pip", "install", "--disable-pip-version-check", "--no-deps"]
    if _run([*install, "--requirement", str(lock)]).returncode == 0:
        return []
    left_out = []
    for line in lock.read_text(encoding="utf-8").splitlines():
        requirement = line.partition("#")[0].strip()
        if requirement and (done := _run([*install, requirement])).returncode:
            reasons = [said for said in done.stdout.splitlines() if said.startswith("ERROR")] or ["no reason given"]
            left_out.append(f"{requirement}: {reasons[-1]}")
    return left_out


def move_house(script: str) -> NoReturn:
    """Start ``script`` again, with the same arguments, in a virtual environment that has mpengine."""
    _, python = interpreter()
    program = str(environment(".venv-demo", python, ROOT / "requirements" / "run.lock") / "python")
    if Path(sys.prefix) == Path(program).parent.parent:
        sys.exit(f"{program} has no mpengine")
    os.execv(program, [program, script, *sys.argv[1:]])  # noqa: S606 - the same program, elsewhere


def _fingerprint(python: str, lock: Path) -> str:
    """Return a text that changes with everything an environment is made from."""
    made_from = [*_included(lock), ROOT / "setup.cfg", ROOT / "setup.py"]
    content = b"\0".join(path.read_bytes() for path in made_from)
    return f"{python} {hashlib.sha256(content).hexdigest()}\n"


def _included(lock: Path) -> list[Path]:
    """Return a lock file and those that it includes."""
    lines = lock.read_text(encoding="utf-8").splitlines()
    return [lock, *(lock.parent / line.split()[1] for line in lines if line.startswith("-r "))]


def _quietly(*command: str) -> None:
    """Run a command that must succeed; show what it said only if it does not."""
    done = _run(command)
    if done.returncode:
        sys.exit("{}\n{}\nfailed with status {}".format(" ".join(command), done.stdout, done.returncode))


def _run(command: Sequence[str]) -> subprocess.CompletedProcess[str]:
    """Run a command, and keep what it says."""
    return subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
