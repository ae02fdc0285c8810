"""A run with a journal: another goes on where it ended, and nothing is lost, doubled or done for nothing."""

import asyncio
import contextlib
import os
import pickle
import sqlite3
import subprocess
import sys
import threading

import psutil
import pytest

from mpengine import SKIP, Err, ItemError, Journal, JournalError, Pipeline, PipelineError, stage
from mpengine.journal import book as books
from mpengine.journal import schema, writer
from mpengine.journal.reading import read


@pytest.fixture
def path(tmp_path):
    return tmp_path / "journal.db"


@pytest.fixture
def inline(make_engine):
    return make_engine("inline")


class Counting:
    """A stage function that notes what it was called with, in a file: also in other processes."""

    def __init__(self, file, function=lambda item: item):
        self.file = file
        self.function = function

    def __call__(self, item):
        with self.file.open("a") as file:
            file.write(f"{item!r}\n")
        return self.function(item)

    def calls(self):
        found = self.file.read_text().split("\n")[:-1] if self.file.exists() else []
        self.file.unlink(missing_ok=True)
        return found


@pytest.fixture
def noted(tmp_path):
    def make(function=lambda item: item, **options):
        counting = Counting(tmp_path / "calls", function)
        return counting, stage(counting, name="noted", **options)

    return make


def fail_on(*numbers):
    def fail(item):
        if item in numbers:
            raise ValueError(f"no {item}")
        return 10 * item

    return fail


def taken(stream, count):
    """Take so many results, and leave."""
    values = [next(stream) for _ in range(count)]
    stream.close()
    return values


def kept(path):
    """What the journal says of items: how many are done, failed, left."""
    facts = read(path)
    return facts["done"], facts["failed"], facts["left"]


# ---------------------------------------------------------------------- going on


def test_what_is_done_is_not_done_again(engine, path, noted):
    counting, stage_ = noted()
    assert engine.run([range(20), stage_], journal=path).unwrap().values == list(range(20))
    assert len(counting.calls()) == 20
    report = engine.run([range(25), stage_], journal=Journal(path, resume=True)).unwrap()

    assert report.values == [20, 21, 22, 23, 24]
    assert sorted(counting.calls()) == ["20", "21", "22", "23", "24"]
    assert (report.snapshot.source_items, report.snapshot.resumed, report.snapshot.delivered) == (25, 20, 5)
    assert kept(path) == (25, 0, 0)


def test_a_run_that_was_left_goes_on_behind_what_its_consumer_was_through_with(engine, path):
    items = range(400)
    values = taken(engine.iter([items, stage(lambda item: item)], journal=path), 150)
    done = kept(path)[0]
    assert 0 < done <= 150  # all but the list of results that it left in the middle of
    more = list(engine.iter([items, stage(lambda item: item)], journal=Journal(path, resume=True)))

    assert values[:done] + more == list(items)


def test_of_a_source_that_was_not_read_to_its_end_what_was_never_pulled_is_left_too(engine, path):
    items = range(100_000)  # more than are ever pulled ahead
    taken(engine.iter([items, stage(lambda item: item)], journal=path), 1)

    facts = read(path)
    assert (facts["state"], facts["runs"][0]["is_whole"]) == ("interrupted", False)
    assert facts["runs"][0]["seen"] < len(items)
    assert facts["left"] == len(items) - facts["done"]


def test_items_are_known_by_what_they_are_and_not_by_their_places(make_engine, path):
    engine = make_engine("inline")
    engine.run([["b", "a", "b"], str.upper], journal=path).unwrap()
    report = engine.run([["new", "b", "b", "b", "a", "a"], str.upper], journal=Journal(path, resume=True)).unwrap()

    assert report.values == ["NEW", "B", "A"]


def test_what_is_left_is_counted_among_the_items_that_there_are_now(inline, path):
    inline.run([range(10), str], journal=path).unwrap()
    inline.run([[*range(20, 23), 5], stage(fail_on(22), name="str")], journal=Journal(path, resume=True, force=True))

    facts = read(path)
    assert (facts["done"], facts["failed"], facts["left"]) == (12, 0, 1)
    assert (facts["state"], facts["runs"][1]["known"]) == ("interrupted", 1)


