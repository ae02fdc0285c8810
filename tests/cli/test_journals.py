"""``--journal``, ``--resume`` and ``report``: what a person types and reads."""

import json
import os
import select
import signal
from pathlib import Path

import pytest

MORE = """
import os

def slow(line):
    gate.wait(0)
    return line.upper()

def picky(line):
    if line in os.environ.get("PICKY", "").split():
        raise ValueError(f"{line} is not wanted")
    return line.upper()

@stage(on_error="drop", name="lenient")
def lenient(line):
    return picky(line)

def first_letter(line): return line[0]

letters = Pipeline("abcdef") >> lenient
def numbers():
    for number in range(5000):
        if number == 3000:
            with open("under_way", "wb", buffering=0) as file:
                file.write(b"x")
        yield number

long_job = Pipeline(numbers) >> stage(lambda number: number, name="same")
"""


@pytest.fixture
def jobs(jobs):
    (jobs / "jobs.py").write_text((jobs / "jobs.py").read_text() + MORE)
    return jobs


@pytest.fixture
def job(command, monkeypatch):
    """Run the letters, into a file, with a journal."""

    def run(*more, picky="", target="jobs:letters", output="out.jsonl"):
        monkeypatch.setenv("PICKY", picky)
        return command("run", target, "--journal", "job.db", "--output", output, "-q", *more)

    return run


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_job_that_is_resumed_appends_what_was_left(jobs, job):
    assert job(picky="c e").status == 1
    assert lines(jobs / "out.jsonl") == ["A", "B", "D", "F"]
    assert job("--resume").status == 0
    assert lines(jobs / "out.jsonl") == ["A", "B", "D", "F"]
    assert job("--retry-failed").status == 0

    assert lines(jobs / "out.jsonl") == ["A", "B", "D", "F", "C", "E"]


def test_what_was_written_and_not_noted_is_cut_off_and_comes_again(jobs, job):
    job()
    with (jobs / "out.jsonl").open("a") as file:
        file.write('"A"\n"half a li')
    assert job("--resume").status == 0

    assert lines(jobs / "out.jsonl") == ["A", "B", "C", "D", "E", "F"]


def test_an_output_that_is_shorter_than_it_was_is_told_and_left(jobs, job):
    job()
    (jobs / "out.jsonl").write_text('"A"\n')
    outcome = job("--resume")

    assert outcome.status == 2
    assert outcome.told == [f"mpengine: {jobs}/out.jsonl has 4 bytes, and 24 are known to have been written to it"]
    assert (jobs / "out.jsonl").read_text() == '"A"\n'


def test_another_output_is_refused_unless_that_is_meant(jobs, job):
    job()
    outcome = job("--resume", output="other.jsonl")
    assert outcome.status == 2
    assert "out.jsonl, not " in outcome.told[0]
    assert "--force" in outcome.told[0]
    (jobs / "out.jsonl").rename(jobs / "other.jsonl")
    assert job("--resume", "--force", output="other.jsonl").status == 0

    assert job("--resume", output="other.jsonl").status == 0
    assert len(lines(jobs / "other.jsonl")) == 6


def test_an_existing_journal_is_not_begun_again(jobs, job):
    job()
    before = (jobs / "out.jsonl").read_text()
    outcome = job()

    assert (outcome.status, len(outcome.told)) == (2, 1)
    assert "job.db exists, with 6 items in it: go on with it by resume=True (--resume)" in outcome.told[0]
    assert (jobs / "out.jsonl").read_text() == before


def test_another_pipeline_is_refused_in_one_line(jobs, job):
    job()
    outcome = job("--resume", target="jobs:small")

    assert (outcome.status, len(outcome.told)) == (2, 1)
    assert "lenient (jobs.lenient, process); this one is double (jobs.double, process)" in outcome.told[0]


@pytest.mark.parametrize("option", ["--resume", "--retry-failed", "--force", "--key=jobs:upper"])
def test_what_is_about_a_journal_needs_one(command, option):
    outcome = command("run", "jobs:small", option)

    assert (outcome.status, outcome.told) == (2, [f"mpengine: {option.split('=')[0]} needs a --journal"])


