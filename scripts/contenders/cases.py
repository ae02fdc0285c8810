"""What is measured, who takes part, and the targets.

A case is one or more heats.  In a heat all contenders do the same job, or one of several jobs in each round, and take
turns; a target is the ratio of one contender to the best of some others in the same round.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from contenders import field as contenders
from contenders import jobs
from contenders.field import BARE, PEERS, Entry

if TYPE_CHECKING:
    from collections.abc import Callable


@dataclass(frozen=True)
class Target:
    """What is to be reached: ``ours`` at least so many times the best of ``of``."""

    words: str
    at_least: float
    of: tuple[str, ...]
    ours: str = "mpengine"


@dataclass(frozen=True)
class Heat:
    """Contenders at the same work.

    Attributes:
        name: the case, and which part of it.
        title: for people.
        work: the jobs, one for each round, and how many items they have.
        entries: who takes part.
        reference: the title of the one that ratios are taken to.
        targets: what is to be reached.
        unit: of the figures: ``items/s`` or ``MB/s``.
        warm_up: how many items at most are done before it is measured.
        note: what there is to know.
    """

    name: str
    title: str
    work: tuple[tuple[str, int], ...]
    entries: tuple[Entry, ...]
    reference: str
    targets: tuple[Target, ...] = ()
    unit: str = "items/s"
    warm_up: int = 20
    note: str = ""


def titles(entries: list[Entry], choose: Callable[[Entry], bool] = lambda one: one.is_rival) -> tuple[str, ...]:
    """Return the titles of some of the contenders: of all rivals, unless told."""
    return tuple(one.title for one in entries if choose(one))


def of_peer(peer: str) -> Callable[[Entry], bool]:
    """Return what chooses the rivals of one library."""
    return lambda one: one.peer == peer and one.is_rival


def is_default(one: Entry) -> bool:
    """Return whether a contender is told nothing."""
    return not one.setting


# ---------------------------------------------------------------------- the cases


def trivial(*, quick: bool) -> list[Heat]:
    """Measure x + 1: what an item costs when it costs nothing."""
    count = 50_000 if quick else 1_000_000
    entries = contenders.trivial()
    chunked = titles(entries, lambda one: one.peer == "pool" and "a chunk" in one.setting)
    executor = titles(entries, lambda one: one.peer == "executor" and is_default(one))
    targets = (
        Target("Pool.imap at its best chunk size", 1.2, chunked),
        Target("ProcessPoolExecutor.map at its default", 100, executor),
        Target("the best peer at its best setting", 1.0, titles(entries)),
    )
    title = f"x + 1 over {count:,} ints"
    return [Heat("trivial", title, (("single", count),), tuple(entries), chunked[2], targets, warm_up=count // 20)]


def one_by_one(*, quick: bool) -> list[Heat]:
    """Measure x + 1 where each item is sent by itself."""
    count = 500 if quick else 20_000
    entries = contenders.one_by_one()
    pool = titles(entries, of_peer("pool"))
    targets = tuple(Target("Pool.imap, one a chunk", 1.5, pool, one.title) for one in entries if one.peer == "mpengine")
    title = f"x + 1 over {count:,} ints, one at a time"
    note = (
        "``batch=1`` has the function called with lists of one item, which still travel together; ``buffer=1`` lets"
        " one item wait, so that they do not; ``MAX_BATCH = 1`` is a change of the scheduler that sends each item by"
        " itself and changes nothing else, for comparison: there is no option for it."
    )
    return [Heat("one_by_one", title, (("single", count),), tuple(entries), pool[0], targets, note=note)]


def three(*, quick: bool) -> list[Heat]:
    """Measure three trivial stages."""
    count = 50_000 if quick else 1_000_000
    entries = contenders.three()
    by_hand = titles(entries, lambda one: one.peer == "pool" and one.is_control)
    targets = (
        Target("the best peer at its best setting", 2.0, titles(entries)),
        Target("pypeln", 1000, titles(entries, of_peer("pypeln"))),
        Target("pipevine", 1000, titles(entries, of_peer("pipevine"))),
        Target("Pool.imap, fused by hand", 1.0, by_hand),
    )
    title = f"Three stages of x + 1 over {count:,} ints"
    note = "What is fused by hand is shown for comparison: it is one function, not three stages."
    return [
        Heat("three", title, (("three", count),), tuple(entries), by_hand[0], targets, warm_up=count // 20, note=note)
    ]


def cpu(*, quick: bool) -> list[Heat]:
    """Measure a pipeline of 1 : 4 : 0.5 ms."""
    count = 40 if quick else 400
    entries = contenders.cpu()
    title = f"Stages of 1 : 4 : 0.5 ms, {count:,} items"
    return [Heat("cpu", title, (("cpu", count),), tuple(entries), BARE.title, _slow_targets(entries))]


def profiles(*, quick: bool) -> list[Heat]:
    """Measure pipelines of random costs."""
    entries = contenders.profiles()
    work = []
    for number in range(2 if quick else jobs.PROFILES):
        seconds = 0.05 if quick else 1.0
        work.append((f"profile-{number}", round(2 * seconds * 1000 / sum(jobs.profile(number)))))
    title = f"{len(work)} random profiles: 2 to 4 stages of 0.1 to 8 ms, a second of work each"
    return [Heat("profiles", title, tuple(work), tuple(entries), BARE.title, _slow_targets(entries))]


def _slow_targets(entries: list[Entry]) -> tuple[Target, ...]:
    mapped = titles(entries, lambda one: one.peer == "pool" and one.options.get("method") == "map")
    return (
        Target("bare processes without transport", 0.97, (BARE.title,)),
        Target("Pool.map over the stages fused by hand", 1.0, mapped),
        Target("the best peer at its best setting", 1.0, titles(entries)),
    )


def arrays(*, quick: bool) -> list[Heat]:
    """Measure arrays of 8 MB that go from stage to stage."""
    count = 6 if quick else 200
    entries = contenders.arrays()
    ours = entries[0].title
    targets = (
        Target("the best peer at its best setting", 5.0, titles(entries), ours),
        Target("Pool.imap", 20.0, titles(entries, of_peer("pool")), ours),
        Target("bare processes without transport", 0.9, (BARE.title,), ours),
    )
    title = f"{count} arrays of 8 MB through x * 2.0 and then x + 1.0"
    note = (
        "The source makes each array; the consumer reads one number of each result and lets it go.  With mpengine the"
        " second stage has ``workers=2``, so that it is not fused with the first.  Those that are slow got fewer items."
    )
    return [Heat("arrays", title, (("arrays", count),), tuple(entries), BARE.title, targets, "MB/s", 4, note)]


SIZES = (1024, 16 << 10, 128 << 10, 1 << 20, 8 << 20, 64 << 20)


def payloads(*, quick: bool) -> list[Heat]:
    """Measure bytes of 1 kB to 64 MB that go to a worker and come back."""
    heats = []
    for size in (1024, 1 << 20) if quick else SIZES:
        count = max(8, min(20_000, (4 << 20 if quick else 512 << 20) // size))
        chunk = max(1, min(256, (1 << 20) // size))
        entries = contenders.payloads(size, chunk)
        pool = titles(entries, of_peer("pool"))
        targets = (Target("the best peer at its best setting", 1.0, titles(entries)),)
        title = f"Payloads of {size // 1024:,} KiB, there and back"
        work = ((f"payloads-{size}", count),)
        note = "MB/s count each payload once."
        heats.append(Heat(f"payloads-{size}", title, work, tuple(entries), pool[0], targets, "MB/s", 8, note))
    return heats


CASES: dict[str, Callable[..., list[Heat]]] = {
    case.__name__: case for case in (trivial, one_by_one, three, cpu, profiles, arrays, payloads)
}


def taking_part(heat: Heat, peers: list[str]) -> list[Entry]:
    """Return the contenders of these libraries; mpengine and the reference are always among them."""
    chosen = [
        one for one in heat.entries if one.peer in peers or PEERS[one.peer].is_ours or one.title == heat.reference
    ]
    return [one for one in chosen if PEERS[one.peer].is_here()]
