"""A batch on its way through a chain: however it is run, the reports add up to the same."""

import itertools
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from job_sites import Slot, never, site

from mpengine import SKIP, KillSwitch, stage
from mpengine.ipc.codec import PlainCodec
from mpengine.ipc.salvage import Broken, Salvaged
from mpengine.worker import jobs, slices
from mpengine.worker.chain import Chain
from mpengine.worker.jobs import Job, Window
from mpengine.worker.packing import pack_results
from mpengine.worker.reports import DONE, GIVEN_BACK, MORE, SUSPENDED
from mpengine.worker.slices import Slicer


def job_of(chain, items, lo=0, hi=None, *, slot=None, is_cancelled=never, pause=never, **more):
    hi = len(items) if hi is None else hi
    return Job(chain, items, Window(lo, hi, **more), site(slot, is_cancelled, pause))


def reports_of(job, budget=10**9):
    """All reports to the end, each checked as the scheduler checks it."""
    while True:
        report = job.advance(budget)
        check(report, job)
        yield report
        if report.progress == DONE or report.kill is not None or report.abandoned:
            return


def check(report, job):
    entering = report.consumed
    for tally in report.tallies:
        assert tally.succeeded + tally.failed + tally.skipped == entering
        entering = tally.succeeded
    assert sum(tally.failed for tally in report.tallies) == len(report.failures)
    if not job.fans_out:
        assert len(report.results) == entering
    assert len(report.results) == len(report.positions)


def merged(reports):
    """What reports say, but for times and words: a loop swallows what a StopIteration had to say."""
    tallies = [[0] * 4 for _ in reports[0].tallies]
    for report in reports:
        for total, tally in zip(tallies, report.tallies, strict=True):
            for place, figure in enumerate(tally.fields()[:4]):
                total[place] += figure
    return (
        list(itertools.chain.from_iterable(report.results for report in reports)),
        list(itertools.chain.from_iterable(report.positions for report in reports)),
        sorted((f[0], f[1], f[2].split(":")[0], f[4], f[6]) for report in reports for f in report.failures),
        tallies,
        sum(report.consumed for report in reports),
    )


def flaky(number, error):
    tried = set()

    def fail_first(x):
        if x % number == 0 and x not in tried:
            tried.add(x)
            raise error(x)
        return x

    return fail_first


MAKERS = {
    "add": lambda n: lambda x: x + n,
    "skip": lambda n: lambda x: SKIP if x % n == 0 else x,
    "fail": lambda n: lambda x: 1 // (x % n) and x,
    "flaky": lambda n: flaky(n, OSError),
    "flaky stop": lambda n: flaky(n, StopIteration),
}
STAGES = st.lists(
    st.tuples(st.sampled_from(sorted(MAKERS)), st.integers(2, 6), st.integers(0, 2)), min_size=1, max_size=4
)


def chain_of(described):
    return Chain([stage(MAKERS[name](number), name=name, retries=retries) for name, number, retries in described], 0)


@given(STAGES, st.lists(st.integers(0, 50), min_size=1, max_size=60, unique=True), st.data())
@settings(deadline=None)
def test_slices_and_one_by_one_report_the_same(described, items, data):
    lo = data.draw(st.integers(0, len(items) - 1))
    hi = data.draw(st.integers(lo + 1, len(items)))
    quick, slow, careful = (chain_of(described) for _ in range(3))
    quick.item_s = data.draw(st.sampled_from([1e-9, jobs.SLICE_S / 3, jobs.SLICE_S / 7]))
    quick.slicer = Slicer(quick.steps)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(jobs, "QUICK_S", 1.0)
        patched.setattr(slices, "SAMPLE", data.draw(st.sampled_from([1, 2, 3])))  # 1: all slices go stage by stage
        if data.draw(st.booleans()):
            quick.slicer.run([], range(0), site())  # else the first slice is a sample
        sliced = merged(list(reports_of(job_of(quick, items, lo, hi))))
    slow.item_s = 1.0
    assert merged(list(reports_of(job_of(slow, items, lo, hi)))) == sliced
    assert merged(list(reports_of(job_of(careful, items, lo, hi, careful=True)))) == sliced
    assert sliced[4] == hi - lo


