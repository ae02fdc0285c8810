"""The soak runs, says what it did, and cannot be deceived: each kind of fault is shown to its checks once."""

import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import pytest

from mpengine import Engine, ItemError, WorkerDiedError, stage
from mpengine.errors import InternalError
from mpengine.metrics import Snapshot, StageMetrics

SCRIPTS = Path(__file__).parent.parent / "scripts"
LENGTH = 20
ONCE = WorkerDiedError("the worker died (SIGKILL), and its stage is not to be run twice")


@pytest.fixture(autouse=True)
def soaking(from_scripts):
    return from_scripts("soaking")


def value(index, number=None, spoilt=False):
    from soaking.forms import Ballast

    content = bytes([index + 1]) * 100
    return ((index,), index if number is None else number, Ballast(content[:-1] + b"?" if spoilt else content))


def item_error(index, error=None):
    return ItemError("s0", index, "", error or ValueError(index))


def outcome_of(soaking, values, errors=(), **options):
    """A run of twenty items through one stage, with books that fit."""
    from soaking.judging import Outcome

    failed = len(errors)
    book = StageMetrics("s0", processed=LENGTH, succeeded=LENGTH - failed, failed=failed, dropped=failed)
    snapshot = Snapshot(stages=(book,), source_items=LENGTH, delivered=len(values), dropped=LENGTH - len(values))
    return Outcome(list(values), list(errors), [], snapshot, **options)


def kinds_of(soaking, outcome, errors=(), **terms):
    from soaking.judging import Terms, judge

    reference = outcome_of(soaking, map_but(error.index for error in errors), errors)
    return [fault.kind for fault in judge(Terms(**{"ordered": True, "length": LENGTH, **terms}), reference, outcome)]


def map_but(missing):
    without = set(missing)
    return [value(index) for index in range(LENGTH) if index not in without]


def test_a_run_that_gave_what_it_should_has_no_fault(soaking):
    assert kinds_of(soaking, outcome_of(soaking, map_but([]))) == []
    failed = [item_error(7)]
    assert kinds_of(soaking, outcome_of(soaking, map_but([7]), failed), failed) == []


def test_a_lost_item_is_found(soaking):
    assert kinds_of(soaking, outcome_of(soaking, map_but([7]))) == ["lost"]
    assert kinds_of(soaking, outcome_of(soaking, map_but([7])), ordered=False) == ["lost"]


def test_a_doubled_item_is_found(soaking):
    doubled = [value(index) for index in [*range(8), *range(7, LENGTH)]]
    assert kinds_of(soaking, outcome_of(soaking, doubled)) == ["doubled"]


def test_items_out_of_order_are_found_where_order_is_asked_for(soaking):
    swapped = [value(index) for index in [1, 0, *range(2, LENGTH)]]
    assert kinds_of(soaking, outcome_of(soaking, swapped)) == ["reordered"]
    assert kinds_of(soaking, outcome_of(soaking, swapped), ordered=False) == []


def test_a_wrong_value_is_found(soaking):
    for last in (value(19, 18), value(19, spoilt=True)):
        assert kinds_of(soaking, outcome_of(soaking, [*map_but([19]), last])) == ["wrong", "lost"]


def test_an_item_that_should_not_have_failed_is_found(soaking):
    assert "wrong" in kinds_of(soaking, outcome_of(soaking, map_but([7]), [item_error(7)]))


def test_an_item_that_should_have_failed_is_found(soaking):
    assert "wrong" in kinds_of(soaking, outcome_of(soaking, map_but([7])), [item_error(7)])


def test_an_item_that_failed_of_something_else_is_found(soaking):
    failed = outcome_of(soaking, map_but([7]), [item_error(7, KeyError(7))])
    assert kinds_of(soaking, failed, [item_error(7)]) == ["wrong", "wrong"]


def test_a_blow_may_make_an_item_fail_only_where_a_stage_must_not_run_twice(soaking):
    interrupted = outcome_of(soaking, map_but([7]), [item_error(7, ONCE)])
    assert kinds_of(soaking, interrupted, may_interrupt=True) == []
    assert "wrong" in kinds_of(soaking, interrupted)
    other = outcome_of(soaking, map_but([7]), [item_error(7, WorkerDiedError("3 times with this item"))])
    assert "wrong" in kinds_of(soaking, other, may_interrupt=True)


def test_an_execution_too_many_and_one_that_was_none_are_found(soaking):
    notes = [("s0", (index,)) for index in range(LENGTH)]
    once = {"noted": ("s0",)}
    assert kinds_of(soaking, outcome_of(soaking, map_but([]), notes=notes), **once) == []
    assert kinds_of(soaking, outcome_of(soaking, map_but([]), notes=[*notes, notes[3]]), **once) == ["run twice"]
    assert kinds_of(soaking, outcome_of(soaking, map_but([]), notes=notes[1:]), **once) == ["wrong"]


