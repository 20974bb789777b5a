"""Seccomp: the profile has the specification's shape, and the compiled filter does what it says.

The compiled filter is run here by an interpreter of classic BPF, call by call, so that what a
container may do is known without starting one.
"""

from __future__ import annotations

import errno
import os
import re
import struct

import pytest

from ctrt.engine.config import DEFAULT_CAPABILITIES
from ctrt.linux import filters, profiles, seccomp
from ctrt.oci import spec
from ctrt.runtime import seccomp_default

pytestmark = pytest.mark.skipif(
    os.uname().machine != "x86_64", reason="the numbers below are those of x86_64"
)

X86_64, I386 = 0xC000003E, 0x40000003  # linux/audit.h
X32_BIT = 0x40000000
ALLOW, KILL_THREAD, KILL_PROCESS, LOG = 0x7FFF0000, 0, 0x80000000, 0x7FFC0000
EPERM, ENOSYS = 0x50000 | errno.EPERM, 0x50000 | errno.ENOSYS
NEWUSER, SIGCHLD = 0x10000000, 17
THREAD = 0x3D0F00  # the flags that glibc gives a new thread


def run_bpf(program, number, arguments=(), arch=X86_64):
    """What a filter answers to a call: the classic BPF machine of seccomp(2) and bpf(4)."""
    padded = [*arguments, *[0] * (6 - len(arguments))]
    data = struct.pack("<IIQ6Q", number, arch, 0, *padded)
    instructions = list(struct.iter_unpack("<HBBI", program))
    a = x = at = 0
    memory = [0] * 16
    while True:
        code, yes, no, value = instructions[at]
        at += 1
        kind = code & 0x07
        operand = x if code & 0x08 else value
        if kind == 0x06:  # RET
            return a if code & 0x18 == 0x10 else value
        if kind == 0x00:  # LD
            mode = code & 0xE0
            assert code & 0x18 == 0, "seccomp loads whole words only"
            if mode == 0x20:
                assert value % 4 == 0
                (a,) = struct.unpack_from("<I", data, value)
            else:
                a = value if mode == 0x00 else memory[value]
        elif kind == 0x01:  # LDX
            x = value if code & 0xE0 == 0x00 else memory[value]
        elif kind == 0x02:
            memory[value] = a
        elif kind == 0x03:
            memory[value] = x
        elif kind == 0x04:  # ALU
            operation = code & 0xF0
            a = {
                0x00: a + operand,
                0x10: a - operand,
                0x40: a | operand,
                0x50: a & operand,
                0x60: a << (operand & 31),
                0x70: a >> (operand & 31),
                0xA0: a ^ operand,
            }[operation] & 0xFFFFFFFF
        elif kind == 0x05:  # JMP
            operation = code & 0xF0
            if operation == 0x00:
                at += value
            else:
                holds = {
                    0x10: a == operand,
                    0x20: a > operand,
                    0x30: a >= operand,
                    0x40: bool(a & operand),
                }[operation]
                at += yes if holds else no
        else:  # MISC
            a, x = (a, a) if code & 0xF8 == 0x00 else (x, x)


def profile(*more, machine="x86_64"):
    return seccomp_default.profile([*DEFAULT_CAPABILITIES, *more], machine)


@pytest.fixture(scope="module")
def default():
    return seccomp.compile_profile(profile())


@pytest.fixture(scope="module")
def admin():
    return seccomp.compile_profile(profile("CAP_SYS_ADMIN"))


# asm/unistd_64.h and asm/unistd_32.h: (name, x86_64, i386)
NUMBERS = {
    "read": (0, 3),
    "open": (2, 5),
    "mkdir": (83, 39),
    "execve": (59, 11),
    "mount": (165, 21),
    "umount2": (166, 52),
    "unshare": (272, 310),
    "setns": (308, 346),
    "clone": (56, 120),
    "clone3": (435, 435),
    "keyctl": (250, 288),
    "add_key": (248, 286),
    "bpf": (321, 357),
    "io_uring_setup": (425, 425),
    "init_module": (175, 128),
    "reboot": (169, 88),
    "chroot": (161, 61),
    "open_by_handle_at": (304, 342),
    "socket": (41, 359),
    "personality": (135, 136),
    "ptrace": (101, 26),
    "settimeofday": (164, 79),
}
UNKNOWN = 4000


@pytest.fixture(params=["x86_64", "i386"])
def machine(request):
    return request.param


