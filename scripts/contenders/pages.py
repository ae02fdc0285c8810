"""Tables and charts as a file of their own, or as the part of a page that is between two marks."""

from __future__ import annotations

import os
import textwrap
from dataclasses import replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from measuring import Table

BEGIN, END = ".. bench: begin", ".. bench: end"


def write(path: Path, machine: str, tables: Sequence[Table], charts: Sequence[Path] = ()) -> None:
    """Write to a file: between its marks if it has them, or else all of it; .rst, or else Markdown."""
    is_rst = path.suffix == ".rst"
    drawn = [_image(chart, path, is_rst=is_rst) for chart in charts]
    content = "\n".join([folded(machine), *drawn, *(_text(table, is_rst=is_rst) for table in tables)])
    before = path.read_text(encoding="utf-8") if path.exists() else ""
    if BEGIN in before and END in before:
        content = f"{before.partition(BEGIN)[0]}{BEGIN}\n\n{content}\n{END}{before.partition(END)[2]}"
    path.write_text(content, encoding="utf-8")


def _text(table: Table, *, is_rst: bool) -> str:
    folding = replace(table, note=folded(table.note))
    return folding.rst() if is_rst else folding.markdown()


def _image(chart: Path, page: Path, *, is_rst: bool) -> str:
    where = os.path.relpath(chart, page.parent)
    return f".. image:: {where}\n   :alt: {chart.stem}\n" if is_rst else f"![{chart.stem}]({where})\n"


def folded(text: str) -> str:
    """Return a paragraph in lines of a readable length."""
    return textwrap.fill(text, 118, break_long_words=False, break_on_hyphens=False) + "\n" if text else ""
