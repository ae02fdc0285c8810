"""What --input and --output name is read and written in the format that is asked for, or that its name tells of."""

from __future__ import annotations

import gzip
import importlib.util
import json

import pytest

from mpengine.cli.formats import format_of
from mpengine.sinks.text import CsvSink

MORE_JOBS = """
from mpengine import Pipeline, stage

def same(item): return item
def double(row): return {"a": int(row["a"]) * 2}
def texts(row): return str(row["a"])

rows = Pipeline(()) >> double
any = Pipeline(()) >> same
"""


@pytest.fixture
def more(jobs):
    (jobs / "more.py").write_text(MORE_JOBS)
    (jobs / "in.csv").write_text("a\n1\n2,3\n4\n")
    (jobs / "in.jsonl.gz").write_bytes(gzip.compress(b'{"a": 1}\nnope\n{"a": 4}\n'))
    return jobs


@pytest.mark.parametrize(
    ("name", "found"),
    [("a.csv", "csv"), ("a.TSV.gz", "csv"), ("a.ndjson.zst", "jsonl"), ("a.jsonl", "jsonl"), ("a.parquet", "parquet"),
     ("a.txt.xz", "other"), ("a", "other"), ("-", "other")],
)  # fmt: skip
def test_a_name_tells_of_a_format_also_where_the_file_is_compressed(name, found):
    assert format_of(name, "other") == found


@pytest.mark.parametrize(("name", "bad"), [("in.csv", "line 3 of in.csv"), ("in.jsonl.gz", "line 2 of in.jsonl.gz")])
def test_run_reads_and_writes_by_the_names_of_the_files(more, command, name, bad):
    outcome = command("run", "more:rows", "--input", name, "--output", "out.csv", "--on-error", "drop", "-q")

    assert (outcome.status, (more / "out.csv").read_text()) == (1, "a\n2\n8\n")
    assert any(bad in line for line in outcome.told)


def test_map_reads_lines_unless_it_is_told_otherwise(more, command):
    assert command("map", "more:same", "--input", "in.csv", "-q").values == ["a", "1", "2,3", "4"]
    told = command("map", "more:double", "--input", "in.csv", "--input-format", "csv", "--on-error", "drop", "-q")
    assert told.values == [{"a": 2}, {"a": 8}]


def test_a_format_that_is_asked_for_goes_before_the_name(more, command):
    formats = ("--input-format", "lines", "--output-format", "lines")

    outcome = command("run", "more:any", "--input", "in.csv", "--output", "x.csv", *formats)

    assert outcome.status == 0
    assert (more / "x.csv").read_text() == "a\n1\n2,3\n4\n"


@pytest.mark.parametrize(("args", "count"), [(["--input", "*.csv", "--input-format", "glob"], 1),
                                             (["--input", ".", "--input-format", "tree"], 12)])  # fmt: skip
def test_names_of_files_are_items_too(more, command, args, count):
    values = command("run", "more:any", *args, "-q").values

    assert len([value for value in values if "__pycache__" not in value]) == count
    assert "in.csv" in {value.removeprefix("./") for value in values}


def test_failed_items_are_kept_and_run_again(more, command):
    first = command("run", "more:rows", "--input", "in.csv", "--dead-letter", "failed.jsonl", "-q")
    (more / "again.csv").write_text("a\nx\n")
    command("run", "more:rows", "--input", "again.csv", "--dead-letter", "failed.jsonl", "-q")
    letters = [json.loads(line) for line in (more / "failed.jsonl").read_text().splitlines()]
    again = command(
        "run", "more:any", "--input", "failed.jsonl", "--input-format", "deadletter", "--on-error", "drop", "-q"
    )

    assert (first.status, first.values) == (1, [{"a": 2}, {"a": 8}])
    assert [letter["error"] for letter in letters] == ["MalformedError", "ValueError"]
    assert again.values == [{"a": "x"}]


@pytest.mark.parametrize(
    ("args", "problem"),
    [
        (["--input", "nowhere.csv"], "cannot read nowhere.csv: No such file or directory"),
        (["--input", "*.png", "--input-format", "glob"], "no file matches '*.png'"),
        (["--input", "nowhere", "--input-format", "tree"], "cannot read nowhere: No such file or directory"),
        (["--output-format", "parquet"], "cannot write Parquet to standard output: it takes a file"),
        (["--input", "in.csv", "--dead-letter", "nowhere/x"], "dead letters cannot be kept in nowhere/x: there is no"),
        (["--input", "in.csv", "--input-format", "odd"], "'odd' is not one of"),
    ],
)
def test_what_cannot_be_read_or_written_is_told_in_one_line(more, command, args, problem):
    outcome = command("run", "more:any", *args)

    assert outcome.status == 2
    assert len(outcome.told) == 1
    assert problem in outcome.told[0]


@pytest.mark.parametrize(
    ("args", "extra"),
    [(["--input", "in.parquet"], "parquet"), (["--input", "in.csv", "--output", "out.parquet"], "parquet"),
     (["--input", "in.jsonl.zst"], "zstd"), (["--input", "in.csv", "--output", "out.jsonl.zst"], "zstd")],
)  # fmt: skip
def test_what_takes_a_package_that_is_not_installed_names_the_extra(more, command, monkeypatch, args, extra):
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util,
        "find_spec",
        lambda name, *more: None if name in {"pyarrow", "zstandard"} else find_spec(name, *more),
    )

    outcome = command("run", "more:any", *args)

    assert outcome.status == 2
    assert outcome.told[0].endswith(f"pip install 'mpengine[{extra}]'")


@pytest.mark.parametrize("call", ["write", "close"])
def test_an_output_that_fails_in_a_way_nobody_foresaw_is_told_and_no_success(more, command, monkeypatch, call):
    def fail(sink, *_):
        sink.abort()
        raise LookupError("a library has a bad day")

    monkeypatch.setattr(CsvSink, call, fail)

    outcome = command("run", "more:rows", "--input", "in.csv", "--output", "out.csv", "--on-error", "drop", "-q")

    assert outcome.status == 1
    assert "mpengine: cannot write out.csv: LookupError: a library has a bad day" in outcome.told
