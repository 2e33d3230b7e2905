"""Processors: usable, free, and how idle threads wait."""

import os
import subprocess
import sys

import pytest

from nnunet_mamba.io import cpu

linux = pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="needs Linux")


@pytest.fixture
def processors(monkeypatch):
    """Sets which processors the process may use, and the quota of its container."""

    def set_(ids, quota=None):
        monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(ids))
        monkeypatch.setattr(cpu, "cpu_quota", lambda: quota)

    return set_


@linux
@pytest.mark.parametrize(("quota", "expected"), [(None, 4), (2.0, 2), (1.5, 2), (0.2, 1), (8.0, 4), (2.4, 2)])
def test_a_containers_quota_limits_the_usable_processors(processors, quota, expected):
    processors(range(4), quota)
    assert cpu.count_usable_cpus() == expected


@linux
def test_hardware_threads_of_one_core_count_once(tmp_path, processors, monkeypatch):
    processors({0, 1, 2, 3, 5})
    monkeypatch.setattr(cpu, "SIBLINGS", f"{tmp_path}/cpu{{}}")
    assert cpu.count_physical_cores() == 5  # the system does not tell
    for number, siblings in {0: "0,4", 1: "1,5", 5: "1,5", 2: "2,6", 3: "3,7"}.items():
        (tmp_path / f"cpu{number}").write_text(siblings)
    assert cpu.count_physical_cores() == 4
    processors({0, 1, 2, 3, 5}, quota=2)
    assert cpu.count_physical_cores() == 2


def groups(root, lines, **files):
    """A file system with the control groups of this process and the given files (`/` is written `__`)."""
    contents = {"proc/self/cgroup": lines, **{f"sys/fs/cgroup/{k}": text for k, text in files.items()}}
    for name, text in contents.items():
        path = root / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


@pytest.mark.parametrize(
    ("lines", "files", "expected"),
    [
        ("0::/\n", {"cpu.max": "200000 100000\n"}, 2.0),
        ("0::/\n", {"cpu.max": "max 100000\n"}, None),
        ("0::/a/b\n", {"a__b__cpu.max": "max 100000\n", "a__cpu.max": "150000 100000\n"}, 1.5),
        ("0::/a/b\n", {"a__b__cpu.max": "300000 100000\n", "a__cpu.max": "400000 100000\n"}, 3.0),
        ("0::/gone\n", {"cpu.max": "50000 100000\n"}, 0.5),
        (
            "4:cpu,cpuacct:/x\n1:memory:/x\n",
            {
                "cpu,cpuacct__x__cpu.cfs_quota_us": "250000\n",
                "cpu,cpuacct__x__cpu.cfs_period_us": "100000\n",
            },
            2.5,
        ),
        ("1:cpu:/\n", {"cpu__cpu.cfs_quota_us": "-1\n", "cpu__cpu.cfs_period_us": "100000\n"}, None),
        ("2:memory:/\n", {"memory__cpu.max": "100000 100000\n"}, None),
        ("1:cpu:/\n", {}, None),
    ],
)
def test_the_smallest_quota_of_nested_groups_holds(tmp_path, lines, files, expected):
    groups(tmp_path, lines, **files)
    assert cpu.cpu_quota(tmp_path) == expected


def test_without_control_groups_there_is_no_quota(tmp_path):
    assert cpu.cpu_quota(tmp_path) is None


@pytest.mark.parametrize(
    ("n", "busy", "expected"),
    [(2, 0, 2), (2, 1, 1), (2, 2, 1), (16, 8, 8), (16, 15, 1), (64, 4, 60), (1, 3, 1)],
)
def test_processors_that_others_use_are_not_free(monkeypatch, n, busy, expected):
    monkeypatch.setattr(cpu, "count_usable_cpus", lambda: n)
    monkeypatch.setattr(cpu, "_share", lambda end: n / (n + busy))  # what a fair scheduler gives each thread
    assert cpu.count_free_cpus() == expected


def test_a_share_is_measured():
    import time

    assert 0 < cpu._share(time.monotonic() + 0.05) <= 1.01


@pytest.mark.parametrize(
    ("told", "policy", "steady", "expected"),
    [
        ("3", "", False, 3),
        ("3,1", "passive", True, 3),
        ("0", "", False, 2),
        ("", "", False, 2),
        ("", "", True, 7),
        ("", "PASSIVE", False, 7),
        ("", "passive", False, 7),
        ("", "ACTIVE", False, 2),
    ],
)
def test_threads_that_spin_take_free_cores_only(monkeypatch, told, policy, steady, expected):
    monkeypatch.setattr(cpu, "count_physical_cores", lambda: 7)
    monkeypatch.setattr(cpu, "count_free_cpus", lambda: 2)
    monkeypatch.setenv("OMP_NUM_THREADS", told)
    monkeypatch.setenv("OMP_WAIT_POLICY", policy)
    assert cpu.choose_n_threads(steady=steady) == expected


def test_what_the_user_set_stays(monkeypatch):
    for name in cpu.PASSIVE_WAITING:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("OMP_WAIT_POLICY", "ACTIVE")
    cpu.wait_passively()
    assert {name: os.environ[name] for name in cpu.PASSIVE_WAITING} == {
        **cpu.PASSIVE_WAITING,
        "OMP_WAIT_POLICY": "ACTIVE",
    }
    assert not cpu.is_waiting_passively()


def test_every_verb_has_idle_threads_sleep_in_itself_and_its_children():
    """Before torch is loaded, which reads the variables once."""
    code = (
        "import sys, os; from nnunet_mamba.cli import main\n"
        "assert 'torch' not in sys.modules; main(['trainers-path'])\n"
        "assert 'torch' not in sys.modules; print(os.environ['OMP_WAIT_POLICY'])"
    )
    clean = {name: value for name, value in os.environ.items() if name not in cpu.PASSIVE_WAITING}
    done = subprocess.run([sys.executable, "-c", code], env=clean, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "PASSIVE"


@pytest.mark.parametrize("told", [None, "0"])
def test_tensors_lie_on_huge_pages_unless_the_user_says_no(monkeypatch, told):
    monkeypatch.delenv(cpu.HUGE_PAGES, raising=False)
    if told is not None:
        monkeypatch.setenv(cpu.HUGE_PAGES, told)
    cpu.allocate_on_huge_pages()
    assert os.environ[cpu.HUGE_PAGES] == (told or "1")
    os.environ.pop(cpu.HUGE_PAGES)
