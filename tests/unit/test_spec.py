"""The runtime configuration: what is valid is taken, what is not is one sentence with the place.

The peer is the specification's own JSON schema, where Debian's package of it is installed.
"""

from __future__ import annotations

import copy
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ctrt.errors import CtrtError
from ctrt.linux import cgroups
from ctrt.oci import checking, process, spec
from ctrt.runtime import cgroup, hooks, planner
from ctrt.runtime.host import Host
from ctrt.runtime.plan import describe

DATA = Path(__file__).parent / "data" / "specs"
SCHEMA = Path("/usr/share/gocode/src/github.com/opencontainers/runtime-spec/schema")
REAL = {path.stem: path.read_bytes() for path in sorted(DATA.glob("*.json"))}
"""Configurations that podman, runc and crun wrote."""

FULL = {
    "ociVersion": "1.2.0",
    "root": {"path": "rootfs", "readonly": True},
    "hostname": "box",
    "domainname": "example",
    "process": {
        "terminal": True,
        "consoleSize": {"height": 24, "width": 80},
        "user": {"uid": 1, "gid": 2, "umask": 63, "additionalGids": [5, 6]},
        "args": ["sh", "-c", "true"],
        "env": ["PATH=/bin", "TERM=xterm"],
        "cwd": "/",
        "capabilities": {"bounding": ["CAP_KILL"], "permitted": ["CAP_KILL"]},
        "rlimits": [{"type": "RLIMIT_NOFILE", "soft": 1024, "hard": 2048}],
        "noNewPrivileges": True,
        "apparmorProfile": "box",
        "selinuxLabel": "system_u:system_r:box_t:s0",
        "oomScoreAdj": 100,
        "scheduler": {"policy": "SCHED_FIFO", "priority": 5, "flags": ["SCHED_FLAG_RECLAIM"]},
        "ioPriority": {"class": "IOPRIO_CLASS_BE", "priority": 4},
        "execCPUAffinity": {"initial": "0-1", "final": "0"},
    },
    "mounts": [
        {"destination": "/proc", "type": "proc", "source": "proc"},
        {
            "destination": "/data",
            "type": "none",
            "source": "/srv",
            "options": ["rbind", "ro"],
            "uidMappings": [{"containerID": 0, "hostID": 1000, "size": 1}],
            "gidMappings": [{"containerID": 0, "hostID": 1000, "size": 1}],
        },
    ],
    "hooks": {
        "prestart": [{"path": "/bin/hook", "args": ["hook"], "env": ["A=b"], "timeout": 5}],
        "poststop": [{"path": "/bin/hook"}],
    },
    "annotations": {"org.example.key": "value"},
    "linux": {
        "namespaces": [
            {"type": "pid"},
            {"type": "network", "path": "/run/netns/box"},
            *({"type": kind} for kind in ("mount", "ipc", "uts", "user", "cgroup", "time")),
        ],
        "uidMappings": [{"containerID": 0, "hostID": 1000, "size": 10}],
        "gidMappings": [{"containerID": 0, "hostID": 1000, "size": 10}],
        "timeOffsets": {"monotonic": {"secs": 60, "nanosecs": 5}},
        "devices": [
            {
                "type": "c",
                "path": "/dev/fuse",
                "major": 10,
                "minor": 229,
                "fileMode": 438,
                "uid": 0,
                "gid": 0,
            },
            {"type": "p", "path": "/dev/pipe"},
        ],
        "netDevices": {"eth0": {"name": "container0"}},
        "cgroupsPath": "/box/one",
        "resources": {
            "unified": {"memory.high": "1000000"},
            "devices": [
                {"allow": False, "access": "rwm"},
                {"allow": True, "type": "c", "major": 10, "minor": 229, "access": "rw"},
            ],
            "pids": {"limit": 100},
            "memory": {"limit": 1000000, "swap": 2000000, "reservation": -1, "swappiness": 0},
            "cpu": {"shares": 1024, "quota": 5000, "burst": 50, "period": 10000, "cpus": "0-1,3"},
            "blockIO": {
                "weight": 10,
                "weightDevice": [{"major": 8, "minor": 0, "weight": 500}],
                "throttleReadBpsDevice": [{"major": 8, "minor": 0, "rate": 600}],
            },
            "hugepageLimits": [{"pageSize": "2MB", "limit": 4194304}],
            "network": {"classID": 1048577, "priorities": [{"name": "eth0", "priority": 5}]},
            "rdma": {"mlx5_1": {"hcaHandles": 3, "hcaObjects": 10000}},
        },
        "rootfsPropagation": "slave",
        "seccomp": {
            "defaultAction": "SCMP_ACT_ERRNO",
            "defaultErrnoRet": 38,
            "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86"],
            "flags": ["SECCOMP_FILTER_FLAG_LOG"],
            "listenerPath": "/run/agent.sock",
            "listenerMetadata": "words",
            "syscalls": [
                {"names": ["read", "write"], "action": "SCMP_ACT_ALLOW"},
                {
                    "names": ["mkdir"],
                    "action": "SCMP_ACT_NOTIFY",
                    "args": [{"index": 1, "value": 5, "valueTwo": 1, "op": "SCMP_CMP_MASKED_EQ"}],
                },
            ],
        },
        "sysctl": {"net.ipv4.ip_forward": "1", "kernel.shmmax": "100", "net/core/somaxconn": "5"},
        "maskedPaths": ["/proc/kcore"],
        "readonlyPaths": ["/proc/sys"],
        "mountLabel": "system_u:object_r:box_t:s0",
        "intelRdt": {"closID": "group", "l3CacheSchema": "L3:0=7", "memBwSchema": "MB:0=20"},
        "memoryPolicy": {"mode": "MPOL_BIND", "nodes": "0", "flags": ["MPOL_F_STATIC_NODES"]},
        "personality": {"domain": "LINUX32"},
    },
}
"""Every property that the specification names."""


