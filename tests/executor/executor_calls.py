"""What the tests of the executor have called in workers, which import it."""

import os
import pickle
import signal
import sys
import threading
import time
from pathlib import Path

import mpengine

PATIENCE_S = 20.0
KEPT = {"state": "not set up"}


def add(a, b=0):
    return a + b


def echo(value):
    return value


def capture(*args, **kwargs):
    return args, kwargs


def pid(_=None):
    return os.getpid()


def fail(message="no"):
    raise ValueError(message)  # a comment that tells this line


def leave(code=3):
    os._exit(code)


def exit_politely(code=3):
    sys.exit(code)


def skip():
    return mpengine.SKIP


def switch():
    return mpengine.KillSwitch("why")


def raise_switch():
    raise mpengine.KillSwitch("why")


def interrupt():
    raise KeyboardInterrupt("here")


def await_file(path):
    """Wait until a file is there; its content."""
    give_up_at = time.monotonic() + PATIENCE_S
    while not Path(path).exists():
        if time.monotonic() > give_up_at:
            raise TimeoutError(path)
        time.sleep(0.002)
    return Path(path).read_text()


def tell(path, text):
    """Make a file, which is whole from the start."""
    scratch = Path(f"{path}.new")
    scratch.write_text(text)
    scratch.rename(path)


def tell_and_await(told, awaited):
    """Leave one's pid in a file, and wait for another one."""
    tell(told, str(os.getpid()))
    return await_file(awaited)


def die_once(marker):
    """Kill this process, but for a second time."""
    if not Path(marker).exists():
        Path(marker).write_text("")
        os.kill(os.getpid(), signal.SIGKILL)
    return "survived"


def die(_=None):
    os.kill(os.getpid(), signal.SIGKILL)


def grow(size):
    content = bytearray(size)
    content[::4096] = b"x" * len(content[::4096])
    time.sleep(PATIENCE_S)
    return len(content)


def set_up(value):
    KEPT["state"] = value


def set_up_badly():
    raise RuntimeError("cannot be set up")


def state(_=None):
    return KEPT["state"]


def acquire_kept(_=None):
    return KEPT["state"].acquire(timeout=PATIENCE_S)


def put_in_kept(value):
    KEPT["state"].put(value)


def append(items, item):
    items.append(item)
    return items


class NoPickle:
    def __reduce__(self):
        raise pickle.PicklingError("not this one")


class ExitAtPickle:
    def __reduce__(self):
        sys.exit(1)


class NoUnpickle:
    """Pickles, and cannot be unpickled."""

    def __reduce__(self):
        return fail, ("at unpickling",)


class PickyError(Exception):
    """Pickles, and cannot be unpickled: it wants two arguments and keeps one."""

    def __init__(self, one, two):
        super().__init__(f"{one} and {two}")


def make(kind):
    return kind()


def raise_picky():
    raise PickyError(1, 2)


def raise_with_lock():
    error = RuntimeError("with a lock")
    error.lock = threading.Lock()
    raise error


def send(connection, value):
    connection.send(value)
    connection.close()


class Thing:
    """Can be referred to weakly."""
