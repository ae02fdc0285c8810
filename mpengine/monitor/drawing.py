"""Drawings of a report's page, as SVG that stands in the page: bars, histograms, a course.

W1. No drawing says what the page does not say in words or in a table as well; each has a title for those who hear it.
W2. Colours are the page's variables, so that they are right by day and by night.
"""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING, Final

from mpengine.metrics import BOUNDS_S

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

WIDTH: Final = 360
HEIGHT: Final = 130
BASE: Final = 104
"""Where bars stand; below it is what is written."""


def seconds_text(seconds: float) -> str:
    """Return a time in the unit that suits it."""
    for unit, size in (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6), ("ns", 1e-9)):
        if seconds >= size or unit == "ns":
            return f"{seconds / size:,.3g} {unit}" if seconds < 1000 * size else f"{seconds / size:,.0f} {unit}"
    raise AssertionError


def share_bar(shares: Sequence[tuple[str, float, str]], title: str) -> str:
    """Return one bar that is divided; each share is a name, a fraction of 1, and a colour's class."""
    parts, left = [], 0.0
    for name, share, colour in shares:
        width = max(0.0, min(share, 1.0 - left)) * 100
        parts.append(
            f'<rect class="{colour}" x="{left * 100:.3f}" y="0" width="{width:.3f}" height="6">'
            f"<title>{escape(name)}: {share:.1%}</title></rect>"
        )
        left += width / 100
    return (
        f'<svg class="bar" viewBox="0 0 100 6" preserveAspectRatio="none" role="img" aria-label="{escape(title)}">'
        f"<title>{escape(title)}</title>{''.join(parts)}</svg>"
    )


def histogram(times: Mapping[int, int], title: str) -> str:
    """Return how many items fell into which bin."""
    first, last = min(times), max(times)
    middle = 10 - (last - first)  # a few bins alone would be as wide as a wall
    if middle > 0:
        first, last = max(0, first - middle // 2), min(len(BOUNDS_S), last + middle - middle // 2)
    most = max(times.values())
    step = WIDTH / (last - first + 1)
    bars = []
    for place in range(first, last + 1):
        items = times.get(place, 0)
        if items:
            height = max(1.5, items / most * (BASE - 18))
            x = (place - first) * step
            bars.append(
                f'<rect class="c0" x="{x + 0.5:.1f}" y="{BASE - height:.1f}" width="{max(1.0, step - 1):.1f}"'
                f' height="{height:.1f}"><title>{range_text(place)}: {items:,}</title></rect>'
            )
    marks = []
    for place in range(first, last + 1):
        decade = place > 0 and place % 6 == 1  # the bin behind a power of ten
        if decade:
            x = (place - first) * step
            anchor = "start" if x < WIDTH - 40 else "end"
            marks.append(
                f'<line class="rule" x1="{x:.1f}" y1="14" x2="{x:.1f}" y2="{BASE + 4}"/>'
                f'<text x="{x + (2 if anchor == "start" else -2):.1f}" y="{BASE + 16}" text-anchor="{anchor}">'
                f"{seconds_text(BOUNDS_S[place - 1])}</text>"
            )
    return (
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title)}"><title>{escape(title)}</title>'
        f'{"".join(marks)}{"".join(bars)}<line class="axis" x1="0" y1="{BASE}" x2="{WIDTH}" y2="{BASE}"/>'
        f'<text x="0" y="10">{most:,} at most</text></svg>'
    )


def range_text(place: int) -> str:
    """Return what times a bin is for."""
    if place == 0:
        return f"up to {seconds_text(BOUNDS_S[0])}"
    if place == len(BOUNDS_S):
        return f"over {seconds_text(BOUNDS_S[-1])}"
    return f"{seconds_text(BOUNDS_S[place - 1])} to {seconds_text(BOUNDS_S[place])}"


def quantile(times: Mapping[int, int], share: float) -> float:
    """Return a time, in seconds, that so large a share of the items did not exceed, as exact as the bins are."""
    wanted = share * sum(times.values())
    for place in sorted(times):
        wanted -= times[place]
        if wanted <= 0:
            return BOUNDS_S[min(place, len(BOUNDS_S) - 1)]
    return BOUNDS_S[-1]


def course(points: Sequence[tuple[float, float]], title: str, unit: str) -> str:
    """Return a line through points of seconds and something else."""
    until = max(at for at, _ in points) or 1.0
    most = max(value for _, value in points) or 1.0
    line = " ".join(
        f"{at / until * WIDTH:.1f},{BASE - max(0.0, value) / most * (BASE - 18):.1f}" for at, value in points
    )
    return (
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title)}"><title>{escape(title)}</title>'
        f'<polyline class="line" points="{line}"/>'
        f'<line class="axis" x1="0" y1="{BASE}" x2="{WIDTH}" y2="{BASE}"/>'
        f'<text x="0" y="10">{most:,.4g} {escape(unit)} at most</text><text x="0" y="{BASE + 16}">0 s</text>'
        f'<text x="{WIDTH}" y="{BASE + 16}" text-anchor="end">{seconds_text(until)}</text></svg>'
    )
