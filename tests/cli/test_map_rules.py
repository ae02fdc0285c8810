"""What the options of ``map`` say: amounts, rules for halting, and the job log; nothing runs."""

from __future__ import annotations

import os

import click
import pytest

from mpengine.cli import amounts
from mpengine.cli.bars import Line, LoggedLine, bar_line, eta_line
from mpengine.cli.delivery import with_tag
from mpengine.cli.gauge import Reading, StageReading
from mpengine.cli.halting import Halt, HaltRule, parse_halt
from mpengine.cli.inputs import Jobs, Records, split_columns
from mpengine.cli.joblog import HEAD, JobLog
from mpengine.programs.outcomes import Outcome

# -- amounts


@pytest.mark.parametrize(
    ("text", "jobs"),
    [("3", 3), ("100%", 4), ("50%", 2), ("1%", 1), ("+2", 6), ("-1", 3), ("-9", 1), ("0", 100), ("250%", 10)],
)
def test_jobs_are_a_number_a_share_of_the_cores_or_more_or_fewer_than_they(text, jobs):
    assert amounts.jobs(text, cores=4, most=100) == jobs


@pytest.mark.parametrize("text", ["", "x", "1.5", "101", "+-1", "+5%", "%", "-"])
def test_what_is_no_number_of_jobs_is_refused_by_name(text):
    with pytest.raises(ValueError, match="is no number of jobs"):
        amounts.jobs(text, cores=4, most=100)


@pytest.mark.parametrize(
    ("text", "seconds"), [("2", 2), ("0.5", 0.5), ("3s", 3), ("2m", 120), ("1h", 3600), ("1D", 86400), ("0", 0)]
)
def test_times_have_units(text, seconds):
    assert amounts.seconds(text) == seconds


@pytest.mark.parametrize("text", ["", "x", "-1", "1w", "1e3", "12d", "nan"])
def test_what_is_no_time_is_refused(text):
    with pytest.raises(ValueError, match="is no time"):
        amounts.seconds(text)


@pytest.mark.parametrize(
    ("text", "size"), [("10", 10), ("1K", 1024), ("1k", 1000), ("2G", 2 << 30), ("1.5M", 3 << 19), ("1MiB", 1 << 20)]
)
def test_sizes_have_units(text, size):
    assert amounts.size(text) == size


@pytest.mark.parametrize("text", ["", "G", "1X", "-1G"])
def test_what_is_no_size_is_refused(text):
    with pytest.raises(ValueError, match="is no size"):
        amounts.size(text)


def test_a_share_is_a_number_with_a_sign_behind_it():
    assert (amounts.share("300%"), amounts.share("3")) == (3.0, None)
    with pytest.raises(ValueError, match="is no share"):
        amounts.share("0%")


# -- halting


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("never", None),
        ("0", None),
        ("2", HaltRule(True, "fail", 1)),
        ("-1", HaltRule(False, "success", 1)),
        ("now,fail=1", HaltRule(True, "fail", 1)),
        ("soon,success=3", HaltRule(False, "success", 3)),
        ("now,done=10%", HaltRule(True, "done", 0.1, True)),
    ],
)
def test_rules_for_halting_are_those_of_gnu_parallel(text, rule):
    assert parse_halt(text) == rule


@pytest.mark.parametrize("text", ["", "now", "now,fail", "later,fail=1", "now,fail=0", "now,fail=1.5", "now,fail=101%"])
def test_what_is_no_rule_is_refused(text):
    with pytest.raises(ValueError, match=r"rule for halting|whole number"):
        parse_halt(text)


@pytest.mark.parametrize(
    ("rule", "total", "wells", "reached_at", "status"),
    [
        ("now,fail=2", None, "well ill well ill", 4, 1),
        ("now,fail=2", None, "well ill", None, 1),
        ("now,success=2", None, "ill well well", 3, 0),
        ("now,success=2", None, "ill well", None, 1),
        ("soon,done=2", None, "well well", 2, 0),
        ("now,fail=10%", 30, "ill ill ill", 3, 1),
        ("now,fail=10%", None, "ill ill ill", None, 1),
        ("now,fail=1%", 3, "well ill", 2, 1),
        ("never", None, "well", None, 0),
    ],
)
def test_a_run_halts_once_enough_jobs_have_come_to_it(rule, total, wells, reached_at, status):
    halt = Halt(parse_halt(rule), total)

    reached = [place for place, well in enumerate(wells.split(), 1) if halt.take(is_well=well == "well")]

    assert reached == ([] if reached_at is None else [reached_at])
    assert (halt.is_reached, halt.status) == (bool(reached), status)


# -- the job log


def outcome(seq, exitval=0, signum=0):
    return Outcome(seq, 1.5, 0.25, exitval, signum)


def write_log(path, *outcomes, keeps=False, written=10):
    with JobLog(path, keeps=keeps) as log:
        log.begin()
        for one in outcomes:
            log.add(one, f"cmd {one.seq}", written)


def test_a_line_has_the_columns_of_gnu_parallel(tmp_path):
    write_log(tmp_path / "log", outcome(3, 2))

    assert (tmp_path / "log").read_bytes() == HEAD + b"3\t:\t1.500\t     0.250\t0\t10\t2\t0\tcmd 3\n"


def test_what_was_written_is_read_again_and_the_last_line_of_a_job_counts(tmp_path):
    write_log(tmp_path / "log", outcome(1), outcome(2, 1), outcome(3, 0, 9), outcome(3))

    with JobLog(tmp_path / "log", keeps=True) as log:
        assert log.past.commands == {1: "cmd 1", 2: "cmd 2", 3: "cmd 3"}
        assert log.past.failed == {2}
        assert log.past.written_bytes == 40


