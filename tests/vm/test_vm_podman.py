"""podman under systemd on cgroup v2: limits of root, and of an ordinary user by delegation."""

from __future__ import annotations

import pytest
from vm_image import ROOTFS, USER
from vm_machine import Machine

IMAGE = "localhost/box"
SCRIPT = "cd /sys/fs/cgroup && cat memory.max pids.max cpu.max"


@pytest.fixture(scope="module", params=["root", "rootless"])
def user(request: pytest.FixtureRequest, systemd_vm: Machine) -> str | None:
    found = None if request.param == "root" else USER
    systemd_vm.check(f"tar -C {ROOTFS} -c . | podman import --quiet - {IMAGE}", user=found)
    return found


@pytest.mark.parametrize("runtime", ["/usr/bin/crun", "/opt/ctrt/bin/ctrt-runtime"])
def test_limits_are_seen_from_inside(systemd_vm: Machine, user: str | None, runtime: str) -> None:
    out = systemd_vm.check(
        f"podman --runtime {runtime} run --rm --network none --memory 64m --pids-limit 20"
        f" --cpus 0.5 {IMAGE} sh -c '{SCRIPT}'",
        user=user,
    )
    assert out.split() == [str(64 << 20), "20", "50000", "100000"]


def test_pause_works_where_the_freezer_is_delegated(systemd_vm: Machine, user: str | None) -> None:
    if user is None:
        pytest.skip("root pauses on every machine: tests/peers")
    runtime = "/opt/ctrt/bin/ctrt-runtime"
    out = systemd_vm.check(
        f"""
        podman --runtime {runtime} run -d --name paused --network none {IMAGE} sleep 100 >/dev/null
        podman --runtime {runtime} pause paused >/dev/null
        podman inspect --format '{{{{.State.Status}}}}' paused
        podman --runtime {runtime} unpause paused >/dev/null
        podman --runtime {runtime} exec paused echo inside
        podman --runtime {runtime} rm --force --time 0 paused >/dev/null
        """,
        user=user,
    )
    assert out.split() == ["paused", "inside"]
