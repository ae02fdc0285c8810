"""A run's file: what is written there is read back, and what cannot be is not believed."""

import json
import os
import zlib

import pytest

from mpengine.monitor.entries import FIGURES_BYTES, RunFigures, pack, pack_figures, read, read_figures
from mpengine.monitor.folder import MAX_BYTES
from mpengine.records import replace


@pytest.fixture
def file(tmp_path):
    """A file, and a descriptor to read it by."""
    path = tmp_path / "x.run"
    path.touch()
    fd = os.open(path, os.O_RDONLY)
    yield path, fd
    os.close(fd)


def line(values):
    text = json.dumps(values).encode()
    return b"%08x %s\n" % (zlib.crc32(text), text)


def test_what_is_written_is_read(file, make_entry, figures):
    path, fd = file
    entry = make_entry(run_id="kd4q", total=12, stages=("parse", "größer"), command="python -c 'a\nb'")
    path.write_bytes(pack(entry, figures))
    assert read(fd) == (entry, figures)


def test_e1_figures_are_written_over_in_place(file, make_entry, figures):
    path, fd = file
    path.write_bytes(pack(make_entry(), figures))
    for later in (replace(figures, reason="x" * 10_000, state="cancelling"), RunFigures(state="finished")):
        with path.open("r+b") as opened:
            opened.write(pack_figures(later))
        assert read_figures(fd).state == later.state
        assert read(fd)[0] == make_entry()
    assert len(pack_figures(replace(figures, reason="\U0001f600" * 10_000))) == FIGURES_BYTES


def test_e1_figures_that_are_half_written_are_read_again(file, make_entry, figures, monkeypatch):
    path, fd = file
    path.write_bytes(pack(make_entry(), figures))
    whole = pack_figures(replace(figures, delivered=6))
    pread, torn = os.pread, [whole[:40] + pack_figures(figures)[40:], b""]
    monkeypatch.setattr(os, "pread", lambda *args: torn.pop() if torn else pread(*args))
    assert read_figures(fd) == figures
    assert torn == []


def test_e1_figures_that_stay_half_written_are_an_error(file, make_entry, figures):
    path, fd = file
    content = pack(make_entry(), figures)
    path.write_bytes(content[:30] + b"9" + content[31:])
    with pytest.raises(ValueError, match="not whole"):
        read_figures(fd)


def test_e2_who_has_the_file_open_learns_the_end_though_its_name_is_gone(file, make_entry, figures):
    path, fd = file
    path.write_bytes(pack(make_entry(), figures))
    with path.open("r+b") as opened:
        opened.write(pack_figures(replace(figures, has_ended=True)))
    path.unlink()
    assert read_figures(fd).has_ended


@pytest.mark.parametrize(
    "changes",
    [
        {"pid": "1"}, {"pid": True}, {"pid": None}, {"stages": "parse"}, {"authkey": "no hex"}, {"authkey": 1},
        {"total": 1.5}, {"began_at": "then"}, {"address": None},
    ],
    ids=str,
)  # fmt: skip
def test_an_entry_that_cannot_be_is_refused(changes, file, make_entry, figures):
    path, fd = file
    content = pack(make_entry(), figures)
    values = {**json.loads(content[FIGURES_BYTES:].partition(b" ")[2]), **changes}
    path.write_bytes(content[:FIGURES_BYTES] + line(values))
    with pytest.raises(ValueError, match=r"."):
        read(fd)


@pytest.mark.parametrize("content", [b"", b"\n", b"{}", b"00000000 {}\n", line([1]), bytes(8192), b"x" * 9000])
def test_what_is_no_entry_is_refused(content, file):
    path, fd = file
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"."):
        read(fd)


def test_what_another_version_has_put_there_besides_is_let_be(file, make_entry, figures):
    path, fd = file
    content = pack(make_entry(), figures)
    values = {**json.loads(content[FIGURES_BYTES:].partition(b" ")[2]), "mood": "fine"}
    path.write_bytes(content[:FIGURES_BYTES] + line(values))
    assert read(fd)[0] == make_entry()


def test_an_entry_is_never_too_large_to_be_read(make_entry, figures):
    entry = make_entry(stages=("\U0001f600" * 1000,) * 1000, command="\U0001f600" * 1000, folder="\U0001f600" * 1000)
    assert len(pack(entry, figures)) <= MAX_BYTES
