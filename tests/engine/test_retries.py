"""Retries with a back-off: how long is waited, what interrupts the wait, and what does not count for what."""

import threading
import time

import engine_stages as stages
import pytest

from mpengine import Err, Retry, stage

PATIENT = Retry(3, backoff_s=0.5, factor=2.0, max_s=1.5, jitter=0.0)
FOR_EVER = Retry(1, backoff_s=300, max_s=300)


def fail_until(folder, attempts):
    """A function whose first so many attempts at each item fail, in whichever worker they are made."""

    def flaky(x):
        path = folder / str(x)
        with path.open("a") as file:
            file.write("x")
        if path.stat().st_size <= attempts:
            raise OSError(f"attempt {path.stat().st_size}")
        return x

    return flaky


def many(function):
    def give(x):
        yield function(x)

    return give


def all_of(function):
    return lambda xs: [function(x) for x in xs]


def later(function):
    async def run(x):
        return function(x)

    return run


FORMS = {
    "function": stage,
    "generator": lambda function, **options: stage(many(function), **options),
    "list": lambda function, **options: stage(all_of(function), batch=1, **options),
    "async": lambda function, **options: stage(later(function), **options),
}


@pytest.mark.parametrize("form", FORMS)
def test_what_succeeds_at_last_is_delivered_whatever_the_form(kind, make_engine, tmp_path, form):
    member = FORMS[form](fail_until(tmp_path, 2), retries=Retry(2, backoff_s=0.001, jitter=1))
    report = make_engine(kind).run([range(8), member]).unwrap()
    assert report.values == list(range(8))
    book = report.snapshot.stages[0]
    assert (book.retried, book.failed, book.succeeded) == (16, 0, 8)


@pytest.mark.parametrize("form", FORMS)
def test_what_fails_once_too_often_has_all_its_attempts_told(kind, make_engine, tmp_path, form):
    member = FORMS[form](fail_until(tmp_path, 3), retries=Retry(2, backoff_s=0.001), on_error="drop")
    report = make_engine(kind).run([range(4), member]).unwrap()
    assert report.values == []
    assert [error.attempts for error in report.errors] == [3] * 4
    assert {str(error.error) for error in report.errors} == {"attempt 3"}
    assert report.snapshot.stages[0].retried == 8


@pytest.mark.parametrize("form", FORMS)
def test_errors_that_are_not_named_fail_at_once(kind, make_engine, tmp_path, form):
    member = FORMS[form](fail_until(tmp_path, 1), retries=Retry(5, backoff_s=300, on=(KeyError,)), on_error="drop")
    report = make_engine(kind).run([range(4), member]).unwrap()
    assert [error.attempts for error in report.errors] == [1] * 4


@pytest.mark.parametrize("form", ["function", "generator", "list"])
def test_the_waits_grow_by_the_factor_up_to_the_most(make_engine, tmp_path, monkeypatch, form):
    waited = []
    monkeypatch.setattr("mpengine.cancellation.CancelFlag.wait", lambda event, wait_s=None: waited.append(wait_s))
    member = FORMS[form](fail_until(tmp_path, 3), retries=PATIENT)
    assert make_engine("inline").run([[7], member]).unwrap().values == [7]
    assert waited == [0.5, 1.0, 1.5]


@pytest.mark.parametrize(("drawn", "expected"), [(0.0, [4.0, 8.0]), (1.0, [2.0, 4.0]), (0.5, [3.0, 6.0])])
def test_the_jitter_takes_its_share_of_each_wait(make_engine, tmp_path, monkeypatch, drawn, expected):
    waited = []
    monkeypatch.setattr("mpengine.cancellation.CancelFlag.wait", lambda event, wait_s=None: waited.append(wait_s))
    monkeypatch.setattr("random.random", lambda: drawn)
    member = stage(fail_until(tmp_path, 2), retries=Retry(2, backoff_s=4, jitter=0.5))
    assert make_engine("inline").run([[7], member]).unwrap().values == [7]
    assert waited == expected


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("how", ["cancel", "close"])
def test_cancelling_interrupts_a_wait_at_once(make_engine, tmp_path, form, how):
    """A wait of minutes, in a run whose grace is minutes as well: it ends, or the test's own timeout does."""
    member = FORMS[form](fail_until(tmp_path, 1), retries=FOR_EVER)
    engine = make_engine("fork", grace_s=300, workers=1)
    results = engine.iter([[1], member])
    has_begun = tmp_path / "1"
    while not has_begun.exists():  # the only sign that a worker gives; it is about to fail, or has
        time.sleep(0.005)
    if how == "cancel":
        engine.cancel("enough")
    else:
        results.close()
    if how == "cancel":
        with pytest.raises(Exception, match="enough"):
            list(results)
        assert results.result.reason == "enough"
    assert results.result.report.snapshot.stages[0].failed == 0


@pytest.mark.parametrize("form", FORMS)
def test_inline_cancelling_interrupts_a_wait_too(make_engine, tmp_path, form):
    engine = make_engine("inline", grace_s=300)

    def fail(x):
        threading.Timer(0.01, engine.cancel, ["enough"]).start()
        raise OSError(x)

    result = engine.run([[1], FORMS[form](fail, retries=FOR_EVER)])
    for thread in threading.enumerate():
        if isinstance(thread, threading.Timer):
            thread.join()
    assert (type(result), result.reason) == (Err, "enough")


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMS)
def test_a_wait_does_not_count_for_the_timeout(make_engine, tmp_path, form):
    member = FORMS[form](fail_until(tmp_path, 1), retries=Retry(1, backoff_s=0.5), timeout=0.15)
    report = make_engine("fork").run([range(2), member]).unwrap()
    assert report.values == [0, 1]
    book = report.snapshot.stages[0]
    assert (book.retried, book.timed_out) == (2, 0)


@pytest.mark.slow
def test_workers_that_wait_leave_the_others_at_work(make_engine, tmp_path):
    """One item waits for minutes while the others are done by the other worker."""
    engine = make_engine("fork", workers=2, ordered=False)

    def fail_at_three(x):
        if x == 3:
            raise OSError(x)
        return x

    member = stage(fail_at_three, retries=FOR_EVER)
    with engine.iter([iter(range(40)), stage(stages.keep, workers=2), member]) as results:
        taken = [next(results) for _ in range(20)]
    assert 3 not in taken
    assert len(set(taken)) == 20
