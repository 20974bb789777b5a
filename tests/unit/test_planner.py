"""Plans as values: which steps, on which side, in which order, for hosts made by hand."""

from __future__ import annotations

import copy
import marshal

import pytest

from ctrt.errors import CtrtError
from ctrt.linux import calls as k
from ctrt.linux import cgroups
from ctrt.runtime import cgroup, planner
from ctrt.runtime.host import Host
from ctrt.runtime.plan import INSIDE, OUTSIDE, Plan

RANGE = ((524288, 65536),)
HOSTS = {
    "root, id-mapped layers": Host(
        uid=0,
        gid=0,
        privileged=True,
        uid_ranges=RANGE,
        gid_ranges=RANGE,
        cgroup="/cg/ctrt",
        idmapped_overlay=True,
    ),
    "root": Host(
        uid=0, gid=0, privileged=True, uid_ranges=RANGE, gid_ranges=RANGE, cgroup="/cg/ctrt"
    ),
    "subordinate ids": Host(
        uid=1000,
        gid=1001,
        privileged=False,
        uid_ranges=((100000, 65536),),
        gid_ranges=((200000, 1000), (300000, 5)),
        newuidmap="/usr/bin/newuidmap",
        newgidmap="/usr/bin/newgidmap",
        reasons={"cgroup": "no cgroup is delegated to you"},
    ),
    "single id": Host(
        uid=1000, gid=1001, privileged=False, reasons={"ids": "only your own id is mapped"}
    ),
}
MAPS = {
    "root, id-mapped layers": (((0, 524288, 65536),), ((0, 524288, 65536),)),
    "root": (((0, 524288, 65536),), ((0, 524288, 65536),)),
    "subordinate ids": (
        ((0, 1000, 1), (1, 100000, 65536)),
        ((0, 1001, 1), (1, 200000, 1000), (1001, 300000, 5)),
    ),
    "single id": (((0, 1000, 1),), ((0, 1001, 1),)),
}
USERNS = [name for name in HOSTS if name != "root"]
LAYERS = planner.Layers(("/layers/top", "/layers/base"), "/root/containers/box")
CGROUP = {"destination": "/sys/fs/cgroup", "type": "cgroup", "options": ["ro", "nosuid"]}
KINDS = ("user", "mount", "pid", "network", "uts", "ipc", "cgroup")


def configuration(name, **changes):
    """A small OCI configuration for a host; `changes` are keys of it, or of "linux"."""
    uid_map, gid_map = HOSTS[name].id_maps()
    kinds = KINDS if name in USERNS else KINDS[1:]
    keys = ("containerID", "hostID", "size")
    config = {
        "process": {
            "args": ["sh", "-c", "true"],
            "env": ["PATH=/bin"],
            "cwd": "/srv",
            "user": {"uid": 0, "gid": 0, "additionalGids": [5]},
            "capabilities": {
                key: ["CAP_KILL", "CAP_CHOWN"] for key in ("bounding", "effective", "permitted")
            },
            "noNewPrivileges": True,
        },
        "root": {"path": LAYERS.directory, "readonly": False},
        "hostname": "box",
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc", "options": ["nosuid"]},
            {"destination": "/dev", "type": "tmpfs", "options": ["nosuid", "mode=755"]},
            {
                "destination": "/data",
                "type": "bind",
                "source": "/home/me/data",
                "options": ["rbind", "ro", "relatime"],
            },
        ],
        "linux": {
            "namespaces": [{"type": kind} for kind in kinds],
            "maskedPaths": ["/proc/kcore"],
            "readonlyPaths": ["/proc/sys"],
            "sysctl": {"net.ipv4.ping_group_range": "0 0"},
        },
    }
    if name in USERNS:
        config["linux"]["uidMappings"] = [dict(zip(keys, e, strict=True)) for e in uid_map]
        config["linux"]["gidMappings"] = [dict(zip(keys, e, strict=True)) for e in gid_map]
    if HOSTS[name].cgroup:
        config["linux"]["cgroupsPath"] = "/cg/ctrt/box"
    for key, value in changes.items():
        (config if key in config else config["linux"])[key] = value
    return config


class Machine(cgroups.Layout):
    """A machine with cgroup v2 alone, at a place that need not be there."""

    __slots__ = ()

    def __init__(self):
        super().__init__("/cg", {}, {})

    def writable(self, path):
        return True


def planned(name, config=None, **keywords):
    keywords.setdefault("subject", "box:latest")
    keywords.setdefault("seccomp", b"12345678" * 3)
    config = config or configuration(name)
    if HOSTS[name].cgroup:
        keywords["cgroup"] = cgroup.plan(config, HOSTS[name], layout=Machine(), mark="m")
    return planner.container(config, HOSTS[name], LAYERS, **keywords)


