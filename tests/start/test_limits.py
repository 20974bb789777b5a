"""Limits of run, as the container and the kernel's files tell them, in each of the three worlds.

An ordinary user has no cgroup here: limits of cgroups are then left out, with a word.
"""

from __future__ import annotations

from glob import glob
from pathlib import Path

IMAGE = "localhost/test/box"


def sh(world, script, *options):
    result = world.ctrt("run", *options, IMAGE, "sh", "-c", script)
    assert result.returncode == 0, result.stderr
    return result


def cgroup_files(name):
    """The directories of a running container's cgroups: v2's, and v1's where a limit needs them."""
    found = [Path(path) for path in glob(f"/sys/fs/cgroup/*/ctrt/{name}-*")]
    unified = [("v2", Path(path)) for path in glob(f"/sys/fs/cgroup/ctrt/{name}-*")]
    return dict([*((path.parts[4], path) for path in found), *unified])


def one_of(*places):
    """The text of the file that there is: of cgroup v1, or of v2."""
    return next(path.read_text().strip() for path in places if path.exists())


def test_what_needs_no_cgroup_works_for_everybody(world):
    words = ("--ulimit", "nofile=64:128", "--shm-size", "3m", "--oom-score-adj", "500")
    words += ("--sysctl", "net.ipv4.ip_default_ttl=70", "--add-host", "db:10.0.0.7")
    script = (
        "ulimit -Sn; ulimit -Hn; df -k /dev/shm | tail -1; cat /proc/self/oom_score_adj "
        "/proc/sys/net/ipv4/ip_default_ttl; grep db /etc/hosts"
    )
    soft, hard, shm, score, ttl, host = sh(world, script, *words).stdout.splitlines()
    assert (soft, hard, shm.split()[1], score, ttl) == ("64", "128", "3072", "500", "70")
    assert host.split() == ["10.0.0.7", "db"]


def test_limits_of_cgroups_hold_or_are_left_out_with_a_word(world):
    words = ("--pids-limit", "9", "--memory", "64m")
    script = "for i in 1 2 3 4 5 6 7 8 9 10 11 12; do sleep 3 & done 2>/dev/null; jobs | wc -l"
    result = world.ctrt("run", *words, IMAGE, "sh", "-c", script)
    if world.user is None:
        assert result.returncode != 0, "the shell cannot make so many"
    else:
        assert result.returncode == 0
        assert result.stdout == "12\n"
        assert "ctrt: limits are ignored for what is not delegated to you: memory" in result.stderr


def test_without_limits_nobody_is_told_anything(world):
    assert sh(world, "true").stderr == ""


def test_more_groups(root_world):
    assert sh(root_world, "id -G", "--group-add", "44").stdout.split() == ["0", "44"]
    result = root_world.ctrt("run", "--group-add", "video", IMAGE, "id")
    assert (result.returncode, "no group 'video'" in result.stderr) == (125, True)


def test_every_limit_is_in_the_kernel_s_files(root_world):
    options = [
        *("--memory", "64m", "--memory-swap", "96m", "--memory-reservation", "32m"),
        *("--cpus", "0.5", "--cpu-shares", "300", "--cpuset-cpus", "0", "--pids-limit", "33"),
        *("--name", "limited", "-d", IMAGE, "sleep", "60"),
    ]
    assert root_world.ctrt("run", *options).returncode == 0
    try:
        found = cgroup_files("limited")
        memory, cpu = found.get("memory", found.get("v2")), found.get("cpu", found.get("v2"))
        cpuset, pids = found.get("cpuset", found.get("v2")), found.get("pids", found.get("v2"))
        limit = one_of(memory / "memory.limit_in_bytes", memory / "memory.max")
        assert int(limit) == 64 << 20
        swap = memory / "memory.memsw.limit_in_bytes"
        if swap.exists():
            assert int(swap.read_text()) == 96 << 20
        soft = one_of(memory / "memory.soft_limit_in_bytes", memory / "memory.low")
        assert int(soft) == 32 << 20
        assert one_of(cpu / "cpu.cfs_quota_us", cpu / "cpu.max").split()[0] == "50000"
        assert one_of(cpu / "cpu.shares", cpu / "cpu.weight") in ("300", "39")
        assert one_of(cpuset / "cpuset.cpus") == "0"
        assert one_of(pids / "pids.max") == "33"
        for directory in set(found.values()):
            if (directory / "cgroup.procs").exists():
                assert directory.joinpath("cgroup.procs").read_text().strip()
        # A command that comes later is limited, too: it is below the root of the same namespace.
        inside = root_world.ctrt("exec", "limited", "cat", "/proc/self/cgroup").stdout
        for line in inside.splitlines():
            _, names, path = line.split(":", 2)
            if not names or {"memory", "pids"} & set(names.split(",")):
                assert path == "/"
    finally:
        root_world.ctrt("stop", "-t", "0", "limited")
    assert cgroup_files("limited") == {}


def test_a_container_that_takes_too_much_memory_is_killed(root_world):
    script = "dd if=/dev/zero of=/dev/null bs=40M count=1 2>/dev/null; echo $?"
    words = ("--memory", "16m", "--memory-swap", "16m")
    assert sh(root_world, script, *words).stdout == "137\n"
    assert sh(root_world, script, "--memory", "64m").stdout == "0\n"


def test_the_parent_of_the_cgroup_can_be_chosen(root_world):
    options = ("--cgroup-parent", "/ctrt-tests", "-d", "--name", "placed", IMAGE, "sleep", "60")
    assert root_world.ctrt("run", *options).returncode == 0
    try:
        places = glob("/sys/fs/cgroup/*/ctrt-tests/placed-*") + glob(
            "/sys/fs/cgroup/ctrt-tests/placed-*"
        )
        assert len(places) == 1
    finally:
        root_world.ctrt("stop", "-t", "0", "placed")


def test_a_device_that_is_passed_in_can_be_used_and_no_other(root_world):
    words = ("--device", "/dev/null:/dev/nothing", "-v", "/dev/kmsg:/dev/kmsg:dev")
    script = "echo x > /dev/nothing && echo written; head -c 1 /dev/kmsg || echo refused"
    result = root_world.ctrt("run", *words, IMAGE, "sh", "-c", script)
    assert result.stdout == "written\nrefused\n"
    assert "Operation not permitted" in result.stderr


def test_a_limit_that_cannot_be_had_names_its_option_s_place(root_world):
    result = root_world.ctrt("run", "--cpuset-cpus", "4000", IMAGE, "true")
    assert result.returncode == 125
    assert result.stderr.count("\n") == 1
    assert "cpuset.cpus" in result.stderr
    assert cgroup_files("4000") == {}
