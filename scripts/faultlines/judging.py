"""From what was seen of a cell to the words of the table."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from faultlines import items

if TYPE_CHECKING:
    from faultlines.driving import Seen


@dataclass(frozen=True)
class Books:
    """What came of the items, against a plain loop over them: numbers of items."""

    expected: int
    delivered: frozenset[int]
    lost: frozenset[int]
    doubled: int
    wrong: int
    errors: int
    named: frozenset[int]


def books(seen: Seen) -> Books:
    """Compare what was delivered with a plain loop."""
    count = items.MANY if seen.fault == items.CONSUMER_STOPS else items.ITEMS
    if seen.fault == items.SOURCE_RAISES:
        count = items.POISON
    expected = {items.plain(item): item for item in range(count)}
    values = Counter(event["value"] for event in seen.events if "value" in event)
    delivered = frozenset(item for value, item in expected.items() if value in values)
    errors = [event for event in seen.events if "error" in event]
    return Books(
        len(expected),
        delivered,
        frozenset(expected.values()) - delivered,
        sum(times - 1 for value, times in values.items() if value in expected),
        sum(value not in expected for value in values),
        len(errors),
        frozenset(event["index"] for event in errors if event["index"] is not None),
    )


def details(seen: Seen) -> dict[str, Any]:
    """Return the verdict and what it was made from, as JSON has it."""
    found, told = books(seen), asdict(seen)
    errors = [event for event in told.pop("events") if "error" in event]
    counted = {
        "delivered": len(found.delivered),
        "doubled": found.doubled,
        "wrong": found.wrong,
        "errors": found.errors,
    }
    listed = {"lost": sorted(found.lost), "named": sorted(found.named), "first errors": errors[:3]}
    return {"verdict": verdict(seen), **counted, **listed, **told}


def missing(seen: Seen) -> str | None:
    """Return why the library is not there, if so."""
    return next((event["missing"] for event in seen.events if "missing" in event), None)


def healthy(seen: Seen) -> bool:
    """Return whether a run without a fault went as a plain loop would."""
    found = books(seen)
    return _ended_well(seen) and found == Books(found.expected, found.delivered, frozenset(), 0, 0, 0, frozenset())


def verdict(seen: Seen) -> str:
    """Return the word or two for the table."""
    if missing(seen):
        return "not installed"
    if seen.fault == items.CONTROL:
        return "well" if healthy(seen) else "control run failed"
    if seen.fault in items.FROM_OUTSIDE:
        return _after_a_signal(seen)
    if not seen.ended:
        return "told, then hangs" if books(seen).errors else "hangs"
    if seen.fault == items.CONSUMER_STOPS:
        words = f"ends; {seen.calls:,} run" if _ended_well(seen) else "program fails"
    elif seen.fault == items.SOURCE_RAISES:
        found = books(seen)
        words = f"{'told' if found.errors else 'not told'}, {len(found.delivered)} kept"
    else:
        words = _fate(seen)
    return ", ".join([words, *_blemishes(seen)])


def _after_a_signal(seen: Seen) -> str:
    """Say what was left of a program that was sent a signal, and when it ended if that was its own to decide."""
    if not seen.struck:
        return "never busy"
    if not seen.ended:
        return "hangs"
    left = _left_after(seen)
    return left if seen.fault == items.PARENT_KILLED else f"{seen.seconds:.1f} s, {left}"


def _fate(seen: Seen) -> str:
    """Say what became of the run: whether it went on, and whether what it lost was told."""
    found = books(seen)
    behind = [item for item in found.delivered if item > items.POISON]
    if not found.lost:
        words = "goes on, error told all the same" if found.errors else "goes on"
    elif not found.errors:
        words = f"silent loss of {len(found.lost)}" if _came_to_its_end(seen) else "program dies"
    elif len(behind) < (found.expected - items.POISON) / 2:
        words = f"run lost, {len(found.delivered)} kept"
    elif found.lost <= found.named:
        words = f"goes on, {len(found.lost)} failed"
    elif found.lost == {items.POISON}:
        words = "goes on, 1 failed, unnamed"
    else:
        words = f"goes on, silent loss of {len(found.lost - found.named)}"
    return words


def _blemishes(seen: Seen) -> list[str]:
    """Return what else was wrong."""
    found = books(seen)
    words = []
    if found.doubled:
        words.append(f"{found.doubled} doubled")
    if found.wrong:
        words.append(f"{found.wrong} wrong")
    if left := _count(seen, -1):
        words.append(f"{left} left")
    return words


def _ended_well(seen: Seen) -> bool:
    return seen.ended and seen.status == 0 and _came_to_its_end(seen)


def _came_to_its_end(seen: Seen) -> bool:
    return any("ended" in event for event in seen.events)


def _count(seen: Seen, look: int) -> int:
    """Return how many processes of the library and of the items were left at a look."""
    return len(seen.left[look]) + seen.left_by_items[look] if seen.left else 0


def _left_after(seen: Seen) -> str:
    """Say which processes were left, at both looks where they differ."""
    looks = [f"{len(names)} + {mine}" for names, mine in zip(seen.left, seen.left_by_items, strict=True)]
    if not any(_count(seen, look) for look in range(len(looks))):
        return "none left"
    return f"{looks[0]} left" if looks[0] == looks[-1] else f"{looks[0]}, then {looks[-1]} left"
