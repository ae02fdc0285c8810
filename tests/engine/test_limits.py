"""What the system refuses: files, processes, memory, folders.  A run goes on, or ends with one error that names it."""

import contextlib
import gc
import os
import resource
import shlex
import socket
import subprocess
import sys
import textwrap
import threading
import weakref
from pathlib import Path

import engine_stages as stages
import psutil
import pytest

from mpengine import EngineError, Err, WorkerDiedError, stage

ENVIRONMENT = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}


def too_many_files(*_, **__):
    raise OSError(24, "Too many open files")


def no_more_processes(*_, **__):
    raise BlockingIOError(11, "Resource temporarily unavailable")


# ---------------------------------------------------------------------- files and processes


def test_no_descriptor_at_all_is_one_error_that_names_the_limit(make_engine, monkeypatch):
    engine = make_engine("fork")
    monkeypatch.setattr(socket, "socketpair", too_many_files)
    limit = f"{resource.getrlimit(resource.RLIMIT_NOFILE)[0]:,}"
    with pytest.raises(EngineError) as raised:
        engine.run([range(3), stages.keep])
    assert str(raised.value).endswith(f"this process may have {limit} files open at once (ulimit -n)")
    monkeypatch.undo()
    assert engine.run([range(3), stages.keep]).unwrap().values == [0, 1, 2]


@pytest.mark.slow
@pytest.mark.parametrize("already", range(4))
def test_descriptors_that_run_out_at_any_pipe_of_a_worker_are_one_error(make_engine, monkeypatch, already):
    """The first pipe is the cancel event's, then each worker has three; what was opened before is closed again."""
    engine = make_engine("fork")
    left, pipe2 = [already + 1], os.pipe2

    def scarce(flags):
        left[0] -= 1
        if left[0] < 0:
            too_many_files()
        return pipe2(flags)

    monkeypatch.setattr(os, "pipe2", scarce)
    result = engine.run([range(3), stages.keep])
    monkeypatch.undo()
    assert isinstance(result, Err)
    assert "Too many open files; this process may have" in result.reason
    assert engine.run([range(3), stages.keep]).unwrap().values == [0, 1, 2]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "owner", "name"),
    [("fork", os, "fork"), ("spawn", os, "posix_spawnp"), ("forkserver", os, "posix_spawnp")],
)
def test_a_process_that_cannot_be_had_ends_the_run_and_is_told(make_engine, monkeypatch, kind, owner, name):
    engine = make_engine(kind)
    monkeypatch.setattr(owner, name, no_more_processes)
    result = engine.run([range(3), stages.keep])
    monkeypatch.undo()
    assert isinstance(result, Err)
    assert result.reason == "workers could not be started: BlockingIOError: [Errno 11] Resource temporarily unavailable"
    assert engine.run([range(3), stages.keep]).unwrap().values == [0, 1, 2]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mpengine-coordinator", "mpengine-pull_items", "mpengine-pack_items"])
@pytest.mark.parametrize("is_warm", [False, True])
def test_a_thread_that_cannot_be_had_ends_the_run_and_names_the_limit(make_engine, monkeypatch, name, is_warm):
    engine = make_engine("fork", metrics_interval_s=0)
    if is_warm:
        engine.__enter__()
    start = threading.Thread.start

    def refuse(thread):
        if thread.name == name:
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", refuse)
    try:
        result = engine.run([iter(range(3)), stages.keep])
        assert isinstance(result, Err)
        reason = result.reason
    except EngineError as error:  # there is no coordinator that could conclude it
        reason = str(error)
    monkeypatch.undo()
    assert "RuntimeError: can't start new thread; this user may have" in reason
    assert engine.run([iter(range(3)), stages.keep]).unwrap().values == [0, 1, 2]