def test_what_a_later_run_has_done_is_not_left_though_it_did_not_come_to_the_sources_end(inline, path):
    def numbers():
        yield from range(100_000)  # more than are ever pulled ahead

    inline.run([numbers, stage(fail_on(4), name="fail")], journal=path)
    with sqlite3.connect(path) as connection:  # as a run with more in hand would have left it
        connection.execute("UPDATE runs SET seen = 100000, is_whole = 1")
    connection.close()
    assert kept(path) == (4, 0, 99_996)
    taken(inline.iter([numbers, stage(fail_on(), name="fail")], journal=Journal(path, resume=True)), 3)

    done, _, left = kept(path)
    assert read(path)["runs"][1]["is_whole"] is False
    assert done > 4
    assert left == 100_000 - done


def test_a_source_that_has_ended_is_not_asked_again(inline, path):
    class Once:
        asked = 0

        def __iter__(self):
            return self

        def __next__(self):
            self.asked += 1
            if self.asked in {3, 6}:
                raise StopIteration
            return self.asked

    inline.run([[1, 2], str], journal=Journal(path, keep_values=True)).unwrap()
    source = Once()
    assert inline.run([source, str], journal=Journal(path, resume=True)).unwrap().values == ["1", "2"]
    assert source.asked == 3


def test_a_key_function_says_what_an_item_is_called(make_engine, path):
    engine = make_engine("inline")
    odd = [type("Odd", (), {"name": name})() for name in "abc"]
    refused = engine.run([odd, lambda item: item.name], journal=path)
    assert isinstance(refused.cause, PipelineError)
    assert "key= function" in refused.reason
    named = Journal(path, key=lambda item: item.name, resume=True)
    assert engine.run([odd[:2], lambda item: item.name], journal=named).unwrap().values == ["a", "b"]

    assert engine.run([odd, lambda item: item.name], journal=named).unwrap().values == ["c"]


def test_resume_begins_a_journal_where_there_is_none(make_engine, path):
    report = make_engine("inline").run([range(3), str], journal=Journal(path, resume=True)).unwrap()

    assert report.values == ["0", "1", "2"]
    assert kept(path) == (3, 0, 0)


@pytest.mark.parametrize(
    "make", [lambda: (number for number in range(9)), lambda: lambda: iter(range(9)), lambda: list(range(9))]
)
def test_any_source_may_have_a_journal(inline, path, make):
    taken(inline.iter([make(), str], journal=path), 2)
    done = kept(path)[0]

    assert list(inline.iter([make(), str], journal=Journal(path, resume=True))) == [str(n) for n in range(done, 9)]


def test_an_async_source_on_its_callers_loop_may_have_one(make_engine, path):
    async def source():
        for number in range(6):
            await asyncio.sleep(0)
            yield number

    async def run(journal):
        return (await make_engine("inline").arun([source, str], journal=journal)).unwrap().values

    assert asyncio.run(run(path)) == ["0", "1", "2", "3", "4", "5"]
    assert asyncio.run(run(Journal(path, resume=True))) == []


def test_a_source_is_closed_and_its_error_told_as_without_a_journal(inline, path):
    closed = []

    def source():
        try:
            yield 1
            raise OSError("gone")
        finally:
            closed.append(threading.current_thread())

    result = inline.run([source, str], journal=path)
    assert (result.reason, closed != []) == ("the source failed: OSError: gone", True)
    assert kept(path) == (1, 0, None)  # how many more there would have been nobody knows


def test_it_works_in_processes_that_were_forked_from_this_one(make_engine, path):
    engine = make_engine("fork")
    engine.run([range(50), str], journal=path).unwrap()

    assert engine.run([range(60), str], journal=Journal(path, resume=True)).unwrap().values == [
        str(n) for n in range(50, 60)
    ]


# ---------------------------------------------------------------------- failures


