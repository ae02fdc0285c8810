"""However a run is ended early, it ends: with the first reason, and with nothing left."""

import gc
import itertools
import os
import signal
import threading
import time
from types import SimpleNamespace

import engine_stages as stages
import psutil
import pytest

from mpengine import EngineError, Err, Pipeline, cancelled, stage
from mpengine.coordinator.stream import ResultStream


class Source:
    """An endless source that knows how often it was closed, and tells when it has given so many items."""

    def __init__(self, tell_at=None, tell=None):
        self.given = self.closed = 0
        self._tell_at, self._tell = tell_at, tell

    def __iter__(self):
        return self

    def __next__(self):
        self.given += 1
        if self.given == self._tell_at:
            self._tell()
        return self.given

    def close(self):
        self.closed += 1


def test_cancelling_from_another_thread_ends_the_run(engine):
    threads = []

    def cancel_elsewhere():
        threads.append(threading.Thread(target=engine.cancel, args=("from elsewhere",)))
        threads[0].start()

    source = Source(3000, cancel_elsewhere)
    result = engine.run([source, stages.keep])
    threads[0].join()
    assert isinstance(result, Err)
    assert (result.reason, result.cause) == ("from elsewhere", None)
    assert source.closed == 1
    assert result.report.values == list(range(1, len(result.report.values) + 1))
    assert result.report.snapshot.state == "finished"
    with pytest.raises(EngineError, match="from elsewhere"):
        result.unwrap()


def test_the_first_of_many_reasons_wins(engine):
    def cancel_often():
        for number in range(5):
            engine.cancel(f"reason {number}")

    result = engine.run([Source(100, cancel_often), stages.keep])
    assert result.reason == "reason 0"


def test_cancelling_nothing_does_nothing(engine):
    engine.cancel("too early")
    assert engine.run([range(3), stages.double]).unwrap().values == [0, 2, 4]
    engine.cancel("too late")
    assert engine.run([range(3), stages.double]).unwrap().values == [0, 2, 4]


def test_cancelling_after_the_last_result_changes_nothing_of_it(engine):
    results = engine.iter([range(5), stages.double])
    assert list(results) == [0, 2, 4, 6, 8]
    engine.cancel("too late")
    assert results.result.is_ok


def test_cancelling_at_the_first_item_of_the_source_ends_the_run(every_kind, make_engine):
    """During start-up: most workers have not said hello yet."""
    engine = make_engine(every_kind, workers=3)
    result = engine.run([Source(1, lambda: engine.cancel("at once")), stages.keep])
    assert result.reason == "at once"


def test_cancelling_at_the_end_of_input_ends_the_run(engine):
    def source():
        yield from range(10)
        engine.cancel("at the end")

    result = engine.run([source, stages.keep])
    assert result.is_ok or result.reason == "at the end"
    assert result.report.values == list(range(len(result.report.values)))


def test_a_long_stage_function_can_ask_whether_to_stop(kind, make_engine, tmp_path):
    engine = make_engine(kind, grace_s=20.0)

    def wait_for_it(path):
        path.with_name("has begun").write_text("yes")
        give_up_at = time.monotonic() + 15
        while not cancelled() and time.monotonic() < give_up_at:
            pass
        path.write_text("cancelled" if cancelled() else "given up")

    path = tmp_path / "answer"
    has_begun = tmp_path / "has begun"
    os.mkfifo(has_begun)

    def cancel_when_it_has_begun():
        has_begun.read_text()
        engine.cancel("stop")

    canceller = threading.Thread(target=cancel_when_it_has_begun, daemon=True)
    canceller.start()
    assert engine.run([[path], wait_for_it]).reason == "stop"
    assert path.read_text() == "cancelled"
    canceller.join()
    assert cancelled() is False


def test_nothing_comes_out_of_an_iterator_that_was_closed_not_even_what_was_at_hand():
    run = SimpleNamespace(is_here=True, in_caller=False, result=None, next_batch=lambda: [1, 2, 3], end=lambda _: None)
    results = ResultStream(run)
    assert next(results) == 1

    results.close()

    assert list(results) == []


