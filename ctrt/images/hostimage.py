"""An image made of this machine's own programs: a container without any registry.

Each program brings what it needs to start: its ELF interpreter, its shared libraries, the
interpreter of a script. Paths are as on the host, symbolic links included (`/bin -> usr/bin`,
`/usr/bin/sh -> dash`), so that what works here works there. The same host files give the same
digest: entries are sorted, owned by root, times are the files' own or zero, and the gzip header
has no time.
"""

from __future__ import annotations

import io
import os
import stat
import struct
import subprocess
import tarfile
from typing import TYPE_CHECKING

from ctrt.errors import CtrtError
from ctrt.images.compose import add_image, add_layer
from ctrt.oci.reference import Reference, parse

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ctrt.images.store import Image, Store

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_SHELLS = ("sh", "bash", "dash", "busybox", "ash", "ksh", "mksh", "zsh")
_PASSWD = "root:x:0:0:root:/root:{shell}\nnobody:x:65534:65534:nobody:/nonexistent:/bin/false\n"
_GROUP = "root:x:0:\nnogroup:x:65534:\n"
_MAX_LINKS = 40
_MAX_SCRIPTS = 4


def from_host(
    store: Store,
    reference: Reference | str,
    programs: list[str],
    *,
    files: Iterable[tuple[str, str]] = (),
) -> Image:
    """Build an image from programs of this machine, store it, and return it.

    `programs` are paths or names in PATH; busybox also brings its applets. `files` are further
    files or directories as pairs (path here, path in the image). A program that is missing,
    or whose libraries are, is a CtrtError.
    """
    from ctrt.oci.image import host_platform

    name = parse(reference) if isinstance(reference, str) else reference
    if not programs:
        raise CtrtError(
            f"an image from the host needs a program to start; none is given for {name}"
        )
    tree = _Tree()
    first = ""
    shells = []
    for program in programs:
        path = _which(program)
        tree.add_program(path)
        first = first or path
        if os.path.basename(path) in _SHELLS:
            shells.append(path)
    if any(os.path.basename(path) == "busybox" for path in shells):
        tree.add_applets(next(path for path in shells if os.path.basename(path) == "busybox"))
    if shells and not tree.has("/bin/sh"):
        tree.link("/bin/sh", shells[0])
    tree.add_text("/etc/passwd", _PASSWD.format(shell="/bin/sh" if shells else "/bin/false"))
    tree.add_text("/etc/group", _GROUP)
    # Places to mount on: without them each container would have to make its own.
    for place in ("/dev", "/proc", "/run", "/sys"):
        tree.add_directory(place, 0o755)
    tree.add_text("/etc/hosts", "")
    tree.add_directory("/tmp", 0o1777)
    tree.add_directory("/root", 0o700)
    for source, target in files:
        tree.add_file(source, target)

    config = {
        **host_platform(),
        "config": {"Env": [f"PATH={PATH}"], "Cmd": ["/bin/sh"] if shells else [first]},
        "history": [{"created_by": "ctrt image from-host " + " ".join(programs)}],
    }
    with store.hold():
        return add_image(store, name, config, [add_layer(store, [tree.tar()])])


def _which(program: str) -> str:
    """Return the absolute path of a program, not following links."""
    if "/" in program:
        path = os.path.abspath(program)
        if not os.path.isfile(path):
            raise CtrtError(f"there is no program {program} on this machine")
        return path
    # The directories for root's programs are not in everybody's PATH.
    search = [*os.environ.get("PATH", "").split(":"), *PATH.split(":")]
    for directory in search:
        path = os.path.join(directory, program)
        if directory.startswith("/") and os.path.isfile(path) and os.access(path, os.X_OK):
            return os.path.normpath(path)
    raise CtrtError(
        f"there is no program {program} on this machine (looked in"
        f" {':'.join(dict.fromkeys(search))})"
    )


