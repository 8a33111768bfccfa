"""The number of workers on a machine or in a container."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.process.cpus import choose_workers, cpu_quota, usable_cores

V2 = "31 23 0:28 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate"
V1 = "32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,relatime shared:9 - cgroup cgroup rw,cpu,cpuacct"
OTHER = "22 1 254:1 / / rw,relatime - ext4 /dev/root rw\n23 22 0:5 / /mnt rw - 9p  rw"


def write(root: Path, files: dict[str, str]) -> Path:
    for name, content in files.items():
        file = root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(content + "\n")
    return root


def version_2(root: Path, cgroup: str, **quotas: str) -> Path:
    """A machine whose cgroups of version 2 have these quotas, each of a folder such as `pod__container`."""
    files = {"proc/self/cgroup": f"0::{cgroup}", "proc/self/mountinfo": f"{OTHER}\n{V2}"}
    limits = {f"sys/fs/cgroup/{name.replace('__', '/')}/cpu.max": quota for name, quota in quotas.items()}
    return write(root, files | limits)


def version_1(root: Path, quota: str, mount: str = V1, cgroup: str = "/", folder: str = ".") -> Path:
    """A machine whose cgroup of version 1 has this quota in microseconds per 100 ms."""
    where = f"sys/fs/cgroup/cpu,cpuacct/{folder}"
    files = {
        "proc/self/cgroup": f"5:memory:/elsewhere\n1:cpu,cpuacct:{cgroup}",
        "proc/self/mountinfo": f"{OTHER}\n{mount}",
        f"{where}/cpu.cfs_quota_us": quota,
        f"{where}/cpu.cfs_period_us": "100000",
    }
    return write(root, files)


def test_quota_is_rounded_down_and_named(tmp_path: Path) -> None:
    root = version_2(tmp_path, "/pod", pod="250000 100000")

    assert choose_workers("auto", 4, root) == (2, "affinity 4 cores, cgroup quota 2.5 cores")


def test_less_than_a_core_is_one_worker(tmp_path: Path) -> None:
    assert choose_workers("auto", 4, version_2(tmp_path, "/pod", pod="50000 100000")).number == 1


def test_affinity_caps_the_quota(tmp_path: Path) -> None:
    assert choose_workers("auto", 2, version_2(tmp_path, "/pod", pod="800000 100000")).number == 2


def test_without_a_quota_affinity_decides(tmp_path: Path) -> None:
    root = version_2(tmp_path, "/pod", pod="max 100000")

    assert choose_workers("auto", 3, root) == (3, "affinity 3 cores, no cgroup quota")


def test_number_is_taken_as_set(tmp_path: Path) -> None:
    assert choose_workers(7, 2, version_2(tmp_path, "/pod", pod="50000 100000")) == (7, "as set")


def test_tightest_of_the_parents_counts(tmp_path: Path) -> None:
    quotas = {"pod": "150000 100000", "pod__container": "400000 100000", "pod__container__service": "max 100000"}

    assert cpu_quota(version_2(tmp_path, "/pod/container/service", **quotas)) == 1.5


def test_cgroups_of_others_do_not_count(tmp_path: Path) -> None:
    root = version_2(tmp_path, "/pod/container", pod__container="max 100000", pod__other="50000 100000")

    assert cpu_quota(root) is None


@pytest.mark.parametrize(("quota", "cores"), [("300000", 3.0), ("-1", None)])
def test_version_1(tmp_path: Path, quota: str, cores: float | None) -> None:
    assert cpu_quota(version_1(tmp_path, quota)) == cores


def test_version_1_mounted_from_the_containers_cgroup(tmp_path: Path) -> None:
    mount = V1.replace(" / ", " /docker/abc ", 1)

    assert cpu_quota(version_1(tmp_path, "200000", mount, cgroup="/docker/abc")) == 2.0


@pytest.mark.parametrize("cgroup", ["/../sibling", "/elsewhere"])
def test_cgroup_that_cannot_be_seen_leaves_the_mounted_one(tmp_path: Path, cgroup: str) -> None:
    mount = V1.replace(" / ", " /docker/abc ", 1)

    assert cpu_quota(version_1(tmp_path, "200000", mount, cgroup=cgroup)) == 2.0


def test_quota_of_version_1_beside_version_2_without_controllers(tmp_path: Path) -> None:
    root = version_1(tmp_path, "200000", f"{V1}\n{V2.replace('/sys/fs/cgroup', '/sys/fs/cgroup/unified')}")
    write(root, {"proc/self/cgroup": "1:cpu,cpuacct:/\n0::/"})

    assert cpu_quota(root) == 2.0


def test_machine_without_cgroups(tmp_path: Path) -> None:
    assert choose_workers("auto", 3, tmp_path).number == 3


@pytest.mark.parametrize("content", ["", "100000", "a b", "0 0", "100000 0"])
def test_unreadable_quota_is_none(tmp_path: Path, content: str) -> None:
    assert cpu_quota(version_2(tmp_path, "/pod", pod=content)) is None


@given(
    affinity=st.integers(1, 256),
    quotas=st.lists(st.tuples(st.integers(1, 10**8), st.sampled_from([10_000, 100_000, 1_000_000])), max_size=4),
)
def test_never_more_than_may_run_and_never_none(
    tmp_path_factory: pytest.TempPathFactory, affinity: int, quotas: list[tuple[int, int]]
) -> None:
    names = ["__".join("abcd"[: depth + 1]) for depth in range(len(quotas))]
    limits = {name: f"{quota} {period}" for name, (quota, period) in zip(names, quotas, strict=True)}
    root = version_2(tmp_path_factory.mktemp("machine"), "/a/b/c/d", **limits)

    number = choose_workers("auto", affinity, root).number

    assert 1 <= number <= affinity
    assert all(number == 1 or number * period <= quota for quota, period in quotas)
    assert number == affinity or any((number + 1) * period > quota for quota, period in quotas)


def test_this_machine() -> None:
    assert 1 <= choose_workers("auto").number <= usable_cores()