def bundle(name="root", process=None, mounts=(), keywords=None, **linux):
    """The plan of a bundle's container."""
    config = configuration(name)
    config["process"].update(process or {})
    config["mounts"] += mounts
    config["linux"].update(linux)
    keywords = {"subject": "box", **(keywords or {})}
    host = keywords.pop("host", HOSTS[name])
    config.update(keywords.pop("config", {}))
    return planner.container(config, host, planner.Directory("/b/rootfs"), **keywords)


HOOK = {"path": "/bin/hook", "args": ["hook", "x"], "env": ["A=b"], "timeout": 5}
HOOKS = {
    kind: [HOOK] for kind in ("prestart", "createRuntime", "createContainer", "startContainer")
}


def everything():
    """Plans that between them have every call that a configuration can bring about."""
    host = Host(
        uid=0, gid=0, privileged=True, modules=("apparmor",), limits={}, cgroup_v1=(), cgroup=None
    )
    kinds = [*({"type": kind} for kind in ("mount", "pid", "time", "cgroup", "ipc", "network"))]
    yield bundle(
        process={
            "rlimits": [{"type": "RLIMIT_NOFILE", "soft": 10, "hard": 20}],
            "oomScoreAdj": 100,
            "scheduler": {"policy": "SCHED_BATCH", "nice": 5, "flags": ["SCHED_FLAG_RECLAIM"]},
            "ioPriority": {"class": "IOPRIO_CLASS_BE", "priority": 4},
            "apparmorProfile": "box",
            "user": {"uid": 5, "gid": 6, "umask": 0o77},
        },
        mounts=[
            {"destination": "/t", "type": "tmpfs", "options": ["ro", "tmpcopyup"]},
            {"destination": "/l", "source": "/etc/localtime", "options": ["bind", "copy-symlink"]},
            {"destination": "/i", "source": "/s", "options": ["rbind", "ridmap", "rslave"]},
            {"destination": "/t2", "source": "/b/rootfs/t/a", "options": ["bind"]},
        ],
        keywords={
            "host": host,
            "wait": True,
            "terminal": True,
            "pivot": False,
            "config": {"hooks": HOOKS, "domainname": "example.org"},
        },
        namespaces=[*kinds, {"type": "uts", "path": "/run/ns/uts"}],
        timeOffsets={"boottime": {"secs": 5}},
        netDevices={"eth7": {"name": "eth0"}},
        personality={"domain": "LINUX32"},
        memoryPolicy={"mode": "MPOL_BIND", "nodes": "0"},
        rootfsPropagation="rshared",
    )
    yield bundle(namespaces=[{"type": "pid"}])
    yield bundle(
        "root, id-mapped layers",
        devices=[{"path": "/dev/own", "type": "c", "major": 1, "minor": 5, "uid": 7}],
    )
    hybrid = Host(uid=0, gid=0, privileged=True, cgroup_v1=(("pids", "cgroup", (("pids", ""),)),))
    labelled = Host(uid=0, gid=0, privileged=True, modules=("selinux",))
    queue = {"destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue"}
    yield bundle(mounts=[queue], keywords={"host": labelled}, mountLabel="u:object_r:box_t:s0")
    yield bundle(
        mounts=[CGROUP],
        keywords={"host": hybrid, "config": {"hostname": ""}},
        sysctl={},
        namespaces=[{"type": "mount"}],
    )
    ids = [{"containerID": 0, "hostID": 1000, "size": 1}]
    inside = {"destination": "/i", "source": "/b/rootfs/t/a", "options": ["rbind", "idmap"]}
    yield bundle(
        mounts=[inside],
        keywords={"host": host},
        namespaces=[*kinds, {"type": "uts"}, {"type": "user"}],
        uidMappings=ids,
        gidMappings=ids,
        sysctl={},
    )
    target = planner.Target(77, start_time=5, cgroup="/cg/box", cgroups_v1=("/cg/pids/box",))
    process = {"args": ["sh"], "cwd": "/", "execCPUAffinity": {"initial": "0", "final": "0-1"}}
    yield planner.enter(process, target, host, subject="box", seccomp=b"12345678")
    yield of_another_engine(host)


def of_another_engine(host):
    """Into a process with a root of its own, in a user namespace where no groups are set."""
    linux = {
        "namespaces": [{"type": "user"}],
        "uidMappings": [{"containerID": 5, "hostID": 1000, "size": 1}],
        "gidMappings": [{"containerID": 6, "hostID": 1000, "size": 1}],
    }
    target = planner.Target(
        77,
        start_time=5,
        config={"linux": linux},
        chroot=True,
        keeps_groups=True,
        notes=("its filter is not inherited",),
    )
    return planner.enter({"args": ["sh"], "cwd": "/srv"}, target, host, subject="podman:web")


