"""Inputs give their items, name what is malformed by line or row, and end when they are told to."""

from __future__ import annotations

import gzip
import lzma
import os
import sqlite3
import threading
from itertools import chain

import pytest
import zstandard

from mpengine import Engine, MalformedError, Pipeline, SourceError, mix, sources, stage
from mpengine.reading import Malformed, name_of
from mpengine.sources.cutting import NumberedLines

PATIENCE_S = 20.0
PACK = {"gz": gzip.compress, "xz": lzma.compress, "zst": zstandard.ZstdCompressor().compress, "txt": bytes}


def same(item):
    return item


def outcome(source, policy="drop"):
    """What comes out of an input, and what failed in it."""
    result = Engine(1, backend="inline", on_error=policy).run([source, same])
    return result.report.values, [str(error.error) for error in result.report.errors], getattr(result, "reason", None)


# -- lines and lines of JSON


@pytest.mark.parametrize("kind", PACK)
def test_lines_come_out_of_plain_and_compressed_files_alike(tmp_path, kind):
    path = tmp_path / f"in.{kind}"
    path.write_bytes(PACK[kind](b"\xef\xbb\xbfone\r\n") + PACK[kind](b"\ntwo \xff\nthree"))

    assert outcome(sources.lines(path)) == (["one", "", "two \udcff", "three"], [], None)


@pytest.mark.parametrize("make", [sources.lines, sources.jsonl, sources.csv])
@pytest.mark.parametrize("kind", PACK)
def test_an_empty_file_gives_no_items(tmp_path, make, kind):
    path = tmp_path / f"in.{kind}"
    path.touch()

    assert outcome(make(path)) == ([], [], None)


@pytest.mark.parametrize("kind", ["gz", "xz", "zst"])
def test_a_compressed_file_that_is_cut_off_gives_what_it_has_and_is_named(tmp_path, kind):
    path = tmp_path / f"in.{kind}"
    path.write_bytes(PACK[kind](b"1\n") + PACK[kind](b"2\n" * 5)[:-3])

    values, _, reason = outcome(sources.lines(path))

    assert values[:1] == ["1"]
    assert reason == f"the source failed: SourceError: {path} is cut off: its compressed content has no end"


@pytest.mark.parametrize("kind", ["gz", "xz", "zst"])
def test_a_file_that_is_not_compressed_as_its_name_says_is_named(tmp_path, kind):
    path = tmp_path / f"in.{kind}"
    path.write_bytes(b"plain text\n")

    assert outcome(sources.lines(path))[2].startswith(f"the source failed: SourceError: cannot read {path}: ")


