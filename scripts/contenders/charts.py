"""Bars and lines as SVG, drawn by hand: no library, no script, nothing fetched."""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass
from typing import TYPE_CHECKING
from xml.sax.saxutils import escape

from contenders.field import PEERS

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from contenders.cases import Heat
    from contenders.scoring import Results

WIDTH, LEFT, RIGHT, TOP, ROW = 900, 330, 90, 48, 22
LOG_FROM = 20.0  # the largest bar is so many times the smallest: a scale of powers of ten
COLOURS = ("#c43c00", "#3b6ea5", "#7a9e3a", "#8b5ea8", "#c79a1e", "#4a9a94", "#a04c66", "#5a5a5a", "#7d6b4f", "#2f2f8f")
OURS, CONTROL, OTHER = COLOURS[0], "#b8b8b8", COLOURS[1]
STYLE = "text { font: 13px sans-serif; fill: #222 } .title { font-weight: bold } .small { font-size: 11px; fill: #555 }"


@dataclass(frozen=True)
class Bar:
    """A bar: what it is called, how long it is, from where to where it was seen, and its colour."""

    label: str
    value: float
    low: float
    high: float
    colour: str = OTHER


def bars(title: str, axis: str, shown: Sequence[Bar]) -> str:
    """Return a chart of bars, which begin at 0, or at a power of ten where they differ by much."""
    least, most = min(bar.low for bar in shown), max(bar.high for bar in shown)
    is_log = most / max(least, 1e-12) > LOG_FROM
    low = 10 ** math.floor(math.log10(least)) if is_log else 0.0
    high = 10 ** math.ceil(math.log10(most)) if is_log else most * 1.05

    def at(value: float) -> float:
        part = math.log10(max(value, low) / low) / math.log10(high / low) if is_log else value / high
        return LEFT + part * (WIDTH - LEFT - RIGHT)

    bottom = TOP + ROW * len(shown)
    lines = [text(10, 20, title, "title"), text(10, 37, axis + (", scale of powers of ten" if is_log else ""), "small")]
    for tick in ticks(low, high, is_log=is_log):
        lines.append(line(at(tick), TOP, at(tick), bottom, "#ddd"))
        lines.append(text(at(tick), bottom + 15, f"{tick:g}", "small", "middle"))
    if low < 1 <= high:
        lines.append(line(at(1), TOP, at(1), bottom, "#222"))
    for number, bar in enumerate(shown):
        top = TOP + ROW * number
        width = max(1.0, at(bar.value) - LEFT)
        lines.append(text(LEFT - 8, top + 15, bar.label, "", "end"))
        lines.append(f'<rect x="{LEFT}" y="{top + 4}" width="{width:.1f}" height="{ROW - 8}" fill="{bar.colour}"/>')
        lines.append(line(at(bar.low), top + ROW / 2, at(bar.high), top + ROW / 2, "#222"))
        lines.append(text(max(at(bar.high), LEFT + width) + 6, top + 15, brief(bar.value), "small"))
    return drawing(title, bottom + 26, lines)


def curves(title: str, axis: str, shown: dict[str, Sequence[tuple[float, float]]]) -> str:
    """Return a chart of lines through points, both scales of powers of two or ten; the first line is ours."""
    xs = sorted({x for points in shown.values() for x, _ in points})
    ys = [y for points in shown.values() for _, y in points]
    low, high = 10 ** math.floor(math.log10(min(ys))), 10 ** math.ceil(math.log10(max(ys)))
    left, right, bottom = 70, WIDTH - 220, 420

    def at(x: float, y: float) -> tuple[float, float]:
        along = (math.log2(x) - math.log2(xs[0])) / max(1e-9, math.log2(xs[-1]) - math.log2(xs[0]))
        up = math.log10(y / low) / max(1e-9, math.log10(high / low))
        return left + along * (right - left), bottom - up * (bottom - TOP)

    lines = [text(10, 20, title, "title"), text(10, 37, axis, "small")]
    for tick in ticks(low, high, is_log=True):
        _, y = at(xs[0], tick)
        lines += [line(left, y, right, y, "#ddd"), text(left - 6, y + 4, f"{tick:g}", "small", "end")]
    lines += [text(at(x, low)[0], bottom + 16, in_bytes(x), "small", "middle") for x in xs]
    for number, (label, points) in enumerate(shown.items()):
        colour = COLOURS[number % len(COLOURS)]
        dashes = "" if number < len(COLOURS) else ' stroke-dasharray="5 3"'
        path = " ".join("{:.1f},{:.1f}".format(*at(x, y)) for x, y in points)
        width = 3 if number == 0 else 1.5
        lines.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="{width}"{dashes}/>')
        y = TOP + 18 * number
        lines += [line(right + 16, y, right + 40, y, colour, width), text(right + 46, y + 4, label)]
    return drawing(title, max(bottom + 30, TOP + 18 * len(shown) + 10), lines)