def test_namespaces_of_ones_own_are_made_of_those_that_are_joined():
    target = planner.Target(77, start_time=5)
    plan = planner.enter(
        {"args": ["sh"], "cwd": "/"},
        target,
        HOSTS["root"],
        subject="one",
        kinds=("mount", "uts"),
        more=planner.propagated("slave"),
    )
    flags = k.CLONE_NEWNS | k.CLONE_NEWUTS
    assert only(plan, "clone") == ("clone", flags, None, (("target", 0),), None)
    names = [step.name for step in plan.steps]
    assert names.index("directory") + 1 == names.index("propagation") < names.index("exec")
    noted = planner.noted(plan, "/run/one")
    assert [step.name for step in noted.steps] == ["name", *names]
    assert noted.undo() == (("remove_tree", "/run/one", None),)


def test_the_root_is_changed_while_one_still_may():
    plan = of_another_engine(HOSTS["root"])
    calls = [call for step in plan.steps for call in step.calls]
    opened = calls.index(("open_directory", "/proc/77/root", "root"))
    assert calls[opened - 1] == ("open_process", 77, 5, "target")
    changed = calls.index(("change_root",))
    assert calls[changed + 1 : changed + 3] == [("become", 5, 6, None), ("chdir", "/srv")]
    assert only(plan, "capabilities")[3] is None  # setgroups(2) would be refused
    assert plan.notes == ("its filter is not inherited",)


def order(plan):
    return [(step.where, step.name) for step in plan.steps]


def operations(plan):
    return [call[0] for step in plan.steps for call in step.calls]


def only(plan, operation):
    """The one call of that operation in the plan."""
    (found,) = [call for step in plan.steps for call in step.calls if call[0] == operation]
    return found


@pytest.fixture(params=HOSTS)
def host_name(request):
    return request.param


@pytest.mark.parametrize("name", HOSTS)
def test_id_maps_of_a_host(name):
    assert HOSTS[name].id_maps() == MAPS[name]


def test_groups_stay_where_a_user_with_subordinate_ids_maps_just_one():
    # As `ctrt-runtime spec --rootless` writes it: setgroups(2) is denied with such a map.
    one = [{"containerID": 0, "hostID": 1001, "size": 1}]
    config = configuration("subordinate ids", gidMappings=one)
    plan = planned("subordinate ids", config)
    groups = [call[3] for step in plan.steps for call in step.calls if call[0] == "become"]
    assert groups
    assert set(groups) == {None}
    assert any("additionalGids are left out" in note for note in plan.notes)


def test_a_helper_alone_is_as_good_as_none():
    host = Host(
        uid=7,
        gid=8,
        privileged=False,
        uid_ranges=RANGE,
        gid_ranges=RANGE,
        newuidmap="/usr/bin/newuidmap",
    )
    assert host.id_maps() == (((0, 7, 1),), ((0, 8, 1),))


INSIDE_TAIL = [
    (INSIDE, "mount /proc"),
    (INSIDE, "mount /dev"),
    (INSIDE, "bind /data"),
    (INSIDE, "devices"),
    (INSIDE, "kernel parameters"),
    (INSIDE, "read-only paths"),
    (INSIDE, "masked paths"),
    (INSIDE, "loopback"),
    (INSIDE, "host name"),
    (INSIDE, "pivot root"),
    (INSIDE, "descriptors"),
    (INSIDE, "keyring"),
    (INSIDE, "capabilities"),
    (INSIDE, "no new privileges"),
    (INSIDE, "seccomp"),
    (INSIDE, "exec"),
]
ORDERS = {
    "root, id-mapped layers": [
        (OUTSIDE, "container directory"),
        (OUTSIDE, "cgroup"),
        (OUTSIDE, "clone"),
        (OUTSIDE, "id maps"),
        (OUTSIDE, "layers"),
        (INSIDE, "propagation"),
        (OUTSIDE, "sources of bind mounts"),
        (INSIDE, "root"),
        (INSIDE, "become root inside"),
        (INSIDE, "ipc namespace"),
        *INSIDE_TAIL,
    ],
    "root": [
        (OUTSIDE, "container directory"),
        (OUTSIDE, "cgroup"),
        (OUTSIDE, "clone"),
        (INSIDE, "propagation"),
        (INSIDE, "layers"),
        (INSIDE, "sources of bind mounts"),
        (INSIDE, "root"),
        *INSIDE_TAIL,
    ],
    "subordinate ids": [
        (OUTSIDE, "container directory"),
        (OUTSIDE, "clone"),
        (OUTSIDE, "id maps"),
        (INSIDE, "propagation"),
        (INSIDE, "layers"),
        (INSIDE, "sources of bind mounts"),
        (INSIDE, "root"),
        (INSIDE, "become root inside"),
        (INSIDE, "ipc namespace"),
        *INSIDE_TAIL,
    ],
}
ORDERS["single id"] = ORDERS["subordinate ids"]


