"""Stages: frozen descriptions of one step, with nothing running behind them.

A ``Stage`` is a function and its options.  It checks itself when it is made, so that what cannot be meant is refused
where it is written.
"""

from __future__ import annotations

import functools
import importlib
import sys
import types
from collections.abc import Callable

from mpengine.errors import PipelineError
from mpengine.policies import ErrorPolicy, Retry
from mpengine.records import dataclass, field, fields

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Final, NoReturn, overload

KINDS = ("process", "thread", "async")
StageFunction = Callable[..., "Any"]


class _Skip:
    """The type of ``SKIP``; an instance of a private class can never be mistaken for somebody's value."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "SKIP"

    def __reduce__(self) -> str:
        return "SKIP"  # by name, so that there is one SKIP in every process


SKIP: Final = _Skip()
"""Returned by a stage function to filter the item out."""


class KillSwitch(Exception):  # noqa: N818 - the contract's name; it is a switch more than an error
    """Returned or raised by a stage function to cancel the whole run.

    Args:
        reason: becomes the run's reason.
    """

    def __init__(self, reason: str = "kill switch") -> None:
        """Keep ``reason``."""
        super().__init__(reason)
        self.reason = str(reason)


class WorkerState:
    """A stage's memory in one worker: it lives as long as the worker serves the run.

    Attributes:
        worker_id: the worker's slot number.
        values: everything kept, by name.
    """

    __slots__ = ("values", "worker_id")

    def __init__(self, worker_id: int = 0) -> None:
        """Start empty."""
        self.worker_id = worker_id
        self.values: dict[str, Any] = {}

    def get(self, name: str, default: Any = None) -> Any:
        """Return what is kept under ``name``, or ``default`` where nothing is."""
        return self.values.get(name, default)

    def update(self, **values: Any) -> None:
        """Keep each keyword's value under its name."""
        self.values.update(values)


