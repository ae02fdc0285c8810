"""What a long job meets, and what to do about it: one line for each thing, and none where there is nothing to say."""

from __future__ import annotations

import copy
import json
import os
import resource

import pytest

from mpengine.cli import main, trials
from mpengine.cli.advice import find_advice
from mpengine.cli.surroundings import clock, disk, group, memory, surroundings
from mpengine.cli.trials import Trial

GIB = 1 << 30
DISK = {
    "path": "/job", "kind": "ext4", "writable": True, "read_only": False,
    "size_bytes": 100 * GIB, "free_bytes": 50 * GIB, "free_files": 1_000_000,
}  # fmt: skip


@pytest.fixture
def facts():
    """A machine where a long job meets nothing."""
    return {
        "cores": {"default_workers": 4, "cgroup_quota": None, "affinity": 4, "machine": 4},
        "memory": {"total_bytes": 8 * GIB},
        "limits": {
            "open_files": {"soft": 65536, "hard": None},
            "open_files_now": 10,
            "processes": {"soft": None, "hard": None},
            "address_space_bytes": {"soft": None, "hard": None},
        },
        "shared_memory": {"path": "/dev/shm", "free_bytes": GIB},
        "start_methods": {"forkserver": {"works": True}, "fork": {"works": True}},
        "long_jobs": {
            "disk": dict(DISK),
            "temporary": {**DISK, "path": "/temporary", "nameless_files": True},
            "group": dict.fromkeys(
                (
                    "cpu_quota",
                    "memory_high_bytes",
                    "memory_max_bytes",
                    "swap_max_bytes",
                    "processes_max",
                    "processes_now",
                )
            ),
            "memory": {"overcommit": 0, "swap_bytes": GIB, "commit_limit_bytes": 9 * GIB, "committed_bytes": GIB},
            "limits": {
                "core_bytes": {"soft": 0, "hard": None},
                "core_pattern": "core",
                "file_bytes": None,
                "cpu_s": None,
                "processes_now": 50,
            },
            "threads": {"variables": {}, "workers": 4, "cores": 4, "by_engine": 1},
            "clock": {"source": "tsc", "now": 1_800_000_000, "slept_s": 0.0},
            "terminal": {"is_terminal": True, "is_remote": False, "hangup_ignored": False, "multiplexer": None},
        },
    }


def test_where_a_long_job_meets_nothing_nothing_is_said(facts):
    assert find_advice(facts) == []


LONG = "long_jobs"


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({(LONG, "disk", "free_bytes"): 1 << 20}, "1 MiB are free at /job, for journal or output"),
        ({(LONG, "disk", "free_bytes"): 4 * GIB}, "4 GiB are free at /job"),
        ({(LONG, "disk", "writable"): False}, "/job cannot be written to"),
        ({(LONG, "temporary", "read_only"): True}, "/temporary cannot be written to"),
        ({(LONG, "disk", "free_files"): 12}, "12 more files fit on the disk of /job"),
        ({(LONG, "disk", "kind"): "nfs4"}, "/job is on nfs4, where a journal in SQLite is not safe"),
        ({(LONG, "disk", "kind"): "tmpfs"}, "/job is in memory (tmpfs), and gone with the machine's power"),
        ({(LONG, "temporary", "kind"): "tmpfs"}, "outputs that are kept there count as memory; set TMPDIR"),
        ({(LONG, "temporary", "nameless_files"): False}, "/temporary takes no nameless files"),
        ({("shared_memory", "free_bytes"): 64 << 20}, "64 MiB are free in /dev/shm"),
        ({(LONG, "group", "memory_max_bytes"): 2 * GIB}, "kills at 2 GiB, 512 MiB a worker"),
        ({(LONG, "group", "memory_high_bytes"): 2 * GIB}, "above 2 GiB the control group slows everything down"),
        (
            {(LONG, "group", "memory_max_bytes"): 8 * GIB, (LONG, "group", "swap_max_bytes"): 0},
            "the control group has no swap",
        ),
        ({(LONG, "memory", "swap_bytes"): 0}, "there is no swap"),
        ({(LONG, "memory", "overcommit"): 2}, "never overcommitted here (8 GiB left to promise)"),
        ({("limits", "address_space_bytes", "soft"): GIB}, "limited to 1 GiB a process (ulimit -v)"),
        ({("cores", "cgroup_quota"): 1.5}, "the CPU quota is 1.5 cores of 4: more workers than 1 are throttled"),
        (
            {(LONG, "threads", "variables"): {"OMP_NUM_THREADS": "8"}},
            "OMP_NUM_THREADS=8 for 4 workers makes 32 threads",
        ),
        ({("start_methods", "fork", "works"): False}, "the start methods fork do not work"),
        ({("limits", "open_files", "soft"): 1024}, "1,024 open files are allowed, enough for about 202 workers"),
        ({("limits", "processes", "soft"): 100}, "50 more processes and threads fit in ulimit -u: raise it to 130"),
        (
            {(LONG, "group", "processes_max"): 60, (LONG, "group", "processes_now"): 58},
            "2 more processes and threads fit in pids.max",
        ),
        ({(LONG, "limits", "core_bytes", "soft"): None}, "writes a core file as large as its memory: ulimit -c 0"),
        ({(LONG, "limits", "file_bytes"): GIB}, "no file may grow beyond 1 GiB (ulimit -f)"),
        ({(LONG, "limits", "cpu_s"): 3600}, "killed after 3,600 s of CPU time (ulimit -t)"),
        ({(LONG, "clock", "now"): 0}, "the clock has never been set"),
        ({(LONG, "clock", "source"): "hpet"}, "the time is told by hpet, which is slow to ask"),
        ({(LONG, "clock", "slept_s"): 90.0}, "the machine has slept for 90 s"),
        ({(LONG, "terminal", "is_remote"): True}, "start it in tmux or screen, or with nohup"),
    ],
)
def test_each_thing_is_one_line_that_says_what_to_do(facts, changes, told):
    facts = copy.deepcopy(facts)
    for (*folders, name), value in changes.items():
        place = facts
        for folder in folders:
            place = place[folder]
        place[name] = value

    (line,) = find_advice(facts)

    assert told in line
    assert "\n" not in line


