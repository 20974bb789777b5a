"""Seccomp profiles to BPF programs, by libseccomp.

A profile is the `linux.seccomp` object of the OCI runtime specification. Compiling one for
three architectures takes several milliseconds, loading the result less than one: so compile
once, keep the bytes (`filters.cached`), and load those.
"""

from __future__ import annotations

import ctypes
import os
import struct

from ctrt.linux.filters import SeccompError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_ACTIONS = {
    "SCMP_ACT_KILL": 0x00000000,
    "SCMP_ACT_KILL_THREAD": 0x00000000,
    "SCMP_ACT_KILL_PROCESS": 0x80000000,
    "SCMP_ACT_TRAP": 0x00030000,
    "SCMP_ACT_ERRNO": 0x00050000,
    "SCMP_ACT_TRACE": 0x7FF00000,
    "SCMP_ACT_LOG": 0x7FFC0000,
    "SCMP_ACT_ALLOW": 0x7FFF0000,
    "SCMP_ACT_NOTIFY": 0x7FC00000,
}
_WITH_DATA = ("SCMP_ACT_ERRNO", "SCMP_ACT_TRACE")
ARCHITECTURES = tuple(
    "SCMP_ARCH_" + name
    for name in (
        "AARCH64 ARM LOONGARCH64 M68K MIPS MIPS64 MIPS64N32 MIPSEL MIPSEL64 MIPSEL64N32 PARISC "
        "PARISC64 PPC PPC64 PPC64LE RISCV64 S390 S390X SH SHEB X32 X86 X86_64"
    ).split()
)
"""The names of the specification; an older libseccomp knows fewer."""
_COMPARE = {
    "SCMP_CMP_NE": 1,
    "SCMP_CMP_LT": 2,
    "SCMP_CMP_LE": 3,
    "SCMP_CMP_EQ": 4,
    "SCMP_CMP_GE": 5,
    "SCMP_CMP_GT": 6,
    "SCMP_CMP_MASKED_EQ": 7,
}
_ATTRIBUTE_NO_NEW_PRIVS = 3
_ATTRIBUTE_OPTIMIZE = 8
_EPERM, _EEXIST, _EDOM, _ENOSYS = 1, 17, 33, 38
_NO_SUCH_SYSCALL = -1
_NOT_THERE = _ACTIONS["SCMP_ACT_ERRNO"] | _ENOSYS
_PERMISSIVE = ("SCMP_ACT_ALLOW", "SCMP_ACT_LOG", "SCMP_ACT_TRACE")
_X86_64, _X32, _X32_BIT = 0xC000003E, 0x4000003E, 0x40000000
_LOAD, _EQUAL, _GREATER, _AT_LEAST, _RETURN = 0x20, 0x15, 0x25, 0x35, 0x06
"""Source: linux/audit.h, linux/bpf_common.h, seccomp.h of libseccomp."""


class _Compare(ctypes.Structure):
    _fields_ = [
        ("argument", ctypes.c_uint),
        ("operator", ctypes.c_int),
        ("a", ctypes.c_uint64),
        ("b", ctypes.c_uint64),
    ]


_library: ctypes.CDLL | None = None


def _libseccomp() -> ctypes.CDLL:
    global _library
    if _library is None:
        try:
            library = ctypes.CDLL("libseccomp.so.2")
        except OSError:
            raise SeccompError(
                "libseccomp.so.2 is not on this machine, so no seccomp filter can be compiled; "
                "install the package libseccomp2 (Debian) or libseccomp (Fedora)"
            ) from None
        library.seccomp_init.restype = ctypes.c_void_p
        library.seccomp_init.argtypes = [ctypes.c_uint32]
        library.seccomp_release.argtypes = [ctypes.c_void_p]
        library.seccomp_arch_resolve_name.argtypes = [ctypes.c_char_p]
        library.seccomp_arch_resolve_name.restype = ctypes.c_uint32
        library.seccomp_arch_add.argtypes = [ctypes.c_void_p, ctypes.c_uint32]
        library.seccomp_attr_set.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_uint32]
        library.seccomp_syscall_resolve_name.argtypes = [ctypes.c_char_p]
        library.seccomp_syscall_resolve_name_arch.argtypes = [ctypes.c_uint32, ctypes.c_char_p]
        library.seccomp_arch_native.restype = ctypes.c_uint32
        library.seccomp_rule_add_array.argtypes = [
            ctypes.c_void_p,
            ctypes.c_uint32,
            ctypes.c_int,
            ctypes.c_uint,
            ctypes.POINTER(_Compare),
        ]
        library.seccomp_export_bpf.argtypes = [ctypes.c_void_p, ctypes.c_int]
        _library = library
    return _library