def test_books_that_do_not_balance_are_found(soaking):
    good = outcome_of(soaking, map_but([]))
    (book,) = good.snapshot.stages
    for wrong in (
        dataclasses.replace(good.snapshot, stages=(dataclasses.replace(book, succeeded=LENGTH - 1),)),
        dataclasses.replace(good.snapshot, source_items=LENGTH + 1),
        dataclasses.replace(good.snapshot, delivered=LENGTH - 1, cancelled=1),
    ):
        assert set(kinds_of(soaking, dataclasses.replace(good, snapshot=wrong))) == {"books"}
    told = dataclasses.replace(good, reason="it broke", cause=InternalError("the ledger does not balance"))
    assert "books" in kinds_of(soaking, told)


def test_an_ending_that_nobody_asked_for_is_found(soaking):
    begun = outcome_of(soaking, [value(index) for index in range(5)], reason="cancelled")
    assert kinds_of(soaking, begun) == ["ending"]
    assert kinds_of(soaking, begun, stopping=("cancelled",)) == []
    failed = [item_error(7)]
    assert kinds_of(soaking, outcome_of(soaking, map_but([7]), failed), failed, raising=("s0",)) == ["ending"]


def test_a_hole_in_what_an_ended_run_gave_is_found(soaking):
    begun = outcome_of(soaking, [value(0), value(1), value(3)], reason="cancelled")
    assert "lost" in kinds_of(soaking, begun, stopping=("cancelled",))


def test_a_process_that_is_left_behind_is_found_by_its_mark_and_by_its_descent(soaking):
    from soaking.belongings import MARK, family

    nobody = 2**22 + 1  # more than a process number can be
    with subprocess.Popen(["sleep", "60"], env={**os.environ, MARK: "mine"}) as left:
        try:
            assert left.pid in [process.pid for process in family("mine", nobody)]
            assert left.pid in [process.pid for process in family("another", os.getpid())]
            assert left.pid not in [process.pid for process in family("another", nobody)]
        finally:
            left.kill()


def test_belongings_that_stay_are_told(soaking, tmp_path, monkeypatch):
    from soaking import belongings

    monkeypatch.setattr(belongings.tempfile, "gettempdir", lambda: str(tmp_path))
    before = belongings.Belongings.now()
    (tmp_path / "left").touch()
    fd = os.open("/dev/null", os.O_RDONLY)
    told = belongings.left_since(before, patience_s=0)
    os.close(fd)
    assert sorted(told) == [f"fd {fd}: /dev/null", "temporary file left"]


def test_the_same_seed_is_the_same_recipe(soaking):
    from soaking.recipes import FORMS, HOLDS, KILLS, OTHERS, make_recipe

    recipes = [make_recipe(seed) for seed in range(200)]
    assert recipes == [make_recipe(seed) for seed in range(200)]
    forms = {step.form for recipe in recipes for course in recipe.courses for step in course.steps}
    assert forms == set(FORMS)
    blows = {blow.what for recipe in recipes for course in recipe.courses for blow in course.blows}
    assert blows == {*KILLS, *HOLDS, *OTHERS}


def test_a_poisoned_run_that_lost_an_item_is_found(soaking):
    from soaking import poison

    engine = Engine(1, backend="inline", on_error="drop")

    def work(item):
        if item in poison.POISONED:
            raise WorkerDiedError("the worker died (SIGKILL), 2 times with this item")
        return item + 1

    report = engine.run([range(poison.ITEMS), stage(work, name=poison.STAGE)]).unwrap()
    assert poison.check(report) == []
    assert poison.check(dataclasses.replace(report, values=report.values[1:])) != []
    assert poison.check(dataclasses.replace(report, errors=report.errors[1:])) != []


@pytest.mark.slow
def test_the_script_runs_recipes_and_tells_what_it_did(tmp_path):
    page = tmp_path / "page.rst"
    page.write_text("before\n.. begin: the soak's figures\n.. end: the soak's figures\nafter\n")
    command = [sys.executable, str(SCRIPTS / "soak"), "--runs", "3", "--seed", "721", "--write", str(page)]
    told = subprocess.run(
        command, capture_output=True, text=True, timeout=55, check=False, env={**os.environ, "TMPDIR": str(tmp_path)}
    )
    assert told.returncode == 0, told.stdout + told.stderr
    text = page.read_text()
    assert text.startswith("before\n")
    assert text.endswith("after\n")
    assert "   * - engines\n     - 3\n" in text
    assert "   * - fault: lost\n     - 0\n" in text
    assert list(tmp_path.iterdir()) == [page]