def load(config):
    return spec.load(json.dumps(config).encode())


def changed(path, value):
    """FULL with another value at a path such as `linux.namespaces[2].type`; `...` removes it."""
    config = copy.deepcopy(FULL)
    keys = [int(k) if k.isdecimal() else k for k in re.findall(r"[^.\[\]]+", path)]
    at = config
    for key in keys[:-1]:
        at = at[key]
    if value is ...:
        del at[keys[-1]]
    else:
        at[keys[-1]] = value
    return config


@pytest.mark.parametrize("name", REAL)
def test_what_podman_runc_and_crun_write_is_taken(name):
    assert spec.load(REAL[name])["ociVersion"]


def test_every_property_of_the_specification_is_taken():
    assert load(FULL) == FULL


def test_unknown_properties_are_ignored():
    config = copy.deepcopy(FULL)
    config["linux"]["time"] = {"of": "2040"}
    config["process"]["colour"] = 5
    config["windows"] = []
    assert load(config) == config


def test_an_agent_of_no_name_is_none():
    config = changed("linux.seccomp.listenerPath", "")
    del config["linux"]["seccomp"]["listenerMetadata"]
    for rule in config["linux"]["seccomp"]["syscalls"]:
        rule["action"] = "SCMP_ACT_ALLOW"
        rule.pop("errnoRet", None)
    assert load(config) == config


def test_null_is_absent():
    config = changed("linux.seccomp.syscalls[0].args", None)
    config["process"]["rlimits"] = None
    loaded = load(config)
    assert "rlimits" not in loaded["process"]
    assert "args" not in loaded["linux"]["seccomp"]["syscalls"][0]


def test_a_relative_destination_is_made_absolute_with_a_warning():
    config = changed("mounts[0].destination", "proc")
    notes = []
    loaded = spec.load(json.dumps(config).encode(), notes=notes)
    assert loaded["mounts"][0]["destination"] == "/proc"
    (note,) = notes
    assert note.startswith('mounts[0].destination "proc" is relative; ')
    spec.load(json.dumps(FULL).encode(), notes=notes)
    assert len(notes) == 1


