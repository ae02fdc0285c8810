"""Mixes: several functions for each item at the same time, and what they give put together again.

A ``Mix`` is a frozen description, as a ``Stage`` is; what runs where is decided in ``plan``.
"""

from __future__ import annotations

import types
from collections.abc import Callable, Sequence

from mpengine.errors import PipelineError
from mpengine.records import dataclass
from mpengine.stages import SKIP, Stage, StageFunction, as_stage, stage

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, overload

_FOR_MERGE = ("on_error", "error_handler")


def as_list(results: list[Any]) -> list[Any]:
    """Return the results as they are: what a mix without ``merge`` gives on."""
    return results


@dataclass(frozen=True, eq=False, repr=False)
class Mix:
    """Stages that each item goes through side by side, and a stage that puts their results together.

    A mix stays callable: ``analyse(item)`` calls one function after the other, then ``merge``.

    Attributes:
        branches: at least one; each gives one result for an item.
        merge: gets the list of the results, in the order of the branches.
    """

    branches: tuple[Stage, ...]
    merge: Stage

    def __post_init__(self) -> None:
        """Refuse what cannot be put together again."""
        if not self.branches:
            msg = "a mix needs at least one function"
            raise PipelineError(msg)
        for branch in self.branches:
            if branch.is_generator:
                msg = f"stage {branch.name!r} is a generator; a function of a mix gives one result for an item"
                raise PipelineError(msg)
        if self.merge.is_generator:
            msg = f"merge={self.merge.name!r} is a generator; put it behind the mix as a stage of its own"
            raise PipelineError(msg)

    @property
    def name(self) -> str:
        """The name of its merging stage."""
        return self.merge.name

    def __call__(self, item: Any) -> Any:
        """Call the functions one after the other, here and now, and put their results together."""
        results = [branch(item) for branch in self.branches]
        return SKIP if any(result is SKIP for result in results) else self.merge(results)

    def __repr__(self) -> str:
        """Return the names of what is mixed."""
        return f"Mix({', '.join(branch.name for branch in self.branches)}, merge={self.merge.name})"


if TYPE_CHECKING:

    @overload
    def mix(fn: StageFunction, /, *fns: StageFunction, merge: StageFunction | None = None, **options: Any) -> Mix: ...
    @overload
    def mix(
        *, merge: StageFunction | None = None, **options: Any
    ) -> Callable[[Callable[[], Sequence[StageFunction]]], Mix]: ...


def mix(
    *fns: StageFunction, merge: StageFunction | None = None, name: str | None = None, **options: Any
) -> Mix | Callable[[Callable[[], Sequence[StageFunction]]], Mix]:
    """Make a ``Mix``: each item goes to every function at the same time, on different workers where there are any.

    As a decorator, ``@mix(merge=...)``, of a function without arguments that returns a list of functions.

    Args:
        fns: the functions, or stages with options of their own.
        merge: gets the list of their results, in that order, and gives what goes on; without it the list goes on.
        name: of the stage that merges; the names of the functions by default.
        options: see ``Stage``; for the functions that are no stages yet.  ``on_error`` and ``error_handler`` hold for
            ``merge`` too.

    Raises:
        PipelineError: there is no function, one of them is a generator or a mix, or an option is not what it can be.
    """
    if not fns:
        return lambda builder: _build(builder, merge, name, options)
    if len(fns) == 1 and merge is None and _is_builder(fns[0]):
        return _build(fns[0], merge, name, options)
    return _mixed(fns, merge, name, options)


def _is_builder(fn: object) -> bool:
    """Whether ``fn`` is a function without arguments, which cannot be meant to get an item."""
    if not isinstance(fn, types.FunctionType):
        return False
    import inspect  # a slow import, of which stages that are no mix need not know

    return not inspect.signature(fn).parameters


def _build(builder: Callable[[], Any], merge: StageFunction | None, name: str | None, options: dict[str, Any]) -> Mix:
    if not _is_builder(builder):
        msg = f"@mix(...) decorates a function without arguments that returns a list of functions, not {builder!r:.200}"
        raise PipelineError(msg)
    fns = builder()
    if not isinstance(fns, Sequence) or isinstance(fns, str):
        msg = f"{builder.__name__}() must return a list of functions, not {fns!r:.200}"
        raise PipelineError(msg)
    return _mixed(fns, merge, name or builder.__name__, options)


def _mixed(fns: Sequence[Any], merge: StageFunction | None, name: str | None, options: dict[str, Any]) -> Mix:
    for fn in (*fns, merge):
        if isinstance(fn, Mix):
            where = "put it behind this one" if fn is merge else "a mix of all the functions does the same"
            msg = f"{fn!r} is a mix already; {where}"
            raise PipelineError(msg)
    branches = tuple(fn if isinstance(fn, Stage) else stage(fn, **options) for fn in fns)
    if isinstance(merge, Stage):
        return Mix(branches, merge)
    called = name or (f"mix({', '.join(branch.name for branch in branches)})" if merge is None else "")
    kept = {option: value for option, value in options.items() if option in _FOR_MERGE}
    return Mix(branches, stage(merge or as_list, name=called, **kept))


def as_member(member: object) -> Stage | Mix:
    """Return ``member`` of a pipeline as a stage or a mix.

    Raises:
        PipelineError: it is neither, nor callable.
    """
    return member if isinstance(member, Mix) else as_stage(member)
