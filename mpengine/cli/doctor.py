"""Whether an engine can run here, and if not, why: facts, trials, and what follows from them."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mpengine.cli import machine, trials
from mpengine.cli.advice import find_advice
from mpengine.cli.surroundings import surroundings
from mpengine.ipc.mpqueue import PIPE_BYTES

if TYPE_CHECKING:
    from rich.console import RenderableType

    from mpengine.cli.machine import Facts

DEFAULT_METHOD = "forkserver"
LABEL_COLUMNS = 22
"""The tables are one below another, and so are their values."""
METHODS = (DEFAULT_METHOD, "spawn", "fork")
FILES_A_WORKER = 5
"""What an engine has open for each worker."""
FILES_OF_ITS_OWN = 32
"""What a program has open anyway, what an engine has open however many workers it has, and room to start one."""


def examine(path: Path | None = None) -> Facts:
    """Look at the machine, start a worker by each start method, and judge.

    Args:
        path: where a long job would keep its journal or its output; None: in the current folder.

    Returns:
        What was found, ready for JSON.  ``problems`` are reasons why an engine with its defaults cannot run here,
        ``remarks`` are what it can do without; ``ok`` is whether there are no problems.  ``advice`` is what to do
        before a job that runs for hours.
    """
    facts: Facts = {
        "versions": machine.versions(),
        "cores": machine.cores(),
        "memory": machine.memory(),
        "limits": machine.limits(),
        "pipes": machine.pipes(),
        "kernel": machine.kernel(),
        "shared_memory": machine.shared_memory(),
        "start_methods": {method: asdict(trials.try_start_method(method)) for method in METHODS},
    }
    facts["long_jobs"] = surroundings(path or Path(), facts["cores"]["default_workers"])
    found = (trial["lifeline"] for trial in facts["start_methods"].values())
    facts["kernel"]["lifeline"] = next((mechanism for mechanism in found if mechanism), None)
    problems = find_problems(facts)
    told = {"problems": problems, "remarks": find_remarks(facts), "advice": find_advice(facts)}
    return {"ok": not problems, **told, **facts}


def find_problems(facts: Facts) -> list[str]:
    """Return why an engine with its defaults cannot run here."""
    problems = [f"{name} is not installed" for name, version in facts["versions"]["needed"].items() if version is None]
    default = facts["start_methods"][DEFAULT_METHOD]
    if not default["works"]:
        others = [method for method, trial in facts["start_methods"].items() if trial["works"]]
        instead = f"; {' and '.join(others)} would" if others else ""
        problems.append(f"the start method {DEFAULT_METHOD} does not work: {default['error']}{instead}")
    soft, workers = facts["limits"]["open_files"]["soft"], facts["cores"]["default_workers"]
    needed = FILES_OF_ITS_OWN + FILES_A_WORKER * workers
    if soft is not None and soft < needed:
        problems.append(f"{workers} workers need {needed} open files, and {soft} are allowed (ulimit -n)")
    return problems


def find_remarks(facts: Facts) -> list[str]:
    """Return what is missing here and can be done without."""
    remarks = [
        f"the start method {method} does not work: {trial['error']}"
        for method, trial in facts["start_methods"].items()
        if method != DEFAULT_METHOD and not trial["works"]
    ]
    kernel, pipes = facts["kernel"], facts["pipes"]
    if facts["versions"]["system"] != "Linux":
        remarks.append("only Linux is tested")
    if kernel["lifeline"] == "thread":
        remarks.append("the kernel ends no orphans: a worker that holds the interpreter's lock outlives its parent")
    if not kernel["pidfd"]:
        remarks.append("no pidfd: the end of a process is found out by asking")
    if not kernel["memfd"]:
        remarks.append("no memfd: temporary files take its place")
    if pipes["engine_bytes"] is not None and pipes["engine_bytes"] < PIPE_BYTES:
        remarks.append(f"pipes are {size(pipes['engine_bytes'])}, not {size(PIPE_BYTES)}: more trips a batch")
    return remarks


def tables(facts: Facts) -> list[RenderableType]:
    """Return what was found, for a person."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    made: list[RenderableType] = []
    for title, rows in _sections(facts):
        shown = Table(box=SIMPLE_HEAD, pad_edge=False, header_style="bold")
        shown.add_column(title, no_wrap=True)
        shown.add_column("", overflow="fold")
        for label, value in rows:
            shown.add_row(label.ljust(LABEL_COLUMNS), Text(str(value)))
        made.append(shown)
    made += [Text(f"Note: {remark}.") for remark in facts["remarks"]]
    made += [Text(f"Before a long job: {line}.") for line in facts["advice"]]
    if facts["ok"]:
        made.append(Text("An engine can run here.", style="green"))
    return made


