"""The command line, in this process where nothing but its own behaviour counts, and as a program where signals do."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading

import pytest

from mpengine.cli import main
from mpengine.cli.commands import commands
from mpengine.results import ItemError
from mpengine.sinks import JsonLinesSink, SinkClosedError
from mpengine.sources import LineSource


def group_is_empty(pgid):
    try:
        os.killpg(pgid, 0)
    except ProcessLookupError:
        return True
    return False


# -- values


def test_run_writes_each_value_as_a_line_of_json_in_order(command):
    outcome = command("run", "jobs:small")

    assert outcome.status == 0
    assert outcome.values == [2, 4, 6]


def test_map_calls_a_function_with_each_line_without_its_end(command):
    outcome = command("map", "jobs:upper", "--input", "lines.txt")

    assert outcome.status == 0
    assert outcome.values == ["ONE", "TWO", "THREE"]


def test_the_lines_of_the_input_replace_the_source(command):
    assert command("run", "jobs:lines", "--input", "lines.txt").values == ["ONE", "TWO", "THREE"]


def test_lines_that_are_not_utf_8_can_be_encoded_back(jobs, command):
    (jobs / "bytes.txt").write_bytes(b"\xffa\n")

    (value,) = command("map", "jobs:upper", "--input", "bytes.txt").values

    assert value.encode("utf-8", "surrogateescape") == b"\xffA"


def test_values_go_to_a_file_when_asked(jobs, command):
    outcome = command("run", "jobs:small", "--output", "out.jsonl")

    assert outcome.values == []
    assert (jobs / "out.jsonl").read_text() == "2\n4\n6\n"


def test_a_file_is_never_input_and_output_at_once(jobs, command):
    outcome = command("map", "jobs:upper", "--input", "lines.txt", "--output", "lines.txt")

    assert outcome.status == 2
    assert (jobs / "lines.txt").read_bytes() == b"one\r\ntwo\nthree"


@pytest.mark.parametrize(
    ("function", "kind"), [("odd", "jobs.Odd"), ("holds_a_set", "type dict"), ("not_a_number", "float")]
)
def test_a_value_that_is_not_json_is_told_by_its_type_in_one_line(command, function, kind):
    outcome = command("map", f"jobs:{function}", "--input", "lines.txt")

    assert outcome.status == 1
    assert outcome.err.count("\n") == 1
    assert kind in outcome.err


# -- failures


def test_a_failed_item_ends_the_run_and_is_named_without_a_traceback(command):
    outcome = command("map", "jobs:fraction", "--input", "numbers.txt", "--quiet")

    assert outcome.status == 1
    assert outcome.values == [0.25, 0.5]
    assert outcome.told[0].startswith("mpengine: failed: fraction: item 2 ('0'): ZeroDivisionError")
    assert "the run failed" in outcome.told[1]
    assert "Traceback" not in outcome.err


def test_dropped_items_are_named_and_make_the_status_1(command):
    outcome = command("run", "jobs:evens")

    assert outcome.status == 1
    assert outcome.values == [0, 2]
    assert outcome.told == [
        "mpengine: failed: even: item 1 (1): ValueError: 1 is odd",
        "mpengine: failed: even: item 3 (3): ValueError: 3 is odd",
    ]


def test_the_policy_of_stages_that_set_none_can_be_chosen(command):
    outcome = command("map", "jobs:fraction", "--input", "numbers.txt", "--on-error", "drop")

    assert outcome.status == 1
    assert outcome.values == [0.25, 0.5, 1.0]


def test_only_the_first_failures_are_named_and_the_others_counted(command):
    outcome = command("run", "jobs:many_odd")

    assert len(outcome.told) == 21
    assert outcome.told[-1] == "mpengine: failed: 10 more"


@pytest.mark.parametrize("backend", ["inline", pytest.param("process", marks=pytest.mark.slow)])
def test_a_stage_that_exits_fails_the_run_and_not_the_command_line(command, backend):
    outcome = command("map", "jobs:leave", "--input", "lines.txt", "--backend", backend)

    assert outcome.status == 1
    assert "SystemExit" in outcome.told[0]


# -- figures


def test_the_table_shows_each_stage_and_the_totals(command):
    told = command("run", "jobs:evens").err

    row = next(line.split() for line in told.splitlines() if line.strip().startswith("even "))
    assert row[1:5] == ["4", "2", "2", "0"]
    assert "4 items in, 2 values out" in told


def test_quiet_says_nothing_about_a_good_run(command):
    assert command("run", "jobs:small", "--quiet").err == ""


def test_the_summary_shows_the_rows_of_its_function(command):
    outcome = command("run", "jobs:small", "--summary", "jobs:total")

    assert outcome.status == 0
    assert ["[total]", "12"] in [line.split() for line in outcome.err.splitlines()]


def test_a_summary_that_fails_is_told_in_a_line(command):
    outcome = command("run", "jobs:small", "--summary", "jobs:broken")

    assert outcome.status == 1
    assert outcome.told == ["mpengine: the summary failed: ZeroDivisionError: division by zero"]


# -- usage


@pytest.mark.parametrize(
    ("args", "told"),
    [
        (["run", "nowhere:pipeline"], "nowhere"),
        (["run", "wrong:pipeline"], "ZeroDivisionError"),
        (["run", "leaves:pipeline"], "bye"),
        (["run", "raises:pipeline"], "NotAnException: odd"),
        (["run", "broken:pipeline"], "SyntaxError"),
        (["run", "lazy:pipeline"], "cannot get 'pipeline' from lazy: ValueError: no way"),
        (["run", ".jobs:small"], "cannot import .jobs"),
        (["run", "jobs.small:x"], "'jobs' is not a package"),
        (["run", "jobs:nothing"], "no 'nothing'"),
        (["run", "jobs:small.nothing"], "no 'small.nothing'"),
        (["run", ":small"], "package.module:attribute"),
        (["run", "jobs:"], "package.module:attribute"),
        (["run", "jobs:empty"], "at least one stage"),
        (["run", "jobs"], "package.module:attribute"),
        (["run", "jobs:upper"], "not a Pipeline"),
        (["map", "jobs:constant"], "not callable"),
        (["run", "jobs:small", "--summary", "jobs:nothing"], "no 'nothing'"),
        (["run", "jobs:small", "--input", "nowhere.txt"], "cannot read nowhere.txt"),
        (["run", "jobs:small", "--output", "nowhere/out"], "cannot write nowhere/out"),
        (["run", "jobs:small", "--input", "."], "Is a directory"),
        (["run", "jobs:small", "--input", ""], "cannot read"),
        (["run", "jobs:small", "--input", 300 * "x"], "File name too long"),
        (["run", "jobs:small", "--output", "."], "Is a directory"),
        (["run", "jobs:small", "--summary", "jobs:constant"], "not callable"),
        (["run", "jobs:small", "--workers", "0"], "--workers"),
        (["run", "jobs:small", "--workers", "1000000000"], "--workers"),
        (["run", "jobs:small", "--workers", "many"], "--workers"),
        (["run", "jobs:small", "--on-error", "side"], "'side' needs an error_handler"),
        (["run", "jobs:small", "--on-error", "ignore"], "--on-error"),
        (["run", "jobs:small", "--sideways"], "--sideways"),
        (["run"], "PKG.MOD:PIPELINE"),
        (["walk"], "walk"),
        (["doctor", "jobs:small"], "jobs:small"),
        (["doctor", "--jason"], "--jason"),
    ],
)
def test_wrong_usage_is_told_in_one_line(command, args, told):
    outcome = command(*args)

    assert outcome.status == 2
    assert outcome.err.count("\n") == 1
    assert told in outcome.err


@pytest.mark.parametrize("policy", ["raise", "drop", "emit", "EMIT"])
def test_the_policies_that_need_nothing_but_a_name_can_be_chosen(policy):
    context = commands.commands["run"].make_context("run", ["jobs:small", "--on-error", policy])

    assert context.params["on_error"] == policy.lower()


@pytest.mark.parametrize("args", [[], ["run"], ["map"], ["doctor"]])
def test_every_command_explains_itself(args, capfd):
    assert main([*args, "--help"]) == 0
    assert "Usage: mpengine" in capfd.readouterr().out


def test_no_command_at_all_is_wrong_usage_and_shows_the_help(capfd):
    assert main([]) == 2
    assert "Usage: mpengine" in capfd.readouterr().err


# -- as a program


@pytest.mark.slow
def test_map_reads_standard_input_and_writes_in_order(program):
    process = program("map", "jobs:number", "-w", "2", "--quiet", stdin=subprocess.PIPE)

    out, err = process.communicate("".join(f"{number}\n" for number in range(1000)))

    assert (process.returncode, err) == (0, "")
    assert out.splitlines() == [str(number) for number in range(1000)]


@pytest.mark.slow
@pytest.mark.parametrize(("signum", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize("backend", ["process", "inline"])
def test_a_signal_ends_a_run_with_one_line_and_leaves_no_process(program, signum, status, backend):
    process = program("run", "jobs:endless", "-w", "2", "--backend", backend)
    assert process.stdout.readline() == "0\n"

    process.send_signal(signum)
    # Reading nothing meanwhile: the run has filled the pipe by now, or soon will have.
    assert process.wait(30) == status

    assert process.stderr.read() == f"mpengine: stopped by {signum.name}\n"
    assert group_is_empty(process.pid)


@pytest.mark.slow
def test_a_signal_that_comes_while_a_value_is_written_is_no_mistake_of_the_value(program):
    process = program("run", "jobs:calling", "--backend", "inline")

    out, err = process.communicate(timeout=30)

    assert (process.returncode, out, err) == (143, "", "mpengine: stopped by SIGTERM\n")


@pytest.mark.slow
@pytest.mark.parametrize(("signum", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_a_run_that_waits_for_its_input(program, signum, status):
    process = program("map", "jobs:upper", "-w", "1", stdin=subprocess.PIPE)
    process.stdin.write("a\n")
    process.stdin.flush()
    assert process.stdout.readline() == '"A"\n'

    process.send_signal(signum)

    assert process.wait(30) == status
    assert process.stderr.read() == f"mpengine: stopped by {signum.name}\n"
    assert group_is_empty(process.pid)


@pytest.mark.slow
def test_a_reader_that_leaves_ends_the_run_quietly(program):
    process = program("run", "jobs:endless", "-w", "2")
    assert process.stdout.readline() == "0\n"

    process.stdout.close()

    assert process.wait(30) == 1
    assert process.stderr.read() == ""
    assert group_is_empty(process.pid)


# -- lines in, lines out


@pytest.fixture
def standard_input(monkeypatch):
    """A pipe in the place of standard input; the end to write to."""
    kept = os.dup(0)
    reading, writing = os.pipe()
    os.dup2(reading, 0)
    os.close(reading)
    with os.fdopen(writing, "wb", 0) as stream:
        yield stream
    os.dup2(kept, 0)
    os.close(kept)


def test_closing_a_line_source_ends_a_reader_that_waits(standard_input):
    found, has_first = [], threading.Event()

    def read():
        for line in source:
            found.append(line)
            has_first.set()

    with LineSource(None) as source:
        reader = threading.Thread(target=read)
        reader.start()
        standard_input.write(b"first\n")
        assert has_first.wait(10)

        source.close()
        source.close()
        reader.join(10)

    assert not reader.is_alive()
    assert found == ["first"]
    assert next(source, "the end") == "the end"


def test_a_line_source_hands_over_a_line_as_soon_as_it_is_there(standard_input):
    with LineSource(None) as source:
        standard_input.write(b"first\nsecond\nthi")
        assert [next(source), next(source)] == ["first", "second"]

        standard_input.write(b"rd\n")
        assert next(source) == "third"


def test_a_sink_writes_a_line_into_a_pipe_at_once():
    reading, writing = os.pipe()
    with JsonLinesSink(writing) as sink:
        sink.write({"é": None})
        assert os.read(reading, 100) == b'{"\\u00e9": null}\n'
    os.close(reading)


def test_a_sink_writes_an_item_error_as_an_object_of_its_own(tmp_path):
    item_error = ItemError("parse", 7, "'x'", ValueError("odd"), attempts=2, worker_id=1)

    with JsonLinesSink(os.open(tmp_path / "out", os.O_WRONLY | os.O_CREAT)) as sink:
        sink.write(item_error)

    told = {"stage": "parse", "index": 7, "item": "'x'", "error": "ValueError", "message": "odd"}
    assert json.loads((tmp_path / "out").read_text()) == {"item_error": {**told, "attempts": 2, "worker_id": 1}}


def test_a_sink_gets_a_line_longer_than_the_pipe_through_when_the_pipe_does_not_block():
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    found = []

    def read():
        with os.fdopen(reading, "rb") as stream:
            found.append(stream.read())

    reader = threading.Thread(target=read)
    with JsonLinesSink(writing) as sink:
        reader.start()
        sink.write("x" * 1_000_000)
    reader.join(10)

    assert json.loads(found[0]) == "x" * 1_000_000


def test_a_sink_tells_that_its_reader_has_gone():
    reading, writing = os.pipe()
    os.close(reading)

    with pytest.raises(SinkClosedError), JsonLinesSink(writing) as sink:
        sink.write(1)