def test_the_steps_their_sides_and_their_order(host_name):
    assert order(planned(host_name)) == ORDERS[host_name]


def test_a_plan_is_a_function_of_its_arguments(host_name):
    first = planned(host_name)
    again = planned(host_name, copy.deepcopy(configuration(host_name)))
    assert first == again
    assert first.text() == again.text()
    other = planned(host_name, configuration(host_name, hostname="other"))
    assert other != first


def test_planning_leaves_the_configuration_as_it_was(host_name):
    config = configuration(host_name)
    before = copy.deepcopy(config)
    planned(host_name, config)
    assert config == before


def test_every_step_has_a_reason_and_a_source(host_name):
    for step in planned(host_name).steps:
        assert step.why, step
        assert step.source, step
        assert not step.why.endswith("."), step
        assert step.calls, step


def test_what_a_host_lacks_is_noted(host_name):
    config = configuration(host_name)
    config["process"]["user"]["additionalGids"] = []
    assert planned(host_name, config).notes == tuple(HOSTS[host_name].reasons.values())


def test_groups_that_cannot_be_had_are_noted():
    assert planned("single id").notes[-1] == (
        "additionalGids are left out: setgroups(2) is denied where only one group is mapped"
    )


def test_every_plan_can_be_sent(host_name):
    plan = planned(host_name, trace=True)
    assert marshal.loads(marshal.dumps(plan.wire(), 2)) == plan.wire()
    assert marshal.loads(marshal.dumps(plan.undo(), 2)) == plan.undo()


def test_one_clone_makes_all_namespaces_but_that_of_another_user(host_name):
    flags = k.CLONE_NEWNS | k.CLONE_NEWPID | k.CLONE_NEWNET | k.CLONE_NEWUTS | k.CLONE_NEWCGROUP
    if host_name in USERNS:
        flags |= k.CLONE_NEWUSER
        assert only(planned(host_name), "unshare") == ("unshare", k.CLONE_NEWIPC)
    else:
        flags |= k.CLONE_NEWIPC
    cgroup = "cgroup" if HOSTS[host_name].cgroup else None
    assert only(planned(host_name), "clone") == ("clone", flags, cgroup)


ID_MAP_CALLS = {
    "root, id-mapped layers": (
        ("map_ids", "uid", MAPS["root"][0], None),
        ("map_ids", "gid", MAPS["root"][1], None),
    ),
    "subordinate ids": (
        ("map_ids", "uid", MAPS["subordinate ids"][0], "/usr/bin/newuidmap"),
        ("map_ids", "gid", MAPS["subordinate ids"][1], "/usr/bin/newgidmap"),
    ),
    "single id": (
        ("deny_setgroups",),
        ("map_ids", "uid", MAPS["single id"][0], None),
        ("map_ids", "gid", MAPS["single id"][1], None),
    ),
}


@pytest.mark.parametrize("name", USERNS)
def test_id_maps_are_written_by_whoever_may(name):
    assert planned(name).step("id maps").calls == ID_MAP_CALLS[name]


def test_setgroups_is_denied_only_where_there_is_a_single_id(host_name):
    denied = "deny_setgroups" in operations(planned(host_name))
    assert denied == (host_name == "single id")


def test_groups_are_set_wherever_setgroups_is_allowed(host_name):
    plan = planned(host_name)
    groups = None if host_name == "single id" else (5,)
    assert only(plan, "capabilities")[1:4] == (0, 0, groups)
    if host_name in USERNS:
        empty = None if host_name == "single id" else ()
        assert plan.step("become root inside").calls == (("become", 0, 0, empty),)


OVERLAYS = {
    # where, options, idmapped
    "root, id-mapped layers": (OUTSIDE, (), True),
    "root": (INSIDE, (), False),
    "subordinate ids": (INSIDE, (("userxattr", ""),), False),
    "single id": (INSIDE, (("userxattr", ""),), False),
}


def test_user_attributes_just_where_the_overlay_is_mounted_in_a_user_namespace(host_name):
    where, options, idmapped = OVERLAYS[host_name]
    step = planned(host_name).step("layers")
    assert step.where == where
    assert step.calls == (
        ("overlay", LAYERS.lowers, LAYERS.directory, options, idmapped, "layers"),
    )


def test_only_id_mapped_layers_give_the_upper_directory_away(host_name):
    chowned = [c for c in planned(host_name).step("container directory").calls if c[0] == "chown"]
    expected = [("chown", "/root/containers/box/upper", 524288, 524288)]
    assert chowned == (expected if host_name == "root, id-mapped layers" else [])


