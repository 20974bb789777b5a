"""Other people's engines, on an OCI runtime given by path, with stores of their own."""

from __future__ import annotations

import contextlib
import fcntl
import io
import os
import pty
import select
import shutil
import signal
import struct
import subprocess
import tarfile
import tempfile
import termios
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

IMAGE = "localhost/peers/box"
RUNTIMES = ("runc", "ctrt-runtime")


def busybox_archive() -> bytes:
    """A root file system of busybox as a tar archive."""
    buffer = io.BytesIO()
    busybox = shutil.which("busybox") or "/bin/busybox"
    with tarfile.open(fileobj=buffer, mode="w") as archive:

        def add(name: str, kind: bytes, mode: int, target: str = "", data: bytes = b"") -> None:
            entry = tarfile.TarInfo(name)
            entry.type, entry.mode, entry.linkname, entry.size = kind, mode, target, len(data)
            archive.addfile(entry, io.BytesIO(data))

        for name in ("bin", "etc", "root", "proc", "sys", "dev"):
            add(name, tarfile.DIRTYPE, 0o755)
        add("tmp", tarfile.DIRTYPE, 0o1777)
        add("etc/passwd", tarfile.REGTYPE, 0o644, data=b"root:x:0:0::/root:/bin/sh\n")
        add("etc/group", tarfile.REGTYPE, 0o644, data=b"root:x:0:\n")
        add("bin/busybox", tarfile.REGTYPE, 0o755, data=Path(busybox).read_bytes())
        names = subprocess.run([busybox, "--list"], check=True, capture_output=True, text=True)
        for name in names.stdout.split():
            if name != "busybox":
                add(f"bin/{name}", tarfile.SYMTYPE, 0o777, "busybox")
    return buffer.getvalue()


def runtime_path(runtime: str, binaries: Path) -> str:
    path = shutil.which(runtime) if runtime == "runc" else str(binaries / runtime)
    assert path is not None
    assert os.access(path, os.X_OK), f"{path} is not installed"
    return path


class Podman(NamedTuple):
    """Podman of one user on one runtime."""

    world: str
    user: str | None
    runtime: str
    folder: Path

    @property
    def path(self) -> str:
        """Where the runtime is."""
        text = (self.folder / f"{self.runtime}.conf").read_text()
        return text.rpartition(f'{self.runtime} = ["')[2].partition('"')[0]

    @property
    def rootless(self) -> bool:
        return self.user is not None

    def environment(self) -> dict[str, str]:
        storage = self.folder / "storage.conf"
        return {
            **({"CONTAINERS_STORAGE_CONF": str(storage)} if storage.exists() else {}),
            "PATH": "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin",
            "HOME": str(self.folder),
            "XDG_RUNTIME_DIR": str(self.folder / "run"),
            "TMPDIR": str(self.folder / "tmp"),
            "CONTAINERS_CONF": str(self.folder / f"{self.runtime}.conf"),
            "TERM": "dumb",
        }

    def words(self, *words: str, engine: str = "podman") -> list[str]:
        change = []
        if self.user is not None:
            change = ["setpriv", "--reuid", self.user, "--regid", self.user, "--init-groups"]
        stores = ["--root", f"{self.folder}/store", "--runroot", f"{self.folder}/runroot"]
        return [*change, engine, *stores, *words]

    def __call__(
        self, *words: str, stdin: str = "", timeout: float = 60, engine: str = "podman"
    ) -> subprocess.CompletedProcess[str]:
        """Run a podman command. Output goes to files: a conmon may keep a pipe open for long."""
        with (
            tempfile.TemporaryFile("w+") as out,
            tempfile.TemporaryFile("w+") as err,
        ):
            done = subprocess.run(
                self.words(*words, engine=engine), input=stdin, stdout=out, stderr=err, text=True,
                timeout=timeout, env=self.environment(), cwd=self.folder, check=False,
            )  # fmt: skip
            out.seek(0)
            err.seek(0)
            return subprocess.CompletedProcess(words, done.returncode, out.read(), err.read())

    def check(self, *words: str, stdin: str = "", engine: str = "podman") -> str:
        """What a podman command printed; it must end well."""
        done = self(*words, stdin=stdin, engine=engine)
        assert done.returncode == 0, (words, done.stdout, done.stderr)
        return done.stdout

    def once(self, *words: str) -> str:
        """What a new container without a network printed; the last words are its command."""
        return self.check("run", "--rm", "--network", "none", *words)

    def on_terminal(self, *words: str, typed: str = "", size: tuple[int, int] = (33, 101)) -> str:
        """What a podman command shows on a terminal while something is typed."""
        words = tuple(self.words(*words))
        return on_terminal(
            words, typed=typed, size=size, environment=self.environment(), folder=self.folder
        )


