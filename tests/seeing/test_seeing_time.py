"""Differences between processes and moments; the timeline: watched, recorded, replayed."""

from __future__ import annotations

import json
import os
import pwd
import re
import subprocess
import threading
from pathlib import Path

import pytest
from seeing_tools import SHELL, USER, answer, as_user, child, python, running, unshared

from ctrt.engine.verbs import VERBS
from ctrt.errors import CtrtError
from ctrt.observe import Unknown, difference, inside, record, replay, scan, snapshot, watch

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")


def test_a_process_and_its_container_differ_in_just_this():
    with running(*SHELL) as plain, unshared("-mn") as apart:
        changes = difference(snapshot(plain), snapshot(apart))
        assert {c.what for c in changes if c.kind == "namespace"} == {"mnt", "net"}
        assert {c.kind for c in changes} <= {"namespace", "mount"}
        for _ in range(10):
            # A mount goes from every namespace when somebody removes its directory (rmdir(2)).
            same = difference(snapshot(apart), snapshot(apart))
            if not same:
                break
        assert same == ()


def test_lost_capabilities_are_named():
    with running(*SHELL) as one, running("setpriv", "--bounding-set=-net_raw", *SHELL) as other:
        changes = difference(snapshot(one, others=False), snapshot(other, others=False))
        (bounding,) = [c for c in changes if c.what == "bounding"]
        assert (bounding.sign, bounding.before) == ("-", "CAP_NET_RAW")


def test_two_moments_of_the_system(tmp_path):
    with unshared("-m") as pid:
        before = scan()
        subprocess.run(
            ["nsenter", "-t", str(pid), "-m", "mount", "-t", "tmpfs", "new", tmp_path], check=True
        )
        with unshared("-u") as other:
            after = scan()
            changes = difference(before, after)
            (mount,) = [c for c in changes if c.kind == "mount" and c.sign == "+"]
            assert (mount.what, mount.key) == (str(tmp_path), after.space(pid, "mnt").key)
            assert after.space(other, "uts").key in {
                c.key for c in changes if (c.sign, c.kind) == ("+", "namespace")
            }
            assert str(other) in {c.what for c in changes if (c.sign, c.kind) == ("+", "process")}
        gone = difference(after, scan())
        assert after.space(other, "uts").key in {
            c.key for c in gone if (c.sign, c.kind) == ("-", "namespace")
        }


def test_only_like_is_compared_with_like():
    with pytest.raises(TypeError):
        difference(scan(details=False), snapshot())


def first(events, wanted):
    for event in events:
        for change in event.changes:
            if wanted(change):
                return event
    raise AssertionError("the watch ended without it")


def test_a_watch_sees_a_process_a_mount_and_their_end(tmp_path):
    with unshared("-m") as pid:
        events = watch(seconds=30, at_least=20)
        assert next(events).changes == ()
        enter = ("nsenter", "-t", str(pid), "-m")
        threading.Timer(
            0.2, subprocess.run, ([*enter, "mount", "-t", "tmpfs", "seen", str(tmp_path)],)
        ).start()
        # Woken by the kernel, long before it would have looked by itself.
        event = first(events, lambda c: c.kind == "mount" and c.what == str(tmp_path))
        assert event.told in ("mounts", "processes")
        assert event.system.tables[event.system.space(pid, "mnt").key]
        with unshared("-n") as other:
            event = first(events, lambda c: c.kind == "process" and c.what == str(other))
            assert event.told in ("mounts", "processes")
        event = first(events, lambda c: c.sign == "-" and c.what == str(other))
        events.close()


def test_what_is_recorded_is_what_is_replayed(tmp_path):
    path = str(tmp_path / "timeline")
    kept = []

    def happening():
        for event in watch(seconds=20, at_least=0.1, pause=0):
            kept.append(event)
            yield event
            if len(kept) == 1:
                started.append(subprocess.Popen(["unshare", "-Urm", "sleep", "60"]))
            if len(kept) == 4:
                return
            if len(kept) == 2:
                started[0].kill()
                started[0].wait()

    started = []
    assert record(path, happening()) == len(kept) >= 2
    told = replay(path)
    assert told.events == tuple(kept)
    assert told.at(0) == kept[0].system
    assert told.at(kept[-1].moment) == kept[-1].system
    sizes = [len(line) for line in Path(path).read_text().splitlines()]
    assert max(sizes[1:]) < sizes[0]  # the first has all, the others what is different


def test_what_is_no_timeline(tmp_path):
    path = tmp_path / "file"
    with pytest.raises(CtrtError, match="no such file"):
        replay(str(path))
    path.write_text("")
    with pytest.raises(CtrtError, match="there is nothing recorded in it"):
        replay(str(path))
    path.write_text("[]\n")
    with pytest.raises(CtrtError, match="line 1 is not of a timeline"):
        replay(str(path))
    path.write_text(json.dumps({"format": "something else"}) + "\n")
    with pytest.raises(CtrtError, match="line 1 is not of a timeline"):
        replay(str(path))


def test_an_ordinary_user_watches_their_own():
    script = (
        "import json, subprocess\nfrom ctrt.observe import watch\n"
        "events = watch(seconds=20, at_least=0.2)\nnext(events)\n"
        "p = subprocess.Popen(['unshare', '-Ur', 'sleep', '60'])\n"
        "found = next(e for e in events if any(c.what == str(p.pid) for c in e.changes))\n"
        "p.kill(); p.wait(); events.close()\n"
        "print(json.dumps([c.what for c in found.changes if c.kind == 'process']))"
    )
    assert answer(*as_user(*python(script)))


