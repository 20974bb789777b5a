"""sd_notify(3): a container that is ready tells the manager that started the command."""

from __future__ import annotations

import array
import os
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from bundles import Runtime, alive

# It says what its arguments are, each a message, and then sleeps.
_SOURCE = r"""
#include <string.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>
int main(int count, char **words) {
    struct sockaddr_un place = { .sun_family = AF_UNIX };
    int s = socket(AF_UNIX, SOCK_DGRAM, 0);
    strcpy(place.sun_path, getenv("NOTIFY_SOCKET"));
    for (int i = 1; i < count; i++)
        if (sendto(s, words[i], strlen(words[i]), 0, (void *)&place, sizeof place) < 0) return 9;
    sleep(1000);
    return 0;
}
"""


class Manager:
    """The socket of a manager, and what it was told."""

    def __init__(self, path: str) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(path)
        if not path.startswith("\0"):
            os.chmod(path, 0o777)
        self.socket.settimeout(20)

    def hear(self) -> bytes:
        """The next message; a barrier is let go."""
        data, rights, _, _ = self.socket.recvmsg(4096, socket.CMSG_SPACE(4))
        for _, _, numbers in rights:
            for number in array.array("i", numbers):
                os.close(number)
        return data


@pytest.fixture(scope="module")
def telling(place: Path) -> Path:
    """The program that tells."""
    source, program = place / "telling.c", place / "telling"
    source.write_text(_SOURCE)
    subprocess.run(["cc", "-static", "-o", program, source], check=True)
    return program


@pytest.fixture
def managed(both: Runtime, telling: Path) -> Iterator[tuple[Runtime, Manager]]:
    """A runtime whose caller has a manager."""
    path = str(both.home / "manager")
    manager = Manager(path)
    both.environment["NOTIFY_SOCKET"] = path
    yield both, manager
    manager.socket.close()


def configure(runtime: Runtime, telling: Path, *words: str) -> None:
    def change(config: dict[str, Any]) -> None:
        config["mounts"].append(
            {
                "destination": "/telling",
                "source": str(telling),
                "type": "bind",
                "options": ["bind"],
            }
        )

    runtime.config("/telling", *words, change=change)


def spawn(runtime: Runtime, *words: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        runtime.words(*words),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        env=runtime.environment,
        cwd=runtime.bundle,
    )


def test_start_waits_until_the_container_is_ready(
    managed: tuple[Runtime, Manager], telling: Path
) -> None:
    runtime, manager = managed
    configure(runtime, telling, "STATUS=not yet", "X=1\nREADY=1")
    runtime.quiet("create", "one")
    pid = runtime.pid("one")
    with spawn(runtime, "start", "one") as start:
        assert manager.hear() == b"READY=1\n"
        assert manager.hear() == b"MAINPID=%d\n" % pid
        assert start.poll() is None  # it waits for the manager to have looked
        assert manager.hear() == b"BARRIER=1"
        assert start.wait(20) == 0
    assert alive(pid)


def test_run_tells_of_itself_in_the_foreground_and_of_the_container_detached(
    managed: tuple[Runtime, Manager], telling: Path
) -> None:
    runtime, manager = managed
    configure(runtime, telling, "READY=1")
    with spawn(runtime, "run", "one") as run:
        assert manager.hear() == b"READY=1\n"
        told = manager.hear()
        if runtime.user is None:
            assert told == b"MAINPID=%d\n" % run.pid
        runtime.call("kill", "one", "KILL")
        assert run.wait(20) == 137
    with spawn(runtime, "run", "--detach", "two") as run:
        assert manager.hear() == b"READY=1\n"
        assert manager.hear() == b"MAINPID=%d\n" % runtime.pid("two")
        assert manager.hear() == b"BARRIER=1"
        assert run.wait(20) == 0


def test_one_that_ends_without_a_word_is_not_waited_for(managed: tuple[Runtime, Manager]) -> None:
    runtime, _ = managed
    runtime.config("sh", "-c", 'test -S "$NOTIFY_SOCKET"')
    assert runtime.quiet("run", "one") == 0
    runtime.config("false")
    runtime.quiet("create", "two")
    runtime.call("start", "two")
    assert runtime.status("two") == "stopped"


def test_a_manager_that_is_not_there_is_a_warning(runtime: Runtime) -> None:
    runtime.config("true")
    runtime.environment["NOTIFY_SOCKET"] = "/no/such/manager"
    log = runtime.home / "log"
    runtime.quiet("--log", str(log), "run", "one")
    assert "NOTIFY_SOCKET: /no/such/manager: No such file or directory" in log.read_text()
    runtime.quiet("create", "two")
    runtime.call("start", "two")
    runtime.await_status("two", "stopped")


def test_a_manager_s_socket_may_be_abstract(runtime: Runtime, telling: Path) -> None:
    manager = Manager(f"\0ctrt-test-{os.getpid()}")
    runtime.environment["NOTIFY_SOCKET"] = f"@ctrt-test-{os.getpid()}"
    configure(runtime, telling, "READY=1")
    runtime.quiet("create", "one")
    with spawn(runtime, "start", "one") as start:
        assert manager.hear() == b"READY=1\n"
        manager.hear()
        manager.hear()
        assert start.wait(20) == 0
    manager.socket.close()
