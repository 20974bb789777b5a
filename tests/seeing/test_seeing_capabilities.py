"""The rules of capabilities beside the kernel: thousands of real processes, one answer each."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest
from seeing_tools import SHELL, answer, as_user, python, running, unshared

from ctrt.errors import CtrtError
from ctrt.linux.capabilities import last, mask
from ctrt.observe import Unknown, capabilities, rules, scan
from ctrt.observe.rules import Credentials, FileCapabilities, Program

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")

KNOWN = (1 << last() + 1) - 1
SOME = ("chown", "kill", "net_raw", "net_bind_service", "sys_chroot", "checkpoint_restore")
USED = mask(SOME)
IDS = (0, 1000, 1001)


@pytest.fixture
def place():
    """A directory that every user may reach, unlike pytest's own."""
    with tempfile.TemporaryDirectory(prefix="ctrt-seeing-") as directory:
        os.chmod(directory, 0o755)
        yield Path(directory)


@pytest.fixture(scope="module")
def program():
    """The helper program, where every user may reach it."""
    with tempfile.TemporaryDirectory(prefix="ctrt-seeing-") as directory:
        os.chmod(directory, 0o755)
        source = Path(__file__).with_name("credentials.c")
        helper = Path(directory, "helper")
        subprocess.run(["cc", "-static", "-O1", "-o", helper, source], check=True)
        yield helper


def some(random_, within=USED):
    """A part of a set; often nothing, often all."""
    return within & random_.choice((0, KNOWN, KNOWN, random_.getrandbits(41)))


def credentials(random_, bounding):
    """Credentials that a process may really have (capabilities(7) forbids some)."""
    held = bounding_of_this_process()
    uid, euid = random_.choice(IDS), random_.choice(IDS)
    gid, egid = random_.choice(IDS), random_.choice(IDS)
    inheritable = some(random_)
    permitted = random_.choice((held, some(random_), some(random_)))
    effective = random_.choice((permitted, some(random_, permitted)))
    ambient = some(random_, permitted & inheritable)
    bits = random_.choice((0, 0, rules.NOROOT, rules.KEEP_CAPS, rules.NO_SETUID_FIXUP, 0x5))
    return Credentials(
        uid, euid, euid, gid, egid, egid, inheritable, permitted, effective, bounding, ambient,
        bits, random_.random() < 0.25,
    )  # fmt: skip


def bounding_of_this_process():
    return capabilities().bounding


def line(who, path):
    sets = " ".join(f"{bits:x}" for bits in who[6:11])
    ids = " ".join(map(str, who[:6]))
    return f"{ids} {sets} {who.securebits:x} {int(who.no_new_privs)} {path}"


def read_line(text):
    word, *rest = text.split()
    if word == "errno":
        return int(rest[0])
    assert word == "ok", text
    ids, sets = [int(n) for n in rest[:6]], [int(n, 16) for n in rest[6:12]]
    return Credentials(*ids, *sets, rest[12] == "1")


def programs(helper, place, rootids=()):
    """Copies of the helper with every mix of set-id bits and file capabilities."""
    made = {}
    sets = [
        None,
        FileCapabilities(2, USED, 0, False, 0),
        FileCapabilities(2, USED, 0, True, 0),
        FileCapabilities(2, 0, USED, True, 0),
        FileCapabilities(2, mask(["kill"]), mask(["chown", "net_raw"]), True, 0),
        FileCapabilities(2, 0, 0, False, 0),
        FileCapabilities(2, 0, 0, True, 0),
        *(FileCapabilities(3, USED, USED, True, rootid) for rootid in rootids),
    ]
    modes = [
        (0, 0, 0o755),
        (0, 0, 0o4755),
        (1001, 0, 0o4755),
        (0, 1001, 0o2755),
        (1001, 1000, 0o6755),
    ]
    for number, found in enumerate(sets):
        for owner, group, mode in modes:
            path = place / f"p{number}-{owner}-{group}-{mode:o}"
            shutil.copy(helper, path)
            os.chown(path, owner, group)
            os.chmod(path, mode)
            if found is not None:
                data = rules.format_file_capabilities(found)
                os.setxattr(path, "security.capability", data)
                shown = rules.file_capabilities(str(path))
                # Where its rootid is root, version 3 is shown as version 2.
                assert shown == (found if found.rootid else found._replace(version=2))
            made[str(path)] = Program(owner, group, bool(mode & 0o4000), bool(mode & 0o2000), found)
    return made


def differences(cases, answers, **more):
    """The cases in which the function and the kernel are not of one mind."""
    assert len(answers) == len(cases)
    wrong = []
    for (who, path, what), text in zip(cases, answers, strict=True):
        expected = rules.execve(who, what, **more)
        got = read_line(text)
        if got != (expected.after or expected.error):
            wrong.append((path, what, who, "kernel", got, "rule", expected))
    return wrong


