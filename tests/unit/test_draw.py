"""Pictures of fixed snapshots: the text as a whole, the SVG's geometry, what never shows."""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ElementTree

import drawings
import pytest

from ctrt import draw
from ctrt.draw import _measure, _svg
from ctrt.linux import mountinfo
from ctrt.linux.namespaces import INITIAL, KINDS, Key, Namespace
from ctrt.linux.processes import Cgroup, IdRange, parse_status
from ctrt.observe import (
    CapabilitySets,
    Fellow,
    Snapshot,
    Unknown,
    UserNamespace,
    covered,
)

HOST = {kind: Key(4, inode) for kind, inode in INITIAL.items()}
MAPS = (IdRange(0, 1000, 1), IdRange(1, 100000, 65535))
LAYERS = "/home/ann/.local/share/ctrt/layers"
TABLE = f"""\
500 400 0:61 / / rw,relatime - overlay overlay rw,lowerdir={LAYERS}/a:{LAYERS}/b,upperdir=/u
501 500 0:62 / /proc rw,nosuid,nodev,noexec,relatime - proc proc rw
502 500 0:63 / /dev rw,nosuid - tmpfs tmpfs rw,size=65536k,mode=755
503 502 0:6 /null /dev/null rw,nosuid - devtmpfs devtmpfs rw,size=12331664k
504 502 0:6 /zero /dev/zero rw,nosuid - devtmpfs devtmpfs rw,size=12331664k
505 502 0:64 / /dev/pts rw,nosuid,noexec,relatime - devpts devpts rw,gid=5,mode=620
506 501 0:6 /null /proc/kcore rw,nosuid - devtmpfs devtmpfs rw,size=12331664k
507 501 0:65 / /proc/acpi ro,relatime - tmpfs tmpfs ro,size=0k
508 501 0:62 /sys /proc/sys ro,relatime - proc proc rw
509 501 0:62 /bus /proc/bus ro,relatime - proc proc rw
510 500 254:0 /home/ann/secret/hosts /etc/hosts rw,relatime - ext4 /dev/vda rw,discard
511 500 254:0 /home/ann/data /data rw,relatime master:71 - ext4 /dev/vda rw,discard
512 500 0:66 / /a rw,relatime shared:88 - tmpfs tmpfs rw
513 500 0:66 / /b rw,relatime shared:88 - tmpfs tmpfs rw
514 500 0:66 / /c rw,relatime shared:99 master:88 - tmpfs tmpfs rw
515 500 0:67 / /tmp/x rw,relatime - tmpfs none rw
516 500 0:68 / /tmp rw,relatime unbindable - tmpfs tmpfs rw
"""


def status(name="sh", pid=4711, inside=1):
    return parse_status(f"Name:\t{name}\nPid:\t{pid}\nPPid:\t1\nNSpid:\t{pid}\t{inside}\n")


def sets(name="sh", **changes):
    few = 0xA80425FB
    return CapabilitySets(0, few, few, few, 0, None, False, "filter", name)._replace(**changes)


def rootless(table=TABLE, **changes):
    """A rootless container with a user namespace of its own, and three processes."""
    own = {kind: Key(4, 4026532000 + place) for place, kind in enumerate(KINDS)}
    own["time"] = HOST["time"]
    spaces = {}
    for kind in KINDS:
        initial = own[kind] == HOST[kind]
        owner = HOST["user"] if initial or kind == "user" else own["user"]
        parent = HOST[kind] if kind in ("user", "pid") else None
        uid = 1000 if kind == "user" else None
        spaces[kind] = Namespace(kind, own[kind], 4100, initial, owner, parent, uid)
    apart = frozenset(KINDS) - {"time"}
    mounts = mountinfo.parse(table)
    everything = (IdRange(0, 0, 4294967295),)
    return Snapshot(
        status(),
        "sh",
        spaces,
        HOST,
        (
            UserNamespace(HOST["user"], True, None, 0, everything, everything),
            UserNamespace(own["user"], False, HOST["user"], 1000, MAPS, MAPS),
        ),
        (spaces["pid"], Namespace("pid", HOST["pid"], 6, True, HOST["user"], None, None)),
        (
            Fellow(4711, "sh", (4711, 1), apart),
            Fellow(4715, "httpd", (4715, 7), apart),
            Fellow(4716, "httpd", (4716, 8), apart),
            Fellow(4720, "pause", (4720,), frozenset({"net", "ipc"})),
        ),
        mounts,
        covered(mounts),
        frozenset({71}),
        sets(),
        (Cgroup(0, (), "/user.slice/ctrt-1234"),),
    )._replace(**changes)


