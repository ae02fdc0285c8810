"""The line that names the bottleneck of a run: of made-up figures, and of a real run."""

from __future__ import annotations

import pickle
import time

import pytest

from mpengine import Engine, stage
from mpengine.profiles import Idleness, Profile, StageProfile

STAGES = (StageProfile("read", 4, busy_s=10.0, batches=5), StageProfile("parse", 4, busy_s=25.0, batches=5))


def told(**figures):
    return Profile(4, 10.0, STAGES, limits_s=(0.0, 0.0), **figures).bottleneck


@pytest.mark.parametrize(
    ("cause", "words"),
    [
        ("source", "the source is the bottleneck: workers waited for it 50 % of the time"),
        ("end", "the end is the bottleneck"),
        ("consumer", "the consumer is the bottleneck"),
        ("order", "ordered=False"),
        ("filling", "a smaller batch="),
        ("memory", "memory is the bottleneck"),
    ],
)
def test_what_most_of_the_time_was_waited_for_is_named(cause, words):
    line = told(busy_s=20.0, idle=Idleness(**{cause: 20.0}))

    assert words in line
    assert "\n" not in line


def test_waiting_a_little_is_no_bottleneck():
    assert told(busy_s=35.0, idle=Idleness(source=3.0), transport_s=2.0).startswith(
        "parse is the bottleneck, with 71 % of the work: all 4 workers are 88 % busy"
    )


def test_a_run_of_nothing_has_none():
    assert Profile().bottleneck == "there is no bottleneck: nothing was run"


def test_a_profile_travels():
    profile = Profile(4, 10.0, STAGES, Idleness(source=1.0))

    assert pickle.loads(pickle.dumps(profile)) == profile


@pytest.mark.slow
def test_a_report_names_the_bottleneck_of_a_real_run():
    @stage(workers=1)
    def slow(number):
        time.sleep(0.02)
        return number

    report = Engine(3).run([range(60), slow]).unwrap()

    assert report.bottleneck.startswith("slow is the bottleneck: its only worker is")
    assert "give it more workers (workers=1 now)" in report.bottleneck


def test_an_inline_run_has_a_profile_too():
    report = Engine(backend="inline").run([range(100), abs]).unwrap()

    assert report.profile.stages[0].items == 100
    assert report.bottleneck == "abs had 100 % of the work; nothing ran side by side (backend='inline')"
