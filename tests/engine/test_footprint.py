"""What is imported before the first result, by whom and when: every module there costs programs that have stages."""

import subprocess
import sys
import textwrap
import threading

import pytest

from mpengine import Engine, PipelineError
from mpengine.backends.headstart import HeadStart
from mpengine.pipeline import as_pipeline
from mpengine.plan import make_plan
from mpengine.policies import ErrorPolicy

SLOW = {
    "asyncio", "cloudpickle", "concurrent.futures", "ctypes", "dataclasses", "difflib", "hashlib", "inspect", "logging",
    "multiprocessing.connection", "multiprocessing.managers", "multiprocessing.resource_tracker",
    "multiprocessing.spawn", "pathlib", "psutil", "rich", "traceback", "typing", "urllib.parse",
}  # fmt: skip
SLOW_FOR_WORKERS = SLOW | {
    "locale",
    "multiprocessing",
    "multiprocessing.synchronize",
    "random",
    "subprocess",
    "tempfile",
}
OF_THE_PARENT = ("backends", "cli", "coordinator", "engine", "plan", "processes", "scheduler")


def result_of(program, folder):
    """What a program in a new interpreter prints, word by word; in ``named.py`` are functions for it to run."""
    (folder / "named.py").write_text("import sys\n\ndef modules(_):\n    return list(sys.modules)\n")
    program = f"import sys; sys.path.insert(0, {str(folder)!r})\n{textwrap.dedent(program)}"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


@pytest.fixture
def bare():
    """Modules that any interpreter here has before its program begins; coverage and the like have theirs."""
    program = "import sys; print(*sys.modules)"
    return set(
        subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.split()
    )


@pytest.mark.parametrize("start_method", ["forkserver", "spawn"])
def test_a_program_with_a_job_of_one_item_imports_nothing_slow(tmp_path, bare, start_method):
    loaded = result_of(
        f"""
        import named
        from mpengine import Engine
        Engine(2, start_method={start_method!r}, metrics_interval_s=0).run([named.modules], [1]).unwrap()
        print(*sys.modules)
        """,
        tmp_path,
    )
    assert not SLOW & loaded - bare


@pytest.mark.parametrize("start_method", ["forkserver", "spawn"])
def test_its_workers_import_nothing_slow_and_nothing_of_the_parents(tmp_path, bare, start_method):
    loaded = result_of(
        f"""
        import named
        from mpengine import Engine
        result = Engine(2, start_method={start_method!r}).run([named.modules], [1]).unwrap()
        print(*result.values[0])
        """,
        tmp_path,
    )
    assert not SLOW_FOR_WORKERS & loaded - bare
    assert not {name for name in loaded if name.startswith(tuple(f"mpengine.{layer}" for layer in OF_THE_PARENT))}


@pytest.mark.slow
@pytest.mark.parametrize("start_method", ["forkserver", "spawn", "fork"])
def test_multiprocessing_that_a_stage_imports_late_knows_what_the_worker_is_b4(tmp_path, start_method):
    (tmp_path / "late.py").write_text(
        textwrap.dedent("""
        import sys

        def look(_):
            was_there = "multiprocessing" in sys.modules
            import multiprocessing as m
            with m.Pool(1) as pool:
                pool.map(abs, [-1])
            this, parent = m.current_process(), m.parent_process()
            its_parent = (parent.pid, parent.name, parent.is_alive())
            return was_there, this.name, this.authkey.hex(), *its_parent, m.get_start_method()
        """)
    )
    told = result_of(
        f"""
        import multiprocessing, os
        import late
        from mpengine import Engine
        multiprocessing.set_start_method("fork")
        multiprocessing.current_process().name = "its-parent"
        told = Engine(2, start_method={start_method!r}).run([late.look], [1]).unwrap().values[0]
        ours = multiprocessing.current_process().authkey.hex()
        assert told == ({start_method == "fork"}, told[1], ours, os.getpid(), "its-parent", True, "fork"), told
        print(told[1])
        """,
        tmp_path,
    )
    assert told < {"mpengine-worker-0", "mpengine-worker-1"}


