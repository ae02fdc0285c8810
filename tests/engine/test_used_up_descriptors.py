"""A program that uses up its descriptors while a run goes on: looking processes up takes some, and must not fail."""

import pytest

pytestmark = pytest.mark.slow

HOG = """
    import gc, os, resource, threading
    import psutil
    from mpengine import Engine

    def die_once(x):
        if x == 150 and {dies}:
            os._exit(3)
        return x

    def fds():
        return set(os.listdir("/proc/self/fd"))

    Engine(2, start_method="{method}", metrics_interval_s=0).run([iter(range(3)), die_once]).unwrap()
    before = fds()
    resource.setrlimit(resource.RLIMIT_NOFILE, (100, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
    hogged = []

    def source():
        yield from range(100)
        try:
            while True:
                hogged.append(os.open("/dev/null", os.O_RDONLY))
        except OSError:
            pass
        yield from range(100, 3000)

    engine = Engine(2, start_method="{method}", metrics_interval_s=0, grace_s=1, on_error="drop")
    result = engine.run([source, die_once])
    for fd in hogged:
        os.close(fd)
    print("ok" if result.is_ok else result.reason, len(result.report.values))
    result = None
    gc.collect()
    children = [child.pid for child in psutil.Process().children()]
    print("left:", *sorted(fds() - before), *children, threading.active_count() - 1)
"""


@pytest.mark.parametrize("dies", [False, True])
@pytest.mark.parametrize("method", ["fork", "forkserver", "spawn"])
def test_a_program_that_has_used_up_its_descriptors_leaves_no_worker_and_no_descriptor(run_program, method, dies):
    done = run_program(HOG.replace("{method}", method).replace("{dies}", str(dies)))
    story, left = done.stdout.splitlines()
    assert left.split() == ["left:", "0"], done.stderr
    assert story == f"ok {3000 - dies}" or "Too many open files" in story