def ticks(low: float, high: float, *, is_log: bool) -> list[float]:
    """Return where a scale has its marks: at each power of ten, or at about five round numbers."""
    if is_log:
        return [10.0**power for power in range(round(math.log10(low)), round(math.log10(high)) + 1)]
    step = 10 ** math.floor(math.log10(high / 5))
    step *= next(factor for factor in (1, 2, 5, 10) if high / (step * factor) <= 6)  # noqa: PLR2004
    return [step * number for number in range(int(high / step) + 1)]


def brief(value: float) -> str:
    """Return a number in two or three digits."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"  # noqa: PLR2004


def in_bytes(size: float) -> str:
    """Return a size in the unit it is read best in."""
    return f"{size / 2**20:g} MiB" if size >= 2**20 else f"{size / 2**10:g} KiB"


def drawing(title: str, height: float, lines: Iterable[str]) -> str:
    """Return lines of SVG as a whole drawing."""
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height:.0f}" role="img"'
        f' width="{WIDTH}" height="{height:.0f}">'
    )
    inside = [
        f"<title>{escape(title)}</title>",
        f"<style>{STYLE}</style>",
        '<rect width="100%" height="100%" fill="#fff"/>',
    ]
    return "\n".join([head, *inside, *lines, "</svg>", ""])


def text(x: float, y: float, words: str, kind: str = "", anchor: str = "start") -> str:
    """Return words at a place."""
    return f'<text x="{x:.1f}" y="{y:.1f}" class="{kind}" text-anchor="{anchor}">{escape(words)}</text>'


def line(x1: float, y1: float, x2: float, y2: float, colour: str, width: float = 1) -> str:
    """Return a straight line."""
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{colour}" stroke-width="{width:g}"/>'


# ---------------------------------------------------------------------- of what was measured


def of_heat(heat: Heat, results: Results) -> str:
    """Return bars of the ratios in a heat, the longest first; nothing where nothing was measured."""
    shown = []
    for one in heat.entries:
        ratios = results.ratios(one.title, [heat.reference])
        if ratios:
            colour = OURS if PEERS[one.peer].is_ours else OTHER if one.is_rival else CONTROL
            shown.append(Bar(one.title, statistics.median(ratios), min(ratios), max(ratios), colour))
    shown.sort(key=lambda bar: -bar.value)
    return bars(heat.title, f"{heat.unit} as a ratio to {heat.reference}", shown) if shown else ""


def of_sizes(heats: Sequence[tuple[Heat, Results]]) -> str:
    """Return lines of MB/s by payload, one for each library at the better of its settings at that size."""
    shown: dict[str, list[tuple[float, float]]] = {}
    for peer, about in PEERS.items():
        points = []
        for heat, results in heats:
            medians = [
                statistics.median(speeds)
                for one in heat.entries
                if one.peer == peer and (speeds := results.speeds(one.title))
            ]
            if medians:
                points.append((float(heat.name.partition("-")[2]), max(medians)))
        if points:
            shown[about.title] = points
    return (
        curves("Bytes to a worker and back", "MB/s by size of payload, each library at its best", shown)
        if shown
        else ""
    )


def draw(folder: Path, heats: Sequence[tuple[Heat, Results]]) -> list[Path]:
    """Draw all charts that there is something for, and return their files."""
    folder.mkdir(parents=True, exist_ok=True)
    drawn = {heat.name: of_heat(heat, results) for heat, results in heats if not heat.name.startswith("payloads")}
    drawn["payloads"] = of_sizes([one for one in heats if one[0].name.startswith("payloads")])
    paths = []
    for name, content in drawn.items():
        if content:
            paths.append(folder / f"{name}.svg")
            paths[-1].write_text(content, encoding="utf-8")
    return paths