def test_a_failed_item_is_passed_over_until_somebody_wants_it_again(inline, path, noted):
    _, stage_ = noted(fail_on(3, 5), on_error="drop")
    report = inline.run([range(8), stage_], journal=path).unwrap()
    assert (len(report.values), kept(path)) == (6, (6, 2, 0))
    (_, first) = read(path)["failures"]
    assert (first["stage"], first["index"], first["item"], first["error"]) == ("noted", 3, "3", "ValueError: no 3")
    assert "in fail" in first["traceback"]
    counting, mended = noted(lambda item: 10 * item, on_error="drop")
    assert inline.run([range(8), mended], journal=Journal(path, resume=True)).unwrap().values == []
    assert sorted(counting.calls()) == ["0", "1", "2", "3", "4", "5", "6", "7"]  # those of the first run

    report = inline.run([range(8), mended], journal=Journal(path, retry_failed=True)).unwrap()
    assert (report.values, sorted(counting.calls()), kept(path)) == ([30, 50], ["3", "5"], (8, 0, 0))
    assert read(path)["failures"] == []


def test_an_item_that_ended_its_run_is_left_and_tried_again(inline, path):
    result = inline.run([range(8), stage(fail_on(5), name="s")], journal=path)
    assert isinstance(result, Err)
    facts = read(path)
    assert (facts["failed"], facts["done"] <= 5, facts["left"] >= 3) == (0, True, True)
    assert [(failure["index"], failure["state"]) for failure in facts["failures"]] == [(5, "ended the run")]
    values = inline.run([range(8), stage(fail_on(), name="s")], journal=Journal(path, resume=True)).unwrap().values

    assert values == [10 * number for number in range(facts["done"], 8)]
    assert (kept(path), read(path)["failures"]) == ((8, 0, 0), [])


def test_an_emitted_error_counts_as_failed_and_has_the_number_that_its_item_has_in_the_source(inline, path):
    stage_ = stage(fail_on(2, 9), name="s", on_error="emit")
    inline.run([range(5), stage_], journal=path).unwrap()
    assert kept(path) == (4, 1, 0)
    values = inline.run([range(10), stage_], journal=Journal(path, resume=True)).unwrap().values

    assert values[:4] == [50, 60, 70, 80]
    assert (type(values[4]), values[4].index) == (ItemError, 9)


def test_what_is_filtered_out_is_done(inline, path, noted):
    counting, stage_ = noted(lambda item: SKIP if item % 2 else item)
    inline.run([range(10), stage_], journal=path).unwrap()
    assert (len(counting.calls()), kept(path)) == (10, (10, 0, 0))
    inline.run([range(10), stage_], journal=Journal(path, resume=True)).unwrap()

    assert counting.calls() == []


def test_an_item_waits_in_the_journal_until_its_error_handler_has_returned(make_engine, path):
    seen = []
    stage_ = stage(fail_on(1), on_error="side", error_handler=lambda error: seen.append(kept(path)[1]))
    make_engine("inline").run([range(3), stage_], journal=path).unwrap()

    assert (seen, kept(path)) == ([0], (2, 1, 0))


def test_a_result_that_cannot_be_unpickled_here_has_failed(make_engine, path):
    result = make_engine().run([range(6), stage(unloadable_on_3, on_error="drop")], journal=path).unwrap()

    assert (len(result.values), kept(path)) == (5, (5, 1, 0))


class Unloadable:
    def __reduce__(self):
        return int, ("no number",)


def unloadable_on_3(item):
    return Unloadable() if item == 3 else item


# ---------------------------------------------------------------------- one item, many results


def several(item):
    for part in range(item % 4):
        yield item, part


def test_an_item_that_was_half_delivered_is_run_again_and_only_the_rest_of_it_delivered(engine, path):
    items = range(60)
    expected = [(item, part) for item in items for part in range(item % 4)]
    values = taken(engine.iter([items, several], journal=Journal(path)), 31)
    connection = sqlite3.connect(path)
    given = sum(
        connection.execute(f"SELECT coalesce(sum(given), 0) FROM {table}").fetchone()[0] for table in ("items", "parts")
    )
    connection.close()
    rest = list(engine.iter([items, several], journal=Journal(path, resume=True)))

    assert 0 < given <= 31
    assert values[:given] + rest == expected
    assert kept(path) == (60, 0, 0)