def test_undo_is_the_last_step_first(host_name):
    undo = planned(host_name).undo()
    assert [call[0] for call in undo] == (
        ["cgroup_remove", "remove_tree"] if HOSTS[host_name].cgroup else ["remove_tree"]
    )
    tree = undo[-1]
    assert tree[1] == "/root/containers/box"
    if host_name != "subordinate ids":
        assert tree[2] is None
        return
    # Files of subordinate ids are removed in a user namespace that has the same ids.
    removal = planner.removal_plan(tree[1], *MAPS[host_name], HOSTS[host_name])
    assert tree[2] == removal.wire()
    assert removal.step("id maps").calls == ID_MAP_CALLS[host_name]


@pytest.mark.parametrize("confined", [True, False])
def test_seccomp_stands_where_it_is_allowed(host_name, confined):
    """With no_new_privs anybody may load a filter; without it only CAP_SYS_ADMIN may."""
    config = configuration(host_name)
    config["process"]["noNewPrivileges"] = confined
    names = [step.name for step in planned(host_name, config).steps]
    tail = ["capabilities", "no new privileges", "seccomp", "exec"]
    assert names[-4:] == (tail if confined else ["keyring", "seccomp", "capabilities", "exec"])


def test_no_filter_no_step(host_name):
    assert "seccomp" not in operations(planned(host_name, seccomp=None))


def test_the_parent_s_death_is_asked_for_last(host_name):
    """A change of credentials clears it: prctl(2)."""
    calls = planned(host_name, trace=True).step("exec").calls
    assert [call[0] for call in calls] == ["die_with_parent", "trace", "exec"]
    assert calls[-1] == ("exec", ("sh", "-c", "true"), ("PATH=/bin",))
    assert "trace" not in operations(planned(host_name))


def test_capability_masks():
    plan = planned("root")
    both = 1 << 0 | 1 << 5
    assert plan.step("capabilities").calls == (
        ("not_dumpable",),
        ("home", 0),
        ("limit_bounding", both),
        ("capabilities", 0, 0, (5,), both, both, 0, 0),
        ("umask", 0o022),
    )


def test_mounts_become_calls(host_name):
    plan = planned(host_name)
    assert plan.step("mount /dev").calls == (
        ("file_system", "tmpfs", (("mode", "755"),), k.MOUNT_ATTR_NOSUID, "mount"),
        ("attach", "mount", "/dev"),
    )
    opened = ("/home/me/data", "bind2")
    as_caller = host_name == "root, id-mapped layers"
    assert plan.step("sources of bind mounts").calls == (
        ("sources_as_caller", (opened,)) if as_caller else ("open_source", *opened),
    )
    assert plan.step("bind /data").calls == (
        ("copy_tree", "bind2", True),
        ("attributes", "bind2", k.MOUNT_ATTR_RDONLY, k.MOUNT_ATTR__ATIME, False),
        ("attach", "bind2", "/data"),
    )


@pytest.mark.parametrize(
    ("options", "recursive", "attr_set", "attr_clr"),
    [
        (["bind"], False, 0, 0),
        (["rbind"], True, 0, 0),
        (["bind", "ro", "rw"], False, 0, k.MOUNT_ATTR_RDONLY),
        (["bind", "rw", "ro"], False, k.MOUNT_ATTR_RDONLY, 0),
        (["bind", "nosuid", "suid"], False, 0, k.MOUNT_ATTR_NOSUID),
        (["bind", "nodev", "noexec"], False, k.MOUNT_ATTR_NODEV | k.MOUNT_ATTR_NOEXEC, 0),
        (["bind", "rprivate"], False, 0, 0),
    ],
)
def test_the_last_of_two_opposite_mount_options_counts(options, recursive, attr_set, attr_clr):
    mount = {"destination": "/x", "type": "bind", "source": "/s", "options": options}
    plan = planned("root", configuration("root", mounts=[mount]))
    step = plan.step("bind /x")
    assert step.calls[0] == ("copy_tree", "bind0", recursive)
    changed = (("attributes", "bind0", attr_set, attr_clr, False),)
    assert step.calls[1:-1] == (changed if attr_set or attr_clr else ())


def test_the_devices_are_left_to_the_host_where_dev_is_its_own(host_name):
    mount = {"destination": "/dev", "type": "bind", "source": "/dev", "options": ["rbind"]}
    plan = planned(host_name, configuration(host_name, mounts=[mount]))
    assert "devices" not in [step.name for step in plan.steps]
    plan = planned(host_name, configuration(host_name, mounts=[]))
    assert "devices" in [step.name for step in plan.steps]
    assert "sources of bind mounts" not in [step.name for step in plan.steps]


def test_cgroup_is_cgroup2_where_there_is_no_other():
    host = copy.copy(HOSTS["root"])
    host._cgroup_v1 = ()
    plan = planner.container(configuration("root", mounts=[CGROUP]), host, LAYERS, subject="box")
    assert only(plan, "file_system")[1] == "cgroup2"


