"""Ctrl-C at every line of what the main thread runs of the package: it is never lost, and nothing is left.

Every place in the modules that the main thread is in is tried once.  ``MPENGINE_EVERY_LINE=1`` tries every line of the
whole package, each time it comes by, which takes some minutes.
"""

import itertools
import os
import signal
import sys
from pathlib import Path

import engine_stages as stages
import pytest

import mpengine
from mpengine import EngineClosedError

PACKAGE = Path(mpengine.__file__).parent
EVERY_LINE = bool(os.environ.get("MPENGINE_EVERY_LINE"))
WHERE_IT_MATTERS = {"engine.py", "coordinator/live.py", "coordinator/run.py", "coordinator/stream.py"} | {
    "coordinator/signals.py"
}
WHILE_STARTING = {"backends/__init__.py", "backends/headstart.py"}
WITH_PROCESSES = {"coordinator/stream.py", "coordinator/signals.py"}  # each costs a process


def run(engine):
    return engine.run([range(5), stages.keep])


def run_and_fail(engine):
    return engine.run([range(5), stages.fail_on_three])


def take_all(engine):
    return list(engine.iter([range(5), stages.keep]))


def close_early(engine):
    results = engine.iter([itertools.count(), stages.keep])
    next(results)
    results.close()


def leave_with(engine):
    with engine, engine.iter([itertools.count(), stages.keep]) as results:
        next(results)


class Tracer:
    """Sees every line of the package in this thread, and interrupts at one of them: a place, or a number.

    Not in what ``__del__`` does, where Python writes an exception to standard error and goes on.

    Args:
        target: where, or when.
        files: of what; None: everything.
    """

    def __init__(self, target, files):
        self._target, self._files = target, files
        self.places = []
        self.has_interrupted = False

    def __call__(self, frame, event, _):
        path = frame.f_code.co_filename
        if not path.startswith(str(PACKAGE)):
            return None
        name = path.removeprefix(f"{PACKAGE}/")
        if (self._files is not None and name not in self._files) or is_in_del(frame):
            return None
        if event == "line":
            place = (name, frame.f_code.co_name, frame.f_lineno)
            self.places.append(place)
            if self._target in (place, len(self.places)) and not self.has_interrupted:
                self.has_interrupted = True
                signal.raise_signal(signal.SIGINT)
        return self


def is_in_del(frame):
    while frame is not None and frame.f_code.co_name != "__del__":
        frame = frame.f_back
    return frame is not None


def traced(act, engine, tracer):
    """Return what ``act`` does, or how it is interrupted."""
    before = sys.gettrace()
    sys.settrace(tracer)
    try:
        return act(engine)
    except KeyboardInterrupt as error:
        return type(error)
    finally:
        sys.settrace(before)


def is_told(outcome, act):
    """Whether the outcome tells of the interrupt; what has failed before has its own reason."""
    if outcome is KeyboardInterrupt:
        return True
    return act in (run, run_and_fail) and (outcome.reason == "SIGINT" or "item 3" in outcome.reason)


def check_interrupted(engine, act, target, files):
    tracer = Tracer(target, files)
    outcome = traced(act, engine, tracer)
    where = tracer.places[-1:]
    if not tracer.has_interrupted:
        return False
    assert is_told(outcome, act), (target, where, outcome)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler, (target, where)
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL, (target, where)
    try:
        assert engine.run([[1], stages.double]).unwrap().values == [2], (target, where)
    except EngineClosedError:
        assert act is leave_with
    engine.close()
    assert engine.pids() == []
    return True


ACTS = [run, run_and_fail, take_all, close_early, leave_with]
CHOSEN = [(run, "inline"), (take_all, "inline"), (leave_with, "inline")]
CHOSEN += [
    (run, "fork"),
    pytest.param(leave_with, "fork", marks=pytest.mark.long),
    pytest.param(run, "forkserver", marks=pytest.mark.long),
]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("act", "kind"), itertools.product(ACTS, ["inline", "fork", "forkserver"]) if EVERY_LINE else CHOSEN
)
def test_ctrl_c_at_any_line_comes_out_and_leaves_nothing(make_engine, act, kind):
    def make():
        return make_engine(kind, workers=1, metrics_interval_s=0)

    if EVERY_LINE:
        files, targets = None, itertools.count(1)
    else:
        files = {"inline": WHERE_IT_MATTERS, "fork": WITH_PROCESSES, "forkserver": WHILE_STARTING}[kind]
        tracer = Tracer(None, files)
        traced(act, make(), tracer)
        targets = dict.fromkeys(tracer.places)
    tried = list(itertools.takewhile(bool, (check_interrupted(make(), act, target, files) for target in targets)))
    assert len(tried) > 20
