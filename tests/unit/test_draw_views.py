"""The stack and the cgroups as pictures: what they say, and what they leave out."""

from __future__ import annotations

import re

import drawings
import pytest

from ctrt import draw
from ctrt.draw._changed import changed
from ctrt.draw._measure import fit
from ctrt.draw._scene import Raw
from ctrt.draw._text import Block, Line, render
from ctrt.linux.namespaces import Key
from ctrt.observe import (
    Address,
    Cgroup,
    Change,
    Hierarchy,
    Link,
    Listener,
    Network,
    Owner,
    Pressure,
    Route,
    RuleTable,
    Station,
    Unknown,
    program,
)

WEB = Owner("podman", "c0ffee" * 10 + "abcd", "web", None, False, "cgroup /libpod-c0ffee")
CHAIN = (
    Station(1, "systemd", "first process of the machine", (), None),
    Station(700, "bash", "shell", (), None),
    Station(701, "bash", "shell", (), None),
    Station(810, "conmon", "monitor: holds the terminal", (), WEB._replace(monitor=True)),
    Station(0, "crun", "runtime: made the container, and has gone", (), None),
    Station(815, "nginx", "first process of the container", ("mnt", "pid", "net"), WEB),
    Station(816, "nginx", "process of the container", (), WEB),
)


def cells(text):
    """The lines of a table below the title, its columns told apart by two blanks."""
    return [re.split(r"(?<=\S) {2,}", line) for line in text.splitlines()[2:]]


def test_the_stack_as_text():
    assert cells(draw.stack(CHAIN, title="Container web").text()) == [
        ["PROCESS", "ROLE", "NEW NAMESPACES"],
        ["systemd", "first process of the machine"],
        ["└─ bash ×2", "shell"],
        ["   └─ conmon", "monitor: holds the terminal"],
        ["      └─ crun", "runtime: made the container, and has gone"],
        ["         └─ nginx", "first process of the container", "mnt pid net"],
        ["            └─ nginx", "process of the container"],
    ]


def test_what_is_in_the_container_stands_in_its_box():
    scene = draw.stack(CHAIN).scene
    nodes = {node.id: node for node in scene.nodes}
    box = nodes["container"]
    assert (box.label, box.sub) == ("podman container", "web")
    inside = [node for node in scene.nodes if node.parent == "container"]
    assert [node.label for node in inside] == ["nginx", "nginx"]
    for node in inside:
        assert box.y < node.y
        assert node.y + node.h < box.y + box.h
        assert node.x + node.w < box.x + box.w < scene.width
    assert nodes["station:4"].y < box.y


def test_a_runtime_that_has_gone_is_dashed_and_pids_show_only_when_asked():
    crun = next(node for node in draw.stack(CHAIN).scene.nodes if node.label == "crun")
    assert crun.border == "dashed"
    assert "815" not in draw.stack(CHAIN).text()
    assert "(pid 700, 701)" in draw.stack(CHAIN, ids=True).text()


@pytest.mark.parametrize(
    ("words", "name"),
    [
        (("/usr/bin/containerd-shim-runc-v2", "-id", "x"), "containerd-shim"),
        (("-bash",), "bash"),
        (("/usr/bin/python3", "-m", "ipykernel_launcher"), "notebook kernel"),
        (("python3", "-I", "-S", "-c", "from ctrt.runtime.helper import main"), "launcher of ctrt"),
        (("python3", "/srv/app/serve.py", "--port", "80"), "serve.py"),
        (("nginx: worker process",), "nginx"),
        ((), ""),
    ],
)
def test_programs_are_called_what_a_person_calls_them(words, name):
    assert program(words) == name


def group(path, **changes):
    base = Cgroup(path, (), {}, {}, {}, False, "domain", 0, False, True, ())
    return base._replace(**changes)


V2 = Hierarchy(2, ("memory", "pids"), "", "/sys/fs/cgroup")
WALK = [
    (group("/", processes=(1, 2, 3)), 0),
    (group("/empty"), 1),
    (group("/ctrt"), 1),
    (
        group(
            "/ctrt/web-0123abcd",
            processes=(77,),
            limits={"memory": 64 << 20, "processes": 10, "cpus": 0.5, "cpu weight": 100},
            use={"memory": 1 << 20},
            pressure={"cpu": Pressure((12.0, 1.0, 0.0), 1.0, (0.0, 0.0, 0.0), 0.0)},
            delegated=True,
            owner=1000,
        ),
        2,
    ),
]