def ask(program, machine, name, *arguments):
    number = name if isinstance(name, int) else NUMBERS[name][machine == "i386"]
    return run_bpf(program, number, arguments, I386 if machine == "i386" else X86_64)


ANSWERS = {
    **dict.fromkeys(("read", "open", "mkdir", "execve", "chroot", "ptrace"), ALLOW),
    **dict.fromkeys(("mount", "umount2", "unshare", "setns", "keyctl", "add_key", "bpf"), EPERM),
    **dict.fromkeys(("io_uring_setup", "init_module", "reboot", "settimeofday"), EPERM),
    "open_by_handle_at": EPERM,
    "clone3": ENOSYS,
}


@pytest.mark.parametrize("name", ANSWERS)
def test_the_default_filter(default, machine, name):
    assert ask(default, machine, name) == ANSWERS[name]


def test_a_call_from_the_future_does_not_exist(default, machine):
    assert ask(default, machine, UNKNOWN) == ENOSYS


@pytest.mark.parametrize(
    ("flags", "answer"),
    [
        (SIGCHLD, ALLOW),
        (THREAD, ALLOW),
        (0x4111, ALLOW),  # vfork
        (NEWUSER | SIGCHLD, EPERM),
        (0x00020000, EPERM),  # CLONE_NEWNS
        (0x02000000, EPERM),  # CLONE_NEWCGROUP
        (0x04000000, EPERM),
        (0x08000000, EPERM),
        (0x20000000, EPERM),
        (0x40000000, EPERM),
        (0x7E020000 | THREAD, EPERM),
    ],
)
def test_clone_makes_threads_and_children_but_no_namespaces(default, machine, flags, answer):
    refused = answer == EPERM
    got = ask(default, machine, "clone", flags)
    assert (got != ALLOW) == refused
    assert got == ALLOW or got in (EPERM, ENOSYS)


@pytest.mark.parametrize(
    ("family", "allowed"),
    [(1, 1), (2, 1), (10, 1), (16, 1), (37, 1), (38, 0), (39, 1), (40, 0), (41, 1), (44, 1)],
)
def test_sockets_of_every_family_but_alg_and_vsock(default, machine, family, allowed):
    assert (ask(default, machine, "socket", family, 1, 0) == ALLOW) == bool(allowed)


@pytest.mark.parametrize("operation", [1, 2, 3, 9, 18])
def test_no_socketcall(default, operation):
    """libseccomp makes a rule for socketcall of each one for socket; ours must win over those."""
    assert run_bpf(default, 102, (operation, 0x1000), I386) == EPERM


@pytest.mark.parametrize(
    ("value", "allowed"),
    [(0, True), (8, True), (0x20000, True), (0xFFFFFFFF, True), (0x40000, False), (1, False)],
)
def test_personalities_of_linux_only(default, machine, value, allowed):
    """0x40000 is ADDR_NO_RANDOMIZE: it makes an exploit's life easier."""
    assert (ask(default, machine, "personality", value) == ALLOW) == allowed


@pytest.mark.parametrize("name", ["mount", "umount2", "unshare", "setns", "bpf", "clone3", "mkdir"])
def test_with_cap_sys_admin_namespaces_and_mounts_open(admin, machine, name):
    assert ask(admin, machine, name) == ALLOW


def test_with_cap_sys_admin_clone_takes_any_flag(admin, machine):
    assert ask(admin, machine, "clone", NEWUSER | SIGCHLD) == ALLOW


@pytest.mark.parametrize("name", ["keyctl", "add_key", "io_uring_setup", "init_module"])
def test_what_no_capability_opens_stays_shut(admin, machine, name):
    assert ask(admin, machine, name) == EPERM


@pytest.mark.parametrize(
    ("capability", "name"),
    [
        ("CAP_SYS_BOOT", "reboot"),
        ("CAP_SYS_MODULE", "init_module"),
        ("CAP_DAC_READ_SEARCH", "open_by_handle_at"),
        ("CAP_BPF", "bpf"),
        ("CAP_SYS_TIME", "settimeofday"),
    ],
)
def test_a_capability_opens_its_calls(default, machine, capability, name):
    program = seccomp.compile_profile(profile(capability))
    assert ask(default, machine, name) == EPERM
    assert ask(program, machine, name) == ALLOW


def test_without_cap_sys_chroot_there_is_no_chroot(machine):
    program = seccomp.compile_profile(seccomp_default.profile([], "x86_64"))
    assert ask(program, machine, "chroot") == EPERM
    assert ask(program, machine, "mkdir") == ALLOW