def test_execve_agrees_with_the_kernel(program, place):
    random_ = random.Random(7)
    files = programs(program, place, rootids=(0, 1000))
    held = bounding_of_this_process()
    cases = []
    for path, what in files.items():
        for _ in range(70):
            bounding = random_.choice((held, held, held & ~USED | some(random_)))
            cases.append((credentials(random_, bounding), path, what))
    assert len(cases) >= 3000
    done = subprocess.run(
        [program, "try"], input="\n".join(line(who, path) for who, path, _ in cases) + "\n",
        capture_output=True, text=True, check=True, timeout=120,
    )  # fmt: skip
    assert differences(cases, done.stdout.splitlines()) == []


def test_execve_on_a_mount_with_nosuid(program, place):
    random_ = random.Random(8)
    script = 'mount --bind "$0" "$0" && mount -o remount,bind,nosuid "$0" && exec "$@"'
    files = programs(program, place)
    held = bounding_of_this_process()
    cases = [
        (credentials(random_, held), path, what._replace(nosuid=True))
        for path, what in files.items()
        for _ in range(20)
    ]
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", script, place, program, "try"],
        input="\n".join(line(who, path) for who, path, _ in cases) + "\n",
        capture_output=True, text=True, check=True, timeout=120,
    )  # fmt: skip
    assert differences(cases, done.stdout.splitlines()) == []


def test_execve_in_a_user_namespace(program, place):
    """Ids inside are 100000 more outside; files of version 3 name who is root there."""
    random_ = random.Random(9)
    outside = programs(program, place, rootids=(100000, 200000))
    files = {}
    for path, what in outside.items():
        # Owners 0 and 1001 of the host have no id inside, but for those given away here.
        if "p2-" in path or "p8-" in path:
            stat = os.stat(path)
            extended = what.capabilities
            os.chown(path, 100000 + what.owner, 100000 + what.group)
            os.chmod(path, stat.st_mode & 0o7777)
            if extended:
                os.setxattr(path, "security.capability", rules.format_file_capabilities(extended))
            files[path] = what
        else:
            files[path] = what._replace(owner=None, group=None)
    with unshared("-U") as pid:
        for kind in ("uid", "gid"):
            with open(f"/proc/{pid}/{kind}_map", "w") as file:
                file.write("0 100000 5000\n")
        cases = [
            (credentials(random_, KNOWN), path, what)
            for path, what in files.items()
            for _ in range(30)
        ]
        # A new member has all capabilities inside, more than this process may have outside.
        done = subprocess.run(
            ["nsenter", "-t", str(pid), "-U", "-S", "0", "-G", "0", program, "try"],
            input="\n".join(line(who, path) for who, path, _ in cases) + "\n",
            capture_output=True, text=True, check=True, timeout=120,
        )  # fmt: skip
    wrong = differences(cases, done.stdout.splitlines(), roots=frozenset({0, 100000}))
    assert wrong == []


def test_every_change_is_told_in_words():
    user = Credentials(1000, 1000, 1000, 1000, 1000, 1000, 0, USED, USED, KNOWN, 0)
    lost = rules.execve(user, Program())
    assert lost.after.permitted == 0
    assert "what is not ambient is lost" in lost.changes[-1].sentence
    kept = rules.execve(user._replace(inheritable=USED, ambient=USED), Program())
    assert kept.after.effective == USED
    dumb = FileCapabilities(2, USED, 0, True, 0)
    refused = rules.execve(user._replace(bounding=0), Program(capabilities=dumb))
    assert refused.after is None
    assert refused.changes[-1].sentence.startswith("refused: ")


# --- the rule of user namespaces --------------------------------------------------------------


def write_map(inside_of, pid, text):
    """The maps of a user namespace, written by a process of its parent."""
    for kind in ("uid", "gid"):
        command = ["sh", "-c", f"echo {text} > /proc/{pid}/{kind}_map"]
        if inside_of:
            command = ["nsenter", "-t", str(inside_of), "-U", "-S", "0", "-G", "0", *command]
        subprocess.run(command, check=True)


def test_the_rule_agrees_with_the_kernel_in_nested_namespaces(program):
    """1,200 answers: five namespaces, who made them, who asks, and with what."""
    from contextlib import ExitStack

    with ExitStack() as stack:

        def space(parent, uid, text):
            enter = ["setpriv", f"--reuid={uid}", f"--regid={uid}", "--clear-groups"]
            if parent:
                enter = ["nsenter", "-t", str(parent), "-U", "-S", str(uid), "-G", str(uid)]
            pid = stack.enter_context(running(*enter, "unshare", "-U", *SHELL))
            write_map(parent, pid, text)
            return pid

        a = space(0, 1000, "0 100000 3000")
        b = space(a, 0, "0 500 400")
        c = space(a, 5, "0 1500 400")
        d = space(b, 7, "0 100 200")
        spaces = {"initial": 0, "a": a, "b": b, "c": c, "d": d}
        targets = []
        for pid in spaces.values():
            enter = ["setpriv", "--reuid=7777", "--regid=7777", "--clear-groups"]
            if pid:
                enter = ["nsenter", "-t", str(pid), "-U", "-S", "77", "-G", "77"]
            targets.append(stack.enter_context(running(*enter, *SHELL)))
        actors = []
        for pid in spaces.values():
            for uid in (0, 5, 7, 1000) if not pid else (0, 5, 7, 42):
                for names in ((), ("kill",), ("sys_nice", "sys_resource"), ("kill", "sys_nice")):
                    held = mask(names) & (KNOWN if pid else bounding_of_this_process())
                    place = f"/proc/{pid}/ns/user" if pid else "-"
                    actor = subprocess.Popen(
                        [program, "act", place, str(uid), f"{held:x}", *map(str, targets)],
                        stdout=subprocess.PIPE, text=True,
                    )  # fmt: skip
                    stack.callback(actor.stdout.close)
                    stack.callback(actor.wait)
                    stack.callback(actor.kill)
                    actors.append((actor, actor.stdout.readline().split()))
        system = scan()
        tried = 0
        clauses = set()
        for actor, told in actors:
            for target, bits in zip(targets, told, strict=True):
                user = system.processes[target].namespace("user")
                for name, bit in zip(("kill", "sys_nice", "sys_resource"), bits, strict=True):
                    answer_ = rules.holds(system, actor.pid, name, user)
                    assert answer_.holds == (bit == "1"), (name, answer_)
                    clauses.add(answer_.clause)
                    tried += 1
        assert tried == 1200
        assert clauses == {"member", "owner", "ancestor", "lacking", "not above"}