class _Tree:
    """What goes into the layer: path -> entry, with every link that leads to it."""

    def __init__(self) -> None:
        self._entries: dict[str, tuple[tarfile.TarInfo, str | bytes | None]] = {}
        self._done: set[str] = set()

    def has(self, path: str) -> bool:
        """Say whether a path leads to something in the tree, its links followed."""
        for _ in range(_MAX_LINKS):
            path = self._real(path)
            found = self._entries.get(path)
            if found is None:
                return False
            if not found[0].issym():
                return True
            path = os.path.join(os.path.dirname(path), found[0].linkname)
        return False

    def _real(self, path: str) -> str:
        """Return where in the tree `path` is: links of its directories followed."""
        real = "/"
        parts = [part for part in path.split("/") if part not in ("", ".")]
        links = 0
        while parts:
            part = parts.pop(0)
            if part == "..":
                real = os.path.dirname(real)
                continue
            step = os.path.join(real, part)
            entry = self._entries.get(step)
            if parts and entry is not None and entry[0].issym():
                links += 1
                if links > _MAX_LINKS:
                    raise CtrtError(f"{path} is behind too many symbolic links")
                target = entry[0].linkname
                real = "/" if target.startswith("/") else real
                parts = [p for p in target.split("/") if p not in ("", ".")] + parts
                continue
            real = step
        return real

    def add(self, path: str) -> str:
        """Add a host file at its own path, with the links and directories on the way to it.

        Return the path of the file that the links end at.
        """
        real = "/"
        parts = [part for part in path.split("/") if part not in ("", ".")]
        links = 0
        while parts:
            part = parts.pop(0)
            if part == "..":
                real = os.path.dirname(real)
                continue
            step = os.path.join(real, part)
            found = os.lstat(step)
            if stat.S_ISLNK(found.st_mode):
                links += 1
                if links > _MAX_LINKS:
                    raise CtrtError(f"{path} is behind too many symbolic links")
                target = os.readlink(step)
                self._put(step, self._info(step, tarfile.SYMTYPE, 0o777, link=target))
                real = "/" if target.startswith("/") else real
                parts = [p for p in target.split("/") if p not in ("", ".")] + parts
                continue
            if stat.S_ISDIR(found.st_mode):
                self._put(step, self._info(step, tarfile.DIRTYPE, stat.S_IMODE(found.st_mode)))
            elif stat.S_ISREG(found.st_mode):
                self._put(step, self._regular(step, found), step)
            else:
                raise CtrtError(f"{step} is neither a file nor a directory")
            real = step
        return real

    def add_program(self, path: str) -> None:
        """Add a program and all that it needs to start."""
        depth = 0
        while True:
            depth += 1
            try:
                real = self.add(path)
                with open(real, "rb") as file:
                    head = file.read(4096)
                    if head[:4] == b"\x7fELF":
                        self._add_libraries(real, _interpreter(file, real))
                        return
            except OSError as error:
                raise CtrtError(f"the program {path} cannot be read: {error.strerror}") from None
            if head[:2] != b"#!":
                return  # a script without a mark: the shell that calls it reads it
            words = head[2:].partition(b"\n")[0].split()
            if not words:
                return
            path = os.fsdecode(words[0])
            if os.path.basename(path) == "env" and len(words) > 1:
                self.add_program(path)
                arguments = [word for word in words[1:] if word[:1] != b"-" and b"=" not in word]
                if not arguments:
                    return
                path = _which(os.fsdecode(arguments[0]))
            if not os.path.isfile(path):
                raise CtrtError(f"the script {real} needs {path}, which this machine does not have")
            if depth > _MAX_SCRIPTS:
                raise CtrtError(
                    f"{path} is a script whose interpreter is a script, again and again"
                )

    def _add_libraries(self, path: str, interpreter: str | None) -> None:
        """Add the loader and what it says it would load (ld.so(8), `--list`)."""
        if interpreter is None or path in self._done:
            return
        self._done.add(path)
        if not os.path.isfile(interpreter):
            raise CtrtError(
                f"{path} needs the loader {interpreter}, which this machine does not have"
            )
        try:
            self.add(interpreter)
            said = subprocess.run(
                [interpreter, "--list", path],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                check=False,
                text=True,
                errors="surrogateescape",
                env={"LC_ALL": "C", "PATH": PATH},
            )
        except OSError as error:
            raise CtrtError(
                f"{path} needs the loader {interpreter}, which cannot run here: {error.strerror}"
            ) from None
        if said.returncode:
            why = (said.stderr.strip().splitlines() or [f"status {said.returncode}"])[-1]
            missing = why.partition("error while loading shared libraries: ")[2].partition(":")[0]
            if missing:
                raise CtrtError(
                    f"{path} needs the library {missing}, which this machine does not have"
                )
            raise CtrtError(f"the libraries of {path} cannot be listed: {why}")
        for line in said.stdout.splitlines():
            name, arrow, target = line.strip().partition(" => ")
            found = (target if arrow else name).partition(" (0x")[0]
            if found.startswith("/"):  # what is not a file is the kernel's own (linux-vdso)
                self.add(found)

    def add_applets(self, busybox: str) -> None:
        """Link busybox's applets into /bin, except where a real program is."""
        try:
            said = subprocess.run(
                [busybox, "--list"], stdin=subprocess.DEVNULL, capture_output=True, check=True
            )
        except (OSError, subprocess.CalledProcessError) as error:
            raise CtrtError(f"{busybox} does not list its applets: {error}") from None
        for name in sorted(os.fsdecode(said.stdout).split()):
            if "/" not in name and name != "busybox" and not self._in_path(name):
                self.link(f"/bin/{name}", busybox)

    def _in_path(self, name: str) -> bool:
        return any(self._real(f"{place}/{name}") in self._entries for place in PATH.split(":"))

    def link(self, path: str, target: str) -> None:
        """Make `path` a symbolic link to a program of the tree, short where it can be."""
        if os.path.islink("/bin") and path.startswith("/bin/"):
            self.add("/bin")  # where /usr is merged, it stays merged
        place = self._real(path)
        there = self._real(target)
        if place == there:
            return
        self.add_directory(os.path.dirname(place), 0o755)
        if os.path.dirname(place) == os.path.dirname(there):
            there = os.path.basename(there)
        self._put(place, self._info(place, tarfile.SYMTYPE, 0o777, link=there))

    def add_directory(self, path: str, mode: int) -> None:
        """Add a directory of our own making."""
        path = self._real(path)
        if path == "/":
            return
        if path not in self._entries:
            self.add_directory(os.path.dirname(path), 0o755)
            self._put(path, self._info(path, tarfile.DIRTYPE, mode))

    def add_text(self, path: str, text: str) -> None:
        """Add a file of our own making."""
        self.add_directory(os.path.dirname(path), 0o755)
        info = self._info(path, tarfile.REGTYPE, 0o644)
        data = text.encode()
        info.size = len(data)
        self._put(path, info, data)

    def add_file(self, source: str, target: str) -> None:
        """Add a host file or directory at another path."""
        if not target.startswith("/"):
            raise CtrtError(f"{target} must be an absolute path in the image")
        target = self._real(os.path.normpath(target))
        try:
            found = os.lstat(source)
            if stat.S_ISDIR(found.st_mode):
                self.add_directory(target, stat.S_IMODE(found.st_mode))
                for name in sorted(os.listdir(source)):
                    self.add_file(os.path.join(source, name), os.path.join(target, name))
                return
            self.add_directory(os.path.dirname(target), 0o755)
            if stat.S_ISLNK(found.st_mode):
                link = os.readlink(source)
                self._put(target, self._info(target, tarfile.SYMTYPE, 0o777, link=link))
            elif stat.S_ISREG(found.st_mode):
                self._put(target, self._regular(source, found), source)
                self._entries[target][0].name = target.lstrip("/")
            else:
                raise CtrtError(f"{source} is neither a file nor a directory")
        except OSError as error:
            raise CtrtError(f"{source} cannot be read: {error.strerror}") from None

    def tar(self) -> bytes:
        """Return the layer: directories before what is in them, names in order."""
        out = io.BytesIO()
        with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as archive:
            for path in sorted(self._entries):
                info, content = self._entries[path]
                if isinstance(content, str):
                    with open(content, "rb") as file:
                        archive.addfile(info, file)
                else:
                    archive.addfile(info, io.BytesIO(content) if content is not None else None)
        return out.getvalue()

    def _put(self, path: str, info: tarfile.TarInfo, content: str | bytes | None = None) -> None:
        self._entries[path] = info, content

    def _info(self, path: str, kind: bytes, mode: int, link: str = "") -> tarfile.TarInfo:
        info = tarfile.TarInfo(path.lstrip("/"))
        info.type, info.mode, info.linkname, info.mtime = kind, mode, link, 0
        info.uname = info.gname = "root"
        return info

    def _regular(self, path: str, found: os.stat_result) -> tarfile.TarInfo:
        mode = stat.S_IMODE(found.st_mode)
        # All becomes root's; a set-id bit must not turn somebody's program into root's.
        if found.st_uid:
            mode &= ~stat.S_ISUID
        if found.st_gid:
            mode &= ~stat.S_ISGID
        info = self._info(path, tarfile.REGTYPE, mode)
        info.size = found.st_size
        info.mtime = int(found.st_mtime)
        try:
            capability = os.getxattr(path, "security.capability")
            value = capability.decode("utf-8", "surrogateescape")
            info.pax_headers = {"SCHILY.xattr.security.capability": value}
        except OSError:
            pass  # most files have none
        return info


def _interpreter(file: io.BufferedReader, path: str) -> str | None:
    """Return an ELF program's interpreter (elf(5), PT_INTERP); None if it is static."""
    try:
        file.seek(0)
        head = file.read(64)
        wide, order = head[4] == 2, "<" if head[5] == 1 else ">"
        if wide:
            table, size, count = struct.unpack_from(order + "Q14xHH", head, 32)
        else:
            table, size, count = struct.unpack_from(order + "I10xHH", head, 28)
        for at in range(count):
            file.seek(table + at * size)
            entry = file.read(size)
            if struct.unpack_from(order + "I", entry)[0] != 3:
                continue
            if wide:
                offset, length = struct.unpack_from(order + "8xQ16xQ", entry)
            else:
                offset, length = struct.unpack_from(order + "4xI8xI", entry)
            file.seek(offset)
            return os.fsdecode(file.read(min(length, 4096)).rstrip(b"\0"))
    except (struct.error, IndexError, OverflowError, OSError):
        raise CtrtError(f"{path} is a broken ELF file") from None
    return None