def test_cgroups_as_text_leave_out_what_is_empty_and_what_changes():
    assert cells(draw.cgroups([(V2, WALK)], target=77).text()) == [
        ["CGROUP", "LIMITS", "PROCESSES"],
        ["version 2: memory, pids"],
        ["└─ /"],
        ["   └─ ctrt"],
        ["      └─ web", "memory 64 MiB, 10 processes, 0.5 cpus", "1", "← here, delegated"],
    ]


def test_cgroups_with_ids_tell_use_and_pressure_and_whole_names():
    text = draw.cgroups([(V2, WALK)], ids=True, all=True).text(200)
    assert "web-0123abcd" in text
    assert "memory 1 MiB, cpu pressure 12.0 %" in text
    assert "delegated to uid 1000" in text
    assert "empty" in text


def test_the_trees_of_version_1_are_one():
    memory = Hierarchy(1, ("memory",), "", "/sys/fs/cgroup/memory")
    pids = Hierarchy(1, ("pids",), "", "/sys/fs/cgroup/pids")
    forest = [
        (memory, [(group("/"), 0), (group("/a", limits={"memory": 1 << 20}, processes=(5,)), 1)]),
        (pids, [(group("/"), 0), (group("/a", limits={"processes": 1.0}, processes=(6,)), 1)]),
    ]
    text = draw.cgroups(forest).text()
    assert text.count("└─ a") == 1
    assert "memory 1 MiB, 1 process " in text
    assert "version 1: memory, pids" in text


def test_a_cgroup_that_may_not_be_read_says_why():
    closed = [(group("/"), 0), (group("/x", processes=Unknown("no permission")), 1)]
    picture = draw.cgroups([(V2, closed)])
    assert "processes could not be read: no permission" in picture.text()
    assert next(n for n in picture.scene.nodes if n.label == "x").border == "dotted"


HOST_NET, POD_NET = Key(4, 1), Key(4, 2)


def link(number, name, kind="veth", **changes):
    return Link(number, name, kind, True, 1500, "02:00:00:00:00:01", 0, None, ())._replace(
        **changes
    )


def sides():
    host = Network(
        HOST_NET,
        (
            link(1, "lo", ""),
            link(2, "eth0", "", addresses=(Address("192.0.2.7", 24),)),
            link(3, "podman0", "bridge", addresses=(Address("10.88.0.1", 16),)),
            link(4, "veth9f3a21bc", master=3, peer=(POD_NET, 2)),
        ),
        (Route("default", "192.0.2.1", 2, "unicast"),),
        (Listener("tcp", "0.0.0.0", 22, 1),),
        "",
    )
    pod = Network(
        POD_NET,
        (link(1, "lo", ""), link(2, "eth0", peer=(HOST_NET, 4),
                                 addresses=(Address("10.88.0.2", 16), Address("fe80::1", 64)))),
        (Route("default", "10.88.0.1", 2, "unicast"),),
        (Listener("tcp", "0.0.0.0", 80, 2), Listener("tcp", "127.0.0.1", 9000, 3)),
        "",
    )  # fmt: skip
    return [
        draw.Side(HOST_NET, "net[host]", "the host", True, host),
        draw.Side(POD_NET, "net[1]", "podman web", False, pod),
    ]


def test_of_the_host_only_what_leads_to_the_others_is_drawn():
    text = draw.network(sides()).text()
    assert cells(text)[:4] == [
        ["NAMESPACE", "KIND", "ADDRESSES", "JOINED TO"],
        ["net[host]", "the host"],
        ["└─ podman0", "bridge", "10.88.0.1/16"],
        ["   └─ veth…", "veth", "eth0 in net[1]"],
    ]
    assert "192.0.2" not in text
    assert "route default via 10.88.0.1 by eth0" in text
    assert "listens on tcp 80, tcp 9000 of 127.0.0.1" in text
    assert "fe80" not in text
    assert "192.0.2.7/24" in draw.network(sides(), all=True).text()
    assert "veth9f3a21bc" in draw.network(sides(), ids=True).text()


