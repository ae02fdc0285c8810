"""What to do before a long job is started here, in a line for each thing: pure, from facts.

A line says what there is, what would come of it, and what to do.  Where there is nothing to say, nothing is said.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mpengine.cli.machine import Facts

GIB = 1 << 30
SCARCE_BYTES = GIB
SCARCE_SHARE = 0.05
SCARCE_FILES = 10_000
FEW_OPEN_FILES = 4_096
FILES_A_WORKER = 5
THREADS_A_WORKER = 4
SPARE_PROCESSES = 64
SMALL_SHARED_BYTES = 1 << 28
REMOTE_KINDS = {"nfs", "nfs4", "cifs", "smb3", "smbfs", "fuse.sshfs", "9p", "afs", "lustre", "ceph"}
SLOW_CLOCKS = {"hpet", "acpi_pm", "jiffies", "pit"}
NEVER_OVERCOMMIT = 2
BEFORE_US = 1_700_000_000
"""A clock that shows less has never been set."""


def find_advice(facts: Facts) -> list[str]:
    """Return what to do, one line for each thing.

    Args:
        facts: those of ``doctor.examine``, ``long_jobs`` among them.
    """
    return [line for look in (_disks, _memory, _cores, _limits, _rest) for line in look(facts)]


def _disks(facts: Facts) -> Iterator[str]:
    around = facts["long_jobs"]
    for place, what, change in (
        (around["disk"], "journal or output", "make room, or put it elsewhere"),
        (around["temporary"], "temporary files", "set TMPDIR to a folder with room"),
    ):
        path, free, total = place["path"], place["free_bytes"], place["size_bytes"]
        if place["read_only"] or not place["writable"]:
            yield f"{path} cannot be written to: no place for {what}; choose another, or mend its rights"
        elif free is not None and (free < SCARCE_BYTES or free < SCARCE_SHARE * (total or 0)):
            yield f"{_size(free)} are free at {path}, for {what}: a full disk ends the job; {change}"
        if place["free_files"] is not None and place["free_files"] < SCARCE_FILES:
            yield f"{place['free_files']:,} more files fit on the disk of {path}: remove some, or {change}"
    disk, temporary = around["disk"], around["temporary"]
    if disk["kind"] in REMOTE_KINDS:
        yield f"{disk['path']} is on {disk['kind']}, where a journal in SQLite is not safe: put it on a local disk"
    if disk["kind"] == "tmpfs":
        yield f"{disk['path']} is in memory (tmpfs), and gone with the machine's power: put the journal on a disk"
    if temporary["kind"] == "tmpfs":
        yield f"{temporary['path']} is in memory (tmpfs): outputs that are kept there count as memory; set TMPDIR"
    if temporary["nameless_files"] is False:
        yield f"{temporary['path']} takes no nameless files: a kill may leave some behind; set TMPDIR to a local disk"
    shared = facts["shared_memory"]
    if shared["free_bytes"] is not None and shared["free_bytes"] < SMALL_SHARED_BYTES:
        yield (
            f"{_size(shared['free_bytes'])} are free in {shared['path']}: the engine does without, libraries such as "
            "PyTorch do not; in Docker give --shm-size"
        )


def _memory(facts: Facts) -> Iterator[str]:
    around, machine = facts["long_jobs"], facts["memory"]
    group, memory = around["group"], around["memory"]
    high, most = group["memory_high_bytes"], group["memory_max_bytes"]
    workers = facts["cores"]["default_workers"]
    if most is not None and most < (machine["total_bytes"] or most + 1):
        yield (
            f"the control group kills at {_size(most)}, {_size(most // workers)} a worker: set memory_limit=, or raise "
            "memory.max (docker --memory, systemd MemoryMax=)"
        )
    if high is not None and (most is None or high < most):
        yield f"above {_size(high)} the control group slows everything down: keep below memory.high, or raise it"
    if most is not None and group["swap_max_bytes"] == 0:
        yield "the control group has no swap: a peak of memory is a kill at once; leave room below memory.max"
    elif memory["swap_bytes"] == 0:
        yield "there is no swap: a peak of memory is a kill at once; set memory_limit= for the workers, or add swap"
    if memory["overcommit"] == NEVER_OVERCOMMIT:
        left = None
        if memory["commit_limit_bytes"] is not None and memory["committed_bytes"] is not None:
            left = memory["commit_limit_bytes"] - memory["committed_bytes"]
        yield (
            f"memory is never overcommitted here ({_size(left)} left to promise): starting workers of a large parent "
            "may fail; raise vm.overcommit_ratio, or start small"
        )
    space = facts["limits"]["address_space_bytes"]["soft"]
    if space is not None:
        yield f"the address space is limited to {_size(space)} a process (ulimit -v): unset it, and use memory_limit="


def _cores(facts: Facts) -> Iterator[str]:
    cores, threads = facts["cores"], facts["long_jobs"]["threads"]
    quota, own = cores["cgroup_quota"], cores["affinity"] or cores["machine"]
    if quota is not None and own is not None and quota < own:
        yield (
            f"the CPU quota is {quota:g} cores of {own}: more workers than {max(1, int(quota))} are throttled; "
            "raise cpu.max (docker --cpus), or leave workers= alone"
        )
    for name, text in threads["variables"].items():
        count = int(text) if text.isdecimal() else 0
        if count * threads["workers"] > threads["cores"]:
            yield (
                f"{name}={text} for {threads['workers']} workers makes {count * threads['workers']} threads on "
                f"{threads['cores']} cores: unset it, and the engine sets {threads['by_engine']}"
            )
    broken = [method for method, trial in facts["start_methods"].items() if not trial["works"]]
    if broken:
        yield f"the start methods {', '.join(broken)} do not work: leave start_method= at one that does"


def _limits(facts: Facts) -> Iterator[str]:
    limits, around = facts["limits"], facts["long_jobs"]
    workers = facts["cores"]["default_workers"]
    files, group = limits["open_files"], around["group"]
    if files["soft"] is not None and files["soft"] < FEW_OPEN_FILES:
        can = "ulimit -n " + (f"{files['hard']}" if files["hard"] else "65536")
        most = (files["soft"] - (limits["open_files_now"] or 0)) // FILES_A_WORKER
        yield f"{files['soft']:,} open files are allowed, enough for about {most:,} workers and your own few: {can}"
    for most, now, name in (
        (limits["processes"]["soft"], around["limits"]["processes_now"], "ulimit -u"),
        (group["processes_max"], group["processes_now"], "pids.max of the control group"),
    ):
        wanted = workers * THREADS_A_WORKER + SPARE_PROCESSES
        if most is not None and now is not None and most - now < wanted:
            yield f"{max(0, most - now):,} more processes and threads fit in {name}: raise it to {now + wanted:,}"
    own = around["limits"]
    if own["core_bytes"]["soft"] != 0 and not (own["core_pattern"] or "").startswith("|"):
        yield "a worker that crashes writes a core file as large as its memory: ulimit -c 0, unless you want it"
    if own["file_bytes"] is not None:
        yield f"no file may grow beyond {_size(own['file_bytes'])} (ulimit -f): unset it, or the output ends there"
    if own["cpu_s"] is not None:
        yield f"a process is killed after {own['cpu_s']:,} s of CPU time (ulimit -t): unset it for a long job"


def _rest(facts: Facts) -> Iterator[str]:
    around = facts["long_jobs"]
    clock, terminal = around["clock"], around["terminal"]
    if clock["now"] < BEFORE_US:
        yield "the clock has never been set: times in logs and journals are wrong; start a time service"
    if clock["source"] in SLOW_CLOCKS:
        yield f"the time is told by {clock['source']}, which is slow to ask: boot with clocksource=tsc if it can"
    if clock["slept_s"]:
        yield f"the machine has slept for {clock['slept_s']:,.0f} s since its start: keep it awake (systemd-inhibit)"
    if (
        terminal["is_terminal"]
        and terminal["is_remote"]
        and not (terminal["multiplexer"] or terminal["hangup_ignored"])
    ):
        yield "the connection of this terminal ends the job with it: start it in tmux or screen, or with nohup"


def _size(count: int | None) -> str:
    from mpengine.cli.doctor import size

    return size(count)
