"""When memory is tight, and where that is read: with fakes for control groups, and files for the kernel's (Y1, Y2)."""

import pytest

from mpengine.backends.cgroups import MemoryGroup, memory_groups, oom_kills
from mpengine.backends.pressure import HIGH, LOOK_S, LOW, MemoryPressure
from mpengine.scheduler.events import MemoryEased, MemoryTightened

LIMIT = 1000


class Group:
    """A control group that uses what a test says."""

    limit = LIMIT

    def __init__(self):
        self.use = 0

    def used(self):
        if self.use is None:
            raise OSError("gone")
        return self.use


@pytest.fixture
def group():
    return Group()


@pytest.fixture
def warnings():
    return []


@pytest.fixture
def look(group, warnings):
    """Look once more, with so much in use; returns what is told."""
    pressure = MemoryPressure([group], warnings.append)
    clock = iter(range(1, 1000))

    def look(use):
        group.use = use
        return pressure.look(next(clock) * LOOK_S)

    return look


def test_nothing_is_looked_at_without_a_limit():
    pressure = MemoryPressure([], print)
    assert pressure.wait_s(5.0) is None
    assert pressure.look(5.0) == []


def test_the_next_look_comes_an_interval_later_and_no_sooner(group):
    pressure = MemoryPressure([group], print)
    assert pressure.wait_s(5.0) == 0.0
    assert pressure.look(5.0) == []
    assert pressure.wait_s(5.0) == pytest.approx(LOOK_S)
    group.use = LIMIT
    assert pressure.look(5.0 + LOOK_S / 2) == []


def test_it_is_told_once_that_it_gets_tight_and_once_that_it_is_well_again(look, warnings):
    high, low = int(HIGH * LIMIT), int(LOW * LIMIT)
    told = [[type(event) for event in look(use)] for use in (0, high - 1, high, LIMIT, low, low - 1, high - 1, high)]
    assert told == [[], [], [MemoryTightened], [], [], [MemoryEased], [], [MemoryTightened]]
    assert (
        warnings
        == [f"the control group uses {high} of its 1,000 bytes of memory: batches run one at a time until it uses less"]
        * 2
    )


def test_a_group_that_has_gone_limits_nothing(look):
    assert [type(event) for event in look(LIMIT)] == [MemoryTightened]
    assert [type(event) for event in look(None)] == [MemoryEased]


def test_the_tightest_group_counts(group, warnings):
    wide = Group()
    pressure = MemoryPressure([wide, group], warnings.append)
    group.use = LIMIT
    assert [type(event) for event in pressure.look(0.0)] == [MemoryTightened]


# ---------------------------------------------------------------------- the kernel's files


def write(root, files):
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def test_version_2_tells_its_limit_and_what_is_in_use_without_idle_cache(tmp_path):
    write(tmp_path, {
        "proc/self/cgroup": "0::/outer/inner\n",
        "sys/fs/cgroup/outer/memory.max": "5000\n",
        "sys/fs/cgroup/outer/memory.current": "4000\n",
        "sys/fs/cgroup/outer/memory.stat": "anon 7\ninactive_file 1400\nactive_file 90\nslab_reclaimable 10\n",
        "sys/fs/cgroup/outer/inner/memory.max": "max\n",
    })  # fmt: skip
    assert memory_groups(tmp_path) == [MemoryGroup(str(tmp_path / "sys/fs/cgroup/outer"), 5000, is_second=True)]
    assert memory_groups(tmp_path)[0].used() == 2500


def test_version_1_tells_the_same_in_its_own_files(tmp_path):
    write(tmp_path, {
        "proc/self/cgroup": "4:memory:/here\n3:cpu:/elsewhere\n",
        "sys/fs/cgroup/memory/here/memory.limit_in_bytes": "5000\n",
        "sys/fs/cgroup/memory/here/memory.usage_in_bytes": "4000\n",
        "sys/fs/cgroup/memory/here/memory.stat": "inactive_file 1\ntotal_inactive_file 1000\n",
        "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n",
        "sys/fs/cgroup/memory/elsewhere/memory.limit_in_bytes": "1\n",
    })  # fmt: skip
    assert memory_groups(tmp_path) == [MemoryGroup(str(tmp_path / "sys/fs/cgroup/memory/here"), 5000, is_second=False)]
    assert memory_groups(tmp_path)[0].used() == 3000


def test_a_machine_without_control_groups_has_none(tmp_path):
    assert memory_groups(tmp_path) == []


@pytest.mark.parametrize(("text", "kills"), [("pgfault 3\noom_kill 12\n", 12), ("oom_kill x\n", 0), ("", 0)])
def test_the_kernel_counts_those_it_has_killed(tmp_path, text, kills):
    write(tmp_path, {"proc/vmstat": text})
    assert oom_kills(tmp_path) == kills
    assert oom_kills(tmp_path / "nowhere") == 0


def test_its_own_control_group_counts_and_not_what_others_have_met(tmp_path):
    write(tmp_path, {
        "proc/vmstat": "oom_kill 12\n",
        "proc/self/cgroup": "0::/here\n",
        "sys/fs/cgroup/here/memory.events": "oom 1\noom_kill 3\n",
    })  # fmt: skip
    assert oom_kills(tmp_path) == 3
