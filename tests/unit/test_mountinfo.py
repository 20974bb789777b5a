"""Lines of mountinfo, status, cgroup and id maps, written by hand, as values."""

from __future__ import annotations

import os
import pickle

import pytest

from ctrt.linux import mountinfo, namespaces, processes
from ctrt.linux.mountinfo import Mount, parse, parse_line, unescape
from ctrt.linux.processes import Cgroup, Gone, IdRange


def test_a_plain_line():
    line = "36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw,errors=continue"
    mount = parse_line(line)
    assert mount == Mount(
        36, 35, "98:0", "/mnt1", "/mnt2", ("rw", "noatime"), 0, 1, 0, False,
        "ext3", "/dev/root", ("rw", "errors=continue"), line,
    )  # fmt: skip
    assert mount.propagation == "slave"
    assert not mount.read_only


def test_all_optional_fields_and_one_from_the_future():
    mount = parse_line(
        "1 0 0:5 / /x ro shared:7 master:3 propagate_from:2 newfield:9 bare unbindable - t s rw"
    )
    assert (mount.shared, mount.master, mount.propagate_from) == (7, 3, 2)
    assert mount.unbindable
    assert mount.propagation == "unbindable"
    assert parse_line("1 0 0:5 / /x rw shared:7 master:3 - t s rw").propagation == "shared+slave"
    assert parse_line("1 0 0:5 / /x rw - t s rw").propagation == "private"


def test_read_only_by_the_mount_or_by_the_file_system():
    assert parse_line("1 0 0:5 / /x ro - t s rw").read_only
    assert parse_line("1 0 0:5 / /x rw - t s ro,size=4k").read_only


@pytest.mark.parametrize(
    ("escaped", "plain"),
    [
        (r"/a\040b", "/a b"),
        (r"/tab\011nl\012bs\134", "/tab\tnl\nbs\\"),
        (r"/hash\043", "/hash#"),
        (r"/not\0", r"/not\0"),
        (r"/not\999", r"/not\999"),
        (r"/twice\134040", r"/twice\040"),
        ("/plain", "/plain"),
    ],
)
def test_escapes(escaped, plain):
    assert unescape(escaped) == plain


def test_a_separator_in_a_name_and_an_empty_source():
    assert parse_line(r"1 0 0:5 / /a\040-\040b rw - t s rw").target == "/a - b"
    mount = parse_line("1 0 0:5 / /x rw - tmpfs  rw")
    assert (mount.source, mount.super_options) == ("", ("rw",))


@pytest.mark.parametrize(
    "line", ["", "1 0 0:5 / /x rw", "a 0 0:5 / /x rw - t s rw", "1 0 0:5 / /x rw shared:q - t s rw"]
)
def test_what_is_not_a_line_is_quoted(line):
    with pytest.raises(ValueError, match="not a line of mountinfo") as raised:
        parse_line(line)
    assert repr(line) in str(raised.value)


def test_a_table_keeps_the_kernels_order():
    table = parse("5 1 0:1 / / rw - t s rw\n2 5 0:1 / /a rw - t s rw\n")
    assert [mount.id for mount in table] == [5, 2]
    assert parse("") == ()


def test_records_are_frozen_equal_and_picklable():
    mount = parse_line("1 0 0:5 / /x rw - t s rw")
    with pytest.raises(AttributeError):
        mount.id = 2
    assert mount._replace(id=2) != mount
    assert mount._replace(id=2).target == "/x"
    assert hash(mount) == hash(parse_line("1 0 0:5 / /x rw - t s rw"))
    assert pickle.loads(pickle.dumps(mount)) == mount
    assert repr(IdRange(0, 1000, 1)) == "IdRange(inside=0, outside=1000, length=1)"
    with pytest.raises(TypeError, match=r"IdRange\(\) takes inside, outside, length"):
        IdRange(0, 1)


STATUS = (
    "Name:\tsh\nState:\tS (sleeping)\nPid:\t77\nPPid:\t1\nNSpid:\t77\t5\t1\n"
    "Uid:\t1000\t1000\t1000\t1000\nGid:\t100\t100\t100\t100\n"
    "CapInh:\t0000000000000000\nCapPrm:\t00000000a80425fb\nCapEff:\t0000000000000001\n"
    "CapBnd:\t000001ffffffffff\nCapAmb:\t0000000000000002\n"
    "NoNewPrivs:\t1\nSeccomp:\t2\nSeccomp_filters:\t3\n"
)


def test_status():
    status = processes.parse_status(STATUS)
    assert (status.name, status.state, status.pid, status.parent) == ("sh", "S", 77, 1)
    assert status.ns_pids == (77, 5, 1)
    assert status.uids == (1000,) * 4
    assert status.permitted == 0xA80425FB
    assert (status.effective, status.ambient, status.bounding) == (1, 2, (1 << 41) - 1)
    assert (status.no_new_privs, status.seccomp, status.seccomp_filters) == (True, 2, 3)


def test_status_of_an_older_kernel():
    status = processes.parse_status("Name:\tsh\nPid:\t77\nPPid:\t1\n")
    assert status.ns_pids == (77,)
    assert (status.ambient, status.no_new_privs, status.seccomp) == (0, False, 0)


def test_id_maps_and_cgroups():
    assert processes.parse_id_map("         0       1000          1\n1 100000 65535\n") == (
        IdRange(0, 1000, 1),
        IdRange(1, 100000, 65535),
    )
    assert processes.parse_id_map("") == ()
    assert processes.parse_cgroups("4:cpu,cpuacct:/a:b\n1:name=systemd:/\n0::/c\n") == (
        Cgroup(4, ("cpu", "cpuacct"), "/a:b"),
        Cgroup(1, ("name=systemd",), "/"),
        Cgroup(0, (), "/c"),
    )


def test_a_process_that_is_not_there_is_gone():
    child = os.posix_spawn("/bin/true", ["true"], {})
    os.waitpid(child, 0)
    for read in (processes.status, processes.comm, processes.cgroups, mountinfo.read):
        with pytest.raises(Gone):
            read(child)
    with pytest.raises(Gone):
        namespaces.read(child, "mnt")
    with pytest.raises(Gone):
        namespaces.identify(child, "mnt")


def test_a_zombie_is_gone_as_far_as_its_mounts_are_concerned():
    child = os.posix_spawn("/bin/true", ["true"], {})
    os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT)
    try:
        assert processes.status(child).state == "Z"
        with pytest.raises(Gone):
            mountinfo.read(child)
        with pytest.raises(Gone):
            namespaces.read(child, "mnt")
    finally:
        os.waitpid(child, 0)


def test_files_are_bounded():
    with pytest.raises(OSError, match="longer than 10 bytes"):
        processes.read_file("/proc/self/status", largest=10)


def test_this_process():
    status = processes.status()
    assert status.pid == os.getpid()
    assert status.ns_pids[-1] == os.getpid()
    assert processes.cmdline()[0]
    assert os.getpid() in processes.pids()
    table = mountinfo.read()
    assert any(mount.target == "/proc" for mount in table)
    for kind in namespaces.KINDS:
        found = namespaces.read("self", kind)
        assert found.key == namespaces.identify("self", kind)
        assert found.key.inode == os.stat(f"/proc/self/ns/{kind}").st_ino
        assert found.key.device == os.stat(f"/proc/self/ns/{kind}").st_dev
    assert namespaces.ancestors("self", "user")[0].key == namespaces.identify("self", "user")
