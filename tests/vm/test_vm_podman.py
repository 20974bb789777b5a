"""podman under systemd on cgroup v2, of root and of an ordinary user, on crun and on ours."""

from __future__ import annotations

import pytest
from vm_image import ROOTFS, USER
from vm_machine import Machine

IMAGE = "localhost/box"
OURS = "/opt/ctrt/bin/ctrt-runtime"
RUNTIMES = ["/usr/bin/crun", OURS]


@pytest.fixture(scope="module", params=["root", "rootless"])
def user(request: pytest.FixtureRequest, systemd_vm: Machine) -> str | None:
    found = None if request.param == "root" else USER
    systemd_vm.check(f"tar -C {ROOTFS} -c . | podman import --quiet - {IMAGE}", user=found)
    return found


OPTIONS = """
    --memory 64m --memory-reservation 32m --pids-limit 20 --cpus 0.5
    --cap-drop all --cap-add CHOWN,NET_BIND_SERVICE --read-only --tmpfs /scratch:size=1m,mode=700
    --sysctl kernel.msgmax=12345 --device /dev/full:/dev/given:r --ulimit nofile=321:654
    --hostname peer --workdir /bin --env GIVEN=this --group-add 42 --oom-score-adj 300
    --shm-size 3m --umask 0027 --security-opt seccomp=/tmp/profile.json
    -v /tmp/volume:/private:private -v /tmp/volume:/slave:slave -v /tmp/volume:/shared:shared
    -v /tmp/volume:/ro:ro,rslave
"""
PROFILE = """{"defaultAction": "SCMP_ACT_ALLOW",
 "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 95}]}"""
SHOW = """
cd /sys/fs/cgroup && grep . memory.max memory.low memory.swap.max pids.max cpu.max
cd /bin; cat /proc/self/cgroup; grep -E "Cap|NoNew|Seccomp:|Groups|Uid|Gid" /proc/self/status
grep -E " /(private|slave|shared|ro|scratch|dev/shm) " /proc/self/mountinfo | cut -d" " -f5- |
    sed "s/:[0-9]*//g"
cat /proc/sys/kernel/msgmax; stat -c "%t:%T %a %u" /dev/given; ulimit -Sn; ulimit -Hn
hostname; pwd; echo $GIVEN; cat /proc/self/oom_score_adj; umask; id
mkdir /scratch/x 2>&1; touch /bin/x 2>&1; touch /ro/x 2>&1; cat /proc/self/uid_map
cat /proc/self/attr/current 2>&1; ls /dev | grep -v core; ls /proc/self/fd
head -c1 /dev/given >/dev/null && echo opened; (: >/dev/given) 2>&1
"""


def test_everything_is_as_with_crun(systemd_vm: Machine, user: str | None) -> None:
    systemd_vm.put("/tmp/profile.json", PROFILE)
    systemd_vm.check("mkdir -p /tmp/volume && chmod 777 /tmp/volume")
    shown = {}
    for runtime in RUNTIMES:
        words = f"podman --runtime {runtime} run --rm --network none {' '.join(OPTIONS.split())}"
        result = systemd_vm.run(f"{words} {IMAGE} sh -c '{SHOW}'", user=user)
        assert result.out, result
        shown[runtime] = sorted(result.out.splitlines())
    assert shown[OURS] == shown["/usr/bin/crun"]
    text = "\n".join(shown[OURS])
    for found in (
        "memory.max:67108864", "memory.low:33554432", "pids.max:20", "cpu.max:50000 100000",
        "CapEff:\t0000000000000401", "Seccomp:\t2", "/scratch", "12345", "1:7", "321", "654",
        "Operation not supported", "touch: /bin/x: Read-only file system", "opened",
    ):  # fmt: skip
        assert found in text, found


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_a_container_s_life(systemd_vm: Machine, user: str | None, runtime: str) -> None:
    """Pause, update, a health check, and what the limits do."""
    # The file would stay in the container's memory, and what runs next with it.
    eat = "dd if=/dev/zero of=/dev/shm/file bs=1M count=40 2>/dev/null; echo $?; rm /dev/shm/file"
    fork = "for i in 1 2 3 4 5 6 7 8 9 10 11 12; do sleep 100 >/dev/null 2>&1 & done"
    out = systemd_vm.check(
        f"""
        podman="podman --runtime {runtime}"
        $podman run -d --replace --name life --network none --memory 64m --shm-size 60m \\
            --pids-limit 10 --health-interval disable --health-cmd 'test -e /tmp/well' \\
            {IMAGE} sleep 100 >/dev/null
        $podman pause life >/dev/null
        podman inspect --format '{{{{.State.Status}}}}' life
        $podman unpause life >/dev/null
        $podman healthcheck run life && echo too early
        $podman exec life touch /tmp/well
        $podman healthcheck run life && echo well
        $podman update --memory 20m --memory-swap 20m life >/dev/null
        $podman exec life sh -c 'cd /sys/fs/cgroup; cat memory.max memory.swap.max pids.max'
        $podman exec life sh -c '{eat}'
        $podman exec life sh -c '{fork}' 2>&1 | grep -o "can't fork"
        $podman rm --force --time 0 life >/dev/null
        """,
        user=user,
    )
    assert out.splitlines() == [
        *("paused", "unhealthy", "well", str(20 << 20), "0", "10", "137", "can't fork")
    ]
