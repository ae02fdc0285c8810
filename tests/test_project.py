"""What the project promises of itself: its version, its weight, its layers, the size of its modules."""

from __future__ import annotations

import configparser
import importlib.metadata
import re
import subprocess
import sys
from pathlib import Path

import pytest

import mpengine

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "mpengine"
MODULES = sorted(PACKAGE.rglob("*.py"))
SCRIPTS = sorted(path for path in (ROOT / "scripts").rglob("*") if path.is_file() and path.suffix != ".pyc")
MAX_LINES = 400
PIN = re.compile(r'^[\w.-]+==[\w.]+(; python_version [<>=]+ "3\.\d+")?$')
SPECIFIER = re.compile(r"^[\w-]+ >=[\d.]+,<[\d.]+$")


@pytest.fixture(scope="module")
def config():
    parser = configparser.ConfigParser()
    parser.read(ROOT / "setup.cfg")
    return parser


def tracked_files():
    """Return the files that a commit of everything here would hold."""
    command = ("git", "ls-files", "--cached", "--others", "--exclude-standard", "-z")
    try:
        listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("not a git checkout")
    return [path for name in listed.split("\0") if name and (path := ROOT / name).is_file()]


def loaded_by(statement):
    """Return the modules that ``statement`` loads in a new interpreter, which may have some already."""
    program = f"import sys; before = set(sys.modules); {statement}; print(*set(sys.modules) - before)"
    return set(
        subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.split()
    )


def test_the_installed_version_is_the_one_in_setup_cfg(config):
    assert importlib.metadata.version("mpengine") == config["metadata"]["version"]


def test_the_command_leads_to_the_command_line():
    (command,) = importlib.metadata.entry_points(group="console_scripts", name="mpengine")

    assert command.value == "mpengine.cli:main"


def test_the_package_says_that_it_is_typed():
    assert (Path(mpengine.__file__).parent / "py.typed").is_file()


def test_importing_the_root_imports_nothing_else():
    loaded = loaded_by("import mpengine")

    assert not {"rich", "click", "psutil", "cloudpickle", "multiprocessing.managers", "asyncio"} & loaded
    assert {name for name in loaded if name.startswith("mpengine.")} == set()


def test_the_command_line_is_light_until_it_runs_something():
    assert not {"rich", "psutil", "multiprocessing", "asyncio"} & loaded_by("import mpengine.cli")


def test_run_time_dependencies_are_bounded_on_both_sides(config):
    wanted = [line for line in config["options"]["install_requires"].splitlines() if line]

    assert {line.split()[0] for line in wanted} == {"click", "cloudpickle", "psutil", "rich"}
    assert all(SPECIFIER.match(line) for line in wanted)


@pytest.mark.parametrize("lock", sorted((ROOT / "requirements").glob("*.lock")), ids=lambda path: path.name)
def test_lock_files_pin_every_version(lock):
    lines = [line for line in lock.read_text().splitlines() if line and not line.startswith(("#", "-r "))]

    assert lines
    assert [
        line for line in lines if not re.match(r"^[\w.-]+==[\w.]+(; python_version [<>=]+ \"3\.\d+\")?$", line)
    ] == []


def test_the_layers_hold_every_module(config):
    layers = config["importlinter:contract:layers"]
    named = set(re.findall(r"\w+", layers["layers"]))
    present = {path.stem for path in PACKAGE.iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()}

    assert layers.getboolean("exhaustive")
    assert present - named == {"__init__"}


def test_the_scheduler_and_the_worker_are_kept_clean_by_contract(config):
    forbidden = {
        section["source_modules"].strip(): set(section["forbidden_modules"].split())
        for section in map(config.__getitem__, config.sections())
        if section.get("type") == "forbidden"
    }

    assert forbidden["mpengine.scheduler"] >= {"os", "time", "threading", "multiprocessing", "logging", "random"}
    assert forbidden["mpengine.worker"] >= {"psutil", "sqlite3", "http", "argparse"}


@pytest.mark.parametrize("module", [*MODULES, *SCRIPTS], ids=lambda path: str(path.relative_to(ROOT)))
def test_modules_can_be_read_in_one_sitting(module):
    assert len(module.read_text().splitlines()) <= MAX_LINES


def test_no_file_tells_where_it_was_written():
    # Put together, so that this file is not one of them.
    telling = [
        "/" + "root/", "/" + "home/", "/" + "work/", "/" + "opt/",
        "pypi" + ".org", "python" + "hosted", "index" + "-url", "find" + "-links", "registry" + ".npmjs",
    ]  # fmt: skip
    found = {
        (str(path.relative_to(ROOT)), word)
        for path in tracked_files()
        for word in telling
        if word.encode() in path.read_bytes()
    }

    assert found == set()


@pytest.mark.parametrize("script", ["scripts/test", "scripts/demo", "scripts/docs", "scripts/soak", ".ci/run"])
def test_scripts_can_be_run(script):
    assert (ROOT / script).stat().st_mode & 0o111
