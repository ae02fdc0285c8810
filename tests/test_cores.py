"""The cores of this process: affinity, and the least CPU quota of its control groups."""

import os

import pytest

from mpengine.backends import cores
from mpengine.backends.cores import available_cores, cpu_quota


@pytest.fixture
def machine(tmp_path):
    """Return a function that writes the files of a machine, and its root."""

    def make(cgroup, files):
        (tmp_path / "proc/self").mkdir(parents=True)
        if cgroup is not None:
            (tmp_path / "proc/self/cgroup").write_text(cgroup)
        for name, text in files.items():
            path = tmp_path / "sys/fs/cgroup" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return tmp_path

    return make


V1 = "12:cpuset:/\n4:cpu,cpuacct:/outer/inner\n1:name=systemd:/user.slice\n"


@pytest.mark.parametrize(
    ("cgroup", "files", "expected"),
    [
        pytest.param(None, {}, None, id="no files at all"),
        pytest.param("0::/\n", {}, None, id="a root without a quota"),
        pytest.param("0::/\n", {"cpu.max": "max 100000\n"}, None, id="no quota is set"),
        pytest.param("0::/\n", {"cpu.max": "250000 100000\n"}, 2.5, id="the container's own root"),
        pytest.param(None, {"cpu.max": "250000 100000\n"}, 2.5, id="proc tells nothing"),
        pytest.param("0::/user.slice/job\n", {"user.slice/job/cpu.max": "300000 100000\n"}, 3.0, id="its own group"),
        pytest.param(
            "0::/a/b/c\n",
            {"a/cpu.max": "200000 100000\n", "a/b/cpu.max": "400000 100000\n", "a/b/c/cpu.max": "max 100000\n"},
            2.0,
            id="a group above has the least",
        ),
        pytest.param(
            "0::/a/b\n", {"a/cpu.max": "800000 100000\n", "a/b/cpu.max": "50000 100000\n"}, 0.5, id="less than one core"
        ),
        pytest.param("0::/a/other\n", {"a/mine/cpu.max": "100000 100000\n"}, None, id="another group's quota"),
        pytest.param(
            "0::/docker/0123/job\n", {"cpu.max": "200000 100000\n"}, 2.0, id="a path that cannot be seen from inside"
        ),
        pytest.param(
            "0::/../../other\n",
            {"cpu.max": "200000 100000\n", "../../other/cpu.max": "1000 1000\n"},
            2.0,
            id="outside",
        ),
        pytest.param("0::/\n", {"unified/cpu.max": "150000 100000\n"}, 1.5, id="version 2 beside version 1"),
        pytest.param("0::/a b:c\n", {"a b:c/cpu.max": "150000 100000\n"}, 1.5, id="an odd name"),
        pytest.param(
            V1,
            {"cpu/outer/inner/cpu.cfs_quota_us": "150000\n", "cpu/outer/inner/cpu.cfs_period_us": "50000\n"},
            3.0,
            id="version 1",
        ),
        pytest.param(
            V1,
            {
                "cpu,cpuacct/outer/cpu.cfs_quota_us": "100000\n",
                "cpu,cpuacct/outer/cpu.cfs_period_us": "100000\n",
                "cpu,cpuacct/outer/inner/cpu.cfs_quota_us": "-1\n",
                "cpu,cpuacct/outer/inner/cpu.cfs_period_us": "100000\n",
            },
            1.0,
            id="version 1, mounted under both names, a group above",
        ),
        pytest.param(
            "4:cpu:/docker/0123\n",
            {"cpu/cpu.cfs_quota_us": "200000\n", "cpu/cpu.cfs_period_us": "100000\n"},
            2.0,
            id="version 1 in a container",
        ),
        pytest.param("3:cpuset:/a\n", {"cpuset/a/cpu.max": "1000 1000\n"}, None, id="another controller"),
        pytest.param("0::/\n", {"cpu.max": "nonsense\n"}, None, id="nonsense"),
        pytest.param("0::/\n", {"cpu.max": "1000 0\n"}, None, id="a period of nothing"),
        pytest.param("nonsense\n\n", {"cpu.max": "1000 1000\n"}, 1.0, id="nonsense in proc"),
    ],
)
def test_the_least_quota_on_the_way_to_the_root_binds(machine, cgroup, files, expected):
    assert cpu_quota(machine(cgroup, files)) == expected


@pytest.mark.parametrize(
    ("affinity", "quota", "expected"),
    [(8, None, 8), (8, 2.5, 2), (8, 0.5, 1), (2, 6.0, 2), (1, None, 1)],
)
def test_the_quota_limits_the_affinity(monkeypatch, affinity, quota, expected):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(affinity)), raising=False)
    monkeypatch.setattr(cores, "cpu_quota", lambda: quota)
    assert available_cores() == expected


def test_without_affinity_the_machines_cores_count(monkeypatch):
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(cores, "cpu_quota", lambda: None)
    monkeypatch.setattr(os, "cpu_count", lambda: 6)
    assert available_cores() == 6
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert available_cores() == 1


def test_this_machine_has_a_core():
    assert 1 <= available_cores() <= (os.cpu_count() or 1)
