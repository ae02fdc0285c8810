"""Outputs are taken up again where a token says, whatever was written behind it (S1 to S4)."""

from __future__ import annotations

import json
import os
import sqlite3
import time

import pytest

from mpengine import Engine, Journal, JournalError, Pipeline, SinkError, sinks, sources
from mpengine.sinks.inorder import FileSink

ROWS = [{"a": number, "b": f"{number}, \u00e9"} for number in range(10)]
TEXTS = [str(number) for number in range(10)]


def rows_of_table(path):
    return list(sources.sqlite(path, "SELECT a, b FROM t ORDER BY rowid"))


FORMATS = {
    "jsonl": (sinks.jsonl, ROWS, lambda path: list(sources.jsonl(path))),
    "jsonl.gz": (sinks.jsonl, ROWS, lambda path: list(sources.jsonl(path))),
    "jsonl.xz": (sinks.jsonl, ROWS, lambda path: list(sources.jsonl(path))),
    "jsonl.zst": (sinks.jsonl, ROWS, lambda path: list(sources.jsonl(path))),
    "txt": (sinks.lines, TEXTS, lambda path: list(sources.lines(path))),
    "csv": (
        sinks.csv,
        [{"a": row["b"], "b": row["b"]} for row in ROWS],
        lambda path: list(sources.csv(path)),
    ),
    "rows": (sinks.csv, [["1", "2"]] * 10, lambda path: [x.split(",") for x in sources.lines(path)]),
    "db": (lambda path: sinks.sqlite(path, "t"), ROWS, rows_of_table),
    "folder": (
        sinks.files,
        [(f"x/{number}.txt", b"content") for number in range(10)],
        lambda path: [(os.path.relpath(name, path), b"content") for name in sources.tree(path)],
    ),
    "parts": pytest.param(sinks.parquet, ROWS, lambda path: list(sources.parquet(path)), marks=pytest.mark.slow),
}
every_format = pytest.mark.parametrize(("make", "values", "read"), FORMATS.values(), ids=FORMATS)


def begun(sink, values):
    sink.begin()
    for value in values:
        sink.write(value)
    return sink


def gone_on(sink, token, values):
    sink.rewind(json.loads(json.dumps(token)))
    sink.begin()
    for value in values:
        sink.write(value)
    return sink


@every_format
def test_what_is_written_can_be_read(tmp_path, make, values, read):
    assert sinks.write(values, make(tmp_path / "out")) == 10
    assert read(tmp_path / "out") == values


@pytest.mark.parametrize("lost", [True, False], ids=["killed", "closed"])
@every_format
def test_a_run_that_goes_on_takes_back_what_was_written_behind_the_token_s3(
    tmp_path, request, make, values, read, lost
):
    path = tmp_path / f"out.{request.node.callspec.id.split('-')[1]}"
    first = begun(make(path), values[:4])
    token = first.position(is_last=True)
    assert first.position(is_last=True) == token
    for value in values[4:7]:
        first.write(value)
    later = first.position(is_last=True)
    first.sync()
    for value in values[7:9]:
        first.write(value)
    (first.abort if lost else first.close)()
    if path.is_file() and path.suffix != ".db":
        with path.open("ab") as file:
            file.write(b'{"half of a val')

    second = gone_on(make(path), token, values[4:6])
    again = second.position(is_last=True)
    second.write(values[8])
    second.abort()
    gone_on(make(path), again, values[6:]).close()

    assert read(path) == values
    assert (again["values"], later["values"]) == (6, 7)


@every_format
def test_nothing_is_lost_before_a_run_begins_s1(tmp_path, make, values, read):
    sinks.write(values, make(tmp_path / "out"))

    sink = make(tmp_path / "out")
    sink.open()
    sink.abort()

    assert read(tmp_path / "out") == values


@pytest.mark.parametrize("name", ["out.jsonl", "out.jsonl.gz"])
def test_an_atomic_file_has_its_name_when_it_is_complete(tmp_path, name):
    path = tmp_path / name
    sinks.write([{"old": 1}], sinks.jsonl(path))

    first = begun(sinks.jsonl(path, atomic=True), ROWS[:3])
    token = first.position(is_last=True)
    first.abort()
    assert list(sources.jsonl(path)) == [{"old": 1}]
    gone_on(sinks.jsonl(path, atomic=True), token, ROWS[3:]).close()

    assert list(sources.jsonl(path)) == ROWS
    assert [found.name for found in tmp_path.iterdir()] == [name]
    with pytest.raises(JournalError, match=r"out\.jsonl.* cannot be gone on with: .*\.part is gone"):
        sinks.jsonl(path, atomic=True).rewind(token)


def test_a_file_that_holds_less_than_the_token_says_is_another_one(tmp_path):
    path = tmp_path / "out.jsonl"
    first = begun(sinks.jsonl(path), ROWS)
    token = first.position()
    first.close()
    path.write_text("{}\n")

    sink = sinks.jsonl(path)
    with pytest.raises(JournalError, match=f"has 3 bytes, and {token['bytes']} are known to have been written to it"):
        sink.rewind(token)
    sink.abort()
    assert path.read_text() == "{}\n"
    with pytest.raises(JournalError, match="is gone"):
        sinks.jsonl(tmp_path / "nowhere.jsonl").rewind(token)


