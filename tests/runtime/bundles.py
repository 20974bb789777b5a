"""Bundles made of busybox, and the runtime's command as a caller uses it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

PROJECT = Path(__file__).resolve().parents[2]
_PROGRAM = (
    "import sys; sys.path.insert(0, {}); from ctrt.cli.runtime.main import command; command()"
)
PATH = "PATH=/bin:/sbin:/usr/bin:/usr/sbin"
CAPABILITIES = [
    *("CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FOWNER", "CAP_KILL", "CAP_SETGID", "CAP_SETUID"),
    *("CAP_SETPCAP", "CAP_NET_BIND_SERVICE", "CAP_SYS_CHROOT", "CAP_AUDIT_WRITE"),
]


def command(code: Path) -> list[str]:
    """The command from a directory of code: what the installed script does, without the wheel."""
    return [
        *(shutil.which("python3", path="/usr/bin") or sys.executable, "-I", "-S", "-c"),
        _PROGRAM.format(repr(str(code))),
    ]


def root_files(directory: Path) -> Path:
    """A root file system of busybox."""
    for name in ("bin", "proc", "dev", "sys", "tmp", "etc", "run", "root", "usr/bin"):
        (directory / name).mkdir(parents=True, exist_ok=True)
    busybox = shutil.which("busybox")
    assert busybox
    shutil.copy(busybox, directory / "bin" / "busybox")
    listed = subprocess.run([busybox, "--list"], capture_output=True, text=True, check=True)
    for name in listed.stdout.split():
        if name != "busybox":
            (directory / "bin" / name).symlink_to("busybox")
    (directory / "etc" / "passwd").write_text("root:x:0:0:root:/root:/bin/sh\n")
    (directory / "etc" / "group").write_text("root:x:0:\n")
    (directory / "tmp").chmod(0o1777)
    return directory


def configuration(*args: str, rootless: bool = False) -> dict[str, Any]:
    """A config.json as engines write them."""
    kinds = ["pid", "ipc", "uts", "mount", "cgroup", "network"]
    no = ["nosuid", "noexec", "nodev"]
    config: dict[str, Any] = {
        "ociVersion": "1.0.2",
        "process": {
            "terminal": False,
            "user": {"uid": 0, "gid": 0},
            "args": list(args),
            "env": [PATH, "TERM=xterm"],
            "cwd": "/",
            "capabilities": dict.fromkeys(("bounding", "effective", "permitted"), CAPABILITIES),
            "noNewPrivileges": True,
        },
        "root": {"path": "rootfs", "readonly": False},
        "hostname": "box",
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc"},
            {
                "destination": "/dev",
                "type": "tmpfs",
                "source": "tmpfs",
                "options": ["nosuid", "strictatime", "mode=755", "size=65536k"],
            },
            {
                "destination": "/dev/pts",
                "type": "devpts",
                "source": "devpts",
                "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"],
            },
            {
                "destination": "/dev/shm",
                "type": "tmpfs",
                "source": "shm",
                "options": [*no, "mode=1777", "size=65536k"],
            },
            {"destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue", "options": no},
            {"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": [*no, "ro"]},
        ],
        "linux": {
            "maskedPaths": ["/proc/kcore", "/proc/keys", "/sys/firmware"],
            "readonlyPaths": ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys"],
        },
    }
    if rootless:
        kinds.append("user")
        config["linux"]["uidMappings"] = [{"containerID": 0, "hostID": os.geteuid(), "size": 1}]
        config["linux"]["gidMappings"] = [{"containerID": 0, "hostID": os.getegid(), "size": 1}]
    config["linux"]["namespaces"] = [{"type": kind} for kind in kinds]
    return config


def host_pids(config: dict[str, Any]) -> None:
    """Take a configuration's pid namespace away."""
    spaces = config["linux"]["namespaces"]
    config["linux"]["namespaces"] = [space for space in spaces if space["type"] != "pid"]


IDS = {"containerID": 0, "hostID": 524288, "size": 65536}
"""What ids of a container are outside, where it does not matter which."""


def in_user_namespace(
    config: dict[str, Any],
    uids: list[dict[str, int]] | None = None,
    gids: list[dict[str, int]] | None = None,
) -> None:
    """Give a configuration a user namespace; `uids` are for its groups, too, unless told."""
    config["linux"]["namespaces"].append({"type": "user"})
    uids = [IDS] if uids is None else uids
    config["linux"].update(uidMappings=uids, gidMappings=uids if gids is None else gids)


