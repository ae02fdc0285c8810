"""Dead letters: items that failed for good, kept as the source gave them, and run again (D1 to D4)."""

from __future__ import annotations

import json
import os
import threading

import pytest

from mpengine import DeadLetter, Engine, ItemError, PipelineError, dead_letters, mix, sources, stage
from mpengine.deadletters import letter_of


class Odd:
    """An item that is not JSON."""

    def __init__(self, number):
        self.number = number

    def __eq__(self, other):
        return isinstance(other, Odd) and other.number == self.number

    __hash__ = None


def fails(*bad):
    def work(item):
        if item in bad:
            raise ValueError(f"no {item}")
        return item

    return work


def sided(function, path, **options):
    return stage(function, on_error="side", error_handler=DeadLetter(path), **options)


def letters_in(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture
def path(tmp_path):
    return tmp_path / "failed.jsonl"


@pytest.mark.parametrize(
    "backend",
    [{"backend": "inline"}, pytest.param({"ordered": False}, marks=pytest.mark.slow)],
    ids=["inline", "process"],
)
def test_a_run_over_its_dead_letters_gets_the_items_of_the_source_whichever_stage_they_failed_in(path, backend):
    items = [1, {"a": [1.5, None, "é"]}, (1, 2), Odd(7), {1: 2}, float("inf"), "ok", b"x" * 200_000]

    def first(item):
        if item == 1:
            raise ValueError("first")
        return [item]

    def last(wrapped):
        if wrapped != ["ok"]:
            raise KeyError("last")
        return wrapped

    with Engine(2, **backend) as engine:
        done = engine.run([items, sided(first, path), sided(last, path, workers=1)]).unwrap()
        again = engine.run([dead_letters(path), lambda item: item]).unwrap()

    assert done.values == [["ok"]]
    assert done.snapshot.dropped == 7
    found = sorted(map(repr, again.values))
    assert len(found) == 7
    assert [item for item in items if item != "ok" and item not in again.values] == []
    assert [letter["stage"] for letter in letters_in(path) if letter.get("item") == 1] == ["first"]


def test_a_letter_tells_the_whole_story(path):
    Engine(1, backend="inline").run([["a"], sided(fails("a"), path, name="parse", retries=1)])

    (letter,) = letters_in(path)
    assert letter.pop("traceback").endswith("ValueError: no a\n")
    assert len(letter.pop("run")) == 16
    assert letter == {
        "stage": "parse", "index": 0, "attempts": 2, "worker_id": 0, "error": "ValueError", "message": "no a",
        "repr": "'a'", "item": "a",
    }  # fmt: skip


def test_what_is_malformed_is_kept_as_it_stood_and_fails_again_when_it_is_run_again(tmp_path, path):
    (tmp_path / "in.jsonl").write_text("nope\n[1]\n")
    (tmp_path / "in.csv").write_text("a,b\n1\n2,3\n")
    engine = Engine(1, backend="inline")

    for source in (sources.jsonl(tmp_path / "in.jsonl"), sources.csv(tmp_path / "in.csv")):
        engine.run([source, sided(fails([1], {"a": "2", "b": "3"}), path)]).unwrap()
    again = engine.run([dead_letters(path), stage(lambda item: item, on_error="drop")]).unwrap()

    assert [letter.get("malformed") for letter in letters_in(path)] == [
        {"where": f"line 1 of {tmp_path / 'in.jsonl'}", "raw": "nope"},
        None,
        {"where": f"line 2 of {tmp_path / 'in.csv'}", "raw": ["1"]},
        None,
    ]
    assert again.values == [[1], {"a": "2", "b": "3"}]  # records as what was read of them, and each its own
    assert [str(error.error).partition(":")[0] for error in again.errors] == [
        f"line {number} of {path} holds no item" for number in (1, 3)
    ]


@pytest.mark.slow
def test_what_cannot_be_pickled_is_kept_in_words_and_does_not_shift_the_others(path):
    lock = threading.Lock()

    with Engine(2) as engine:
        engine.run([[lock, 1, lock, 2, 3], sided(fails(2), path)]).unwrap()

    bad = [letter for letter in letters_in(path) if "item" not in letter]
    assert [letter["item"] for letter in letters_in(path) if "item" in letter] == [2]
    assert [letter["repr"].startswith("<unlocked _thread.lock") for letter in bad] == [True, True]
    problems = Engine(1, backend="inline", on_error="drop").run([dead_letters(path), abs]).report.errors
    assert "holds no item, only what it looked like" in str(problems[0].error)


def test_an_item_that_failed_in_several_parts_is_run_again_once_d3(path):
    def many(item):
        yield from (item, item + 1, item + 2)

    engine = Engine(1, backend="inline")
    engine.run([[10, 20], many, sided(fails(10, 12), path)]).unwrap()

    assert [letter["item"] for letter in letters_in(path)] == [10, 10]
    assert engine.run([dead_letters(path), abs]).report.values == [10]


def test_an_item_that_failed_in_a_branch_of_a_mix_is_the_sources(path):
    both = mix(sided(fails(3), path), sided(abs, path, name="abs"))

    report = Engine(2, backend="inline").run([[1, 2, 3], lambda x: x, both]).unwrap()

    assert report.values == [[1, 1], [2, 2]]
    assert [letter["item"] for letter in letters_in(path)] == [3]


def test_any_handler_may_ask_for_the_item(path):
    seen = []
    handlers = [lambda error: seen.append(error.index), lambda error, item: seen.append(item)]
    for handler in handlers:
        failing = stage(lambda item: 1 / 0, on_error="side", error_handler=handler)
        Engine(1, backend="inline").run([["a"], lambda item: item * 2, failing]).unwrap()

    assert seen == [0, "a"]


def test_a_run_that_adds_to_the_file_it_reads_has_an_end_d4(path):
    engine = Engine(1, backend="inline")
    engine.run([[1, 2], sided(fails(1, 2), path)])
    engine.run([dead_letters(path), sided(fails(1), path)])

    assert [letter["item"] for letter in letters_in(path)] == [1, 2, 1]


@pytest.mark.parametrize("half", [b"", b'{"half', b'{"whole": 1}\n{"half' + b"x" * 200_000, b"\n"])
def test_half_a_line_is_cut_off_before_the_next_is_written_d1(path, half):
    path.write_bytes(half)

    DeadLetter(path, sync=True)(ItemError("s", 0, "1", ValueError("x")), 1)

    kept = half[: half.rfind(b"\n") + 1]
    content = path.read_bytes()
    assert content.startswith(kept)
    assert json.loads(content[len(kept) :])["item"] == 1


def test_what_a_full_disk_leaves_of_a_line_is_taken_back_and_ends_the_run_d1(path, monkeypatch):
    write = os.write

    def full(fd, content):
        if os.fstat(fd).st_size > 0 or len(content) < 50:
            raise OSError(28, "No space left on device")
        return write(fd, content[:50])

    monkeypatch.setattr(os, "write", full)
    result = Engine(1, backend="inline").run([[1], sided(fails(1), path)])
    monkeypatch.undo()

    assert "No space left on device" in result.reason
    assert path.read_bytes() == b""


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("nope", "is no dead letter: Expecting value"),
        ("[1]", "is no dead letter"),
        ('{"a": 1}', "is no dead letter"),
        ('{"error": "E", "pickled": "bm8="}', "holds an item that cannot be unpickled: UnpicklingError"),
        ('{"error": "E", "repr": "x"}', "holds no item, only what it looked like"),
    ],
)
def test_what_is_no_letter_fails_as_an_item_of_its_own(path, line, problem):
    path.write_text(f'\n{line}\n{{"error": "E", "item": 5}}')

    report = Engine(1, backend="inline", on_error="drop").run([dead_letters(path), abs]).unwrap()

    assert report.values == [5]
    assert str(report.errors[0].error).startswith(f"line 2 of {path} {problem}")


def test_a_place_where_no_letter_can_be_kept_is_told_at_once(tmp_path):
    with pytest.raises(PipelineError, match="there is no folder"):
        DeadLetter(tmp_path / "nowhere" / "failed.jsonl")
    with pytest.raises(PipelineError, match="it is a folder"):
        DeadLetter(tmp_path)


@pytest.mark.parametrize(
    ("item", "key"),
    [
        ({"a": [1, "x", None, True, 1.5]}, "item"),
        ("\udcff", "item"),
        ((1,), "pickled"),
        ({1: 1}, "pickled"),
        (float("nan"), "pickled"),
        (10**400, "pickled"),
        (b"x", "pickled"),
        (True, "item"),
    ],
)
def test_an_item_is_json_where_it_is_the_same_again(item, key):
    letter = json.loads(json.dumps(letter_of(ItemError("s", 0, "", ValueError()), item)))

    assert {"item", "pickled"} & letter.keys() == {key}
