"""`ctrt` on the kernel of a Debian release: cgroup v2 with all controllers, AppArmor, systemd.

This kernel is older than what `ctrt` likes best (overlayfs takes no descriptors before Linux
6.13, and no layer one by one before 6.7), so that the ways around it run for real.
"""

from __future__ import annotations

import json

from vm_image import OTHER_USER, USER
from vm_machine import Machine

BOX = "localhost/test/box"


def doctor(machine: Machine, user: str | None = None) -> dict[str, str]:
    """The table of `ctrt doctor`: what -> here."""
    lines = machine.check("ctrt", "doctor", user=user).splitlines()
    here, means = lines[0].index("HERE"), lines[0].index("MEANS")
    return {line[:here].strip(): line[here:means].strip() for line in lines[1:]}


def test_doctor_of_root_sees_cgroup_v2_and_apparmor(vm: Machine) -> None:
    found = doctor(vm)
    assert found["user"] == "root"
    assert found["cgroup"] == "/sys/fs/cgroup/ctrt"
    assert "apparmor" in found["security modules"].split(",")
    assert found["seccomp"] == "yes"


def test_root_runs_in_a_cgroup_v2_of_its_own(vm: Machine) -> None:
    name = vm.check("ctrt", "run", "-d", "--name", "grouped", BOX, "sleep", "100").strip()
    (pid,) = vm.check("pgrep", "-x", "sleep").split()
    group = vm.check("cat", f"/proc/{pid}/cgroup").strip().removeprefix("0::")
    members = vm.check("cat", f"/sys/fs/cgroup{group}/cgroup.procs").split()
    vm.check("ctrt", "stop", "--time", "0", name)
    assert group.startswith(f"/ctrt/{name}")
    assert members == [pid]
    assert vm.check("ls -F /sys/fs/cgroup/ctrt | grep / || true") == ""
    assert vm.run("pgrep", "-x", "sleep").status == 1


def test_root_s_limits_are_those_of_cgroup_v2(vm: Machine) -> None:
    options = "-m 64m --memory-swap 96m --cpus 0.5 -c 300 --cpuset-cpus 0 --pids-limit 33"
    vm.check(f"ctrt run -d --name limited {options} {BOX} sleep 100")
    script = """
        cd /sys/fs/cgroup/ctrt/limited-*
        cat memory.max memory.swap.max cpu.max cpu.weight cpuset.cpus pids.max
    """
    found = vm.check("sh", "-c", script).splitlines()
    # A command that comes later is in it, too.
    inside = vm.check("ctrt", "exec", "limited", "cat", "/proc/self/cgroup")
    vm.check("ctrt", "stop", "--time", "0", "limited")
    assert found == [str(64 << 20), str(32 << 20), "50000 100000", "39", "0", "33"]
    assert inside == "0::/\n"
    assert vm.check("ls -F /sys/fs/cgroup/ctrt | grep / || true") == ""


def test_a_user_s_limits_are_left_out_with_a_word(vm: Machine) -> None:
    options = "-m 64m --ulimit nofile=33"
    found = vm.run(f"ctrt run {options} {BOX} sh -c 'ulimit -n'", user=OTHER_USER)
    assert (found.status, found.out) == (0, "33\n")
    assert "limits are ignored for what is not delegated to you: memory" in found.err


def test_the_container_sees_itself_as_the_top_of_its_cgroups(vm: Machine) -> None:
    out = vm.check("ctrt", "run", BOX, "cat", "/proc/self/cgroup")
    assert out == "0::/\n"


def test_root_writes_to_an_overlay_that_is_mounted_the_old_way(vm: Machine) -> None:
    script = "echo written >/file && cat /file && grep ' / / ' /proc/self/mountinfo"
    out = vm.check("ctrt", "run", BOX, "sh", "-c", script).splitlines()
    assert out[0] == "written"
    kind, _, options = out[1].partition(" - ")[2].split()
    assert kind == "overlay"
    assert "lowerdir=/var/lib/ctrt/layers/" in options
    # The layer is as it was: what was written went to the container's own directory.
    assert vm.run("ls /var/lib/ctrt/layers/*/diff/file").status != 0
    assert vm.check("ls", "/var/lib/ctrt/containers") == ""


def test_a_container_of_root_has_the_default_capabilities_and_no_more(vm: Machine) -> None:
    lines = vm.check("ctrt", "run", BOX, "cat", "/proc/self/status").splitlines()
    status = dict(line.split(":\t", 1) for line in lines if ":\t" in line)
    assert status["CapEff"] == status["CapBnd"] == "00000000800405fb"
    assert status["CapAmb"] == "0000000000000000"
    assert (status["NoNewPrivs"], status["Seccomp"]) == ("1", "2")