def test_names_in_another_case_are_those_that_are_meant_and_told():
    """As every runtime in Go reads them; runc's own tests write "pagesize"."""
    config = copy.deepcopy(FULL)
    limits = config["linux"]["resources"]["hugepageLimits"]
    limits[:] = [{"pagesize": "2MB", "limit": 4194304}, {"pagesize": "1GB", "LIMIT": 1}]
    config["Root"] = config.pop("root")
    notes = []
    loaded = spec.load(json.dumps(config).encode(), notes=notes)
    assert loaded["root"] == FULL["root"]
    found = loaded["linux"]["resources"]["hugepageLimits"]
    assert found == [{"pageSize": "2MB", "limit": 4194304}, {"pageSize": "1GB", "limit": 1}]
    assert sorted(notes) == [
        'config.json: "LIMIT" is taken for "limit"',
        'config.json: "Root" is taken for "root"',
        'config.json: "pagesize" is taken for "pageSize"',
    ]
    limits[0]["pagesize"] = "2M"
    with pytest.raises(CtrtError, match=r'hugepageLimits\[0\]\.pagesize is "2M", not a size'):
        load(config)


def test_letters_of_an_access_that_mean_nothing_are_not_looked_at():
    config = changed("linux.resources.devices[1].access", "rwa")
    assert load(config)["linux"]["resources"]["devices"][1]["access"] == "rwa"


POLICIES = [
    ({"nodes": "0"}, "mode is missing, which is an invalid memory policy mode"),
    ({"mode": "INTERLEAVE"}, 'mode is "INTERLEAVE", an invalid memory policy mode, not one of MPO'),
    (
        {"mode": "MPOL_LOCAL", "flags": ["MPOL_F_STATIC_NODES", "bad"]},
        'flags[1] is "bad", an invalid memory policy flag, not one of MPOL_F_NUMA_BALANCING',
    ),
    (
        {"mode": "MPOL_BIND", "nodes": "0, 2-9876543210"},
        "nodes has the invalid memory policy node 2-9876543210, which no machine has",
    ),
    (
        {"mode": "MPOL_DEFAULT", "nodes": "0"},
        "nodes does not go with MPOL_DEFAULT: set_mempolicy(2) would say invalid argument",
    ),
]


@pytest.mark.parametrize(("policy", "words"), POLICIES)
def test_memory_policies_are_refused_in_words_that_callers_of_runc_look_for(policy, words):
    with pytest.raises(CtrtError) as caught:
        load(changed("linux.memoryPolicy", policy))
    assert f"linux.memoryPolicy.{words}" in str(caught.value)


def test_an_empty_memory_policy_is_none():
    assert load(changed("linux.memoryPolicy", {}))["linux"]["memoryPolicy"] == {}