def plain(**changes):
    """A process that is in all of the host's namespaces."""
    spaces = {
        kind: Namespace(kind, key, 1, True, HOST["user"], None, None) for kind, key in HOST.items()
    }
    spaces = {kind: spaces[kind] for kind in KINDS}
    return Snapshot(
        parse_status("Name:\tbash\nPid:\t99\nPPid:\t1\n"), "bash", spaces, HOST, (), (),
        (Fellow(99, "bash", (99,), frozenset()),), mountinfo.parse("1 0 8:1 / / rw - ext4 /d rw"),
        frozenset(), frozenset(), sets("bash"), (),
    )._replace(**changes)  # fmt: skip


def unreadable():
    reason = Unknown("no permission to look into that process")
    return plain(namespaces=dict.fromkeys(KINDS, reason), mounts=reason, cgroups=reason)


CONTAINER = """\
Container busybox

user[host]
├─ pause           shares only net and ipc
└─ user[1]         ids 0 → 1000, 1–65535 → 100000 outside
   ├─ mnt[1]       its own mounts: 17
   ├─ net[1]       its own network
   ├─ uts[1]       its own host name
   ├─ ipc[1]       its own System V IPC and message queues
   ├─ cgroup[1]    its own root of the cgroup tree
   └─ pid[1]       its own process ids
      ├─ sh        pid 1 inside
      └─ httpd ×2  pids 7 and 8 inside
shared with the host: time

Mounts of mnt[1]: 17
TARGET                   TYPE     SOURCE               FLAGS                PROPAGATION
/                        overlay  overlay of 2 layers
├─ /a                    tmpfs                                              shared:1
├─ /b                    tmpfs                                              shared:1
├─ /c                    tmpfs                                              shared:2 master:1
├─ /data                 ext4     bind                                      master:3 ← host
├─ /dev                  tmpfs                         nosuid
│  ├─ 2 device nodes              null, zero
│  └─ /dev/pts           devpts                        nosuid noexec
├─ /etc/hosts            ext4     bind
├─ /proc                 proc                          nosuid nodev noexec
│  ├─ 2 masked paths              acpi, kcore
│  └─ 2 read-only paths           bus, sys
├─ /tmp                  tmpfs                                              unbindable
└─ /tmp/x                tmpfs    covered"""


def every_picture():
    """All views of all the situations, with the options that change them."""
    situations = {"rootless": rootless(), "plain": plain(), "unreadable": unreadable()}
    pictures = {}
    for name, found in situations.items():
        for view in (draw.container, draw.namespaces, draw.mounts):
            pictures[f"{view.__name__} {name}"] = view(found)
            pictures[f"{view.__name__} {name} ids"] = view(found, ids=True)
        pictures[f"container {name} all"] = draw.container(found, all=True)
    full = (1 << 41) - 1
    pictures["caps"] = draw.capabilities(sets())
    pictures["caps all"] = draw.capabilities(sets(), all=True)
    pictures["caps none"] = draw.capabilities(sets(effective=0, permitted=0, bounding=0))
    pictures["caps change"] = draw.capabilities(sets(), sets(bounding=full, effective=0))
    long = rootless(command="x" * 300)
    fellows = tuple(
        Fellow(n, "a name of fifteen"[:15] * 9, (n, n), long.processes[0].shares)
        for n in range(5000, 5003)
    )
    many = tuple(
        Fellow(n, f"worker{n}", (n, n - 5000), long.processes[0].shares) for n in range(5100, 5140)
    )
    pictures["long"] = draw.container(
        long._replace(processes=(*long.processes, *fellows, *many)), ids=True
    )
    pictures["caps long title"] = draw.capabilities(sets("y" * 200))
    return pictures


