"""Plans as text: what strace would show, the same each time, for every operation there is."""

from __future__ import annotations

import inspect

import pytest
import test_planner as sample

from ctrt.errors import CtrtError
from ctrt.linux import calls as k
from ctrt.runtime import failure, operations, planner
from ctrt.runtime.plan import INSIDE, OUTSIDE, Plan, Step, describe

UNSHARES = (
    sample.unshared(("user", "pid", "mount"), mount_proc="/proc", directory="/", trace=True),
    sample.unshared(("user", "time"), fork=True, uid_map=((0, 1, 1),), gid_map=((0, 1, 1),)),
    sample.unshared(("uts",), kept=(("uts", "/run/uts"),), death_signal=15),
)
WITH_RIGHTS = planner.with_rights(
    ("sh",),
    ("PATH=/bin", "A=b"),
    sample.HOSTS["root"],
    uid=1,
    gid=2,
    sets=(0xF, 0x7, 0x3, 0x1),
    securebits=1,
    no_new_privileges=True,
    trace=True,
)


for _name in operations._ELSEWHERE:
    if not _name.endswith("_"):
        assert operations.OPERATIONS[_name]  # its module is imported
OWN = {
    name
    for name, function in operations.OPERATIONS.items()
    if function.__module__.startswith("ctrt.runtime.operations")
}
"""The operations of every start; others add theirs when they are loaded."""


def every_plan():
    """Plans that between them use every operation."""
    for name in sample.HOSTS:
        config = sample.configuration(name, root={"path": "/x", "readonly": True})
        yield sample.planned(name, config, trace=True)
    yield from UNSHARES
    yield WITH_RIGHTS
    yield from sample.everything()


def every_call():
    for plan in every_plan():
        for step in plan.steps:
            yield from step.calls
            yield from step.undo


def test_the_sample_plans_use_every_operation_and_no_other():
    used = {call[0] for call in every_call()}
    assert used >= OWN
    assert used <= {*operations.OPERATIONS, "hooks", "console", "find_program", "await_start"} | {
        "seccomp_listener",
        "cgroup_attach",
        "cgroup_make",
        "cgroup_remove",
    }


def test_every_call_fits_its_operation():
    """A call has the arguments that the executor's function takes."""
    for name, *arguments in every_call():
        if name in OWN:
            inspect.signature(operations.OPERATIONS[name]).bind(None, *arguments)


@pytest.mark.parametrize("operation", sorted(OWN))
def test_every_operation_can_be_described(operation):
    shown = {describe(call) for call in every_call() if call[0] == operation}
    assert shown
    for line in shown:
        assert line
        assert "\n" not in line
        assert "b'" not in line, "bytes are counted, not shown"


