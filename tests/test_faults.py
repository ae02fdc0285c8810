"""The fault table's judgement: what is lost, doubled, hung or left is told as such, of peers that do just that.

The peers here are made up, and need none of the libraries that the table is about.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import textwrap
from pathlib import Path

import psutil
import pytest

ROOT = Path(__file__).parent.parent
PATIENCE_S = 20.0

FAKES = """
    import multiprocessing
    import subprocess
    import threading
    from contextlib import contextmanager
    from pathlib import Path

    from faultlines import items
    from faultlines.peers import Failure

    def plainly(job):
        job.function(0)  # one call, which tells that it is at work; three hundred would take their time
        for item in job.source():
            yield items.plain(item)

    @contextmanager
    def sound(job):
        yield plainly(job)

    @contextmanager
    def loses(job):
        yield (value for value in plainly(job) if value != items.plain(41))

    @contextmanager
    def hangs(job):
        yield plainly(job)
        threading.Event().wait()

    @contextmanager
    def leaves(job):
        subprocess.Popen(["sleep", "600"], start_new_session=True)
        yield plainly(job)

    @contextmanager
    def hangs_with_a_named_semaphore(job):
        semaphore = multiprocessing.get_context("spawn").Semaphore()
        Path(job.function.args[1]).with_name("name").write_text(semaphore._semlock.name)
        yield plainly(job)
        threading.Event().wait()

    @contextmanager
    def is_not_there(job):
        import a_module_that_nobody_has
        yield

    @contextmanager
    def goes_on_to_the_last(job):
        job.function(0)
        subprocess.Popen(["sleep", "600"], start_new_session=True)
        folder = Path(job.function.args[1])
        for number in range(items.WORKERS):
            (folder / f"busy-{number}").touch()
        threading.Event().wait()
        yield
