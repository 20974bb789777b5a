"""What follows from a mount table, and the look at this very process."""

from __future__ import annotations

import os
import time

import pytest

from ctrt.errors import CtrtError
from ctrt.linux.mountinfo import parse_line
from ctrt.linux.namespaces import KINDS
from ctrt.observe import CapabilitySets, Unknown, capabilities, covered, snapshot, tree


def mount(number, parent, target):
    return parse_line(f"{number} {parent} 0:{number} / {target} rw - tmpfs tmpfs rw")


def test_the_tree_is_in_the_order_of_targets():
    table = [mount(1, 0, "/"), mount(5, 1, "/b"), mount(2, 1, "/a/x"), mount(9, 5, "/b/c")]
    assert [(m.target, depth) for m, depth in tree(table)] == [
        ("/", 0),
        ("/a/x", 1),
        ("/b", 1),
        ("/b/c", 2),
    ]


def test_a_mount_without_a_visible_parent_starts_a_tree():
    table = [mount(7, 3, "/"), mount(8, 7, "/a"), mount(9, 99, "/lost")]
    assert [(m.target, depth) for m, depth in tree(table)] == [("/", 0), ("/a", 1), ("/lost", 0)]


def test_a_mount_that_is_its_own_parent_does_not_loop():
    table = [mount(1, 1, "/"), mount(2, 1, "/a")]
    assert [m.id for m, _ in tree(table)] == [1, 2]
    assert covered(table) == frozenset()


@pytest.mark.parametrize(
    ("table", "hidden"),
    [
        ([(1, 0, "/"), (2, 1, "/a"), (3, 1, "/b")], set()),
        # On the root of another mount: that one is covered, and what else is below it.
        ([(1, 0, "/"), (2, 1, "/a"), (3, 2, "/a")], {2}),
        ([(1, 0, "/"), (2, 1, "/a"), (4, 2, "/a/x"), (3, 2, "/a")], {2, 4}),
        # Stacked twice.
        ([(1, 0, "/"), (2, 1, "/a"), (3, 2, "/a"), (4, 3, "/a")], {2, 3}),
        # Nearer to the root than an older sibling, with what is below that.
        ([(1, 0, "/"), (2, 1, "/a/b"), (3, 2, "/a/b/c"), (4, 1, "/a")], {2, 3}),
        # A name that only begins alike is not below.
        ([(1, 0, "/"), (2, 1, "/a-b/c"), (3, 1, "/a"), (4, 1, "/ab")], set()),
        # A mount over "/" is out of reach: a process's root directory stays what it was.
        ([(1, 0, "/"), (2, 1, "/"), (3, 2, "/a"), (4, 1, "/b")], {2, 3}),
    ],
)
def test_covered(table, hidden):
    mounts = [mount(*line) for line in table]
    assert covered(mounts) == hidden
    assert covered(reversed(mounts)) == hidden


def test_a_thousand_siblings_are_no_burden():
    table = [mount(1, 0, "/"), *(mount(n, 1, f"/m/{n}") for n in range(2, 5002))]
    begun = time.perf_counter()
    assert covered(table) == frozenset()
    assert len(tree(table)) == 5001
    assert time.perf_counter() - begun < 1


def test_this_process_is_the_host():
    found = snapshot()
    assert found.pid == os.getpid()
    assert found.differing == ()
    assert found.shared == KINDS
    assert [fellow.pid for fellow in found.processes] == [os.getpid()]
    assert found.users == ()
    assert found.pids == ()
    assert not isinstance(found.mounts, Unknown)
    assert found.command == found.status.name
    assert snapshot(command="lesson").processes[0].name == "lesson"
    assert repr(found) == f"<Snapshot of {found.command!r}: own namespaces: none>"


def test_capabilities_of_this_process():
    sets = capabilities()
    assert isinstance(sets, CapabilitySets)
    assert sets.effective & ~sets.permitted == 0
    assert sets.securebits is not None
    child = os.posix_spawn("/bin/sleep", ["sleep", "60"], {})
    try:
        assert capabilities(child).securebits is None
        assert capabilities(child).bounding == sets.bounding
    finally:
        os.kill(child, 9)
        os.waitpid(child, 0)


@pytest.mark.parametrize("look", [snapshot, capabilities])
def test_a_process_that_ended_is_said_in_a_sentence(look):
    child = os.posix_spawn("/bin/true", ["true"], {})
    os.waitpid(child, 0)
    with pytest.raises(CtrtError) as raised:
        look(child)
    assert str(raised.value) == f"there is no process {child}: it has ended, or never was"


@pytest.mark.parametrize("look", [snapshot, capabilities])
def test_what_is_no_process_number(look):
    with pytest.raises(CtrtError) as raised:
        look("../../etc")
    assert str(raised.value) == "'../../etc' is not the number of a process"
    with pytest.raises(CtrtError):
        look(-1)


def test_a_look_at_one_process_is_quick():
    best = 1.0
    for _ in range(50):
        begun = time.perf_counter()
        snapshot(others=False)
        best = min(best, time.perf_counter() - begun)
    # Half a millisecond is the aim; twice that allows for a busy machine.
    assert best < 0.001