class _Version(ctypes.Structure):
    _fields_ = [(name, ctypes.c_uint) for name in ("major", "minor", "micro")]


def library_version() -> str:
    """The version of libseccomp, such as "2.5.4". Raises SeccompError where there is none."""
    get = _libseccomp().seccomp_version
    get.restype = ctypes.POINTER(_Version)
    version = get().contents
    return f"{version.major}.{version.minor}.{version.micro}"


def _expect(value: Any, kind: type, place: str) -> Any:
    if not isinstance(value, kind):
        word = "an object" if kind is dict else "a list" if kind is list else "a string"
        raise SeccompError(f"{place}: expected {word}, not {value!r}")
    return value


def _number(value: object, limit: int, place: str) -> int:
    if not isinstance(value, int) or not 0 <= value < limit:
        raise SeccompError(f"{place}: {value!r} is not a number from 0 to {limit - 1}")
    return value


def _action(name: object, errno_ret: object, place: str) -> int:
    if not isinstance(name, str) or name not in _ACTIONS:
        raise SeccompError(f"{place}: {name!r} is not one of {', '.join(_ACTIONS)}")
    value = _ACTIONS[name]
    if name in _WITH_DATA:
        number = _EPERM if errno_ret is None else errno_ret
        if not isinstance(number, int) or not 0 <= number <= 0xFFFF:
            raise SeccompError(f"{place}: errnoRet must be a number from 0 to 65535")
        value |= number
    elif errno_ret:
        raise SeccompError(f"{place}: errnoRet does not go with {name}")
    return value


def compile_profile(profile: dict[str, Any]) -> bytes:
    """The BPF program (8 bytes an instruction) of an OCI seccomp profile.

    Names that this libseccomp does not know are left out, as runc and crun do: a profile is
    written for newer kernels than the one it runs on. Calls that are newer than every call of the
    profile fail with ENOSYS whatever else the profile refuses calls with, as runc does it: so a
    program falls back to an older call. Raises SeccompError. Source: seccomp_rule_add(3), and
    config-linux.md, "Seccomp", of the OCI runtime specification.
    """
    library = _libseccomp()
    _expect(profile, dict, "seccomp")
    default = _action(
        profile.get("defaultAction"), profile.get("defaultErrnoRet"), "seccomp.defaultAction"
    )
    if default == _ACTIONS["SCMP_ACT_NOTIFY"]:
        raise SeccompError(
            "seccomp.defaultAction: SCMP_ACT_NOTIFY would stop the runtime itself; "
            "name the calls to notify in syscalls"
        )
    context = library.seccomp_init(default)
    if not context:
        raise SeccompError("seccomp.defaultAction: libseccomp refuses it")
    tokens = [library.seccomp_arch_native()]
    try:
        # no_new_privs is a step of its own; the filter must not decide it.
        library.seccomp_attr_set(context, _ATTRIBUTE_NO_NEW_PRIVS, 0)
        # A binary tree of comparisons instead of a list: each call of the container passes it.
        library.seccomp_attr_set(context, _ATTRIBUTE_OPTIMIZE, 2)
        for index, name in enumerate(
            _expect(profile.get("architectures") or [], list, "seccomp.architectures")
        ):
            tokens.append(
                _add_architecture(library, context, name, f"seccomp.architectures[{index}]")
            )
        for index, rule in enumerate(
            _expect(profile.get("syscalls") or [], list, "seccomp.syscalls")
        ):
            _add_rule(library, context, rule, f"seccomp.syscalls[{index}]", default)
        program = _export(library, context)
        if profile["defaultAction"] in _PERMISSIVE or default == _NOT_THERE:
            return program
        return _refuse_newer(library, tokens, profile) + program
    finally:
        library.seccomp_release(context)