def test_rules_of_a_namespace_are_counted_by_table():
    host, pod = sides()
    tables = (RuleTable("ip", "nat", 2, 1), RuleTable("inet", "filter", 1, 7))
    text = draw.network([host, pod._replace(known=pod.known._replace(tables=tables))]).text()
    assert "rules in ip nat: 1, in 2 chains" in text
    assert "rules in inet filter: 7, in 1 chain" in text
    closed = pod.known._replace(tables=Unknown("operation not permitted"))
    text = draw.network([host, pod._replace(known=closed)]).text()
    assert "rules of nftables could not be read: operation not permitted" in text


def test_a_veth_pair_is_one_line_from_one_end_to_the_other():
    scene = draw.network(sides()).scene
    [edge] = [edge for edge in scene.edges if edge.kind == "veth"]
    nodes = {node.id: node for node in scene.nodes}
    one, other = nodes[edge.source], nodes[edge.target]
    assert {one.label, other.label} == {"veth…", "eth0"}
    assert edge.points[0] == (one.x + one.w, one.y + one.h / 2)
    assert edge.points[-1] == (other.x, other.y + other.h / 2)
    assert one.parent == "net[host]"


def test_a_network_that_may_not_be_read_says_why():
    closed = [sides()[0], draw.Side(POD_NET, "net[1]", "could not be read: no permission", False,
                                    None)]  # fmt: skip
    picture = draw.network(closed)
    assert "could not be read: no permission" in picture.text()
    assert next(n for n in picture.scene.nodes if n.id == "net[1]").border == "dotted"


def test_links_whose_index_is_not_known_are_no_ports_of_lo():
    plain = (link(0, "lo", ""), link(0, "near", ""))
    network = Network(POD_NET, plain, (), (), "operation not permitted")
    text = draw.network([draw.Side(POD_NET, "net[1]", "sleep", False, network)], all=True).text()
    assert [line[0] for line in cells(text)[2:4]] == ["├─ lo", "├─ near"]


def test_a_difference_shows_what_differs_and_not_the_numbers():
    changes = (
        Change("~", "namespace", "net", "net:[4026531840] of the host", "net:[4026533000]"),
        Change("~", "namespace", "user", "user:[4026533001]", "user:[4026533002]"),
        Change("+", "mount", "/mnt", "", "tmpfs /dev/vda1 rw,nosuid shared shared:88"),
        Change("-", "capability", "effective", "CAP_SYS_TIME", ""),
    )
    picture = draw.difference(changes, "the host", "box")
    assert cells(picture.text()) == [
        ["WHAT", "the host", "box"],
        ["namespaces (2)"],
        ["├─ ~ net", "the host's", "its own"],
        ["└─ ~ user", "its own", "its own"],
        ["mounts (1)"],
        ["└─ + /mnt", "tmpfs nosuid shared"],
        ["capabilities (1)"],
        ["└─ - effective", "CAP_SYS_TIME"],
    ]
    assert "4026533000" in draw.difference(changes, ids=True).text()
    assert [row["diff"] for row in picture.json()["rows"]] == ["", "~", "~", "", "+", "", "-"]
    assert "Nothing differs." in draw.difference(()).text()


def test_namespaces_of_a_kind_that_have_come_are_counted():
    changes = [Change("+", "namespace", "mnt", "", f"mnt:[{n}]") for n in (11, 12)]
    changes.append(Change("+", "namespace", "net", "", "net:[13]"))
    text = draw.difference(changes).text()
    assert "+ mnt ×2" in text
    assert "+ net" in text


def test_four_ids_that_are_the_same_are_one():
    same = Change("~", "credential", "user ids", "0, 0, 0, 0", "7, 7, 7, 7")
    other = Change("~", "credential", "user ids", "0, 0, 0, 0", "7, 0, 7, 0")
    shown = [draw.difference((c,), ids=ids).scene.rows[1].cells[1:]
             for c, ids in ((same, False), (other, False), (same, True))]  # fmt: skip
    assert shown == [("0", "7"), ("0", "7, 0, 7, 0"), ("0, 0, 0, 0", "7, 7, 7, 7")]
    assert changed([same]) == ["user ids: 0 → 7"]


