"""Device access of a cgroup v2, as a small BPF program.

cgroup v1 has a list in its files devices.allow and devices.deny. v2 has a hook instead: a program
of type BPF_PROG_TYPE_CGROUP_DEVICE that is asked at each open(2) and mknod(2) of a device and
answers 1 (yes) or 0 (no). The rules of a container are compiled to such a program here: the rules
are looked at from the last to the first, and the first that fits decides, so that later rules
override earlier ones as they do in v1. Source: bpf(2), linux/bpf.h, cgroup-v2.rst.
"""

from __future__ import annotations

import os
import sys

from ctrt.linux.calls import KernelError
from ctrt.linux.clib import (
    C_INT,
    C_LONG,
    C_POINTER,
    C_UINT,
    C_UINT32,
    C_UINT64,
    Structure,
    addressof,
    byref,
    function,
    get_errno,
    library,
    sizeof,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    Rule = tuple[bool, str, int, int, str]

_NUMBERS = {"x86_64": 321, "aarch64": 280, "riscv64": 280, "s390x": 351, "ppc64le": 361}
_LOAD, _ATTACH, _DETACH, _FD_BY_ID, _QUERY = 5, 8, 9, 13, 16
_CGROUP_DEVICE_PROGRAM, _CGROUP_DEVICE_HOOK, _ALLOW_MULTI = 15, 6, 2

# struct bpf_cgroup_dev_ctx: access_type (access << 16 | type), major, minor
_TYPES = {"b": 1, "c": 2}
_ACCESS = {"m": 1, "r": 2, "w": 4}
# Registers: 1 holds the context; 2 the type, 3 the access, 4 major, 5 minor.
_LOAD_WORD, _MOVE, _MOVE_REGISTER, _AND, _SHIFT, _EXIT = 0x61, 0xB4, 0xBC, 0x54, 0x74, 0x95
_JUMP_UNLESS = 0x56


def _instruction(code: int, to: int = 0, of: int = 0, offset: int = 0, value: int = 0) -> bytes:
    """One instruction, a struct bpf_insn."""
    return (
        bytes((code, to | of << 4))
        + offset.to_bytes(2, sys.byteorder, signed=True)
        + (value & 0xFFFFFFFF).to_bytes(4, sys.byteorder)
    )


def device_program(rules: tuple[Rule, ...]) -> bytes:
    """The program of some rules: (allow, type "a", "b" or "c", major, minor, access "rwm").

    A number of -1 stands for every number. What no rule fits is denied.
    """
    program = [
        _instruction(_LOAD_WORD, 2, 1, 0),
        _instruction(_MOVE_REGISTER, 3, 2),
        _instruction(_AND, 2, value=0xFFFF),
        _instruction(_SHIFT, 3, value=16),
        _instruction(_LOAD_WORD, 4, 1, 4),
        _instruction(_LOAD_WORD, 5, 1, 8),
    ]
    for allow, kind, major, minor, access in reversed(rules):
        program += _rule(allow, kind, major, minor, access)
        if kind == "a" and major < 0 and minor < 0 and len(access) == 3:
            break  # it fits everything: earlier rules have no say
    else:
        program += _answer(allow=False)
    return b"".join(program)


def _answer(*, allow: bool) -> list[bytes]:
    return [_instruction(_MOVE, 0, value=int(allow)), _instruction(_EXIT)]


def _rule(allow: bool, kind: str, major: int, minor: int, access: str) -> list[bytes]:
    """Tests that jump past the answer where the rule does not fit."""
    tests: list[tuple[int, int, int]] = []
    if kind != "a":
        tests.append((_JUMP_UNLESS, 2, _TYPES[kind]))
    mask = 0
    for letter in access:
        mask |= _ACCESS[letter]
    if major >= 0:
        tests.append((_JUMP_UNLESS, 4, major))
    if minor >= 0:
        tests.append((_JUMP_UNLESS, 5, minor))
    body: list[bytes] = []
    if mask != 7:
        # A rule that allows must cover all that is asked for; one that denies, any of it.
        left = ~mask if allow else mask
        body.append(_instruction(_MOVE_REGISTER, 1, 3))
        body.append(_instruction(_AND, 1, value=left & 7))
        # Allow: go on unless nothing is left over. Deny: go on if nothing is touched.
        body.append(_instruction(_JUMP_UNLESS if allow else 0x16, 1, offset=2, value=0))
    answer = _answer(allow=allow)
    instructions = []
    rest = len(tests) + len(body) + len(answer)
    for position, (code, register, value) in enumerate(tests):
        instructions.append(_instruction(code, register, 0, rest - position - 1, value))
    return [*instructions, *body, *answer]


# --- the system call --------------------------------------------------------------------------


def _attributes(*members: tuple[str, Any]) -> Any:
    """One member of the union bpf_attr."""
    return type("_Attributes", (Structure,), {"_fields_": members})


def _words(*names: str) -> tuple[tuple[str, Any], ...]:
    return tuple((name, C_UINT32) for name in names)


_Load = _attributes(
    *_words("kind", "count"),
    *((name, C_UINT64) for name in ("instructions", "license")),
    *_words("log_level", "log_size"),
    ("log", C_UINT64),
    *_words("version", "flags"),
)
_Attach = _attributes(*_words("target", "program", "hook", "flags", "replaced"))
_Query = _attributes(
    *_words("target", "hook", "query", "flags"), ("ids", C_UINT64), *_words("count", "padding")
)
_ById = _attributes(*_words("id", "next", "flags"))
_syscall = function(library(None), "syscall", C_LONG, C_LONG, C_INT, C_POINTER, C_UINT)


def _bpf(command: int, attributes: Any) -> int:
    number = _NUMBERS.get(os.uname().machine)
    if number is None:
        raise KernelError(38, "bpf")
    result: int = _syscall(number, command, byref(attributes), sizeof(attributes))
    if result < 0:
        raise KernelError(get_errno(), "bpf")
    return result


def _buffer(data: bytes) -> Any:
    padded = data.ljust((len(data) + 3) // 4 * 4, b"\0")
    words = [int.from_bytes(padded[at : at + 4], sys.byteorder) for at in range(0, len(padded), 4)]
    return (C_UINT32 * len(words))(*words)


def load(program: bytes) -> int:
    """Load a program; its descriptor. Raises KernelError."""
    instructions, words = _buffer(program), _buffer(b"Apache-2.0")
    return _bpf(
        _LOAD,
        _Load(
            kind=_CGROUP_DEVICE_PROGRAM,
            count=len(program) // 8,
            instructions=addressof(instructions),
            license=addressof(words),
        ),
    )


def attached(cgroup: int) -> list[int]:
    """The ids of the device programs of a cgroup, by its descriptor. Raises KernelError."""
    ids = (C_UINT32 * 64)()
    query = _Query(target=cgroup, hook=_CGROUP_DEVICE_HOOK, ids=addressof(ids), count=64)
    _bpf(_QUERY, query)
    return list(ids[: query.count])


def set_device_rules(directory: str, rules: tuple[Rule, ...]) -> None:
    """Let these rules, and no others, decide on the devices of a cgroup v2.

    The new program is attached before the old ones go, so that there is no moment without.
    Raises KernelError; it takes CAP_BPF and CAP_NET_ADMIN, or CAP_SYS_ADMIN.
    """
    cgroup = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    opened = [cgroup]
    try:
        old = attached(cgroup)
        new = load(device_program(rules))
        opened.append(new)
        _bpf(
            _ATTACH,
            _Attach(target=cgroup, program=new, hook=_CGROUP_DEVICE_HOOK, flags=_ALLOW_MULTI),
        )
        for number in old:
            program = _bpf(_FD_BY_ID, _ById(id=number))
            opened.append(program)
            _bpf(_DETACH, _Attach(target=cgroup, program=program, hook=_CGROUP_DEVICE_HOOK))
    finally:
        for descriptor in opened:
            os.close(descriptor)
