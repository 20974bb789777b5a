"""A virtual machine of the tests: one process of QEMU, spoken to through a serial port.

Nothing in it is timed: it runs at about a tenth of the host's speed.
"""

from __future__ import annotations

import json
import os
import shlex
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

from vm_image import USER, Image

BOOT_SECONDS = 180.0
PATH = "/opt/ctrt/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
FLAVOURS = {
    "plain": "ctrtinit=/usr/lib/ctrt-vm/init",
    "systemd": "ctrtinit=/sbin/init systemd.show_status=false systemd.unified_cgroup_hierarchy=1",
    "selinux": "ctrtinit=/usr/lib/ctrt-vm/init lsm=landlock,lockdown,yama,selinux,bpf selinux=1"
    " enforcing=1",
}


class Result(NamedTuple):
    """What a command in the machine left."""

    status: int
    out: str
    err: str


class Machine:
    """A running machine; `start` does not wait for it, the first command does."""

    def __init__(self, flavour: str, image: Image) -> None:
        self.flavour = flavour
        self._folder = tempfile.TemporaryDirectory(prefix="ctrt-vm-")
        folder = Path(self._folder.name)
        self._console = folder / "console"
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(folder / "port"))
        self._listener.listen(1)
        self._port: socket.socket | None = None
        # A busy host looks like broken hardware to a kernel that trusts its clocks.
        patience = "no_timer_check nowatchdog rcupdate.rcu_cpu_stall_suppress=1"
        quick = "console=ttyS0 quiet loglevel=4 panic=-1 mitigations=off"
        append = f"{quick} {patience} {FLAVOURS[flavour]}"
        # setpriv: if the tests are killed, the machine goes with them.
        words = f"""
            setpriv --pdeathsig KILL qemu-system-x86_64 -name ctrt-{flavour}
            -accel tcg,thread=multi -cpu max -smp 2 -m 1024 -nodefaults -no-user-config
            -display none -no-reboot -serial file:{self._console}
            -kernel {image.kernel} -initrd {image.initrd} -append {shlex.quote(append)}
            -drive file={image.disk},format=raw,if=none,id=disk,snapshot=on,cache=unsafe
            -device virtio-blk-pci,drive=disk
            -chardev socket,id=agent,path={folder}/port -device virtio-serial-pci
            -device virtserialport,chardev=agent,name=ctrt.agent
        """
        # The changes to the disk go to a file without a name in TMPDIR, not to memory.
        self._qemu = subprocess.Popen(
            shlex.split(words),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=(folder / "qemu").open("wb"),
            env={**os.environ, "TMPDIR": "/var/tmp"},
        )

    def _said(self) -> str:
        texts = []
        for name in ("qemu", "console"):
            path = Path(self._folder.name) / name
            if path.exists():
                texts.append(path.read_bytes().decode(errors="replace")[-3000:])
        return f"the machine {self.flavour!r} said:\n" + "\n".join(texts)

    def _connect(self) -> socket.socket:
        if self._port is None:
            self._listener.settimeout(30)
            self._port, _ = self._listener.accept()
            self._port.settimeout(BOOT_SECONDS)
        return self._port

    def run(
        self,
        *command: str,
        user: str | None = None,
        stdin: bytes | str = b"",
        timeout: float = 120,
        env: dict[str, str] | None = None,
        directory: str = "/",
    ) -> Result:
        """Run a program, or one shell line, and wait for its end (status 124: it took too long).

        With `user`, it is one of the machine's ordinary users; where systemd runs, the command is
        then a service of this user's own systemd, with a cgroup that is delegated to it.
        """
        argv = list(command) if len(command) > 1 else ["/bin/sh", "-c", command[0]]
        home = "/root" if user is None else f"/home/{user}"
        environment = {"PATH": PATH, "HOME": home, "LANG": "C.UTF-8", **(env or {})}
        if user is not None:
            change = ["setpriv", f"--reuid={user}", f"--regid={user}", "--init-groups", "--"]
            if self.flavour == "systemd" and user == USER:
                environment["XDG_RUNTIME_DIR"] = "/run/user/1000"
                service = "systemd-run --user --quiet --pipe --wait --collect -p Delegate=yes"
                kept = [f"--setenv={name}" for name in environment]
                change += [*service.split(), *kept, "--"]
            argv = [*change, *argv]
            directory = home if directory == "/" else directory
        data = stdin.encode() if isinstance(stdin, str) else stdin
        order = {
            "argv": argv,
            "environment": environment,
            "directory": directory,
            "timeout": timeout,
            "stdin": len(data),
        }
        try:
            port = self._connect()
            port.sendall(json.dumps(order).encode() + b"\n" + data)
            answers = port.makefile("rb")
            head = json.loads(answers.readline())
        except (OSError, ValueError) as error:
            raise RuntimeError(f"{error!r}: {self._said()}") from None
        with answers:
            out = answers.read(head["out"])
            err = answers.read(head["err"])
        port.settimeout(timeout + 60)
        status = head["status"]
        return Result(status, out.decode(errors="replace"), err.decode(errors="replace"))

    def check(self, *command: str, **options: object) -> str:
        """What a command printed; it is an error if it fails."""
        result = self.run(*command, **options)  # type: ignore[arg-type]
        assert result.status == 0, (command, result)
        return result.out

    def put(self, path: str, data: bytes | str, mode: int = 0o644) -> None:
        """Write a file in the machine, and the directories above it."""
        script = 'mkdir -p "$(dirname "$1")" && cat >"$1" && chmod "$2" "$1"'
        self.check("sh", "-c", script, "put", path, f"{mode:o}", stdin=data)

    def stop(self) -> None:
        """Take the power away; the disk of the next machine is as if this one had never been."""
        self._qemu.kill()
        self._qemu.wait()
        if self._port is not None:
            self._port.close()
        self._listener.close()
        self._folder.cleanup()


def wait_until(machine: Machine, line: str, seconds: float = 30) -> None:
    """Wait until a shell line in the machine succeeds."""
    end = time.monotonic() + seconds
    while machine.run(line).status != 0:
        assert time.monotonic() < end, line
