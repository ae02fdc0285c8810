"""A chain is built once, tells which stage could not be, and is torn down last stage first."""

import pytest
from job_sites import site

from mpengine import KillSwitch, WorkerState, stage
from mpengine.ipc.codec import load_error
from mpengine.worker.chain import (
    BrokenStageError,
    Chain,
    Killed,
    attempt,
    failure_of,
    format_traceback,
    pickled,
    summarize,
)

notes = []


@pytest.fixture(autouse=True)
def _fresh_notes():
    notes.clear()


class Noting:
    def __init__(self):
        notes.append("built")

    def __call__(self, x):
        return x

    def close(self):
        notes.append("closed")


class Context(Noting):
    def __enter__(self):
        notes.append("entered")

    def __exit__(self, *_):
        notes.append("left")


def note(text):
    return lambda state: notes.append(text)


def test_stages_are_built_in_order_and_torn_down_last_first():
    members = [stage(Noting), stage(Context), stage(abs, setup=note("set up"), teardown=note("torn down"))]
    chain = Chain(members, 3)
    assert notes == ["built", "built", "entered", "set up"]
    assert chain.close() == []
    assert notes[4:] == ["torn down", "left", "closed"]
    assert [step.state.worker_id for step in chain.steps] == [3, 3, 3]


def test_a_stage_that_cannot_be_built_is_named_and_the_others_torn_down():
    def fail(state):
        raise OSError("no licence")

    with pytest.raises(BrokenStageError, match="OSError: no licence") as caught:
        Chain([stage(Noting), stage(abs, setup=fail), stage(Noting)], 0)
    assert caught.value.stage == 1
    assert isinstance(caught.value.error, OSError)
    assert "no licence" in caught.value.traceback
    assert notes == ["built", "closed"]


def test_what_goes_wrong_with_tearing_down_is_told_and_the_rest_torn_down():
    def fail(state):
        raise OSError("stuck")

    chain = Chain([stage(Noting), stage(abs, teardown=fail)], 0)
    assert chain.close() == ["stage 'abs': tear-down failed: OSError: stuck"]
    assert notes == ["built", "closed"]


def test_state_is_handed_to_functions_that_want_it():
    def with_state(x, state):
        state.update(seen=[*state.get("seen", []), x])
        return state

    (step,) = Chain([stage(with_state)], 0).steps
    assert isinstance(step.call(1), WorkerState)
    assert next(iter(list(step.map([2, 3])))).get("seen") == [1, 2, 3]


@pytest.mark.parametrize(("retries", "attempts"), [(0, 1), (2, 3)])
def test_attempts_are_counted(retries, attempts):
    (step,) = Chain([stage(lambda x: 1 // x, retries=retries)], 0).steps
    value, error, count = attempt(step, 0, site())
    assert (value, type(error), count) == (None, ZeroDivisionError, attempts)
    assert attempt(step, 1, site()) == (1, None, 1)


@pytest.mark.parametrize("leaving", [SystemExit, KeyboardInterrupt])
def test_what_ends_a_process_is_no_items_error(leaving):
    def leave(x):
        raise leaving

    (step,) = Chain([stage(leave, retries=3)], 0).steps
    with pytest.raises(leaving):
        attempt(step, 0, site())


def test_a_kill_switch_is_told_from_a_value():
    def kill(x):
        raise KillSwitch("raised")

    for function, reason in ((kill, "raised"), (lambda x: KillSwitch("returned"), "returned")):
        (step,) = Chain([stage(function)], 0).steps
        with pytest.raises(Killed) as caught:
            attempt(step, 0, site())
        assert caught.value.reason == reason


class Unspeakable(Exception):  # noqa: N818 - its name is in the expected texts
    def __str__(self):
        raise RuntimeError

    __repr__ = __str__

    def __bool__(self):
        raise RuntimeError


def test_an_error_that_cannot_be_told_is_told_all_the_same():
    (step,) = Chain([stage(raise_unspeakable)], 0).steps
    _, error, _ = attempt(step, 0, site())
    assert "Unspeakable" in summarize(error)
    assert "raise_unspeakable" in format_traceback(error)
    failure = pickled(failure_of(3, 1, error, error, 2))
    assert failure[:2] == (3, 1)
    assert "Unspeakable" in type(load_error(failure[3], failure[2])).__name__


def raise_unspeakable(x):
    raise Unspeakable


def test_an_error_without_words_is_its_type():
    assert summarize(ValueError()) == "ValueError"
    assert summarize(ValueError("two\nlines")) == "ValueError: two lines"