def test_a_line_that_is_no_json_fails_by_number_as_an_item_of_its_own(tmp_path):
    path = tmp_path / "in.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"a": 1}\r\n\n  \nnope\n"\xff"\nNaN\n' + b"[" * 100_000 + b"\n[2]")

    values, problems, reason = outcome(sources.jsonl(path))

    assert (values, reason) == ([{"a": 1}, [2]], None)
    assert problems[:3] == [
        f"line 4 of {path} is not JSON: Expecting value at column 1",
        f"line 5 of {path} is not UTF-8: byte 2 is 0xff",
        f"line 6 of {path} is not JSON that can be read: NaN is no JSON",
    ]
    assert problems[3].startswith(f"line 7 of {path} is not JSON that can be read: ")


@pytest.mark.parametrize("make", [sources.lines, sources.jsonl, sources.csv])
def test_a_line_that_is_too_long_fails_as_an_item_of_its_own(tmp_path, make):
    path = tmp_path / "in"
    path.write_bytes(b"1\n2\n" + b"3" * 200_000 + b"\n4\n" + b"5" * 200_000)

    values, problems, reason = outcome(make(path, max_line_bytes=100))

    assert len(values) == {sources.lines: 3, sources.jsonl: 3, sources.csv: 2}[make]  # CSV has names in its first line
    assert problems == [f"line {number} of {path} is longer than 100 bytes" for number in (3, 5)]
    assert reason is None


@pytest.mark.parametrize("head", [stage(same, on_error="emit"), mix(stage(same, on_error="emit"), len)])
def test_what_is_malformed_has_the_policy_of_the_first_stage(tmp_path, head):
    (tmp_path / "in.jsonl").write_text("nope\n[1]\n")
    (tmp_path / "in.csv").write_text("a\n1,2\n3\n")
    engine = Engine(1, backend="inline", on_error="raise")

    for source in (sources.jsonl(tmp_path / "in.jsonl"), sources.csv(tmp_path / "in.csv")):
        bad, _ = engine.run([source, head]).unwrap().values
        assert type(bad.error) is MalformedError


@pytest.mark.slow
def test_workers_read_records_and_what_is_malformed_never_reaches_one(tmp_path):
    (tmp_path / "in.jsonl").write_text("[1]\nnope\n[2]\n")
    (tmp_path / "in.csv").write_text("a\n1\n1,2\n3\n")

    with Engine(2, on_error="drop") as engine:
        lines = engine.run([sources.jsonl(tmp_path / "in.jsonl"), same]).report
        rows = engine.run([sources.csv(tmp_path / "in.csv"), same]).report

    assert (lines.values, [error.worker_id is None for error in lines.errors]) == ([[1], [2]], [False])
    assert (rows.values, [error.worker_id for error in rows.errors]) == ([{"a": "1"}, {"a": "3"}], [None])
    assert lines.snapshot.stages[0].name == "jsonl"


def test_an_input_gives_its_items_wherever_it_stands(tmp_path):
    path = tmp_path / "in.jsonl"
    path.write_text("[1]\n[2]\n")
    source = sources.jsonl(path)

    assert list(source) == list(source) == [[1], [2]]
    for given in (source, lambda: source, chain(source), source.open()):
        assert outcome(given) == ([[1], [2]], [], None)


def test_by_hand_what_is_malformed_is_raised(tmp_path):
    path = tmp_path / "in.jsonl"
    path.write_text("[1]\nnope\n")
    items = iter(sources.jsonl(path))

    assert next(items) == [1]
    with pytest.raises(MalformedError, match="line 2 of"):
        next(items)
    assert outcome(lambda: sources.jsonl(path))[1] == [f"line 2 of {path} is not JSON: Expecting value at column 1"]


@pytest.mark.parametrize(
    ("make", "backend"),
    [
        (sources.lines, "inline"),
        (sources.jsonl, "inline"),
        (sources.csv, "inline"),
        pytest.param(sources.jsonl, "process", marks=pytest.mark.slow),
    ],
)
def test_cancelling_a_run_ends_the_wait_for_a_pipe_l1(tmp_path, monkeypatch, make, backend):
    os.mkfifo(tmp_path / "pipe")
    keeper = os.open(tmp_path / "pipe", os.O_RDWR)
    os.write(keeper, b"1\n2\nhalf a line")
    next_line, is_about_to_wait = NumberedLines.next_line, threading.Event()

    def noted(lines):
        if lines.number == 2:
            is_about_to_wait.set()
        return next_line(lines)

    def cancel():
        assert is_about_to_wait.wait(PATIENCE_S)
        engine.cancel("enough")

    monkeypatch.setattr(NumberedLines, "next_line", noted)
    engine = Engine(1, backend=backend)
    canceller = threading.Thread(target=cancel)
    canceller.start()
    result = engine.run([make(tmp_path / "pipe"), same])
    canceller.join()
    os.close(keeper)

    assert result.reason == "enough"
    assert result.report.snapshot.source_items <= 2


def test_a_file_that_a_thread_is_reading_is_closed_by_that_thread_l2():
    reading, writing = os.pipe()
    kept = os.dup(0)
    os.dup2(reading, 0)
    os.close(reading)
    reader = sources.lines("-").open()
    os.dup2(kept, 0)
    os.close(kept)
    fd, is_over = reader.fileno(), threading.Event()
    with reader._lines.file._reading:  # as a thread has it that is reading
        reader.close()
        os.fstat(fd)
    thread = threading.Thread(target=lambda: (next(reader, None), is_over.set()))
    thread.start()
    assert is_over.wait(PATIENCE_S)
    thread.join()
    os.close(writing)

    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(fd)
    reader.interrupt()  # which must not write to what is somebody else's by now


# -- rows


def test_rows_of_csv_come_as_dicts_and_bad_ones_are_named_by_their_first_line(tmp_path):
    path = tmp_path / "in.csv"
    path.write_bytes(b'\xef\xbb\xbfa,b\r\n1,"x\ny"\r\n3\n\n4,5,6\n7,\xff\n8,\0\n9,"a"b\n10,11')

    values, problems, reason = outcome(sources.csv(path))

    assert (values, reason) == ([{"a": "1", "b": "x\ny"}, {"a": "10", "b": "11"}], None)
    assert problems == [
        f"line 4 of {path} has 1 field, not 2",
        f"line 6 of {path} has 3 fields, not 2",
        f"line 7 of {path} is not UTF-8: byte 3 is 0xff",
        f"line 8 of {path} holds a zero byte",
        f"line 9 of {path} is not CSV: ',' expected after '\"'",
    ]


def test_names_of_columns_may_be_given_and_may_not_be_twice(tmp_path):
    path = tmp_path / "in.tsv"
    path.write_text("x\tx\n")

    assert outcome(sources.csv(path, columns=["a", "b"], delimiter="\t"))[0] == [{"a": "x", "b": "x"}]
    assert outcome(sources.csv(path, delimiter="\t"))[2].endswith(
        f"line 1 of {path} has the names of the columns, and 'x' twice"
    )


def test_rows_of_a_query_come_as_dicts(tmp_path):
    path = tmp_path / "in.db"
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE t (a, b)")
    connection.executemany("INSERT INTO t VALUES (?, ?)", [(number, str(number)) for number in range(1000)])
    connection.commit()
    connection.close()

    query = "SELECT a, b FROM t WHERE a >= ? ORDER BY a"
    assert outcome(sources.sqlite(path, query, [500]))[0] == [{"a": n, "b": str(n)} for n in range(500, 1000)]
    assert outcome(sources.sqlite(path, "SELECT cast(x'ff' AS TEXT) AS t"))[0] == [{"t": "\udcff"}]
    for query, problem in {
        "nonsense": 'near "nonsense": syntax error',
        "SELECT a, a FROM t": "gives 'a' twice",
        "DELETE FROM t": "readonly database",
    }.items():
        assert problem in outcome(sources.sqlite(path, query))[2]
    assert "nowhere" in outcome(sources.sqlite(tmp_path / "nowhere", "SELECT 1"))[2]


def test_interrupting_a_query_ends_it_l1(tmp_path):
    path = tmp_path / "in.db"
    path.touch()
    endless = "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n) SELECT count(*) AS x FROM n"
    cheap = endless.replace("count(*) AS x", "x")

    with sources.sqlite(path, cheap).open() as reader:
        assert [next(reader), next(reader)] == [{"x": 1}, {"x": 2}]
        reader.interrupt()
        assert list(reader) == []
    reader.interrupt()


@pytest.mark.slow
def test_rows_of_parquet_files_come_as_dicts(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = [{"a": number, "b": str(number)} for number in range(10_000)]
    (tmp_path / "in").mkdir()
    pq.write_table(pa.Table.from_pylist(rows[6000:]), tmp_path / "in" / "part-00001.parquet")
    pq.write_table(pa.Table.from_pylist(rows[:6000]), tmp_path / "in" / "part-00000.parquet", row_group_size=1000)
    (tmp_path / "in.csv").write_text("a\n")

    assert outcome(sources.parquet(tmp_path / "in"))[0] == rows
    assert outcome(sources.parquet(tmp_path / "in" / "part-00001.parquet", columns=["b"]))[0][0] == {"b": "6000"}
    assert "no column 'z'" in outcome(sources.parquet(tmp_path / "in", columns=["z"]))[2]
    assert f"cannot read {tmp_path / 'in.csv'} as Parquet" in outcome(sources.parquet(tmp_path / "in.csv"))[2]
    with sources.parquet(tmp_path / "in").open() as reader:
        assert next(reader) == rows[0]
        assert reader.given_share == 1 / 10_000
        reader.interrupt()
        assert list(reader) == []


# -- names of files


@pytest.fixture
def folder(tmp_path, monkeypatch):
    for name in ("b.txt", "a/2.txt", "a/1.png", "a/.hidden/x.txt", "c/d/e.txt", ".dot.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "c" / "back").symlink_to(tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("*", ["b.txt"]),
        (".*.txt", [".dot.txt"]),
        ("*/*", ["a/1.png", "a/2.txt"]),
        ("**/*.txt", ["b.txt", "a/2.txt", "c/d/e.txt"]),
        ("a/**", ["a/1.png", "a/2.txt"]),
        ("c/d/e.txt", ["c/d/e.txt"]),
        ("[ab]*/[!1].*", ["a/2.txt"]),
        ("?.txt", ["b.txt"]),
    ],
)
def test_a_pattern_gives_files_folder_by_folder_and_sorted(folder, pattern, names):
    assert list(sources.glob(pattern)) == names
    assert list(sources.glob(folder / pattern)) == [str(folder / name) for name in names]


def test_a_pattern_that_matches_nothing_is_an_error_unless_it_may(folder):
    with pytest.raises(SourceError, match=r"no file matches '\*\.jpg'"):
        sources.glob("*.jpg").open()
    assert list(sources.glob("*.jpg", missing_ok=True)) == []


def test_a_tree_gives_every_file_once_however_links_lead(folder):
    assert list(sources.tree(".", "*.txt")) == [
        "./.dot.txt",
        "./a/.hidden/x.txt",
        "./a/2.txt",
        "./b.txt",
        "./c/d/e.txt",
    ]
    assert "nowhere" in outcome(sources.tree("nowhere"))[2]


def test_a_folder_that_cannot_be_read_fails_as_an_item_of_its_own(folder, monkeypatch):
    scandir = os.scandir

    def refusing(path):
        if str(path).endswith("a"):
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refusing)

    values, problems, _ = outcome(sources.tree("."))
    assert (values, problems) == (
        ["./.dot.txt", "./b.txt", "./c/d/e.txt"],
        ["the folder ./a cannot be read: Permission denied"],
    )