@pytest.mark.parametrize("how", ["close", "drop", "break", "with", "exception"])
def test_ending_an_iterator_early_leaves_nothing(kind, make_engine, how):
    engine = make_engine(kind)
    source = Source()
    if how == "break":
        for value in engine.iter([source, stages.keep]):
            if value == 700:
                break
    elif how == "exception":
        with pytest.raises(ZeroDivisionError), engine.iter([source, stages.keep]) as results:
            assert next(results) / 0
    else:
        results = engine.iter([source, stages.keep])
        assert list(itertools.islice(results, 5)) == [1, 2, 3, 4, 5]
        if how == "close":
            results.close()
            results.close()
            assert list(results) == []
        elif how == "with":
            with results:
                pass
        else:
            del results
    gc.collect()
    assert source.closed == 1
    assert engine.pids() == []
    assert engine.run([range(2), stages.keep]).unwrap().values == [0, 1]


def test_an_async_source_is_closed_once(engine):
    closed = []

    class Numbers:
        def __init__(self):
            self.number = 0

        def __aiter__(self):
            return self

        async def __anext__(self):
            self.number += 1
            return self.number

        async def aclose(self):
            closed.append(self.number)

    with engine.iter([Numbers(), stages.keep]) as results:
        assert next(results) == 1
    assert len(closed) == 1

    async def generate():
        try:
            for number in itertools.count():
                yield number
        finally:
            closed.append("generator")

    with engine.iter([generate, stages.keep]) as results:
        assert next(results) == 0
    assert closed[1:] == ["generator"]


def test_a_failure_closes_the_source_once(engine):
    source = Source()
    assert not engine.run([source, stages.fail_on_three]).is_ok
    assert source.closed == 1


@pytest.mark.slow
def test_a_source_that_never_gives_control_back_is_left_to_itself(make_engine):
    engine = make_engine("fork", grace_s=0.2)
    released = threading.Event()

    def source():
        yield 1
        released.wait(20)

    results = engine.iter([source, stages.keep])
    assert next(results) == 1
    results.close()
    assert engine.pids() == []
    released.set()


@pytest.mark.slow
@pytest.mark.parametrize("start_method", ["forkserver", "spawn", "fork"])
def test_workers_that_ignore_signals_and_never_return_end_on_the_ladder(make_engine, start_method):
    engine = make_engine(start_method, workers=2, grace_s=0.3)
    began_r, began_w = os.pipe()
    path = f"/proc/{os.getpid()}/fd/{began_w}"

    def source():
        yield 0
        assert os.read(began_r, 1)
        engine.cancel("enough")
        yield 0

    def ignore_everything(x):
        fd = os.open(path, os.O_WRONLY)
        for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(signum, signal.SIG_IGN)
        os.write(fd, b"x")
        while True:
            time.sleep(60)

    began_at = time.monotonic()
    result = engine.run([source, ignore_everything])
    assert result.reason == "enough"
    assert time.monotonic() - began_at < 15  # and not the minute that the stage would take
    assert engine.pids() == []
    os.close(began_r)
    os.close(began_w)


@pytest.mark.slow
def test_a_stopped_worker_is_ended_at_cancel(make_engine):
    engine = make_engine("fork", workers=2, grace_s=0.3)
    with engine.iter([itertools.count(), stages.keep]) as results:
        next(results)
        pids = engine.pids()
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
    assert not any(psutil.pid_exists(pid) for pid in pids)


@pytest.mark.slow
def test_pills_get_through_an_inbox_full_of_large_payloads(make_engine):
    """The pipe is full and the worker reads nothing: flag and ladder are enough, and nothing waits to be sent."""
    engine = make_engine("fork", workers=2, grace_s=0.5, max_bytes=7_000_000)
    big = bytes(8_000_000)

    def slow(x):
        while not cancelled():
            time.sleep(0.01)
        return x

    def source():
        threading.Timer(0.4, engine.cancel, ("full",)).start()
        yield from [big] * 8

    result = engine.run([source, stage(slow, buffer=8)])
    assert result.reason == "full"


@pytest.mark.slow
def test_a_cancelled_warm_engine_runs_again(make_engine):
    with make_engine("forkserver") as engine:
        for number in range(3):
            with engine.iter([itertools.count(), stages.double]) as results:
                assert next(results) == 0
            assert engine.run([range(5), stages.increment]).unwrap().values == [1, 2, 3, 4, 5]
            assert engine.run([Source(50, lambda n=number: engine.cancel(f"{n}")), stages.keep]).reason == f"{number}"


def test_a_pipeline_cancelled_by_its_own_source_ends(engine):
    def source():
        yield 1
        pipeline.cancel("own")
        yield from range(100_000)

    pipeline = Pipeline(source) >> stages.keep
    assert engine.run(pipeline).reason == "own"


# ---------------------------------------------------------------------- signals

