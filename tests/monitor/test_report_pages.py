"""The report's page: what it tells, that it needs nothing else, and that it is bounded, escaped and accessible."""

import os
import re
import time
from html.parser import HTMLParser

import pytest

from mpengine import Engine, Journal, stage
from mpengine.metrics import BOUNDS_S
from mpengine.monitor import drawing, reporting
from mpengine.monitor.reporting import ReportFile

VOID = {"meta"}


class Page(HTMLParser):
    """Checks that tags close as they were opened, and gathers what a reader would find."""

    def __init__(self, text):
        super().__init__()
        self.open, self.texts, self.headings, self.tables, self.unnamed, self.addresses = [], [], [], 0, [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        named = dict(attributes)
        if tag not in VOID:
            self.open.append(tag)
        if tag == "th" and "scope" not in named:
            self.unnamed.append(tag)
        if tag == "svg" and not named.get("aria-label"):
            self.unnamed.append(tag)
        if re.fullmatch(r"h[1-6]", tag):
            self.headings.append(int(tag[1]))
        self.tables += tag == "table"
        self.addresses += [value for name, value in attributes if name in {"src", "href"} or "//" in (value or "")]
        assert tag != "script"
        assert not any(name.startswith("on") for name in named)

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, text):
        if "style" not in self.open:
            self.texts.append(text)

    @property
    def text(self):
        return " ".join(" ".join(self.texts).split())


@stage(on_error="drop", name="<script>alert(1)</script>")
def refuse_sevens(number):
    if number % 50 == 7:
        raise ValueError(f"<img src=x onerror=alert({number})> & \x1b[31mred\x00")
    time.sleep(0.0001)
    return number


def double(number):
    return 2 * number


def test_a_page_tells_of_a_run_and_needs_nothing_else(tmp_path, monkeypatch):
    monkeypatch.setattr(ReportFile, "sample_s", 0.005)
    path = tmp_path / "run.html"

    result = Engine(2, observers=[ReportFile(path)], backend="inline").run([range(300), refuse_sevens, double])

    page = Page(path.read_text())
    assert page.addresses == []
    assert page.unnamed == []
    assert page.headings[0] == 1
    assert page.headings.count(1) == 1
    assert all(after - before <= 1 for before, after in zip(page.headings, page.headings[1:], strict=False))
    assert page.tables >= 6
    assert "went to its end" in page.text
    assert result.report.bottleneck in page.text
    assert "<img src=x onerror=alert(7)> & \N{REPLACEMENT CHARACTER}[31mred" in page.text
    assert "refuse_sevens" in page.text  # of the traceback
    for words in ("items of the source 300", "dropped 6", "300 items,", "Slowest items", "Python", "Over time"):
        assert words in page.text
    assert list(tmp_path.iterdir()) == [path]


def test_a_page_of_a_run_that_failed_says_why(tmp_path):
    path = tmp_path / "run.html"

    result = Engine(1, observers=[ReportFile(path)], backend="inline", on_error="raise").run([[0], lambda n: 1 / n])

    page = Page(path.read_text())
    assert "ended early" in page.text
    assert f"Reason: {result.reason}" in page.text


def test_a_page_of_a_run_that_was_resumed_tells_what_was_settled_before(tmp_path):
    path = tmp_path / "run.html"
    Engine(1, backend="inline").run([range(5), double], journal=tmp_path / "job.db")

    journal = Journal(tmp_path / "job.db", resume=True)
    result = Engine(1, backend="inline", observers=[ReportFile(path)]).run([range(6), double], journal=journal)

    text = Page(path.read_text()).text
    assert "items of the source 6" in text
    assert "settled before 5" in text
    assert f"a second {1 / result.report.duration_s:,.1f} " in text


def test_a_page_of_a_run_without_items_is_a_page(tmp_path):
    Engine(1, observers=[ReportFile(tmp_path / "run.html")], backend="inline").run([[], double])

    assert "there is no bottleneck: nothing was run" in Page((tmp_path / "run.html").read_text()).text


def test_a_page_takes_the_place_of_what_was_there_only_when_the_run_is_over(tmp_path):
    path, link = tmp_path / "run.html", tmp_path / "link.html"
    path.write_text("before")
    link.symlink_to(path)
    seen = []

    def look(number):
        seen.append(path.read_text())
        return number

    Engine(1, observers=[ReportFile(link)], backend="inline").run([[1], look])

    assert seen == ["before"]
    assert link.is_symlink()
    assert path.read_text().startswith("<!DOCTYPE html>")


