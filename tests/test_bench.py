"""The benchmark's judgement: who hangs, loses items or is not there is told as such, and ratios are what they say.

Nothing here asserts a speed.  The contenders that misbehave are made up, and none of the libraries is needed.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import textwrap
import xml.etree.ElementTree as ET
from pathlib import Path

import psutil
import pytest

ROOT = Path(__file__).parent.parent
COUNT = 30

FAKES = """
    import os
    import subprocess
    import threading
    from contextlib import contextmanager

    def plain(job):
        for item in job.source():
            yield job.by_hand(item)

    @contextmanager
    def sound(job):
        yield plain

    @contextmanager
    def loses(job):
        yield lambda job: list(plain(job))[: 29 if job.count == 30 else None]

    @contextmanager
    def doubles(job):
        yield lambda job: [0, *list(plain(job))[:-1]]

    @contextmanager
    def raises(job):
        yield lambda job: 1 / 0

    @contextmanager
    def dies(job):
        yield lambda job: os._exit(1)

    @contextmanager
    def hangs(job):
        def run(job):
            if job.count == 30:
                subprocess.Popen(["sleep", "611"], start_new_session=True)
                threading.Event().wait()
            return plain(job)
        yield run

    @contextmanager
    def hangs_with_a_semaphore(job):
        import multiprocessing
        semaphore = multiprocessing.get_context("spawn").Semaphore()
        yield lambda job: plain(job) if job.count != 30 else threading.Event().wait()

    @contextmanager
    def is_never_ready(job):
        threading.Event().wait()
        yield

    @contextmanager
    def stays(job):
        yield plain
        threading.Event().wait()

    @contextmanager
    def is_not_there(job):
        import a_module_that_nobody_has
        yield
