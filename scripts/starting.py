"""What it takes until there is a first result, and what idle workers weigh: cases of the benchmark beside this file."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from typing import TYPE_CHECKING

from contenders import starting as peers
from measuring import compare, interleave

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator

    from measuring import Table

STARTUP = {
    "mpengine": "from mpengine import Engine\nengine = Engine({workers})\nresult = next(engine.map(abs, [-1]))",
    "mpengine, run() to its end": "from mpengine import Engine\nEngine({workers}).run([abs], [-1]).unwrap()",
    "Pool (fork)": "import multiprocessing as m\nresult = next(m.get_context('fork').Pool({workers}).imap(abs, [-1]))",
}


def startup(options: argparse.Namespace) -> Iterator[Table]:
    """Measure a job of one item in a fresh process: from the import to the first result, and the process as a whole."""
    timed = "import time\nbegan = time.perf_counter()\n{}\nprint(time.perf_counter() - began, flush=True)"
    programs = {**STARTUP, **peers.programs(options.peer)}
    whole: dict[str, list[float]] = {name: [] for name in programs}

    def once(name: str) -> float:
        program = timed.format(programs[name].format(workers=options.workers))
        began = time.perf_counter()
        done = subprocess.run([sys.executable, "-c", program], stdout=subprocess.PIPE, check=True, env=environ)
        whole[name].append((time.perf_counter() - began) * 1000)
        return float(done.stdout) * 1000

    with tempfile.TemporaryDirectory() as folder:
        environ = with_bytecode(folder)
        for name in programs:
            once(name)
            whole[name].clear()
        contenders = {name: lambda name=name: once(name) for name in programs}
        series = interleave(contenders, max(options.repeats, 3 if options.quick else 15))
    title = f"startup: import to first result, one item, {options.workers} workers (a ratio over 1 is slower)"
    yield compare(title, series, "Pool (fork)", unit="ms")
    series.values = whole
    yield compare("startup: the whole process, from its start to its end", series, "Pool (fork)", unit="ms")


def with_bytecode(folder: str) -> dict[str, str]:
    """Return an environment in which modules are compiled once, into a folder, whatever this program was told of that.

    Installed packages have their bytecode; sources that were checked out may not be allowed to.
    """
    environ = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    return {**environ, "PYTHONPYCACHEPREFIX": folder}


IDLE = "print(flush=True)\n    input()"
MEMORY = {
    "mpengine": "from mpengine import Engine\n"
    "with Engine({workers}) as engine:\n    engine.run([abs], range(100)).unwrap()",
    "Pool (fork)": "import multiprocessing as m\n"
    "with m.get_context('fork').Pool({workers}) as pool:\n    list(pool.imap(abs, range(100)))",
}


def memory(options: argparse.Namespace) -> Iterator[Table]:
    """Measure what idle workers weigh, after a run, with the parent and all that helps them."""
    import psutil

    def once(name: str) -> float:
        program = f"{MEMORY[name].format(workers=options.workers)}\n    {IDLE}"
        with subprocess.Popen(
            [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environ
        ) as running:
            if running.stdout is not None:
                running.stdout.readline()
            parent = psutil.Process(running.pid)
            family = [parent, *parent.children(recursive=True)]
            weight = sum(process.memory_full_info().pss for process in family) / 2**20
            running.communicate(b"\n")
        return weight

    with tempfile.TemporaryDirectory() as folder:
        environ = with_bytecode(folder)
        contenders = {name: lambda name=name: once(name) for name in MEMORY}
        for run in contenders.values():
            run()
        series = interleave(contenders, 2 if options.quick else 5)
    title = f"memory: {options.workers} idle workers after a run, all processes, PSS (a ratio over 1 is more)"
    yield compare(title, series, "Pool (fork)", unit="MiB")