def test_a_malformed_item_shows_where_it_stood():
    error = MalformedError("line 3 of x is odd")
    error.where = "line 3 of x"

    assert repr(Malformed(error)) == "<line 3 of x>"


def test_an_item_is_called_by_what_it_holds_wherever_it_stands_or_by_what_a_key_makes_of_it(tmp_path):
    path = tmp_path / "in.jsonl"
    path.write_text('\n{"a": 1}\nnope')
    with sources.jsonl(path).open() as reader:
        line, bad = reader

    assert [name_of(item, None) for item in (line, bad, "plain")] == [b'{"a": 1}', b"nope", "plain"]
    assert [name_of(item, lambda item: item["a"]) for item in (line, bad)] == [1, b"nope"]
    assert name_of(Malformed(MalformedError("x")), None) == ""


def test_a_run_begins_and_closes_its_input_anew_each_time(tmp_path):
    path = tmp_path / "in"
    path.write_text("1\n2\n")
    pipeline = Pipeline(sources.lines(path)) >> same
    engine = Engine(1, backend="inline")

    assert pipeline.run(engine).report.values == pipeline.run(engine).report.values == ["1", "2"]
    assert (
        Engine(1, backend="inline")
        .run([sources.lines(tmp_path), same])
        .reason.endswith(f"Is a directory: '{tmp_path}'")
    )
