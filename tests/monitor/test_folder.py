"""The folder in which runs are listed: whose it is, and what is believed of what is found there."""

import os
import tempfile

import pytest

from mpengine.monitor import folder
from mpengine.monitor.folder import Folder, leave, make_in_first, open_all, places


@pytest.fixture
def place(tmp_path):
    return tmp_path / "runs"


@pytest.fixture
def session(tmp_path, monkeypatch):
    """A user's session: its own runtime folder, and no folder named for us alone."""
    monkeypatch.delenv("MPENGINE_RUNTIME_DIR")
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    return tmp_path


def test_f1_the_sessions_own_folder_comes_first_and_a_common_one_after_it(session):
    assert places() == [f"{session}/mpengine", f"/tmp/mpengine-{os.geteuid()}"]


def test_f1_a_session_folder_that_is_not_ours_or_not_there_is_left_alone(session, monkeypatch):
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(session / "gone"))
    assert places() == [f"/tmp/mpengine-{os.geteuid()}"]
    monkeypatch.setenv("XDG_RUNTIME_DIR", "relative")
    assert places() == [f"/tmp/mpengine-{os.geteuid()}"]
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(session))
    monkeypatch.setattr(os, "geteuid", lambda: 54_321)
    assert places() == ["/tmp/mpengine-54321"]  # two users, two folders


def test_f1_where_jobs_put_their_files_is_no_matter(session, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(session / "scratch"))
    assert places()[-1] == f"/tmp/mpengine-{os.geteuid()}"


def test_f1_a_folder_that_is_named_is_the_only_one(monkeypatch):
    monkeypatch.setenv("MPENGINE_RUNTIME_DIR", "/srv/runs")
    assert places() == ["/srv/runs"]


def test_f2_a_folder_is_made_for_its_owner_alone(place):
    with Folder(str(place), make=True):
        assert place.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("rights", [0o777, 0o750, 0o701, 0o500])
def test_f2_a_folder_with_other_rights_is_refused(rights, place):
    place.mkdir()
    place.chmod(rights)
    with pytest.raises(PermissionError, match=f"has the rights {rights:04o} and not 0700"):
        Folder(str(place), make=True)


def test_f2_a_folder_of_another_user_is_refused(place, monkeypatch):
    place.mkdir(mode=0o700)
    monkeypatch.setattr(os, "geteuid", lambda: 54_321)
    with pytest.raises(PermissionError, match="belongs to another user"):
        Folder(str(place), make=True)


def test_f2_a_link_is_not_followed(place, tmp_path):
    (tmp_path / "elsewhere").mkdir(mode=0o700)
    place.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError, match=r"Not a directory|symbolic links"):
        Folder(str(place), make=True)


def test_f2_what_is_refused_is_skipped_by_those_who_read(place, monkeypatch):
    monkeypatch.setenv("MPENGINE_RUNTIME_DIR", str(place))
    place.mkdir()
    place.chmod(0o755)
    assert list(open_all()) == []


def test_f2_a_folder_that_is_exchanged_meanwhile_is_not_the_one_that_is_written_to(place, tmp_path):
    with Folder(str(place), make=True) as opened:
        place.rename(tmp_path / "moved")
        place.mkdir(mode=0o777)
        opened.make("a", b"content")
    assert (tmp_path / "moved" / "a").read_bytes() == b"content"
    assert list(place.iterdir()) == []


def test_f3_a_file_is_its_owners_alone_and_takes_nobodys_name(place, tmp_path):
    with Folder(str(place), make=True) as opened:
        opened.make("a", b"first")
        assert (place / "a").stat().st_mode & 0o777 == 0o600
        with pytest.raises(FileExistsError):
            opened.make("a", b"second")
        (place / "b").symlink_to(tmp_path / "target")
        with pytest.raises(FileExistsError):
            opened.make("b", b"second")
    assert (place / "a").read_bytes() == b"first"
    assert not (tmp_path / "target").exists()


def test_f3_of_a_file_that_cannot_be_written_nothing_is_left(place, monkeypatch):
    def fail(*_):
        raise OSError(28, "No space left on device")

    with Folder(str(place), make=True) as opened:
        monkeypatch.setattr(os, "pwrite", fail)
        with pytest.raises(OSError, match="No space left"):
            opened.make("a", b"content")
        assert opened.names() == []


def test_f4_a_link_and_a_pipe_are_no_files_and_are_not_waited_for(place, tmp_path):
    (tmp_path / "secret").write_text("secret")
    with Folder(str(place), make=True) as opened:
        (place / "link").symlink_to(tmp_path / "secret")
        os.mkfifo(place / "pipe")
        (place / "folder").mkdir()
        (place / "huge").write_bytes(bytes(folder.MAX_BYTES + 1))
        for name in opened.names():
            with pytest.raises(OSError, match=r"."):
                os.close(opened.open(name))


def test_the_first_place_that_can_be_had_is_taken(session, monkeypatch):
    other = session / "other"
    monkeypatch.setattr(folder, "places", lambda: [str(session / "not" / "there"), str(other)])
    assert make_in_first("a", b"content") == str(other)
    assert (other / "a").read_bytes() == b"content"


def test_where_no_place_can_be_had_the_last_ones_error_is_told(session, monkeypatch):
    (session / "file").write_text("")
    monkeypatch.setattr(folder, "places", lambda: [str(session / "not" / "there"), str(session / "file")])
    with pytest.raises(NotADirectoryError):
        make_in_first("a", b"content")


def test_a_folder_that_the_last_one_in_it_removes_meanwhile_is_made_again(place, monkeypatch):
    monkeypatch.setattr(folder, "places", lambda: [str(place)])
    make = Folder.make

    def make_late(opened, name, content):
        monkeypatch.setattr(Folder, "make", make)
        leave(str(place))
        make(opened, name, content)

    monkeypatch.setattr(Folder, "make", make_late)
    assert make_in_first("a", b"content") == str(place)
    leave(str(place))  # there is something in it
    assert (place / "a").exists()