PICTURES = every_picture()
each_picture = pytest.mark.parametrize("picture", PICTURES.values(), ids=PICTURES.keys())


def test_a_container_in_characters():
    picture = draw.container(rootless(), title="Container busybox")
    assert picture.text() == CONTAINER
    assert repr(picture) == CONTAINER


def test_a_plain_process_in_characters():
    assert draw.container(plain()).text() == (
        "Process bash\n\nuser[host]\n└─ bash\nall namespaces are the host's"
    )


def test_what_cannot_be_read_says_why():
    reason = "no permission to look into that process"
    text = draw.container(unreadable()).text(200)
    assert f"could not be read: {', '.join(KINDS)} ({reason})" in text
    assert f"Mounts: could not be read ({reason})" in draw.mounts(unreadable()).text()
    known = unreadable()._replace(mounts=plain().mounts)
    assert "Mounts of mnt[?]: 1" in draw.mounts(known).text()
    dotted = [node for node in draw.container(unreadable()).scene.nodes if node.border == "dotted"]
    assert {node.kind for node in dotted} == set(KINDS)


def test_nested_user_and_pid_namespaces():
    outer, inner = Key(4, 11), Key(4, 12)
    found = rootless()
    own = found.namespaces["pid"]._replace(parent=Key(4, 21))
    middle = Namespace("pid", Key(4, 21), 9, False, outer, HOST["pid"], None)
    found = found._replace(
        namespaces={
            **{
                kind: space._replace(owner=inner) if kind in found.differing else space
                for kind, space in found.namespaces.items()
            },
            "pid": own._replace(owner=inner),
        },
        users=(
            found.users[0],
            UserNamespace(outer, False, HOST["user"], 1000, MAPS, MAPS),
            UserNamespace(inner, False, outer, 100000, Unknown("x"), Unknown("x")),
        ),
        pids=(own, middle, found.pids[-1]),
        processes=found.processes[:1],
    )
    assert (
        draw.namespaces(found, title="Nested").text()
        == """\
Nested

user[host]
└─ user[1]          ids 0 → 1000, 1–65535 → 100000 outside
   ├─ pid[1]        parent of pid[2]
   └─ user[2]       id maps could not be read
      ├─ mnt[1]     its own mounts: 17
      ├─ net[1]     its own network
      ├─ uts[1]     its own host name
      ├─ ipc[1]     its own System V IPC and message queues
      ├─ cgroup[1]  its own root of the cgroup tree
      └─ pid[2]     child of pid[1]
         └─ sh      pid 1 inside
shared with the host: time"""
    )


@pytest.mark.parametrize("width", [40, 60, 80, 100, 200])
def test_no_line_is_longer_than_asked(width):
    for name, picture in PICTURES.items():
        if name.startswith("caps") and width < 80:
            continue  # five columns of marks have a width of their own
        title, _, rest = picture.text(width).partition("\n")
        assert title
        for line in rest.splitlines():
            assert _measure.cells(line) <= width, (name, line)
            assert line == line.rstrip()


def test_ids_show_the_kernels_numbers():
    text = draw.container(rootless(), ids=True, all=True).text(200)
    for number in ("mnt[4026532002]", "4711 outside", "shared:88", "/dev/vda[/home/ann/data]"):
        assert number in text


def test_without_ids_nothing_of_the_host_shows():
    secrets = re.compile(
        r"/ann|4711|4715|40265|12331664|/user\.slice|ctrt-1234|\b(71|88|99|51\d)\b"
    )
    for everything in (False, True):
        picture = draw.container(rootless(), all=everything)
        shown = picture.text() + json.dumps(picture.json(), ensure_ascii=False)
        shown += re.sub(r"<style>.*</style>|(x|y|width|height|d|points|cx|cy)=\"[^\"]*\"", "",
                        picture.svg())  # fmt: skip
        shown = re.sub(r'"(x|y|w|h|width|height)": [\d.]+|"points": \[\[.*?\]\]', "", shown)
        assert not secrets.search(shown), secrets.search(shown)


