"""The page in a real browser, headless Chromium: what people see, hear and can do."""

import itertools
import os
import re
import threading
from urllib.parse import urlsplit

import psutil
import pytest
from playwright.sync_api import expect, sync_playwright

from mpengine import mix, stage
from mpengine.dashboard import history, live

pytestmark = pytest.mark.slow

PATIENCE_S = 30.0
HOSTILE = "<img src=x onerror=alert(1)>"
HAS_INK = "canvas => canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data.some(Boolean)"
RIGHT_ENDS = "texts => texts.map(text => text.getBoundingClientRect().right)"
WIDE, NARROW = {"width": 1280, "height": 900}, {"width": 360, "height": 740}
expect.set_options(timeout=PATIENCE_S * 1000)


@pytest.fixture(scope="module")
def browser(chromium):
    """A browser for all tests.  Its processes come and go by themselves, so they do not bear the cookie of ours."""
    environment = {name: value for name, value in os.environ.items() if name != "MPENGINE_TEST_SESSION"}
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=chromium, args=["--no-sandbox", "--disable-gpu"], env=environment
        )
        yield browser
        browser.close()


@pytest.fixture
def show(browser):
    """Open a page, and see to it that it has loaded nothing from elsewhere and nothing went wrong in it."""
    contexts, wrong = [], []

    def open_page(url, viewport=WIDE, **options):
        def note_request(request):
            if urlsplit(request.url).netloc != urlsplit(url).netloc:
                wrong.append(request.url)

        def note_message(message):
            # A connection that is lost, and a token that is refused, are told by the browser itself.
            if message.type == "error" and not re.search("ERR_|403", message.text):
                wrong.append(message.text)

        contexts.append(browser.new_context(viewport=viewport, **options))
        page = contexts[-1].new_page()
        page.set_default_timeout(PATIENCE_S * 1000)
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("dialog", lambda dialog: wrong.append(dialog.message))
        page.on("console", note_message)
        page.on("request", note_request)
        page.goto(url)
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert wrong == []


@pytest.fixture(scope="module")
def exhibit(watch):
    """A run that stands still with something of everything in it, for those who only look; and how many failed."""
    gate = threading.Event()

    def check(item):
        if item % 50 == 7:
            raise ValueError(f"{HOSTILE} {item}")
        return item

    run = watch(
        [
            range(200),
            stage(check, name=HOSTILE),
            mix(stage(abs, name="left"), stage(abs, name="right"), merge=max),
            stage(lambda item: gate.wait() and item, kind="thread", name="held", buffer=8),
        ],
        {"metrics_interval_s": 0},  # whose board would come, and be called, in the middle of the tests
    )
    run.start()
    run.ask("/check")  # its web server is no test's own
    yield run
    gate.set()
    assert run.wait().is_ok


def at_rest(page):
    """Wait until the exhibit's four errors are on the page."""
    expect(page.locator("#errors > li")).to_have_count(4)
    expect(page.locator("#graph")).to_contain_text("full")
    return page


def test_the_page_shows_the_pipeline_its_queues_its_workers_and_its_errors(exhibit, show):
    page = at_rest(show(exhibit.dashboard.url))

    graph = page.locator("#graph")
    for text in ("source", "of 200", "left", "right", "max", "held", "output", "0 delivered", "/s"):
        expect(graph).to_contain_text(text)
    expect(graph.locator("rect.full")).to_have_count(1)
    expect(page.locator("#state")).to_have_text("running")
    expect(page.locator("#f-failed")).to_have_text("✕ 4")
    expect(page.locator("#chart path.delivered")).to_have_attribute("d", re.compile("^M"))
    page.get_by_text("Figures of the workers").click()
    expect(page.get_by_role("table", name="Workers, by slot").get_by_role("row")).to_have_count(1 + 2 + 2)
    page.get_by_text("Figures of the stages").click()
    rows = page.get_by_role("table", name="Stages, in order").get_by_role("row")
    assert rows.nth(5).get_by_role("cell").all_inner_texts()[:2] == ["8", "8"]
    assert page.locator("#timeline").evaluate(HAS_INK)


def test_an_error_opens_to_its_traceback_by_keyboard(exhibit, show):
    page = at_rest(show(exhibit.dashboard.url))
    error = page.locator("#errors > li").filter(has_text=f"{HOSTILE} 157 —")  # which is the newest, workers settle
    error.locator("summary").focus()
    page.keyboard.press("Enter")

    expect(error.get_by_role("region", name="Traceback")).to_contain_text("in check")
    expect(error).to_contain_text("Item: 157")


def test_what_the_user_has_named_is_text_and_never_markup_w6(exhibit, show):
    page = at_rest(show(exhibit.dashboard.url))

    assert page.locator("img[src='x'], #graph image, script:not([src])").count() == 0
    assert page.locator("#graph title").all_text_contents().count(HOSTILE) == 1
    expect(page.locator("#errors summary").filter(has_text=f"ValueError: {HOSTILE} 157")).to_have_count(1)


