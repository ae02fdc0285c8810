"""The tables of a soak, to be shown and to be written between two marks of a page."""

from __future__ import annotations

import platform
from typing import TYPE_CHECKING

from measuring import CORES, Table, put_between

from soaking import judging

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from soaking.supervising import Sum

BEGIN, END = ".. begin: the soak's figures", ".. end: the soak's figures"


def table_of(total: Sum) -> Table:
    """Return what all recipes came to, and what went wrong."""
    dealt = total.dealt
    rows = [
        ["engines", f"{total.recipes:,}"],
        ["runs", f"{total.runs:,}"],
        ["items read from sources", f"{total.items:,}"],
        ["items that failed, as they had to", f"{total.failed - total.interrupted:,}"],
        ["items that must not run twice, interrupted", f"{total.interrupted:,}"],
        *([f"blow: {what}", f"{count:,}"] for what, count in sorted(dealt.items())),
        ["workers' deaths seen by engines", f"{total.deaths:,}"],
        *([f"fault: {kind}", f"{total.faults[kind]:,}"] for kind in judging.KINDS),
    ]
    return Table("The soak", ("what", "how often"), rows, f"{total.seconds / 60:.0f} minutes.")


def write(path: Path, tables: Sequence[Table]) -> None:
    """Put tables between the marks of a page.

    Raises:
        ValueError: the page has no such marks.
    """
    machine = f"{CORES} cores, {platform.system()} {platform.machine()}, Python {platform.python_version()}."
    put_between(path, (BEGIN, END), [machine, "", *(table.rst() for table in tables)])