def test_other_numbers_give_the_same_bytes():
    table = re.sub(r"(?m)^(\d+) (\d+)", lambda m: f"{int(m[1]) + 70} {int(m[2]) + 70}", TABLE)
    table = table.replace("0:6", "0:7").replace(":88", ":188").replace(":71", ":171")
    one, other = rootless(), rootless(table, host_groups=frozenset({171}))
    shift = {
        kind: space._replace(key=Key(4, space.key.inode + 999)) if not space.initial else space
        for kind, space in other.namespaces.items()
    }
    owner = shift["user"].key
    other = other._replace(
        namespaces={
            kind: space._replace(owner=owner)
            if space.owner == one.namespaces["user"].key
            else space
            for kind, space in shift.items()
        },
        users=(one.users[0], one.users[1]._replace(key=owner)),
        processes=tuple(
            fellow._replace(pid=fellow.pid + 5, ns_pids=(fellow.pid + 5, *fellow.ns_pids[1:]))
            for fellow in one.processes
        ),
    )
    assert draw.container(other).svg() == draw.container(one).svg()
    assert draw.container(other).json() == draw.container(one).json()
    assert draw.container(other) == draw.container(one)


@each_picture
def test_svg_is_well_formed_and_says_what_it_is(picture):
    svg = picture.svg()
    root = ElementTree.fromstring(svg)
    space = "{http://www.w3.org/2000/svg}"
    assert root.get("role") == "img"
    assert root.find(f"{space}title").text == picture.scene.title
    assert root.find(f"{space}desc").text == picture.scene.description
    assert "prefers-color-scheme:dark" in root.find(f"{space}style").text
    assert not re.search(r"(href|src|url\()", svg)
    for name in re.findall(r'\bid="([^"]*)"', svg):
        assert name.startswith(root.get("class"))
    for element in root.iter():
        for key in ("x", "y", "width", "height", "rx"):
            assert float(element.get(key, "0")) >= 0, ElementTree.tostring(element)


def test_two_pictures_in_one_page_do_not_share_ids_or_rules():
    one, other = draw.container(rootless()).svg(), draw.container(plain()).svg()
    names = [set(re.findall(r"ctrt-[0-9a-f]+", svg)) for svg in (one, other)]
    assert [len(found) for found in names] == [1, 1]
    assert names[0] != names[1]


@each_picture
def test_the_drawing_is_sound(picture):
    drawings.sound(picture)


def test_a_notebook_gets_three_forms():
    picture = draw.container(rootless())
    bundle = picture._repr_mimebundle_(include=None, exclude=None)
    assert bundle == {
        "text/plain": picture.text(),
        "image/svg+xml": picture.svg(),
        "application/vnd.ctrt.graph.v1+json": picture.json(),
    }