class Runtime:
    """The command with its own root, as one user calls it on one bundle after the other."""

    def __init__(
        self, home: Path, rootfs: Path, command: list[str], user: tuple[int, int] | None = None
    ) -> None:
        self.home = home
        self.command = command
        self.rootfs = rootfs
        self.user = user
        self.root = home / "state"
        self.bundle = home / "bundle"
        self.bundle.mkdir()
        self.environment = {"PATH": os.environ["PATH"], "XDG_RUNTIME_DIR": str(home)}
        home.chmod(0o755)
        if user:
            os.chown(home, *user)
            os.chown(self.bundle, *user)

    def words(self, *words: str) -> list[str]:
        """The command line, as this user calls it."""
        line = [*self.command, "--root", str(self.root), *words]
        if self.user:
            uid, gid = map(str, self.user)
            line = ["setpriv", "--reuid", uid, "--regid", gid, "--clear-groups", *line]
        return line

    def config(self, *args: str, change: Callable[[dict[str, Any]], object] | None = None) -> None:
        """Write the bundle's config.json: `args` is the program, `change` is given the rest."""
        config = configuration(*args, rootless=self.user is not None)
        config["root"]["path"] = str(self.rootfs)
        if self.user:
            for key, own in zip(("uidMappings", "gidMappings"), self.user, strict=True):
                config["linux"][key][0]["hostID"] = own
        if change:
            change(config)
        (self.bundle / "config.json").write_text(json.dumps(config))

    def call(
        self, *words: str, stdin: str = "", check: bool = True, **more: Any
    ) -> subprocess.CompletedProcess[str]:
        """Call the command to its end; output is kept, so the container must have none of it."""
        done = subprocess.run(
            self.words(*words),
            input=stdin,
            capture_output=True,
            text=True,
            timeout=60,
            env=self.environment,
            cwd=self.bundle,
            check=False,
            **more,
        )
        if check:
            assert done.returncode == 0, (words, done.stdout, done.stderr)
        return done

    def quiet(self, *words: str, check: bool = True, **more: Any) -> int:
        """Call a verb that leaves a process, whose output goes to files beside the bundle."""
        with (
            open(self.home / "stdout", "w") as out,
            open(self.home / "stderr", "w") as error,
        ):
            more.setdefault("stdin", subprocess.DEVNULL)
            status = subprocess.run(
                self.words(*words),
                stdout=out,
                stderr=error,
                env=self.environment,
                cwd=self.bundle,
                timeout=60,
                check=False,
                **more,
            ).returncode
        if check:
            assert status == 0, (words, self.stderr)
        return status

    @property
    def stdout(self) -> str:
        return (self.home / "stdout").read_text()

    @property
    def stderr(self) -> str:
        return (self.home / "stderr").read_text()

    def state(self, identifier: str) -> dict[str, Any]:
        """What `state` says."""
        found: dict[str, Any] = json.loads(self.call("state", identifier).stdout)
        return found

    def status(self, identifier: str) -> str:
        status: str = self.state(identifier)["status"]
        return status

    def pid(self, identifier: str) -> int:
        pid: int = self.state(identifier)["pid"]
        return pid

    def await_status(self, identifier: str, wanted: str) -> None:
        """Wait until the kernel has come that far."""
        until(lambda: self.status(identifier) == wanted, f"{identifier} to be {wanted}")

    def clean(self) -> None:
        """End whatever a test has left."""
        for name in os.listdir(self.root) if self.root.exists() else ():
            self.call("delete", "--force", name)


def until(condition: Callable[[], object], what: str, seconds: float = 10) -> None:
    """Wait for something that another process does."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"waited in vain for {what}"
        time.sleep(0.01)


def alive(pid: int) -> bool:
    """Whether a process runs: a zombie does not."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] not in "ZX"
    except FileNotFoundError:
        return False


def namespaces(pid: int | str) -> dict[str, str]:
    """A process's namespaces as the kernel names them."""
    kinds = ("cgroup", "ipc", "mnt", "net", "pid", "user", "uts")
    return {kind: os.readlink(f"/proc/{pid}/ns/{kind}") for kind in kinds}