@dataclass(frozen=True, eq=False, repr=False)
class Stage:
    """One step of a pipeline: a function, and how it is to be run.

    A stage stays callable (``parse("x")`` runs the function) and is never changed: using it twice is fine.

    Args:
        fn: a function of an item, a function of an item and a ``WorkerState``, a class with ``__call__`` that is
            built once in each worker, or a generator function.
        name: shown in metrics and errors; None: the function's own name.
        workers: at most so many workers run this stage; None: any worker may.
        buffer: at most so many items wait before this stage; None: the engine's default.
        batch: the function gets a list of up to so many items and returns as many results.
        retries: so many further attempts for an item that fails, or a ``Retry``.
        timeout: seconds per item and attempt.
        on_error: an ``ErrorPolicy`` or its name; None: the engine's default.
        error_handler: called in the parent with each ``ItemError`` under the ``SIDE`` policy; where it takes a second
            argument, with the source's item too.
        kind: ``"process"``, ``"thread"`` or ``"async"``.
        concurrency: how many items at once for ``async def`` and thread stages.
        setup: called with the ``WorkerState`` before the worker's first item.
        teardown: called with the ``WorkerState`` after the worker's last item.
        idempotent: whether an item may be run again after its worker died half-way.
        singly: whether a worker gets an item only when it is free for it, and never a second one: for items that take
            from milliseconds to hours, so that none waits behind another, nor its result.

    Raises:
        PipelineError: an option is not what it can be; the message names stage, option and value.
    """

    fn: StageFunction
    name: str = field(default=None, kw_only=True)  # type: ignore[assignment] # None until __post_init__
    workers: int | None = field(default=None, kw_only=True)
    buffer: int | None = field(default=None, kw_only=True)
    batch: int | None = field(default=None, kw_only=True)
    retries: int | Retry = field(default=0, kw_only=True)
    timeout: float | None = field(default=None, kw_only=True)
    on_error: ErrorPolicy | str | None = field(default=None, kw_only=True)
    error_handler: Callable[..., object] | None = field(default=None, kw_only=True)
    kind: str = field(default="process", kw_only=True)
    concurrency: int = field(default=1, kw_only=True)
    setup: Callable[[WorkerState], object] | None = field(default=None, kw_only=True)
    teardown: Callable[[WorkerState], object] | None = field(default=None, kw_only=True)
    idempotent: bool = field(default=True, kw_only=True)
    singly: bool = field(default=False, kw_only=True)

    def __post_init__(self) -> None:
        """Check every option and give the stage its name."""
        if isinstance(self.fn, Stage):
            msg = f"{self.fn.name!r} is a Stage already; use dataclasses.replace() to change its options"
            raise PipelineError(msg)
        if not callable(self.fn):
            msg = f"a stage needs something callable, not {self.fn!r}"
            raise PipelineError(msg)
        if self.name is not None and not isinstance(self.name, str):
            msg = f"stage {_name_of(self.fn)!r}: name must be a string, not {self.name!r}"
            raise PipelineError(msg)
        if not self.name:
            object.__setattr__(self, "name", _name_of(self.fn))
        self._check_options()
        try:
            object.__setattr__(self, "retries", Retry.parse(self.retries))
            if self.on_error is not None:
                object.__setattr__(self, "on_error", ErrorPolicy.parse(self.on_error))
        except PipelineError as error:
            msg = f"stage {self.name!r}: {error}"
            raise PipelineError(msg) from None
        for attribute in ("__module__", "__name__", "__qualname__", "__doc__"):
            if hasattr(self.fn, attribute):
                object.__setattr__(self, attribute, getattr(self.fn, attribute))
        object.__setattr__(self, "__wrapped__", self.fn)

    def _check_options(self) -> None:
        for option in ("workers", "buffer", "batch", "concurrency"):
            self._check_count(option, getattr(self, option))
        if self.timeout is not None and not (isinstance(self.timeout, int | float) and self.timeout > 0):
            self._refuse("timeout", "more than 0 seconds", self.timeout)
        if self.kind not in KINDS:
            self._refuse("kind", f"one of {', '.join(map(repr, KINDS))}", self.kind)
        for option in ("error_handler", "setup", "teardown"):
            value = getattr(self, option)
            if value is not None and not callable(value):
                self._refuse(option, "callable", value)

    def _check_count(self, option: str, value: object) -> None:
        if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
            self._refuse(option, "a whole number of at least 1", value)

    def _refuse(self, option: str, wanted: str, value: object) -> None:
        msg = f"stage {self.name!r}: {option} must be {wanted}, not {value!r}"
        raise PipelineError(msg)

    @property
    def retry(self) -> Retry:
        """The retries, as a ``Retry``."""
        return Retry.parse(self.retries)

    @property
    def policy(self) -> ErrorPolicy | None:
        """The error policy, or None where the engine's default holds."""
        return None if self.on_error is None else ErrorPolicy.parse(self.on_error)

    @property
    def is_class(self) -> bool:
        """Whether the function is a class that each worker builds once, since its instances are what is called.

        A class whose instances cannot be called, such as ``int``, is a function like any other: it makes its results.
        """
        return isinstance(self.fn, type) and any("__call__" in vars(kind) for kind in self.fn.__mro__)

    @property
    def is_generator(self) -> bool:
        """Whether one item may become many."""
        called = _called(self.fn)
        return _has_flag(called, _GENERATOR | _ASYNC_GENERATOR)

    @property
    def is_async(self) -> bool:
        """Whether the function is an ``async def``."""
        called = _called(self.fn)
        return _has_flag(called, _COROUTINE | _ASYNC_GENERATOR) or _is_marked(called)

    @property
    def takes_state(self) -> bool:
        """Whether the function wants the ``WorkerState`` as its second argument."""
        return _takes_state(self.fn)

    @property
    def hands_item(self) -> bool:
        """Whether the error handler wants the source's item as its second argument."""
        return self.error_handler is not None and _takes_state(self.error_handler)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the function here and now; a class is built first, a missing ``WorkerState`` is made up."""
        if self.is_class:
            return self.fn()(*args, **kwargs)
        if len(args) == 1 and not kwargs and self.takes_state:
            return self.fn(args[0], WorkerState())
        return self.fn(*args, **kwargs)

    def __rshift__(self, other: object) -> NoReturn:
        """Say how a pipeline begins."""
        msg = "a pipeline begins with its source: Pipeline(source) >> first >> second"
        raise TypeError(msg)

    __rrshift__ = __rshift__

    def __repr__(self) -> str:
        """Return the name and the options that are not at their defaults."""
        options = {f.name: getattr(self, f.name) for f in fields(self) if f.kw_only and f.name != "name"}
        defaults = {f.name: f.default for f in fields(self)} | {"retries": Retry.parse(0)}
        told = [f"{name}={value!r}" for name, value in options.items() if value != defaults[name]]
        return f"Stage({', '.join([self.name, *told])})"

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle by name where the name leads back here, so that the module's globals are not copied along."""
        where = _address_of(self)
        if where is not None:
            return _resolve, where
        options = {f.name: getattr(self, f.name) for f in fields(self) if f.kw_only}
        fn = self.fn
        # A function decorated in a module: its name there means the stage, so pickle would take the function by value.
        by_name = _address_of(fn, unwrap=True)
        return _rebuild, (None if by_name else fn, by_name, options)


def _rebuild(fn: StageFunction | None, address: tuple[str, str] | None, options: dict[str, Any]) -> Stage:
    if fn is None and address is not None:
        fn = _resolve(*address).fn
    assert fn is not None  # noqa: S101 - one of the two is always there: see Stage.__reduce__
    return Stage(fn, **options)


def _resolve(module: str, qualname: str) -> Any:
    found: Any = importlib.import_module(module)
    for part in qualname.split("."):
        found = getattr(found, part)
    return found