def test_a_run_of_generators_with_a_journal_delivers_in_order_even_where_nobody_asked(make_engine, path):
    engine = make_engine(ordered=False)

    assert engine.run([range(99), several], journal=path).unwrap().values == [
        (item, part) for item in range(99) for part in range(item % 4)
    ]


def test_an_item_that_failed_in_part_is_not_run_again(make_engine, path):
    engine = make_engine("inline", on_error="drop")
    engine.run([[3], several, stage(lambda pair: 1 / (pair[1] - 1), name="s")], journal=path).unwrap()
    assert kept(path) == (0, 1, 0)

    assert (
        engine.run(
            [[3], several, stage(lambda pair: 1 / (pair[1] - 1), name="s")], journal=Journal(path, retry_failed=True)
        )
        .unwrap()
        .values
        == []
    )


# ---------------------------------------------------------------------- values from the journal


def test_values_come_from_the_journal_in_their_places(engine, path, noted):
    counting, stage_ = noted(lambda item: {"value": item}, on_error="drop")
    engine.run([range(5, 30), stage_], journal=Journal(path, keep_values=True)).unwrap()
    counting.calls()
    values = engine.run([range(40), stage_], journal=Journal(path, resume=True)).unwrap().values
    assert values == [{"value": item} for item in range(40)]
    assert len(counting.calls()) == 15
    assert engine.run([range(40), stage_], journal=Journal(path, resume=True)).unwrap().values == values

    assert engine.run([range(40), stage_], journal=Journal(path, resume=True, deliver=False)).unwrap().values == []
    assert counting.calls() == []


def test_the_values_of_half_delivered_and_retried_items_come_once(inline, path):
    items = range(40)
    expected = [(item, part) for item in items for part in range(item % 4)]
    taken(inline.iter([items, several], journal=Journal(path, keep_values=True)), 25)
    for _ in range(2):
        assert list(inline.iter([items, several], journal=Journal(path, resume=True))) == expected


def test_values_that_were_never_kept_cannot_be_delivered(make_engine, path):
    engine = make_engine("inline")
    engine.run([range(3), str], journal=path).unwrap()
    with pytest.raises(JournalError, match="keeps no values"):
        engine.run([range(3), str], journal=Journal(path, resume=True, deliver=True))


def test_a_value_that_cannot_be_kept_ends_the_run_by_its_name(make_engine, path):
    result = make_engine("inline").run([range(3), lambda _: threading.Lock()], journal=Journal(path, keep_values=True))

    assert isinstance(result.cause, JournalError)
    assert "cannot keep a value of type lock" in str(result.cause)


def test_without_collecting_them_values_are_kept_as_well(make_engine, path):
    engine = make_engine("inline")
    report = engine.run([range(3), str], journal=Journal(path, keep_values=True), collect=False).unwrap()
    assert report.values == []

    assert engine.run([range(3), str], journal=Journal(path, resume=True)).unwrap().values == ["0", "1", "2"]


# ---------------------------------------------------------------------- what is refused


def test_a_journal_that_exists_is_not_written_over(make_engine, path):
    engine = make_engine("inline")
    engine.run([range(3), str], journal=path).unwrap()
    with pytest.raises(JournalError, match=r"exists, with 3 items in it: .*--resume"):
        engine.run([range(3), str], journal=path)
    assert engine.run([range(3), str]).is_ok  # the engine is as good as new


def test_a_journal_of_another_pipeline_is_refused_and_both_are_named(make_engine, path):
    engine = make_engine("inline")
    engine.run([range(3), stage(str, name="one")], journal=path).unwrap()
    with pytest.raises(JournalError, match=r"of another pipeline: one \(builtins.str.*this one is two .*force=True"):
        engine.run([range(3), stage(repr, name="two")], journal=Journal(path, resume=True))
    assert engine.run(
        [range(4), stage(repr, name="two")], journal=Journal(path, resume=True, force=True)
    ).unwrap().values == ["3"]

    assert engine.run([range(5), stage(repr, name="two")], journal=Journal(path, resume=True)).unwrap().values == ["4"]


