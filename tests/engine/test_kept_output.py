"""What an item prints is kept with its error, whoever prints it and however it ends, and goes where it went before."""

import ctypes
import os
import signal
import subprocess
import sys

import pytest

from mpengine import Engine, stage
from mpengine.results import ItemError
from mpengine.sinks import JsonLinesSink


def print_from_c(text):
    ctypes.CDLL(None).printf(text)


@pytest.fixture(autouse=True)
def _buffered(monkeypatch):
    """Have Python and the C library buffer what is printed, as they do where nobody has forbidden it."""
    monkeypatch.delenv("PYTHONUNBUFFERED", raising=False)


def keep_all(*stages, items, **options):
    options = {"keep_output": 1000, "crash_retries": 0, **options}
    report = Engine(1, **options).run([items, *stages]).unwrap()
    return {error.index: error.output for error in report.errors}


@stage(on_error="drop")
def print_everywhere(number):
    print("python", number)
    match number:
        case 1:
            print("to the other", file=sys.stderr)
            raise ValueError(number)
        case 2:
            subprocess.run(["sh", "-c", "echo child; echo of it >&2"], check=True)
            raise ValueError(number)
        case 3:
            print_from_c(b"from C")
            raise ValueError(number)
        case _:
            return number


@pytest.mark.slow
@pytest.mark.parametrize("start_method", ["forkserver", "spawn"])
def test_what_a_failing_item_prints_is_kept_and_all_goes_on_to_where_it_went(capfd, start_method):
    kept = keep_all(print_everywhere, items=range(6), start_method=start_method)

    assert kept == {
        1: "python 1\nto the other\n",
        2: "python 2\nchild\nof it\n",
        3: "python 3\nfrom C",
    }
    printed = capfd.readouterr()
    assert printed.out == "python 0\npython 1\npython 2\nchild\npython 3\nfrom Cpython 4\npython 5\n"
    told = [line for line in printed.err.splitlines() if not line.startswith("stage")]
    assert told == ["to the other", "of it"]


@pytest.mark.slow
def test_what_was_printed_before_a_worker_dies_is_there():
    @stage(on_error="drop", timeout=None)
    def die(number):
        print("last words", number)
        if number == 1:
            os._exit(3)
        if number == 2:
            print_from_c(b"a line of C\n")
            os.kill(os.getpid(), signal.SIGKILL)
        if number == 3:
            sys.exit("wants out")
        return number

    kept = keep_all(die, items=range(5))

    assert kept == {1: "last words 1\n", 2: "last words 2\na line of C\n", 3: "last words 3\nwants out\n"}


@pytest.mark.slow
def test_an_item_whose_time_is_up_has_what_it_had_printed():
    @stage(on_error="drop", timeout=0.2)
    def hang(number):
        print("hanging", number)
        if number == 1:
            signal.pause()
        return number

    assert keep_all(hang, items=range(3)) == {1: "hanging 1\n"}


@pytest.mark.slow
def test_only_the_end_is_kept():
    @stage(on_error="drop")
    def say_much(number):
        print("x" * 5_000_000 + "the end \N{SNOWMAN}")
        raise ValueError(number)

    kept = keep_all(say_much, items=[0], keep_output=12)

    assert kept == {0: "the end \N{SNOWMAN}\n"[-10:]}


@pytest.mark.slow
def test_every_kind_of_stage_of_a_process_keeps_what_it_can_tell_apart():
    @stage(on_error="drop")
    def first(number):
        print("first", number)
        return number

    @stage(on_error="drop", retries=1)
    def second(number):
        print("second", number)
        raise ValueError(number)

    @stage(on_error="drop", batch=2)
    def in_lists(numbers):
        print("list", numbers)
        raise ValueError(numbers)

    @stage(on_error="drop")
    def many(number):
        yield number
        print("many", number)
        raise ValueError(number)

    assert keep_all(first, second, items=[4]) == {0: "first 4\nsecond 4\nsecond 4\n"}
    assert keep_all(in_lists, items=[4, 5]) == dict.fromkeys(range(2), "list [4, 5]\nlist [4]\nlist [5]\n")
    assert keep_all(many, items=[4]) == {0: "many 4\n"}


@pytest.mark.slow
def test_quick_items_are_told_apart():
    @stage(on_error="drop")
    def quick(number):
        if number > 1990:
            print(number)
        if number == 1995:
            raise ValueError(number)
        return number

    assert keep_all(quick, items=range(2000)) == {1995: "1995\n"}


def test_nothing_is_kept_unless_it_is_asked_for():
    result = Engine(1, keep_output=0).run([[1], print_everywhere])

    assert [error.output for error in result.report.errors] == [""]


@pytest.mark.parametrize("wrong", [-1, None, True, 1.5, "1"])
def test_what_is_no_number_of_bytes_is_refused(wrong):
    with pytest.raises(ValueError, match="keep_output must be a whole number of at least 0"):
        Engine(1, keep_output=wrong)


def test_an_error_that_is_written_as_json_has_what_was_printed(tmp_path):
    path = tmp_path / "out.jsonl"
    with JsonLinesSink(os.open(path, os.O_WRONLY | os.O_CREAT)) as sink:
        sink.write(ItemError("parse", 1, "'x'", ValueError("x"), output="so far\n"))

    assert '"output": "so far\\n"' in path.read_text()