def test_x32_calls_are_no_way_round(default):
    """The third ABI of the machine has numbers of its own, with bit 30 set."""
    assert run_bpf(default, X32_BIT | 83) == ALLOW
    assert run_bpf(default, X32_BIT | NUMBERS["unshare"][0]) == EPERM
    assert run_bpf(default, X32_BIT | NUMBERS["keyctl"][0]) == EPERM


def test_a_foreign_architecture_is_killed_or_refused(default):
    assert run_bpf(default, 83, arch=0xC00000B7) != ALLOW  # AARCH64


def test_the_filter_is_whole_and_within_the_kernel_s_limit(default, admin):
    for program in (default, admin):
        assert len(program) % 8 == 0
        assert 0 < len(program) // 8 <= 4096  # BPF_MAXINSNS
        assert program == seccomp.compile_profile(
            profile(*(["CAP_SYS_ADMIN"] if program is admin else []))
        )


# --- the shape of the profile ------------------

OPERATORS = {f"SCMP_CMP_{name}" for name in "NE LT LE EQ GE GT MASKED_EQ".split()}


@pytest.mark.parametrize("more", [(), ("CAP_SYS_ADMIN",), ("CAP_BPF", "CAP_SYS_TIME")])
@pytest.mark.parametrize("machine", ["x86_64", "aarch64", "riscv64"])
def test_the_profile_is_the_specification_s(more, machine):
    """config-linux.md, "Seccomp", and schema/defs-linux.json of the OCI runtime specification."""
    found = profile(*more, machine=machine)
    assert set(found) == {"defaultAction", "defaultErrnoRet", "architectures", "syscalls"}
    assert found["defaultAction"] == "SCMP_ACT_ERRNO"
    assert found["defaultErrnoRet"] == errno.ENOSYS
    assert all(name.startswith("SCMP_ARCH_") for name in found["architectures"])
    for rule in found["syscalls"]:
        assert set(rule) <= {"names", "action", "errnoRet", "args"}
        assert rule["names"], "minItems is 1"
        assert all(isinstance(name, str) and name for name in rule["names"])
        assert len(set(rule["names"])) == len(rule["names"])
        assert rule["action"] in ("SCMP_ACT_ALLOW", "SCMP_ACT_ERRNO")
        for argument in rule.get("args", []):
            assert set(argument) <= {"index", "value", "valueTwo", "op"}
            assert {"index", "value", "op"} <= set(argument)
            assert 0 <= argument["index"] <= 5
            assert 0 <= argument["value"] < 2**64
            assert argument["op"] in OPERATORS


@pytest.mark.parametrize("more", [(), ("CAP_SYS_ADMIN",), ("CAP_BPF",), ("CAP_SYS_PACCT",)])
def test_no_call_is_both_allowed_and_refused(more):
    sides = {"SCMP_ACT_ALLOW": set(), "SCMP_ACT_ERRNO": set()}
    for rule in profile(*more)["syscalls"]:
        sides[rule["action"]] |= set(rule["names"])
    assert sides["SCMP_ACT_ALLOW"] & sides["SCMP_ACT_ERRNO"] == set()


def test_the_groups_name_no_call_twice():
    names = [name for group in seccomp_default.ALLOWED.values() for name in group.split()]
    twice = {name for name in names if names.count(name) > 1}
    assert twice == set()


# --- profiles of others ------------------


def compiled(*rules, default="SCMP_ACT_ALLOW", **more):
    return seccomp.compile_profile({"defaultAction": default, "syscalls": list(rules), **more})


def test_actions_and_errno_values():
    program = compiled(
        {"names": ["mkdir"], "action": "SCMP_ACT_ERRNO", "errnoRet": 28},
        {"names": ["rmdir"], "action": "SCMP_ACT_ERRNO"},
        {"names": ["reboot"], "action": "SCMP_ACT_KILL_PROCESS"},
        {"names": ["chroot"], "action": "SCMP_ACT_KILL"},
        {"names": ["sync"], "action": "SCMP_ACT_LOG"},
    )
    assert run_bpf(program, 83) == 0x50000 | 28
    assert run_bpf(program, 84) == EPERM
    assert run_bpf(program, 169) == KILL_PROCESS
    assert run_bpf(program, 161) == KILL_THREAD
    assert run_bpf(program, 162) == LOG
    assert run_bpf(program, 0) == ALLOW