def _refuse_newer(library: ctypes.CDLL, tokens: list[int], profile: dict[str, Any]) -> bytes:
    """The instructions that go before a filter: ENOSYS for calls newer than those of its profile.

    "Newer" is a higher number, for each architecture; x32's are x86-64's with a bit set.
    """
    names = {name.encode() for rule in profile.get("syscalls") or () for name in rule["names"]}
    last: dict[int, int] = {}
    for token in dict.fromkeys(tokens):
        numbers = (library.seccomp_syscall_resolve_name_arch(token, name) for name in names)
        highest = max(numbers, default=-1)
        if token and highest >= 0:
            last[token] = highest
    x32 = last.pop(_X32, -1)
    program = []
    for token, highest in last.items():
        # The data of a filter: the number at 0, the architecture at 4. Jumps count from behind.
        program.append((_LOAD, 0, 0, 4))
        if token != _X86_64:
            program += [(_EQUAL, 0, 3, token), (_LOAD, 0, 0, 0), (_GREATER, 0, 1, highest)]
        elif x32 < 0:
            program += [(_EQUAL, 0, 4, token), (_LOAD, 0, 0, 0), (_AT_LEAST, 2, 0, _X32_BIT)]
            program.append((_GREATER, 0, 1, highest))
        else:
            program += [(_EQUAL, 0, 5, token), (_LOAD, 0, 0, 0), (_AT_LEAST, 1, 0, _X32_BIT)]
            program += [(_GREATER, 1, 2, highest), (_GREATER, 0, 1, x32)]
        program.append((_RETURN, 0, 0, _NOT_THERE))
    return b"".join(struct.pack("=HBBI", *instruction) for instruction in program)


def _add_architecture(library: ctypes.CDLL, context: int, name: object, place: str) -> int:
    """Let a filter have an architecture too: its AUDIT_ARCH number, or 0 if it is unknown."""
    if name not in ARCHITECTURES:
        raise SeccompError(f"{place}: {name!r} is not an architecture")
    short = str(name).removeprefix("SCMP_ARCH_").lower()
    token = library.seccomp_arch_resolve_name(short.encode())
    if token == 0:
        return 0  # one that this libseccomp does not know yet, so no program of it runs here
    result = library.seccomp_arch_add(context, token)
    if result == -_EDOM:
        raise SeccompError(
            f"{place}: {name} has another byte order than this machine, "
            "and one filter cannot have both"
        )
    if result not in (0, -_EEXIST):
        raise SeccompError(f"{place}: {name}: {os.strerror(-result)}")
    return int(token)


def _add_rule(
    library: ctypes.CDLL, context: int, rule: dict[str, Any], place: str, default: int
) -> None:
    _expect(rule, dict, place)
    for key in ("includes", "excludes"):
        if rule.get(key):
            raise SeccompError(
                f"{place}.{key}: conditions are for Docker's own form of profiles; "
                "profiles.resolve() makes an OCI profile of one"
            )
    action = _action(rule.get("action"), rule.get("errnoRet"), f"{place}.action")
    if action == default:
        return
    arguments = _expect(rule.get("args") or [], list, f"{place}.args")
    compares = []
    for number, argument in enumerate(arguments):
        where = f"{place}.args[{number}]"
        operator = _expect(argument, dict, where).get("op")
        if not isinstance(operator, str) or operator not in _COMPARE:
            raise SeccompError(f"{where}.op: not one of {', '.join(_COMPARE)}")
        compares.append(
            _Compare(
                _number(argument.get("index"), 6, f"{where}.index"),
                _COMPARE[operator],
                _number(argument.get("value"), 1 << 64, f"{where}.value"),
                _number(argument.get("valueTwo", 0), 1 << 64, f"{where}.valueTwo"),
            )
        )
    # libseccomp joins the comparisons of one rule by "and", and takes one for each argument;
    # several for the same argument are separate rules, as runc does it.
    indexes = [argument["index"] for argument in arguments]
    groups = [compares] if len(set(indexes)) == len(indexes) else [[c] for c in compares]
    for name in _expect(rule.get("names") or [], list, f"{place}.names"):
        encoded = _expect(name, str, f"{place}.names").encode()
        number = library.seccomp_syscall_resolve_name(encoded)
        if number == _NO_SUCH_SYSCALL:
            continue
        for group in groups:
            array = (_Compare * len(group))(*group)
            result = library.seccomp_rule_add_array(context, action, number, len(group), array)
            if result not in (0, -_EEXIST):
                raise SeccompError(f"{place}: {name}: {os.strerror(-result)}")


def _export(library: ctypes.CDLL, context: int) -> bytes:
    descriptor = os.memfd_create("seccomp")
    try:
        result = library.seccomp_export_bpf(context, descriptor)
        if result != 0:
            raise SeccompError(f"libseccomp cannot export the filter: {os.strerror(-result)}")
        return os.pread(descriptor, os.fstat(descriptor).st_size, 0)
    finally:
        os.close(descriptor)