SCARCE = """
    import faulthandler, gc, os, resource, threading
    import psutil
    from mpengine import Engine, EngineError

    def keep(x):
        return x

    def fds():
        return set(os.listdir("/proc/self/fd"))

    def attempt(room):
        faulthandler.dump_traceback_later(20, exit=True)
        mine = [p for p in psutil.process_iter(["uids", "num_threads"]) if p.info["uids"].real == os.getuid()]
        used = sum(p.info["num_threads"] for p in mine)
        before = fds()
        resource.setrlimit(resource.RLIMIT_NPROC, (used + room, used + room))
        try:
            result = Engine(3, start_method="fork", metrics_interval_s=0).run([iter(range(200)), keep])
            story = "ok" if result.is_ok and result.report.values == list(range(200)) else result.reason
        except EngineError as error:
            story = str(error)
        result = None
        gc.collect()
        children = open(f"/proc/self/task/{os.getpid()}/children").read()
        print(story, "; left:", *sorted(fds() - before), children, threading.active_count() - 1, flush=True)

    Engine(2, start_method="fork", metrics_interval_s=0).run([iter(range(20)), keep]).unwrap()  # all is imported by now
    if os.geteuid() == 0:  # whom the limit does not bind
        os.setgroups([])
        os.setgid(65534)
        os.setuid(65534)
    for room in (0, 2, 4, 6, 30):
        pid = os.fork()
        if pid == 0:
            attempt(room)
            os._exit(0)
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
"""


@pytest.mark.alone  # it counts all processes of this user
@pytest.mark.slow
def test_however_few_processes_a_user_may_have_a_run_is_whole_or_names_the_limit_and_leaves_nothing(run_program):
    done = run_program(SCARCE)
    lines = done.stdout.splitlines()
    assert len(lines) == 10, done.stderr
    assert lines[1::2] == ["0"] * 5
    for line in lines[::2]:
        story, _, left = line.partition(" ; left: ")
        assert left.split() == ["0"]
        assert story == "ok" or "(ulimit -u)" in story or "Resource temporarily unavailable" in story


CLOSED = """
    import os
    from mpengine import Engine

    def print_below(x):
        for fd in (1, 2):
            try:
                os.write(fd, b"printed")
            except OSError:
                pass
        os.system("echo printed; echo printed >&2")
        return x

    def is_open(fd):
        try:
            os.fstat(fd)
        except OSError:
            return False
        return True

    stories = []
    for method in ("forkserver", "spawn", "fork"):
        values = Engine(2, start_method=method).run([range(6), print_below]).report.values
        stories.append(f"{values == list(range(6))} {[is_open(fd) for fd in range(3)]}")
    with open("stories", "w") as file:
        file.write("\\n".join(stories))
"""


@pytest.mark.slow
@pytest.mark.parametrize("closed", ["0 1 2", "1 2"])
def test_what_stages_print_where_standard_files_are_closed_goes_into_no_pipe_of_the_engines(tmp_path, closed):
    """Those who print then would write into whatever has the number: the run hung."""
    program = tmp_path / "program.py"
    program.write_text(textwrap.dedent(CLOSED))
    command = shlex.join([sys.executable, str(program)]) + "".join(f" {fd}>&-" for fd in closed.split())
    subprocess.run(["sh", "-c", command], env=ENVIRONMENT, cwd=tmp_path, timeout=30, check=True)
    open_now = [str(fd) not in closed.split() for fd in range(3)]
    assert (tmp_path / "stories").read_text().splitlines() == [f"True {open_now}"] * 3


# ---------------------------------------------------------------------- memory


def limit_memory(state):
    used_bytes = psutil.Process().memory_info().vms
    resource.setrlimit(resource.RLIMIT_AS, (used_bytes + 200_000_000,) * 2)


def use_much(x):
    if x == 3:
        bytearray(1_000_000_000)
    return b"x" * 150_000_000 if x == 4 else x


@pytest.mark.slow
def test_a_lack_of_memory_in_a_worker_is_the_error_of_its_item(make_engine):
    """In the function, and in pickling what it has returned."""
    result = make_engine("fork", on_error="drop").run([range(8), stage(use_much, setup=limit_memory)])
    assert result.unwrap().values == [0, 1, 2, 5, 6, 7]
    assert {error.index: type(error.error) for error in result.report.errors} == {3: MemoryError, 4: MemoryError}


