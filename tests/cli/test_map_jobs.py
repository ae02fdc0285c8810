"""``map`` with commands: in this process where what it does counts, with workers and as a program where ends do."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys

import click
import psutil
import pytest

from mpengine.cli import delivery, main
from mpengine.cli.inputs import Jobs
from mpengine.cli.mapoptions import MapCommand, is_plain, with_map_options
from mpengine.cli.mapping import perform_jobs
from mpengine.programs.outcomes import Outcome

PATIENCE_S = 30.0


class Ran:
    """What a call left behind."""

    def __init__(self, status, out, err):
        self.status = status
        self.out = out
        self.err = err
        self.lines = out.splitlines()
        self.told = [line for line in err.splitlines() if line.startswith("mpengine: ")]


@pytest.fixture
def run_map(jobs, capfd):
    """Call ``map`` in this process, its jobs in this thread."""

    def call(*args, backend="inline", **_):
        status = main(["map", "--backend", backend, "-q", *map(str, args)])
        return Ran(status, *capfd.readouterr())

    return call


def ends(pid):
    """Whether a process has been ended: the kernel may need a moment from its SIGKILL to its end."""
    try:
        fd = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        return bool(select.select([fd], [], [], PATIENCE_S)[0])
    finally:
        os.close(fd)


def log_of(path):
    """The job log as lists of columns, without its head."""
    return [line.split("\t") for line in path.read_text().splitlines()[1:]]


def columns(path, *wanted):
    return [tuple(line[place] for place in wanted) for line in log_of(path)]


SEQ, RECEIVE, EXITVAL, SIGNAL, COMMAND = 0, 5, 6, 7, 8

# -- what runs, and on what


def test_a_command_runs_for_each_argument_and_its_output_comes_as_it_is(run_map):
    ran = run_map("--", "printf", "<%s>\\n", "{}", ":::", "a b", "$HOME", "")

    assert (ran.status, ran.lines, ran.err) == (0, ["<a b>", "<$HOME>", "<>"], "")


def test_lines_are_the_arguments_where_none_are_given(run_map):
    assert run_map("--input", "lines.txt", "--", "echo").lines == ["one", "two", "three"]


def test_a_line_for_the_shell_gets_its_arguments_quoted(run_map):
    assert run_map("--shell", "echo {} | tr a-z A-Z; echo {#}", ":::", "a; b").lines == ["A; B", "1"]


def test_items_may_end_with_zero_bytes_and_have_columns(jobs, run_map):
    (jobs / "in").write_bytes(b"a,1\0b\n,2\0")

    assert run_map("--input", "in", "-0", "--colsep", ",", "--", "printf", "%s=%s;", "{2}", "{1}").out == "1=a;2=b\n;"


def test_lists_are_combined_and_a_list_may_be_a_file(run_map):
    ran = run_map("--", "echo", ":::", "a", "b", "::::", "lines.txt")

    assert ran.lines == ["a one", "a two", "a three", "b one", "b two", "b three"]


def test_a_function_may_have_the_options_of_jobs(run_map, jobs):
    ran = run_map("--joblog", "log", "--tag", "jobs:upper", ":::", "a", "b c")

    assert ran.lines == ['a\t"A"', 'b c\t"B C"']
    assert columns(jobs / "log", SEQ, EXITVAL, COMMAND) == [("1", "0", "jobs:upper a"), ("2", "0", "jobs:upper 'b c'")]


def test_a_function_that_fails_ends_the_run_unless_it_is_told_otherwise(run_map):
    args = "--tag", "jobs:fraction", ":::", "2", "0", "4"

    assert (run_map(*args).status, run_map(*args).lines) == (1, ["2\t0.5"])
    ran = run_map("--on-error", "drop", *args)
    assert (ran.status, ran.lines) == (1, ["2\t0.5", "4\t0.25"])
    assert "jobs:fraction: job 2: ZeroDivisionError: division by zero" in ran.told[0]
    emitted = json.loads(run_map("--on-error", "emit", *args).lines[1].removeprefix("0\t"))
    assert emitted["item_error"]["error"] == "ZeroDivisionError"


def test_dry_run_writes_the_commands_and_runs_none(run_map, jobs):
    ran = run_map("--dry-run", "--", "touch", "{}.x", ":::", "a", "b c")

    assert (ran.status, ran.lines) == (0, ["touch a.x", "touch 'b c.x'"])
    assert not (jobs / "a.x").exists()


@pytest.mark.parametrize(
    ("args", "told"),
    [
        (["--"], "no command stands behind --"),
        ([], "what is to run?"),
        (["jobs:upper", "--", "echo"], "only one of them can run"),
        (["--shell", "x", "--", "echo"], "only one of them can run"),
        (["--", "echo {} | cat", ":::", "a"], "a line for the shell is --shell LINE"),
        (["--resume", "--", "echo"], "need a job log"),
        (["--jobs", "x", "--", "echo"], "is no number of jobs"),
        (["--jobs", "2", "-w", "2", "--", "echo"], "one of them is enough"),
        (["--halt", "now", "--", "echo"], "is no rule for halting"),
        (["--halt", "now,fail=1", "--on-error", "drop", "--", "echo"], "one of them is enough"),
        (["--timeout", "200%", "jobs:upper"], "is for commands"),
        (["--timeout", "0", "--", "echo"], "more than 0 seconds"),
        (["--on-error", "emit", "--", "echo"], "is for functions"),
        (["--colsep", "(", "--", "echo"], "is no regular expression"),
        (["--input", "lines.txt", "--", "echo", ":::", "a"], "cannot both be"),
        (["--input", "nowhere", "--", "echo"], "cannot read nowhere"),
        (["--", "echo", "::::", "nowhere"], "cannot read nowhere"),
        (["--joblog", "nowhere/log", "--", "echo"], "cannot write nowhere/log"),
        (["--joblog", "same", "--output", "same", "--", "echo"], "cannot be the output and its log at once"),
        (["--tag", "jobs:double2"], "has no 'double2'"),
        (["--tag", "functools:partial"], "is not a function of one argument"),
    ],
)
def test_what_cannot_be_meant_is_one_line_and_status_2(run_map, args, told):
    ran = run_map(*args)

    assert (ran.status, ran.out) == (2, "")
    assert told in ran.err
    assert ran.err.count("\n") == 1


# -- failing


def test_a_failed_command_is_told_counted_and_keeps_what_it_wrote(run_map, jobs):
    ran = run_map("--joblog", "log", "--shell", "echo out {}; echo err {} >&2; exit {}", ":::", "0", "3")

    assert (ran.status, ran.lines) == (1, ["out 0", "out 3"])
    assert ran.told == ["mpengine: failed: job 2: exit status 3"]
    assert "err 0\n" in ran.err
    assert "err 3\n" in ran.err
    assert columns(jobs / "log", SEQ, RECEIVE, EXITVAL, SIGNAL) == [("1", "6", "0", "0"), ("2", "6", "3", "0")]


def test_a_signal_and_a_program_that_is_not_there_are_what_the_log_says(run_map, jobs):
    assert run_map("--joblog", "log", "--shell", "kill -9 $$", ":::", "a").status == 1
    assert columns(jobs / "log", EXITVAL, SIGNAL) == [("0", "9")]

    ran = run_map("--joblog", "log", "--", "no-such-program", ":::", "a")
    assert columns(jobs / "log", EXITVAL, SIGNAL) == [("127", "0")]
    assert "cannot run no-such-program: No such file or directory" in ran.err


def test_a_job_is_tried_so_many_times_and_only_its_last_output_counts(run_map, jobs):
    ran = run_map("--retries", "3", "--shell", "echo {} >> tries; wc -l < tries; test $(wc -l < tries) = 3", ":::", "a")

    assert (ran.status, ran.lines) == (0, ["3"])


@pytest.mark.slow
def test_a_job_whose_time_is_up_is_ended_with_all_that_it_has_started(run_map, jobs):
    line = "trap '' TERM; sleep 300 & echo $! > pid; wait; wait; sleep 300"

    ran = run_map("--timeout", "0.3", "--joblog", "log", "--shell", line + " # {}", ":::", "a")

    assert ran.status == 1
    assert "job 1: timed out after" in ran.told[0]
    assert columns(jobs / "log", EXITVAL, SIGNAL) == [("-1", "9")]
    assert ends(int((jobs / "pid").read_text()))


def test_a_run_halts_soon_and_starts_nothing_more(run_map, jobs):
    ran = run_map("--halt", "soon,fail=2", "--joblog", "log", "--shell", "exit {}", ":::", *"0101", *"0" * 30)

    assert ran.status == 1
    assert ran.told[-1] == "mpengine: --halt soon,fail=2: reached after 4 jobs"
    assert 4 <= len(log_of(jobs / "log")) < 10  # those that ran by then have come to their end


def test_a_share_of_all_jobs_is_known_before_the_first(run_map, monkeypatch, jobs):
    reading, writing = os.pipe()
    os.write(writing, b"1\n" * 10)
    os.close(writing)
    kept = os.dup(0)
    os.dup2(reading, 0)
    try:
        ran = run_map("--halt", "soon,fail=30%", "--shell", "exit {}")
    finally:
        os.dup2(kept, 0)
        os.close(kept)
        os.close(reading)

    assert ran.told[-1] == "mpengine: --halt soon,fail=30%: reached after 3 jobs"


def test_a_run_that_was_to_find_something_has_found_it(run_map):
    assert run_map("--halt", "soon,success=1", "--shell", "exit {}", ":::", "1", "0", "1").status == 0


# -- outputs


def test_large_outputs_are_handed_over_as_files_and_never_mixed(run_map, jobs):
    size = 300_000
    line = f"head -c {size} /dev/zero | tr '\\0' {{}}; echo; head -c {size} /dev/zero | tr '\\0' {{}} >&2; echo >&2"

    ran = run_map("--tag", "--shell", line, ":::", *"abc")

    assert ran.lines == [f"{name}\t{name * size}" for name in "abc"]
    assert ran.err == "".join(f"{name}\t{name * size}\n" for name in "abc")


@pytest.mark.parametrize(
    ("bound", "most", "content"), [("WAITING_JOBS", 2, b"x"), ("WAITING_BYTES", 2, b"x"), ("WAITING_FILES", 2, None)]
)
def test_what_waits_for_its_turn_is_bounded(monkeypatch, bound, most, content):
    monkeypatch.setattr(delivery, bound, most)
    reading, writing = os.pipe()
    rooms = []

    class Seen(Jobs):
        def make_room(self, *, has_room):
            rooms.append(has_room)
            super().make_room(has_room=has_room)

    jobs = Seen(("a",) for _ in range(4))
    given = list(jobs)
    one = delivery.Delivery(writing, jobs, lambda *_: os.memfd_create("x"), command_of=str)
    for seq, _ in reversed(given):
        one.take(Outcome(seq, 0.0, 0.0, out=content))

    assert rooms == [True, False, False, True]
    os.close(writing)
    os.close(reading)


@pytest.mark.slow
def test_unordered_outputs_come_as_jobs_end(jobs, run_map):
    os.mkfifo(jobs / "gate")
    line = "if test {} = 1; then read x < gate; else echo > gate; fi; echo {}"

    ran = run_map("-w", "2", "--unordered", "--joblog", "log", "--shell", line, ":::", "1", "2", backend="process")

    assert sorted(ran.lines) == ["1", "2"]
    assert [line.split()[-1] for line in ran.lines] == [seq for (seq,) in columns(jobs / "log", SEQ)]


# -- resuming


def test_what_the_log_holds_is_not_run_again(run_map, jobs):
    args = "--joblog", "log", "--output", "out", "--resume", "--shell", "echo {}; echo {} >> ran; exit {}", ":::"

    assert run_map(*args, "0", "1").status == 1
    assert run_map(*args, "0", "1", "0").status == 0
    assert (jobs / "out").read_text() == "0\n1\n0\n"
    assert (jobs / "ran").read_text() == "0\n1\n0\n"


def test_failed_jobs_run_again_alone_or_with_what_is_left(run_map, jobs):
    def tries(*args):
        (jobs / "ran").write_text("")
        run_map("--joblog", "log", *args, "--shell", "echo {#} >> ran; test -e well", ":::", "a", "b", "c")
        return (jobs / "ran").read_text().split()

    assert run_map("--joblog", "log", "--shell", "echo {#} >> ran; test -e well", ":::", "a", "b").status == 1
    assert tries("--retry-failed") == ["1", "2"]
    assert tries("--resume") == ["3"]
    (jobs / "well").touch()
    assert tries("--resume", "--retry-failed") == ["1", "2", "3"]
    assert tries("--resume", "--retry-failed") == []


def test_failed_jobs_run_again_by_the_log_alone(run_map, jobs):
    run_map("--joblog", "log", "--", "sh", "-c", "echo $0; test -e well", "{}", ":::", "a b", "c")
    (jobs / "well").touch()

    ran = run_map("--joblog", "log", "--retry-failed")

    assert (ran.status, ran.lines) == (0, ["a b", "c"])
    assert run_map("--joblog", "log", "--retry-failed").lines == []


def test_a_log_of_other_jobs_is_refused_and_nothing_is_lost(run_map, jobs):
    run_map("--joblog", "log", "--output", "out", "--", "echo", ":::", "a", "b")
    before = (jobs / "log").read_bytes()

    ran = run_map("--joblog", "log", "--output", "out", "--resume", "--", "echo", ":::", "b", "c", "d")

    assert ran.status == 1
    assert "job 1 of log was 'echo a', and would be 'echo b' now: the input has changed" in ran.err
    assert ((jobs / "log").read_bytes(), (jobs / "out").read_text()) == (before, "a\nb\n")


def test_output_that_no_line_of_the_log_tells_of_is_taken_off_and_written_again(run_map, jobs):
    args = "--joblog", "log", "--output", "out", "--resume", "--", "echo", ":::", "a", "b", "c"
    run_map("--joblog", "log", "--output", "out", "--", "echo", ":::", "a", "b")
    (jobs / "log").write_bytes(b"".join((jobs / "log").read_bytes().splitlines(keepends=True)[:-1]))
    (jobs / "out").write_text("a\nbut this was cut off in the mid")

    assert run_map(*args).status == 0
    assert (jobs / "out").read_text() == "a\nb\nc\n"

    (jobs / "out").write_text("a\n")
    ran = run_map(*args)
    assert (ran.status, (jobs / "out").read_text()) == (2, "a\n")
    assert "it is not the output of those jobs" in ran.err


# -- workers, and ends


@pytest.mark.slow
@pytest.mark.parametrize("method", ["forkserver", "spawn", "fork"])
def test_commands_run_in_workers_by_each_start_method(run_map, method):
    ran = run_map(
        "--start-method", method, "-j", "2", "--", "echo", "{%}-{}", ":::", *map(str, range(20)), backend="process"
    )

    assert ran.status == 0
    assert [line.split("-")[1] for line in ran.lines] == list(map(str, range(20)))
    assert {line.split("-")[0] for line in ran.lines} <= {"1", "2"}


@pytest.mark.slow
def test_a_run_halts_now_and_ends_what_runs(run_map, jobs):
    os.mkfifo(jobs / "gate")
    line = "if test {} = 1; then echo $$ > pid; echo > gate; exec sleep 300; else read x < gate; exit 1; fi"

    ran = run_map("-j", "2", "--halt", "now,fail=1", "--shell", line, ":::", "1", "2", backend="process")

    assert ran.status == 1
    assert ran.told[-1] == "mpengine: --halt now,fail=1: reached after 1 job"
    assert ends(int((jobs / "pid").read_text()))


@pytest.mark.slow
def test_a_job_whose_worker_was_killed_is_ended_and_runs_again(run_map, jobs):
    line = "echo $$ >> pids; test -e once && exit 0; touch once; kill -9 $PPID; exec sleep 300"

    ran = run_map("-j", "1", "--joblog", "log", "--shell", line + " # {}", ":::", "a", backend="process")

    first, second = map(int, (jobs / "pids").read_text().split())
    assert (ran.status, columns(jobs / "log", SEQ, EXITVAL)) == (0, [("1", "0")])
    assert ends(first)
    assert first != second


@pytest.mark.slow
def test_a_job_that_kills_its_workers_has_failed_and_the_others_have_not(run_map, jobs):
    ran = run_map(
        "-j",
        "2",
        "--joblog",
        "log",
        "--shell",
        "test {} = b && kill -9 $PPID; echo {}",
        ":::",
        *"abc",
        backend="process",
    )

    assert (ran.status, ran.lines) == (1, ["a", "c"])
    assert "job 2: WorkerDiedError" in ran.told[0]
    assert columns(jobs / "log", SEQ, EXITVAL) == [("1", "0"), ("2", "1"), ("3", "0")]


@pytest.mark.slow
def test_a_share_of_the_median_ends_a_job_that_runs_already(run_map, jobs):
    line = "if test {} = 1; then exec sleep 300; else sleep 0.01; fi"

    ran = run_map("-j", "2", "--timeout", "1000%", "--shell", line, ":::", *map(str, range(1, 8)), backend="process")

    assert ran.status == 1
    assert [told for told in ran.told if "job 1: timed out after" in told]


@pytest.mark.slow
@pytest.mark.parametrize("method", ["forkserver", "fork"])
@pytest.mark.parametrize("signum", [signal.SIGKILL, signal.SIGTERM])
def test_nothing_is_left_of_a_run_that_was_killed_or_ended(program, jobs, signum, method):
    os.mkfifo(jobs / "gate")
    # A job, and a program that it has started in a session of its own.
    line = "setsid sleep 300 & echo $! $$ > gate; exec sleep 300"
    process = program("map", "-j", "1", "--start-method", method, "--shell", line + " # {}", ":::", "a")
    with (jobs / "gate").open() as gate:
        children = [psutil.Process(int(pid)) for pid in gate.read().split()]
    workers = psutil.Process(process.pid).children(recursive=True)

    process.send_signal(signum)

    process.wait(30)
    _, left = psutil.wait_procs([*children, *workers], timeout=30)
    assert left == []
    assert process.returncode == (-9 if signum == signal.SIGKILL else 143)


@pytest.mark.slow
def test_a_killed_run_is_resumed_with_each_output_once_and_in_order(program, jobs):
    wanted = [str(number) for number in range(1, 101)]
    for number in (30, 99):
        os.mkfifo(jobs / f"gate{number}")  # each its own: a job that was killed may hold its end a moment longer
    # Two of the jobs wait for the kill: one behind which others are through already, and the last but one.
    line = "case {} in 30|99) test -e past{} || { touch past{}; read x < gate{}; };; esac; echo {}"
    args = ["map", "-q", "-j", "2", "--joblog", "log", "--output", "out", "--resume", "--shell", line, ":::", *wanted]
    for number in (30, 99):
        process = program(*args)
        with (jobs / f"gate{number}").open("w"):
            process.kill()
            process.wait()

    assert program(*args).wait() == 0
    assert (jobs / "out").read_text().split() == wanted
    assert [seq for (seq,) in columns(jobs / "log", SEQ)] == wanted


def test_the_log_of_gnu_parallel_is_read_as_our_own(jobs, run_map):
    (jobs / "log").write_bytes(
        b"Seq\tHost\tStarttime\tJobRuntime\tSend\tReceive\tExitval\tSignal\tCommand\n"
        b"1\t:\t1795611149.910\t     0.000\t0\t2\t0\t0\techo a\\ b\n"
        b"2\t:\t1795611149.915\t     0.005\t0\t2\t1\t0\techo c\n"
    )

    assert run_map("--joblog", "log", "--resume", "--", "echo", ":::", "a b", "c", "d").lines == ["d"]
    assert run_map("--joblog", "log", "--retry-failed").lines == ["c"]


@pytest.mark.slow
def test_a_program_that_reads_nothing_more_ends_the_run_without_a_word(program):
    process = program("map", "-q", "--", "echo", ":::", *map(str, range(500)))

    process.stdout.readline()
    process.stdout.close()

    assert process.wait(30) == 1
    assert process.stderr.read() == ""


def test_what_is_behind_the_command_is_not_an_option(run_map):
    assert run_map("--", "echo", "--help", "-q", ":::", "--tag").lines == ["--help -q --tag"]


@pytest.mark.slow
def test_help_names_the_forms():
    shown = subprocess.run(
        [sys.executable, "-m", "mpengine", "map", "--help"], capture_output=True, text=True, check=True
    )

    assert "--joblog" in shown.stdout


def test_options_that_a_run_of_jobs_has_not_are_refused_and_those_that_are_there_already_are_not_doubled():
    @click.command(cls=MapCommand)
    @with_map_options
    @click.option("--resume", is_flag=True, help="Theirs.")
    @click.option("--journal")
    @click.pass_context
    def other(ctx, /, **options):
        return is_plain(ctx), perform_jobs(None, str, options, ctx)

    assert [one.help for one in other.params if one.name == "resume"] == ["Theirs."]
    with pytest.raises(click.UsageError, match="--journal is not for commands, nor for functions with options of jobs"):
        other.main(["--journal", "x", "--resume", "--", "echo"], standalone_mode=False)


def test_a_run_of_jobs_is_watched_like_any_other(run_map, jobs):
    ran = run_map("--trace", "trace.json", "--report", "page.html", "--shell", "exit {}", ":::", "0", "3")

    assert ran.status == 1
    assert "process_name" in (jobs / "trace.json").read_text()
    assert "exit status 3" in (jobs / "page.html").read_text()