@pytest.mark.parametrize(("item_s", "slices_before"), [(None, 0), (1e-9, 0), (1e-9, 1)])
@pytest.mark.parametrize("how", ["returned", "raised", "in a retry"])
@pytest.mark.parametrize("place", [0, 1, 2])
def test_a_kill_switch_in_any_stage_leaves_a_report_that_adds_up(item_s, slices_before, how, place):
    tried = []

    def kill(x):
        if x != 4:
            return x
        if how == "in a retry" and not tried:
            tried.append(x)
            raise OSError
        if how == "returned":
            return KillSwitch("why")
        raise KillSwitch("why")

    members = [stage(lambda x: x), stage(lambda x: x), stage(lambda x: x)]
    members[place] = stage(kill, retries=1)
    chain = Chain(members, 0)
    chain.item_s = item_s
    chain.slicer = Slicer(chain.steps)
    for _ in range(slices_before):
        chain.slicer.run([], range(0), site())
    reports = list(reports_of(job_of(chain, list(range(10)))))
    assert reports[-1].kill == "why"
    assert merged(reports)[0] == list(range(10))[: len(merged(reports)[0])]


def test_a_kill_switch_in_a_stream_leaves_a_report_that_adds_up():
    def generate(x):
        yield x
        if x == 2:
            yield KillSwitch("why")

    reports = list(reports_of(job_of(Chain([stage(lambda x: x), stage(generate)], 0), [0, 1, 2, 3])))
    assert reports[-1].kill == "why"
    assert merged(reports)[0] == [0, 1, 2]


@pytest.mark.parametrize(
    ("items", "consumed"),
    [(8, [8]), (11, [11]), (12, [8, 4]), (19, [8, 11]), (21, [8, 8, 5])],
)
def test_j1_what_is_through_is_reported_in_time_and_not_just_before_the_end(items, consumed, monkeypatch):
    now_s = [0.0]
    monkeypatch.setattr(jobs, "time", SimpleNamespace(perf_counter=lambda: now_s[0]))
    monkeypatch.setattr(jobs, "REPORT_S", 8.0)

    def take_a_second(x):
        now_s[0] += 1

    chain = Chain([stage(take_a_second)], 0)
    chain.item_s = 1.001

    assert [report.consumed for report in reports_of(job_of(chain, list(range(items))))] == consumed


@pytest.mark.parametrize(("is_patient", "consumed"), [(False, [8] * 5), (True, [8, 8, 16, 8])])
def test_j1_once_a_worker_has_been_at_it_for_some_time_it_reports_less_often(is_patient, consumed, monkeypatch):
    now_s = [0.0]
    monkeypatch.setattr(jobs, "time", SimpleNamespace(perf_counter=lambda: now_s[0]))
    monkeypatch.setattr(jobs, "REPORT_S", 8.0)
    monkeypatch.setattr(jobs, "LONG_REPORT_S", 20.0)

    def take_a_second(x):
        now_s[0] += 1

    chain = Chain([stage(take_a_second)], 0)
    job = job_of(chain, list(range(40)))
    job.is_patient = is_patient

    assert [report.consumed for report in reports_of(job)] == consumed


@pytest.mark.parametrize(
    ("how", "given_back"),
    [
        ({}, True),
        ({"gives_back": False}, False),
        ({"careful": True}, False),
        ({"fans_out": True}, False),
    ],
)
def test_j4_what_takes_much_longer_than_thought_gives_back_what_it_has_not_begun(how, given_back, monkeypatch):
    now_s = [0.0]
    monkeypatch.setattr(jobs, "time", SimpleNamespace(perf_counter=lambda: now_s[0]))
    monkeypatch.setattr(jobs, "REPORT_S", 8.0)
    monkeypatch.setattr(jobs, "KEEP_S", 20.0)

    def take_a_second(x):
        now_s[0] += 1
        return x

    def stream(x):
        yield take_a_second(x)

    job = job_of(
        Chain([stage(stream if "fans_out" in how else take_a_second)], 0), list(range(40)), careful="careful" in how
    )
    job.gives_back = how.get("gives_back", True)
    reports = []
    while not reports or reports[-1].progress == MORE:
        reports.append(job.advance(10**9))

    assert (reports[-1].progress == GIVEN_BACK) is given_back
    if given_back:
        assert [report.consumed for report in reports] == [8, 8, 8]  # the first report after KEEP_S
    else:
        assert reports[-1].progress == DONE