NAMESPACES = "pid, network, mount, ipc, uts, user, cgroup, time"
BAD = [
    ("linux.namespaces[2].type", "nte", f'is "nte", not one of {NAMESPACES}; did you mean "net'),
    ("linux.namespaces[2].type", "mnt", f'is "mnt", not one of {NAMESPACES}'),
    ("linux.namespaces[3].type", "pid", 'is "pid" a second time'),
    ("linux.namespaces[1].path", "netns", 'is "netns", not an absolute path'),
    ("linux.namespaces", {}, "is an object, not a list"),
    ("mounts[1].options[0]", 5, "is 5, not a string"),
    ("mounts[1].options", "ro", 'is "ro", not a list'),
    ("mounts[0].destination", ..., "is missing; it must be a string"),
    ("mounts[1].source", ..., "is missing; it must be the path that is bind-mounted"),
    ("mounts[1].gidMappings", ..., ("mounts[1].uidMappings", "goes with gidMappings, which is ")),
    ("process.cwd", "tmp", 'is "tmp", not an absolute path'),
    ("process.cwd", ..., "is missing; it must be an absolute path"),
    ("process.args", [], "is empty"),
    ("process.args[0]", "", "is empty: it names the program"),
    ("process.args[1]", "a\0b", 'is "a\\u0000b", which has a null byte'),
    ("process.env[1]", "TERM", 'is "TERM", not of the form NAME=VALUE'),
    ("process.env[1]", "=x", 'is "=x", not of the form NAME=VALUE'),
    ("process.user.uid", -1, "is -1, not a number from 0 to 4294967295"),
    ("process.user.umask", 512, "is 512, not a number from 0 to 511 (octal 777)"),
    ("process.terminal", "yes", 'is "yes", not true or false'),
    ("process.terminal", 1, "is 1, not true or false"),
    ("process.rlimits[0].type", "RLIMIT_NOFILES", 'did you mean "RLIMIT_NOFILE"?'),
    ("process.rlimits[0].soft", 4096, "is 4096, above the hard limit 2048"),
    ("process.rlimits", [FULL["process"]["rlimits"][0]] * 2, "process.rlimits[1].type"),
    ("process.oomScoreAdj", 1001, "is 1001, not a number from -1000 to 1000"),
    ("process.oomScoreAdj", True, "is true, not a number from -1000 to 1000"),
    ("process.oomScoreAdj", 1.0, "is 1.0, not a number from -1000 to 1000"),
    ("process.scheduler.policy", "SCHED_RT", "not one of SCHED_OTHER, "),
    ("process.scheduler.priority", 100, "is 100, not a number from 1 to 99"),
    ("process.scheduler.runtime", 5, "goes with SCHED_DEADLINE, not with SCHED_FIFO"),
    ("process.ioPriority.priority", 8, "is 8, not a number from 0 to 7"),
    ("process.execCPUAffinity.initial", "3-1", 'is "3-1", not a list of numbers and ranges'),
    ("process.capabilities.bounding", "CAP_KILL", 'is "CAP_KILL", not a list'),
    ("hooks.prestart[0].path", "hook", 'is "hook", not an absolute path'),
    ("hooks.prestart[0].timeout", 0, "is 0, not a number of seconds greater than 0"),
    ("ociVersion", "2.0.0", 'is "2.0.0", but only versions 1.x are known here'),
    ("ociVersion", "1.2", 'is "1.2", not a version such as "1.2.0"'),
    ("ociVersion", ..., "is missing; it must be a string"),
    ("root", ..., "is missing; it must be an object"),
    ("root.path", "", "is empty"),
    ("hostname", "x" * 65, "is longer than the 64 bytes that the kernel takes"),
    ("annotations", {"": "x"}, "is a name of no letters"),
    ("annotations", {"x": 5}, "annotations.x is 5, not a string"),
    ("linux.uidMappings", [], "is missing; a new user namespace needs at least one mapping"),
    ("linux.uidMappings[0].size", 0, "is 0, but a range has at least one id"),
    (
        "linux.uidMappings",
        [{"containerID": c, "hostID": h, "size": 10} for c, h in ((0, 100), (5, 200))],
        ("linux.uidMappings[1]", "overlaps uidMappings[0] in the container"),
    ),
    (
        "linux.gidMappings",
        [{"containerID": c, "hostID": h, "size": 10} for c, h in ((0, 105), (50, 100))],
        ("linux.gidMappings[0]", "overlaps gidMappings[1] on the host"),
    ),
    ("linux.timeOffsets", {"realtime": {"secs": 1}}, "not one of monotonic, boottime"),
    ("linux.timeOffsets.monotonic.nanosecs", 10**9, "is 1000000000, not a number from 0 to 999"),
    ("linux.devices[0].type", "d", 'is "d", not one of c, b, u, p'),
    ("linux.devices[0].major", ..., 'is missing; a device of type "c" needs it'),
    ("linux.devices[0].path", "dev/fuse", 'is "dev/fuse", not an absolute path'),
    ("linux.netDevices.eth0.name", "a/b", "not the name of a network interface"),
    ("linux.resources.pids.limit", "100", 'is "100", not a number of 64 bits'),
    ("linux.resources.pids.limit", 2**63, "not a number of 64 bits"),
    ("linux.resources.devices[1].access", "x", 'is "x", not made of r (read), w (write)'),
    ("linux.resources.memory.swap", 5, "is 5, below memory.limit 1000000"),
    ("linux.resources.memory.swappiness", 101, "is 101, not a number from 0 to 100"),
    ("linux.resources.cpu.burst", 6000, "is 6000, above the quota 5000"),
    ("linux.resources.cpu.cpus", "a", 'is "a", not a list of numbers and ranges'),
    ("linux.resources.cpu.idle", 2, "is 2, not 0 or 1"),
    ("linux.resources.hugepageLimits[0].pageSize", "2M", 'not a size such as "2MB" or "1GB"'),
    ("linux.resources.unified", {"../x": "1"}, "which is not the name of a cgroup file"),
    ("linux.resources.blockIO.weightDevice[0].weight", ..., "needs weight or leafWeight"),
    ("linux.rootfsPropagation", "slaves", 'did you mean "slave"?'),
    ("linux.sysctl", {"kernel.panic": "1"}, "is a parameter of the whole kernel"),
    ("linux.sysctl", {"net.x": 1}, 'linux.sysctl["net.x"] is 1, not a string'),
    ("linux.sysctl", {"net..x": "1"}, "is not the name of a kernel parameter"),
    ("linux.sysctl", {"net/../kernel/panic": "1"}, "is not the name of a kernel parameter"),
    ("linux.maskedPaths[0]", "proc", 'is "proc", not an absolute path'),
    ("linux.personality.domain", "BSD", 'is "BSD", not one of LINUX, LINUX32'),
    ("linux.personality.flags", ["X"], "has flags, of which none is defined"),
    ("linux.intelRdt.memBwSchema", "L3:0", 'not one line that starts with "MB:"'),
    ("linux.intelRdt.closID", "a/b", "not the name of a directory"),
    ("linux.memoryPolicy.mode", "MPOL_BEND", 'did you mean "MPOL_BIND"?'),
    ("linux.seccomp.defaultAction", "SCMP_ACT_ERROR", 'did you mean "SCMP_ACT_ERRNO"?'),
    ("linux.seccomp.defaultAction", ..., "is missing; it must be one of SCMP_ACT_KILL, "),
    ("linux.seccomp.defaultAction", "SCMP_ACT_KILL", "defaultErrnoRet does not go with SCMP_ACT_K"),
    ("linux.seccomp.architectures[1]", "SCMP_ARCH_PDP11", "not one of SCMP_ARCH_X86, "),
    ("linux.seccomp.flags[0]", "LOG", 'did you mean "SECCOMP_FILTER_FLAG_LOG"?'),
    ("linux.seccomp.listenerPath", ..., "is set, but listenerPath is not"),
    ("linux.seccomp.listenerPath", "", "is set, but listenerPath is not"),
    ("linux.seccomp.listenerPath", "run/agent", "not an absolute path"),
    ("linux.personality", {"flags": []}, ("linux.personality.domain", "is missing")),
    ("hooks.prestart[0].args", ["", "x"], ("hooks.prestart[0].args[0]", "names the program")),
    ("linux.resources.cpu.cpus", "1-" + "9" * 5000, "not a list of numbers and ranges"),
    ("process.execCPUAffinity.final", "9" * 5000, "not a list of numbers and ranges"),
    ("linux.seccomp.syscalls[0].names", [], "is empty"),
    ("linux.seccomp.syscalls[0].names[1]", 7, "is 7, not a string"),
    ("linux.seccomp.syscalls[0].errnoRet", 5, "does not go with SCMP_ACT_ALLOW"),
    ("linux.seccomp.syscalls[1].args[0].op", "EQ", 'is "EQ", not one of SCMP_CMP_NE, '),
    ("linux.seccomp.syscalls[1].args[0].index", 6, "is 6, not a number from 0 to 5"),
    ("linux.seccomp.syscalls[1].names[0]", "write", "the runtime needs it to hand over"),
]


