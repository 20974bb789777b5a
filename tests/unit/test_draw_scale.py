"""Four times as much to draw takes about four times the work, counted in steps of the interpreter.

Time is not measured, so a busy machine changes nothing.
"""

from __future__ import annotations

import sys

import pytest

from ctrt import draw
from ctrt.draw._measure import fit
from ctrt.draw._network import Side
from ctrt.draw._text import Block, Line, render
from ctrt.linux import mountinfo
from ctrt.linux.namespaces import Key
from ctrt.observe import Address, Cgroup, Hierarchy, Link, Listener, Mounted, Network


def steps(function, *args):
    """How many instructions of Python code a call takes."""
    count = 0

    def trace(frame, event, _):
        nonlocal count
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        count += event == "opcode"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        function(*args)
    finally:
        sys.settrace(before)
    return count


def group(path, processes=()):
    return Cgroup(path, processes, {}, {}, {}, None, "", 0, False, True, ())


def a_deep_tree_of_two_hierarchies(number):
    paths = ["/", *("/a" * depth for depth in range(1, number))]
    forest = [
        (Hierarchy(1, (name,), "", f"/sys/fs/cgroup/{name}"),
         [(group(path, (7,) if path == paths[-1] else ()), depth)
          for depth, path in enumerate(paths)])
        for name in ("cpu", "memory")
    ]  # fmt: skip
    return lambda: draw.cgroups(forest).text()


def a_wide_tree(number):
    walk = [(group("/"), 0), *((group(f"/box{n}", (n,)), 1) for n in range(1, number))]
    tree = Hierarchy(2, (), "", "/sys/fs/cgroup")
    return lambda: draw.cgroups([(tree, walk)], ids=True)


def a_table(number):
    lines = (Line(1, ("top",)), *(Line(2, (str(n), "")) for n in range(number)))
    return lambda: render((Block("", ("A", "B"), lines),), 80)


def a_long_list(number):
    text = ", ".join(["name"] * number)
    return lambda: fit(text, 300, 12, mono=True)


def mounts_with_a_group_each(number):
    lines = ["1 0 8:1 / / rw - ext4 disk rw"]
    lines += [
        f"{n} 1 0:{n} / /m/{n:05} rw shared:{n} - tmpfs t rw" for n in range(2, number + 1)
    ]  # fmt: skip
    seen = Mounted(Key(4, 1), mountinfo.parse("\n".join(lines)), frozenset(), frozenset())
    return lambda: draw.mounts(seen, beside=seen, all=True)


def a_bridge_with_ports(number):
    ports = [
        Link(n, f"d{n}", "dummy", True, 1500, "", 1, None, (Address("10.0.0.1", 24),))
        for n in range(2, number)
    ]
    links = (Link(1, "br0", "bridge", True, 1500, "", 0, None, ()), *ports)
    listeners = tuple(Listener("tcp", "0.0.0.0", n, n) for n in range(number))  # noqa: S104, RUF100
    side = Side(Key(4, 2), "net[1]", "", False, Network(Key(4, 2), links, (), listeners, ""))
    return lambda: draw.network([side]).text()


@pytest.mark.parametrize(
    "made",
    [
        a_deep_tree_of_two_hierarchies,
        a_wide_tree,
        a_table,
        a_long_list,
        mounts_with_a_group_each,
        a_bridge_with_ports,
    ],
)
def test_the_work_grows_as_what_is_drawn(made):
    small, large = made(100), made(400)
    small()  # what is imported and compiled once is no part of it
    assert steps(large) < 5 * steps(small)


def test_a_long_way_of_empty_cgroups_is_one():
    """Whoever holds something stays in sight, however deep it is."""
    text = a_deep_tree_of_two_hierarchies(1000)()
    assert [line.split("  ")[0] for line in map(str.strip, text.splitlines()[3:])] == [
        "version 1: cpu, memory",
        "└─ /",
        "└─ a/…",
        "└─ a",
    ]
    assert "and 997 below, each with nothing but the next" in text
    short = a_deep_tree_of_two_hierarchies(6)()
    assert len(short.splitlines()) == 3 + 1 + 6


def test_the_ports_of_a_bond_that_is_a_port_itself():
    links = [
        Link(number, name, kind, True, 1500, "", master, None, ())
        for number, name, kind, master in (
            (2, "eth0", "", 3), (3, "bond0", "bond", 4), (4, "br0", "bridge", 0),
        )
    ]  # fmt: skip
    side = Side(Key(4, 2), "net[1]", "", False, Network(Key(4, 2), tuple(links), (), (), ""))
    rows = {row.cells[0]: row for row in draw.network([side]).scene.rows}
    assert list(rows) == ["net[1]", "br0", "bond0", "eth0"]
    assert "   └─ bond0" in draw.network([side]).text()
