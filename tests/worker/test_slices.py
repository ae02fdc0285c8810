"""Cheap items go through a chain's stages at once: who fails, where, and with what, is told as if they went alone."""

from types import SimpleNamespace

import pytest
from job_sites import site

from mpengine import SKIP, KillSwitch, stage
from mpengine.worker import slices
from mpengine.worker.chain import Chain, Killed
from mpengine.worker.loops import NOTHING
from mpengine.worker.slices import SAMPLE, Slicer

COUNT = 9


def slicer_of(*functions, is_sample=False, **options):
    """Return a slicer whose next slice is a sample, or is not."""
    chain = Chain([stage(function, name=f"s{place}", **options) for place, function in enumerate(functions)], 0)
    slicer = Slicer(chain.steps)
    if not is_sample:
        slicer.run([], range(0), site())
    return slicer


def run(slicer, count=COUNT, first=100):
    return slicer.run(list(range(count)), range(first, first + count), site())


def noting(calls, place, special=None):
    """Return a stage that adds ten; ``special`` is called with what it is given for item 4."""

    def add_ten(x):
        calls.append((place, x))
        return special(x) if special and x % 10 == 4 else x + 10

    return add_ten


def raising(error):
    def fail(x):
        raise error

    return fail


def with_one_that_fails(place, error, calls):
    return [noting(calls, number, raising(error) if number == place else None) for number in range(3)]


class Rude(BaseException):
    pass


ERRORS = [ValueError("v"), StopIteration("s"), GeneratorExit("g"), Rude("r"), KeyError("k"), RecursionError("e")]


@pytest.mark.parametrize("is_sample", [True, False])
@pytest.mark.parametrize("place", [0, 1, 2])
@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_an_error_is_its_items_in_its_stage_and_nothing_runs_twice(is_sample, place, error):
    calls = []
    sliced = run(slicer_of(*with_one_that_fails(place, error, calls), is_sample=is_sample))
    (failure,) = sliced.failures
    position, number, summary, raised, item, traceback, attempts, how, output = failure
    assert (position, number, item, attempts, how, output) == (104, place, repr(4 + 10 * place), 1, "raised", "")
    assert summary.startswith(type(error).__name__)
    if not (is_sample and type(error) is StopIteration):  # it ends a loop in C without a word
        assert raised is error
        assert traceback.splitlines()[1].endswith(", in add_ten")
    assert sliced.values == [x + 30 for x in range(COUNT) if x != 4]
    assert list(sliced.places) == [100 + x for x in range(COUNT) if x != 4]
    reached = [(number, x + 10 * number) for x in range(COUNT) for number in range(3) if x != 4 or number <= place]
    assert sorted(calls) == sorted(reached)
    assert [tally.fields()[:4] for tally in sliced.tallies] == [
        (COUNT - (number >= place), int(number == place), 0, 0) for number in range(3)
    ]


@pytest.mark.parametrize("is_sample", [True, False])
@pytest.mark.parametrize("place", [0, 1, 2])
@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt()], ids=lambda error: type(error).__name__)
def test_what_is_raised_to_end_the_process_is_no_items_error(is_sample, place, error):
    calls = []
    with pytest.raises(type(error)):
        run(slicer_of(*with_one_that_fails(place, error, calls), is_sample=is_sample))
    assert calls[-1] == (place, 4 + 10 * place)


class Subtle(KillSwitch):
    pass


@pytest.mark.parametrize("place", [0, 1, 2])
@pytest.mark.parametrize("how", ["given", "raised"])
def test_a_kill_switch_is_given_to_no_further_stage(place, how):
    calls = []
    functions = with_one_that_fails(place, Subtle("why"), calls)
    if how == "given":
        functions[place] = noting(calls, place, lambda _: Subtle("why"))
    with pytest.raises(Killed, match="why"):
        run(slicer_of(*functions))
    assert calls[-1] == (place, 4 + 10 * place)


@pytest.mark.parametrize("is_sample", [True, False])
@pytest.mark.parametrize("place", [0, 1, 2])
def test_what_is_skipped_is_given_to_no_further_stage(is_sample, place):
    calls = []
    functions = [noting(calls, number, (lambda _: SKIP) if number == place else None) for number in range(3)]
    sliced = run(slicer_of(*functions, is_sample=is_sample))
    assert sliced.values == [x + 30 for x in range(COUNT) if x != 4]
    assert list(sliced.places) == [100 + x for x in range(COUNT) if x != 4]
    assert [tally.skipped for tally in sliced.tallies] == [int(number == place) for number in range(3)]
    assert [tally.succeeded for tally in sliced.tallies] == [COUNT - (number >= place) for number in range(3)]
    assert not any(type(x) is not int for _, x in calls)