def mount(before, after, sign="~"):
    return draw.difference((Change(sign, "mount", "/m", before, after),)).scene.rows[1].cells[1:]


def test_of_a_mount_in_both_only_what_differs_is_told():
    plain = "proc proc rw,relatime private"
    assert mount(plain, "proc proc rw,nosuid,nodev,noexec,relatime private") == (
        "proc", "proc nosuid nodev noexec",
    )  # fmt: skip
    assert mount(plain, "proc proc ro,relatime shared shared:8") == (
        "proc rw private", "proc ro shared",
    )  # fmt: skip
    assert mount("tmpfs a rw private", "tmpfs b rw private") == (
        "tmpfs", "tmpfs of another source",
    )  # fmt: skip
    assert mount("ext4 /dev/vda rw private", "overlay overlay rw private") == ("ext4", "overlay")
    assert mount(plain, "proc proc rw,relatime private, of another root") == (
        "proc", "proc of another root",
    )  # fmt: skip
    assert mount("", "tmpfs x rw,nosuid,relatime private", "+") == ("", "tmpfs nosuid")


def test_a_line_that_is_one_cell_leaves_the_columns_their_room():
    listens = tuple(Listener("tcp", "0.0.0.0", 8000 + n, n) for n in range(9))
    side = sides()[1]
    text = draw.network([side._replace(known=side.known._replace(listeners=listens))]).text()
    assert "tcp 8000, tcp 8001, tcp 8002" in text
    lines = [line for line in text.splitlines() if "listens on" in line]
    assert len(lines) == 2, "no box is as wide as a long list"
    assert all(f"tcp {8000 + n}" in "".join(lines) for n in range(9))
    address = next(line for line in text.splitlines() if "eth0 " in line and "veth" in line)
    assert "10.88.0.2/16" in address
    assert all(len(line) <= 100 for line in text.splitlines())


def test_a_list_that_is_too_long_loses_its_last_members():
    assert fit("alpha, beta, gamma, delta", 120, 12.5, mono=True) == "alpha, beta, …"
    assert fit("/a/long/path/to/some/place", 120, 12.5, mono=True) == "/a/long…e/place"


def test_a_macvlan_says_what_it_works_upon_and_is_no_pair():
    host, pod = sides()
    upper = link(3, "mv0", "macvlan", peer=(HOST_NET, 2))
    shown = [host, pod._replace(known=pod.known._replace(links=(*pod.known.links, upper)))]
    scene = draw.network(shown, all=True).scene
    chip = next(node for node in scene.nodes if node.label == "mv0")
    assert chip.sub.startswith("macvlan on eth0 in net[host]")
    [edge] = [edge for edge in scene.edges if edge.source == chip.id or edge.target == chip.id]
    assert (edge.kind, edge.dash) == ("link", True)
    assert "1 veth pair" in scene.description
    drawings.sound(draw.network(shown, all=True))


def test_cgroups_are_in_the_order_that_a_person_counts():
    walk = [(group("/"), 0)] + [
        (group(f"/box-{n}", processes=(n,)), 1) for n in (10, 2, 1)
    ]  # fmt: skip
    tree = Hierarchy(1, ("memory",), "", "/sys/fs/cgroup/memory")
    other = Hierarchy(1, ("pids",), "", "/sys/fs/cgroup/pids")
    text = draw.cgroups([(tree, walk), (other, walk)]).text()
    assert re.findall(r"box-\d+", text) == ["box-1", "box-2", "box-10"]


def test_what_a_limit_has_done_is_told():
    walk = [
        (group("/"), 0),
        (group("/web", processes=(7,), use={"killed": 2.0, "throttled": 1.5},
               raw=(("/sys/fs/cgroup/web/memory.max", "67108864"),)), 1),
    ]  # fmt: skip
    assert "2 killed for lack of memory" in draw.cgroups([(V2, walk)]).text()
    assert "throttled for 1.50 s" in draw.cgroups([(V2, walk)], ids=True).text(150)
    [*_, detail] = draw.cgroups([(V2, walk)], ids=True).scene.details.values()
    assert detail.raw == (Raw("/sys/fs/cgroup/web/memory.max", "67108864"),)