def test_the_token_leaves_the_address_and_a_reload_still_has_it_w5(exhibit, show):
    page = at_rest(show(exhibit.dashboard.url))
    assert exhibit.token not in page.url
    page.reload()
    at_rest(page)
    assert page.context.cookies() == []


def test_a_wrong_token_is_told_and_shows_nothing(exhibit, show):
    page = show(exhibit.dashboard.url[:-4] + "0000")

    expect(page.locator("#notice")).to_contain_text("token")
    expect(page.locator("#link")).to_have_text("refused")
    expect(page.locator("#graph")).to_be_empty()
    expect(page.get_by_role("button", name="Cancel the run…")).to_be_disabled()


def test_a_narrow_screen_shows_all_of_it_without_scrolling_sideways(exhibit, show):
    page = at_rest(show(exhibit.dashboard.url, NARROW))

    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    assert len({section.bounding_box()["x"] for section in page.locator("section").all()}) == 1
    svg = page.locator("#graph svg").bounding_box()
    assert svg["height"] > svg["width"]
    assert max(page.locator("#graph text").evaluate_all(RIGHT_ENDS)) <= 360
    button = page.get_by_role("button", name="Cancel the run…").bounding_box()
    assert button["height"] >= 44
    page.locator("#errors summary").first.click()
    assert page.evaluate("document.documentElement.scrollWidth") <= 360


def test_a_screen_reader_finds_landmarks_headings_and_names(exhibit, show):
    page = at_rest(show(exhibit.dashboard.url))

    for role in ("banner", "main", "contentinfo"):
        expect(page.get_by_role(role)).to_have_count(1)
    for name in ("Run", "Pipeline", "Throughput", "Workers", "Errors"):
        expect(page.get_by_role("region", name=name).first).to_be_visible()
        expect(page.get_by_role("heading", name=name, level=2)).to_be_visible()
    expect(page.get_by_role("heading", level=1)).to_have_text(re.compile(r"mpengine run \d+"))
    expect(page.get_by_role("img", name="Pipeline from the source through 5 stages")).to_have_count(1)
    expect(page.get_by_role("img", name="held: 8 of 8 waiting")).to_have_count(1)
    expect(page.get_by_role("img", name="Throughput over")).to_have_count(1)
    expect(page.get_by_role("img", name="What 4 workers were at in the last")).to_have_count(1)
    share = page.get_by_role("progressbar", name="How much of the run is done")
    assert 0 <= int(share.get_attribute("aria-valuenow")) <= 100
    # The newest of what was told: both may have come at once.
    expect(page.get_by_role("status")).to_have_text(re.compile(r"Run \d+: running\.|The first item has failed\."))
    assert page.locator("html").get_attribute("lang") == "en"
    page.get_by_text("Figures of the stages").click()
    expect(page.get_by_role("rowheader", name=HOSTILE)).to_be_visible()
    expect(page.get_by_role("columnheader", name="Waiting")).to_be_visible()


COLOURS = """names => {
  const style = getComputedStyle(document.documentElement);
  return Object.fromEntries(names.map((name) => [name, style.getPropertyValue("--" + name).trim()]));
}"""


