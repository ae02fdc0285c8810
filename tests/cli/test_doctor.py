"""Whether an engine can run here: facts of this machine, trials of each start method, and what follows from them."""

from __future__ import annotations

import copy
import json
import os

import pytest

from mpengine.cli import doctor, machine, main, trials
from mpengine.cli.trials import Trial, try_start_method
from mpengine.worker import lifeline

WELL = {"works": True, "seconds": 0.1, "lifeline": "sigio", "error": None}
ILL = {"works": False, "seconds": 0.1, "lifeline": None, "error": "OSError: no"}


@pytest.fixture
def facts():
    """What a machine with nothing amiss says."""
    return {
        "versions": {"system": "Linux", "needed": {"click": "8", "psutil": "7"}, "extras": {"numpy": None}},
        "cores": {"default_workers": 4},
        "limits": {"open_files": {"soft": 1024, "hard": None}},
        "pipes": {"engine_bytes": 1 << 20},
        "kernel": {"pidfd": True, "memfd": True, "lifeline": "sigio"},
        "start_methods": {"forkserver": WELL, "spawn": WELL, "fork": WELL},
    }


@pytest.fixture
def without_trials(monkeypatch):
    """Start nothing; a start method does what the dict says, and else works."""
    outcomes = {}
    monkeypatch.setattr(
        trials, "try_start_method", lambda method: outcomes.get(method, Trial(True, 0.1, lifeline.SIGIO))
    )
    return outcomes


# -- what follows from what


def test_a_machine_with_nothing_amiss_has_no_problem_and_no_remark(facts):
    assert (doctor.find_problems(facts), doctor.find_remarks(facts)) == ([], [])


@pytest.mark.parametrize(
    ("place", "value", "told"),
    [
        (("versions", "needed", "psutil"), None, "psutil is not installed"),
        (
            ("start_methods", "forkserver"),
            ILL,
            "the start method forkserver does not work: OSError: no; spawn and fork would",
        ),
        (("limits", "open_files", "soft"), 40, "4 workers need 52 open files, and 40 are allowed (ulimit -n)"),
    ],
)
def test_what_an_engine_needs_and_lacks_is_a_problem(facts, place, value, told):
    assert doctor.find_problems(changed(facts, place, value)) == [told]


@pytest.mark.parametrize(
    ("place", "value", "told"),
    [
        (("versions", "system"), "Darwin", "only Linux is tested"),
        (("start_methods", "fork"), ILL, "the start method fork does not work: OSError: no"),
        (("kernel", "lifeline"), "thread", "outlives its parent"),
        (("kernel", "pidfd"), False, "no pidfd"),
        (("kernel", "memfd"), False, "no memfd"),
        (("pipes", "engine_bytes"), 4096, "pipes are 4 KiB, not 1 MiB"),
    ],
)
def test_what_can_be_done_without_is_a_remark(facts, place, value, told):
    facts = changed(facts, place, value)

    assert doctor.find_problems(facts) == []
    (remark,) = doctor.find_remarks(facts)
    assert told in remark


def test_no_limit_is_no_problem(facts):
    assert doctor.find_problems(changed(facts, ("limits", "open_files", "soft"), None)) == []


def changed(facts, place, value):
    facts = copy.deepcopy(facts)
    *folders, name = place
    found = facts
    for folder in folders:
        found = found[folder]
    found[name] = value
    return facts


@pytest.mark.parametrize(
    ("count", "text"), [(None, "unknown"), (0, "0 B"), (1023, "1023 B"), (1 << 20, "1 MiB"), (25 << 30, "25 GiB")]
)
def test_sizes_are_worded_in_the_unit_that_suits_them(count, text):
    assert doctor.size(count) == text


# -- the machine