def test_core_files_that_a_program_takes_care_of_are_none_of_ours(facts):
    facts[LONG]["limits"].update(
        core_bytes={"soft": None, "hard": None}, core_pattern="|/usr/lib/systemd/systemd-coredump"
    )

    assert find_advice(facts) == []


# -- what there is


def test_the_disk_is_that_of_a_path_that_is_not_there_yet(tmp_path):
    found = disk(tmp_path / "not" / "yet" / "journal.db")

    assert found["path"] == str(tmp_path / "not" / "yet" / "journal.db")
    assert found["free_bytes"] == pytest.approx(os.statvfs(tmp_path).f_bavail * os.statvfs(tmp_path).f_frsize, rel=0.1)
    assert isinstance(found["kind"], str)
    assert found["read_only"] is False


def test_what_a_control_group_says_is_read_and_the_tightest_counts(tmp_path):
    for name, text in {
        "proc/self/cgroup": "0::/a/b\n",
        "sys/fs/cgroup/a/memory.high": "700",
        "sys/fs/cgroup/a/b/memory.high": "max",
        "sys/fs/cgroup/a/memory.max": "900",
        "sys/fs/cgroup/a/b/memory.max": "800",
        "sys/fs/cgroup/a/b/memory.swap.max": "0",
        "sys/fs/cgroup/a/b/pids.max": "50",
        "sys/fs/cgroup/a/b/pids.current": "3",
        "sys/fs/cgroup/a/b/cpu.max": "150000 100000",
        "proc/meminfo": "SwapTotal:  2 kB\nCommitLimit: 8 kB\nCommitted_AS: 5 kB\nMemTotal: 1 kB\n",
        "proc/sys/vm/overcommit_memory": "2\n",
        "sys/devices/system/clocksource/clocksource0/current_clocksource": "hpet\n",
    }.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)

    assert group(tmp_path) == {
        "cpu_quota": 1.5,
        "memory_high_bytes": 700,
        "memory_max_bytes": 800,
        "swap_max_bytes": 0,
        "processes_max": 50,
        "processes_now": 3,
    }
    assert memory(tmp_path)["overcommit"] == 2
    assert (memory(tmp_path)["swap_bytes"], memory(tmp_path)["committed_bytes"]) == (2048, 5120)
    assert clock(tmp_path)["source"] == "hpet"


def test_what_is_not_there_is_unknown(tmp_path):
    assert set(group(tmp_path / "nowhere").values()) == {None}
    assert set(memory(tmp_path / "nowhere").values()) == {None}
    assert clock(tmp_path / "nowhere")["source"] is None


def test_what_this_very_process_has_set_is_seen(monkeypatch, tmp_path):
    monkeypatch.setenv("OMP_NUM_THREADS", "64")
    soft, hard = resource.getrlimit(resource.RLIMIT_CORE)
    resource.setrlimit(resource.RLIMIT_CORE, (0, hard))
    try:
        found = surroundings(tmp_path, workers=2)
    finally:
        resource.setrlimit(resource.RLIMIT_CORE, (soft, hard))

    assert found["threads"]["variables"]["OMP_NUM_THREADS"] == "64"
    assert found["limits"]["core_bytes"]["soft"] == 0
    assert found["limits"]["processes_now"] >= 1
    assert found["temporary"]["nameless_files"] in {True, False}


def test_doctor_tells_of_the_path_it_is_given(capfd, monkeypatch, tmp_path):
    monkeypatch.setattr(trials, "try_start_method", lambda _: Trial(True, 0.1, "sigio"))
    monkeypatch.setenv("OMP_NUM_THREADS", "512")

    assert main(["doctor", "--json", "--path", str(tmp_path / "journal.db")]) == 0

    found = json.loads(capfd.readouterr().out)
    assert found["long_jobs"]["disk"]["path"] == str(tmp_path / "journal.db")
    assert any("OMP_NUM_THREADS=512" in line for line in found["advice"])

    assert main(["doctor", "--path", str(tmp_path)]) == 0
    assert "Before a long job: OMP_NUM_THREADS=512" in " ".join(capfd.readouterr().out.split())