def test_what_cannot_be_taken_back_counts_as_written_s5():
    reading, writing = os.pipe()
    sink = begun(sinks.JsonLinesSink(writing), [1])
    token = sink.position()
    sink.write(2)
    sink.rewind(token)
    sink.begin()
    sink.write(3)
    sink.close()

    assert token is not None
    assert sink.name == "a stream"
    assert os.read(reading, 10) == b"1\n2\n3\n"
    os.close(reading)


def test_what_standard_output_leads_to_is_gone_on_with_behind_what_it_held(tmp_path):
    path = tmp_path / "out"
    path.write_text("theirs\n")
    first = begun(sinks.JsonLinesSink(os.open(path, os.O_WRONLY | os.O_APPEND)), [1])
    token = first.position()
    first.write(2)
    first.close()

    second = gone_on(sinks.JsonLinesSink(os.open(path, os.O_WRONLY | os.O_APPEND)), token, [3])
    second.close()

    assert path.read_text() == "theirs\n1\n3\n"
    assert first.name == second.name == str(path)


@pytest.mark.parametrize(
    "make", [sinks.jsonl, sinks.csv, sinks.files, lambda path: sinks.sqlite(path, "t"), sinks.parquet]
)
def test_a_run_that_was_killed_before_its_first_token_begins_anew(tmp_path, make):
    sink = make(tmp_path / "out")
    token = sink.position()
    begun(sink, [])
    sink.abort()

    again = make(tmp_path / "out")
    again.rewind(token)
    again.begin()
    again.abort()
    assert again.written == 0
    assert again.name.startswith(str(tmp_path / "out"))


@pytest.mark.parametrize("make", [sinks.jsonl, lambda path: sinks.sqlite(path, "t")])
def test_what_costs_something_that_stays_is_done_now_and_then_s4(tmp_path, monkeypatch, make):
    now = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    sink = begun(make(tmp_path / "out.gz"), [{"a": 1}])
    found = []
    for passed_s in (0.0, 0.1, 20.0, 0.1):
        now[0] += passed_s
        found.append(sink.position() is not None)
    last = sink.position(is_last=True)
    sink.close()

    assert found == [False, False, True, False]
    assert last["values"] == 1


@pytest.mark.parametrize(
    ("make", "value", "problem"),
    [
        (sinks.jsonl, {1, 2}, "value 1 of type set is not JSON: JSON has no set"),
        (sinks.lines, "a\nb", "value 1 to {path}: there is a line end in it"),
        (sinks.lines, 3, "value 1 to {path}: a line is text, not int"),
        (sinks.csv, "text", "value 1 to {path}: a row is a dict, a list or a tuple, not str"),
        (sinks.csv, {"a": 1, "c": 2}, "value 1 to {path}: its columns are not those of the file; they differ in b, c"),
        (sinks.csv, {"a": 1, "b": [2]}, "value 1 to {path}: a field is text or a number, not list"),
        (sinks.csv, [1], "value 1 to {path}: it has 1 fields, not 2"),
        (lambda path: sinks.sqlite(path, "t"), {"a": 1, "c": 2}, "they differ in b, c"),
        (lambda path: sinks.sqlite(path, "t"), {"a": 1, "b": {}}, "value 1 to table t of {path}: "),
        pytest.param(sinks.parquet, {"a": "x", "b": "y"}, "value 1 to {path}: ", marks=pytest.mark.slow),
        pytest.param(sinks.parquet, {"a": 1}, "they differ in b", marks=pytest.mark.slow),
    ],
)
def test_a_value_that_does_not_fit_is_told_with_its_number_and_the_file(tmp_path, make, value, problem):
    path = tmp_path / "out"
    first = {sinks.jsonl: {}, sinks.lines: "x"}.get(make, {"a": 1, "b": "x"})

    result = Pipeline([first, value], [lambda item: item]).to(make(path), Engine(1, backend="inline"))

    assert result.reason.startswith("cannot write ")
    assert problem.format(path=path) in result.reason
    assert isinstance(result.cause, SinkError)
    assert not result.report.ok


@pytest.mark.parametrize("name", ["../a", "/a", "b/../../a", "", "a/", ".", "a\0", b"a", 3, "link/a", ".mpengine-part"])
def test_a_name_that_leads_out_of_the_folder_is_refused(tmp_path, name):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "link").symlink_to(tmp_path)

    with pytest.raises(SinkError, match="cannot write value 0 to"):
        sinks.write([(name, "content")], sinks.files(tmp_path / "out"))
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["link", "out"]


def test_each_value_may_be_a_file_that_is_whole_or_not_there(tmp_path):
    with sinks.files(tmp_path / "out") as sink:
        sink.begin()
        sink.write(("a.txt", "old"))
        sink.write(("a.txt", "n\udcffw"))
        with pytest.raises(SinkError, match="content of a file is bytes or text, not int"):
            sink.write(("b.txt", 3))

    assert (tmp_path / "out" / "a.txt").read_bytes() == b"n\xffw"
    assert [found.name for found in (tmp_path / "out").iterdir()] == ["a.txt"]


