"""What an engine's options can be: each wrong one is one error that names the option and the value."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from mpengine.records import dataclass

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from mpengine.monitor.observing import Observer

DEFAULT_BUFFER = 16384
DEFAULT_MAX_BYTES = 1 << 30
START_METHODS = ("forkserver", "spawn", "fork")
BACKENDS = ("process", "inline", "ray")
MOST_S = 1_000_000.0
"""The longest wait, in seconds: eleven days.  Some of the system's own waits take no number above twice that."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineOptions:
    """The options of an engine that checks itself; see ``Engine`` for what they mean.

    Raises:
        ValueError: one of them is not what it can be.
    """

    workers: int | None
    start_method: str
    ordered: bool
    buffer: int | None
    grace_s: float
    crash_retries: int
    memory_limit: int | None
    max_items_per_worker: int | None
    max_bytes: int | None
    backend: str
    preload: Sequence[str]
    metrics_interval_s: float
    observers: Sequence[Observer] = ()
    keep_output: int = 0
    environ: Mapping[str, str] | None = None
    ray_options: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        """Check every option."""
        for name in ("workers", "buffer", "max_bytes", "max_items_per_worker", "memory_limit"):
            check_count(name, getattr(self, name), least=1)
        check_count("crash_retries", self.crash_retries, least=0, may_miss=False)
        check_count("keep_output", self.keep_output, least=0, may_miss=False)
        check_choice("ordered", self.ordered, (True, False))
        check_choice("start_method", self.start_method, START_METHODS)
        check_choice("backend", self.backend, BACKENDS)
        check_seconds("grace_s", self.grace_s)
        check_seconds("metrics_interval_s", self.metrics_interval_s)
        check_environ("environ", self.environ)
        check_ray_options(self.ray_options, self.backend)
        if self.backend == "ray" and self.keep_output:
            raise ValueError("keep_output does not go with backend='ray': what stages print is in Ray's logs")
        object.__setattr__(self, "preload", check_modules("preload", self.preload))
        object.__setattr__(self, "observers", check_observers("observers", self.observers))

    @property
    def items_waiting(self) -> int:
        """How many items may wait where nothing else is said."""
        return self.buffer or DEFAULT_BUFFER


def check_count(name: str, value: object, *, least: int, may_miss: bool = True) -> None:
    """Refuse what is neither a whole number of at least ``least`` nor, where that ``may_miss``, None.

    Raises:
        ValueError: it is none of these.
    """
    if value is None and may_miss:
        return
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        msg = f"{name} must be a whole number of at least {least}, not {value!r:.200}"
        raise ValueError(msg)


def check_seconds(name: str, value: object) -> float:
    """Return a number of seconds, from 0 to ``MOST_S``.

    Raises:
        ValueError: it is none.
    """
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= MOST_S:
        msg = f"{name} must be a number of seconds, from 0 to {MOST_S:,.0f}, not {value!r:.200}"
        raise ValueError(msg)
    return float(value)


def check_choice(name: str, value: object, choices: Sequence[object]) -> None:
    """Refuse what is none of ``choices``.

    Raises:
        ValueError: it is none of them.
    """
    if not any(type(value) is type(choice) and value == choice for choice in choices):
        msg = f"{name} must be one of {', '.join(map(repr, choices))}, not {value!r:.200}"
        raise ValueError(msg)


def check_modules(name: str, value: object) -> tuple[str, ...]:
    """Return names of modules as a tuple.

    Raises:
        ValueError: they are none.
    """
    names = () if isinstance(value, str) or not isinstance(value, Iterable) else tuple(value)
    if isinstance(value, str) or not isinstance(value, Iterable) or not all(map(_is_module_name, names)):
        msg = f"{name} must be a sequence of module names, not {value!r:.200}"
        raise ValueError(msg)
    return names


def check_environ(name: str, value: object) -> None:
    """Refuse what is neither None nor variables with their values.

    Raises:
        ValueError: it is neither.
    """
    if value is None or (isinstance(value, Mapping) and all(map(_is_text, (*value.keys(), *value.values())))):
        return
    msg = f"{name} must map names of variables to texts, not be {value!r:.200}"
    raise ValueError(msg)


def check_observers(name: str, value: object) -> tuple[Observer, ...]:
    """Return observers as a tuple.

    Raises:
        ValueError: they are none.
    """
    observers = tuple(value) if isinstance(value, Iterable) and not isinstance(value, str | bytes) else None
    if observers is None or not all(callable(getattr(observer, "observe", None)) for observer in observers):
        msg = f"{name} must be a sequence of objects with a method observe(records), not {value!r:.200}"
        raise ValueError(msg)
    return observers


def _is_text(value: object) -> bool:
    return isinstance(value, str) and "\0" not in value


CONNECTING = {"address": str, "namespace": str, "init": Mapping}
"""What ``ray_options`` may say of the connection, and of what kind that is."""
PER_ACTOR = {
    "num_cpus": int | float,
    "num_gpus": int | float,
    "memory": int,
    "resources": Mapping,
    "runtime_env": Mapping,
    "accelerator_type": str,
}
"""What they may say of each worker's actor."""


def check_ray_options(value: object, backend: str) -> None:
    """Refuse what is neither None nor options of the Ray backend.

    Raises:
        ValueError: it is neither, or the engine has another backend.
    """
    if value is None:
        return
    if backend != "ray":
        msg = f"ray_options go with backend='ray', not with {backend!r}"
        raise ValueError(msg)
    if not isinstance(value, Mapping):
        msg = f"ray_options must be a mapping, not {value!r:.200}"
        raise ValueError(msg)  # noqa: TRY004 - as for every option
    known = {**CONNECTING, **PER_ACTOR}
    for name, option in value.items():
        if name not in known:
            msg = f"ray_options has no {name!r:.200}; it may have {', '.join(known)}"
            raise ValueError(msg)
        kind = known[name]
        if isinstance(option, bool) or not isinstance(option, kind):
            wanted = kind.__name__.lower() if isinstance(kind, type) else "number"
            msg = f"ray_options[{name!r}] must be a {wanted}, not {option!r:.200}"
            raise ValueError(msg)  # noqa: TRY004 - the same
        if not isinstance(option, str | Mapping) and not 0 <= option < MOST_S * MOST_S:
            msg = f"ray_options[{name!r}] must be at least 0, not {option!r:.200}"
            raise ValueError(msg)
    address = value.get("address")
    if address is not None and "://" in address:
        msg = (
            f"ray_options['address'] is {address!r:.200}, but Ray's client cannot carry an engine: start the program "
            "on a machine of the cluster, with address='auto'"
        )
        raise ValueError(msg)


def _is_module_name(name: object) -> bool:
    return isinstance(name, str) and all(part.isidentifier() for part in name.split("."))