"""


@pytest.fixture
def table(from_scripts):
    """Return a module of the fault table."""
    return lambda name: from_scripts(f"faultlines.{name}")


@pytest.fixture
def seen_of(table, tmp_path, monkeypatch):
    """Run a cell with one of the fakes, and return what was seen of it."""
    (tmp_path / "fakes.py").write_text(textwrap.dedent(FAKES), encoding="utf-8")
    (tmp_path / "t").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "t"))
    driving = table("driving")

    def run(fake, fault="0", still_s=PATIENCE_S):
        limits = driving.Limits(still_s=still_s, start_s=PATIENCE_S, looks_s=(0.01, 0.05))
        return driving.run(f"fakes:{fake}", fault, limits, (str(tmp_path),))

    yield run
    assert [path for path in (tmp_path / "t").iterdir() if path.is_dir()] == []


@pytest.fixture
def judged(table):
    """Return the words for a run that ended, from the items that were delivered and the errors that were told."""
    items, driving, judging = table("items"), table("driving"), table("judging")

    def words(delivered, *errors, fault="2", ended=True, hangs=False, left=()):
        events = [{"value": items.plain(item)} for item in delivered]
        events += [{"error": "RuntimeError", "text": "broken", "index": index} for index in errors]
        if ended:
            events.append({"ended": True})
        seen = driving.Seen(fault, ended=not hangs, status=0 if ended else -11, events=events, calls=300)
        seen.left, seen.left_by_items = [list(left)] * 2, [0, 0]
        return judging.verdict(seen)

    return words


@pytest.mark.slow
def test_a_peer_that_gives_what_a_plain_loop_gives_is_well(seen_of, table):
    assert table("judging").verdict(seen_of("sound")) == "well"


@pytest.mark.slow
def test_a_peer_that_loses_an_item_is_told_as_such(seen_of, table):
    seen = seen_of("loses", "2")

    assert table("judging").verdict(seen) == "silent loss of 1"
    assert table("judging").details(seen)["lost"] == [41]


@pytest.mark.slow
def test_a_peer_that_does_not_end_hangs_and_is_ended(seen_of, table):
    assert table("judging").verdict(seen_of("hangs", "2", still_s=0.2)) == "hangs"


@pytest.mark.slow
def test_a_semaphore_goes_with_the_peer_that_had_it(seen_of, table, tmp_path):
    assert table("judging").verdict(seen_of("hangs_with_a_named_semaphore", "2", still_s=0.2)) == "hangs"

    name = (tmp_path / "t" / "name").read_text()
    assert name.startswith("/mp-")
    assert not Path(f"/dev/shm/sem.{name[1:]}").exists()


@pytest.mark.slow
def test_a_peer_that_leaves_a_process_is_told_as_such_and_the_process_is_ended(seen_of, table):
    assert table("judging").verdict(seen_of("leaves", "1")) == "goes on, 1 left"


@pytest.mark.slow
def test_a_library_that_is_not_there_is_told_as_such(seen_of, table):
    assert table("judging").verdict(seen_of("is_not_there")) == "not installed"


@pytest.mark.slow
def test_what_outlives_a_killed_parent_is_counted(seen_of, table):
    assert table("judging").verdict(seen_of("goes_on_to_the_last", "10")) == "0 + 1 left"


@pytest.mark.slow
def test_what_outlives_an_interrupted_parent_is_counted(seen_of, table):
    seen = seen_of("goes_on_to_the_last", "11a")

    assert table("judging").verdict(seen).endswith(" s, 0 + 1 left")
    assert "KeyboardInterrupt" in seen.stderr


@pytest.mark.slow
def test_a_process_that_lost_its_parent_and_its_environment_is_still_one_of_the_cell(table):
    driving = table("driving")
    program = "import subprocess; print(subprocess.Popen(['sleep', '600'], env={}).pid, flush=True); input()"
    family = driving.Family("a cookie")
    with subprocess.Popen(
        [sys.executable, "-c", program],
        env={driving.COOKIE: "a cookie"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as parent:
        orphan = psutil.Process(int(parent.stdout.readline()))
        family.look()
        parent.kill()
    try:
        assert list(family.alive()) == [orphan]
    finally:
        family.end()
    assert list(family.alive()) == []


@pytest.mark.parametrize(
    ("delivered", "errors", "words"),
    [
        (range(300), [], "goes on"),
        ([*range(37), *range(38, 300)], [37], "goes on, 1 failed"),
        ([*range(37), *range(38, 300)], [None], "goes on, 1 failed, unnamed"),
        ([*range(37), *range(40, 300)], [37], "goes on, silent loss of 2"),
        ([*range(37), *range(38, 300)], [], "silent loss of 1"),
        (range(36), range(36, 300), "run lost, 36 kept"),
        (range(36), [None], "run lost, 36 kept"),
        (range(300), [None], "goes on, error told all the same"),
        ([*range(300), 5], [], "goes on, 1 doubled"),
        ([*range(300), 999], [], "goes on, 1 wrong"),
    ],
)
def test_what_came_is_told_in_a_few_words(judged, delivered, errors, words):
    assert judged(delivered, *errors) == words


def test_a_control_run_that_loses_an_item_has_failed(judged):
    assert judged(range(300), fault="0") == "well"
    assert judged(range(299), fault="0") == "control run failed"


def test_a_program_that_ends_with_nothing_told_has_died(judged):
    assert judged(range(20), ended=False) == "program dies"


def test_an_error_that_is_told_before_the_end_fails_to_come_is_not_forgotten(judged):
    assert judged(range(36), None, ended=False, hangs=True) == "told, then hangs"
    assert judged(range(36), ended=False, hangs=True) == "hangs"


def test_a_source_that_raises_is_told_with_what_came_before(judged):
    assert judged(range(37), None, fault="12") == "told, 37 kept"
    assert judged(range(30), fault="12", left=["a worker"]) == "not told, 30 kept, 1 left"


def test_a_consumer_that_stops_is_told_with_what_was_run_for_nobody(judged):
    assert judged(range(10), fault="13") == "ends; 300 run"
