"""The options that limit a container, as what they put into its configuration."""

from __future__ import annotations

import os

import pytest

from ctrt.engine import resources
from ctrt.engine.options import RUN
from ctrt.errors import CtrtError
from ctrt.runtime.host import Host

ROOT = Host(uid=0, gid=0, privileged=True)
USER = Host(uid=1000, gid=1000, privileged=False)


def applied(*words, host=ROOT, kinds=("user", "network", "ipc", "uts")):
    """The configuration that run's words make of an empty one."""
    config = {
        "process": {},
        "mounts": [],
        "linux": {"namespaces": [{"type": kind} for kind in kinds], "sysctl": {"a": "b"}},
    }
    resources.apply(config, RUN.parse(words), host)
    return config


def limits(*words):
    return applied(*words)["linux"]["resources"]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("100", 100),
        ("100b", 100),
        ("512k", 512 << 10),
        ("64m", 64 << 20),
        ("64M", 64 << 20),
        ("64mb", 64 << 20),
        ("64MiB", 64 << 20),
        ("1.5g", 3 << 29),
        ("2t", 2 << 40),
        ("0", 0),
    ],
)
def test_sizes_have_podman_s_units(text, value):
    assert resources.size(text, "--memory") == value


@pytest.mark.parametrize("text", ["", "m", "-1", "-5m", "x", "5x", "nan", "inf", "1e400"])
def test_what_is_no_size_is_one_sentence(text):
    with pytest.raises(CtrtError, match=r"^--memory .* is not a size such as 512k, 64m or 1\.5g$"):
        resources.size(text, "--memory")


def test_each_limit_has_its_place():
    assert limits("-m", "64m", "--memory-swap", "-1", "--memory-reservation", "32m")["memory"] == {
        "limit": 64 << 20,
        "swap": -1,
        "reservation": 32 << 20,
    }
    assert limits("--cpus=0.5", "-c", "300", "--cpuset-cpus=0-1")["cpu"] == {
        "quota": 50000,
        "period": 100000,
        "shares": 300,
        "cpus": "0-1",
    }
    assert limits("--pids-limit", "20")["pids"] == {"limit": 20}
    assert limits("--pids-limit", "0")["pids"] == limits("--pids-limit=-1")["pids"] == {"limit": -1}
    assert limits("--blkio-weight=300")["blockIO"] == {"weight": 300}
    assert applied("--oom-score-adj=-7")["process"]["oomScoreAdj"] == -7
    assert applied("--sysctl", "net.ipv4.ip_forward=1")["linux"]["sysctl"] == {
        "a": "b",
        "net.ipv4.ip_forward": "1",
    }


def test_ulimits_are_soft_and_hard():
    words = ("--ulimit", "nofile=64:128", "--ulimit", "NPROC=9", "--ulimit", "core=0:-1")
    assert applied(*words)["process"]["rlimits"] == [
        {"type": "RLIMIT_NOFILE", "soft": 64, "hard": 128},
        {"type": "RLIMIT_NPROC", "soft": 9, "hard": 9},
        {"type": "RLIMIT_CORE", "soft": 0, "hard": (1 << 64) - 1},
    ]


def test_a_device_is_bound_and_allowed():
    config = applied("--device", "/dev/zero:/dev/nothing:r")
    assert config["mounts"] == [
        {
            "destination": "/dev/nothing",
            "type": "bind",
            "source": "/dev/zero",
            "options": ["bind", "nosuid", "noexec"],
        }
    ]
    zero = os.stat("/dev/zero").st_rdev
    allowed = {"allow": True, "type": "c", "major": os.major(zero), "minor": os.minor(zero)}
    assert config["linux"]["resources"]["devices"] == [
        {"allow": False, "access": "rwm"},
        {**allowed, "access": "r"},
    ]
    # An ordinary user's container opens what its user may, and can make no device.
    assert "resources" not in applied("--device", "/dev/zero", host=USER)["linux"]


def test_lines_of_the_hosts_file():
    assert resources.host_line("db:10.0.0.7") == "10.0.0.7\tdb\n"
    assert resources.host_line("a;b:::1") == "::1\ta b\n"
    assert resources.host_line("six:[fe80::1]") == "fe80::1\tsix\n"


MISTAKES = {
    "--memory=1k": "--memory '1k' is less than 512k",
    "--memory-swap=1g": "give --memory too",
    "-m 2m --memory-swap 1m": "--memory-swap '1m' is less than --memory '2m'",
    "--cpus=none": "--cpus 'none' is not a number of processors",
    "--cpus=0": "--cpus '0' is not",
    "--cpus=inf": "--cpus 'inf' is not",
    "--cpu-shares=1": "--cpu-shares '1' is not a number from 2 to 262144",
    "--cpuset-cpus=a": "--cpuset-cpus: 'a' is not a list of processors",
    "--pids-limit=many": "--pids-limit 'many' is not a number",
    "--blkio-weight=9": "--blkio-weight '9' is not a number from 10 to 1000",
    "--oom-score-adj=1001": "--oom-score-adj '1001' is not a number from -1000 to 1000",
    "--ulimit nofiles=1": "there is no limit 'nofiles'; did you mean nofile?",
    "--ulimit nofile": "is not NAME=SOFT[:HARD]",
    "--ulimit nofile=5:4": "the soft limit is above the hard one",
    "--sysctl net.x": "is not NAME=VALUE",
    "--sysctl kernel.panic=1": "kernel.panic is a parameter of the whole kernel",
    "--device /nowhere": "--device: /nowhere: no such file",
    "--device /etc/passwd": "/etc/passwd is not a device",
    "--device /dev/zero:rx": "is not HOST[:DIR][:rwm]",
    "--device-read-bps /dev/zero:1m": "/dev/zero is not a block device",
    "--device-write-bps 1m": "is not PATH:RATE",
}


@pytest.mark.parametrize("words", MISTAKES)
def test_a_mistake_is_one_sentence(words):
    with pytest.raises(CtrtError) as caught:
        applied(*words.split())
    assert MISTAKES[words] in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_parameter_of_the_host_s_namespace_is_refused():
    with pytest.raises(CtrtError, match=r"user\.max_pid_namespaces belongs to the user namespace"):
        applied("--sysctl", "user.max_pid_namespaces=5", kinds=("network",))


@pytest.mark.parametrize("text", ["db", "db:", ":1.2.3.4", "db:1.2.3", "a b:1.2.3.4", "a\nb:::1"])
def test_what_is_no_host_line(text):
    with pytest.raises(CtrtError, match="is not NAME:IP"):
        resources.host_line(text)
