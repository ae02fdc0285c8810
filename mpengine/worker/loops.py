"""Cheap items through all stages of a chain, one after the other: a loop that is written for so many stages.

A call from a loop in Python to a function in Python costs a third less than one that ``map`` makes, and a loop for all
stages looks once at an item, where one for each looks as often as there are stages.

L1. No stage is given an item twice, and what is raised is known by its stage, wherever it was raised: what each stage
    has given stands in a name of its own, which is emptied when the item is through.  A ``StopIteration`` of the user's
    is an error like others, since no iterator of ours calls a stage.
L2. An item that leaves the chain has something in its place, so that the results' number tells how far the loop is.
L3. What a stage gives is looked at by its type, and closer where that is not the last one's: ``SKIP`` goes no further,
    and a ``KillSwitch`` nowhere.
"""

from __future__ import annotations

import functools

from mpengine.stages import SKIP, KillSwitch
from mpengine.worker.chain import LEAVING, Killed

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from typing import Any, Final

    from mpengine.worker.chain import Step


class Gone:
    """Stands for the result of an item that has left the chain.

    Args:
        stage: where ``SKIP`` was given; None: it failed.
    """

    __slots__ = ("stage",)

    def __init__(self, stage: int | None) -> None:
        """Keep the stage's number."""
        self.stage = stage


NOTHING: Final = object()
LOOP: Final = "<a chain's loop>"
"""What the code of a loop has for a file, by which a frame of it is known."""

HEAD = """\
def run(items, add, gone, {parameters}):
    {emptied}
    {kinds} = None
    have_gone = False
    try:
        for v0 in items:
"""
STAGE = """\
            v{out} = f{stage}(v{stage}{state})
            if type(v{out}) is not k{stage}:
                if v{out} is SKIP:
                    have_gone = True
                    add(gone[{stage}])
                    {emptied}
                    continue
                k{stage} = kind_of(v{out})
"""
TAIL = """\
            add(v{last})
            {emptied}
    except Killed:
        raise
    except KillSwitch as switch:
        raise Killed(switch.reason) from None
    except LEAVING:
        raise
    except BaseException as error:
        return have_gone, error, ({given})
    return have_gone, None, ()
"""


def kind_of(value: object) -> type:
    """Return the type of what a stage has given.

    Raises:
        Killed: it is a ``KillSwitch``.
    """
    kind = type(value)
    if issubclass(kind, KillSwitch):
        raise Killed(value.reason)  # type: ignore[attr-defined]  # isinstance() would ask the value, which is user code
    return kind


@functools.cache
def _loop(takes_state: tuple[bool, ...]) -> Callable[..., Any]:
    """Return the loop for stages of which some take a state."""
    stages = range(len(takes_state))
    between = [f"v{stage}" for stage in stages[1:]]
    words: dict[str, Any] = {"last": len(stages)}
    words["emptied"] = " = ".join([*between, "NOTHING"]) if between else "pass"
    words["given"] = "".join(f"{name}, " for name in between)
    words["kinds"] = " = ".join(f"k{stage}" for stage in stages)
    words["parameters"] = ", ".join(f"f{stage}, s{stage}" for stage in stages)
    written = [HEAD.format(**words)]
    for stage in stages:
        state = f", s{stage}" if takes_state[stage] else ""
        written.append(STAGE.format(stage=stage, out=stage + 1, state=state, **words))
    written.append(TAIL.format(**words))
    scope = {
        "SKIP": SKIP, "NOTHING": NOTHING, "LEAVING": LEAVING, "Killed": Killed, "KillSwitch": KillSwitch,
        "kind_of": kind_of,
    }  # fmt: skip
    exec(compile("".join(written), LOOP, "exec"), scope)  # noqa: S102 - written here, of numbers alone
    run: Callable[..., Any] = scope["run"]  # type: ignore[assignment]
    return run


class Loop:
    """Takes items through stages.

    Args:
        steps: the stages.
    """

    def __init__(self, steps: Sequence[Step]) -> None:
        """Write it, unless one for as many stages was written before."""
        self._run = _loop(tuple(bool(step.extra) for step in steps))
        self._called = [part for step in steps for part in (step.function, *(step.extra or (None,)))]
        self._gone = [Gone(stage) for stage in range(len(steps))]

    def run(self, items: Iterator[Any], results: list[Any]) -> tuple[bool, BaseException | None, int, object]:
        """Go on to the end, or to an error.

        Args:
            items: can be gone on with after an error.
            results: what comes out is added; a ``Gone`` for an item that was skipped.

        Returns:
            Whether any was skipped; the error, or None; the stage that raised it; and what that was given, ``NOTHING``
            where it is the item itself, which may not even have been taken from ``items``.

        Raises:
            Killed: a stage gave or raised a ``KillSwitch``.
            BaseException: a stage raised what ends its process.
        """
        have_gone, error, given = self._run(items, results.append, self._gone, *self._called)
        stage, value = 0, NOTHING
        for number, one in enumerate(given, 1):
            # A signal's handler may raise before what was given is looked at: then whoever gave that has failed.
            if one is NOTHING or one is SKIP or issubclass(type(one), KillSwitch):
                break
            stage, value = number, one
        return have_gone, error, stage, value
