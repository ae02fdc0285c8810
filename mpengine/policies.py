"""What happens to an item that fails: error policies and retries, as frozen values that check themselves."""

from __future__ import annotations

import enum
import math
from collections.abc import Iterable

from mpengine.errors import PipelineError
from mpengine.records import dataclass


class ErrorPolicy(enum.Enum):
    """What becomes of an item that has failed for good."""

    RAISE = "raise"
    """The run is cancelled; the result is ``Err`` with the original exception as its cause."""
    DROP = "drop"
    """The item is counted, logged at a limited rate and kept in ``report.errors``; the run goes on."""
    EMIT = "emit"
    """An ``ItemError`` takes the item's place downstream."""
    SIDE = "side"
    """The stage's ``error_handler`` gets the ``ItemError``; then as ``DROP``."""

    @classmethod
    def parse(cls, value: ErrorPolicy | str) -> ErrorPolicy:
        """Return the policy that ``value`` names.

        Args:
            value: a policy, or its lower-case name.

        Raises:
            PipelineError: ``value`` names no policy.
        """
        if isinstance(value, cls):
            return value
        for policy in cls:
            if policy.value == value:
                return policy
        names = ", ".join(repr(policy.value) for policy in cls)
        msg = f"on_error must be an ErrorPolicy or one of {names}, not {value!r}"
        raise PipelineError(msg)


@dataclass(frozen=True, slots=True)
class Retry:
    """How often, and how patiently, a failing item is tried again.

    Attributes:
        attempts: further attempts after the first.
        backoff_s: seconds before the first retry; 0 retries at once.
        factor: each further wait is the last one times this.
        max_s: no wait is longer than this many seconds.
        jitter: share of each wait, 0 to 1, that is drawn at random.
        on: exception types that are worth another attempt; anything else fails at once.
    """

    attempts: int = 1
    backoff_s: float = 0.0
    factor: float = 2.0
    max_s: float = 60.0
    jitter: float = 0.0
    on: tuple[type[BaseException], ...] = (Exception,)

    def __post_init__(self) -> None:
        """Refuse what cannot be meant."""
        if isinstance(self.attempts, bool) or not isinstance(self.attempts, int) or self.attempts < 0:
            msg = f"retries must be a whole number of at least 0, not {self.attempts!r}"
            raise PipelineError(msg)
        for name in ("backoff_s", "factor", "max_s", "jitter"):
            value = getattr(self, name)
            least, most = _BOUNDS[name]
            if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value <= most:
                limit = f"at least {least}" if most == math.inf else f"from {least} to {most}"
                msg = f"Retry({name}=...) must be a number {limit}, not {value!r}"
                raise PipelineError(msg)
        kinds = (self.on,) if isinstance(self.on, type) else self.on
        if not isinstance(kinds, Iterable) or not all(map(_is_exception_type, kinds := tuple(kinds))):
            msg = f"Retry(on=...) must name exception types, not {self.on!r}"
            raise PipelineError(msg)
        object.__setattr__(self, "on", kinds)

    @classmethod
    def parse(cls, value: Retry | int) -> Retry:
        """Return ``value`` as a ``Retry``; a number means so many further attempts, at once.

        Raises:
            PipelineError: ``value`` is neither.
        """
        if isinstance(value, cls):
            return value
        if isinstance(value, int):
            return cls(attempts=value)
        msg = f"retries must be a number or a Retry, not {value!r}"
        raise PipelineError(msg)

    def is_worth_it(self, error: BaseException, attempts: int) -> bool:
        """Whether ``error``, met in attempt number ``attempts`` (from 1), is followed by another attempt."""
        return attempts <= self.attempts and issubclass(type(error), self.on)  # isinstance() would ask the error

    def wait_s(self, attempts: int, drawn: float = 0.0) -> float:
        """Return the seconds to wait after attempt number ``attempts`` (from 1).

        Args:
            attempts: how many attempts there were.
            drawn: a number from 0 to 1; the caller draws it, so that this stays a pure function.
        """
        try:
            wait_s = min(self.max_s, self.backoff_s * self.factor ** (attempts - 1))
        except OverflowError:
            wait_s = self.max_s if self.backoff_s else 0.0
        return wait_s * (1 - self.jitter * drawn)


def _is_exception_type(kind: object) -> bool:
    return isinstance(kind, type) and issubclass(kind, BaseException)


_BOUNDS = {"backoff_s": (0, math.inf), "factor": (1, math.inf), "max_s": (0, math.inf), "jitter": (0, 1)}