def _address_of(thing: object, *, unwrap: bool = False) -> tuple[str, str] | None:
    """Return (module, qualified name) when an import in a worker leads back to ``thing``."""
    module, qualname = getattr(thing, "__module__", None), getattr(thing, "__qualname__", None)
    if not isinstance(module, str) or not isinstance(qualname, str) or "<" in qualname:
        return None
    if module in ("__main__", "__mp_main__") or module not in sys.modules:
        return None
    found: Any = sys.modules[module]
    for part in qualname.split("."):
        found = getattr(found, part, None)
    if unwrap:
        found = found.fn if isinstance(found, Stage) else None
    return (module, qualname) if found is thing else None


_COROUTINE: Final = 0x80
_GENERATOR: Final = 0x20
_ASYNC_GENERATOR: Final = 0x200


def _has_flag(fn: object, flags: int) -> bool:
    """Whether the code of a function or method has one of these flags, as ``inspect`` has them."""
    code = getattr(getattr(fn, "__func__", fn), "__code__", None)
    return isinstance(code, types.CodeType) and bool(code.co_flags & flags)


def _is_marked(fn: object) -> bool:
    """Whether ``inspect.markcoroutinefunction`` was called for it, which Python 3.12 has."""
    inspect = sys.modules.get("inspect")  # whoever has called it has imported it
    return inspect is not None and inspect.iscoroutinefunction(fn)


def _takes_one(fn: StageFunction) -> bool:
    """Whether it can be told without ``inspect`` that ``fn`` takes one argument by place at most."""
    if type(fn) is types.FunctionType:
        return fn.__code__.co_argcount < 2 and not vars(fn)  # noqa: PLR2004 - item and state; a wrapper has attributes
    if type(fn) is types.BuiltinFunctionType:
        text = getattr(fn, "__text_signature__", None) or ""
        return len([name for name in text.strip("()").split(", ") if name.isidentifier()]) == 1
    return False


def _name_of(fn: StageFunction) -> str:
    while isinstance(fn, functools.partial):
        fn = fn.func
    name = getattr(fn, "__name__", None)
    return str(name) if name else type(fn).__name__


def _called(fn: StageFunction) -> StageFunction:
    """Return the function that a call of ``fn`` (or of an instance of it) ends in."""
    while isinstance(fn, functools.partial):
        fn = fn.func
    if isinstance(fn, types.FunctionType | types.MethodType | types.BuiltinFunctionType):
        return fn
    called = fn.__call__ if isinstance(fn, type) else getattr(type(fn), "__call__", fn)  # noqa: B004 - the method itself is wanted
    return called if callable(called) else fn


def _takes_state(fn: StageFunction) -> bool:
    """Whether ``fn`` has to be given a second positional argument, and calls it ``state`` or has no default for it."""
    if isinstance(fn, type):
        call = getattr(fn, "__call__", None)  # noqa: B004 - the method itself is wanted
        if not isinstance(call, types.FunctionType):
            return False
        fn = functools.partial(call, None)  # as if bound
    elif _takes_one(fn):
        return False
    import inspect  # a slow import, which simple functions can do without

    try:
        parameters = list(inspect.signature(fn).parameters.values())
    except (TypeError, ValueError):
        return False  # some C functions do not tell; they take one item
    except Exception:  # noqa: BLE001 - asking compares, which is user code in an object that can be called
        return _takes_state(functools.partial(type(fn).__call__, None))
    positional = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    if len(positional) < 2:  # noqa: PLR2004 - item and state
        return False
    second = positional[1]
    return second.default is second.empty or second.name == "state"


if TYPE_CHECKING:

    @overload
    def stage(fn: StageFunction, **options: Any) -> Stage: ...
    @overload
    def stage(fn: None = None, **options: Any) -> Callable[[StageFunction], Stage]: ...


def stage(fn: StageFunction | None = None, **options: Any) -> Stage | Callable[[StageFunction], Stage]:
    """Make a ``Stage`` of a function; a decorator, bare or with the options of ``Stage``.

    Args:
        fn: what to run for each item; None where the options come first and the function is decorated.
        options: see ``Stage``.

    Returns:
        The stage, or a decorator that makes one.

    Raises:
        PipelineError: an option is unknown or is not what it can be.
    """
    unknown = sorted(set(options) - {f.name for f in fields(Stage) if f.kw_only})
    if unknown:
        known = [f.name for f in fields(Stage) if f.kw_only]
        import difflib

        alike = [name for option in unknown for name in difflib.get_close_matches(option, known, 1)]
        hint = f"; did you mean {', '.join(map(repr, alike))}?" if alike else f"; there are {', '.join(known)}"
        msg = f"a stage has no option {', '.join(map(repr, unknown))}{hint}"
        raise PipelineError(msg)
    if fn is None:
        return lambda wrapped: Stage(wrapped, **options)
    return Stage(fn, **options)


def as_stage(member: object) -> Stage:
    """Return ``member`` as a stage.

    Raises:
        PipelineError: it is neither a stage nor callable.
    """
    if isinstance(member, Stage):
        return member
    if callable(member):
        return Stage(member)
    msg = f"a stage must be a Stage or something callable, not {member!r}"
    raise PipelineError(msg)