def luminance(colour):
    parts = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one, other):
    high, low = sorted((luminance(one), luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def tinted(paper, colour):
    mixed = (
        round(
            int(paper[p : p + 2], 16) * (1 - _svg._TINT) + int(colour[p : p + 2], 16) * _svg._TINT
        )
        for p in (1, 3, 5)
    )
    return "#" + "".join(f"{part:02X}" for part in mixed)


@pytest.mark.parametrize("theme", [0, 1])
def test_contrast(theme):
    paper = _svg.THEME["paper"][theme]
    for kind, pair in _svg.COLOURS.items():
        ground = tinted(paper, pair[theme])
        assert contrast(pair[theme], ground) >= 4.5, kind
        assert contrast(paper, pair[theme]) >= 4.5, kind
        for words in ("ink", "quiet"):
            assert contrast(_svg.THEME[words][theme], ground) >= 4.5, (kind, words)
    for ground in (paper, _svg.THEME["card"][theme]):
        for words in ("ink", "quiet", "good", "bad"):
            assert contrast(_svg.THEME[words][theme], ground) >= 4.5


def test_names_from_outside_do_no_harm():
    table = (
        "1 0 0:1 / / rw - tmpfs tmpfs rw\n"
        '2 1 0:1 / /<b>&"\x1b[31m rw - tmpfs <script> rw\n'
        "3 1 0:1 / /line\\012break\udcff rw - tmpfs tmpfs rw"
    )
    found = rootless(table, processes=(rootless().processes[0]._replace(name="a\x1b]0;b<i>"),))
    picture = draw.container(found, title="</title><script>")
    svg, text = picture.svg(), picture.text()
    ElementTree.fromstring(svg)
    assert "<script" not in svg
    assert "<i>" not in svg
    for shown in (svg, text, json.dumps(picture.json(), ensure_ascii=False)):
        assert "\x1b" not in shown
        shown.encode()
    assert "/line�break" in text


def test_many_alike_mounts_are_put_together():
    lines = ["1 0 0:1 / / rw - ext4 /dev/vda rw"]
    lines += [f"{n} 1 0:{n} / /m/{n} rw - overlay overlay rw,lowerdir=/x" for n in range(2, 3002)]
    picture = draw.mounts(rootless("\n".join(lines)))
    assert len(picture.scene.rows) == 2
    assert picture.scene.rows[1].cells[0] == "3000 overlay mounts"
    assert picture.scene.rows[1].number == 3000
    lines = [f"{n} {n - 1} 0:{n} / {'/d' * n} rw - tmpfs x rw" for n in range(1, 400)]
    assert len(draw.mounts(rootless("\n".join(lines))).scene.rows) == 201


@pytest.mark.parametrize(
    ("line", "source"),
    [
        ("1 0 0:1 / / rw - overlay overlay rw,lowerdir=/a\\134:b:/c:/d,upperdir=/u", 3),
        ("1 0 0:1 / / rw - overlay overlay rw,lowerdir+=/a,lowerdir+=/b,datadir+=/c", 3),
        ("1 0 0:1 / / rw - overlay overlay ro,lowerdir=/only", 1),
        ("1 0 0:1 / / rw - fuse.fuse-overlayfs fuse-overlayfs rw,lowerdir=/a:/b::/c", 3),
    ],
)
def test_layers_of_an_overlay(line, source):
    row = draw.mounts(rootless(line)).scene.rows[0]
    assert row.cells[2] == f"overlay of {source} layer" + ("s" if source > 1 else "")


def group_edges(table, host_groups=frozenset()):
    scene = draw.mounts(rootless(table, host_groups=host_groups)).scene
    return [
        (edge.source, edge.target, edge.kind, edge.arrow, edge.points[0][1] < edge.points[1][1])
        for edge in scene.edges
        if edge.kind != "tree"
    ]


def test_lines_between_peers_and_slaves():
    head = "1 0 0:1 / / rw - tmpfs x rw\n"
    peers = "2 1 0:2 / /a rw shared:5 - tmpfs x rw\n3 1 0:2 / /b rw shared:5 - tmpfs x rw\n"
    slave = "4 1 0:2 / /c rw master:5 - tmpfs x rw\n"
    assert group_edges(head + peers + slave) == [
        ("group:1", "mount:3", "peer", "both", True),
        ("group:1", "mount:4", "slave", "end", True),
    ]
    upward = slave.replace("/c", "/0")
    assert group_edges(head + peers + upward) == [
        ("group:1", "mount:3", "slave", "end", False),
        ("group:1", "mount:4", "peer", "both", True),
    ]
    alone = slave + slave.replace("4 1", "5 1").replace("/c", "/d")
    assert group_edges(head + alone) == [("group:1", "mount:3", "slave", "none", True)]


def test_groups_that_the_host_is_in():
    table = (
        "1 0 0:1 / / rw shared:5 - tmpfs x rw\n2 1 0:2 / /a rw master:6 - tmpfs x rw\n"
        "3 1 0:2 / /b rw shared:7 master:8 propagate_from:9 - tmpfs x rw"
    )
    rows = draw.mounts(rootless(table, host_groups=frozenset({5, 6}))).scene.rows
    assert [row.cells[4] for row in rows] == [
        "shared:1 ⇄ host",
        "master:2 ← host",
        "shared:3 master:4 propagate_from:5",
    ]


CHANGE = """\
Capabilities of sh

                                       EFFECTIVE  PERMITTED  INHERITABLE  BOUNDING  AMBIENT
files (9)                              none       none       none         none      none
identity (3)                           all +3     all +3     none         all       none
processes (8)                          1 of 8     1 of 8     none         1 of 8    none
├─ kill                                ■          ■          ·            ■         ·
├─ sys_ptrace, sys_nice, sys_resource  ·          ·          ·            ·         ·
├─ sys_pacct, ipc_lock, ipc_owner      ·          ·          ·            ·         ·
└─ checkpoint_restore                  ·          ·          ·            ·         ·
network (4)                            none       none       none         none -1   none
├─ net_raw                             ·          ·          ·            -         ·
├─ net_bind_service, net_broadcast     ·          ·          ·            ·         ·
└─ net_admin                           ·          ·          ·            ·         ·
system (10)                            none       none       none         none      none
watching (7)                           none       none       none         none      none
no_new_privs: off,  seccomp: filter
■ in the set   · not in the set   + gained   - lost"""


def bits(*numbers):
    return sum(1 << number for number in numbers)


def test_capabilities_before_and_after():
    after = sets(effective=bits(5, 6, 7, 8), permitted=bits(5, 6, 7, 8), bounding=bits(5, 6, 7, 8))
    before = sets(effective=bits(5), permitted=bits(5), bounding=bits(5, 6, 7, 8, 13))
    assert draw.capabilities(after, before).text() == CHANGE
    diffs = {row.id: row.diff for row in draw.capabilities(after, before).scene.rows}
    assert diffs["caps:identity"] == "+"
    assert diffs["caps:network"] == "-"
    assert diffs["caps:files"] == ""


def test_capabilities_that_are_all_alike_are_one_row():
    full = (1 << 41) - 1
    same = sets(effective=full, permitted=full, bounding=full)
    scene = draw.capabilities(same).scene
    assert [row.cells for row in scene.rows] == [
        ("all 41 capabilities", "all", "all", "none", "all", "none")
    ]
    assert len(draw.capabilities(same, all=True).scene.rows) == 6 + 41


def test_a_capability_without_a_name_is_a_number():
    newer = sets(bounding=1 << 44)
    assert any(row.id == "caps:newer" for row in draw.capabilities(newer).scene.rows)
    assert "44" in draw.capabilities(newer, all=True).text()


def test_notes_below_the_capabilities():
    text = draw.capabilities(sets(no_new_privs=True, securebits=0b101)).text()
    assert "no_new_privs: on,  seccomp: filter,  securebits: noroot, no setuid fixup" in text


@pytest.mark.parametrize(
    ("label", "note"),
    [
        (None, None),
        ("unconfined", None),
        ("web (enforce)", "label: web (enforce)"),
        (Unknown("no permission"), "label: could not be read: no permission"),
    ],
)
def test_the_label_of_a_security_module(label, note):
    text = draw.capabilities(sets(label=label)).text()
    assert note in text if note else "label" not in text


def test_measuring():
    assert _measure.cells("漢字") == 4
    assert _measure.cells("e\N{COMBINING ACUTE ACCENT}") == 1
    assert _measure.clip("/very/long/path", 9) == "/ver…path"
    assert _measure.fit("abc", 1000, 12) == "abc"
    assert _measure.width("iii", 10) < _measure.width("WWW", 10)
    assert _measure.width("WWW", 10) < _measure.width("WWW", 10, bold=True)