def test_a_summary_cannot_be_made_of_half_the_values(command):
    outcome = command("run", "jobs:small", "--journal", "job.db", "--resume", "--summary", "jobs:total")

    assert outcome.status == 2
    assert "--summary" in outcome.told[0]


def test_lines_of_a_file_can_be_called_what_a_function_says(jobs, command):
    arguments = (
        "map",
        "jobs:upper",
        "--journal",
        "job.db",
        "--output",
        "out",
        "-q",
        "--resume",
        "--key",
        "jobs:first_letter",
    )
    (jobs / "in").write_text("alpha\nbeta\n")
    command(*arguments, "--input", "in")
    (jobs / "in").write_text("another\nbeta\nanother\ngamma\n")
    command(*arguments, "--input", "in")

    assert lines(jobs / "out") == ["ALPHA", "BETA", "ANOTHER", "GAMMA"]


@pytest.mark.slow
def test_into_a_pipe_what_is_done_is_passed_over_as_well(program):
    arguments = ("run", "jobs:letters", "--journal", "job.db", "--resume", "-q", "--backend", "inline")
    written = [program(*arguments).communicate(timeout=60)[0] for _ in range(2)]

    assert written == ["".join(f'"{letter}"\n' for letter in "ABCDEF"), ""]


def test_the_table_tells_what_was_settled_before(command):
    arguments = ("run", "jobs:letters", "--journal", "job.db", "--output", "out.jsonl", "--resume")
    command(*arguments)
    outcome = command(*arguments)

    assert "6 items in, 6 of them settled before, 0 values out" in outcome.err


# -- report


def test_a_report_tells_what_is_done_what_has_failed_and_what_is_left(job, command):
    job(picky="c e")
    outcome = command("report", "job.db", "--json")
    (facts,) = outcome.values

    assert outcome.status == 0
    assert (facts["state"], facts["done"], facts["failed"], facts["left"]) == ("finished", 4, 2, 0)
    assert facts["causes"] == [{"stage": "lenient", "error": "ValueError", "count": 2}]
    assert [failure["index"] for failure in facts["failures"]] == [4, 2]
    assert [(run["run"], run["ending"], run["done"], run["failed"]) for run in facts["runs"]] == [(1, "ok", 4, 2)]


def test_a_report_is_tables_for_a_person(job, command, capfd):
    job(picky="c")
    from mpengine.cli import main

    capfd.readouterr()
    assert main(["report", "job.db"]) == 0
    told = capfd.readouterr().out

    assert "finished" in told
    assert "c is not wanted" in told
    assert "lenient (jobs.lenient, process)" in told
    assert f"output: {Path('out.jsonl').absolute()}" in told.replace("\n", "")


@pytest.mark.parametrize(
    ("content", "told"), [(None, "there is no journal"), (b"", "no run has begun it"), (b"x" * 99, "not a database")]
)
def test_what_is_no_journal_is_told_in_one_line(jobs, command, content, told):
    if content is not None:
        (jobs / "job.db").write_bytes(content)
    outcome = command("report", "job.db")

    assert (outcome.status, len(outcome.told)) == (1, 1)
    assert told in outcome.told[0]


# -- as a program


@pytest.mark.slow
def test_a_job_that_was_stopped_or_killed_says_so_in_its_report_and_is_resumed(jobs, program, command):
    os.mkfifo(jobs / "under_way")
    under_way = os.open(jobs / "under_way", os.O_RDWR | os.O_NONBLOCK)  # a writer of its own: never at its end
    arguments = ("run", "jobs:long_job", "-w", "2", "--journal", "job.db", "--output", "out.jsonl", "-q", "--resume")
    try:
        for signum in (signal.SIGTERM, signal.SIGKILL):
            running = program(*arguments)
            assert select.select([under_way], [], [], 60)[0]
            assert os.read(under_way, 9) == b"x"
            running.send_signal(signum)
            running.wait(60)
        assert program(*arguments).wait(60) == 0
    finally:
        os.close(under_way)

    assert lines(jobs / "out.jsonl") == list(range(5000))
    (facts,) = command("report", "job.db", "--json").values
    assert (facts["state"], facts["done"]) == ("finished", 5000)
    assert [run["ending"] for run in facts["runs"]] == ["SIGTERM", "killed", "ok"]