def test_unknown_is_compared_too():
    with unshared("-m"):
        one = snapshot(others=False)
        other = one._replace(mounts=Unknown("told so"))
        (change,) = difference(one, other)
        assert (change.kind, change.after) == ("mount", "told so")


def test_a_mount_that_moves_is_one_change(tmp_path):
    script = 'mount -t tmpfs base "$0" && cd "$0" && mkdir a b && mount -t tmpfs moving a'
    script += " && echo ready && read line && mount --move a b && echo done && read line"
    command = ["unshare", "-m", "sh", "-c", script, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout.readline() == b"ready\n"
            before = snapshot(process.pid, others=False), scan()
            process.stdin.write(b"\n")
            process.stdin.flush()
            assert process.stdout.readline() == b"done\n"
            after = snapshot(process.pid, others=False), scan()
        finally:
            process.kill()
    for one, other in zip(before, after, strict=True):
        changes = [c for c in difference(one, other) if c.kind == "mount"]
        [change] = [c for c in changes if str(tmp_path) in c.after]
        assert (change.sign, change.what) == ("~", f"{tmp_path}/b")
        assert change.before.endswith(f" at {tmp_path}/a")
        assert change.after.endswith(f" at {tmp_path}/b")


def test_a_process_that_ends_is_one_change():
    with running(*python("import os\nprint('ready', flush=True); sys.stdin.read()")) as pid:
        before = scan()
        os.kill(pid, 9)
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
        changes = [c for c in difference(before, scan()) if c.what.split()[0] == str(pid)]
        [change] = changes
        assert change.kind == "process"
        assert change.after.startswith("the process has ended")


def test_the_kernel_s_own_threads_are_no_news():
    system = scan()
    [pid, *_] = [pid for pid, one in system.processes.items() if one.command == ()]
    process = system.processes[pid]
    renamed = process._replace(status=process.status._replace(name="kworker/busy"))
    other = system._replace(processes={**system.processes, pid: renamed})
    assert difference(system, other) == ()
    program = process._replace(command=("now",))
    other = system._replace(processes={**system.processes, pid: program})
    assert [c.kind for c in difference(system, other)] == ["process"]


# --- the verb ------------------------------------------------------------------------------------


def test_watch_tells_records_and_replays(tmp_path):
    path = str(tmp_path / "recorded")
    flow = iter(VERBS["watch"](None, ["--seconds", "20", "--record", path]))
    told = next(flow)
    assert re.fullmatch(r"\d\d:\d\d:\d\d\.\d{3}    there are \d+ processes, .*mounts?\n", told)
    with unshared("-Urm") as pid:
        for piece in flow:
            told += piece
            if re.search(rf"\+ process {pid}: |~ process {pid} mnt: ", piece):
                break
        flow.close()
        with open(path) as file:
            assert told.count("there are") == 1 < len(file.readlines())
    assert str(VERBS["watch"](None, ["--replay", path])) == told
    lines = str(VERBS["watch"](None, ["--replay", path, "--json"])).splitlines()
    events = [json.loads(line) for line in lines]
    assert events[0]["changes"] == []
    assert {"sign", "kind", "what", "before", "after", "namespace"} == set(events[1]["changes"][0])
    assert any(change["what"].split()[0] == str(pid) for e in events for change in e["changes"])


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--seconds", "soon"], "watch: --seconds 'soon' is not a number of seconds"),
        (["--seconds", "nan"], "watch: --seconds 'nan' is not a number of seconds"),
        (["--replay", "/nowhere"], "/nowhere: no such file or directory"),
        (["--replay", "/x", "--record", "/y"], "it goes with --json alone"),
        (["box"], "watch: expected no operand, got box"),
    ],
)
def test_what_cannot_be_watched(words, sentence):
    with pytest.raises(CtrtError) as raised:
        VERBS["watch"](None, words)
    assert sentence in str(raised.value)


# --- the same process from two sides -------------------------------------------------------------


@pytest.mark.parametrize("who", ["root", "user"])
def test_a_process_from_outside_and_from_inside(who, tmp_path):
    tmp_path.joinpath("data").mkdir()
    mounts = 'mount --bind "$0/data" /mnt; echo ready; read line'
    made = ("unshare", "-Urmp", "-f", "--mount-proc", "sh", "-c", mounts)
    place = str(tmp_path)
    if who == "user":
        made, place = as_user(*made), "/usr"  # pytest's own place is closed to others
        made = tuple(word.replace("$0/data", "$0/bin") for word in made)
    with running(*made, place) as outer:
        pid = child(outer)
        told = {(c.kind, c.what): (c.before, c.after) for c in inside(scan(), pid)}
        ask = ("nsenter", "-t", str(pid), "-U", "-m", "-p", "--preserve-credentials")
        script = "echo $PPID; grep -E '^(Pid|PPid|Uid|Gid):' /proc/1/status"
        words = subprocess.run([*ask, "sh", "-c", script], capture_output=True, text=True,
                               check=True).stdout.split()  # fmt: skip
    assert told["process", "pid"] == (str(pid), "1")
    assert told["process", "parent"] == (str(outer), words[words.index("PPid:") + 1])
    source = f"{place}/data" if who == "root" else "/usr/bin"
    assert told["path", "/mnt"] == (source, "/mnt")
    if who == "user":
        uid = str(pwd.getpwnam(USER).pw_uid)
        assert told["credential", "user ids"] == (", ".join([uid] * 4), "0, 0, 0, 0")
        assert words[words.index("Uid:") + 1] == "0"
        held, own = told["capability", "that count"]
        assert (held, "CAP_SYS_ADMIN" in own) == ("none", True)
    else:
        assert ("credential", "user ids") not in told


def test_nothing_is_another_for_a_process_beside_this_one():
    with running(*SHELL) as pid:
        assert inside(scan(), pid) == ()