def test_a_report_that_cannot_be_written_is_refused_at_once_and_leaves_no_file(tmp_path):
    with pytest.raises(FileNotFoundError):
        ReportFile(tmp_path / "nowhere" / "run.html")
    ReportFile(tmp_path / "run.html")
    assert list(tmp_path.iterdir()) == []


def test_a_page_that_finds_no_room_costs_the_page_and_not_the_run(tmp_path, caplog):
    folder = tmp_path / "folder"
    folder.mkdir()
    report = ReportFile(folder / "run.html")
    folder.rmdir()

    assert Engine(1, observers=[report], backend="inline").run([[1], double]).is_ok
    assert any("ReportFile" in text for text in caplog.messages)


def test_what_is_kept_for_a_page_is_bounded(tmp_path, monkeypatch):
    monkeypatch.setattr(reporting, "MAX_POINTS", 8)
    monkeypatch.setattr(reporting, "MAX_FAILED", 5)
    monkeypatch.setattr(reporting, "MAX_SLOWEST", 4)
    monkeypatch.setattr(ReportFile, "sample_s", 0.001)
    path = tmp_path / "run.html"
    gathered = []
    real = reporting.Gathered

    def keep(began):
        gathered.append(real(began))
        return gathered[-1]

    monkeypatch.setattr(reporting, "Gathered", keep)
    quiet = stage(refuse_sevens.fn, on_error="drop", name="picky")
    Engine(1, observers=[ReportFile(path)], backend="inline").run([[7] * 200 + list(range(100)), quiet])

    (kept,) = gathered
    assert len(kept.course) < 8
    assert len(kept.failed) == 5
    assert sum(kept.failures.values()) == 202
    assert len(kept.slowest[0]) == 4
    assert "The first 5 of 202." in Page(path.read_text()).text


def test_the_slowest_items_are_the_slowest():
    class Began:
        stages = (None,)

    kept = reporting.Gathered(Began())
    from mpengine.monitor.observing import BatchReported, StageTally

    for start in range(0, 1000, 100):
        slowest = tuple((index, (index * 37 % 1000) / 1000) for index in range(start, start + 100))
        tally = StageTally(0, slowest=slowest)
        kept.take_in(BatchReported(1.0, 0, 1, (0, 1), "done", 100, 100, 0.5, 1.0, (tally,)))

    assert sorted(seconds for seconds, _ in kept.slowest[0]) == [n / 1000 for n in range(980, 1000)]


def test_times_are_told_in_units_that_suit_them():
    told = [drawing.seconds_text(seconds) for seconds in (0.0, 1.5e-7, 2e-6, 0.0123, 1.0, 75.0, 12_345.6)]

    assert told == ["0 ns", "150 ns", "2 µs", "12.3 ms", "1 s", "75 s", "12,346 s"]
    assert [drawing.range_text(place) for place in (0, 1, len(BOUNDS_S))] == [
        "up to 100 ns", "100 ns to 150 ns", "over 7,000 s",
    ]  # fmt: skip
    assert drawing.quantile({3: 50, 9: 49, 20: 1}, 0.5) == BOUNDS_S[3]
    assert drawing.quantile({3: 50, 9: 49, 20: 1}, 0.99) == BOUNDS_S[9]
    assert drawing.quantile({3: 50, len(BOUNDS_S): 50}, 0.99) == BOUNDS_S[-1]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_everything_that_is_to_be_read_has_contrast_enough(scheme):
    from mpengine.monitor.pages import STYLE

    light, _, dark = STYLE.partition("@media(prefers-color-scheme:dark)")
    colours = dict(re.findall(r"--([\w]+):(#[0-9a-f]+)", light if scheme == "light" else dark.partition("*{")[0]))
    for ink in ("ink", "soft", "good", "bad"):
        for paper in ("paper", "panel"):
            assert contrast(colours[ink], colours[paper]) >= 4.5, (ink, paper)
    for number in range(9):  # drawings: 3 to 1
        assert contrast(colours[f"c{number}"], colours["paper"]) >= 3


def contrast(one, other):
    lights = sorted(map(luminance, (one, other)), reverse=True)
    return (lights[0] + 0.05) / (lights[1] + 0.05)


def luminance(colour):
    digits = colour[1:] if len(colour) == 7 else "".join(2 * digit for digit in colour[1:])
    parts = [int(digits[place : place + 2], 16) / 255 for place in (0, 2, 4)]
    red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def test_a_page_can_go_into_a_device():
    assert Engine(1, observers=[ReportFile(os.devnull)], backend="inline").run([[1], double]).is_ok