COMPARISONS = {
    "SCMP_CMP_NE": lambda got, value: got != value,
    "SCMP_CMP_LT": lambda got, value: got < value,
    "SCMP_CMP_LE": lambda got, value: got <= value,
    "SCMP_CMP_EQ": lambda got, value: got == value,
    "SCMP_CMP_GE": lambda got, value: got >= value,
    "SCMP_CMP_GT": lambda got, value: got > value,
}


@pytest.mark.parametrize("op", COMPARISONS)
@pytest.mark.parametrize("value", [0, 5, 2**32 + 5, 2**63])
def test_comparisons_are_of_all_64_bits(op, value):
    program = compiled(
        {
            "names": ["mkdir"],
            "action": "SCMP_ACT_ERRNO",
            "args": [{"index": 1, "value": value, "op": op}],
        }
    )
    for got in {0, 5, 6, 2**32 + 4, 2**32 + 5, 2**63, 2**64 - 1, value, max(value - 1, 0)}:
        refused = run_bpf(program, 83, (77, got)) == EPERM
        assert refused == COMPARISONS[op](got, value), got


def test_comparisons_of_several_arguments_must_all_hold():
    args = [
        {"index": 0, "value": 1, "op": "SCMP_CMP_EQ"},
        {"index": 1, "value": 2, "op": "SCMP_CMP_EQ"},
    ]
    program = compiled({"names": ["mkdir"], "action": "SCMP_ACT_ERRNO", "args": args})
    assert [run_bpf(program, 83, pair) for pair in ((1, 2), (1, 3), (3, 2))] == [
        *(EPERM, ALLOW, ALLOW)
    ]


def test_comparisons_of_one_argument_are_alternatives():
    args = [{"index": 0, "value": value, "op": "SCMP_CMP_EQ"} for value in (1, 2)]
    program = compiled({"names": ["mkdir"], "action": "SCMP_ACT_ERRNO", "args": args})
    assert [run_bpf(program, 83, (value,)) for value in (1, 2, 3)] == [EPERM, EPERM, ALLOW]


def test_calls_that_nobody_knows_are_left_out():
    rule = {"names": ["mkdir", "call_of_2040"], "action": "SCMP_ACT_ERRNO"}
    assert run_bpf(compiled(rule), 83) == EPERM


def test_every_architecture_of_the_specification_is_taken_or_told_of():
    big_endian = "MIPS MIPS64 MIPS64N32 PARISC PARISC64 PPC PPC64 S390 S390X M68K SHEB".split()
    rule = {"names": ["mkdir"], "action": "SCMP_ACT_ERRNO"}
    for name in spec.ARCHITECTURES:
        if name.removeprefix("SCMP_ARCH_") not in big_endian:
            assert run_bpf(compiled(rule, architectures=[name]), 83) == EPERM
    for name in ("SCMP_ARCH_S390X", "SCMP_ARCH_PPC64", "SCMP_ARCH_MIPS"):
        with pytest.raises(filters.SeccompError, match="has another byte order"):
            compiled(rule, architectures=[name])
    assert set(spec.ARCHITECTURES) == set(seccomp.ARCHITECTURES)


def test_the_library_has_a_version():
    assert re.fullmatch(r"\d+\.\d+\.\d+", seccomp.library_version())


# --- Docker's form ------------------

CONDITIONAL = {
    "defaultAction": "SCMP_ACT_ERRNO",
    "defaultErrnoRet": 38,
    "defaultErrno": "ENOSYS",
    "archMap": [
        {"architecture": "SCMP_ARCH_X86_64", "subArchitectures": ["SCMP_ARCH_X86"]},
        {"architecture": "SCMP_ARCH_AARCH64", "subArchitectures": ["SCMP_ARCH_ARM"]},
    ],
    "syscalls": [
        {"names": ["read"], "action": "SCMP_ACT_ALLOW", "args": [], "includes": {}, "excludes": {}},
        {"name": "write", "action": "SCMP_ACT_ALLOW", "args": None},
        {"names": ["bpf"], "action": "SCMP_ACT_ALLOW", "includes": {"caps": ["CAP_A", "CAP_B"]}},
        {"names": ["bpf"], "action": "SCMP_ACT_ERRNO", "excludes": {"caps": ["CAP_A", "CAP_B"]}},
        {"names": ["arm"], "action": "SCMP_ACT_ALLOW", "includes": {"arches": ["arm64", "arm"]}},
        {"names": ["amd"], "action": "SCMP_ACT_ALLOW", "includes": {"arches": ["amd64"]}},
        {"names": ["new"], "action": "SCMP_ACT_ALLOW", "includes": {"minKernel": "5.10"}},
    ],
}


