"""What a run has to have given, and what it did wrong: plain comparisons of values, with no process behind them.

Values know which item of the source they come from, so they are compared item by item.

J1. What came out is what the reference gives, as a whole or, where the run was ended early, as far as it went.
J2. In order, where that is asked for.
J3. Nothing else fails than what fails in the reference, and of the same.
J4. Only where a stage must not run twice may a blow make an item fail, and its error says so.
J5. No item is noted twice by a stage that must not run twice; what came out of one was noted.
J6. The books: each stage has processed what it succeeded, failed and skipped; each item of the source is one thing.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from mpengine import ItemError
from mpengine.errors import InternalError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from mpengine import Snapshot

LOST, DOUBLED, REORDERED, WRONG, TWICE, BOOKS, ENDING, LEFTOVER, HANG, CRASH = KINDS = (
    "lost", "doubled", "reordered", "wrong", "run twice", "books", "ending", "left behind", "hang", "crash",
)  # fmt: skip

_DIED = ("SIGKILL", "SIGSEGV", "SIGABRT", "os._exit", "sys.exit")
_ONCE = "not to be run twice"
_SHOWN = 5
_MOST_ERRORS = 1000


@dataclass(frozen=True)
class Fault:
    """Something that went wrong.

    Attributes:
        kind: one of ``KINDS``.
        text: what.
    """

    kind: str
    text: str


@dataclass
class Outcome:
    """How a run, or its reference, has ended.

    Attributes:
        values: what came out.
        errors: what has failed, from the report.
        handled: what went aside.
        snapshot: the figures at the end.
        reason: why it was cancelled; None: it was not.
        cause: the exception behind it.
        notes: executions of stages that must not run twice: a stage and a path each.
    """

    values: list[Any]
    errors: list[ItemError]
    handled: list[tuple[str, int]]
    snapshot: Snapshot
    reason: str | None = None
    cause: BaseException | None = None
    notes: list[tuple[str, tuple[int, ...]]] = field(default_factory=list)


@dataclass(frozen=True)
class Terms:
    """What a run may do.

    Attributes:
        ordered: whether values have to come in order.
        length: how many items the source has.
        may_interrupt: whether a blow may make an item fail (J4).
        raising: the stages whose errors end the run.
        stopping: reasons with which the run may have been ended by its consumer.
        fans_out: whether one item may become many.
        noted: the stages that must not run twice.
    """

    ordered: bool
    length: int
    may_interrupt: bool = False
    raising: tuple[str, ...] = ()
    stopping: tuple[str, ...] = ()
    fans_out: bool = False
    noted: tuple[str, ...] = ()


def judge(terms: Terms, reference: Outcome, outcome: Outcome) -> list[Fault]:
    """Return what is wrong with ``outcome``; nothing when all is well."""
    faults = _judge_ending(terms, reference, outcome)
    is_whole = outcome.reason is None
    extra, more_faults = _judge_errors(terms, reference, outcome, is_whole=is_whole)
    faults += more_faults
    faults += _judge_values(terms, reference, outcome, extra, is_whole=is_whole)
    faults += _judge_notes(terms, outcome)
    return faults + _judge_books(terms, reference, outcome, extra, is_whole=is_whole)


def kind_of(error: ItemError) -> str:
    """Return what an item has failed of, alike in the reference and in earnest."""
    kind, text = type(error.error).__name__, str(error.error)
    if kind != "Poisoned":
        return kind
    if text in _DIED:
        return "WorkerDiedError"
    return "ValueError" if text == "raises" else "ItemTimeoutError"


def _key(value: Any) -> tuple[Any, ...]:
    if isinstance(value, ItemError):
        return (value.index, "error", value.stage)
    path, number, ballast = value
    return (path[0], path, number, ballast.checksum())


def _keys(values: Iterable[Any]) -> list[tuple[Any, ...]]:
    return [_key(value) for value in values]


def _show(things: Iterable[Any]) -> str:
    shown = list(things)
    more = f" and {len(shown) - _SHOWN} more" if len(shown) > _SHOWN else ""
    return ", ".join(map(str, shown[:_SHOWN])) + more


# ---------------------------------------------------------------------- the ending


def _judge_ending(terms: Terms, reference: Outcome, outcome: Outcome) -> list[Fault]:
    raised = [error for error in reference.errors if error.stage in terms.raising]
    if isinstance(outcome.cause, InternalError):
        return [Fault(BOOKS, f"{outcome.cause}")]
    if outcome.reason is None:
        return [Fault(ENDING, f"ended well, though {raised[0]} should have ended it")] if raised else []
    if outcome.reason in terms.stopping and outcome.cause is None:
        return []
    if raised and any(f"failed on item {error.index}" in outcome.reason for error in raised):
        return []
    return [Fault(ENDING, f"ended with {outcome.reason!r}, caused by {outcome.cause!r}")]


# ---------------------------------------------------------------------- errors


def _judge_errors(
    terms: Terms, reference: Outcome, outcome: Outcome, *, is_whole: bool
) -> tuple[set[int], list[Fault]]:
    """Compare what has failed; returns the items that a blow has interrupted, and the faults (J3, J4)."""
    expected = Counter((error.index, error.stage, kind_of(error)) for error in reference.errors)
    found = Counter((error.index, error.stage, kind_of(error)) for error in outcome.errors)
    surplus = found - expected
    told = {(error.index, error.stage): error for error in outcome.errors}
    extra, faults = set(), []
    for index, stage, kind in surplus:
        error = told[index, stage]
        if terms.may_interrupt and kind == "WorkerDiedError" and _ONCE in str(error.error):
            extra.add(index)
        else:
            faults.append(Fault(WRONG, f"should not have failed: {error}"))
    if is_whole and len(outcome.errors) < _MOST_ERRORS:
        missing = [key for key in expected - found if key[0] not in extra]
        if missing:
            faults.append(Fault(WRONG, f"should have failed: {_show(missing)}"))
    aside = Counter(outcome.handled) - Counter((error.stage, error.index) for error in outcome.errors)
    if aside and len(outcome.errors) < _MOST_ERRORS:
        faults.append(Fault(WRONG, f"the handler got what has not failed: {_show(aside)}"))
    if is_whole:
        missed = Counter(reference.handled) - Counter(outcome.handled)
        missed_keys = [key for key in missed if key[1] not in extra]
        if missed_keys:
            faults.append(Fault(WRONG, f"the handler never got {_show(missed_keys)}"))
    return extra, faults


# ---------------------------------------------------------------------- values


def _judge_values(
    terms: Terms, reference: Outcome, outcome: Outcome, extra: set[int], *, is_whole: bool
) -> list[Fault]:
    """Compare what came out, item by item (J1, J2)."""
    keys, expected = _keys(outcome.values), _keys(reference.values)
    came, known = Counter(keys), Counter(expected)
    faults = []
    doubled = [key for key in came if key in known and came[key] > known[key]]
    if doubled:
        faults.append(Fault(DOUBLED, f"{len(doubled)} values came too often: {_show(doubled)}"))
    foreign = [key for key in keys if key not in known and not (key[0] in extra and key[1] == "error")]
    if foreign:
        faults.append(Fault(WRONG, f"{len(foreign)} values are not what they should be: {_show(foreign)}"))
    last = max((key[0] for key in keys), default=-1)
    lost = [key for key in known if came[key] < known[key] and key[0] not in extra]
    if not is_whole:  # of a run that was ended early, what lies before the last item that it came to
        lost = [key for key in lost if key[0] < last] if terms.ordered else []
    if lost:
        faults.append(Fault(LOST, f"{len(lost)} values did not come: {_show(lost)}"))
    if terms.ordered and not doubled:
        got = [key for key in keys if key in known]
        left = Counter(came)
        wanted = [key for key in expected if left[key] > 0 and not left.subtract([key])]
        indices = [key[0] for key in keys]
        if wanted[: len(got)] != got or indices != sorted(indices):
            faults.append(Fault(REORDERED, f"not in order, first at {_first_difference(wanted, got)}"))
    return faults


def _first_difference(wanted: Sequence[object], got: Sequence[object]) -> str:
    for one, other in zip(wanted, got, strict=False):
        if one != other:
            return f"{other}, where {one} should be"
    return "its end"


# ---------------------------------------------------------------------- executions


def _judge_notes(terms: Terms, outcome: Outcome) -> list[Fault]:
    """See that nothing ran twice, and that what came out did run (J5)."""
    counted = Counter(outcome.notes)
    twice = [note for note, count in counted.items() if count > 1]
    faults = [Fault(TWICE, f"{len(twice)} executions more than one: {_show(twice)}")] if twice else []
    ran = defaultdict(set)
    for stage, path in counted:
        ran[stage].add(path[0])
    for stage in terms.noted:
        skipped = [value for value in outcome.values if not isinstance(value, ItemError)]
        unseen = {value[0][0] for value in skipped} - ran[stage]
        if unseen:
            faults.append(Fault(WRONG, f"came out of {stage} without having run: {_show(sorted(unseen))}"))
    return faults


# ---------------------------------------------------------------------- books


def _judge_books(terms: Terms, reference: Outcome, outcome: Outcome, extra: set[int], *, is_whole: bool) -> list[Fault]:
    """Hold the figures against each other and against the reference's (J6)."""
    snapshot = outcome.snapshot
    faults = [
        f"{book.name}: {book.processed} processed, {book}"
        for book in snapshot.stages
        if book.processed != book.succeeded + book.failed + book.skipped
    ]
    ends = snapshot.filtered + snapshot.dropped + snapshot.failed + snapshot.cancelled
    if not terms.fans_out and snapshot.source_items != snapshot.delivered + ends:
        faults.append(f"{snapshot.source_items} source items, but {snapshot.delivered} delivered and {ends} others")
    if is_whole:
        faults += _judge_whole_books(terms, reference, outcome, extra)
    return [Fault(BOOKS, text) for text in faults]


def _judge_whole_books(terms: Terms, reference: Outcome, outcome: Outcome, extra: set[int]) -> list[str]:
    snapshot = outcome.snapshot
    faults = []
    if snapshot.source_items != terms.length:
        faults.append(f"{snapshot.source_items} source items instead of {terms.length}")
    if snapshot.delivered != len(outcome.values):
        faults.append(f"{snapshot.delivered} told as delivered, {len(outcome.values)} came")
    if snapshot.failed or snapshot.cancelled:
        faults.append(f"{snapshot.failed} failed and {snapshot.cancelled} cancelled, in a run that ended well")
    if not extra:
        faults += [
            f"{book.name}: {_figures(book)} instead of {_figures(wanted)}"
            for book, wanted in zip(snapshot.stages, reference.snapshot.stages, strict=True)
            if _figures(book) != _figures(wanted)
        ]
    return faults


def _figures(book: Any) -> dict[str, int]:
    names = ("processed", "succeeded", "failed", "skipped", "dropped", "emitted_errors")
    return {name: getattr(book, name) for name in names}
