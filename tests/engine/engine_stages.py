"""Stages of these tests that workers import by name; light, since every worker pays for what is imported here."""

import contextlib
import ctypes
import os
import signal
import sys
import threading
import time

from mpengine import SKIP, KillSwitch, stage

LOCK = threading.Lock()  # does not pickle: whoever sends this module's globals along fails


def double(x):
    return 2 * x


def increment(x):
    return x + 1


def keep(x):
    return x


def skip_odd(x):
    return SKIP if x % 2 else x


@stage
def decorated_bare(x):
    with LOCK:
        return x + 10


@stage(name="plus a hundred", retries=1)
def decorated(x):
    with LOCK:
        return x + 100


def count_up(x):
    yield from range(x)


@stage
def decorated_generator(x):
    with LOCK:
        yield x
    yield -x


def fail_on_three(x):
    if x == 3:
        raise ValueError(f"no {x}")
    return x


def raise_stop_iteration(x):
    if x == 3:
        raise StopIteration("the user's")
    return x


def pid_of(x):
    return os.getpid()


def kill_switch_returned(x):
    return KillSwitch("enough") if x == 3 else x


def kill_switch_raised(x):
    if x == 3:
        raise KillSwitch("enough")
    return x


class Counter:
    """Says what happens to it into a file, since nobody else can know what a worker builds and closes."""

    path = ""

    def __init__(self):
        self._calls = 0
        self._note("built")

    def __call__(self, x):
        self._calls += 1
        return x + 1

    def close(self):
        self._note("closed")

    def _note(self, what):
        fd = os.open(os.environ["COUNTER_FILE"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        os.write(fd, f"{what} {os.getpid()}\n".encode())
        os.close(fd)


class ContextCounter(Counter):
    def __enter__(self):
        self._note("entered")
        return self

    def __exit__(self, *_):
        self._note("left")


class PickyError(Exception):
    def __init__(self, first, second):
        super().__init__(f"{first} and {second}")


class UnpicklableError(Exception):
    def __init__(self, text="held a lock"):
        super().__init__(text)
        self.lock = threading.Lock()


class FalseError(Exception):
    """An error of which nobody may ask whether it is true."""

    def __bool__(self):
        raise RuntimeError("asked whether it is true")


class ExitingError(Exception):
    """An error that wants the reader of its pickle to leave."""

    def __reduce__(self):
        return sys.exit, (3,)


class SelfMadeBaseError(BaseException):
    """Neither SystemExit nor KeyboardInterrupt, and no Exception either."""


class Sulky:
    """A value that answers no question."""

    def __init__(self, number):
        self.number = number

    def __eq__(self, other):
        raise RuntimeError("asked whether it is equal")

    def __bool__(self):
        raise RuntimeError("asked whether it is true")

    def __hash__(self):
        raise RuntimeError("asked for its hash")

    def __repr__(self):
        raise RuntimeError("asked for its repr")

    def __len__(self):
        raise RuntimeError("asked for its length")


class Classless:
    """A lazy proxy whose real object cannot be had."""

    def __getattribute__(self, name):
        if name == "__class__":
            raise RuntimeError("asked for its class")
        return object.__getattribute__(self, name)

    def __reduce_ex__(self, _):
        return Classless, ()


class UnhashableKind(type):
    """The type of classes that have no hash."""

    __hash__ = None

    def __eq__(cls, other):
        return cls is other


class OfUnhashableKind(metaclass=UnhashableKind):
    pass


def make_of_unhashable_kind(x):
    return OfUnhashableKind() if x == 3 else x


class BadToPickle:
    def __reduce__(self):
        raise RuntimeError("will not be pickled")


class ExitsWhenPickled:
    def __reduce__(self):
        sys.exit(3)


def _refuse(number):
    raise RuntimeError("will not be unpickled")


class BadToUnpickle:
    def __init__(self, number=0):
        self.number = number

    def __reduce__(self):
        return _refuse, (self.number,)


class DiesWhenPickled:
    def __reduce__(self):
        os._exit(3)


def leave(code):
    os._exit(code)


class DiesWhenUnpickled:
    def __reduce__(self):
        return leave, (3,)  # not os._exit: a measurement of coverage puts a closure in its place


class InParent:
    """Unpickles everywhere but in the process that made it."""

    def __init__(self, pid):
        self.pid = pid

    def __reduce__(self):
        return unpickle_in_parent, (self.pid,)


def unpickle_in_parent(pid):
    if os.getpid() == pid:
        raise RuntimeError("will not be unpickled in the parent")
    return InParent(pid)


def die(how):
    """End this worker in one of the ways there are."""
    if how == "SIGKILL":
        os.kill(os.getpid(), signal.SIGKILL)
    elif how == "SIGSEGV":
        ctypes.string_at(0)
    elif how == "exit 0":
        os._exit(0)
    elif how == "exit 3":
        os._exit(3)
    elif how == "sys.exit":
        sys.exit(4)
    elif how == "SIGABRT":
        os.kill(os.getpid(), signal.SIGABRT)


def kill(pids):
    """Kill workers; returns how many of them were still there, for some may have been buried since they were listed."""
    killed = 0
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
            killed += 1
    return killed


def block(seconds=300):
    time.sleep(seconds)


def never_return(x):
    for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(signum, signal.SIG_IGN)
    while True:
        time.sleep(60)