def test_a_journal_of_another_format_is_refused_with_both_numbers(make_engine, path):
    engine = make_engine("inline")
    engine.run([range(3), str], journal=path).unwrap()
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA user_version = 7")
    connection.close()
    with pytest.raises(JournalError, match="of format 7, and this version of mpengine reads 1"):
        engine.run([range(3), str], journal=Journal(path, resume=True))


@pytest.mark.parametrize("content", [b"not a database at all, not in the least", None])
def test_a_file_that_is_no_journal_stays_as_it_is(make_engine, path, content):
    if content is None:
        connection = sqlite3.connect(path)
        connection.execute("CREATE TABLE other (x)")
        connection.close()
        content = path.read_bytes()
    else:
        path.write_bytes(content)
    with pytest.raises(JournalError, match=r"journal\.db"):
        make_engine("inline").run([range(3), str], journal=Journal(path, resume=True))
    assert path.read_bytes() == content


def test_a_journal_where_none_can_be_is_refused(make_engine, tmp_path):
    with pytest.raises(JournalError, match="cannot open the journal"):
        make_engine("inline").run([range(3), str], journal=tmp_path / "nowhere" / "journal.db")


def test_options_are_checked():
    for options in ({"path": 3}, {"path": "x", "key": 3}, {"path": "x", "output": object(), "deliver": True}):
        with pytest.raises(PipelineError):
            Journal(**options)


def test_a_second_run_of_this_process_is_refused_and_the_first_goes_on(make_engine, path):
    first, second = make_engine("inline"), make_engine("inline")
    stream = first.iter([range(30), str], journal=path)
    next(stream)
    with pytest.raises(JournalError, match="is in use: a run of this process writes it"):
        second.run([range(3), str], journal=Journal(path, resume=True))
    rest = list(stream)
    assert len(rest) == 29

    assert kept(path) == (30, 0, 0)


HOLD = """
import sys
from mpengine import Engine
stream = Engine(backend="inline").iter([range(30), str], journal=sys.argv[1])
next(stream)
print("holds it", flush=True)
sys.stdin.read()
"""


@pytest.mark.slow
def test_a_second_process_is_refused_with_the_pid_of_the_first_and_can_have_it_once_that_is_dead(make_engine, path):
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout.readline() == "holds it\n"
        with pytest.raises(JournalError, match=f"a run of process {holder.pid} writes it"):
            make_engine("inline").run([range(3), str], journal=Journal(path, resume=True))
        assert read(path)["state"] == "running"
        holder.kill()
    assert read(path)["state"] == "interrupted"
    assert read(path)["runs"][0]["ending"] == "killed"
    before_us = psutil.Process().create_time() - 60.0
    with contextlib.closing(sqlite3.connect(path)) as journal, journal:
        journal.execute("UPDATE runs SET pid = ?, began_at = ?", (os.getpid(), before_us))
    assert read(path)["state"] == "interrupted"  # its number is ours now

    make_engine("inline").run([range(30), str], journal=Journal(path, resume=True)).unwrap()
    assert kept(path) == (30, 0, 0)


# ---------------------------------------------------------------------- what goes wrong on the way


def test_a_full_disk_ends_the_run_by_the_journals_name_and_what_was_committed_stands(engine, path, monkeypatch):
    items = [f"{number}" * 40 for number in range(3000)]
    begin = books.Book._begin

    def begin_on_a_small_disk(book, *args):
        begin(book, *args)
        book.connection.execute("PRAGMA max_page_count = 20")

    monkeypatch.setattr(books.Book, "_begin", begin_on_a_small_disk)
    result = engine.run([items, stage(len)], journal=path)
    assert isinstance(result.cause, JournalError)
    assert result.reason == f"cannot write the journal {path}: database or disk is full"
    monkeypatch.undo()
    done = kept(path)[0]
    assert 0 < done < 3000

    assert len(engine.run([items, stage(len)], journal=Journal(path, resume=True)).unwrap().values) == 3000 - done


