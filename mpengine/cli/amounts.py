"""Amounts as they are typed: jobs, seconds, bytes, and shares of something."""

from __future__ import annotations

import re
from typing import Final

_SECONDS: Final = {"": 1.0, "s": 1.0, "m": 60.0, "h": 3_600.0, "d": 86_400.0}
_UNITS: Final = "KMGTP"
_DURATION: Final = re.compile(r"(\d+(?:\.\d+)?)([smhd]?)", re.IGNORECASE)
_SIZE: Final = re.compile(r"(\d+(?:\.\d+)?)([KMGTP]?)(?:iB|B)?", re.IGNORECASE)
_JOBS: Final = re.compile(r"(\+|-)?(\d+(?:\.\d+)?)(%)?")
MOST_S: Final = 1_000_000.0


def seconds(text: str) -> float:
    """Return a time in seconds: ``1.5``, ``30s``, ``10m``, ``2h``, ``1d``.

    Raises:
        ValueError: it is none.
    """
    found = _DURATION.fullmatch(text)
    value = float(found[1]) * _SECONDS[found[2].lower()] if found else -1.0
    if not 0 <= value <= MOST_S:
        msg = f"{text!r} is no time: a number of seconds up to {MOST_S:,.0f}, or one with s, m, h or d behind it"
        raise ValueError(msg)
    return value


def share(text: str) -> float | None:
    """Return what a percentage is as a share; None where the text is none.

    Raises:
        ValueError: it is one that makes no sense.
    """
    if not text.endswith("%"):
        return None
    try:
        value = float(text[:-1]) / 100
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        msg = f"{text!r} is no share: a number of more than 0, and %"
        raise ValueError(msg)
    return value


def size(text: str) -> int:
    """Return a number of bytes: ``500M`` and the like, in powers of 1,024; of 1,000 with a small letter.

    Raises:
        ValueError: it is none.
    """
    found = _SIZE.fullmatch(text)
    if found is None:
        msg = f"{text!r} is no size: a number of bytes, or one with K, M, G, T or P behind it"
        raise ValueError(msg)
    unit = found[2]
    base = 1000 if unit and unit.islower() else 1024
    return int(float(found[1]) * base ** (_UNITS.index(unit.upper()) + 1 if unit else 0))


def jobs(text: str, cores: int, most: int) -> int:
    """Return how many jobs run at once: ``N``, ``N%`` of the cores, ``+N`` or ``-N`` beside them; 0: as many as can be.

    Args:
        text: what was typed.
        cores: those that this process may use.
        most: no more can be.

    Raises:
        ValueError: it is no such number.
    """
    found = _JOBS.fullmatch(text)
    value = -1.0
    if found:
        sign, number, percent = found.groups()
        value = float(number)
        if percent:
            value = -1.0 if sign else max(1.0, cores * value / 100)
        elif value % 1:
            value = -1.0
        elif sign:
            value = max(1.0, cores + value if sign == "+" else cores - value)
        elif not value:
            value = most
    if not 1 <= value <= most:
        msg = f"{text!r} is no number of jobs: N up to {most:,}, N% of the cores, +N or -N"
        raise ValueError(msg)
    return int(value)
