"""A report's page: one HTML file that needs nothing else, no script and no network, by day and by night.

Everything that comes from the run (names, reasons, items, tracebacks) is escaped, and no control character gets
through.
"""

from __future__ import annotations

import itertools
import os
import platform
import re
import time
from html import escape
from typing import TYPE_CHECKING, Any, Final

from mpengine.monitor import drawing
from mpengine.monitor.drawing import seconds_text

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from mpengine.monitor.reporting import Gathered
    from mpengine.results import Report

_CONTROL: Final = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
MAX_TEXT: Final = 20_000

STYLE: Final = """
:root{color-scheme:light dark;--paper:#fff;--ink:#1b1f24;--soft:#57606a;--rule:#d0d7de;--panel:#f6f8fa;--good:#116329;
--bad:#a40e26;--c0:#0550ae;--c1:#bc4c00;--c2:#1a7f37;--c3:#8250df;--c4:#9a6700;--c5:#0e7c86;--c6:#bf3989;--c7:#6e7781;
--c8:#a40e26}
@media(prefers-color-scheme:dark){:root{--paper:#0d1117;--ink:#e6edf3;--soft:#9da7b3;--rule:#30363d;--panel:#161b22;
--good:#56d364;--bad:#ff7b72;--c0:#58a6ff;--c1:#f0883e;--c2:#56d364;--c3:#bc8cff;--c4:#e3b341;--c5:#39c5cf;--c6:#f778ba;
--c7:#8b949e;--c8:#ff7b72}}
*{box-sizing:border-box}body{margin:0;background:var(--paper);color:var(--ink);font:16px/1.5 system-ui,sans-serif}
main,header{max-width:72rem;margin:0 auto;padding:0 1rem}header{padding-top:1.5rem}main{padding-bottom:3rem}
h1{font-size:1.6rem;margin:0 0 .3rem;line-height:1.25}h2{font-size:1.2rem;margin:2rem 0 .6rem;padding-top:.8rem;
border-top:1px solid var(--rule)}h3{font-size:1rem;margin:1rem 0 .2rem;overflow-wrap:anywhere}
p{margin:.4rem 0;max-width:60rem}
.soft,figcaption{color:var(--soft);font-size:.9rem}.good{color:var(--good)}.bad{color:var(--bad)}
dl{display:grid;grid-template-columns:repeat(auto-fit,minmax(8.5rem,1fr));gap:.6rem;margin:1rem 0}
dl>div{background:var(--panel);border:1px solid var(--rule);border-radius:6px;padding:.5rem .7rem}
dt{color:var(--soft);font-size:.85rem}dd{margin:0;font-size:1.25rem;font-variant-numeric:tabular-nums}
.advice{background:var(--panel);border-left:4px solid var(--c0);padding:.6rem .9rem;margin:1rem 0;
overflow-wrap:anywhere}
.wide{overflow-x:auto}table{border-collapse:collapse;width:100%;font-size:.9rem;font-variant-numeric:tabular-nums}
caption{text-align:left;color:var(--soft);padding-bottom:.3rem}th,td{padding:.3rem .7rem .3rem 0;text-align:right;
border-bottom:1px solid var(--rule);white-space:nowrap}th:first-child,td:first-child,.text{text-align:left}
td.text{white-space:normal;overflow-wrap:anywhere;min-width:10rem}th{font-weight:600}
.figures{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(100%,19rem),1fr));gap:1rem}figure{margin:0;min-width:0}
svg{display:block;width:100%;height:auto}svg.bar{height:1.6rem;border-radius:4px;margin:.6rem 0}
svg text{fill:var(--soft);font:11px system-ui,sans-serif}.axis{stroke:var(--soft)}.rule{stroke:var(--rule)}
.line{fill:none;stroke:var(--c0);stroke-width:2;stroke-linejoin:round}
.swatch{display:inline-block;width:.8em;height:.8em;border-radius:2px;margin-right:.5em;vertical-align:-.05em}
details{border:1px solid var(--rule);border-radius:6px;margin:.5rem 0;padding:.4rem .7rem;background:var(--panel)}
summary{cursor:pointer;overflow-wrap:anywhere}pre{overflow-x:auto;font:13px/1.45 ui-monospace,monospace;margin:.5rem 0}
:focus-visible{outline:2px solid var(--c0);outline-offset:2px}
""" + "".join(f"svg .c{n}{{fill:var(--c{n})}}.swatch.c{n}{{background:var(--c{n})}}" for n in range(9))


