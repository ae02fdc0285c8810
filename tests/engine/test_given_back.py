"""What workers give back of a batch is run by somebody, once, in its place: here all do after each item."""

import array

import pytest

from mpengine import SKIP, stage
from mpengine.scheduler.crew import Worker
from mpengine.worker import jobs

COUNT = 300
CELLS = 20_000  # of 8 bytes: each in the arena


@pytest.fixture
def given_back(monkeypatch):
    """Have workers that are forked from now on give back all they can, and return what they have."""
    monkeypatch.setattr(jobs, "REPORT_S", 0.0)
    monkeypatch.setattr(jobs, "LONG_REPORT_S", 0.0)
    monkeypatch.setattr(jobs, "KEEP_S", 0.0)
    monkeypatch.setattr(jobs.Job, "_is_nearly_through", lambda *_: False)
    counts = []
    before = Worker.give_back

    def note(worker, batch):
        counts.append(batch.count)
        before(worker, batch)

    monkeypatch.setattr(Worker, "give_back", note)
    return counts


@pytest.fixture
def engine(make_engine, given_back):
    return make_engine("fork", workers=2)


def work(x):
    sum(range(2000))
    return x + 1


@pytest.mark.parametrize("ordered", [True, False])
def test_every_item_is_run_once_and_in_its_place(ordered, make_engine, given_back):
    engine = make_engine("fork", workers=2, ordered=ordered)

    report = engine.run([work], iter(range(COUNT))).unwrap()

    expected = list(range(1, COUNT + 1))
    assert (report.values if ordered else sorted(report.values)) == expected
    assert report.snapshot.stages[0].processed == COUNT
    assert given_back


def test_what_was_shared_with_a_worker_can_be_shared_with_it_again(engine, given_back):
    def add(cells):
        return array.array("d", [cells[0] + 1]) * len(cells)

    def source():
        for number in range(60):
            yield array.array("d", [number]) * CELLS

    values = engine.run([add, stage(add, workers=2)], source()).unwrap().values

    assert [(value[0], value[-1], len(value)) for value in values] == [(n + 2, n + 2, CELLS) for n in range(60)]


def test_what_a_worker_gives_back_does_not_count_as_what_it_was_given(make_engine, given_back):
    engine = make_engine("fork", workers=2, max_items_per_worker=20)

    assert engine.run([work], range(COUNT)).unwrap().values == list(range(1, COUNT + 1))
    assert given_back


def test_failed_and_skipped_items_are_told_once(engine, given_back):
    def choose(x):
        if x % 7 == 0:
            raise ValueError(x)
        return SKIP if x % 5 == 0 else x

    report = engine.run([stage(choose, on_error="drop")], range(COUNT)).unwrap()

    assert report.values == [x for x in range(COUNT) if x % 7 and x % 5]
    assert sorted(error.index for error in report.errors) == list(range(0, COUNT, 7))
    assert given_back


def test_lists_for_a_batch_are_not_cut(engine, given_back):
    sizes = engine.run([stage(lambda xs: [len(xs)] * len(xs), batch=4)], range(COUNT)).unwrap().values

    assert sizes == [4] * COUNT
