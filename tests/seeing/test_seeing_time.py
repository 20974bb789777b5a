"""Differences between processes and moments; the timeline: watched, recorded, replayed."""

from __future__ import annotations

import json
import os
import subprocess
import threading
from pathlib import Path

import pytest
from seeing_tools import SHELL, answer, as_user, python, running, unshared

from ctrt.errors import CtrtError
from ctrt.observe import Unknown, difference, record, replay, scan, snapshot, watch

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