def test_cgroup_is_every_hierarchy_where_there_are_several():
    host = copy.copy(HOSTS["root"])
    host._cgroup_v1 = (
        ("cpu,cpuacct", "cgroup", (("cpu", ""), ("cpuacct", ""))),
        ("systemd", "cgroup", (("none", ""), ("name", "systemd"))),
        ("unified", "cgroup2", ()),
    )
    config = configuration("root", mounts=[CGROUP])
    plan = planner.container(config, host, LAYERS, subject="box")
    calls = plan.step("mount /sys/fs/cgroup").calls
    flags = k.MOUNT_ATTR_NOSUID | k.MOUNT_ATTR_RDONLY
    hierarchy = ("file_system", "cgroup", (("none", ""), ("name", "systemd")), flags, "mount")
    assert hierarchy in calls
    links = (("cpu", "cpu,cpuacct"), ("cpuacct", "cpu,cpuacct"))
    assert calls[-1] == ("symlinks", "/sys/fs/cgroup", links)
    # The tmpfs that holds them is made read-only when nothing has to be made in it any more.
    assert plan.step("read-only mounts").calls == (
        ("attributes_below", "/sys/fs/cgroup", k.MOUNT_ATTR_RDONLY, 0, False),
    )
    config = configuration("root", mounts=[CGROUP], namespaces=[{"type": "mount"}])
    config["linux"].pop("sysctl")
    config["hostname"] = ""
    plan = planner.container(config, host, LAYERS, subject="box")
    found = [call[0] for call in plan.step("mount /sys/fs/cgroup").calls]
    assert found.count("bind_cgroup") == 3


def test_a_read_only_root_is_made_so_after_the_last_mount(host_name):
    config = configuration(host_name, root={"path": "/x", "readonly": True})
    names = [step.name for step in planned(host_name, config).steps]
    assert names.index("read-only root") == names.index("pivot root") - 1
    assert "read_only_root" not in operations(planned(host_name))


def test_without_a_network_namespace_there_is_no_loopback_to_set_up():
    kinds = [{"type": "mount"}, {"type": "pid"}]
    plan = planned("root", configuration("root", namespaces=kinds, sysctl={}, hostname=""))
    assert "loopback_up" not in operations(plan)


def test_the_hosts_file_names_the_container():
    (hosts,) = [c for c in planned("root").step("container directory").calls if c[0] == "write"]
    assert hosts[1:] == (
        "/root/containers/box/hosts",
        "127.0.0.1\tlocalhost box\n::1\tlocalhost ip6-localhost\n",
    )


def bad_mount(**entry):
    return {"mounts": [{"destination": "/proc", "type": "proc"}, entry]}