def text(value: object) -> str:
    """Return what is to be read as such."""
    return escape(_CONTROL.sub("\N{REPLACEMENT CHARACTER}", str(value)[:MAX_TEXT]))


def page(gathered: Gathered) -> str:
    """Return the page about a run that is over."""
    assert gathered.ended is not None  # noqa: S101 - the caller has looked
    result = gathered.ended.result
    report = result.report
    outcome = '<span class="good">went to its end</span>' if result.is_ok else '<span class="bad">ended early</span>'
    moment = f"{_moment(gathered.began.created)}, {seconds_text(report.duration_s)}, process {gathered.began.pid}"
    names = " → ".join(outline.name for outline in gathered.stages)
    parts = [
        f'<header><h1>Run {gathered.began.run_id}: {outcome}</h1><p class="soft">{text(names)}</p>',
        f'<p class="soft">{moment}</p></header><main>',
        "" if result.is_ok else f'<p class="bad"><strong>Reason:</strong> {text(result.reason)}</p>',
        _figures(report),
        f'<p class="advice"><strong>What held it up.</strong> {text(report.bottleneck)}</p>',
        _time(report),
        _stages(gathered, report),
        _course(gathered),
        _slowest(gathered),
        _failed(gathered),
        _workers(gathered, report),
        _environment(gathered),
        "</main>",
    ]
    title = f"Run {gathered.began.run_id}: {'ok' if result.is_ok else 'ended early'} - mpengine"
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>{text(title)}</title><style>{STYLE}</style></head>\n<body>{''.join(parts)}</body></html>\n"
    )


