"""Threads: a container's quota, the affinity and hyper-threads count, not what the machine shows."""

import logging
import os
from pathlib import Path

import pytest

from effir.cpu import threads
from effir.cpu.threads import limit_threads, say_threads, usable_cores

CPUS = "sys/devices/system/cpu/cpu{}/topology/thread_siblings_list"


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine of 8 cores with 2 hyper-threads each, all of them allowed, and no quota."""
    monkeypatch.setattr(threads.os, "sched_getaffinity", lambda _: set(range(16)), raising=False)
    for cpu in range(16):
        write(tmp_path, CPUS.format(cpu), f"{cpu % 8},{cpu % 8 + 8}")
    return tmp_path


def write(root: Path, name: str, text: str) -> None:
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    (root / name).write_text(f"{text}\n")


def test_two_hyper_threads_are_one_core(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert usable_cores(root) == 8
    for allowed, cores in (({0, 8}, 1), ({0, 1, 8}, 2), ({3}, 1)):
        monkeypatch.setattr(threads.os, "sched_getaffinity", lambda _, allowed=allowed: allowed)
        assert usable_cores(root) == cores


def test_without_a_topology_every_processor_is_a_core(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads.os, "sched_getaffinity", lambda _: {0, 1, 2}, raising=False)
    assert usable_cores(tmp_path) == 3


@pytest.mark.parametrize(
    ("quota", "cores"),
    [("200000 100000", 2), ("150000 100000", 2), ("50000 100000", 1), ("max 100000", 8), ("6400000 100000", 8)],
)
def test_a_quota_of_a_container_counts(root: Path, quota: str, cores: int) -> None:
    write(root, "proc/self/cgroup", "0::/")
    write(root, "sys/fs/cgroup/cpu.max", quota)
    assert usable_cores(root) == cores


def test_the_least_quota_of_nested_groups_counts(root: Path) -> None:
    write(root, "proc/self/cgroup", "0::/user.slice/job.scope")
    write(root, "sys/fs/cgroup/user.slice/job.scope/cpu.max", "max 100000")
    write(root, "sys/fs/cgroup/user.slice/cpu.max", "300000 100000")
    assert usable_cores(root) == 3


@pytest.mark.parametrize(("path", "folder"), [("/", ""), ("/docker/abc", "docker/abc/"), ("/gone/abc", "")])
def test_quotas_of_version_1_count_too(root: Path, path: str, folder: str) -> None:
    write(root, "proc/self/cgroup", f"9:name=systemd:/\n4:cpu,cpuacct:{path}\n0::/")
    for name, value in (("quota", 400000), ("period", 100000)):
        write(root, f"sys/fs/cgroup/cpu,cpuacct/{folder}cpu.cfs_{name}_us", str(value))
    assert usable_cores(root) == 4
    write(root, f"sys/fs/cgroup/cpu,cpuacct/{folder}cpu.cfs_quota_us", "-1")
    assert usable_cores(root) == 8


def test_libraries_get_the_usable_cores_unless_the_user_said_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "")  # so that it is undone
    monkeypatch.delenv("OMP_NUM_THREADS")
    monkeypatch.setattr(threads, "shown_processors", lambda: 64)
    for usable, expected in ((64, None), (2, "2")):
        monkeypatch.setattr(threads, "usable_cores", lambda usable=usable: usable)
        limit_threads()
        assert os.environ.get("OMP_NUM_THREADS") == expected
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    limit_threads()
    assert os.environ["OMP_NUM_THREADS"] == "5"


@pytest.mark.parametrize(
    ("usable", "asked", "said"),
    [
        (64, None, []),
        (64, "3", []),
        (2, None, ["computing on 2 of the 64 processors that this machine shows"]),
        (2, "3", ["computing on 3 of the 64 processors that this machine shows"]),
    ],
)
def test_fewer_threads_than_the_machine_shows_are_said_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, usable: int, asked: str | None, said: list[str]
) -> None:
    monkeypatch.setattr(threads, "shown_processors", lambda: 64)
    monkeypatch.setattr(threads, "usable_cores", lambda: usable)
    monkeypatch.setenv("OMP_NUM_THREADS", asked or "")
    if asked is None:
        monkeypatch.delenv("OMP_NUM_THREADS")
    say_threads.cache_clear()
    with caplog.at_level(logging.INFO, logger="effir"):
        say_threads()
        say_threads()
    say_threads.cache_clear()
    assert caplog.messages == said