BAD = {
    "type": (
        {"namespaces": [{"type": "mount"}, {"type": "net"}]},
        (
            "linux.namespaces[1].type: 'net' is not a namespace type; they are user, mount, pid, "
            "network, uts, ipc, cgroup, time"
        ),
    ),
    "twice": (
        {"namespaces": [{"type": "mount"}, {"type": "pid"}, {"type": "pid"}]},
        "linux.namespaces[2]: pid is listed twice",
    ),
    "map": (
        {"gidMappings": [{"containerID": 0, "hostID": 5, "size": 1}, {"containerID": 1}]},
        "linux.gidMappings[1]: hostID is missing",
    ),
    "no type": (
        bad_mount(destination="/x", type="none"),
        "mounts[1].type: 'none' goes with the options bind and rbind only; name the file system",
    ),
    "no source": (
        bad_mount(destination="/x", options=["bind"]),
        "mounts[1].source: a bind mount needs one",
    ),
    "no destination": (
        bad_mount(type="tmpfs"),
        "mounts[1].destination: None is not an absolute path",
    ),
    "rdt": (
        {"intelRdt": {"closID": "x"}},
        (
            "linux.intelRdt: ctrt does not set up Intel RDT (cache and memory bandwidth); "
            "remove it from the configuration"
        ),
    ),
    "memory policy": (
        {"memoryPolicy": {"mode": "MPOL_BIND", "nodes": "0-x"}},
        "linux.memoryPolicy.nodes: '0-x' is not a list of processors such as 0-3,7",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_configuration_is_one_sentence_with_the_place(case):
    changes, sentence = BAD[case]
    with pytest.raises(CtrtError) as caught:
        planned("root", configuration("root", **changes))
    assert str(caught.value) == sentence


def test_an_unknown_capability_is_left_out_with_a_word():
    config = configuration("root")
    for name in ("permitted", "ambient"):
        config["process"]["capabilities"][name] = ["CAP_KILL", "CAP_FLY"]
    plan = planned("root", config)
    assert only(plan, "capabilities")[5:] == (1 << 5, 0, 1 << 5)
    assert plan.notes == (
        *HOSTS["root"].reasons.values(),
        "the capability CAP_FLY is left out: there is none of that name",
        "can't raise ambient capability CAP_KILL: it is not inheritable and permitted",
    )


# --- unshare ------------------


def unshared(kinds, name="single id", **keywords):
    return planner.unshare(kinds, ("prog", "arg"), ("A=b",), HOSTS[name], **keywords)


EXEC = [("own_descriptors",), ("stdio",), ("session",), ("signals",)]
UMASK = ("umask", 0o022)
PROG = ("exec", ("prog", "arg"), ("A=b",))


def test_with_fork_the_clone_makes_the_namespaces():
    plan = unshared(("user", "pid"), fork=True)
    assert order(plan) == [(OUTSIDE, "clone"), (INSIDE, "exec")]
    assert only(plan, "clone") == ("clone", k.CLONE_NEWUSER | k.CLONE_NEWPID, None)
    assert plan.step("exec").calls == (*EXEC, ("die_with_parent",), UMASK, PROG)


@pytest.mark.parametrize("kind", ["pid", "time"])
def test_without_fork_the_program_stays_in_the_old_pid_and_time_namespaces(kind):
    plan = unshared(("user", kind))
    assert order(plan) == [(OUTSIDE, "clone"), (INSIDE, "unshare"), (INSIDE, "exec")]
    assert only(plan, "clone") == ("clone", 0, None)
    assert only(plan, "unshare") == ("unshare", k.CLONE_NEWUSER | k.NAMESPACE_FLAGS[kind])


def test_other_namespaces_need_no_second_process():
    kinds = ("user", "mount", "network", "uts", "ipc", "cgroup")
    assert unshared(kinds) == unshared(kinds, fork=True)


def test_nothing_to_unshare_is_a_plain_child():
    plan = unshared(())
    assert order(plan) == [(OUTSIDE, "clone"), (INSIDE, "exec")]
    assert only(plan, "clone") == ("clone", 0, None)


def test_maps_are_written_between_unshare_and_exec():
    own = ((0, 1000, 1),), ((0, 1001, 1),)
    keywords = {"uid_map": own[0], "gid_map": own[1], "deny_setgroups": True}
    forked = unshared(("user", "pid"), fork=True, **keywords)
    assert [name for _, name in order(forked)] == [
        *("clone", "id maps", "become the mapped user", "exec")
    ]
    stayed = unshared(("user", "pid"), **keywords)
    assert order(stayed) == [
        (OUTSIDE, "clone"),
        (INSIDE, "unshare"),
        (OUTSIDE, "id maps"),
        (INSIDE, "become the mapped user"),
        (INSIDE, "exec"),
    ]
    assert stayed.step("id maps").calls == ID_MAP_CALLS["single id"]
    assert only(stayed, "become") == ("become", 0, 0, None)


def test_subordinate_ids_bring_the_helpers_and_an_empty_group_list():
    name = "subordinate ids"
    plan = unshared(("user",), name, uid_map=MAPS[name][0], gid_map=MAPS[name][1])
    assert plan.step("id maps").calls == ID_MAP_CALLS[name]
    assert only(plan, "become") == ("become", 0, 0, ())


def test_root_maps_itself_and_denies_setgroups_as_unshare_does():
    one = ((0, 0, 1),)
    plan = unshared(("user",), "root", uid_map=one, gid_map=one, deny_setgroups=True)
    assert [call[0] for call in plan.step("id maps").calls] == [
        *("deny_setgroups", "map_ids", "map_ids")
    ]


@pytest.mark.parametrize(
    ("word", "flag"),
    [("private", k.MS_PRIVATE), ("slave", k.MS_SLAVE), ("shared", k.MS_SHARED)],
)
def test_propagation(word, flag):
    plan = unshared(("user", "mount"), propagation=word)
    assert plan.step("propagation").calls == (("propagation", "/", k.MS_REC | flag),)


def test_propagation_is_left_alone_where_it_is_not_ours():
    assert "propagation" not in operations(unshared(("user", "mount"), propagation="unchanged"))
    assert "propagation" not in operations(unshared(("user", "uts"), propagation="slave"))


def test_proc_is_mounted_after_the_propagation_and_before_the_directory():
    plan = unshared(("user", "mount", "pid"), fork=True, mount_proc="/proc", directory="/tmp")
    assert [step.name for step in plan.steps] == [
        *("clone", "propagation", "mount /proc", "directory", "exec")
    ]
    assert plan.step("directory").calls == (("chdir", "/tmp"),)


def test_clocks_are_set_before_a_process_is_in_the_time_namespace():
    plan = unshared(("user", "time", "pid"), fork=True, clocks=(("boottime", 5, 0),))
    assert only(plan, "clone") == ("clone", k.CLONE_NEWUSER | k.CLONE_NEWPID, None)
    assert plan.step("clocks").calls == (
        ("unshare", k.CLONE_NEWTIME),
        ("time_offsets", (("boottime", 5, 0),)),
    )


def test_a_root_is_entered_before_proc_is_mounted_below_it():
    plan = unshared(("mount",), root="/srv", mount_proc="/proc", directory="/")
    assert [step.name for step in plan.steps] == [
        *("clone", "propagation", "root", "mount /proc", "directory", "exec")
    ]
    assert plan.subject == "/srv"


def test_the_last_word_on_ids_is_had_by_setuid_and_setgid():
    assert only(unshared((), user=5), "become") == ("become", 5, -1, None)
    assert only(unshared((), group=6), "become") == ("become", -1, 6, ())
    kept = only(unshared(("user",), user=5, keeps_capabilities=True), "capabilities")
    assert kept[:4] == ("capabilities", 5, -1, None)
    assert len(set(kept[4:])) == 1, "all sets are the same, the ambient one too"


def test_one_id_that_is_not_the_caller_s_own_needs_the_helper():
    maps = {"uid_map": ((0, 100000, 1),), "gid_map": ((0, 100000, 1),)}
    calls = unshared(("user",), "subordinate ids", **maps).step("id maps").calls
    assert [call[0] for call in calls] == ["map_ids", "map_ids"]
    assert all(call[3] for call in calls)


def test_setgroups_can_be_denied_without_a_map():
    plan = unshared(("user",), deny_setgroups=True)
    assert plan.step("id maps").calls == (("deny_setgroups",),)


def test_a_namespace_is_kept_from_outside_when_it_is_ready():
    plan = unshared(("mount", "uts"), kept=(("mount", "/m"),), root="/srv")
    assert order(plan) == [
        *((OUTSIDE, "clone"), (INSIDE, "propagation"), (OUTSIDE, "keep mount")),
        *((INSIDE, "root"), (INSIDE, "exec")),
    ]


def test_a_program_can_be_let_live_and_be_traced():
    plan = unshared((), die_with_parent=False, trace=True)
    assert plan.step("exec").calls == (*EXEC, ("trace",), UMASK, PROG)


def test_unshare_leaves_nothing_to_undo_and_can_be_sent(host_name):
    plan = unshared(("user", "mount", "pid"), host_name, fork=True, mount_proc="/proc")
    assert plan.undo() == ()
    assert marshal.loads(marshal.dumps(plan.wire(), 2)) == plan.wire()
    assert all(step.why and step.source for step in plan.steps)
    assert isinstance(plan, Plan)


def test_devices_of_a_user_namespace_are_made_outside():
    listed = {"type": "c", "major": 1, "minor": 5}
    devices = [
        {"path": "/dev/a", **listed, "uid": 7, "gid": 8, "fileMode": 0o640},
        {"path": "/dev/b", **listed, "uid": 70000},
    ]
    plan = bundle("root, id-mapped layers", devices=devices)
    assert plan.step("device nodes").where == OUTSIDE
    assert plan.step("device nodes").calls == (
        ("node_outside", "/dev/a", 0o020640, (1, 5), (524295, 524296), "device0"),
        ("node_outside", "/dev/b", 0o020666, (1, 5), (0, 524288), "device1"),
    )
    assert ("attach", "device0", "/dev/a") in plan.step("devices").calls
    ordinary = bundle("single id", devices=devices)
    assert "node_outside" not in operations(ordinary)
    assert ("bind", "/dev/a", False, "mount") in ordinary.step("devices").calls


def test_access_times_are_the_callers_to_say():
    """In the mount namespace of a user namespace they are locked."""
    entry = {"destination": "/x", "source": "/s", "options": ["rbind", "noatime"]}
    plan = bundle("root, id-mapped layers", mounts=[entry])
    calls = plan.step("id-mapped mounts").calls
    assert [call[0] for call in calls] == ["bind", "slave", "attributes"]
    assert "slave" not in operations(bundle("root", mounts=[entry]))


def test_data_of_a_bind_mount_is_told_of():
    entry = {"destination": "/x", "source": "/s", "options": ["bind", "size=1m"]}
    plan = bundle(mounts=[entry])
    assert any("'size' has no effect on a bind mount" in note for note in plan.notes)


@pytest.mark.parametrize(
    ("action", "direct"),
    [("SCMP_ACT_ALLOW", ()), ("SCMP_ACT_ERRNO", ()), ("SCMP_ACT_KILL_PROCESS", (True,))],
)
def test_a_profile_that_ends_who_calls_execveat_is_kept_away_from_the_stand_in(action, direct):
    rule = {"names": ["execveat"], "action": action}
    profile = {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [rule]}
    config = configuration("root")
    config["linux"]["seccomp"] = profile
    plan = planned("root", config)
    assert only(plan, "exec")[3:] == direct
