"""A run on the list of runs: made once, noted in, and gone with the run."""

import os

import pytest

from mpengine.monitor import listing as listing_module
from mpengine.monitor.folder import Folder
from mpengine.monitor.listing import Listing, new_id
from mpengine.records import replace
from mpengine.runs import known_runs


def test_a_run_is_listed_with_its_figures_and_then_no_more(listed, make_entry, figures):
    one = Listing(make_entry())
    assert (one.run_id, known_runs()) == ("", ())
    one.note(figures)
    one.note(replace(figures, delivered=6))
    (found,) = known_runs()
    assert (found.run_id, found.figures.delivered, found.is_alive) == (one.run_id, 6, True)
    one.end(replace(figures, has_ended=True))
    one.end()
    assert not listed.exists()  # the last one in it takes it along


def test_an_id_is_short_and_is_never_taken_for_a_process_number():
    made = {new_id() for _ in range(200)}
    assert len(made) > 150
    assert all(len(one) == 4 and one[0].isalpha() and one.isalnum() for one in made)


def test_no_two_runs_have_the_same_name(listed, make_entry, figures, monkeypatch):
    names = iter(["same", "same", "same", "other"])
    monkeypatch.setattr(listing_module, "new_id", lambda: next(names))
    runs = [Listing(make_entry()) for _ in range(2)]
    for run in runs:
        run.note(figures)
    assert [run.run_id for run in runs] == ["same", "other"]
    runs[0].end()
    assert [run.run_id for run in known_runs()] == ["other"]
    runs[1].end()


def test_l1_a_note_that_is_overtaken_by_the_end_leaves_nothing(listed, make_entry, figures, monkeypatch):
    one = Listing(make_entry())
    make = Folder.make

    def make_late(opened, name, content):
        make(opened, name, content)
        one.end()  # by another thread: nothing is known to be there yet

    monkeypatch.setattr(Folder, "make", make_late)
    one.note(figures)
    assert known_runs() == ()
    assert not listed.exists()
    one.note(figures)
    assert known_runs() == ()


def test_l2_a_file_that_is_gone_is_made_again_under_its_name(listed, make_entry, figures):
    one = Listing(make_entry())
    one.note(figures)
    name = one.run_id
    (listed / f"{name}.run").unlink()
    listed.rmdir()
    one.note(figures)
    assert [run.run_id for run in known_runs()] == [name]
    one.end()


def test_a_forked_childs_copy_takes_nothing_away(listed, make_entry, figures):
    one = Listing(make_entry())
    one.note(figures)
    pid = os.fork()
    if pid == 0:
        one.end()
        os._exit(0)
    os.waitpid(pid, 0)
    assert len(known_runs()) == 1
    one.end()


def test_a_folder_that_is_not_ours_any_more_is_an_error_that_is_told(listed, make_entry, figures):
    one = Listing(make_entry())
    one.note(figures)
    listed.chmod(0o755)
    with pytest.raises(PermissionError):
        one.note(figures)
    one.end(figures)
    listed.chmod(0o700)
    assert len(list(listed.iterdir())) == 1
