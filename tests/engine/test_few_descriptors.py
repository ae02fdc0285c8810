"""However few descriptors a program may have, a run is whole or says so, and leaves none open and no process."""

import pytest

pytestmark = pytest.mark.slow

FEW = """
    import faulthandler, gc, os, resource, sys, threading
    from mpengine import Engine, EngineError

    def keep(x):
        return x

    def fds():
        return set(os.listdir("/proc/self/fd"))

    def attempt(most):
        faulthandler.dump_traceback_later(20, exit=True)
        before = fds()
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
        try:
            result = Engine(2, start_method={method!r}, metrics_interval_s=0).run([range(50), keep])
            story = "ok" if result.is_ok and result.report.values == list(range(50)) else result.reason
        except EngineError as error:
            story = str(error)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        result = None
        gc.collect()
        children = open(f"/proc/self/task/{os.getpid()}/children").read()
        print(story, "; left:", *sorted(fds() - before), children, threading.active_count() - 1, flush=True)

    Engine(1, start_method={method!r}, metrics_interval_s=0).run([range(3), keep]).unwrap()  # all is imported by now
    used = len(fds())
    for room in range(0, 41, {step}):
        pid = os.fork()
        if pid == 0:
            attempt(used + room)
            os._exit(0)
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
"""


@pytest.mark.parametrize(("method", "step"), [("fork", 2), ("forkserver", 5), ("spawn", 8)])
def test_however_few_descriptors_there_are_a_run_is_whole_or_says_so_and_leaves_nothing(run_program, method, step):
    done = run_program(FEW.replace("{method!r}", repr(method)).replace("{step}", str(step)))
    lines = done.stdout.splitlines()
    assert len(lines) == 2 * len(range(0, 41, step)), done.stderr
    assert set(lines[1::2]) == {"0"}
    stories = [line.partition(" ; left: ") for line in lines[::2]]
    assert {left.strip() for _, _, left in stories} == {"0"}
    assert all(story == "ok" or "Too many open files" in story for story, _, _ in stories)
    assert stories[0][0] != "ok"
    assert stories[-1][0] == "ok"
