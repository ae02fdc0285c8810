"""What a process was at: its frames as faulthandler writes them, read back without those that are not the user's."""

import mmap
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from mpengine.ipc.controlblock import ControlBlock
from mpengine.ipc.lastwords import DUMP, REGION_BYTES, Stack, parse, read_words

ROOT = Path(__file__).parents[2]

DUMPED = """Current thread 0x00007f (most recent call first):
  File "/srv/jobs/lib.py", line 12 in inner
  File "/srv/jobs/my job.py", line 7 in <lambda>
  File "/site-packages/mpengine/worker/chain.py", line 350 in _call
  File "/site-packages/mpengine/worker/main.py", line 99 in serve
"""


def test_the_innermost_frame_is_told_and_the_trace_is_in_the_usual_order():
    stack = parse(DUMPED)
    assert stack.where == "; it was in inner (/srv/jobs/lib.py:12)"
    assert stack.trace == (
        "Traceback (most recent call last):\n"
        '  File "/srv/jobs/my job.py", line 7, in <lambda>\n'
        '  File "/srv/jobs/lib.py", line 12, in inner\n'
    )


def test_of_several_stacks_the_last_one_counts():
    earlier = DUMPED.replace("inner", "earlier")
    assert parse(earlier + DUMPED) == parse(DUMPED)
    assert parse("Fatal Python error: Segmentation fault\n\n" + DUMPED) == parse(DUMPED)


@pytest.mark.parametrize("text", ["", "\n", "nonsense", "most recent call first", '  File "', "\x00\xff" * 50])
def test_what_cannot_be_read_is_no_frames(text):
    assert parse(text) == Stack()


def test_frames_of_the_worker_itself_are_nobodys_business():
    assert parse("\n".join(DUMPED.splitlines()[:1] + DUMPED.splitlines()[3:])) == Stack()


@pytest.fixture
def block():
    made = ControlBlock.create(2)
    yield made
    made.close()


def test_words_are_read_once(block):
    start = block.words_start(1)
    os.pwrite(block.fd, DUMPED.encode(), start)
    assert read_words(block.fd, start) == parse(DUMPED)
    assert read_words(block.fd, start) == Stack()
    assert read_words(block.fd, block.words_start(0)) == Stack()


def test_words_of_any_bytes_harm_nobody(block):
    start = block.words_start(0)
    os.pwrite(block.fd, bytes(range(1, 256)) * 100, start)
    assert read_words(block.fd, start) == Stack()
    os.pwrite(block.fd, b"x" * REGION_BYTES, start)  # the region is full to its end
    assert read_words(block.fd, start) == Stack()
    assert read_words(block.fd, block.words_start(1)) == Stack()


def test_words_of_a_file_that_is_gone_are_no_frames():
    assert read_words(-1, 0) == Stack()


def test_regions_lie_behind_the_slots_and_apart(block):
    starts = [block.words_start(number) for number in range(2)]
    assert starts[1] - starts[0] == REGION_BYTES
    assert os.fstat(block.fd).st_size >= starts[1] + REGION_BYTES
    assert starts[0] % mmap.PAGESIZE == 0 or starts[0] >= 4096


PROGRAM = """
import os, signal, sys
from mpengine.ipc.lastwords import DUMP, leave_words

def here():
    os.kill(os.getpid(), DUMP if sys.argv[3] == "asked" else signal.SIGSEGV)
    print("still alive", flush=True)

leave_words(int(sys.argv[1]), int(sys.argv[2]))
here()
"""


@pytest.mark.slow
@pytest.mark.parametrize("how", ["asked", "crashed"])
def test_a_process_writes_its_frames_when_it_is_asked_or_crashes(block, tmp_path, how):
    path = tmp_path / "program.py"
    path.write_text(PROGRAM)
    start = block.words_start(1)
    ended = subprocess.run(
        [sys.executable, str(path), str(block.fd), str(start), how], pass_fds=[block.fd], text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, check=False, timeout=30,
    )  # fmt: skip
    assert ended.returncode == (0 if how == "asked" else -signal.SIGSEGV)
    assert ended.stdout == ("still alive\n" if how == "asked" else "")
    stack = read_words(block.fd, start)
    assert stack.where == f"; it was in here ({path}:6)"
    assert stack.trace.splitlines()[-1] == f'  File "{path}", line 6, in here'


def test_where_no_words_can_be_left_nothing_is_said(tmp_path):
    text = "from mpengine.ipc.lastwords import leave_words; leave_words(99, 0); print('fine')"
    ended = subprocess.run(
        [sys.executable, "-c", text], env={**os.environ, "PYTHONPATH": str(ROOT)}, text=True,
        capture_output=True, check=True, timeout=30,
    )  # fmt: skip
    assert (ended.stdout, ended.stderr) == ("fine\n", "")


def test_the_signal_that_asks_is_one_that_nobody_uses():
    assert signal.SIGRTMIN < DUMP < signal.SIGRTMAX
