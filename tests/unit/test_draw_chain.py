"""The chain of capabilities as a picture: now, after an execve, in each user namespace."""

from __future__ import annotations

import drawings
import pytest

from ctrt import draw
from ctrt.linux.capabilities import NAMES, mask
from ctrt.linux.namespaces import INITIAL, Key
from ctrt.observe import Reach
from ctrt.observe.rules import Answer, Credentials, FileCapabilities, Program, execve

FULL = (1 << len(NAMES)) - 1
KILL, NET = mask(["kill"]), mask(["net_raw"])
NOBODY = Credentials(99, 99, 99, 99, 99, 99, KILL, KILL, KILL, FULL, KILL)
ROOT = Credentials(0, 0, 0, 0, 0, 0, 0, FULL, FULL, FULL, 0)
PING = Program(capabilities=FileCapabilities(2, NET, 0, True, 0))


def answers(held, yes="member", no="lacking"):
    return tuple(
        Answer(bool(held >> bit & 1), yes if held >> bit & 1 else no, "a sentence")
        for bit in range(len(NAMES))
    )


HOST = Reach(Key(4, INITIAL["user"]), "above", answers(0, no="not above"))
OWN = Reach(Key(4, 77), "own", answers(KILL))
BELOW = Reach(Key(4, 78), "below", answers(FULL, "owner"), (Key(4, 79), Key(4, 80)))
UNSEEN = Reach(Key(4, 81), "below", (Answer(None, "unknown", "it could not be read"),) * 41)


def drawn(now=NOBODY, program=PING, reach=(HOST, OWN, BELOW), **options):
    return draw.chain("sh", now, execve(now, program), reach, program="/bin/ping", **options)


def row(picture, name):
    found = next(row for row in picture.scene.rows if row.id == f"caps:{name}")
    return dict(zip((column.title for column in picture.scene.columns), found.cells, strict=True))


def test_what_is_gained_lost_and_held():
    picture = drawn()
    kill, raw = row(picture, "kill"), row(picture, "net_raw")
    assert (kill["Effective"], kill["Effective after"], kill["Ambient after"]) == ("■", "-", "-")
    assert (raw["Effective"], raw["Effective after"], raw["Bounding after"]) == ("·", "+", "■")
    assert (kill["user[host]"], kill["user[1]"], kill["user[2] ×3"]) == ("·", "■", "■")
    assert raw["user[1]"] == "·"
    assert [r.diff for r in picture.scene.rows if r.id == "caps:kill"] == ["-"]


def test_the_rules_that_decided_are_told():
    text = drawn().text(300)
    lines = {
        line.split()[1].rstrip(","): line.split() for line in text.splitlines() if "─ " in line
    }
    assert lines["kill"][2:4] == ["EPIBA", "--IB-"]
    assert lines["net_raw"][2:4] == ["···B·", "++·B·"]
    assert all(name in drawn().text() for name in ("net_raw", "kill", "checkpoint_restore"))
    assert "executing /bin/ping, as user id 99: the ambient set is cleared" in text
    assert "[capabilities(7)]" in text
    assert "user[host]: all not held, since its own user namespace is not above this one" in text
    assert "user[1]: 40 not held, since they are not in its effective set; 1 held, since" in text
    assert "user[2] ×3: all held, since its effective user id made it" in text


def test_a_refused_execve_leaves_nothing():
    picture = drawn(NOBODY._replace(bounding=0))
    assert "refused: the file's effective bit is set" in picture.text(300)
    assert "executing /bin/ping is refused" in picture.scene.description
    assert row(picture, "kill")["Effective after"] == "·"


def test_all_alike_is_one_row():
    picture = drawn(ROOT, Program(), (OWN._replace(answers=answers(FULL)),))
    assert [r.id for r in picture.scene.rows] == ["caps:all"]
    assert len(drawn(all=True).scene.rows) == 6 + 41


def test_what_could_not_be_told_is_a_question_mark():
    picture = drawn(reach=(HOST, OWN, UNSEEN))
    assert row(picture, "kill")["user[2]"] == "?"
    assert "user[2]: all it could not be read" in picture.text(300)


def test_numbers_only_when_asked():
    assert "user[77]" in drawn(ids=True).text(300)
    assert "user[77]" not in drawn().text(300)
    one = drawn(reach=(HOST, OWN._replace(space=Key(4, 555))))
    assert one == drawn(reach=(HOST, OWN))


@pytest.mark.parametrize("reach", [(), (OWN,), (HOST, OWN, BELOW, UNSEEN)])
@pytest.mark.parametrize("everything", [False, True])
def test_it_is_a_sound_drawing(reach, everything):
    drawings.sound(drawn(reach=reach, all=everything))
    drawings.sound(draw.chain("x" * 200, ROOT, execve(ROOT, Program()), reach, title="y" * 99,
                              program="/" + "z" * 300, all=everything))  # fmt: skip
