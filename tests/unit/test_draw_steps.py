"""A start as a picture: every plan there is can be drawn, and says what its steps make."""

from __future__ import annotations

import re

import drawings
import pytest
import test_planner as sample

from ctrt import draw
from ctrt.runtime.plan import INSIDE, OUTSIDE, Plan, Step

ROOT = "/root"
EVERY = [
    *(sample.planned(name, sample.configuration(name)) for name in sample.HOSTS),
    *sample.everything(),
]


def start(host="root, id-mapped layers"):
    return sample.planned(host, sample.configuration(host))


@pytest.mark.parametrize("number", range(len(EVERY)))
def test_every_plan_is_a_sound_drawing(number):
    for everything in (False, True):
        picture = draw.steps(EVERY[number], hide={ROOT: "ROOT"}, all=everything)
        drawings.sound(picture)
        assert sum(row.number for row in picture.scene.rows) == len(EVERY[number].steps)


def test_a_start_in_characters():
    plan = Plan(
        [
            Step("cgroup", OUTSIDE, [("open_directory", "/sys/fs/cgroup/ctrt/web-0a1b2c3d",
                                      "cgroup")], why="counted as one", source="cgroups(7)"),
            Step("clone", OUTSIDE, [("clone", 0x2C020000, "cgroup")], why="one call",
                 source="clone(2)"),
            Step("id maps", OUTSIDE, [("map_ids", "uid", ((0, 524288, 65536),), None),
                                      ("map_ids", "gid", ((0, 524288, 65536),), None)],
                 why="root inside", source="user_namespaces(7)"),
            Step("mount /proc", INSIDE, [("file_system", "proc", (), 2, "mount"),
                                         ("attach", "mount", "/proc", ())], why="shows",
                 source="proc(5)"),
            Step("mount /sys", INSIDE, [("attach", "mount", "/sys", ())], why="shows",
                 source="sysfs(5)"),
            Step("exec", INSIDE, [("exec", ("sh", "-c", "true"), ())], why="takes the place",
                 source="execve(2)"),
        ],
        notes=("no limits here",),
        subject="box",
    )  # fmt: skip
    picture = draw.steps(plan)
    cells = [re.split(r"(?<=\S) {2,}", line) for line in picture.text().splitlines()]
    assert cells == [
        ["The start of box"],
        [""],
        ["STEP", "NAME", "WHERE", "MAKES"],
        ["1", "cgroup", "outside", "cgroup web"],
        ["2", "clone", "outside", "new mnt pid uts ipc"],
        ["3", "id maps", "outside", "ids 0–65535 → 524288"],
        ["4–5", "mount ×2", "inside", "/proc, /sys"],
        ["6", "exec", "inside", "sh -c true"],
        ["note: no limits here"],
    ]
    assert "6 steps: 3 outside, 3 inside; 1 time one side waits" in picture.scene.description
    assert len(draw.steps(plan, all=True).scene.rows) == 6


def test_a_start_that_waits_has_a_mark_at_the_next_step():
    shown = draw.steps(start(), changes={}, at=2)
    assert [row.cells[0] for row in shown.scene.rows][:4] == ["✓ 1", "✓ 2", "▶ 3", "4"]
    assert all(len(row.cells) == 5 for row in shown.scene.rows)
    drawings.sound(shown)


def test_each_step_stands_in_its_lane_and_a_line_leads_to_the_next():
    scene = draw.steps(start()).scene
    nodes = {node.id: node for node in scene.nodes}
    for row in scene.rows:
        node = nodes[row.id]
        assert node.parent == row.cells[2]
        lane = nodes[node.parent]
        assert lane.x < node.x < lane.x + lane.w
    tops = [nodes[row.id].y for row in scene.rows]
    assert tops == sorted(tops)
    assert len(scene.edges) == len(scene.rows) - 1
    across = [edge for edge in scene.edges if edge.dash]
    assert across
    for edge in across:
        assert nodes[edge.source].parent != nodes[edge.target].parent


def test_the_store_is_called_root_unless_all_is_wanted():
    shown = repr(draw.steps(start(), hide={ROOT: "ROOT"}).json())
    assert "ROOT/containers" in shown
    assert "'/root/containers" not in shown
    assert '"/root/containers' in repr(draw.steps(start(), hide={ROOT: "ROOT"}, ids=True).json())


def test_a_step_tells_its_reason_its_need_and_its_calls():
    detail = next(
        detail
        for detail in draw.steps(start()).scene.details.values()
        if "one call makes the first process" in detail.meaning.lower()
    )
    assert "It needs the kernel to allow user namespaces" in detail.meaning
    assert detail.man == "clone(2), namespaces(7)"
    assert any(raw.line.startswith("clone3(CLONE_NEWUSER|") for raw in detail.raw)