def test_j1_a_rest_that_was_thought_to_be_short_does_not_hold_a_report_up_for_long(monkeypatch):
    now_s = [0.0]
    monkeypatch.setattr(jobs, "time", SimpleNamespace(perf_counter=lambda: now_s[0]))
    monkeypatch.setattr(jobs, "REPORT_S", 8.0)

    def get_slower(x):
        now_s[0] += 1 if x < 8 else 3

    chain = Chain([stage(get_slower)], 0)
    chain.item_s = 1.001

    assert next(reports_of(job_of(chain, list(range(11))))).consumed == 9


@pytest.mark.parametrize("budget", [1, 2, 3, 100])
@pytest.mark.parametrize("report_s", [0.0, 60.0])
def test_streams_report_the_same_however_often_they_are_put_aside(budget, report_s, monkeypatch):
    monkeypatch.setattr(jobs, "REPORT_S", report_s)

    def generate(x):
        for number in range(x):
            yield x, number
            if (x, number) == (3, 1):
                raise ValueError(x)

    chain = Chain([stage(lambda x: SKIP if x == 1 else x), stage(generate)], 0)
    job = job_of(chain, [2, 0, 1, 3, 5])
    reports = []
    for report in reports_of(job, budget):
        reports.append(report)
        assert len(report.results) <= budget
    results, positions, failures, tallies, consumed = merged(reports)
    assert results == [(2, 0), (2, 1), (3, 0), (3, 1), *[(5, n) for n in range(5)]]
    assert positions == [0, 0, 3, 3, 4, 4, 4, 4, 4]
    assert [failure[:2] for failure in failures] == [(3, 1)]
    assert tallies == [[4, 0, 1, 0], [3, 1, 0, 0]]
    assert consumed == 5


@given(st.integers(0, 6), st.integers(0, 6), st.integers(1, 4), st.booleans())
@settings(deadline=None)
def test_what_was_emitted_is_never_less_than_what_was_delivered(delivered, fails_at, budget, is_retried):
    """What a worker reports is what the next one skips: were it less, results would be delivered twice."""
    tried = []

    def generate(x):
        for number in range(6):
            if number == fails_at and not tried and is_retried:
                tried.append(number)
                raise OSError
            yield number

    job = job_of(Chain([stage(generate, retries=1)], 0), ["only"], skip=delivered)
    known, given_now = delivered, []
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(jobs, "REPORT_S", 0.0)
        for report in reports_of(job, budget):
            given_now += report.results
            known += len(report.results)
            assert report.progress == DONE or report.emitted >= known
    assert given_now == list(range(delivered, 6))


def test_what_is_to_be_skipped_is_of_the_first_item_alone():
    def drop_first(x):
        return SKIP if x == 0 else x

    def generate(x):
        yield from "abc"

    job = job_of(Chain([stage(drop_first), stage(generate)], 0), [0, 1], skip=2)
    assert merged(list(reports_of(job)))[0] == ["a", "b", "c"]


def test_careful_names_each_item_and_stage_and_reports_it_alone():
    slot = Slot()
    chain = Chain([stage(lambda x: x), stage(lambda x: x)], 0)
    chain.item_s = 1e-9
    reports = list(reports_of(job_of(chain, list("abcd"), 1, 4, careful=True, slot=slot)))
    assert slot.named == [(place, number) for place in (1, 2, 3) for number in (0, 1)]
    assert [report.results for report in reports] == [["b"], ["c"], ["d"]]


def test_quick_items_are_not_named():
    slot = Slot()
    chain = Chain([stage(lambda x: x)], 0)
    chain.item_s = 1e-9
    list(reports_of(job_of(chain, list(range(1000)), slot=slot)))
    assert slot.named == []