def test_a_journal_that_cannot_be_finished_makes_a_run_an_err(make_engine, path, monkeypatch):
    class Reluctant:
        name = "the output"

        def position(self, *, is_last):
            return None

        def sync(self):
            raise OSError(28, "No space left on device")

        def rewind(self, position):
            pass

    reluctant = Reluctant()
    reluctant.position = lambda *, is_last: 1 if is_last else None
    result = make_engine("inline").run([range(3), str], journal=Journal(path, output=reluctant))

    assert result.reason == "cannot write the output: No space left on device"
    assert kept(path)[0] == 0


def test_nothing_is_done_before_the_output_can_be_cut_back_behind_it(make_engine, path):
    class Blocks:
        """Can be cut back behind every fourth list of results only."""

        name = "blocks"
        asked = 0
        synced = 0

        def position(self, *, is_last):
            self.asked += 1
            return None if self.asked % 4 else self.asked

        def sync(self):
            self.synced += 1

        def rewind(self, position):
            self.cut_back_to = position

    output = Blocks()
    stream = make_engine("inline", buffer=1).iter([range(30), str], journal=Journal(path, output=output))
    for _ in range(7):
        next(stream)
    stream.close()
    assert (kept(path)[0], output.synced) == (3, 1)  # the fourth time that it was asked was the third list of one
    assert read(path)["position"] == "4"
    make_engine("inline").run([range(30), str], journal=Journal(path, output=output, resume=True)).unwrap()
    assert output.cut_back_to == 4


def test_the_source_waits_for_a_journal_that_lags(make_engine, path, monkeypatch):
    monkeypatch.setattr(writer, "MOST_WAITING", 2)
    monkeypatch.setattr(writer, "MOST_AT_ONCE", 1)
    may_write, pulled = threading.Event(), []
    commit = writer.Writer._commit

    def commit_later(self, records):
        assert may_write.wait(30)
        commit(self, records)

    monkeypatch.setattr(writer.Writer, "_commit", commit_later)

    def source():
        for number in range(500):
            pulled.append(number)
            if number == 499:
                raise AssertionError("it has not waited")
            yield number

    stream = make_engine("inline", buffer=1).iter([source, str], journal=path)
    threading.Timer(0.3, may_write.set).start()
    for _ in range(20):
        next(stream)
    assert len(pulled) < 100
    stream.close()


def test_a_program_without_a_journal_does_not_load_sqlite():
    run = "from mpengine import Engine; Engine(backend='inline').run([[1], str])"
    program = f"import sys; {run}; print('sqlite3' in sys.modules)"
    told = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout

    assert told == "False\n"


def test_nothing_is_left_beside_the_journal_but_the_journal(inline, path):
    inline.run([range(30), str], journal=path).unwrap()
    assert list(path.parent.iterdir()) == [path]
    read(path)

    assert list(path.parent.iterdir()) == [path]


def test_a_pipeline_that_cannot_begin_lets_go_of_its_journal(make_engine, path):
    engine = make_engine()
    with pytest.raises(PipelineError):
        engine.run([range(3), stage(Pipeline([1]).run)], journal=path)

    assert engine.run([range(3), stage(str, name="run")], journal=Journal(path, resume=True, force=True)).is_ok


def test_a_journal_is_read_while_it_is_written(make_engine, path):
    stream = make_engine("inline", buffer=1).iter([range(9), str], journal=path)
    values = [next(stream) for _ in range(5)]
    facts = read(path)
    assert facts["state"] == "running"
    assert facts["runs"][0]["pid"] == os.getpid()
    assert (len(values), facts["done"] <= 4) == (5, True)
    stream.close()
    assert read(path)["format"] == schema.VERSION
    assert pickle.loads(pickle.dumps(JournalError("x"))).args == ("x",)