"""


@pytest.fixture(autouse=True)
def part(from_scripts):
    """Return a module of the benchmark."""
    return lambda name: from_scripts(f"contenders.{name}")


@pytest.fixture
def turn(part, tmp_path, monkeypatch):
    """Let one of the fakes take a turn, and return what was told."""
    (tmp_path / "fakes.py").write_text(textwrap.dedent(FAKES), encoding="utf-8")
    (tmp_path / "t").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "t"))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    driving = part("driving")

    def take(fake, *, job="single", ready_s=20.0, run_s=20.0, end_s=20.0):
        order = {"way": "throughput", "contender": f"fakes:{fake}", "options": {}, "job": job}
        order |= {"count": COUNT, "workers": 2, "warm_up": 5}
        return driving.turn(order, driving.Limits(ready_s, run_s, end_s))

    yield take
    assert [path for path in (tmp_path / "t").iterdir() if path.is_dir()] == []


@pytest.mark.slow
def test_a_contender_that_is_right_is_measured(turn):
    told = turn("sound")

    assert told["fault"] == ""
    assert told["seconds"] > 0
    assert told["cpu_s"] >= 0
    assert not told.get("stays")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fake", "fault"),
    [
        ("loses", "29 of 30 results"),
        ("doubles", "warming up: wrong results"),
        ("raises", "ZeroDivisionError: division by zero"),
        ("dies", "died"),
        ("is_not_there", "not installed: a_module_that_nobody_has"),
    ],
)
def test_nobody_wins_by_losing_items_or_not_coming_to_the_end(turn, fake, fault):
    assert turn(fake)["fault"] == fault


@pytest.mark.slow
def test_a_contender_that_hangs_is_killed_with_all_it_started_and_told_as_such(turn):
    assert turn("hangs", run_s=0.3)["fault"] == "no result within 0.3 s"

    assert [one for one in psutil.process_iter(["cmdline"]) if one.info["cmdline"] == ["sleep", "611"]] == []


@pytest.mark.slow
def test_a_contender_that_is_never_ready_is_told_as_such(turn):
    assert turn("is_never_ready", ready_s=0.3)["fault"] == "not ready within 0.3 s"


@pytest.mark.slow
def test_what_was_measured_counts_though_the_contender_will_not_end(turn):
    told = turn("stays", end_s=0.3)

    assert told["seconds"] > 0
    assert told["stays"]


@pytest.fixture
def ordered(part, tmp_path, monkeypatch):
    """Run the seat with another way than that of throughput."""
    (tmp_path / "t").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "t"))
    driving = part("driving")
    return lambda **order: driving.turn({"workers": 2, **order}, driving.Limits(20.0, 20.0, 20.0))


@pytest.mark.slow
def test_a_lead_is_what_was_pulled_and_not_taken(ordered):
    told = ordered(
        way="contenders.leads:lead", contender="contenders.stdlib:pool", options={"chunk": 1000}, job="single",
        count=5000, for_s=0.3,
    )  # fmt: skip

    assert told["fault"] == ""
    assert told["lead"] <= told["pulled"] == 5000


@pytest.mark.alone
@pytest.mark.slow
def test_a_contender_that_is_ended_leaves_no_semaphore(turn):
    before = set(Path("/dev/shm").iterdir())

    assert turn("hangs_with_a_semaphore", run_s=0.3)["fault"] == "no result within 0.3 s"

    assert set(Path("/dev/shm").iterdir()) <= before


@pytest.mark.slow
def test_a_cancelled_peer_is_waited_for_until_its_workers_are_gone(ordered):
    told = ordered(way="contenders.cancelling:cancelled", contender="executor")

    assert told["fault"] == ""
    assert told["left"] == 0
    assert told["gone_s"] >= told["seconds"]


@pytest.mark.parametrize("name", ["executor", "loky", "joblib", "mpire", "pebble", "pypeln", "dask", "ray_tasks"])
def test_the_shortest_programs_have_a_result(part, name):
    program = part("starting").PROGRAMS[name].format(workers=2)

    compile(program, name, "exec")
    assert "result" in program


# ---------------------------------------------------------------------- jobs


@pytest.mark.parametrize("name", ["single", "single-generated", "three", "cpu", "profile-3", "payloads-1024"])
def test_the_stages_and_what_is_fused_by_hand_do_the_same(part, name):
    job = part("jobs").make(name, count=7, workers=2)
    results = job.source()
    for stage in job.stages:
        results = map(stage, results)

    assert job.fault(job.kept(results)) == ""
    assert job.fault(job.kept(map(job.by_hand, job.source()))) == ""


def test_arrays_are_known_by_their_last_number(part, monkeypatch):
    pytest.importorskip("numpy")
    jobs = part("jobs")
    monkeypatch.setattr(jobs, "CELLS", 10)
    job = jobs.make("arrays", count=4, workers=2)

    assert job.kept(map(job.by_hand, job.source())) == [1.0, 3.0, 5.0, 7.0]


def test_a_payload_that_comes_back_shorter_is_wrong(part):
    job = part("jobs").make("payloads-1024", count=2, workers=2)

    assert job.fault(job.kept(payload[:1000] for payload in job.source())) == "wrong results"


def test_shares_of_a_job_are_the_whole_of_it(part):
    job, share = part("jobs").make("three", count=9, workers=2), part("stdlib").share

    assert job.fault([*share(job, 0, 4), *share(job, 4, 9)]) == ""


def test_random_profiles_are_the_same_each_time_and_within_their_bounds(part):
    profile = part("jobs").profile

    assert [profile(number) for number in range(30)] == [profile(number) for number in range(30)]
    assert {len(profile(number)) for number in range(30)} == {2, 3, 4}
    assert all(0.1 <= ms <= 8 for number in range(30) for ms in profile(number))


# ---------------------------------------------------------------------- scoring


def told(seconds, foreign=0.0, **more):
    return {
        "seconds": seconds,
        "count": 100,
        "item_bytes": 0,
        "cpu_s": seconds,
        "foreign": foreign,
        "load": 1.0,
        **more,
    }


@pytest.fixture
def results(part):
    """Three rounds, in which the second was twice as slow for all, and one contender failed once."""
    return part("scoring").Results(
        [
            {"mpengine": told(1.0), "a": told(2.0), "b": told(4.0), "c": {"fault": "hung"}},
            {"mpengine": told(2.0, 0.5), "a": told(4.0), "b": told(2.0), "c": told(8.0)},
            {"mpengine": told(1.0), "a": told(2.0, 0.01), "b": told(4.0), "c": {"fault": "hung"}},
        ]
    )


def test_a_ratio_is_taken_within_its_round(results):
    assert results.ratios("mpengine", ["a"]) == [2.0, 2.0, 2.0]
    assert results.cpu_ratios("mpengine", "a") == [0.5, 0.5, 0.5]


def test_the_best_of_several_is_the_best_in_each_round(results):
    assert results.ratios("mpengine", ["a", "b", "c"]) == [2.0, 1.0, 2.0]
    assert results.best_of(["a", "b", "c"]) == "a"


def test_who_failed_in_a_round_has_no_ratio_in_it(results):
    assert results.ratios("c", ["mpengine"]) == [0.25]
    assert results.faults("c") == "hung (2 x)"


def test_only_rounds_that_were_quiet_for_both_are_quiet(results):
    assert results.ratios("mpengine", ["a"], quiet=True) == [2.0, 2.0]


def test_bytes_are_counted_where_they_matter(part):
    results = part("scoring").Results([{"a": told(2.0, item_bytes=8_000_000)}])

    assert results.speeds("a") == [400.0]


@pytest.mark.parametrize(("at_least", "reached"), [(1.9, "yes"), (2.1, "no")])
def test_a_target_is_reached_by_the_median(part, results, at_least, reached):
    target = part("cases").Target("the best", at_least, ("a", "b"))

    row = part("scoring").verdict(target, results)

    assert row == ["mpengine", "the best (a)", f"{at_least}", "2.000", "1.000", "2.000", "3", reached]


def test_a_target_that_nobody_ran_for_is_not_reached(part, results):
    assert part("scoring").verdict(part("cases").Target("nobody", 1, ("z",)), results)[-1] == "not measured"


@pytest.fixture
def heat(part):
    """A heat of a few."""
    entry = part("field").entry
    entries = (entry("pool"), entry("mpengine"), entry("bare"), entry("loky", "2 a chunk", items=5))
    return part("cases").Heat("h", "A heat", (("single", 100),), entries, "bare processes")


@pytest.fixture
def seen(part):
    """What was seen in it: one is slow, and one hangs."""
    return part("scoring").Results(
        [
            {
                "mpengine": told(1.0),
                "multiprocessing.Pool": told(40.0, stays=True),
                "bare processes": told(2.0),
                "loky, 2 a chunk": {"fault": "no result within 30 s"},
            }
        ]
    )


def test_a_table_has_the_fastest_first_and_says_who_failed(part, heat, seen):
    table = part("scoring").table_of(heat, seen)

    assert [row[0] for row in table.rows] == [
        "mpengine",
        "bare processes",
        "multiprocessing.Pool: does not end by itself (1 x)",
        "loky, 2 a chunk: no result within 30 s",
    ]
    assert [row[2] for row in table.rows] == ["2.000", "1.000", "0.050", ".."]


def test_every_case_compares_with_those_that_take_part(part):
    for case in part("cases").CASES.values():
        for heat in case(quick=False):
            titles = [one.title for one in heat.entries]
            assert len(titles) == len(set(titles))
            assert heat.reference in titles
            for target in heat.targets:
                assert {target.ours, *target.of} <= set(titles)
                assert target.of


def test_mpengine_and_the_reference_always_take_part(part):
    (heat,) = part("cases").cpu(quick=True)

    assert {one.peer for one in part("cases").taking_part(heat, ["executor"])} == {"mpengine", "bare", "executor"}


# ---------------------------------------------------------------------- charts and pages

SVG = "{http://www.w3.org/2000/svg}"


def drawn(text):
    """Return the widths of the bars of a drawing, from the top, and what it says."""
    root = ET.fromstring(text)
    bars = [float(rect.get("width")) for rect in root.iter(f"{SVG}rect") if rect.get("width") != "100%"]
    return bars, [words.text for words in root.iter(f"{SVG}text")]


def test_bars_are_as_long_as_the_ratios(part):
    charts = part("charts")

    bars, words = drawn(charts.bars("A & B", "ratio", [charts.Bar("a", 2.0, 2.0, 2.0), charts.Bar("b", 1.0, 0.5, 1.5)]))

    assert bars[0] == pytest.approx(2 * bars[1], abs=0.2)
    assert {"A & B", "a", "b"} <= set(words)


def test_bars_that_differ_by_much_are_on_a_scale_of_powers_of_ten(part):
    charts = part("charts")

    bars, words = drawn(charts.bars("t", "ratio", [charts.Bar("a", 10.0, 10.0, 10.0), charts.Bar("b", 0.1, 0.01, 1.0)]))

    assert bars[0] == pytest.approx(3 * bars[1], abs=0.2)
    assert {"0.01", "0.1", "1", "10"} <= set(words)


def test_a_heat_is_drawn_without_those_that_reached_nothing(part, heat, seen):
    bars, words = drawn(part("charts").of_heat(heat, seen))

    assert len(bars) == 3
    assert "loky, 2 a chunk" not in words


def test_payloads_are_drawn_as_a_line_for_each_library(part, tmp_path):
    cases, scoring = part("cases"), part("scoring")
    heats = [
        (heat, scoring.Results([{"mpengine": told(1.0, item_bytes=size), "joblib": told(2.0, item_bytes=size)}]))
        for heat, size in zip(cases.payloads(quick=True), (1024, 1 << 20), strict=True)
    ]

    (path,) = part("charts").draw(tmp_path / "charts", heats)

    root = ET.parse(path).getroot()
    assert path.name == "payloads.svg"
    assert len(list(root.iter(f"{SVG}polyline"))) == 2


def test_only_what_is_between_the_marks_of_a_page_is_written(part, heat, seen, tmp_path):
    page, chart = tmp_path / "page.rst", tmp_path / "charts" / "h.svg"
    page.write_text("before\n\n.. bench: begin\nold\n.. bench: end\n\nafter\n", encoding="utf-8")

    part("pages").write(page, "a machine", [part("scoring").table_of(heat, seen)], [chart])

    text = page.read_text(encoding="utf-8")
    assert text.startswith("before\n\n.. bench: begin\n\na machine\n")
    assert ".. image:: charts/h.svg" in text
    assert ".. list-table:: A heat" in text
    assert text.endswith("\n.. bench: end\n\nafter\n")
    assert "old" not in text


def test_another_file_is_written_as_markdown(part, heat, seen, tmp_path):
    part("pages").write(tmp_path / "page.md", "a machine", [part("scoring").table_of(heat, seen)])

    assert "**A heat**" in (tmp_path / "page.md").read_text(encoding="utf-8")


# ---------------------------------------------------------------------- the program


@pytest.mark.slow
def test_a_quick_run_measures_what_comes_with_python_and_writes_tables_and_charts(tmp_path):
    files = ["--json", "seen.json", "--write", "page.md", "--charts", "charts"]
    command = [sys.executable, str(ROOT / "scripts" / "bench"), "--quick", "--case", "one_by_one", *files]

    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=50, check=False)

    assert done.returncode == 0, done.stderr
    (turns,) = json.loads((tmp_path / "seen.json").read_text())["heats"]["one_by_one"]
    assert {title: one["fault"] for title, one in turns.items()} == {
        "mpengine, stage(batch=1)": "",
        "mpengine, stage(buffer=1)": "",
        "mpengine, MAX_BATCH = 1": "",
        "multiprocessing.Pool": "",
        "ProcessPoolExecutor": "",
    }
    assert "**Targets**" in (tmp_path / "page.md").read_text()
    ET.parse(tmp_path / "charts" / "one_by_one.svg")

    again = subprocess.run(
        [*command, "--only-write"], cwd=tmp_path, capture_output=True, text=True, timeout=50, check=False
    )

    assert again.returncode == 0, again.stderr
    assert "items/s in" not in again.stderr
    assert "Targets" in again.stdout