def nested(depth):
    thing = []
    for _ in range(depth):
        thing = [thing]
    return thing


def recurse(x):
    return recurse(x + 1)


class Endless:
    def __repr__(self):
        return repr(self)


def overflow_in_c(x):
    sys.setrecursionlimit(10**9)
    return repr(Endless())


@pytest.mark.slow
def test_what_is_too_deep_is_the_error_of_its_item_and_a_stack_that_overflows_a_death(make_engine):
    """Items and results nested too deeply to be pickled, calls, and calls that C code has no more stack for."""
    with make_engine("fork", on_error="drop") as engine:
        deep = {2: recurse, 3: lambda x: nested(100_000), 4: overflow_in_c}
        report = engine.run([[0, nested(100_000), 2, 3, 4, 5], lambda x: deep[x](x) if x in deep else x]).unwrap()
        assert report.values == [0, 5]
        errors = {error.index: error.error for error in report.errors}
        assert sorted(errors) == [1, 2, 3, 4]
        assert isinstance(errors[2], RecursionError)
        # From Python 3.12 on C code may notice in time.
        assert isinstance(errors[4], RecursionError) or (
            type(errors[4]) is WorkerDiedError and "SIGSEGV" in str(errors[4])
        )
        assert all("recursion" in str(errors[index]) for index in (1, 3))


@pytest.mark.parametrize("kind", ["inline", pytest.param("fork", marks=pytest.mark.slow)])
def test_what_was_delivered_is_held_by_nobody_but_its_consumer(make_engine, kind):
    engine = make_engine(kind, buffer=16)
    items, results = [], []

    class Thing:
        pass

    def source():
        for _ in range(600):
            thing = Thing()
            items.append(weakref.ref(thing))
            yield thing
            del thing

    with engine.iter([source, stages.keep]) as stream:
        bound = stream.snapshot().lead_bound
        for result in stream:
            results.append(weakref.ref(result))
            del result
            if len(results) % 100 == 0:
                gc.collect()
                assert sum(item() is not None for item in items) <= bound + 1
                assert sum(given() is not None for given in results) <= bound
    gc.collect()
    assert not any(reference() for reference in (*items, *results))


# ---------------------------------------------------------------------- folders


def held(pid):
    """Return the names of what a process has mapped or open."""
    names = []
    with contextlib.suppress(OSError):  # some may end meanwhile
        names += Path(f"/proc/{pid}/maps").read_text().splitlines()
        for link in Path(f"/proc/{pid}/fd").iterdir():
            names.append(str(link.readlink()))
    return names


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["forkserver", "spawn", "fork"])
def test_nothing_in_shared_memory_or_of_temporary_files_is_in_use_while_a_run_goes_on(make_engine, monkeypatch, kind):
    """So it does not matter whether /dev/shm is full, small or not there, nor whether there is a temporary folder."""
    monkeypatch.setenv("TMPDIR", "/nonexistent")
    engine = make_engine(kind, metrics_interval_s=0.01)
    found = []
    with engine.iter([iter(range(40)), stages.keep]) as stream:
        for value in stream:
            if value == 20:
                parent = psutil.Process()
                family = [parent, *parent.children(recursive=True)]
                found = [name for process in family for name in held(process.pid)]
    assert found
    assert [name for name in found if "/dev/shm" in name or "SYSV" in name] == []


@pytest.mark.slow
def test_a_program_whose_folder_is_gone_and_that_has_no_temporary_folder_forks_its_workers(run_program):
    done = run_program("""
        import os, tempfile
        from mpengine import Engine

        folder = tempfile.mkdtemp()
        os.environ["TMPDIR"] = "/nonexistent"
        os.chdir(folder)
        os.rmdir(folder)
        print(Engine(2, start_method="fork").run([range(5), lambda x: x]).unwrap().values)
        result = Engine(2).run([range(5), lambda x: x])
        print(result.reason)
    """)
    values, reason = done.stdout.splitlines()
    assert values == "[0, 1, 2, 3, 4]", done.stderr
    assert reason.startswith("workers could not be started: FileNotFoundError")