SHOWN = {
    ("clone", k.CLONE_NEWUSER | k.CLONE_NEWPID, "cgroup"): (
        "clone3(CLONE_NEWUSER|CLONE_NEWPID|CLONE_INTO_CGROUP)"
    ),
    ("clone", 0, None): "clone3(0)",
    ("unshare", k.CLONE_NEWTIME): "unshare(CLONE_NEWTIME)",
    ("map_ids", "uid", ((0, 5, 1), (1, 100, 9)), None): (
        'write("/proc/PID/uid_map", "0 5 1, 1 100 9")'
    ),
    ("map_ids", "gid", ((0, 5, 1),), "/usr/bin/newgidmap"): (
        'newgidmap: write("/proc/PID/gid_map", "0 5 1")'
    ),
    ("overlay", ("/a", "/b"), "/c", (), True, "layers"): (
        'fsmount("overlay", 2 lower layers, upper, idmapped)'
    ),
    ("overlay", ("/a",), "/c", (("userxattr", ""),), False, "layers"): (
        'fsmount("overlay", 1 lower layers, upper)'
    ),
    ("file_system", "tmpfs", (("mode", "755"), ("x", "")), k.MOUNT_ATTR_NOSUID, "mount"): (
        'fsmount("tmpfs", "mode=755,x", nosuid) -> mount'
    ),
    ("bind", "/s", True, "bind3"): 'open_tree("/s", OPEN_TREE_CLONE|AT_RECURSIVE) -> bind3',
    ("bind", "/s", False, "bind3"): 'open_tree("/s", OPEN_TREE_CLONE) -> bind3',
    ("propagation", "/", k.MS_REC | k.MS_SLAVE): 'mount("", "/", "", MS_REC|MS_SLAVE, "")',
    ("seccomp", b"12345678" * 5): "seccomp(SECCOMP_SET_MODE_FILTER, 5 instructions)",
    ("capabilities", 0, 0, (), 0x1F, 0x2F, 0x3, 0x1): (
        "capset(effective=0x1f, permitted=0x2f, inheritable=0x3)"
    ),
    ("rights", 1, 2, (), (0xF, 0x7, 0x3, 0x1), 0x1): (
        "setgroups([]); setresgid(2, 2, 2); setresuid(1, 1, 1)"
        "; capset(bounding=0xf, permitted=0x7, inheritable=0x3, ambient=0x1)"
        "; prctl(PR_SET_SECUREBITS, SECBIT_NOROOT)"
    ),
    ("seccomp", b"12345678", 0x6): (
        "seccomp(SECCOMP_SET_MODE_FILTER, 1 instructions, SECCOMP_FILTER_FLAG_LOG"
        "|SECCOMP_FILTER_FLAG_SPEC_ALLOW)"
    ),
    ("limit_bounding", 0xFF): "prctl(PR_CAPBSET_DROP, all but 0xff)",
    ("exec", ("sh", "-c", 'echo "\\"'), ("SECRET=1",)): 'execve("sh", "-c", "echo \\"\\\\\\"")',
    ("symlinks", "/dev", (("fd", "/proc/self/fd"),)): 'symlink("/proc/self/fd", "/dev/fd")',
    ("become", 0, 0, None): "setresgid(0, 0, 0); setresuid(0, 0, 0)",
    ("become", 5, 6, (7, 8)): "setgroups([7, 8]); setresgid(6, 6, 6); setresuid(5, 5, 5)",
    ("die_with_parent",): "prctl(PR_SET_PDEATHSIG, SIGKILL)",
    ("die_with_parent", 15): "prctl(PR_SET_PDEATHSIG, SIGTERM)",
    ("keep_namespace", "mount", "/f"): 'mount("/proc/PID/ns/mount", "/f", "", MS_BIND)',
    ("hostname", "box"): 'sethostname("box")',
    ("domainname", "org"): 'setdomainname("org")',
    ("umask", 0o022): "umask(0o022)",
    ("umask", 0): "umask(0o000)",
    ("mkdir", "/x", 0o750): 'mkdir("/x", 0o750)',
    ("node", "/dev/null", 0o20666, (1, 3)): 'mknod("/dev/null", S_IFCHR|0o666, 1:3)',
    ("attributes", "mount", k.MOUNT_ATTR_NOATIME, k.MOUNT_ATTR__ATIME, False): (
        "mount_setattr(mount, set noatime, clear _atime)"
    ),
    ("unshare", k.CLONE_NEWUTS | 1 << 40): "unshare(CLONE_NEWUTS|0x10000000000)",
    ("time_offsets", (("boottime", 5, 0), ("monotonic", -1, 9))): (
        'write("/proc/self/timens_offsets", "boottime 5 0, monotonic -1 9")'
        "; setns(time_for_children, CLONE_NEWTIME)"
    ),
    ("keyring", "_ses.box"): 'keyctl(KEYCTL_JOIN_SESSION_KEYRING, "_ses.box")',
    ("oom_score", -500): 'write("/proc/PID/oom_score_adj", "-500")',
    ("rlimits", (("RLIMIT_CORE", 0, 2**64 - 1),)): "prlimit(PID, RLIMIT_CORE, 0, RLIM_INFINITY)",
    ("personality", 8): "personality(PER_LINUX32)",
    ("io_priority", 2, 4): "ioprio_set(PID, IOPRIO_CLASS_BE, level 4)",
    ("scheduler", 3, 3, 5, 0, (0, 0, 0)): (
        "sched_setattr(PID, SCHED_BATCH, SCHED_FLAG_RESET_ON_FORK|SCHED_FLAG_RECLAIM, nice 5,"
        " priority 0)"
    ),
    ("memory_policy", 2 | 1 << 15, (0, 1)): (
        "set_mempolicy(MPOL_BIND|MPOL_F_STATIC_NODES, [0, 1])"
    ),
}


@pytest.mark.parametrize("call", SHOWN, ids=lambda call: call[0])
def test_a_call_looks_as_strace_would_show_it(call):
    assert describe(call) == SHOWN[call]


def test_the_environment_is_not_shown():
    """It can hold secrets, and a plan is printed into notebooks."""
    for plan in every_plan():
        assert "A=b" not in plan.text()
        assert "PATH=/bin" not in plan.text()


def test_text_is_the_same_each_time_and_numbers_every_step():
    for first, again in zip(every_plan(), every_plan(), strict=True):
        text = first.text()
        assert text == again.text()
        for number, step in enumerate(first.steps, 1):
            assert f"{number}. {step.name}  ({step.where})\n" in text