@pytest.mark.parametrize(
    ("groups", "limits", "limit"),
    [
        ("0::/a/b\n", {"a/b/memory.max": "max", "a/memory.max": "700", "memory.max": "900"}, 700),
        ("0::/not/here\n", {"memory.max": "900"}, 900),
        ("0::/\n", {"memory.max": "max"}, None),
        ("5:cpu:/\n4:memory:/c\n", {"memory/c/memory.limit_in_bytes": "500"}, 500),
        ("4:memory:/\n", {"memory/memory.limit_in_bytes": "9223372036854771712"}, None),
        ("odd\n", {}, None),
        (None, {}, None),
    ],
)
def test_the_smallest_limit_of_all_groups_counts(tmp_path, groups, limits, limit):
    if groups is not None:
        (tmp_path / "groups").write_text(groups)
    for name, text in limits.items():
        (tmp_path / "root" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "root" / name).write_text(text)

    assert machine.cgroup_memory_limit(tmp_path / "groups", tmp_path / "root") == limit


def test_what_is_not_there_is_unknown_and_not_an_error(tmp_path, monkeypatch):
    monkeypatch.delattr(os, "pidfd_open")
    monkeypatch.delattr(os, "memfd_create")
    monkeypatch.setattr(machine, "NEEDED", ("mpengine", "no-such-package"))

    assert machine.shared_memory(tmp_path / "nowhere")["size_bytes"] is None
    assert machine.kernel() == {"pidfd": False, "memfd": False}
    assert machine.versions()["needed"]["no-such-package"] is None


# -- the trials


@pytest.mark.slow
@pytest.mark.parametrize("method", doctor.METHODS)
def test_a_start_method_that_works_tells_what_ends_its_orphans(method):
    trial = try_start_method(method)

    assert (trial.works, trial.error) == (True, None)
    assert trial.lifeline in {lifeline.SIGIO, lifeline.THREAD}


@pytest.mark.slow
def test_a_start_method_that_gives_no_answer_is_given_up(monkeypatch):
    reading, writing = os.pipe()
    monkeypatch.setattr(trials, "look_around", lambda _: os.read(reading, 1))

    trial = try_start_method("fork", patience_s=0.1)

    os.close(reading)
    os.close(writing)
    assert (trial.works, trial.error) == (False, "EngineError: no answer within 0.1 s")


@pytest.mark.slow
def test_a_worker_that_fails_is_the_finding(monkeypatch):
    monkeypatch.setattr(trials, "look_around", lambda _: 1 / 0)

    assert try_start_method("fork").error == "ZeroDivisionError: division by zero"


def test_looking_around_leaves_the_process_as_it_was():
    pid, mechanism = trials.look_around(None)  # a lifeline still armed would end this process with its pipe

    assert pid == os.getpid()
    assert mechanism in {lifeline.SIGIO, lifeline.THREAD}


# -- the command


@pytest.mark.slow
def test_here_an_engine_can_run(capfd):
    status = main(["doctor", "--json"])

    out, err = capfd.readouterr()
    (line,) = out.splitlines()
    found = json.loads(line)
    assert (status, found["ok"], found["problems"], err) == (0, True, [], "")
    assert all(found["start_methods"][method]["works"] for method in doctor.METHODS)
    assert found["cores"]["default_workers"] >= 1


@pytest.mark.parametrize("columns", ["40", "100"])
def test_the_tables_show_every_fact(capfd, monkeypatch, without_trials, columns):
    monkeypatch.setenv("COLUMNS", columns)
    without_trials["fork"] = Trial(False, 0.2, error="OSError: [Errno 24] Too many")

    assert main(["doctor"]) == 0

    out, err = capfd.readouterr()
    assert err == ""
    assert max(map(len, out.splitlines())) <= int(columns)
    text = " ".join(out.split())
    for wanted in ("default workers", "cgroup limit", "open files", "/dev/shm, free", "pidfd", "threadpoolctl"):
        assert wanted in text
    assert "[Errno24]" in "".join(text.split())  # a text, not markup
    assert "bythekernel'ssignal(F_SETSIG)" in "".join(text.split())  # folded, not cut off
    assert "An engine can run here." in text


@pytest.mark.parametrize("args", [["doctor"], ["doctor", "--json"]])
def test_what_is_missing_is_told_in_a_line_and_makes_the_status_1(capfd, without_trials, args):
    without_trials["forkserver"] = Trial(False, 0.1, error="OSError: no")

    assert main(args) == 1

    out, err = capfd.readouterr()
    assert err.startswith("mpengine: an engine cannot run here: the start method forkserver does not work: OSError: no")
    assert err.count("\n") == 1
    assert "An engine can run here" not in out
