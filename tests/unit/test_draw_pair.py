"""The mounts of two processes in one picture: what is the same is left out, groups are joined."""

from __future__ import annotations

from test_draw import plain, rootless

from ctrt import draw
from ctrt.linux import mountinfo

FIRST = """\
1 0 8:1 / / rw - ext4 /dev/vda rw
2 1 0:30 / /proc rw - proc proc rw
3 1 0:31 / /shared rw shared:7 - tmpfs one rw
4 3 0:32 / /shared/new rw shared:8 - tmpfs two rw
5 1 0:33 / /only rw - tmpfs here rw
"""
SECOND = """\
11 0 8:1 / / rw - ext4 /dev/vda rw
12 11 0:30 / /proc rw - proc proc rw
13 11 0:31 / /shared rw master:7 - tmpfs one rw
14 13 0:32 / /shared/new rw master:8 - tmpfs two rw
"""


def pair(**options):
    one = plain(mounts=mountinfo.parse(FIRST))
    other = rootless(SECOND)
    return draw.mounts(one, beside=other, names=("the host", "box"), **options)


def test_mounts_that_are_the_same_in_both_are_left_out():
    text = pair().text()
    assert "/proc" not in text
    assert "1 mount is the same in both, and private; it is not shown." in text
    assert text.count("/shared/new") == 2
    assert text.count("/only") == 1
    assert "/proc" in pair(all=True).text()


def test_a_group_has_the_same_number_and_lane_in_both():
    scene = pair().scene
    marks = [node for node in scene.nodes if node.shape == "hexagon"]
    assert len({mark.id for mark in marks}) == len(marks)
    for label in ("1", "2"):
        one, other = [mark for mark in marks if mark.label == label]
        assert one.x == other.x
        assert (one.border, other.border) == ("solid", "dashed")
        [edge] = [e for e in scene.edges if (e.source, e.target) == (one.id, other.id)]
        assert edge.arrow == "end"
        assert edge.points == (
            (one.x + one.w / 2, one.y + one.h),
            (other.x + other.w / 2, other.y),
        )


def test_every_row_has_an_id_of_its_own():
    rows = [row.id for row in pair(all=True).scene.rows]
    assert len(set(rows)) == len(rows) == 9