def size(count: int | None) -> str:
    """Return so many bytes in the unit that suits them."""
    if count is None:
        return "unknown"
    amount, units = float(count), ["B", "KiB", "MiB", "GiB", "TiB"]
    while amount >= 1024 and len(units) > 1:  # noqa: PLR2004 - what the units mean
        amount /= 1024
        units.pop(0)
    return f"{amount:.4g} {units[0]}"


def _sections(facts: Facts) -> list[tuple[str, list[tuple[str, object]]]]:
    versions, cores, memory = facts["versions"], facts["cores"], facts["memory"]
    around = facts["long_jobs"]
    limits, pipes, kernel, shared = facts["limits"], facts["pipes"], facts["kernel"], facts["shared_memory"]
    installed = {**versions["needed"], **versions["extras"]}
    return [
        (
            "versions",
            [
                ("mpengine", versions["mpengine"]),
                ("Python", f"{versions['python']} ({versions['implementation']})"),
                ("system", f"{versions['system']} {versions['kernel']}, {versions['machine']}"),
                *((name, version or "not installed") for name, version in installed.items()),
            ],
        ),
        (
            "cores",
            [
                ("of the machine", cores["machine"]),
                ("by affinity", _or(cores["affinity"], "unknown")),
                ("cgroup quota", _or(cores["cgroup_quota"], "none")),
                ("default workers", cores["default_workers"]),
            ],
        ),
        (
            "memory",
            [
                ("total", size(memory["total_bytes"])),
                ("available", size(memory["available_bytes"])),
                ("cgroup limit", _limited_size(memory["cgroup_limit_bytes"])),
                (f"{shared['path']}, size", size(shared["size_bytes"])),
                (f"{shared['path']}, free", size(shared["free_bytes"])),
            ],
        ),
        (
            "limits",
            [
                ("open files", _soft_and_hard(limits["open_files"])),
                ("open files now", _or(limits["open_files_now"], "unknown")),
                ("processes of the user", _soft_and_hard(limits["processes"])),
                ("address space, bytes", _soft_and_hard(limits["address_space_bytes"])),
                ("a pipe", size(pipes["default_bytes"])),
                ("a pipe at most", size(pipes["max_bytes"])),
                ("a pipe of an engine", size(pipes["engine_bytes"])),
                ("pipes of the user", _limited_size(pipes["user_bytes"])),
            ],
        ),
        (
            "kernel",
            [
                ("pidfd", _yes(kernel["pidfd"])),
                ("memfd", _yes(kernel["memfd"])),
                ("lifeline", _LIFELINES.get(kernel["lifeline"], "unknown: no worker has started")),
            ],
        ),
        (
            "long jobs",
            [
                ("the job's disk", _place(around["disk"])),
                ("temporary files", _place(around["temporary"])),
                ("swap", size(around["memory"]["swap_bytes"])),
                ("cgroup memory.high", _limited_size(around["group"]["memory_high_bytes"])),
                ("cgroup processes", _or(around["group"]["processes_max"], "no limit")),
                ("threads of the user", _or(around["limits"]["processes_now"], "unknown")),
                ("core files, bytes", _soft_and_hard(around["limits"]["core_bytes"])),
                ("thread variables", _variables(around["threads"]["variables"])),
                ("clock", _or(around["clock"]["source"], "unknown")),
            ],
        ),
        ("start methods", [(method, _told(trial)) for method, trial in facts["start_methods"].items()]),
    ]


_LIFELINES = {"sigio": "by the kernel's signal (F_SETSIG)", "thread": "by a thread"}


def _told(trial: dict[str, Any]) -> str:
    took = f"{trial['seconds']:.2f} s"
    return f"works, {took}" if trial["works"] else f"does not work, {took}: {trial['error']}"


def _place(disk: dict[str, Any]) -> str:
    return f"{size(disk['free_bytes'])} free at {disk['path']} ({disk['kind'] or 'unknown'})"


def _variables(found: dict[str, str]) -> str:
    return ", ".join(f"{name}={text}" for name, text in found.items()) or "none set"


def _yes(there: bool) -> str:  # noqa: FBT001 - a plain value to be worded
    return "yes" if there else "no"


def _or(value: object, otherwise: str) -> object:
    return otherwise if value is None else value


def _limited_size(count: int | None) -> str:
    return "none" if count is None else size(count)


def _soft_and_hard(limit: dict[str, int | None]) -> str:
    soft, hard = ("no limit" if limit[kind] is None else f"{limit[kind]:,}" for kind in ("soft", "hard"))
    return soft if soft == hard else f"{soft} (at most {hard})"
