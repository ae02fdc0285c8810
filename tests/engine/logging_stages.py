"""Stages that log, each in its own way; workers import them by name."""

import logging
import os
import signal
import sys
import threading
import time

from mpengine import SKIP, stage

log = logging.getLogger("user.stages")


@stage(name="say it")
def say(x):
    log.warning("item %d", x, extra={"item": x})
    return x


@stage(name="say more", workers=1)
def say_more(x):
    log.warning("more of %d", x)
    return x


@stage(on_error="drop")
def drop_and_say(x):
    """Be quick enough for slices, in which some fail and some are filtered out."""
    if x % 100 == 7:
        raise ValueError(x)
    if x % 100 == 8:
        return SKIP
    if x % 100 == 9:
        log.warning("%d", x)
    return x


def say_hundreds(x):
    if x % 100 == 10:
        log.error("%d", x)
    return x


def double(x):
    return 2 * x


def say_and_give(x):
    yield x
    if x % 1000 == 0:
        log.warning("%d", x // 2)
    yield x


@stage(on_error="drop")
def invert(x):
    return 1 / x


def all_levels(x):
    log.debug("debug")
    log.info("info")
    log.error("error")
    logging.getLogger("user.loud").debug("loud")
    return x


def unspeakable(x):
    log.warning("%d", "x")
    log.warning("%s", threading.Lock(), extra={"lock": threading.Lock()})
    return x


def from_a_thread(x):
    thread = threading.Thread(target=say.fn, args=(x,))
    thread.start()
    thread.join()
    return x


def flood(x):
    for _ in range(x):
        log.warning("drop")
    return x


BODIES = 600


def from_a_signal_handler(x):
    """Log from everywhere at once: the handler comes in between, also where a message is half written.

    However slow the machine is, fewer records than may wait in the parent: none of them may be dropped there.
    """
    left = [BODIES]

    def handle(*_):
        log.warning("handler")
        left[0] -= 1
        if left[0] > 0:  # armed again no sooner, or a slow machine would be in the handler and nowhere else
            signal.setitimer(signal.ITIMER_REAL, 0.0003)

    signal.signal(signal.SIGALRM, handle)
    signal.setitimer(signal.ITIMER_REAL, 0.0003)
    try:
        for _ in range(BODIES):
            log.warning("body")
    finally:
        left[0] = 0
        signal.setitimer(signal.ITIMER_REAL, 0)
    return x


def within_a_time_limit(x):
    """Log until a signal handler raises, as a time limit of the user's own would."""

    def expire(*_):
        raise TimeoutError

    tracer = sys.gettrace()
    sys.settrace(None)  # a coverage tool's lock is not to be what the handler raises in
    signal.signal(signal.SIGPROF, expire)
    try:
        # By CPU time, so that it is no matter who else has the core; again, if it came while logging formats, which
        # catches everything.
        signal.setitimer(signal.ITIMER_PROF, 0.002, 0.02)
        while True:
            log.warning("body %s", "x" * 50_000)
    except TimeoutError:
        signal.setitimer(signal.ITIMER_PROF, 0)
        return x
    finally:
        sys.settrace(tracer)


def in_a_forked_child(x):
    pid = os.fork()
    if pid == 0:
        logging.lastResort = None  # what an unconfigured program has, and writes to stderr
        for _ in range(100):
            log.warning("child")
        os._exit(0)
    os.waitpid(pid, 0)
    log.warning("parent")
    return x


def tear_down(state):
    log.warning("torn down")


def log_when_terminated(x):
    def leave(*_):
        log.warning("terminated")
        raise SystemExit

    signal.signal(signal.SIGTERM, leave)
    os.write(int(os.environ["LOGGING_STAGES_FD"]), b"!")
    time.sleep(600)


def nothing(x):
    return SKIP