def on_terminal(
    words: tuple[str, ...],
    *,
    typed: str,
    environment: dict[str, str],
    folder: Path,
    size: tuple[int, int] = (33, 101),
) -> str:
    """What a command shows on a terminal; something is typed when it shows "ready"."""
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", *size, 0, 0))
    process = subprocess.Popen(
        words, stdin=slave, stdout=slave, stderr=slave, env=environment, cwd=folder,
        start_new_session=True,
    )  # fmt: skip
    os.close(slave)
    shown = b""
    end = time.monotonic() + 30
    try:
        while time.monotonic() < end:
            ready, _, _ = select.select([master], [], [], 0.1)
            if ready:
                try:
                    data = os.read(master, 4096)
                except OSError:  # the other end is closed
                    break
                shown += data
                if typed and b"ready" in shown:
                    os.write(master, typed.encode())
                    typed = ""
            elif process.poll() is not None:
                break
        assert process.wait(10) == 0, shown
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        process.wait()
        os.close(master)
    return shown.decode().replace("\r\n", "\n")


CONFIGURATION = """
[containers]
default_ulimits = ["nofile=1024:1024", "nproc=1024:1024"]
default_sysctls = []
[engine]
cgroup_manager = "cgroupfs"
events_logger = "file"
runtime = "{name}"
runtime_supports_json = ["ctrt-runtime", "runc"]
[engine.runtimes]
{name} = ["{path}"]
"""


def made_podman(name: str, user: str | None, binaries: Path) -> Iterator[Path]:
    """A folder with a store that holds the image, and a configuration for each runtime."""
    folder = Path(tempfile.mkdtemp(prefix=f"ctrt-peers-{name}-", dir="/var/tmp"))
    folder.chmod(0o711)
    for part in ("run", "tmp"):
        (folder / part).mkdir(mode=0o700)
    for runtime in RUNTIMES:
        text = CONFIGURATION.format(name=runtime, path=runtime_path(runtime, binaries))
        (folder / f"{runtime}.conf").write_text(text)
    if user is not None:
        for path in [folder, *folder.iterdir()]:
            shutil.chown(path, user, user)
    podman = Podman(name, user, RUNTIMES[0], folder)
    archive = folder / "box.tar"
    archive.write_bytes(busybox_archive())
    podman.check("import", "--change", 'CMD=["/bin/sh"]', str(archive), IMAGE)
    yield folder
    podman("rm", "--all", "--force", "--time", "0")
    podman("pod", "rm", "--all", "--force", "--time", "0")
    if user is not None:
        podman("unshare", "rm", "-rf", str(folder / "store"))
        # podman leaves a process that holds the user namespace, and notes its number here.
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            os.kill(int((folder / "run/libpod/tmp/pause.pid").read_text()), signal.SIGTERM)
    else:
        podman("system", "reset", "--force")
    with open("/proc/self/mountinfo") as file:
        mounted = [line.split()[4] for line in file if f" {folder}/" in line]
    for path in reversed(mounted):
        subprocess.run(["umount", "--lazy", path], check=False)
    shutil.rmtree(folder)
