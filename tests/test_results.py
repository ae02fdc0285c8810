"""Results, policies, figures and errors: small values that match, unwrap, travel and check themselves."""

from __future__ import annotations

import dataclasses
import json
import pickle

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import mpengine.errors
from mpengine import Err, ErrorPolicy, ItemError, Ok, Report, Retry, Snapshot, StageMetrics
from mpengine.bounded import MAX_REPR, bounded_repr, bounded_text, stand_in
from mpengine.errors import EngineError, PipelineError, StageError, with_remote_traceback
from mpengine.metrics import WorkerMetrics

# ---------------------------------------------------------------------- results


def test_ok_and_err_match_structurally():
    def describe(result):
        match result:
            case Ok(report):
                return "ok", report.values
            case Err(reason, cause, report):
                return reason, type(cause), report.values

    assert describe(Ok(Report(values=[1]))) == ("ok", [1])
    assert describe(Err("why", KeyError("x"), Report(values=[2]))) == ("why", KeyError, [2])


def test_ok_unwraps_to_its_report():
    report = Report()

    assert Ok(report).unwrap() is report
    assert Ok(report).is_ok


def test_err_unwraps_to_its_cause():
    cause = KeyError("x")
    result = Err("why", cause, Report(ok=False))

    with pytest.raises(KeyError) as caught:
        result.unwrap()

    assert caught.value is cause
    assert not result.is_ok


def test_err_without_a_cause_unwraps_to_an_engine_error_with_its_reason():
    with pytest.raises(EngineError, match=r"^why$"):
        Err("why", None, Report()).unwrap()


@pytest.mark.parametrize("result", [Ok(Report()), Err("why", None, Report())])
def test_a_result_cannot_be_changed_but_copied_with_values(result):
    with pytest.raises(dataclasses.FrozenInstanceError):
        result.report = None

    copy = result.with_values([1, 2])

    assert copy.report.values == [1, 2]
    assert result.report.values == []
    assert type(copy) is type(result)


# ---------------------------------------------------------------------- item errors


class UnpicklableError(Exception):
    def __reduce__(self):
        raise TypeError("no")


class LoadsBadlyError(Exception):
    def __init__(self, one, two):
        super().__init__(f"{one} and {two}")


class LoadsAsTextError(Exception):
    def __reduce__(self):
        return str, ("not an error",)


class NeverPrintsError(Exception):
    def __str__(self):
        raise RuntimeError("no text")

    __repr__ = __str__


def test_an_item_error_travels_with_its_exception():
    error = ItemError("parse", 7, "'x'", ValueError("bad"), "Traceback...", 3, 1)

    copy = pickle.loads(pickle.dumps(error))

    assert isinstance(copy.error, ValueError)
    assert copy.error.args == ("bad",)
    assert dataclasses.replace(copy, error=error.error) == error


@pytest.mark.parametrize(
    ("cause", "name"),
    [
        (UnpicklableError("lost"), "UnpicklableError: lost"),
        (LoadsBadlyError(1, 2), "LoadsBadlyError: 1 and 2"),
        (LoadsAsTextError("gone"), "LoadsAsTextError: gone"),
        (type("Local", (Exception,), {})("made here"), "Local: made here"),
    ],
)
def test_an_exception_that_does_not_survive_the_trip_is_named_by_a_stand_in(cause, name):
    copy = pickle.loads(pickle.dumps(ItemError("parse", 7, "'x'", cause)))

    assert type(copy.error) is StageError
    assert str(copy.error).endswith(name)
    assert (copy.stage, copy.index, copy.item) == ("parse", 7, "'x'")


def test_an_item_error_reads_as_one_line():
    error = ItemError("parse", 7, "'x'", ValueError("two\nlines"))

    assert str(error) == "parse: item 7 ('x'): ValueError: two lines"


def test_an_item_error_of_an_exception_that_cannot_be_printed_can_be():
    error = ItemError("parse", 7, "'x'", NeverPrintsError())

    assert "NeverPrintsError: <its str() raised RuntimeError>" in str(error)
    assert "NeverPrintsError" in str(stand_in(error.error))


class BadRepr:
    def __repr__(self):
        raise KeyError("inside repr")


@pytest.mark.parametrize("item", ["x" * 10_000, list(range(10_000)), 10**1000, {"a": ["b" * 999] * 999}])
def test_items_are_shown_within_bounds(item):
    assert 0 < len(bounded_repr(item)) <= MAX_REPR


def test_an_item_whose_repr_raises_is_shown_by_its_type():
    assert bounded_repr(BadRepr()).startswith("<BadRepr")
    assert "BadRepr" in bounded_repr({BadRepr(): [BadRepr()]})


def test_long_messages_are_cut():
    assert len(bounded_text(ValueError("x" * 10**6))) <= 10 * MAX_REPR + 3


# ---------------------------------------------------------------------- policies


@pytest.mark.parametrize("policy", ErrorPolicy)
def test_a_policy_may_be_given_by_name(policy):
    assert ErrorPolicy.parse(policy) is ErrorPolicy.parse(policy.value) is policy