def _moment(created: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S %z", time.localtime(created))


def _figures(report: Report) -> str:
    snapshot = report.snapshot
    own = snapshot.source_items - snapshot.resumed
    figures: list[tuple[str, str]] = [
        ("items of the source", f"{snapshot.source_items:,}"),
        ("results", f"{snapshot.delivered:,}"),
        ("a second", f"{own / report.duration_s:,.1f}" if report.duration_s else "-"),
    ]
    for name, count in (
        ("settled before", snapshot.resumed), ("filtered out", snapshot.filtered), ("dropped", snapshot.dropped),
        ("failed", snapshot.failed), ("left behind", snapshot.cancelled),
        ("retries", sum(book.retried for book in snapshot.stages)),
        ("workers that died", sum(worker.deaths for worker in snapshot.workers)),
    ):  # fmt: skip
        if count:
            figures.append((name, f"{count:,}"))
    return "<dl>" + "".join(f"<div><dt>{name}</dt><dd>{figure}</dd></div>" for name, figure in figures) + "</dl>"


def _table(caption: str, heads: Sequence[str], rows: Iterable[Sequence[Any]], texts: Sequence[int] = (0,)) -> str:
    """Return a table; cells of the columns in ``texts`` are words, the others figures; cells are HTML already."""
    head = "".join(f'<th scope="col"{_kind(place, texts)}>{name}</th>' for place, name in enumerate(heads))
    lines = []
    for first, *others in rows:
        cells = "".join(f"<td{_kind(place, texts)}>{cell}</td>" for place, cell in enumerate(others, 1))
        lines.append(f'<tr><th scope="row" class="text">{first}</th>{cells}</tr>')
    return (
        f'<div class="wide" role="region" aria-label="{escape(caption)}" tabindex="0"><table><caption>{escape(caption)}'
        f"</caption><thead><tr>{head}</tr></thead><tbody>{''.join(lines)}</tbody></table></div>"
    )


def _kind(place: int, texts: Sequence[int]) -> str:
    return ' class="text"' if place in texts else ""


def _time(report: Report) -> str:
    profile, idle = report.profile, report.profile.idle
    whole = profile.capacity_s
    if whole <= 0:
        return ""
    shares = [
        ("in stage functions", profile.busy_s), ("transport", profile.transport_s),
        ("waiting for the source", idle.source), ("waiting for the consumer", idle.consumer),
        ("waiting behind results in order", idle.order), ("waiting for a limited stage", idle.limit),
        ("nothing left to do at the end", idle.end), ("waiting for lists or memory", idle.filling + idle.memory),
        ("starting, absent or lost", profile.absent_s + profile.lost_s),
    ]  # fmt: skip
    told = [(name, seconds, f"c{place}") for place, (name, seconds) in enumerate(shares) if seconds > 0]
    bar = drawing.share_bar([(name, seconds / whole, colour) for name, seconds, colour in told], "Where the time went")
    rows = [
        (f'<span class="swatch {colour}"></span>{name}', f"{seconds:,.3f}", f"{seconds / whole:.1%}")
        for name, seconds, colour in told
    ]
    caption = f"{profile.workers} workers for {seconds_text(profile.elapsed_s)} are {whole:,.3f} worker-seconds"
    return f"<h2>Where the time went</h2>{bar}{_table(caption, ['what', 'worker-seconds', 'share'], rows)}"


def _stages(gathered: Gathered, report: Report) -> str:
    busy_s = report.profile.busy_s or 1.0
    rows = []
    for number, book in enumerate(report.snapshot.stages):
        times = gathered.times[number]
        quantiles = [f"≤ {seconds_text(drawing.quantile(times, share))}" if times else "-" for share in (0.5, 0.95)]
        mean = seconds_text(book.busy_s / book.processed) if book.processed else "-"
        rows.append((
            text(book.name), f"{book.processed:,}", f"{book.succeeded:,}", f"{book.failed:,}", f"{book.skipped:,}",
            f"{book.retried:,}", f"{book.busy_s:,.3f}", f"{book.busy_s / busy_s:.1%}", mean, *quantiles,
        ))  # fmt: skip
    heads = ["stage", "items", "well", "failed", "filtered", "retries", "busy s", "share", "mean", "half", "95 %"]
    figures = [
        f"<figure><h3>{text(outline.name)}</h3>{drawing.histogram(times, f'Times of items in {outline.name}')}"
        f"<figcaption>{sum(times.values()):,} items, {drawing.range_text(max(times, key=times.__getitem__))} "
        "most often</figcaption></figure>"
        for outline, times in zip(gathered.stages, gathered.times, strict=True)
        if times
    ]
    note = (
        '<p class="soft">How many items took how long, in steps of a logarithmic scale. Items that ran one by one '
        "count with their own time; quick ones, which run in slices of a millisecond, and those of lists and of "
        "<code>async def</code> count with the mean of those they ran with.</p>"
    )
    histograms = f'<h2>Times of items</h2>{note}<div class="figures">{"".join(figures)}</div>' if figures else ""
    return f"<h2>Stages</h2>{_table('What became of items in each stage', heads, rows)}{histograms}"


def _course(gathered: Gathered) -> str:
    points = gathered.course
    if len(points) < 3:  # noqa: PLR2004 - a line of one piece tells nothing
        return ""
    rates = [
        (at, (items - before) / (at - since))
        for (since, before, _), (at, items, _) in itertools.pairwise(points)
        if at > since
    ]
    waiting = [(at, float(items)) for at, _, items in points]
    last = text(gathered.stages[-1].name)
    return (
        f'<h2>Over time</h2><div class="figures"><figure><h3>Rate of {last}</h3>'
        f"{drawing.course(rates, 'Items a second over time', 'items a second')}</figure><figure><h3>Items that waited"
        f"</h3>{drawing.course(waiting, 'Items that waited over time', 'items')}</figure></div>"
    )


def _slowest(gathered: Gathered) -> str:
    rows = sorted(
        ((seconds, number, index) for number, kept in enumerate(gathered.slowest) for seconds, index in kept),
        reverse=True,
    )[:20]
    if not rows:
        return ""
    cells = [
        (f"item {index:,}", text(gathered.stages[number].name), seconds_text(seconds))
        for seconds, number, index in rows
    ]
    caption = "Of those that were timed one by one; an item's number is its place in the source, from 0"
    return f"<h2>Slowest items</h2>{_table(caption, ['item', 'stage', 'time'], cells, texts=(0, 1))}"


def _failed(gathered: Gathered) -> str:
    total = sum(gathered.failures.values())
    if not total:
        return ""
    kinds = [
        (text(gathered.stages[stage].name), text(kind), f"{count:,}")
        for (stage, kind), count in gathered.failures.most_common(20)
    ]
    told = []
    for failed in gathered.failed:
        name = gathered.stages[failed.stage].name
        output = f"<h3>What it had printed</h3><pre>{text(failed.output)}</pre>" if failed.output else ""
        tries = f", {failed.attempts} attempts" if failed.attempts > 1 else ""
        trace = f"<pre>{text(failed.traceback)}</pre>" if failed.traceback else ""
        told.append(
            f"<details><summary>item {failed.index:,} in {text(name)}{tries}: {text(failed.summary)}</summary>"
            f"<p><code>{text(failed.item)}</code></p>{trace}{output}</details>"
        )
    more = f"<p>The first {len(told):,} of {total:,}.</p>" if len(told) < total else ""
    table = _table(f"{total:,} in all", ["stage", "error", "items"], kinds, texts=(0, 1))
    return f"<h2>Failed items</h2>{table}{more}{''.join(told)}"


def _workers(gathered: Gathered, report: Report) -> str:
    rows = []
    for worker in report.snapshot.workers:
        rss = gathered.peak_rss.get(worker.worker_id, 0)
        pid = gathered.pids.get(worker.worker_id)
        rows.append((
            f"worker {worker.worker_id}", "-" if pid is None else pid, f"{worker.batches:,}", f"{worker.items:,}",
            f"{worker.busy_s:,.3f}", worker.deaths, f"{rss / 2**20:,.0f}" if rss else "-",
        ))  # fmt: skip
    heads = ["worker", "process", "batches", "items", "busy s", "deaths", "MiB at most"]
    endings = [
        (f"{ending.at - gathered.began.at:,.2f}", f"worker {ending.worker_id}", text(_how(ending)), ending.pid or "-")
        for ending in gathered.endings
    ]
    deaths = ""
    if endings:
        heads_of_deaths = ["after s", "worker", "how", "process"]
        deaths = _table("Workers that died while the run went on", heads_of_deaths, endings, texts=(0, 1, 2))
    return f"<h2>Workers</h2>{_table('Workers by slot', heads, rows)}{deaths}"


def _how(ending: Any) -> str:
    if ending.timed_out:
        return f"{ending.how}, an item's time was up"
    if ending.is_oom:
        return f"{ending.how} by the kernel, out of memory"
    return f"{ending.how}, over memory_limit" if ending.over_memory else str(ending.how)


def _environment(gathered: Gathered) -> str:
    rows: list[tuple[str, str]] = [
        ("Python", f"{platform.python_implementation()} {platform.python_version()}"),
        ("system", f"{platform.system()} {platform.release()} {platform.machine()}"),
        ("cores", f"{os.cpu_count()}"),
        ("workers", f"{gathered.began.workers}"),
        ("memory of the coordinator, at most", f"{gathered.own_peak_rss / 2**20:,.0f} MiB"),
    ]
    if gathered.dropped:
        rows.append(("records dropped, so that this page is not complete", f"{gathered.dropped:,}"))
    return f"<h2>Environment</h2>{_table('Where it ran', ['what', ''], [(name, text(told)) for name, told in rows])}"