def test_capabilities_that_other_machines_lack_are_given(vm: Machine) -> None:
    # CAP_SYS_RESOURCE is what the tests' own machine may not have.
    out = vm.check(
        "ctrt", "run", "--cap-add", "SYS_RESOURCE", BOX,
        "sh", "-c", "ulimit -Hc 1; ulimit -Hc 2; ulimit -Hc; grep CapEff /proc/self/status",
    )  # fmt: skip
    limit, _, effective = out.split()
    assert limit == "2"  # a hard limit was raised
    assert int(effective, 16) & 1 << 24


def test_the_picture_of_a_container_on_this_kernel(vm: Machine) -> None:
    name = vm.check("ctrt", "run", "-d", "--name", "drawn", BOX, "sleep", "100").strip()
    graph = json.loads(vm.check("ctrt", "graph", "--json", name))
    kinds = {row["kind"] for row in graph["rows"]}
    assert {"pid", "mnt", "net", "uts", "ipc", "cgroup"} <= kinds
    assert "dotted" not in {node["border"] for node in graph["nodes"]}
    vm.check("ctrt", "stop", "--time", "0", name)


def test_root_unshares(vm: Machine) -> None:
    line = (
        "ctrt unshare -mpuf --mount-proc sh -c 'hostname elsewhere; hostname; ls -d /proc/[0-9]*'"
    )
    assert vm.check(line).split()[:2] == ["elsewhere", "/proc/1"]
    assert vm.check("hostname") == "ctrt-vm\n"


def test_root_unshares_a_cgroup_namespace(vm: Machine) -> None:
    assert vm.check("ctrt unshare -C cat /proc/self/cgroup") == "0::/\n"


def test_a_user_unshares_as_root_of_its_own_namespace(vm: Machine) -> None:
    out = vm.check("ctrt unshare -Ur sh -c 'id -u; cat /proc/self/uid_map'", user=OTHER_USER)
    assert out.split() == ["0", "0", "1001", "1"]


def test_a_user_without_subordinate_ids_runs_a_container(vm: Machine) -> None:
    script = "cat /proc/self/uid_map; echo written >/file; cat /file"
    out = vm.check("ctrt", "run", BOX, "sh", "-c", script, user=OTHER_USER)
    assert out.split() == ["0", "1001", "1", "written"]
    assert doctor(vm, OTHER_USER)["cgroup"] == "none"


def test_systemd_delegates_a_cgroup_and_doctor_says_so(systemd_vm: Machine) -> None:
    found = doctor(systemd_vm, USER)
    assert found["cgroup"].startswith(
        "/sys/fs/cgroup/user.slice/user-1000.slice/user@1000.service/"
    )
    assert found["ids of a container"] == "65537"


def test_a_user_under_systemd_runs_in_a_cgroup_of_its_own(systemd_vm: Machine) -> None:
    script = f"""
        name=$(ctrt run -d {BOX} sleep 100)
        pid=$(pgrep -x -u student sleep)
        cat /proc/$pid/cgroup /proc/$pid/uid_map
        echo "$name"
        ctrt stop --time 0 "$name"
        find /sys/fs/cgroup$(cut -d: -f3 /proc/self/cgroup) -name "$name*"
    """
    group, first, second, *rest = systemd_vm.check("sh", "-c", script, user=USER).splitlines()
    assert first.split() == ["0", "1000", "1"]
    assert second.split() == ["1", "100000", "65536"]
    name = rest[0]
    assert group.startswith("0::/user.slice/user-1000.slice/user@1000.service/")
    assert group.rpartition("/")[0].endswith("/ctrt")
    assert group.rpartition("/")[2].startswith(name)
    assert rest[1:] in ([], [name])  # `stop` may print the name; no cgroup is left


def test_root_under_systemd_runs_a_container(systemd_vm: Machine) -> None:
    out = systemd_vm.check("ctrt", "run", BOX, "sh", "-c", "id -u; cat /proc/self/cgroup")
    assert out.split() == ["0", "0::/"]


def test_under_selinux_a_container_keeps_the_label_of_its_caller(selinux_vm: Machine) -> None:
    out = selinux_vm.check("ctrt", "run", BOX, "cat", "/proc/self/attr/current")
    assert out.startswith("system_u:system_r:kernel_t:s0")
    assert "selinux" in doctor(selinux_vm)["security modules"].split(",")