@pytest.mark.parametrize(("path", "value", "words"), BAD, ids=[str(row[0]) for row in BAD])
def test_a_malformed_document_is_one_sentence_with_the_place(path, value, words):
    place, words = words if isinstance(words, tuple) else (path.partition("[")[0], words)
    with pytest.raises(CtrtError) as caught:
        load(changed(path, value))
    text = str(caught.value)
    assert text.startswith(f"config.json: {place.rpartition('.')[0]}")
    assert words in text
    assert "\n" not in text


LEFT_OUT = [
    ("uts", "hostname is set, but linux.namespaces has no uts namespace"),
    ("time", "linux.timeOffsets is set, but namespaces has no new time namespace"),
    ("user", "linux.uidMappings is set, but namespaces has no user namespace"),
    ("network", "unable to move network devices without a NET namespace"),
    ("ipc", '["kernel.shmmax"] belongs to the ipc namespace, which is the host\'s here'),
    ("mount", "linux.maskedPaths is set, but namespaces has no mount namespace"),
]


@pytest.mark.parametrize(("kind", "words"), LEFT_OUT)
def test_what_belongs_to_a_namespace_needs_it(kind, words):
    config = copy.deepcopy(FULL)
    linux = config["linux"]
    linux["namespaces"] = [n for n in linux["namespaces"] if n["type"] != kind]
    with pytest.raises(CtrtError) as caught:
        load(config)
    assert words in str(caught.value)