def test_text_of_a_step():
    plan = Plan(
        [
            Step("one", OUTSIDE, [("mkdir", "/x", 0o755)], why="because", source="mkdir(2)"),
            Step(
                "two",
                INSIDE,
                [("pivot",), ("session",)],
                why="so",
                source="pivot_root(2)",
                needs="CAP_SYS_ADMIN",
            ),
        ],
        ("no cgroup",),
    )
    assert plan.text() == (
        "1. one  (outside)\n"
        "   because [mkdir(2)]\n"
        '     mkdir("/x", 0o755)\n'
        "2. two  (inside)\n"
        "   so [pivot_root(2)]\n"
        "   needs: CAP_SYS_ADMIN\n"
        '     pivot_root(".", "."); mount("", ".", "", MS_REC|MS_SLAVE, ""); '
        'umount2(".", MNT_DETACH)\n'
        "     setsid()\n"
        "note: no cgroup"
    )


def test_steps_and_plans_are_compared_by_value():
    def step(**changes):
        values = {"why": "w", "source": "s", "needs": "", "undo": ()}
        return Step("name", OUTSIDE, [("pivot",)], **{**values, **changes})

    assert step() == step()
    assert step() != "name"
    for changes in ({"why": "x"}, {"source": "x"}, {"needs": "x"}, {"undo": (("pivot",),)}):
        assert step() != step(**changes)
        assert Plan([step()]) != Plan([step(**changes)])
    assert Plan([step()]) != Plan([step()], ("a note",))
    assert Plan([step()]) == Plan([step()])


def test_a_step_is_found_by_its_name():
    plan = UNSHARES[0]
    assert plan.step("exec") is plan.steps[-1]
    with pytest.raises(KeyError):
        plan.step("no such step")


# --- what a failed step says ------------------


def failed(plan, operation, errno, words="Some reason"):
    step, call = next(
        (s, c)
        for s, step in enumerate(plan.steps)
        for c, call in enumerate(step.calls)
        if call[0] == operation
    )
    return failure.step_error(plan, step, call, errno, words)


BOX = sample.planned("single id")
WORDS = {
    ("exec", 2): (127, "box:latest has no command 'sh' in its PATH (/bin)"),
    ("exec", 13): (126, "sh of box:latest may not be executed: Some reason"),
    ("exec", 8): (
        126,
        (
            "sh of box:latest is nothing that this machine can execute: it is for another "
            "architecture, or a script without a #! line"
        ),
    ),
    ("exec", 7): (126, "sh of box:latest cannot be executed: Some reason"),
    ("chdir", 20): (125, "box:latest has no directory to start in at /srv: Some reason"),
    ("chdir", 13): (
        125,
        "box:latest did not start: who it runs as may not go into the directory /srv",
    ),
    ("clone", 28): (
        125,
        (
            "no more namespaces can be made here (Some reason); look at "
            "/proc/sys/user/max_user_namespaces and its neighbours, which may be 0"
        ),
    ),
    ("loopback_up", 1): (
        125,
        (
            'box:latest did not start: the step "loopback" failed at ioctl(SIOCSIFFLAGS, "lo", '
            "IFF_UP): Some reason; it needs CAP_NET_ADMIN in the user namespace that owns the "
            "network namespace [network_namespaces(7)]"
        ),
    ),
    ("loopback_up", 5): (
        125,
        (
            'box:latest did not start: the step "loopback" failed at ioctl(SIOCSIFFLAGS, "lo", '
            "IFF_UP): Some reason [network_namespaces(7)]"
        ),
    ),
}


@pytest.mark.parametrize("case", WORDS, ids=str)
def test_a_failed_step_is_a_sentence_with_podman_s_status(case):
    error = failed(BOX, *case)
    assert (error.status, str(error)) == WORDS[case]
    assert isinstance(error, CtrtError)
    assert error.errno == case[1]


def test_refused_namespaces_say_what_an_administrator_can_do():
    assert "sysctl kernel.unprivileged_userns_clone=1" in str(failed(BOX, "clone", 1))


def test_a_failure_outside_of_every_step():
    error = failure.step_error(BOX, -1, -1, 0, "the first process was killed")
    assert str(error) == "box:latest did not start: the first process was killed"
    assert (error.step, error.call) == ("", "")


@pytest.mark.parametrize(("wait", "status"), [(0, 0), (7 << 8, 7), (9, 137), (0x80 | 11, 139)])
def test_exit_status_as_the_shell_has_it(wait, status):
    assert failure.exit_status(wait) == status


def test_removal_empties_only_the_container_s_directory():
    plan = planner.removal_plan("/c/box", *sample.MAPS["single id"], sample.HOSTS["single id"])
    arguments = plan.step("exec").calls[-1][1]
    assert arguments[-1] == "/c/box", "the path is an argument, not a part of the script"
    assert "/c/box" not in arguments[2]
