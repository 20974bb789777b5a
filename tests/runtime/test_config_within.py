"""Root in somebody else's user namespace calls the runtime, as rootless podman does."""

from __future__ import annotations

import json
import os
import pwd
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from bundles import Runtime, configuration, root_files

from tests.conftest import USERS, _have_user

NAME = f"within-{os.getpid()}"
Within = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def within(place: Path, rootless: Runtime) -> Within:
    """Run a configuration as root of a user namespace that maps a range of subordinate ids."""
    user = USERS["subordinate"]
    _have_user(user, subordinate=True)
    home = place / "within"
    if not home.exists():
        home.mkdir()
        root_files(home / "rootfs")
        (home / "state").mkdir()
    (home / "bundle").mkdir(exist_ok=True)
    shutil.chown(home, user, user)
    subprocess.run(["chown", "-hR", f"{user}:{user}", home], check=True)

    def run(
        *args: str, change: Callable[[dict[str, Any]], object] | None = None, host: str = ""
    ) -> subprocess.CompletedProcess[str]:
        config = configuration(*args)
        config["root"]["path"] = str(home / "rootfs")
        if change:
            change(config)
        (home / "bundle" / "config.json").write_text(json.dumps(config))
        uid = pwd.getpwnam(user).pw_uid
        words = [*rootless.command, "--root", str(home / "state"), "run", NAME]
        script = f'{host}; exec "$@"' if host else 'exec "$@"'
        return subprocess.run(
            [
                *("setpriv", "--reuid", user, "--regid", user, "--clear-groups"),
                *("unshare", "--user", "--mount", "--map-root-user", "--map-auto"),
                *("sh", "-c", script, "sh", *words),
            ],
            capture_output=True,
            text=True,
            timeout=60,
            cwd=home / "bundle",
            env={"PATH": os.environ["PATH"], "XDG_RUNTIME_DIR": str(home), "UID": str(uid)},
            check=False,
        )

    return run


def test_a_container_without_a_user_namespace_of_its_own(within: Within) -> None:
    def change(config: dict[str, Any]) -> None:
        config["process"]["user"] = {"uid": 5, "gid": 6, "additionalGids": [7]}

    script = "id; cat /proc/self/uid_map; stat -c %t:%T /dev/null; hostname; ls /sys/class/net"
    done = within("sh", "-c", script, change=change)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0] == "uid=5 gid=6 groups=7"
    assert lines[1].split()[::2] == ["0", "1"]
    assert lines[-3:] == ["1:3", "box", "lo"]


def test_a_container_with_a_part_of_its_ids(within: Within) -> None:
    """As `podman run --userns=auto` has it: the maps are written without newuidmap(1)."""

    def change(config: dict[str, Any]) -> None:
        config["linux"]["namespaces"].append({"type": "user"})
        for key in ("uidMappings", "gidMappings"):
            config["linux"][key] = [
                {"containerID": 0, "hostID": 0, "size": 1},
                {"containerID": 1, "hostID": 1000, "size": 500},
            ]
        config["process"]["user"] = {"uid": 500, "gid": 500, "additionalGids": [3]}

    done = within("sh", "-c", "id; cat /proc/self/gid_map", change=change)
    assert done.returncode == 0, done.stderr
    lines = [line.split() for line in done.stdout.splitlines()]
    assert lines[0] == ["uid=500", "gid=500", "groups=3"]
    assert lines[1:] == [["0", "0", "1"], ["1", "1000", "500"]]


def test_the_host_s_network_brings_the_host_s_sysfs(within: Within) -> None:
    def change(config: dict[str, Any]) -> None:
        spaces = config["linux"]["namespaces"]
        config["linux"]["namespaces"] = [s for s in spaces if s["type"] != "network"]

    done = within("sh", "-c", "ls /sys/class/net; touch /sys/x 2>&1", change=change)
    assert sorted(done.stdout.splitlines()[:-1]) == sorted(os.listdir("/sys/class/net"))
    assert done.stdout.splitlines()[-1] == "touch: /sys/x: Read-only file system"


def test_limits_of_the_whole_machine_are_not_its_to_raise(within: Within) -> None:
    def change(config: dict[str, Any]) -> None:
        config["process"]["rlimits"] = [{"type": "RLIMIT_NOFILE", "soft": 1 << 29, "hard": 1 << 30}]
        config["process"]["oomScoreAdj"] = -1000

    done = within("sh", "-c", "ulimit -Hn", change=change)
    assert done.returncode == 0, done.stderr
    assert 0 < int(done.stdout) < 1 << 30