TEXTS = {
    "nothing": (b"", "is not JSON: "),
    "half": (b'{"ociVersion": ', "is not JSON: "),
    "not an object": (b"[]", "is a list, not an object"),
    "null": (b"null", "is null, not an object"),
    "latin": (b'{"ociVersion": "\xe9"}', "is not UTF-8 (byte 16)"),
    "surrogate": (b'{"ociVersion": "\\ud800"}', "has half of a surrogate pair in a string"),
    "deep": (b"[" * 100_000, "JSON is nested too deeply"),
    "NaN": (b'{"ociVersion": NaN}', "is not JSON: NaN is not JSON"),
    "digits": (
        b'{"ociVersion": ' + b"9" * 5000 + b"}",
        "is not JSON: a number in it has too many digits",
    ),
    "infinite": (b'{"x": -1e400}', "is not JSON: the number -1e400 is too large"),
}


@pytest.mark.parametrize("name", TEXTS)
def test_what_is_no_json_is_one_sentence(name):
    data, words = TEXTS[name]
    with pytest.raises(CtrtError) as caught:
        spec.load(data)
    assert str(caught.value).startswith("config.json")
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_other_documents():
    assert process.check({"args": ["true"], "cwd": "/"}) == {"args": ["true"], "cwd": "/"}
    with pytest.raises(CtrtError, match=r"^process\.json: args is missing; it must be a list"):
        process.check({"cwd": "/"})
    assert spec.resources({"pids": {"limit": 5}}) == {"pids": {"limit": 5}}
    with pytest.raises(CtrtError, match=r"^-: memory.limit is \"5m\", not a number of 64 bits$"):
        spec.resources({"memory": {"limit": "5m"}}, name="-")
    with pytest.raises(CtrtError, match=r"^resources\.json is a list, not an object$"):
        spec.resources([])
    with pytest.raises(CtrtError, match=r"^seccomp\.json: defaultAction is missing"):
        spec.seccomp({})


# --- mutated documents, with the schema as peer ----------------------------------------------

JUNK = st.one_of(
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(max_size=8),
    st.sampled_from(["", "/", "pid", "SCMP_ACT_ALLOW", "rwm", "0-1", 0, -1, [], {}, [[]], [{}]]),
)


def _places(value, path=()):
    yield path
    items = ()
    if isinstance(value, dict):
        items = value.items()
    elif isinstance(value, list):
        items = enumerate(value[:8])
    for key, entry in items:
        yield from _places(entry, (*path, key))


def _short(config):
    """A configuration whose lists of system calls and devices are short."""
    for rule in config["linux"].get("seccomp", {}).get("syscalls", ()):
        del rule["names"][3:]
    del config["linux"].get("devices", [])[3:]
    return config


BASES = [FULL, *(_short(json.loads(text)) for text in REAL.values())]


@pytest.fixture(scope="module")
def schema_refuses():
    """Where the specification's own schema refuses a document."""
    if not SCHEMA.is_dir():
        pytest.skip("golang-github-opencontainers-specs-dev is not installed")
    from jsonschema import Draft4Validator
    from referencing import Registry, Resource
    from referencing.jsonschema import DRAFT4

    resources = {
        path.name: Resource.from_contents(
            json.loads(path.read_text()), default_specification=DRAFT4
        )
        for path in SCHEMA.glob("*.json")
    }
    root = resources["config-schema.json"].contents
    validator = Draft4Validator(root, registry=Registry().with_resources(resources.items()))

    def places(document):
        for error in validator.iter_errors(document):
            yield f"{'.'.join(map(str, error.absolute_path))}: {error.message}"

    return places


# Where runtimes take more than Debian's schema (1.0.2 and a few changes): properties of 1.1 and
# later, null for absent, and values that every runtime takes.
NEWER = re.compile(
    r"^linux\.namespaces\.\d+: .*'time'|\.fileMode: |: None is not |is not of type 'object'$|"
    r"^linux\.rootfsPropagation: '|^linux\.seccomp\.architectures|memBwSchema: ''|"
    r": '' does not match|pids: 'limit' is a required|memoryPolicy: 'mode' is a required"
)