@pytest.mark.parametrize("value", ["DROP", "", None, 3, []])
def test_what_names_no_policy_is_refused_with_those_there_are(value):
    with pytest.raises(PipelineError, match="one of 'raise', 'drop', 'emit', 'side', not "):
        ErrorPolicy.parse(value)


def test_a_number_of_retries_means_at_once():
    retry = Retry.parse(3)

    assert retry == Retry(attempts=3)
    assert retry.wait_s(1) == retry.wait_s(3) == 0.0


def test_retries_wait_longer_and_longer_up_to_a_bound():
    retry = Retry(9, backoff_s=0.5, factor=3.0, max_s=10.0)

    assert [retry.wait_s(attempt) for attempt in range(1, 6)] == [0.5, 1.5, 4.5, 10.0, 10.0]


def test_however_many_attempts_there_were_the_wait_can_be_told():
    assert Retry(10**9, backoff_s=0.1, max_s=7.0).wait_s(100_000) == 7.0
    assert Retry(10**9).wait_s(100_000) == 0.0


@settings(max_examples=100, derandomize=True, database=None, deadline=None)
@given(
    attempt=st.integers(1, 50), backoff_s=st.floats(0, 100), factor=st.floats(1, 5), max_s=st.floats(0, 100),
    jitter=st.floats(0, 1), drawn=st.floats(0, 1),
)  # fmt: skip
def test_a_wait_is_never_negative_nor_over_the_bound_nor_shorter_than_the_jitter_allows(
    attempt, backoff_s, factor, max_s, jitter, drawn
):
    retry = Retry(50, backoff_s, factor, max_s, jitter)
    whole = dataclasses.replace(retry, jitter=0.0).wait_s(attempt)

    wait_s = retry.wait_s(attempt, drawn)

    assert 0 <= wait_s <= whole <= max_s
    assert wait_s >= whole * (1 - jitter) - 1e-9


def test_only_so_many_attempts_are_made_and_only_for_errors_of_that_kind():
    retry = Retry(2, on=(OSError,))

    assert [retry.is_worth_it(OSError(), attempt) for attempt in (1, 2, 3)] == [True, True, False]
    assert retry.is_worth_it(FileNotFoundError(), 1)
    assert not retry.is_worth_it(ValueError(), 1)
    assert not Retry(0).is_worth_it(OSError(), 1)


def test_one_kind_of_error_needs_no_tuple():
    assert Retry(on=OSError).on == (OSError,)
    assert Retry(on=[OSError, KeyError]).on == (OSError, KeyError)


@pytest.mark.parametrize(
    "options",
    [
        {"attempts": -1}, {"attempts": 1.5}, {"attempts": True}, {"backoff_s": -0.1}, {"max_s": -1}, {"factor": 0.5},
        {"jitter": -0.1}, {"jitter": 1.1}, {"on": (3,)}, {"on": (str,)}, {"on": int},
    ],
)  # fmt: skip
def test_retries_that_cannot_be_meant_are_refused(options):
    with pytest.raises(PipelineError):
        Retry(**options)


@pytest.mark.parametrize(
    "options",
    [{"backoff_s": float("nan")}, {"max_s": float("nan")}, {"factor": float("nan")}, {"backoff_s": "1"}, {"on": 3}],
)
def test_retries_that_are_no_numbers_or_types_at_all_are_refused_the_same_way(options):
    with pytest.raises(PipelineError):
        Retry(**options)


# ---------------------------------------------------------------------- figures and errors


def test_a_snapshot_is_ready_for_json():
    snapshot = Snapshot((StageMetrics("a", processed=3),), (WorkerMetrics(0, 123),), "running")

    figures = json.loads(json.dumps(snapshot.as_dict()))

    assert figures["stages"][0]["processed"] == 3
    assert figures["workers"][0]["pid"] == 123
    assert figures["state"] == "running"


def test_figures_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        Snapshot().state = "other"


ERRORS = [
    kind for kind in vars(mpengine.errors).values() if isinstance(kind, type) and issubclass(kind, EngineError)
]  # fmt: skip


@pytest.mark.parametrize("kind", ERRORS)
def test_every_error_travels_and_is_an_engine_error(kind):
    copy = pickle.loads(pickle.dumps(kind("what happened")))

    assert type(copy) is kind
    assert str(copy) == "what happened"
    assert isinstance(copy, EngineError)


def test_the_errors_are_also_what_a_python_programmer_would_catch():
    assert issubclass(PipelineError, ValueError)
    assert issubclass(mpengine.errors.ItemTimeoutError, TimeoutError)
    assert issubclass(mpengine.errors.MemoryLimitError, MemoryError)


def test_the_traceback_of_a_worker_is_shown_as_the_cause():
    error = with_remote_traceback(ValueError("x"), "Traceback (most recent call last): ...")

    assert "Traceback (most recent call last)" in str(error.__cause__)
