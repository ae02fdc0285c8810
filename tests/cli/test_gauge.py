"""How far a run is and how that is worded: snapshots in, figures and frames out."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from mpengine.cli.frames import clock, frame, line, rate, summary
from mpengine.cli.gauge import Gauge
from mpengine.cli.speech import rendered
from mpengine.metrics import Snapshot, StageMetrics


def snapshot(at, out, *, pulled=100, stages=("parse",), **figures):
    made = tuple(StageMetrics(name, buffer=16, queued=3, in_flight=2, processed=out, failed=1) for name in stages)
    return Snapshot(made, state="running", elapsed_s=at, source_items=pulled, delivered=out, **figures)


def test_every_way_an_item_can_end_counts_as_done():
    reading = Gauge(total=40).read(snapshot(2.0, 5, filtered=3, dropped=2))

    assert (reading.done, reading.share, reading.per_s, reading.left_s) == (10, 0.25, 5.0, 6.0)


def test_what_another_run_had_settled_counts_as_done_and_tells_nothing_of_how_fast_this_one_is():
    reading = Gauge(total=1000).read(snapshot(2.0, 8, pulled=920, resumed=900, dropped=2))

    assert (reading.done, reading.share, reading.per_s, reading.left_s) == (910, 0.91, 5.0, 18.0)


def test_rates_are_those_of_the_last_seconds():
    gauge = Gauge(total=1000)
    for second in range(1, 101):
        gauge.read(snapshot(float(second), second))

    reading = gauge.read(snapshot(110.0, 250))

    assert reading.per_s == reading.stages[0].per_s == pytest.approx((250 - 95) / 15)
    assert reading.left_s == pytest.approx(750 / reading.per_s)


def test_nothing_is_foretold_of_a_source_without_an_end():
    reading = Gauge().read(snapshot(2.0, 5))

    assert (reading.total, reading.share, reading.left_s) == (None, None, None)
    assert summary(reading) == "100 in, 5 out, 2.5/s"


def test_the_share_of_a_file_that_was_read_tells_how_many_lines_it_has():
    reading = Gauge().read(snapshot(10.0, 50), pulled_share=0.25)

    assert (reading.total, reading.share, reading.left_s) == (None, 0.125, 70.0)


def test_a_file_of_which_nothing_was_read_foretells_nothing():
    reading = Gauge().read(snapshot(1.0, 0, pulled=0), pulled_share=0.0)

    assert (reading.share, reading.left_s) == (None, None)


def test_behind_a_fan_out_items_are_counted_where_they_come_in():
    items = Snapshot((StageMetrics("read", processed=10),), elapsed_s=1.0, source_items=20, delivered=5000)

    assert Gauge(total=40, fans_out=True).read(items).share == 0.25


def test_a_share_is_never_more_than_the_whole():
    assert Gauge(total=4).read(snapshot(1.0, 9)).share == 1.0


def test_the_line_of_a_log_names_the_run_and_each_stage():
    reading = Gauge(total=40).read(snapshot(10.0, 10, stages=("parse", "pack")))

    assert line(reading) == "10 of 40, 25%, 0:30 left, 1.0/s, after 0:10; parse 10 (1 failed); pack 10 (1 failed)"


def test_a_run_that_is_being_cancelled_says_so():
    stopping = Snapshot((StageMetrics("read"),), state="cancelling", elapsed_s=1.0, source_items=20, delivered=5)

    assert summary(Gauge(total=40).read(stopping)) == "5 of 40, 12%, stopping"


@pytest.mark.parametrize(("seconds", "text"), [(0.4, "0:00"), (59.6, "1:00"), (3599, "59:59"), (3661, "1:01:01")])
def test_durations_are_worded_as_on_a_clock(seconds, text):
    assert clock(seconds) == text


@pytest.mark.parametrize(("per_s", "text"), [(0, "0/s"), (0.25, "0.2/s"), (9.96, "10.0/s"), (12345.6, "12,346/s")])
def test_rates_are_worded_with_as_many_digits_as_say_something(per_s, text):
    assert rate(per_s) == text


def drawn(reading, columns, lines=24):
    console = Console(file=io.StringIO(), force_terminal=True, color_system=None, width=columns, height=lines)
    return [row.rstrip() for row in rendered(console, *frame(reading, columns, lines)).splitlines()]


@pytest.mark.parametrize("columns", [120, 79, 39, 24])
def test_a_frame_fits_its_terminal(columns):
    reading = Gauge(total=10**9).read(snapshot(9999.0, 10**8, stages=("parse", "a stage whose name is long " * 4)))

    rows = drawn(reading, columns)

    assert rows[0] == ""  # where the cursor rests (G4)
    assert rows[1].startswith("100,000,000 of 1,000")
    assert max(map(len, rows)) <= columns
    assert len(rows) == 6  # nothing was wrapped: empty, summary, bar, heads, and the two stages


def test_a_wide_frame_shows_what_waits_against_its_bound_and_a_narrow_one_does_without():
    reading = Gauge(total=40).read(snapshot(2.0, 10))

    assert drawn(reading, 79)[-2:] == [
        "stage  done   rate  queued  in flight  failed",
        "parse    10  5.0/s    3/16          2       1",
    ]
    assert drawn(reading, 39)[-1].split() == ["parse", "10", "5.0/s", "1"]


def test_more_stages_than_lines_are_counted():
    reading = Gauge().read(snapshot(2.0, 10, stages=[f"stage {number}" for number in range(30)]))

    rows = drawn(reading, 79, lines=12)

    assert len(rows) < 12
    assert rows[-1] == "... 24 more stages"


def test_a_name_is_text_in_one_line_whatever_it_holds():
    reading = Gauge().read(snapshot(2.0, 10, stages=["[bold]\nred\x1b[2J"]))

    assert "[bold] red" in drawn(reading, 79)[-1]
    assert "\x1b" not in "".join(drawn(reading, 79)) + line(reading)