@settings(
    max_examples=600,
    deadline=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
)
@given(data=st.data())
def test_mutated_documents_never_crash_and_agree_with_the_schema(schema_refuses, data):
    base = data.draw(st.sampled_from(BASES))
    config = copy.deepcopy(base)
    for _ in range(data.draw(st.integers(1, 3))):
        path = data.draw(st.sampled_from([p for p in _places(config) if p]))
        at = config
        for key in path[:-1]:
            at = at[key]
        if data.draw(st.booleans()):
            at[path[-1]] = data.draw(JUNK)
        else:
            del at[path[-1]]
    text = json.dumps(config).encode()
    refused = None
    try:
        spec.load(text)
    except checking.SpecError as error:
        refused = error
    if refused is not None:
        words = str(refused)
        assert words.startswith("config.json: " + (f"{refused.path} " if refused.path else ""))
        assert "\n" not in words
        return
    assert [place for place in schema_refuses(config) if not NEWER.search(place)] == []


EDGES = [
    *(None, True, 0, 1, -1, 2**31, 2**32, 2**63 - 1, -(2**63), 2**64 - 1, 2**64, 1.5, -0.0),
    *("", " ", "/", ".", "..", "../../..", "a\nb", "%s%n", "x" * 5000, "\N{SNOWMAN}"),
    *([], {}, [[]], [{}], [""], [None], {"": None}, {"a": {"b": [1]}}),
]


def test_what_the_check_takes_is_planned_or_refused(tmp_path):
    """One property after the other is changed to what may be at the edge of what is allowed."""
    host = Host(
        uid=0, gid=0, privileged=True, modules=("apparmor", "selinux"), cgroup_v1=(),
        uid_ranges=((524288, 65536),), gid_ranges=((524288, 65536),),
    )  # fmt: skip
    controllers = (
        "blkio cpu cpuset devices freezer hugetlb memory net_cls net_prio pids rdma".split()
    )
    layout = cgroups.Layout(None, dict.fromkeys(controllers, str(tmp_path)), {})
    base = copy.deepcopy(FULL)
    for name in ("intelRdt", "memoryPolicy"):
        del base["linux"][name]
    del base["linux"]["resources"]["unified"]
    taken, refusals = 0, set()
    for path in _places(base):
        for edge in EDGES if path else ():
            config = copy.deepcopy(base)
            at = config
            for key in path[:-1]:
                at = at[key]
            at[path[-1]] = copy.deepcopy(edge)
            try:
                loaded = load(config)
                terminal = bool(loaded.get("process", {}).get("terminal"))
                group = cgroup.plan(loaded, host, layout=layout, name="box")
                plan = planner.container(
                    loaded, host, planner.Directory("/b/rootfs"), subject="box", wait=True,
                    bundle="/b", cgroup=group, terminal=terminal,
                )  # fmt: skip
                for step in plan.steps:
                    assert all(describe(call) for call in step.calls)
                for kind in ("prestart", "poststop"):
                    assert all(hook[1][0] for hook in hooks.of(loaded, kind))
                taken += 1
            except CtrtError as error:
                refusals.add(str(error))
    assert taken > 500
    assert len(refusals) > 800


@given(data=st.binary(max_size=64))
@settings(max_examples=200, deadline=None, derandomize=True)
def test_bytes_never_crash(data):
    for check in (spec.load, lambda d: process.check(checking.parse(d, name="process.json"))):
        with pytest.raises(CtrtError):
            check(data)


# --- the price ---------------------------------------------------------------------------------


def test_the_import_loads_nothing_but_the_scanner():
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); import os; before = set(sys.modules);"
        "import ctrt.oci.spec; print(*sorted(set(sys.modules) - before))"
    )
    root = str(Path(spec.__file__).parents[2])
    ran = subprocess.run(
        [sys.executable, "-I", "-S", "-c", code, root], capture_output=True, text=True, check=True
    )
    assert set(ran.stdout.split()) <= {
        "__future__",
        "_json",
        "ctrt",
        "ctrt.errors",
        "ctrt.oci",
        "ctrt.oci.checking",
        "ctrt.oci.fastjson",
        "ctrt.oci.process",
        "ctrt.oci.rules",
        "ctrt.oci.spec",
    }
