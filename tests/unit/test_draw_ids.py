"""Ids as rulers: each id has its place in every ruler, and a ribbon joins what is the same."""

from __future__ import annotations

from itertools import pairwise

import drawings
import pytest
from test_draw import HOST, MAPS, plain, rootless

from ctrt import draw
from ctrt.linux.namespaces import Key
from ctrt.linux.processes import IdRange
from ctrt.observe import Unknown, UserNamespace


def nested():
    """A user namespace in the rootless one; its maps are as the observer reads them."""
    outer = rootless()
    inner = UserNamespace(
        Key(4, 4026539999), False, outer.users[1].key, 1000,
        (IdRange(0, 100999, 1), IdRange(1, 100005, 10)), (IdRange(0, 1000, 1),),
    )  # fmt: skip
    return outer._replace(users=(*outer.users, inner))


def test_the_text_of_a_rootless_container():
    assert draw.ids(rootless()).text() == (
        "Ids of sh\n"
        "\n"
        "UID AND GID INSIDE  OUTSIDE        COUNT\n"
        "user[1] in user[host]\n"
        "├─ 0                1000           1\n"
        "└─ 1–65535          100000–165534  65535\n"
        "Ids that are not mapped show inside as 65534, the overflow id."
    )


def test_nested_maps_are_told_relative_to_the_next_namespace_outward():
    text = draw.ids(nested()).text()
    uid, _, gid = text.partition("GID INSIDE")
    assert "user[2] in user[1]\n├─ 0        1000 " in uid
    assert "└─ 1–10     6–15 " in uid
    assert "└─ 0        0 " in gid


def test_every_ribbon_begins_and_ends_on_the_range_that_it_joins():
    scene = draw.ids(nested()).scene
    pieces = {node.id: node for node in scene.nodes if node.shape == "segment"}
    assert len(pieces) == sum(node.shape == "segment" for node in scene.nodes)
    ribbons = [edge for edge in scene.edges if edge.kind == "ribbon"]
    assert len(ribbons) == 2 + 2 + 1 + 2
    for ribbon in ribbons:
        a, b, d, c = ribbon.points
        above = [n for name, n in pieces.items() if name.split("@")[0] == ribbon.source]
        assert a[0] == min(n.x for n in above)
        assert b[0] == pytest.approx(max(n.x + n.w for n in above), abs=0.2)
        assert a[1] == b[1] == above[0].y + above[0].h
        below = [n for n in pieces.values() if n.y == c[1]]
        assert any(n.x == c[0] for n in below)
        assert any(n.x + n.w == pytest.approx(d[0], abs=0.2) for n in below)


def test_pieces_of_a_ruler_do_not_overlap_and_stay_within_the_picture():
    scene = draw.ids(nested()).scene
    rulers: dict[float, list] = {}
    for node in scene.nodes:
        if node.shape == "segment":
            rulers.setdefault(node.y, []).append(node)
    for ruler in rulers.values():
        for left, right in pairwise(ruler):
            assert left.x + left.w <= right.x
        assert ruler[-1].x + ruler[-1].w < scene.width


def test_rows_and_details_belong_together():
    json = draw.ids(nested()).json()
    rows = {row["id"]: row for row in json["rows"]}
    assert set(rows) == set(json["details"])
    assert rows["uid:0:1"]["cells"] == ["1–10", "6–15", "10", "uid"]
    assert json["details"]["uid:0:1"]["raw"][0]["line"].split() == ["1", "6", "10"]


def test_a_process_without_a_user_namespace_of_its_own():
    assert "every id is the host's own" in draw.ids(plain()).text()


def test_maps_that_may_not_be_read_say_why():
    closed = rootless()
    hidden = closed.users[1]._replace(uid_map=Unknown("no permission to look"))
    picture = draw.ids(closed._replace(users=(closed.users[0], hidden)))
    assert "could not be read: no permission to look" in picture.text()


def test_no_number_of_this_run_shows_unless_asked():
    assert str(nested().users[2].key.inode) not in draw.ids(nested()).svg()
    assert "user[4026539999]" in draw.ids(nested(), ids=True).text()
    assert str(HOST["user"].inode) in draw.ids(nested(), ids=True).text()


def test_more_ranges_than_fit_are_counted():
    many = tuple(IdRange(n * 2, 5000 + n * 3, 1) for n in range(40))
    snapshot = rootless()
    users = (snapshot.users[0], snapshot.users[1]._replace(uid_map=many, gid_map=MAPS))
    assert "The first 12 of 40 ranges are shown." in draw.ids(snapshot._replace(users=users)).text()


def test_it_is_a_sound_drawing():
    for ids in (False, True):
        drawings.sound(draw.ids(nested(), ids=ids))
        drawings.sound(draw.ids(plain(), ids=ids))


def test_a_namespace_between_that_could_not_be_asked_is_left_out():
    found = nested()
    closed = found.users[1]._replace(uid_map=Unknown("nobody is in it"))
    picture = draw.ids(found._replace(users=(found.users[0], closed, *found.users[2:])))
    assert "user[1] lies between, and is left out: nobody is in it." in picture.text()
    assert "user[2] in user[host]" in picture.text()
    drawings.sound(picture)
