"""Filters in the kernel: what a program meets, what /proc says, and who is asked."""

from __future__ import annotations

import errno
import json
import marshal
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import ctrt
from ctrt.linux import filters, profiles, seccomp
from ctrt.runtime import seccomp_default, seccomp_notify
from ctrt.runtime.executor import StartError
from ctrt.runtime.plan import INSIDE, OUTSIDE, Plan, Step

PYTHON = os.path.realpath(sys.executable)
pytestmark = pytest.mark.skipif(
    os.uname().machine != "x86_64", reason="the numbers below are those of x86_64"
)

ALLOW_ALL = {"defaultAction": "SCMP_ACT_ALLOW"}


def profile(*rules, **more):
    return {**ALLOW_ALL, "syscalls": list(rules), **more}


def rule(action, *names, **more):
    return {"names": list(names), "action": f"SCMP_ACT_{action}", **more}


def run(loading, *program, about=None, channel=False, privileged=False):
    """(exit status, output) of a program after steps that load a filter."""
    steps = [seccomp_notify.channel()] if channel else []
    steps.append(Step("clone", OUTSIDE, [("clone", 0, None)], why="", source=""))
    inside = [("own_descriptors",), ("stdio",), ("session",), ("signals",)]
    if not privileged:
        inside.append(("no_new_privileges",))
    steps.append(Step("process", INSIDE, inside, why="", source=""))
    steps += loading
    steps.append(Step("exec", INSIDE, [("exec", program, ("PATH=/bin",))], why="", source=""))
    # The test runner has threads, and a process with threads must not clone.
    done = subprocess.run(
        [sys.executable, "-c", EXECUTE, PROJECT],
        input=marshal.dumps((Plan(steps).wire(), about)),
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert done.stderr.startswith(b"["), done.stderr.decode()
    kind, *answer = json.loads(done.stderr)
    if kind == "failed":
        raise StartError(*answer)
    return answer[0], done.stdout.decode()


PROJECT = str(Path(ctrt.__file__).resolve().parents[1])
EXECUTE = """
import json, marshal, os, sys
sys.path.insert(0, sys.argv[1])
from ctrt.runtime.executor import StartError, execute
wire, about = marshal.loads(sys.stdin.buffer.read())
null = os.open("/dev/null", os.O_RDWR)
try:
    started = execute(wire, {"stdin": null, "stdout": 1, "stderr": 1}, about=about)
    status = os.waitstatus_to_exitcode(os.waitpid(started.pid, 0)[1])
    print(json.dumps(["ended", status]), file=sys.stderr)
except StartError as error:
    print(json.dumps(["failed", error.step, error.call, error.errno, error.words]), file=sys.stderr)
"""


def under(found, code, *, flags=0, privileged=False):
    program = seccomp.compile_profile(found)
    load = Step("seccomp", INSIDE, [("seccomp", program, flags)], why="", source="")
    return run([load], PYTHON, "-I", "-S", "-c", code, privileged=privileged)


STATUS = (
    "print([l.split()[1] for l in open('/proc/self/status') if l.startswith(('Secc', 'NoNew'))])"
)
MKDIR = """
import os
try:
    os.mkdir('/proc/none')
except OSError as error:
    print(error.errno)
"""


def test_proc_tells_of_the_filter():
    assert under(ALLOW_ALL, STATUS) == (0, "['1', '2', '1']\n")
    assert under(ALLOW_ALL, STATUS, privileged=True) == (0, "['0', '2', '1']\n")


@pytest.mark.parametrize(
    ("made", "outcome"),
    [
        (rule("ERRNO", "mkdir"), (0, "1\n")),
        (rule("ERRNO", "mkdir", errnoRet=77), (0, "77\n")),
        (rule("ERRNO", "mkdir", errnoRet=0), (0, "")),
        (rule("TRACE", "mkdir", errnoRet=5), (0, f"{errno.ENOSYS}\n")),  # nobody traces
        (rule("LOG", "mkdir"), (0, "2\n")),
        (rule("KILL_PROCESS", "mkdir"), (-signal.SIGSYS, "")),
        (rule("KILL_THREAD", "mkdir"), (-signal.SIGSYS, "")),
        (rule("KILL", "mkdir"), (-signal.SIGSYS, "")),
        (rule("TRAP", "mkdir"), (-signal.SIGSYS, "")),
        (rule("ERRNO", "call_of_2040", "mkdir"), (0, "1\n")),
    ],
)
def test_every_action_has_its_effect(made, outcome):
    assert under(profile(made), MKDIR) == outcome


# What Python needs; the newest of them is faccessat2, number 439.
NEEDED = """
    execve brk mmap munmap mprotect read write close openat newfstatat fstat lseek exit exit_group
    rt_sigaction rt_sigprocmask ioctl fcntl readlink getdents64 pread64 dup arch_prctl
    set_tid_address set_robust_list rseq prlimit64 getrandom futex access sysinfo getcwd gettid
    geteuid getuid getgid getegid getpid sigaltstack uname stat lstat dup2 mremap statx faccessat2
    clock_gettime poll
""".split()


def test_the_default_can_have_an_errno():
    found = {
        "defaultAction": "SCMP_ACT_ERRNO",
        "defaultErrnoRet": 55,
        "syscalls": [rule("ALLOW", *NEEDED)],
    }
    assert under(found, MKDIR) == (0, "55\n")


CALLS = """
import ctypes, sys
libc = ctypes.CDLL(None, use_errno=True)
def call(number):
    libc.syscall(number, b"", 0, 0)
    return ctypes.get_errno()
print([call(number) for number in NUMBERS])
"""
CHROOT, MOUNT_SETATTR, OF_NO_KERNEL, OF_NO_X32 = 161, 442, 1000, 0x40000000 + 1000


@pytest.mark.parametrize("default", [{}, {"defaultErrnoRet": 55}, {"defaultErrnoRet": 38}])
@pytest.mark.parametrize("architectures", ["", "X86_64 X86", "X86_64 X86 X32"])
def test_calls_newer_than_those_of_a_profile_are_not_there(default, architectures):
    """A program that is told EPERM does not try the older call."""
    found = {
        "defaultAction": "SCMP_ACT_ERRNO",
        "architectures": [f"SCMP_ARCH_{name}" for name in architectures.split()],
        "syscalls": [rule("ALLOW", *NEEDED)],
        **default,
    }
    numbers = [CHROOT, MOUNT_SETATTR, OF_NO_KERNEL]
    numbers += [OF_NO_X32] if "X32" in architectures else []
    refused = default.get("defaultErrnoRet", errno.EPERM)
    expected = [refused, *[errno.ENOSYS] * (len(numbers) - 1)]
    assert under(found, CALLS.replace("NUMBERS", str(numbers))) == (0, f"{expected}\n")


COMPARED = """
import ctypes, os
libc = ctypes.CDLL(None, use_errno=True)
def personality(value):
    result = libc.personality(ctypes.c_ulong(value))
    return ctypes.get_errno() if result == -1 else 0
print([personality(value) for value in (0, 8, 0x28, 0x40, 0x48)])
"""


@pytest.mark.parametrize(
    ("args", "answers"),
    [
        ([("EQ", 8, 0)], [0, 99, 0, 0, 0]),
        ([("NE", 0, 0)], [0, 99, 99, 99, 99]),
        ([("MASKED_EQ", 8, 8)], [0, 99, 99, 0, 99]),
        ([("MASKED_EQ", 0xFF, 0x28)], [0, 0, 99, 0, 0]),
        ([("EQ", 8, 0), ("EQ", 0x40, 0)], [0, 99, 0, 99, 0]),
        ([("GT", 8, 0)], [0, 0, 99, 99, 99]),
    ],
)
def test_arguments_are_compared(args, answers):
    compared = [
        {"index": 0, "op": f"SCMP_CMP_{op}", "value": value, "valueTwo": two}
        for op, value, two in args
    ]
    made = rule("ERRNO", "personality", errnoRet=99, args=compared)
    assert under(profile(made), COMPARED) == (0, f"{answers}\n")


# --- 32-bit programs ----------------------------------------------------------------------------

SOURCE = r"""
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
/* A call of the i386 ABI, which a 64-bit program can make as well. */
static long call(long number, long a, long b, long c) {
    long result;
    __asm__ volatile("int $0x80" : "=a"(result) : "a"(number), "b"(a), "c"(b), "d"(c)
                     : "memory", "r8", "r9", "r10", "r11");
    return (int)result;
}
int main(int argc, char **argv) {
    unsigned *words = mmap(0, 4096, PROT_READ | PROT_WRITE,
                           MAP_PRIVATE | MAP_ANONYMOUS | MAP_32BIT, -1, 0);
    int family = atoi(argv[1]);
    words[0] = family; words[1] = 5 /* SOCK_SEQPACKET */; words[2] = 0;
    printf("%ld %ld\n", call(102, 1, (long)words, 0), call(359, family, 5, 0));
    return 0;
}
"""


@pytest.fixture(scope="module")
def calls32(tmp_path_factory):
    directory = tmp_path_factory.mktemp("calls32")
    (directory / "calls.c").write_text(SOURCE)
    subprocess.run(["cc", "-static", "-o", directory / "calls", directory / "calls.c"], check=True)
    return str(directory / "calls")


AF_UNIX, AF_ALG, AF_KCM, AF_VSOCK = 1, 38, 41, 40


@pytest.mark.parametrize("family", [AF_ALG, AF_VSOCK])
def test_socketcall_is_no_way_round_the_default_profile(calls32, family):
    """What family of socket socketcall makes lies in memory, where no filter looks."""
    bare = seccomp.compile_profile(profile(architectures=["SCMP_ARCH_X86_64", "SCMP_ARCH_X86"]))
    default = seccomp.compile_profile(seccomp_default.profile([], "x86_64"))

    def ask(program, number):
        load = Step("seccomp", INSIDE, [("seccomp", program)], why="", source="")
        status, said = run([load], calls32, str(number))
        assert status == 0
        return [int(word) for word in said.split()]

    by_multiplexer, by_own_call = ask(default, family)
    assert by_multiplexer == -errno.EPERM
    assert by_own_call == -errno.ENOSYS
    assert ask(default, AF_UNIX)[1] >= 0
    unfiltered = ask(bare, AF_UNIX)
    if unfiltered == [-errno.ENOSYS] * 2:
        pytest.skip("this kernel runs no 32-bit programs")
    assert unfiltered[0] >= 0


# --- others' profiles -------------------------------------------------------------------------

PODMANS = "/usr/share/containers/seccomp.json"


@pytest.mark.skipif(not os.path.exists(PODMANS), reason="containers-common is not installed")
def test_podman_s_profile_is_resolved_for_the_container():
    with open(PODMANS) as file:
        whole = json.load(file)
    assert profiles.is_conditional(whole)
    release = os.uname().release
    for capabilities, answer in (([], "1"), (["CAP_SYS_CHROOT"], "0")):
        found = profiles.resolve(whole, capabilities, "x86_64", release)
        assert not profiles.is_conditional(found)
        assert found["architectures"] == ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"]
        code = "import os\ntry:\n os.chroot('/'); print(0)\nexcept OSError as e: print(e.errno)"
        assert under(found, code) == (0, f"{answer}\n")


# --- who is asked -----------------------------------------------------------------------------


AGENT = r"""
import array, fcntl, json, select, socket, struct, sys
server = socket.socket(socket.AF_UNIX)
server.bind(sys.argv[1])
server.listen()
print("ready", flush=True)
answers = {int(k): v for k, v in json.loads(sys.argv[2]).items()}
connection, _ = server.accept()
data, ancillary, _, _ = connection.recvmsg(65536, socket.CMSG_SPACE(64))
while part := connection.recv(65536):
    data += part
(notify,) = array.array("i", ancillary[0][2])
asked = []
poll = select.poll()
poll.register(notify, select.POLLIN)
while not any(event & select.POLLHUP for _, event in poll.poll(10000)):
    notification = bytearray(80)
    try:
        fcntl.ioctl(notify, 0xC0502100, notification)  # SECCOMP_IOCTL_NOTIF_RECV
        identifier, _, _, number = struct.unpack_from("<QIIi", notification)
        asked.append(number)
        error = answers[number]  # null: let it be done
        response = struct.pack("<QqiI", identifier, 0, -(error or 0), int(error is None))
        fcntl.ioctl(notify, 0xC0182101, response)  # SECCOMP_IOCTL_NOTIF_SEND
    except FileNotFoundError:
        pass
print(json.dumps([asked, json.loads(data)]))
"""


class Agent:
    """A seccomp agent: takes one notify descriptor, and answers until the container has ended."""

    def __init__(self, directory, answers):
        self.path = f"{directory}/agent.sock"
        self.process = subprocess.Popen(
            [PYTHON, "-c", AGENT, self.path, json.dumps(answers)], stdout=subprocess.PIPE, text=True
        )
        assert self.process.stdout.readline() == "ready\n"

    def join(self):
        """(the calls that it was asked about, the state that it was sent)"""
        said, _ = self.process.communicate(timeout=20)
        return json.loads(said)


ABOUT = {"ociVersion": "1.2.0", "id": "box", "bundle": "/b", "annotations": {"a": "b"}}
MKDIR_NUMBER, OPENAT, READ, CLOSE, EXECVE = 83, 257, 0, 3, 59


def test_an_agent_decides_about_calls(tmp_path):
    agent = Agent(tmp_path, {MKDIR_NUMBER: 77})
    found = profile(rule("NOTIFY", "mkdir"), listenerPath=agent.path, listenerMetadata="words")
    steps = seccomp_notify.load(seccomp.compile_profile(found), 0, agent.path, "words")
    outcome = run(steps, PYTHON, "-I", "-S", "-c", MKDIR, about=ABOUT, channel=True)
    asked, state = agent.join()
    assert outcome == (0, "77\n")
    assert asked == [MKDIR_NUMBER]
    pid = state["pid"]
    assert state == {
        "ociVersion": "0.2.0",  # the version of this document, not of the specification
        "fds": ["seccompFd"],
        "pid": pid,
        "metadata": "words",
        "state": {**ABOUT, "status": "creating", "pid": pid},
    }


def test_an_agent_may_be_asked_about_the_calls_of_the_start_itself(tmp_path):
    agent = Agent(tmp_path, dict.fromkeys((OPENAT, READ, CLOSE, EXECVE)))
    found = profile(rule("NOTIFY", "execve", "openat", "read", "close"), listenerPath=agent.path)
    steps = seccomp_notify.load(seccomp.compile_profile(found), 0, agent.path)
    assert run(steps, "/bin/busybox", "true", about=ABOUT, channel=True) == (0, "")
    asked, state = agent.join()
    assert EXECVE in asked
    assert "metadata" not in state


def test_without_its_agent_a_container_does_not_start(tmp_path):
    program = seccomp.compile_profile(profile(rule("NOTIFY", "mkdir")))
    steps = seccomp_notify.load(program, 0, f"{tmp_path}/none.sock")
    with pytest.raises(StartError) as caught:
        run(steps, "/bin/busybox", "true", about=ABOUT, channel=True)
    assert "the seccomp agent does not listen" in caught.value.words
    assert f"{tmp_path}/none.sock" in caught.value.words


def test_the_descriptor_stays_out_of_the_container(tmp_path):
    agent = Agent(tmp_path, {MKDIR_NUMBER: 1})
    program = seccomp.compile_profile(profile(rule("NOTIFY", "mkdir")))
    steps = seccomp_notify.load(program, 0, agent.path)
    code = "import os; print(sorted(map(int, os.listdir('/proc/self/fd')))[:-1])"
    assert run(steps, PYTHON, "-I", "-S", "-c", code, about=ABOUT, channel=True) == (
        0,
        "[0, 1, 2]\n",
    )
    agent.join()


def test_a_filter_that_is_compiled_once_is_the_same_in_the_kernel(tmp_path):
    found = profile(rule("ERRNO", "mkdir", errnoRet=66))
    first = filters.cached(found, str(tmp_path))
    assert filters.cached(dict(found), str(tmp_path)) == first
    load = Step("seccomp", INSIDE, [("seccomp", first)], why="", source="")
    assert run([load], PYTHON, "-I", "-S", "-c", MKDIR) == (0, "66\n")