def test_stages_may_skip_and_fail_in_turn_and_give_whatever_they_like():
    kinds = [SKIP, None, 1, "text", ValueError("given, not raised"), NOTHING, [], KillSwitch]

    def choose(x):
        if x % 11 == 10:
            raise OSError(x)
        return kinds[x % len(kinds)]

    results = [
        slicer_of(choose, lambda x: x, lambda x: SKIP if x == 1 else x, is_sample=is_sample) for is_sample in (0, 1)
    ]
    told = []
    for slicer in results:
        sliced = run(slicer, 200)
        told.append(
            (
                sliced.values,
                list(sliced.places),
                [(failure[0], failure[1], failure[2], failure[4]) for failure in sliced.failures],
                [tally.fields()[:4] for tally in sliced.tallies],
            )
        )
    assert told[0] == told[1]
    assert len(told[0][2]) == 18


@pytest.mark.parametrize("place", [0, 1, 2])
@pytest.mark.parametrize("further", ["through", "fails", "skipped"])
def test_an_item_that_a_retry_mends_goes_on_from_there_alone(place, further):
    calls = []
    errors = [OSError("once")]

    def once(x):
        if errors:
            raise errors.pop()
        return x + 10

    functions = [noting(calls, number) for number in range(3)]
    functions[place] = noting(calls, place, once)
    if place < 2 and further == "fails":
        functions[2] = noting(calls, 2, raising(ValueError("later")))
    if place < 2 and further == "skipped":
        functions[2] = noting(calls, 2, lambda _: SKIP)
    sliced = run(slicer_of(*functions, retries=1))
    has_left = place < 2 and further != "through"
    assert sliced.values == [x + 30 for x in range(COUNT) if not (x == 4 and has_left)]
    assert [tally.retried for tally in sliced.tallies] == [
        (number == place) + (has_left and further == "fails" and number == 2) for number in range(3)
    ]
    tries = [(number, x) for number, x in calls if x == 4 + 10 * number]
    assert tries[: place + 2] == [*((number, 4 + 10 * number) for number in range(place + 1)), (place, 4 + 10 * place)]
    assert [failure[:2] for failure in sliced.failures] == [(104, 2)] * (has_left and further == "fails")


def test_a_stage_that_takes_a_state_gets_it_and_others_do_not():
    def count(x, state):
        state.values["seen"] = state.values.get("seen", 0) + 1
        return x, state.values["seen"]

    sliced = run(slicer_of(count, lambda pair: pair, count), 3)
    assert sliced.values == [((0, 1), 1), ((1, 2), 2), ((2, 3), 3)]


class Interrupted:
    """A loop that a signal's handler ends once, at a place of its own; what it says of the stage is stale then."""

    def __init__(self, loop, takes, gives):
        self.loop = loop
        self.takes = takes
        self.gives = gives

    def run(self, items, results):
        if not self.takes:
            return self.loop.run(items, results)
        results += [next(items) for _ in range(self.takes)][: self.gives]
        self.takes = 0
        return False, OSError("a signal"), 2, "stale"


def test_what_a_signals_handler_raises_between_two_items_is_the_next_ones_who_has_not_begun():
    calls = []
    slicer = slicer_of(*(noting(calls, number) for number in range(3)))
    run(slicer, 0)
    slicer._loop = Interrupted(slicer._loop, takes=3, gives=3)
    sliced = run(slicer)
    assert [(failure[0], failure[1], failure[4]) for failure in sliced.failures] == [(103, 0, "3")]
    assert sliced.values == [0, 1, 2, *range(34, 30 + COUNT)]
    assert not any(x % 10 == 3 for _, x in calls)


def test_what_a_signals_handler_raises_behind_the_last_item_is_nobodys():
    slicer = slicer_of(*[lambda x: x] * 3)
    run(slicer, 0)
    slicer._loop = Interrupted(slicer._loop, takes=COUNT, gives=COUNT)
    sliced = run(slicer)
    assert sliced.values == list(range(COUNT))
    assert sliced.failures == []


@pytest.mark.parametrize("left_over", [SKIP, KillSwitch("why")])
def test_what_is_raised_before_a_skip_is_looked_at_is_an_error_of_who_gave_it(left_over):
    slicer = slicer_of(*[lambda x: x] * 3)
    run(slicer, 1)
    slicer._loop._run = lambda *_: (False, OSError("a signal"), ("given", left_over))
    _, error, number, value = slicer._loop.run(iter(()), [])
    assert (type(error), number, value) == (OSError, 1, "given")


def test_the_time_of_a_slice_is_divided_as_the_samples_were(monkeypatch):
    now_s = [0.0]
    monkeypatch.setattr(slices, "time", SimpleNamespace(perf_counter=lambda: now_s[0]))
    costs = [1.0, 4.0, 0.5]

    def costing(place):
        def spend(x):
            now_s[0] += costs[place]
            return x

        return spend

    slicer = slicer_of(costing(0), costing(1), costing(2), is_sample=True)
    for _ in range(SAMPLE):
        assert [tally.busy_s for tally in run(slicer, 2).tallies] == pytest.approx([2, 8, 1])
    costs.reverse()
    assert [tally.busy_s for tally in run(slicer, 2).tallies] == pytest.approx([1, 8, 2])  # a sample again
    told = run(slicer, 2).tallies
    assert sum(tally.busy_s for tally in told) == pytest.approx(11)
    assert told[0].busy_s == told[2].busy_s == pytest.approx(1.5)
