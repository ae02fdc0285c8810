"""What the command line reads and writes: files that are closed, full, broken, or one and the same."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from mpengine.cli import main


@pytest.fixture
def no_reader():
    """The writing end of a pipe that nobody reads."""
    reading, writing = os.pipe()
    os.close(reading)
    yield writing
    os.close(writing)


# -- what is there already


def test_a_file_that_holds_more_is_replaced_as_a_whole(jobs, command):
    (jobs / "out.jsonl").write_text("something from before\n" * 100)

    assert command("run", "jobs:small", "--output", "out.jsonl").status == 0
    assert (jobs / "out.jsonl").read_text() == "2\n4\n6\n"


def test_a_file_is_not_emptied_for_a_run_that_never_began_w2(jobs, command):
    (jobs / "out.jsonl").write_text("something from before\n")

    assert command("run", "jobs:empty", "--output", "out.jsonl").status == 2
    assert (jobs / "out.jsonl").read_text() == "something from before\n"


@pytest.mark.parametrize("link", [os.link, os.symlink])
def test_another_name_does_not_hide_that_input_is_output_w3(jobs, command, link):
    link("lines.txt", "other.txt")

    outcome = command("map", "jobs:upper", "--input", "lines.txt", "--output", "other.txt")

    assert (outcome.status, outcome.told) == (2, ["mpengine: other.txt cannot be input and output at once"])
    assert (jobs / "lines.txt").read_bytes() == b"one\r\ntwo\nthree"


@pytest.mark.slow
def test_a_file_that_is_appended_to_is_not_its_own_input_w3(jobs, program):
    with (jobs / "lines.txt").open("ab") as output:
        process = program("map", "jobs:upper", "--input", "lines.txt", stdout=output)

    assert process.wait(30) == 2
    assert process.stderr.read() == "mpengine: standard output cannot be input and output at once\n"
    assert (jobs / "lines.txt").read_bytes() == b"one\r\ntwo\nthree"


# -- what cannot be written


def test_a_full_disk_is_told_in_one_line(command):
    outcome = command("run", "jobs:small", "--output", "/dev/full")

    assert outcome.status == 1
    assert outcome.err == "mpengine: cannot write /dev/full: No space left on device\n"


@pytest.mark.slow
def test_a_file_that_may_not_grow_any_more_is_told_in_one_line(jobs, program):
    process = program("run", "jobs:bulky", "--backend", "inline", "--output", "out.jsonl", shell="ulimit -f 1000;")

    assert process.wait(30) == 1
    assert process.stderr.read() == "mpengine: cannot write out.jsonl: File too large, after 5 values\n"


@pytest.mark.slow
@pytest.mark.parametrize(
    "args", [["run", "jobs:small", "--backend", "inline"], ["run", "jobs:long", "-w", "1"], ["doctor"], ["--help"]]
)
def test_a_full_standard_output_is_told_in_one_line(program, args):
    with Path("/dev/full").open("wb") as full:
        process = program(*args, stdout=full)

    assert process.wait(30) == 1
    (line,) = process.stderr.read().splitlines()
    assert "No space left on device" in line


@pytest.mark.slow
@pytest.mark.parametrize(
    "args",
    [
        ["run", "jobs:small", "--backend", "inline"],
        ["run", "jobs:long", "-w", "1"],
        ["doctor"],
        ["doctor", "--json"],
        ["--help"],
    ],
)
def test_output_that_nobody_reads_is_told_by_the_exit_status_alone(program, no_reader, args):
    process = program(*args, stdout=no_reader)

    assert process.wait(30) == 1
    assert process.stderr.read() == ""


@pytest.mark.slow
def test_a_reader_of_one_line_gets_it_and_ends_the_run(program):
    process = program("run", "jobs:long", "-w", "1", "--quiet", shell="| head -n 1")

    assert process.communicate(timeout=30) == ("0\n", "")


@pytest.mark.slow
@pytest.mark.parametrize("args", [["run", "jobs:small", "--backend", "inline"], ["doctor"], ["doctor", "--json"]])
def test_a_closed_standard_output_is_wrong_usage(program, args):
    process = program(*args, shell=">&-")

    assert process.wait(30) == 2
    assert process.stderr.read() == "mpengine: cannot write standard output: it is closed\n"


@pytest.mark.slow
def test_a_closed_standard_input_is_wrong_usage(program):
    process = program("map", "jobs:upper", shell="<&-")

    assert process.wait(30) == 2
    assert process.stderr.read() == "mpengine: cannot read standard input: it is closed\n"


@pytest.mark.slow
def test_no_file_of_the_engine_takes_the_number_of_a_closed_one_w1(jobs, program):
    process = program("run", "jobs:chatty", "-w", "1", "--output", "out.jsonl", shell="<&- >&- 2>&-")

    assert process.wait(30) == 0
    assert (jobs / "out.jsonl").read_text() == "1\n2\n3\n"


@pytest.mark.slow
@pytest.mark.parametrize("shell", ["2>&-", "2>/dev/full"])
@pytest.mark.parametrize(("target", "status"), [("jobs:small", 0), ("jobs:evens", 1), ("jobs:nothing", 2)])
def test_a_standard_error_that_takes_nothing_changes_no_exit_status(program, shell, target, status):
    process = program("run", target, "--backend", "inline", shell=shell)

    assert process.wait(30) == status


@pytest.mark.slow
def test_a_standard_error_that_nobody_reads_changes_no_exit_status(program, no_reader):
    process = program("run", "jobs:evens", "--backend", "inline", stderr=no_reader)

    assert process.communicate(timeout=30)[0] == "0\n2\n"
    assert process.returncode == 1


# -- before and after


def test_ctrl_c_while_the_module_is_imported_is_one_line(jobs, capfd):
    assert main(["run", "interrupts:pipeline"]) == 130
    assert capfd.readouterr().err == "mpengine: stopped by SIGINT\n"
