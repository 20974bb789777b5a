"""Subordinate ids: what /etc/subuid says, with all that people write into it."""

from __future__ import annotations

import os

import pytest

from ctrt.linux import ids

JUNK = """\
# a comment
ann:100000:65536

bob:1:2:3
bob:five:6
bob:7:
bob:-5:10
bob:5:-10
bob:5:0
bob:1_000:10
bob:0x10:10
bob
:9:9
  bob:300000:100\x20
1001:400000:5
bob:500000:7
annabel:600000:1
\xff\xfe:1:1
"""


@pytest.fixture
def etc(tmp_path):
    (tmp_path / "subuid").write_bytes(JUNK.encode("latin-1"))
    (tmp_path / "subgid").write_text("ann:5:6\n")
    return str(tmp_path)


@pytest.mark.parametrize(
    ("user", "uid", "ranges"),
    [
        ("ann", 1000, ((100000, 65536),)),
        ("bob", 1001, ((300000, 100), (400000, 5), (500000, 7))),
        ("bob", 7, ((300000, 100), (500000, 7))),
        ("nobody", 65534, ()),
        ("annabel", -1, ((600000, 1),)),
    ],
)
def test_ranges_by_name_and_by_number(etc, user, uid, ranges):
    assert ids.subordinate("uid", user, uid, directory=etc) == ranges


def test_the_two_kinds_have_two_files(etc):
    assert ids.subordinate("gid", "ann", 1000, directory=etc) == ((5, 6),)


def test_no_file_is_no_range(tmp_path):
    assert ids.subordinate("uid", "ann", 1000, directory=str(tmp_path)) == ()
    (tmp_path / "subuid").mkdir()
    assert ids.subordinate("uid", "ann", 1000, directory=str(tmp_path)) == ()


def test_a_helper_is_found_in_path_first(tmp_path, monkeypatch):
    program = tmp_path / "newuidmap"
    program.write_text("#!/bin/sh\n")
    monkeypatch.setenv("PATH", f"::{tmp_path}")
    assert ids.map_helper("uid") != str(program), "not executable"
    program.chmod(0o755)
    assert ids.map_helper("uid") == str(program)


def test_a_program_of_the_current_directory_is_no_helper(tmp_path, monkeypatch):
    """An empty member of PATH means the current directory; that is not trusted."""
    program = tmp_path / "newgidmap"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", "")
    found = ids.map_helper("gid")
    assert found in (None, "/usr/bin/newgidmap", "/usr/sbin/newgidmap")


def test_names_of_users():
    assert ids.user_name(0) == "root"
    assert ids.user_name(3_999_999_999) == "3999999999"


def test_all_ids_are_mapped_as_the_kernel_says():
    with open("/proc/self/uid_map") as file:
        rows = [line.split() for line in file]
    assert ids.all_mapped() == (rows == [["0", "0", str(2**32 - 1)]])


def test_in_a_user_namespace_not_all_are_mapped():
    """In a child, since a test must not leave its own namespace."""
    pid = os.fork()
    if pid == 0:
        try:
            os._exit(77 if not _enter() else int(ids.all_mapped()))
        finally:
            os._exit(99)
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if status == 77:
        pytest.skip("no user namespace can be made here")
    assert status == 0


def _enter():
    from ctrt.linux import calls

    try:
        calls.unshare(calls.CLONE_NEWUSER)
    except OSError:
        return False
    return True