def test_a_table_gets_all_of_a_run_or_nothing_and_keeps_what_it_had(tmp_path):
    path = tmp_path / "out.db"
    sinks.write(ROWS[:2], sinks.sqlite(path, "t"))

    with pytest.raises(ZeroDivisionError):
        sinks.write((row if row["a"] < 5 else 1 / 0 for row in ROWS), sinks.sqlite(path, "t"))
    assert rows_of_table(path) == ROWS[:2]

    sinks.write(ROWS[2:], sinks.sqlite(path, "t"))
    assert rows_of_table(path) == ROWS
    with (
        sinks.sqlite(path, "t") as sink,
        pytest.raises(JournalError, match="it has 0 transactions of that run, which had made 7"),
    ):
        sink.rewind({"output": "x", "position": 7, "values": 3, "columns": ["a"]})
    (tmp_path / "text").write_text("no database, and long enough to be told from an empty one" * 20)
    with pytest.raises(SinkError, match="file is not a database"):
        sinks.sqlite(tmp_path / "text", "t").begin()


def test_others_may_write_to_the_database_between_two_positions(tmp_path):
    path = tmp_path / "out.db"
    sink = begun(sinks.sqlite(path, "t"), ROWS[:2])
    token = sink.position(is_last=True)
    sink.write(ROWS[5])
    sink.position(is_last=True)
    other = sqlite3.connect(path)
    with other:
        other.execute("INSERT INTO t VALUES (99, 'theirs')")
    other.close()
    sink.write(ROWS[6])
    sink.close()

    gone_on(sinks.sqlite(path, "t"), token, ROWS[2:3]).close()

    assert [row["a"] for row in rows_of_table(path)] == [0, 1, 99, 2]


@pytest.mark.parametrize("name", ["out.csv", "out.csv.gz"])
def test_a_full_disk_names_the_file(tmp_path, monkeypatch, name):
    def full(fd):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fdatasync", full)
    sink = begun(sinks.csv(tmp_path / name, atomic=True), ROWS)
    with pytest.raises(SinkError, match=rf"cannot write .*{name}: No space left on device, after 10 values"):
        sink.close()
    assert not (tmp_path / name).exists()


def test_an_output_that_is_not_begun_takes_nothing(tmp_path):
    with pytest.raises(SinkError, match=r"out is not open: begin\(\) comes first"):
        sinks.jsonl(tmp_path / "out").write(1)
    with FileSink(tmp_path / "out") as sink:
        assert sink.name == sink.label == str(tmp_path / "out")


def test_a_pipeline_writes_what_comes_out_and_tells_how_it_ended(tmp_path):
    engine = Engine(1, backend="inline")

    done = Pipeline([1, 2], [lambda x: 2 * x]).to(sinks.jsonl(tmp_path / "a.jsonl", atomic=True), engine)
    failed = Pipeline([1, 0], [lambda x: 1 / x]).to(sinks.jsonl(tmp_path / "b.jsonl", atomic=True), engine)

    assert done.is_ok
    assert list(sources.jsonl(tmp_path / "a.jsonl")) == [2, 4]
    assert isinstance(failed.cause, ZeroDivisionError)
    assert not (tmp_path / "b.jsonl").exists()
    with pytest.raises(FileNotFoundError):
        Pipeline([1], [abs]).to(sinks.jsonl(tmp_path / "nowhere" / "c"), engine)


@pytest.mark.parametrize("name", ["out.jsonl", "out.csv.gz", "out.db"])
def test_a_pipeline_with_a_journal_goes_on_with_its_output(tmp_path, name):
    engine, path, broken = Engine(1, backend="inline", on_error="raise"), tmp_path / name, [True]
    is_table = name.endswith("db")
    (tmp_path / "in.jsonl").write_text("".join(f'{{"a": {number}}}\n' for number in range(10)))

    def work(row):
        if row["a"] == 6 and broken:
            raise ValueError("not yet")
        return {"a": str(row["a"])}

    def run(**options):
        sink = (
            sinks.sqlite(path, "t") if name.endswith("db") else sinks.csv(path) if "csv" in name else sinks.jsonl(path)
        )
        pipeline = Pipeline(sources.jsonl(tmp_path / "in.jsonl")) >> work
        return pipeline.to(sink, engine, journal=Journal(tmp_path / "journal.db", **options))

    assert isinstance(run().cause, ValueError)
    broken.clear()
    (tmp_path / "in.jsonl").write_text("\n" + (tmp_path / "in.jsonl").read_text())  # each line has another number now
    assert run(retry_failed=True).is_ok

    rows = (
        sources.sqlite(path, "SELECT a FROM t") if is_table else (sources.csv if "csv" in name else sources.jsonl)(path)
    )
    assert sorted(int(row["a"]) for row in rows) == list(range(10))