@pytest.mark.parametrize(
    ("capabilities", "machine", "release", "names"),
    [
        ([], "x86_64", "6.1.0-56-amd64", ["read", "write", "-bpf", "amd", "new"]),
        (["CAP_A"], "x86_64", "5.9", ["read", "write", "amd"]),
        (["CAP_A", "CAP_B"], "aarch64", "5.10.0", ["read", "write", "bpf", "arm", "new"]),
        ([], "riscv64", "4.19.5+", ["read", "write", "-bpf"]),
    ],
)
def test_conditions_are_resolved(capabilities, machine, release, names):
    found = profiles.resolve(CONDITIONAL, capabilities, machine, release)
    assert [
        ("-" if rule["action"] == "SCMP_ACT_ERRNO" else "") + rule["names"][0]
        for rule in found["syscalls"]
    ] == names
    assert spec.seccomp(found)["defaultErrnoRet"] == 38
    assert found["architectures"] == {
        "x86_64": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86"],
        "aarch64": ["SCMP_ARCH_AARCH64", "SCMP_ARCH_ARM"],
    }.get(machine, [])


def test_a_condition_that_nobody_knows_is_an_error():
    rule = {"names": ["x"], "action": "SCMP_ACT_ALLOW", "includes": {"phase": ["full moon"]}}
    with pytest.raises(ValueError, match=r"^syscalls\[0\]\.includes\.phase is not a condition"):
        profiles.resolve({**CONDITIONAL, "syscalls": [rule]}, [], "x86_64", "6.1")
    rule = {**rule, "includes": {"minKernel": "new"}}
    with pytest.raises(ValueError, match=r'minKernel is "new", not a version such as "4\.8"'):
        profiles.resolve({**CONDITIONAL, "syscalls": [rule]}, [], "x86_64", "6.1")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"syscalls": "read"}, "syscalls is not a list of objects"),
        ({"syscalls": ["read"]}, "syscalls is not a list of objects"),
        ({"archMap": {}, "syscalls": [{"includes": []}]}, None),
        ({"archMap": [5]}, "archMap is not a list of objects"),
        ({"syscalls": [{"names": [], "includes": ["CAP_A"]}]}, "syscalls[0].includes is not an ob"),
        (
            {"syscalls": [{"excludes": {"caps": "CAP_A"}}]},
            "syscalls[0].excludes.caps is not a list",
        ),
        ({"syscalls": [{"includes": {"minKernel": 5}}]}, "includes.minKernel is not a string"),
    ],
)
def test_a_profile_of_docker_s_form_and_another_shape(changes, words):
    changed = {**CONDITIONAL, **changes}
    if words is None:
        profiles.resolve(changed, [], "x86_64", "6.1")
        return
    with pytest.raises(ValueError, match=re.escape(words)):
        profiles.resolve(changed, [], "x86_64", "6.1")


def test_an_oci_profile_has_no_conditions():
    assert profiles.is_conditional(CONDITIONAL)
    assert not profiles.is_conditional(profile())


# --- what is wrong ------------------