def test_the_owner_of_another_kind_is_what_counts():
    with unshared("-Urn") as pid, running(*as_user(*SHELL)) as user:
        system = scan()
        net = system.space(pid, "net").key
        told = rules.holds(system, pid, "net_admin", net)
        assert (told.holds, told.clause) == (True, "member")
        own = system.space(os.getpid(), "net").key
        assert rules.holds(system, pid, "net_admin", own).clause == "not above"
        told = rules.holds(system, user, "net_admin", net)
        assert (told.holds, told.clause) == (False, "lacking")
        assert "CAP_NET_ADMIN is not in its effective set" in told.sentence


def test_what_cannot_be_known_is_not_guessed():
    script = (
        "import json\nfrom ctrt.observe import rules, scan\nimport os\ns = scan()\n"
        "own = s.space(os.getpid(), 'user').key\n"
        "print(json.dumps(list(rules.holds(s, int(sys.argv[1]), 'kill', own))))"
    )
    with unshared("-m") as pid:
        told = answer(*as_user(*python(script, str(pid))))
    assert told[0] is None
    assert told[1] == "unknown"
    assert "no permission to look into that process" in told[2]


# --- what is read of a process and a file -------------------------------------------------------


def test_a_file_s_capabilities_inside_and_outside(place):
    place.chmod(0o777)
    file = place / "file"
    file.touch()
    os.chown(file, 100000, 100000)
    with unshared("-U") as pid:
        for kind in ("uid", "gid"):
            with open(f"/proc/{pid}/{kind}_map", "w") as maps:
                maps.write("0 100000 5000\n")
        enter = ("nsenter", "-t", str(pid), "-U", "-S", "0", "-G", "0")
        subprocess.run([*enter, "setcap", "cap_net_raw+ep", file], check=True)
        outside = rules.file_capabilities(str(file))
        assert outside == FileCapabilities(3, mask(["net_raw"]), 0, True, 100000)
        script = (
            "import json\nfrom ctrt.observe import rules\n"
            "print(json.dumps(list(rules.file_capabilities(sys.argv[1]))))"
        )
        inside = answer(*enter, *python(script, str(file)))
        assert inside == [2, mask(["net_raw"]), 0, True, 0]
    assert rules.file_capabilities("/bin/true") is None
    with pytest.raises(CtrtError, match="its capabilities cannot be read: no such file"):
        rules.file_capabilities("/no/such/file")


def test_version_1_and_what_is_none():
    one = FileCapabilities(1, mask(["kill"]), mask(["chown"]), True, 0)
    assert rules.parse_file_capabilities(rules.format_file_capabilities(one)) == one
    with pytest.raises(CtrtError, match="none that this version knows"):
        rules.parse_file_capabilities(b"\x09" * 20)


def test_a_thread_with_sets_of_its_own():
    script = (
        "import threading\nfrom ctrt.linux import calls\n"
        "ok = threading.Event()\n"
        "def work():\n    calls.capset(0, 1 << 5, 0); ok.set(); threading.Event().wait()\n"
        "threading.Thread(target=work, daemon=True).start(); ok.wait()\n"
        "print('ready', flush=True); sys.stdin.read()"
    )
    with running(*python(script)) as pid:
        (tid,) = {int(name) for name in os.listdir(f"/proc/{pid}/task")} - {pid}
        assert capabilities(pid).effective == capabilities().effective
        thread = capabilities(pid, thread=tid)
        assert (thread.effective, thread.permitted) == (0, mask(["kill"]))
        with pytest.raises(CtrtError, match=f"process {pid} has no thread 1"):
            capabilities(pid, thread=1)


def test_what_else_bears_on_it():
    with running("setpriv", "--no-new-privs", *SHELL) as pid:
        found = capabilities(pid)
        assert found.no_new_privs
        assert found.seccomp_filters == 0
        # Without an LSM that labels processes the kernel has no answer.
        assert found.label is None or isinstance(found.label, (str, Unknown))
