"""The mounts of two processes in one picture: what is the same is left out, groups are joined."""

from __future__ import annotations

import drawings
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


def test_it_is_a_sound_drawing():
    for options in ({}, {"ids": True}, {"all": True}):
        drawings.sound(pair(**options))


LANE = """\
21 0 8:1 / / rw - ext4 /dev/vda rw
22 21 0:40 / /a rw shared:7 - tmpfs one rw
23 21 0:40 / /b rw master:7 - tmpfs one rw
24 21 0:40 / /c rw shared:7 - tmpfs one rw
"""


def test_what_only_receives_never_points_to_a_peer():
    scene = draw.mounts(plain(mounts=mountinfo.parse(LANE))).scene
    peer, slave, other = [node for node in scene.nodes if node.shape == "hexagon"]
    above, below = [edge for edge in scene.edges if edge.kind in ("peer", "slave")]
    assert (peer.border, slave.border, other.border) == ("solid", "dashed", "solid")
    assert above.arrow == below.arrow == "end"
    assert above.points[-1] == (slave.x + slave.w / 2, slave.y)
    assert below.points[-1] == (slave.x + slave.w / 2, slave.y + slave.h)


def test_a_long_path_below_another_is_shown_by_its_end():
    long = "/a/" + "long/" * 30 + "place"
    table = f"1 0 8:1 / / rw - ext4 x rw\n2 1 0:9 / {long} rw - tmpfs x rw\n"
    table += f"3 2 0:10 / {long}/below rw - tmpfs x rw\n4 3 0:11 / {long}/below rw - tmpfs x rw\n"
    scene = draw.mounts(plain(mounts=mountinfo.parse(table))).scene
    labels = [node.label for node in scene.nodes if node.shape == "row"]
    assert labels[2:] == ["…/below", "…/below"]
    assert "…" in labels[1]


def test_many_siblings_of_a_kind_are_one_row():
    table = "1 0 8:1 / / rw - ext4 x rw\n"
    table += "".join(f"{n} 1 0:{n} / /shm-{n} rw - tmpfs shm rw\n" for n in range(2, 12))
    text = draw.mounts(plain(mounts=mountinfo.parse(table))).text()
    assert "10 tmpfs mounts" in text