SIGNALLED = """
    import os, signal, sys, time
    from mpengine import Engine

    engine = Engine(2, grace_s={grace})
    {handler}

    def source():
        yield 0
        while not engine.pids():
            pass
        yield 1
        print(*engine.pids(), flush=True)
        for number in range(2, 10**9):
            yield number

    def work(x):
        {work}
        return x

    result = engine.run([source, work])
    print(result.reason, type(result.cause).__name__, engine.pids(), flush=True)
"""
IGNORING = "signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(60)"


def signalled(handler="", work="pass", grace=5.0):
    return SIGNALLED.replace("{handler}", handler).replace("{work}", work).replace("{grace}", str(grace))


def check_all_gone(pids):
    _, alive = psutil.wait_procs([psutil.Process(pid) for pid in pids if psutil.pid_exists(pid)], timeout=5)
    assert alive == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("signum", "expected"),
    [(signal.SIGINT, "SIGINT KeyboardInterrupt []"), (signal.SIGTERM, "SIGTERM SystemExit []")],
)
def test_the_first_signal_cancels_in_order(start_program, signum, expected):
    program = start_program(signalled())
    pids = program.read_pids()
    assert pids
    program.send(signum)
    written, errors, status = program.end()
    assert (written, errors, status) == (expected, "", 0)
    check_all_gone(pids)


@pytest.mark.slow
def test_a_second_ctrl_c_ends_workers_that_will_not_leave_at_once(start_program):
    program = start_program(signalled(work=f"\n        if x > 1: {IGNORING}".replace("\n        ", ""), grace=25.0))
    pids = program.read_pids()
    began_at = time.monotonic()
    program.send(signal.SIGINT)
    while program.process.poll() is None and time.monotonic() - began_at < 20:
        program.send(signal.SIGINT)
        threading.Event().wait(0.2)
    written, errors, _ = program.end()
    assert (written, errors) == ("SIGINT KeyboardInterrupt []", "")
    assert time.monotonic() - began_at < 20
    check_all_gone(pids)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["SIGALRM", "SIGUSR1"])
def test_a_handler_may_cancel_while_the_main_thread_is_in_run(start_program, name):
    handler = f"signal.signal(signal.{name}, lambda *_: engine.cancel('by {name}'))"
    program = start_program(signalled(handler))
    pids = program.read_pids()
    program.send(getattr(signal, name))
    assert program.end() == (f"by {name} NoneType []", "", 0)
    check_all_gone(pids)


@pytest.mark.slow
def test_a_programs_own_ctrl_c_handler_stays(start_program):
    program = start_program(signalled("signal.signal(signal.SIGINT, lambda *_: engine.cancel('own handler'))"))
    pids = program.read_pids()
    program.send(signal.SIGINT)
    assert program.end() == ("own handler NoneType []", "", 0)
    check_all_gone(pids)


@pytest.mark.slow
def test_ctrl_c_at_the_first_item_leaves_nothing(start_program):
    """The signal comes from the source itself, while workers are being started."""
    program = start_program("""
        import os, signal
        from mpengine import Engine

        def source():
            os.kill(os.getpid(), signal.SIGINT)
            yield from range(10**9)

        engine = Engine(3)
        result = engine.run([source, abs])
        print(result.reason, type(result.cause).__name__, engine.pids())
    """)
    assert program.end() == ("SIGINT KeyboardInterrupt []", "", 0)


@pytest.mark.slow
def test_ctrl_c_raises_out_of_an_iterator(start_program):
    # The loop has a function of its own: Python 3.13 leaves the jump from a condition back to the top of a loop out of
    # what the try around that loop covers, so an interrupt that comes just there would pass the except by.
    program = start_program("""
        import itertools
        from mpengine import Engine

        def take(results):
            for value in results:
                if value == 3000:
                    print(*engine.pids(), flush=True)

        engine = Engine(2)
        results = engine.iter([itertools.count(), abs])
        try:
            take(results)
        except KeyboardInterrupt:
            results.close()
            print("interrupted", engine.pids())
    """)
    pids = program.read_pids()
    program.send(signal.SIGINT)
    assert program.end() == ("interrupted []", "", 0)
    check_all_gone(pids)


@pytest.mark.slow
def test_a_program_that_just_ends_leaves_nothing(start_program):
    program = start_program("""
        import itertools
        from mpengine import Engine

        engine = Engine(2)
        results = engine.iter([itertools.count(), abs])
        next(results)
        print(*engine.pids(), flush=True)
    """)
    pids = program.read_pids()
    assert program.end()[1:] == ("", 0)
    check_all_gone(pids)