def test_a_command_of_several_lines_is_one_line_of_the_log(tmp_path):
    with JobLog(tmp_path / "log", keeps=False) as log:
        log.begin()
        log.add(outcome(1), "a\nb\udcff", 0)

    with JobLog(tmp_path / "log", keeps=True) as log:
        assert log.past.commands == {1: "a\nb\udcff"}


def test_a_torn_last_line_is_taken_off_and_no_sooner_than_the_run_begins(tmp_path):
    path = tmp_path / "log"
    write_log(path, outcome(1))
    path.write_bytes(path.read_bytes() + b"2\t:\t1.5")

    with JobLog(path, keeps=True) as log:
        assert path.read_bytes().endswith(b"1.5")
        log.begin()
        log.add(outcome(2), "cmd 2", 0)

    with JobLog(path, keeps=True) as log:
        assert sorted(log.past.commands) == [1, 2]


def test_a_log_is_emptied_only_when_the_run_begins(tmp_path):
    write_log(tmp_path / "log", outcome(1))

    with JobLog(tmp_path / "log", keeps=False) as log:
        assert b"cmd 1" in (tmp_path / "log").read_bytes()
        log.begin()

    assert (tmp_path / "log").read_bytes() == HEAD


@pytest.mark.parametrize("text", ["hello\n", "1\t:\t1\t2\t0\t0\t0\n", "x\t:\t1\t2\t0\t0\t0\t0\tcmd\n"])
def test_a_file_that_is_no_job_log_is_refused_with_the_line(tmp_path, text):
    (tmp_path / "log").write_text(text)

    with pytest.raises(click.UsageError, match="line 1: this is no line of a job log"):
        JobLog(tmp_path / "log", keeps=True)
    assert (tmp_path / "log").read_text() == text


# -- arguments


@pytest.mark.parametrize(
    ("content", "separator", "records"),
    [
        (b"a\r\nb\n\nc", b"\n", ["a", "b", "", "c"]),
        (b"a\nb\0c\0", b"\0", ["a\nb", "c"]),
        (b"", b"\n", []),
        (b"\xff\n", b"\n", ["\udcff"]),
        (b"x" * 100_000 + b"\ny", b"\n", ["x" * 100_000, "y"]),
    ],
)
def test_records_end_with_a_separator_and_are_counted_without_being_read(tmp_path, content, separator, records):
    (tmp_path / "in").write_bytes(content)
    source = Records(tmp_path / "in", separator)

    assert source.count() == len(records)
    assert list(source) == records
    source.release()


def test_columns_are_split_by_a_regular_expression():
    assert list(split_columns(["a, b", "c"], r",\s*")) == [("a", "b"), ("c",)]


def test_jobs_are_numbered_before_any_is_left_out_and_remembered_until_they_are_through():
    jobs = Jobs([("a",), ("b",), ("c",)], is_wanted=lambda seq, _: seq != 2)

    assert list(jobs) == [(1, ("a",)), (3, ("c",))]
    assert jobs.seq_of(1) == 3
    assert jobs.take_back(3).args == ("c",)


@pytest.mark.parametrize(
    ("content", "begins", "tagged"),
    [
        (b"a\nb", True, b"T:a\nT:b"),
        (b"a\n\n", True, b"T:a\nT:\n"),
        (b"a\rb\nc\n", False, b"a\rb\nT:c\n"),
        (b"", True, b""),
    ],
)
def test_a_tag_stands_before_each_line(content, begins, tagged):
    assert with_tag(b"T:", content, begins=begins) == tagged


# -- one line


def reading(**changed):
    fields = {
        "elapsed_s": 10.0, "is_ending": False, "items_in": 5, "values_out": 5, "done": 5, "total": 20, "share": 0.25,
        "per_s": 0.5, "left_s": 30.0, "stages": (StageReading("cmd", 5, 0.5, 0, 10, 2, 1),),
    }  # fmt: skip
    return Reading(**{**fields, **changed})


def test_a_bar_is_as_wide_as_there_is_room():
    assert bar_line(reading(), 30) == " 25% 5 [####............] 0:30"
    assert bar_line(reading(left_s=None), 12) == " 25% 5 [...]"
    assert bar_line(reading(share=None, total=None, left_s=None), 40) == "ETA: unknown, 5 of ? done, 2 s a job, 1 "


def test_a_line_says_how_much_is_left_and_how_long_that_will_take():
    assert eta_line(reading()) == "ETA: 0:30, 5 of 20 done, 2 s a job, 1 failed"
    assert eta_line(reading(per_s=0.0, stages=())) == "ETA: 0:30, 5 of 20 done, unknown a job"


@pytest.mark.parametrize(("is_bar", "shown"), [(True, "25% 5 ["), (False, "ETA: 0:30")])
def test_a_line_is_written_over_and_taken_back(is_bar, shown):
    seen, there = os.pipe()
    line = Line(is_bar=is_bar, fd=there)

    line.clear()
    line.show(reading())
    line.clear()

    os.close(there)
    with os.fdopen(seen, newline="") as file:
        text = file.read()
    assert text.startswith("\r\x1b[J")
    assert text.endswith("\r\r\x1b[J")
    assert shown in text


def test_elsewhere_than_on_a_terminal_it_is_a_line_every_few_seconds():
    seen, there = os.pipe()

    LoggedLine(there).show(reading())

    os.close(there)
    with os.fdopen(seen, newline="") as file:
        assert file.read() == "mpengine: ETA: 0:30, 5 of 20 done, 2 s a job, 1 failed\n"
