"""What is told once a module is imported, by whomever."""

import importlib
import sys

import pytest

from mpengine.worker.latecomer import once_imported


@pytest.fixture
def late(tmp_path, monkeypatch):
    """A module that nobody has imported; returns its name."""
    (tmp_path / "very_late.py").write_text("value = 1\n")
    monkeypatch.syspath_prepend(tmp_path)
    finders = list(sys.meta_path)
    yield "very_late"
    sys.meta_path[:] = finders
    sys.modules.pop("very_late", None)


def test_nothing_is_done_before_the_module_is_there_and_everything_before_anybody_has_it(late):
    seen = []
    once_imported(late, lambda: seen.append(sys.modules[late].value))
    assert importlib.util.find_spec(late) is not None
    assert seen == []
    importlib.import_module(late)
    assert seen == [1]


def test_it_is_done_at_once_where_the_module_is_there_already(late):
    importlib.import_module(late)
    seen = []
    once_imported(late, lambda: seen.append(late))
    assert seen == [late]


def test_several_are_told_in_their_order_and_leave_no_trace(late):
    finders, seen = list(sys.meta_path), []
    once_imported(late, lambda: seen.append("first"))
    once_imported(late, lambda: seen.append("second"))
    module = importlib.import_module(late)
    assert seen == ["first", "second"]
    assert sys.meta_path == finders
    assert module.__loader__ is module.__spec__.loader
    assert type(module.__loader__).__module__.startswith("_frozen_importlib")
    importlib.reload(module)
    assert seen == ["first", "second"]


def test_a_module_that_does_not_import_is_waited_for_until_it_does(late, tmp_path):
    seen = []
    once_imported(late, lambda: seen.append(late))
    source = tmp_path / "very_late.py"
    source.write_text("raise ZeroDivisionError\n")
    with pytest.raises(ZeroDivisionError):
        importlib.import_module(late)
    assert seen == []
    source.write_text("value = 'another length'\n")
    importlib.invalidate_caches()
    importlib.import_module(late)
    assert seen == [late]