def test_the_fork_server_comes_up_while_the_parent_imports_its_own_side(tmp_path, bare):
    loaded = result_of(
        """
        import named
        from mpengine import Engine
        from mpengine.processes import spawning
        launch = spawning.launch
        def look(*args):
            print(*sys.modules)
            return launch(*args)
        spawning.launch = look
        Engine(2).run([named.modules], [1]).unwrap()
        """,
        tmp_path,
    )
    assert "mpengine.processes.nurserylink" in loaded
    assert not {"mpengine.coordinator.run", "mpengine.scheduler.scheduler", "mpengine.backends.process"} & loaded
    assert not {"cloudpickle", "mpengine.ipc.codec", "mpengine.results", "multiprocessing"} & loaded
    assert not {"pickle", "re", "selectors", "socket", "subprocess"} & loaded - bare


def test_workers_share_cloudpickle_where_it_has_pickled_their_stages():
    def shares(_):
        import gc

        module = sys.modules["cloudpickle"]
        return not gc.is_tracked(vars(module)) or gc.get_freeze_count() > 0, "cloudpickle" in sys.modules

    assert Engine(1).run([shares], [1]).unwrap().values == [(True, True)]


# ---------------------------------------------------------------------- the head start


def plan_of(*stages):
    return make_plan(
        as_pipeline(list(stages), [1]).stages, default_buffer=1, default_policy=ErrorPolicy.RAISE, threads=1
    )


def test_a_head_start_that_is_dropped_ends_what_it_has_started_s2():
    head = HeadStart(plan_of(abs), Engine(1)._options, 1, 1)
    registry = head._registry
    (nursery,) = registry.helpers()
    del head
    assert not nursery.is_alive()
    assert registry.verify_gone() == ()


def test_what_will_not_travel_is_refused_before_anything_is_started_s1(monkeypatch):
    monkeypatch.setattr("mpengine.processes.spawning.launch", lambda *_: pytest.fail("started"))
    lock = threading.Lock()

    def refuse(_):
        return lock

    with pytest.raises(PipelineError, match="cannot be sent"):
        Engine(1).run([refuse], [1])


def test_a_head_start_without_descriptors_is_told_by_the_first_worker_s3(monkeypatch):
    def refuse(*_):
        raise OSError("no")

    monkeypatch.setattr("mpengine.processes.spawning.launch", refuse)
    assert "no" in Engine(1).run([abs], [1]).reason


def test_another_pipeline_takes_no_head_start_but_its_registry():
    engine = Engine(1)
    first = engine._make_run(as_pipeline([abs], [-1]))
    second = engine._make_run(as_pipeline([str], [-1]))
    engine._start(second, as_pipeline([str], [-1]))
    values = []
    second.take_all(values, collect=True)
    second.conclude()
    assert values == ["-1"]
    assert first.result is None


# ---------------------------------------------------------------------- logging, when it is imported


def test_a_worker_that_imports_logging_in_the_middle_of_an_item_loses_no_record(tmp_path):
    (tmp_path / "talking.py").write_text(
        "import sys\n\ndef talk(item):\n    before = 'logging' in sys.modules\n"
        "    import logging\n    logging.getLogger('user').info('said %d', item)\n    return before\n"
    )
    program = f"""
        import logging, sys
        sys.path.insert(0, {str(tmp_path)!r})
        import talking
        from mpengine import Engine
        logging.basicConfig(level=logging.INFO, format="%(name)s:%(message)s:%(stage)s")
        with Engine(1) as engine:
            print(engine.run([talking.talk], [5, 6]).unwrap().values)
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True, check=True)
    assert done.stdout == "[False, True]\n"
    assert done.stderr.splitlines() == ["user:said 5:talk", "user:said 6:talk"]