def test_a_broken_item_fails_in_the_first_stage():
    items = Salvaged([1, Broken(ValueError("bad bytes")), 3])
    for members in ([stage(lambda x: x), stage(lambda x: x)], [stage(lambda x: x), stage(lambda x: iter([x]))]):
        results, positions, failures, tallies, _ = merged(list(reports_of(job_of(Chain(members, 0), items))))
        assert positions == [0, 2]
        assert len(results) == 2
        assert failures[0][:4] == (1, 0, "ValueError", "<could not be unpickled>")
        assert tallies[0][:3] == [2, 1, 0]


@pytest.mark.parametrize(("item_s", "at_once"), [(None, 1), (jobs.SLICE_S / 100, 100)])
def test_a_cancelled_job_stops_between_items(item_s, at_once):
    calls = []
    chain = Chain([stage(calls.append)], 0)
    chain.item_s = item_s
    report = job_of(chain, list(range(300)), is_cancelled=lambda: bool(calls)).advance(10**9)
    assert report.abandoned
    assert len(calls) <= at_once


def test_a_closed_job_closes_its_generator():
    closed = []

    def generate(x):
        try:
            yield from range(100)
        finally:
            closed.append(x)

    job = job_of(Chain([stage(generate)], 0), ["x"])
    assert job.advance(3).progress == SUSPENDED
    job.close()
    job.close()
    assert closed == ["x"]


class Locked:
    def __reduce__(self):
        raise RuntimeError("will not be packed")


class Choosy(PlainCodec):
    """Packs lists as they are, but no Locked."""

    def pack(self, items):
        if any(isinstance(item, Locked) for item in items):
            raise RuntimeError("will not be packed")
        return items


@given(STAGES, st.lists(st.integers(0, 50), min_size=1, max_size=40, unique=True), st.integers(1, 7), st.integers(2, 5))
@settings(deadline=None)
def test_results_that_will_not_pack_fail_and_the_books_still_balance(described, items, out_size, number):
    chain = Chain([*chain_of_stages(described), stage(lambda x: Locked() if x % number == 0 else x, name="last")], 0)
    job = job_of(chain, items)
    report = job.advance(10**9)
    results = [x for x in report.results if not isinstance(x, Locked)]
    chunks, payloads = pack_results(job, report, Choosy(), out_size)
    assert list(itertools.chain.from_iterable(payloads)) == results
    assert all(count == len(payload) <= out_size for (count, _, _), payload in zip(chunks, payloads, strict=True))
    entering = report.consumed
    for tally in report.tallies:
        assert tally.succeeded + tally.failed + tally.skipped == entering
        entering = tally.succeeded
    assert entering == len(results)
    assert sum(tally.failed for tally in report.tallies) == len(report.failures)
    assert len({failure[0] for failure in report.failures}) == len(report.failures)


def chain_of_stages(described):
    return [stage(MAKERS[name](number), name=name, retries=retries) for name, number, retries in described]


@pytest.mark.parametrize("budget", [1, 2, 3, 100])
@pytest.mark.parametrize("bad", [{0}, {1}, {2}, {0, 2}, {0, 1, 2}])
def test_an_item_of_a_stream_that_gives_what_will_not_pack_fails_once(budget, bad):
    def generate(x):
        for number in range(3):
            yield Locked() if x == 1 and number in bad else (x, number)

    job = job_of(Chain([stage(lambda x: x), stage(generate)], 0), [0, 1, 2])
    given_on, failed, consumed = [], [], 0
    while True:
        report = job.advance(budget)
        _, payloads = pack_results(job, report, Choosy(), 2)
        entering = report.consumed
        for tally in report.tallies:
            assert tally.succeeded + tally.failed + tally.skipped == entering
            entering = tally.succeeded
        given_on += itertools.chain.from_iterable(payloads)
        failed += [failure[0] for failure in report.failures]
        consumed += report.consumed
        if report.progress == DONE:
            break
    assert failed == [1]
    assert consumed == 3
    assert [value for value in given_on if value[0] != 1] == [(x, n) for x in (0, 2) for n in range(3)]