def luminance(colour):
    parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one, other):
    dark, bright = sorted((luminance(one), luminance(other)))
    return (bright + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_words_and_shapes_stand_out_in_both_schemes(exhibit, show, scheme):
    words = [(word, ground) for word in ("ink", "soft", "danger") for ground in ("panel", "ground")]
    words += [("accent", "panel"), *(("on-strong", ground) for ground in ("accent", "danger", "good", "warn"))]
    shapes = [("edge", "panel"), ("warn", "track"), *((f"stage-{number}", "panel") for number in range(6))]
    page = show(exhibit.dashboard.url, color_scheme=scheme, reduced_motion="reduce")
    colours = page.evaluate(COLOURS, sorted({name for pair in words + shapes for name in pair}))

    # What WCAG asks for at level AA: of text, and of what is no text but has to be seen.
    assert [pair for pair in words if contrast(*map(colours.get, pair)) < 4.5] == []
    assert [pair for pair in shapes if contrast(*map(colours.get, pair)) < 3.0] == []
    assert page.locator("#share-bar").evaluate("bar => getComputedStyle(bar).transitionDuration") == "0s"


def test_the_page_follows_the_run_and_keeps_its_end_when_the_program_is_gone(watched, show):
    turns = threading.Semaphore(0)

    def source():
        for number in range(6):
            turns.acquire(timeout=PATIENCE_S)
            yield number

    run = watched(source, stage(abs, name="turn"), release=lambda: turns.release(6))
    page = show(run.dashboard.url)
    expect(page.locator("#f-delivered")).to_have_text("0")
    for done in (1, 2, 3):
        turns.release()
        expect(page.locator("#f-delivered")).to_have_text(str(done))
    expect(page.locator("#graph")).to_contain_text("3 delivered")
    turns.release(3)
    assert run.wait().is_ok

    expect(page.locator("#state")).to_have_text("finished")
    expect(page.locator("#link")).to_have_text("over")
    expect(page.locator("#f-delivered")).to_have_text("6")
    expect(page.get_by_role("status")).to_have_text(re.compile(r"Run \d+: finished\.( 6 delivered, 0 failed\.)?"))
    expect(page.get_by_role("button", name="Cancel the run…")).to_be_disabled()
    expect(page.locator("#notice")).to_be_hidden()


def test_a_run_is_cancelled_by_keyboard_and_asks_once(watched, show):
    gate = threading.Event()
    held = stage(lambda item: gate.wait(PATIENCE_S) and item, kind="thread", name="held")
    run = watched(range(100), held, release=gate.set)
    page = show(run.dashboard.url)
    button = page.get_by_role("button", name="Cancel the run…")
    expect(button).to_be_enabled()
    page.keyboard.press("Tab")
    page.keyboard.press("Tab")
    expect(button).to_be_focused()
    assert button.evaluate("button => getComputedStyle(button).outlineStyle") == "solid"
    page.keyboard.press("Enter")
    dialog = page.get_by_role("dialog", name="Cancel the run?")
    expect(dialog.get_by_role("button", name="Let it run")).to_be_focused()
    page.keyboard.press("Escape")
    expect(dialog).to_be_hidden()
    expect(button).to_be_focused()
    state = page.locator("#state").inner_text()
    page.keyboard.press("Enter")
    page.keyboard.press("Shift+Tab")
    expect(dialog.get_by_label("Reason, for the log")).to_be_focused()
    page.keyboard.type("seen enough")
    page.keyboard.press("Tab")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    expect(page.locator("#reason")).to_have_text("Reason: seen enough")
    gate.set()

    assert state == "running"
    assert run.wait().reason == "seen enough"
    expect(page.locator("#state")).to_have_text("cancelled")
    expect(page.get_by_role("status")).to_contain_text(": cancelled. Reason: seen enough.")


def test_a_page_whose_server_has_died_says_so_and_comes_back(watched, show):
    gate = threading.Event()

    def held(item):
        if item == 5:
            raise ValueError("five")
        return gate.wait(PATIENCE_S) and item

    run = watched(range(5, 9), stage(held, kind="thread", name="held"), release=gate.set)
    page = show(run.dashboard.url)
    expect(page.locator("#errors > li")).to_have_count(1)
    page.evaluate("""() => {
      const word = document.getElementById("link-word");
      const note = () => { document.body.title += word.textContent + ". "; };
      new MutationObserver(note).observe(word, { childList: true });
    }""")
    psutil.Process(run.dashboard._host.identity.pid).kill()

    expect(page.locator("body")).to_have_attribute("title", "reconnecting. live. ")
    expect(page.get_by_role("status")).to_have_text("Connected again.")
    expect(page.locator("#errors > li")).to_have_count(1)
    expect(page.get_by_role("button", name="Cancel the run…")).to_be_enabled()


def test_a_page_that_is_open_for_a_million_items_does_not_grow(watched, show, monkeypatch):
    monkeypatch.setattr(live, "WATCHED_S", 0.02)
    monkeypatch.setattr(live, "SHARE", 1)
    monkeypatch.setattr(history, "COLUMN_S", 0.05)  # so that a run of seconds is looked at as one of hours is
    monkeypatch.setattr(history, "POINTS", 20)
    monkeypatch.setattr(history, "COLUMNS", 20)
    gates = [threading.Event() for _ in range(3)]

    def source():
        for number in range(1_000_000):
            if number % 400_000 == 300_000:
                gates[number // 400_000].wait(PATIENCE_S)
            yield number

    def check(number):
        if number % 2000 == 7:
            raise ValueError(f"{number} is odd")
        return number

    run = watched(source(), stage(check, name="check"), release=lambda: [gate.set() for gate in gates])
    page = show(run.dashboard.url)
    session = page.context.new_cdp_session(page)

    def size():
        session.send("HeapProfiler.collectGarbage")
        counters = session.send("Memory.getDOMCounters")
        return counters["nodes"], counters["jsEventListeners"], session.send("Runtime.getHeapUsage")["usedSize"]

    expect(page.locator("#f-pulled")).to_have_text("300K")
    expect(page.locator("#errors > li")).to_have_count(history.TROUBLES)
    sizes = []
    for gate, pulled in itertools.zip_longest(gates[:2], ("700K", "1M")):
        sizes.append(size())
        gate.set()
        expect(page.locator("#f-pulled")).to_have_text(pulled)
    assert run.wait().report.snapshot.source_items == 1_000_000
    expect(page.locator("#state")).to_have_text("finished")
    sizes.append(size())

    nodes, listeners, heaps = zip(*sizes, strict=True)
    assert nodes[-1] <= 1.1 * nodes[0]
    assert max(nodes) <= 1.5 * nodes[0]  # what was just replaced counts until it is collected
    assert set(listeners) == {listeners[0]}
    assert max(heaps) < heaps[0] + (1 << 20)
