"""The example job measures what is there."""

from __future__ import annotations

import ast
import hashlib
import textwrap

import pytest

from mpengine import ErrorPolicy
from mpengine.examples import stdlib

MODULE = b'''"""A module."""
import os.path
import json, os
from . import sibling
from collections import abc


class Kept:
    """A class."""

    def plain(self):
        return 1


def knotty(x, y):
    """Branch ten ways."""
    if x and y or x:
        for item in [z for z in x if z if y]:
            while item:
                item = None if y else item
    try:
        def inner():
            if x:
                return x
    except ValueError:
        pass
'''


@pytest.fixture
def measured():
    return stdlib.measure(stdlib.Source("a.py", MODULE, MODULE.decode()))


def function_of(text):
    return ast.parse(textwrap.dedent(text)).body[0]


def test_modules_are_relative_sorted_and_the_same_each_time():
    first = list(stdlib.modules())

    assert first == list(stdlib.modules())
    assert "json/decoder.py" in first
    assert len(first) == len(set(first)) > 500
    assert not any(part in path.split("/") for path in first for part in stdlib.NOT_OURS)


def test_read_decodes_as_the_module_asks(tmp_path, monkeypatch):
    (tmp_path / "old.py").write_bytes("# coding: latin-1\nname = 'é'\n".encode("latin-1"))
    monkeypatch.setattr(stdlib, "ROOT", tmp_path)

    assert stdlib.read("old.py").text == "# coding: latin-1\nname = 'é'\n"


def test_read_fails_for_a_module_that_does_not_decode(tmp_path, monkeypatch):
    (tmp_path / "bad.py").write_bytes(b"name = '\xff'\n")
    monkeypatch.setattr(stdlib, "ROOT", tmp_path)

    with pytest.raises((SyntaxError, UnicodeDecodeError)):
        stdlib.read("bad.py")


def test_measure_fails_for_a_module_that_does_not_parse():
    with pytest.raises(SyntaxError):
        stdlib.measure(stdlib.Source("bad.py", b"print 'x'\n", "print 'x'\n"))


def test_measure_counts_what_a_module_holds(measured):
    assert measured.figures == {
        "lines": 26,
        "classes": 1,
        "functions": 3,
        "longest_function": {"name": "knotty", "value": 12},
        "most_complex_function": {"name": "knotty", "value": 11},
        "complexity": 14,
        "imports": ["collections", "json", "os"],
        "documented": 0.6,
    }


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("def f(): return 1", 1),
        ("def f(x):\n if x: return 1\n elif 2: return 2\n else: return 3", 3),
        ("async def f(x):\n async for y in x: pass", 2),
        ("def f(x): return x and 1 or 2", 3),
        ("def f(x): return [y for y in x if y]", 3),
        ("def f(x):\n match x:\n  case 1: pass\n  case 2: pass", 3),
        ("def f():\n try: pass\n except A: pass\n except B: pass\n finally: pass", 3),
        ("def f():\n def g(x):\n  if x: pass", 1),
        ("def f():\n class C:\n  x = 1 if 2 else 3", 1),
    ],
)
def test_complexity_is_one_and_a_functions_own_branches(text, expected):
    assert stdlib.complexity(function_of(text)) == expected


def test_pack_hashes_and_compresses(measured):
    packed = stdlib.pack(measured)

    assert packed["path"] == "a.py"
    assert packed["bytes"] == len(MODULE)
    assert packed["sha256"] == hashlib.sha256(MODULE).hexdigest()
    assert 0 < packed["zlib_bytes"] < len(MODULE)
    assert packed["lzma_bytes"] > 0
    assert packed == stdlib.pack(measured)


def test_an_empty_module_has_figures_too():
    packed = stdlib.pack(stdlib.measure(stdlib.Source("empty.py", b"", "")))

    assert packed["lines"] == packed["functions"] == packed["complexity"] == 0
    assert packed["longest_function"] is None
    assert stdlib.summary([packed])


def test_broken_modules_are_dropped_not_raised():
    policies = {stage.name: stage.on_error for stage in stdlib.pipeline.stages}

    assert policies == {"read": ErrorPolicy.DROP, "measure": ErrorPolicy.DROP, "pack": None}


def test_the_summary_names_the_extremes(measured):
    small = stdlib.pack(stdlib.measure(stdlib.Source("small.py", b"def f(): pass\n", "def f(): pass\n")))

    rows = dict(stdlib.summary([small, stdlib.pack(measured)]))

    assert rows["modules"] == "2"
    assert rows["lines"] == "27"
    assert rows["functions"] == "4"
    assert rows["largest module"] == "a.py (26 lines)"
    assert rows["most complex function"] == "knotty in a.py (11)"


def test_the_summary_of_nothing_says_so():
    assert stdlib.summary([]) == [("modules", "0")]
