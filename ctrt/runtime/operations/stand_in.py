"""A small program in memory that a container's process is before it becomes its own program.

Until its first execve(2) that process is a copy of ours, and its /proc/self/exe is the host's
interpreter. A program of the image that begins with `#!/proc/self/exe` would be run by it, could
open it, and could write to it once it ends: whoever uses it next would run what the container
wrote (CVE-2019-5736). So the process first becomes a program of thirty instructions in a sealed
memfd, which nobody can write to, and that one calls execve(2) for the container's. If that is
refused, it says so on the process's pipe, in two bytes: REFUSED and the errno.

Source: memfd_create(2), F_ADD_SEALS in fcntl(2), elf(5), proc_pid_exe(5).
"""

from __future__ import annotations

import fcntl
import posix as os  # `os` itself takes long to import: linux/ospath.py

from ctrt.linux import ospath
from ctrt.runtime.operations.context import BECOMING, REFUSED

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

_MFD_EXEC = 0x10
_F_ADD_SEALS = 1033
_SEALS = 0x1 | 0x2 | 0x4 | 0x8  # no more seals, no shrinking, growing and writing
_ADDRESS = 0x400000
_HEADERS = 64 + 56


def _x86_64(pipe: int, path: bytes) -> bytes:
    number = pipe.to_bytes(4, "little")
    code = (
        b"\xb8\x48\0\0\0"  # mov eax, 72 (fcntl)
        b"\xbf" + number +  # mov edi, the pipe
        b"\xbe\x02\0\0\0"  # mov esi, F_SETFD
        b"\xba\x01\0\0\0"  # mov edx, FD_CLOEXEC
        b"\x0f\x05"  # syscall
        b"\x83\xf8\xf7"  # cmp eax, -EBADF
        b"\x74\x38"  # je the end: it was executed again, by way of /proc/self/exe
        b"\x48\x8b\x04\x24"  # mov rax, [rsp], the number of arguments
        b"\x48\x8d\x74\x24\x08"  # lea rsi, [rsp+8], the arguments
        b"\x48\x8d\x54\xc6\x08"  # lea rdx, [rsi+rax*8+8], the environment
        b"\x48\x8d\x3d\x2f\0\0\0"  # lea rdi, the path
        b"\xb8\x3b\0\0\0"  # mov eax, 59 (execve)
        b"\x0f\x05"  # syscall
        b"\xf7\xd8"  # neg eax
        b"\xc1\xe0\x08"  # shl eax, 8
        b"\xb0" + REFUSED +  # mov al, REFUSED
        b"\x50"  # push rax
        b"\xb8\x01\0\0\0"  # mov eax, 1 (write)
        b"\xbf" + number +  # mov edi, the pipe
        b"\x48\x89\xe6"  # mov rsi, rsp
        b"\xba\x02\0\0\0"  # mov edx, 2
        b"\x0f\x05"  # syscall
        b"\xb8\xe7\0\0\0"  # the end: mov eax, 231 (exit_group)
        b"\xbf\x7f\0\0\0"  # mov edi, 127
        b"\x0f\x05"  # syscall
    )  # fmt: skip
    return code + path


def _aarch64(pipe: int, path: bytes) -> bytes:
    words = (
        0xD2800328,  # mov x8, 25 (fcntl)
        0x52800000 | pipe << 5,  # mov w0, the pipe
        0xD2800041,  # mov x1, F_SETFD
        0xD2800022,  # mov x2, FD_CLOEXEC
        0xD4000001,  # svc 0
        0x3100241F,  # cmn w0, EBADF
        0x54000000 | 18 << 5,  # b.eq the end: it was executed again, by way of /proc/self/exe
        0xF94003E3,  # ldr x3, [sp], the number of arguments
        0x910023E1,  # add x1, sp, 8, the arguments
        0x8B030C22,  # add x2, x1, x3, lsl 3
        0x91002042,  # add x2, x2, 8, the environment
        0x10000000 | 16 << 5,  # adr x0, the path
        0xD2801BA8,  # mov x8, 221 (execve)
        0xD4000001,  # svc 0
        0x4B0003E0,  # neg w0, w0
        0x53185C00,  # lsl w0, w0, 8
        0x52800003 | REFUSED[0] << 5,  # mov w3, REFUSED
        0x2A030000,  # orr w0, w0, w3
        0xF81F0FE0,  # str x0, [sp, -16]!
        0x52800000 | pipe << 5,  # mov w0, the pipe
        0x910003E1,  # mov x1, sp
        0xD2800042,  # mov x2, 2
        0xD2800808,  # mov x8, 64 (write)
        0xD4000001,  # svc 0
        0x52800FE0,  # the end: mov w0, 127
        0xD2800BC8,  # mov x8, 94 (exit_group)
        0xD4000001,  # svc 0
    )
    return b"".join(word.to_bytes(4, "little") for word in words) + path


_MACHINES: dict[str, tuple[int, Callable[[int, bytes], bytes]]] = {
    "x86_64": (62, _x86_64),
    "aarch64": (183, _aarch64),
}


def image(machine: str, pipe: int, path: str) -> bytes:
    """The program as an ELF file, which executes `path` with its own arguments and environment."""
    number, code = _MACHINES[machine]
    body = code(pipe, ospath.encoded(path) + b"\0")
    size = (_HEADERS + len(body)).to_bytes(8, "little")

    def little(value: int, length: int) -> bytes:
        return value.to_bytes(length, "little")

    header = b"\x7fELF\x02\x01\x01" + bytes(9) + little(2, 2) + little(number, 2) + little(1, 4)
    header += little(_ADDRESS + _HEADERS, 8) + little(64, 8) + bytes(12)
    header += little(64, 2) + little(56, 2) + little(1, 2) + bytes(6)
    # One segment, readable and executable: the whole file.
    segment = little(1, 4) + little(5, 4) + bytes(8) + little(_ADDRESS, 8) * 2
    return header + segment + size * 2 + little(0x1000, 8) + body


def machine() -> str:
    """The machine to make it for; "" if there is no such program for this one."""
    name = os.uname().machine
    return name if name in _MACHINES else ""


def become(
    machine: str, path: str, arguments: tuple[str, ...], variables: dict[str, str], pipe: int
) -> bool:
    """Execute a program by way of the small one for a machine.

    It comes back where that one cannot be executed, for a seccomp profile refuses it, say: False
    if nothing was said on the pipe yet.
    """
    flags = os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING
    try:
        try:
            file = os.memfd_create("stand-in", flags | _MFD_EXEC)
        except OSError:
            file = os.memfd_create("stand-in", flags)  # before Linux 6.3
        os.write(file, image(machine, pipe, path))
        fcntl.fcntl(file, _F_ADD_SEALS, _SEALS)
    except OSError:
        return False
    os.write(pipe, BECOMING)
    os.set_inheritable(pipe, True)
    try:
        os.execve(file, arguments, variables)
    except OSError:
        os.set_inheritable(pipe, False)
    return True