def test_a_container_s_cgroup_is_called_so_where_its_name_is_a_number():
    walk = [
        (group("/"), 0), (group("/docker"), 1),
        (group(f"/docker/{'0123456789abcdef' * 4}", processes=(7,)), 2),
        (group("/kubepods"), 1),
        (group("/kubepods/pod6f0e9bd2-58b5-44f1-8d2a-0c1d2e3f4a5b", processes=(8,)), 2),
    ]  # fmt: skip
    text = draw.cgroups([(V2, walk)]).text()
    assert "a container of docker" in text
    assert "─ pod…" in text
    assert "6f0e9bd2" not in text


@pytest.mark.parametrize("everything", [False, True])
@pytest.mark.parametrize("ids", [False, True])
def test_the_views_are_sound_drawings(ids, everything):
    drawings.sound(draw.stack(CHAIN, ids=ids))
    drawings.sound(draw.cgroups([(V2, WALK)], target=77, ids=ids, all=everything))
    drawings.sound(draw.network(sides(), ids=ids, all=everything))
    drawings.sound(draw.difference((Change("~", "namespace", "net", "a", "b"),), ids=ids))


def test_cgroups_that_look_the_same_are_one():
    engine = [(group("/"), 0), (group("/libpod_parent"), 1)]
    for number in range(3):
        name = f"/libpod_parent/libpod-{number}{'c0ffee' * 10}"
        engine.append((group(name, processes=(5 + number,)), 2))
    picture = draw.cgroups([(V2, engine)])
    assert cells(picture.text())[-1] == ["      └─ libpod ×3", "3"]
    assert [row.number for row in picture.scene.rows][-1] == 3
    assert len(draw.cgroups([(V2, engine)], all=True).scene.rows) == 6
    drawings.sound(picture)


def bridge():
    """A namespace with a bridge that leads to three others; the host's leads to none of them."""
    host, pod = sides()
    keys = [Key(4, 10 + n) for n in range(4)]
    ports = tuple(link(3 + n, f"veth{n}", master=2, peer=(keys[n], 2)) for n in (1, 2, 3))
    hub = Network(keys[0], (link(1, "lo", ""), link(2, "br0", "bridge"), *ports), (), (), "")
    found = [host, draw.Side(keys[0], "net[1]", "router", False, hub)]
    for n in (1, 2, 3):
        own = pod.known._replace(links=(link(1, "lo", ""), link(2, "eth0", peer=(keys[0], 3 + n))))
        found.append(draw.Side(keys[n], f"net[{n + 1}]", f"box {n}", False, own))
    return found


@pytest.mark.parametrize("first", [0, 1])
def test_who_joins_the_others_stands_on_the_left_and_no_lines_cross(first):
    picture = draw.network(bridge()[first:])
    drawings.sound(picture)
    nodes = {node.id: node for node in picture.scene.nodes}
    assert nodes["net[1]"].x < nodes["net[2]"].x == nodes["net[3]"].x == nodes["net[4]"].x
    paths = [edge.points for edge in picture.scene.edges]
    assert len(paths) == 3
    for one in paths:
        upright = one[1][0], *sorted((one[1][1], one[2][1]))
        for other in paths:
            for (x0, y), (x1, _) in (other[:2], other[2:]):
                crosses = x0 < upright[0] < x1 and upright[1] < y < upright[2]
                assert other == one or not crosses


def test_a_cell_that_does_not_fit_begins_where_nothing_stands_before_it():
    long = "could not be read: no permission to look into that process"
    lines = (Line(0, ("one", "two " * 8, "three")), Line(0, ("four", "", long)))
    text = render((Block("", ("A", "B", "C"), lines),), 80)
    assert long in text
    assert all(len(line) <= 80 for line in text.splitlines())
    heads, one, _ = text.splitlines()
    assert heads.index("C") == one.index("three")
