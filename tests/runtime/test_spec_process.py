"""What a process finds without being told: its home, directory, groups and descriptors."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
from bundles import PATH, Runtime, root_files

PASSWD = "root:x:0:0:root:/root:/bin/sh\nguest:x:1000:1000:guest:/var/guest:/bin/sh\n"
SHOW = ("sh", "-c", 'printf "<%s>" "$HOME"')


@pytest.fixture
def own_rootfs(runtime: Runtime, tmp_path: Path) -> Runtime:
    """Root's runtime with a root file system that this test may change."""
    runtime.rootfs = root_files(tmp_path / "rootfs")
    (runtime.rootfs / "etc/passwd").write_text(PASSWD)
    return runtime


def user(number: int, *env: str) -> Any:
    """A change of the configuration: another user, and more variables."""

    def change(config: dict[str, Any]) -> None:
        config["process"]["user"] = {"uid": number, "gid": number}
        config["process"]["env"] += env

    return change


@pytest.mark.parametrize(
    ("number", "env", "home"),
    [
        (0, (), "/root"),
        (1000, (), "/var/guest"),
        (4242, (), "/"),
        (1000, ("HOME=/elsewhere",), "/elsewhere"),
        (1000, ("HOME=",), "/var/guest"),
        (1000, ("HOME=/first", "HOME="), "/var/guest"),
        (1000, ("HOME=", "HOME=/last"), "/last"),
    ],
)
def test_home_is_that_of_the_user_database(
    own_rootfs: Runtime, number: int, env: tuple[str, ...], home: str
) -> None:
    own_rootfs.config(*SHOW, change=user(number, *env))
    own_rootfs.quiet("run", "one")
    assert own_rootfs.stdout == f"<{home}>"


def test_home_of_a_process_that_enters(own_rootfs: Runtime) -> None:
    own_rootfs.config("sleep", "1000")
    own_rootfs.quiet("run", "--detach", "one")
    assert own_rootfs.call("exec", "one", *SHOW).stdout == "</root>"
    assert own_rootfs.call("exec", "--user", "1000", "one", *SHOW).stdout == "</var/guest>"
    assert own_rootfs.call("exec", "--env", "HOME=/x", "one", *SHOW).stdout == "</x>"


@pytest.mark.parametrize("what", ["fifo", "link to the host", "directory", "nothing"])
def test_a_user_database_that_is_none(own_rootfs: Runtime, tmp_path: Path, what: str) -> None:
    """Nobody waits for it, and the host's is not read."""
    passwd = own_rootfs.rootfs / "etc/passwd"
    passwd.unlink()
    if what == "fifo":
        os.mkfifo(passwd)
    elif what == "directory":
        passwd.mkdir()
    elif what == "link to the host":
        (tmp_path / "hosts-own").write_text(PASSWD)
        passwd.symlink_to(f"/../../../../../..{tmp_path}/hosts-own")
    own_rootfs.config(*SHOW)
    own_rootfs.quiet("run", "one")
    assert own_rootfs.stdout == "</>"


def test_the_directory_is_made_on_a_read_only_root(own_rootfs: Runtime) -> None:
    def change(config: dict[str, Any]) -> None:
        config["process"]["cwd"] = "/made/for/it"
        config["root"]["readonly"] = True

    own_rootfs.config("sh", "-c", "pwd; mkdir /x 2>&1", change=change)
    assert own_rootfs.quiet("run", "one", check=False) == 1
    assert own_rootfs.stdout.startswith("/made/for/it\n")
    assert "Read-only file system" in own_rootfs.stdout


@pytest.mark.parametrize("value", ["1", "0"])
def test_the_callers_groups_are_kept_when_asked_for(runtime: Runtime, value: str) -> None:
    def change(config: dict[str, Any]) -> None:
        config["annotations"] = {"run.oci.keep_original_groups": value}

    runtime.config("sh", "-c", "grep Groups /proc/self/status", change=change)
    words = ["setpriv", "--groups", "7,8", *runtime.words("run", "one")]
    done = subprocess.run(
        words,
        capture_output=True,
        text=True,
        env=runtime.environment,
        cwd=runtime.bundle,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[1:] == (["7", "8"] if value == "1" else [])


def test_of_the_descriptors_to_be_preserved_only_the_callers_are(both: Runtime) -> None:
    """A number that the caller has not open stays free, whatever the runtime opens itself."""
    both.config("sh", "-c", "ls /proc/self/fd | tr '\\n' ' '")
    line = 'exec 3<&- 4</dev/null 5<&- 6</dev/zero; exec "$@"'
    done = subprocess.run(
        ["bash", "-c", line, "bash", *both.words("run", "--preserve-fds", "40", "one")],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        env=both.environment,
        cwd=both.bundle,
        timeout=60,
        check=False,
    )
    # ls itself has the directory open as 3.
    assert (done.returncode, done.stdout) == (0, "0 1 2 3 4 6 "), done.stderr


def test_announced_descriptors_are_passed_on(both: Runtime) -> None:
    both.config("sh", "-c", "echo $LISTEN_FDS $LISTEN_PID; cat <&3")
    (both.home / "given").write_text("given\n")
    both.environment["LISTEN_FDS"] = "1"
    line = f'exec 3<{both.home}/given; exec "$@"'
    done = subprocess.run(
        ["bash", "-c", line, "bash", *both.words("run", "one")],
        capture_output=True,
        text=True,
        env=both.environment,
        cwd=both.bundle,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "1 1\ngiven\n"), done.stderr


@pytest.mark.parametrize("privileges", [True, False])
def test_a_profile_older_than_faccessat2(runtime: Runtime, privileges: bool) -> None:
    """The program is looked for under the profile, which may refuse the newer call."""

    def change(config: dict[str, Any]) -> None:
        config["process"]["noNewPrivileges"] = not privileges
        config["linux"]["seccomp"] = {
            "defaultAction": "SCMP_ACT_ALLOW",
            "syscalls": [{"names": ["faccessat2"], "action": "SCMP_ACT_ERRNO", "errnoRet": 1}],
        }

    runtime.config("sh", "-c", "echo here", change=change)
    runtime.quiet("run", "one")
    assert runtime.stdout == "here\n"


def test_path_is_searched_and_told_as_it_is(runtime: Runtime) -> None:
    runtime.config("env")
    runtime.quiet("run", "one")
    assert PATH in runtime.stdout.splitlines()