PLAIN = {"names": ["mkdir"], "action": "SCMP_ACT_ERRNO"}
BAD = {
    "action": ({"syscalls": [PLAIN, {**PLAIN, "action": "X"}]}, "seccomp.syscalls[1].action: 'X'"),
    "default": ({"defaultAction": "ALLOW"}, "seccomp.defaultAction: 'ALLOW' is not one of "),
    "no default": ({"defaultAction": None}, "seccomp.defaultAction: None is not one of "),
    "errno": (
        {"syscalls": [{**PLAIN, "errnoRet": 65536}]},
        "seccomp.syscalls[0].action: errnoRet must be a number from 0 to 65535",
    ),
    "op": (
        {"syscalls": [{**PLAIN, "args": [{"index": 0, "value": 1, "op": "EQ"}]}]},
        "seccomp.syscalls[0].args[0].op: not one of SCMP_CMP_NE, ",
    ),
    "architecture": (
        {"architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_PDP11"]},
        "seccomp.architectures[1]: 'SCMP_ARCH_PDP11' is not an architecture",
    ),
    "index": (
        {"syscalls": [{**PLAIN, "args": [{"index": 6, "value": 1, "op": "SCMP_CMP_EQ"}]}]},
        "seccomp.syscalls[0].args[0].index: 6 is not a number from 0 to 5",
    ),
    "value": (
        {"syscalls": [{**PLAIN, "args": [{"index": 0, "value": 1 << 64, "op": "SCMP_CMP_EQ"}]}]},
        "seccomp.syscalls[0].args[0].value: 18446744073709551616 is not a number from 0 to ",
    ),
    "errno of another action": (
        {"syscalls": [{**PLAIN, "action": "SCMP_ACT_KILL", "errnoRet": 5}]},
        "seccomp.syscalls[0].action: errnoRet does not go with SCMP_ACT_KILL",
    ),
    "default errno of another action": (
        {"defaultErrnoRet": 5},
        "seccomp.defaultAction: errnoRet does not go with SCMP_ACT_ALLOW",
    ),
    "notify": (
        {"defaultAction": "SCMP_ACT_NOTIFY"},
        "seccomp.defaultAction: SCMP_ACT_NOTIFY would stop the runtime itself",
    ),
    "byte order": (
        {"architectures": ["SCMP_ARCH_S390X"]},
        "seccomp.architectures[0]: SCMP_ARCH_S390X has another byte order than this machine",
    ),
    "conditions": (
        {"syscalls": [PLAIN, {**PLAIN, "includes": {"caps": ["CAP_SYS_ADMIN"]}}]},
        "seccomp.syscalls[1].includes: conditions are for Docker's own form of profiles; ",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_profile_is_one_sentence_with_the_place(case):
    changes, sentence = BAD[case]
    with pytest.raises(filters.SeccompError) as caught:
        seccomp.compile_profile({"defaultAction": "SCMP_ACT_ALLOW", **changes})
    assert str(caught.value).startswith(sentence)


SHAPES = {
    "not an object": [],
    "syscalls not a list": {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": {"names": []}},
    "rule not an object": {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": ["mkdir"]},
    "names not strings": {
        "defaultAction": "SCMP_ACT_ALLOW",
        "syscalls": [{**PLAIN, "names": [5]}],
    },
    "argument without value": {
        "defaultAction": "SCMP_ACT_ALLOW",
        "syscalls": [{**PLAIN, "args": [{"index": 0, "op": "SCMP_CMP_EQ"}]}],
    },
    "value not a number": {
        "defaultAction": "SCMP_ACT_ALLOW",
        "syscalls": [{**PLAIN, "args": [{"index": 0, "value": "1", "op": "SCMP_CMP_EQ"}]}],
    },
    "op a list": {
        "defaultAction": "SCMP_ACT_ALLOW",
        "syscalls": [{**PLAIN, "args": [{"index": 0, "value": 1, "op": []}]}],
    },
    "names a string": {
        "defaultAction": "SCMP_ACT_ALLOW",
        "syscalls": [{**PLAIN, "names": "mkdir"}],
    },
    "architectures a number": {"defaultAction": "SCMP_ACT_ALLOW", "architectures": 5},
}


@pytest.mark.parametrize("case", SHAPES)
def test_a_profile_of_another_shape_is_no_crash(case):
    with pytest.raises(filters.SeccompError, match=r"^seccomp"):
        seccomp.compile_profile(SHAPES[case])


# --- the cache ------------------


def kept(directory):
    return [directory / name for name in sorted(os.listdir(directory))]


def test_a_compiled_filter_is_kept_and_reused(tmp_path, monkeypatch, default):
    directory = tmp_path / "cache"
    assert filters.cached(profile(), str(directory)) == default
    (file,) = kept(directory)
    assert file.suffix == ".bpf"
    monkeypatch.setattr(seccomp, "compile_profile", lambda profile: pytest.fail("compiled again"))
    assert filters.cached(profile(), str(directory)) == default


def test_profiles_do_not_share_a_file(tmp_path, default, admin):
    assert filters.cached(profile(), str(tmp_path)) == default
    assert filters.cached(profile("CAP_SYS_ADMIN"), str(tmp_path)) == admin
    assert len(kept(tmp_path)) == 2


@pytest.mark.parametrize("length", [0, 7, 8, 4096, -8, -1])
def test_a_truncated_file_is_compiled_anew(tmp_path, default, length):
    filters.cached(profile(), str(tmp_path))
    (file,) = kept(tmp_path)
    whole = file.read_bytes()
    file.write_bytes(whole[:length])
    assert filters.cached(profile(), str(tmp_path)) == default
    assert file.read_bytes() == whole


def test_a_file_of_the_right_length_with_other_bytes_is_compiled_anew(tmp_path, default):
    filters.cached(profile(), str(tmp_path))
    (file,) = kept(tmp_path)
    file.write_bytes(bytes(len(file.read_bytes())))
    assert filters.cached(profile(), str(tmp_path)) == default
