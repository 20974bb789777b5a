"""From an image and the options of run to an OCI configuration, without starting anything."""

from __future__ import annotations

import os

import pytest

from ctrt.engine import config
from ctrt.engine.options import RUN
from ctrt.errors import CtrtError
from ctrt.linux import capabilities
from ctrt.runtime import planner, seccomp_default
from ctrt.runtime.host import Host

ROOT = Host(uid=0, gid=0, privileged=True, uid_ranges=((5000, 70000),), gid_ranges=((5000, 99),))
MAPPED = Host(
    uid=0,
    gid=0,
    privileged=True,
    uid_ranges=((5000, 70000),),
    gid_ranges=((6000, 99),),
    cgroup="/cg",
    idmapped_overlay=True,
)
SINGLE = Host(uid=1000, gid=1001, privileged=False, reasons={"ids": "you have a single id"})


def container(words="", image=None, command=(), lowers=(), host=ROOT, **keywords):
    """The configuration for the options in `words` (a string or a list)."""
    parts = words if isinstance(words, list) else words.split()
    return config.container(
        {"config": image or {"Cmd": ["sh"]}},
        list(lowers),
        RUN.parse(parts),
        list(command),
        host,
        name="box",
        hostname="box",
        directory="/root/containers/box",
        **keywords,
    )


def sentence(*arguments, **keywords):
    with pytest.raises(CtrtError) as caught:
        container(*arguments, **keywords)
    assert caught.value.status == 125
    return str(caught.value)


# --- command ------------------

# Docker's table, "Understand how CMD and ENTRYPOINT interact", with run's own words added:
# (Entrypoint, Cmd, --entrypoint, words) -> arguments, None where there is nothing to run.
COMMANDS = [
    (None, ["c"], None, [], ["c"]),
    (None, ["c", "d"], None, [], ["c", "d"]),
    (None, ["c"], None, ["w"], ["w"]),
    (["e"], None, None, [], ["e"]),
    (["e"], ["c"], None, [], ["e", "c"]),
    (["e", "f"], ["c"], None, ["w", "x"], ["e", "f", "w", "x"]),
    (["e"], ["c"], "p", [], ["p"]),
    (["e"], ["c"], "p", ["w"], ["p", "w"]),
    (["e"], ["c"], "", ["w"], ["w"]),
    (["e"], ["c"], "", [], None),
    (None, ["c"], "p", [], ["p"]),
    (None, None, None, ["w"], ["w"]),
    (None, None, "p", ["w"], ["p", "w"]),
    (None, None, None, [], None),
    ([], [], None, [], None),
]


@pytest.mark.parametrize(("entry", "cmd", "option", "words", "arguments"), COMMANDS)
def test_entry_point_and_command_are_docker_s(entry, cmd, option, words, arguments):
    image = {"Entrypoint": entry, "Cmd": cmd}
    options = [] if option is None else [f"--entrypoint={option}"]
    if arguments is None:
        assert sentence(options, image, words) == (
            "the image names no command to run; give one after the image"
        )
    else:
        assert container(options, image, words)["process"]["args"] == arguments


def test_a_cell_takes_the_place_of_the_image_s_command_but_not_of_words():
    image = {"Entrypoint": ["e"], "Cmd": ["c"]}
    script = ["/bin/sh", "-c", "cell"]
    found = container("", image, [], default_arguments=script)
    assert found["process"]["args"] == script
    found = container("", image, ["w"], default_arguments=script)
    assert found["process"]["args"] == ["e", "w"]


def test_an_image_without_a_configuration():
    found = config.container(
        {},
        [],
        RUN.parse([]),
        ["w"],
        ROOT,
        name="box",
        hostname="box",
        directory="/d",
    )
    assert found["process"]["args"] == ["w"]
    assert found["process"]["cwd"] == "/"


# --- environment ------------------


def environment(words="", image=None):
    found = container(words, {"Cmd": ["sh"], **(image or {})})
    pairs = [entry.split("=", 1) for entry in found["process"]["env"]]
    assert len({key for key, _ in pairs}) == len(pairs), "no variable twice"
    return dict(pairs)


def test_the_environment_without_any_wish():
    assert environment() == {
        "PATH": config.DEFAULT_PATH,
        "HOME": "/root",
        "HOSTNAME": "box",
        "container": "ctrt",
    }


def test_the_image_comes_before_the_defaults_and_the_options_before_the_image():
    image = {"Env": ["PATH=/image", "A=1", "B=2=3", "EMPTY="]}
    found = environment("-e A=9 -e HOME=/h --env C=x", image)
    assert found["PATH"] == "/image"
    assert (found["A"], found["B"], found["C"]) == ("9", "2=3", "x")
    assert found["EMPTY"] == ""
    assert found["HOME"] == "/h"


def test_the_last_of_two_wins():
    assert environment("-e A=1 -e A=2")["A"] == "2"


def test_a_bare_name_is_taken_from_the_caller(monkeypatch):
    monkeypatch.setenv("CTRT_TEST_HERE", "a=b")
    monkeypatch.delenv("CTRT_TEST_GONE", raising=False)
    found = environment("-e CTRT_TEST_HERE -e CTRT_TEST_GONE")
    assert found["CTRT_TEST_HERE"] == "a=b"
    assert "CTRT_TEST_GONE" not in found


def test_nothing_else_of_the_caller_s_gets_in(monkeypatch):
    monkeypatch.setenv("CTRT_TEST_SECRET", "x")
    assert "CTRT_TEST_SECRET" not in environment()


def test_a_variable_without_a_name():
    assert sentence("-e =x") == "--env '=x' has no name before the ="


def test_working_directory():
    image = {"Cmd": ["sh"], "WorkingDir": "/image"}
    assert container("", image)["process"]["cwd"] == "/image"
    assert container("-w /mine", image)["process"]["cwd"] == "/mine"
    assert sentence("-w mine") == "the working directory 'mine' is not an absolute path"
    assert "'image' is not an absolute" in sentence("", {"Cmd": ["sh"], "WorkingDir": "image"})


# --- users ------------------

PASSWD = """\
root:x:0:0:root:/root:/bin/sh
short:x:1
bad:x:one:2::/:
ann:x:1000:100:Ann:/home/ann:/bin/sh
nohome:x:1002:1002:::
2000:x:7:8::/named-by-a-number:
"""
GROUP = """\
root:x:0:
users:x:100:
wheel:x:10:bob,ann
audio:x:11:ann
annex:x:12:annabel
primary:x:100:ann
bad:x:x:ann
"""


@pytest.fixture
def layers(tmp_path):
    """Make layers, topmost first, each a dict of paths and contents."""

    def make(*trees):
        lowers = []
        for number, tree in enumerate(trees):
            lower = tmp_path / f"layer{number}"
            lower.mkdir()
            for path, text in tree.items():
                place = lower / path
                place.parent.mkdir(parents=True, exist_ok=True)
                if callable(text):
                    text(place)
                else:
                    place.write_text(text)
            lowers.append(str(lower))
        return lowers

    return make


def whiteout(place):
    # Linux 5.8 and later lets anybody make this one device.
    try:
        os.mknod(place, 0o020000 | 0o644, os.makedev(0, 0))
    except PermissionError:
        pytest.skip("no whiteout can be made here")


@pytest.fixture
def users(layers):
    return layers({"etc/passwd": PASSWD, "etc/group": GROUP})


def user(text, lowers, **keywords):
    """(uid, gid, additional groups, HOME) of a container's process."""
    process = container(["--user", text], lowers=lowers, **keywords)["process"]
    home = next(e[5:] for e in process["env"] if e.startswith("HOME="))
    assert set(process["user"]) <= {"uid", "gid", "additionalGids"}
    found = process["user"]
    return found["uid"], found["gid"], found.get("additionalGids", []), home


USERS = {
    "": (0, 0, [], "/root"),
    "0": (0, 0, [], "/root"),
    "root": (0, 0, [], "/root"),
    "ann": (1000, 100, [10, 11], "/home/ann"),
    "1000": (1000, 100, [10, 11], "/home/ann"),
    "nohome": (1002, 1002, [], "/"),
    "1234": (1234, 0, [], "/"),
    "ann:wheel": (1000, 10, [], "/home/ann"),
    "ann:10": (1000, 10, [], "/home/ann"),
    "ann:4321": (1000, 4321, [], "/home/ann"),
    "1234:users": (1234, 100, [], "/"),
    "0:100": (0, 100, [], "/root"),
    ":100": (0, 100, [], "/root"),
    "2000": (7, 8, [], "/named-by-a-number"),
}


@pytest.mark.parametrize("text", USERS)
def test_users_and_groups(users, text):
    assert user(text, users) == USERS[text]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("bob", "the image has no user 'bob' in its /etc/passwd"),
        ("short", "the image has no user 'short' in its /etc/passwd"),
        ("bad", "the image has no user 'bad' in its /etc/passwd"),
        ("-1", "the image has no user '-1' in its /etc/passwd"),
        ("ann:nobody", "the image has no group 'nobody' in its /etc/group"),
        ("ann:bad", "the image has no group 'bad' in its /etc/group"),
    ],
)
def test_an_unknown_user_or_group(users, text, words):
    assert sentence(["--user", text], lowers=users) == words


def test_the_image_s_own_user_unless_another_is_asked_for(users):
    image = {"Cmd": ["sh"], "User": "ann"}
    assert user("nohome", users, image=image)[0] == 1002
    assert container("", image, lowers=users)["process"]["user"]["uid"] == 1000


def test_without_a_passwd_numbers_still_work(layers):
    lowers = layers({"bin/sh": ""}, {})
    assert user("5:6", lowers) == (5, 6, [], "/")
    assert sentence("-u ann", lowers=lowers) == "the image has no user 'ann' in its /etc/passwd"


def test_the_topmost_layer_counts(layers):
    lowers = layers({}, {"etc/passwd": "a:x:1:1::/one:\n"}, {"etc/passwd": "a:x:2:2::/two:\n"})
    assert user("a", lowers) == (1, 1, [], "/one")


def test_a_whiteout_hides_the_layers_below(layers):
    lowers = layers({"etc/passwd": whiteout}, {"etc/passwd": PASSWD})
    assert sentence("-u ann", lowers=lowers) == "the image has no user 'ann' in its /etc/passwd"


def test_a_whiteout_of_the_whole_directory_does_too(layers):
    lowers = layers({"etc": whiteout}, {"etc/passwd": PASSWD})
    assert sentence("-u ann", lowers=lowers) == "the image has no user 'ann' in its /etc/passwd"


@pytest.mark.parametrize("link", ["etc/passwd", "etc"])
def test_no_link_leads_to_the_host(layers, tmp_path, link):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "passwd").write_text("spy:x:0:0::/:\n")
    target = outside / "passwd" if link == "etc/passwd" else outside
    # The layer below has a file, but what a container would see is the link.
    lowers = layers({link: lambda place: place.symlink_to(target)}, {"etc/passwd": PASSWD})
    assert "no user 'spy'" in sentence("-u spy", lowers=lowers)
    assert "no user 'ann'" in sentence("-u ann", lowers=lowers)


def test_a_fifo_is_not_waited_for(layers):
    lowers = layers({"etc/passwd": os.mkfifo})
    assert "no user 'ann'" in sentence("-u ann", lowers=lowers)


def test_bytes_that_are_no_text(layers):
    def write(place):
        place.write_bytes(b"\xff\xfe:x:1:1::/:\nann:x:5:5::/a:\n")

    assert user("ann", layers({"etc/passwd": write})) == (5, 5, [], "/a")


def test_no_descriptor_stays_open(users):
    before = os.listdir("/proc/self/fd")
    user("ann", users)
    assert os.listdir("/proc/self/fd") == before


def test_a_user_that_the_map_does_not_reach():
    assert sentence("-u 1000", host=SINGLE) == (
        "user 1000 cannot be used in the container: you have a single id; "
        "add a range to /etc/subuid and /etc/subgid, or use --user 0"
    )
    assert sentence("-u 5:99", host=MAPPED) == (
        "group 99 cannot be used in the container: the container's id map does not reach it; "
        "add a range to /etc/subuid and /etc/subgid, or use --user 0"
    )
    assert container("-u 5:98", host=MAPPED)["process"]["user"]["gid"] == 98
    assert container("-u 70001", host=ROOT)["process"]["user"]["uid"] == 70001


# --- capabilities ------------------

ALL = list(capabilities.NAMES[: capabilities.last() + 1])
DEFAULT = list(config.DEFAULT_CAPABILITIES)


def sets(words, **keywords):
    return container(words, **keywords)["process"]["capabilities"]


def in_order(names):
    return [name for name in ALL if name in names]


KEPT = {
    "": DEFAULT,
    "--cap-drop ALL": [],
    "--cap-drop all --cap-add net_raw": ["CAP_NET_RAW"],
    "--cap-add net_raw --cap-drop all": ["CAP_NET_RAW"],
    "--cap-add ALL": ALL,
    "--cap-add ALL --cap-drop CAP_SYS_ADMIN": [c for c in ALL if c != "CAP_SYS_ADMIN"],
    "--cap-drop KILL": [c for c in DEFAULT if c != "CAP_KILL"],
    "--cap-drop KILL,CHOWN": [c for c in DEFAULT if c not in ("CAP_KILL", "CAP_CHOWN")],
    "--cap-add SYS_ADMIN --cap-add Sys_Time": in_order([*DEFAULT, "CAP_SYS_ADMIN", "CAP_SYS_TIME"]),
    "--cap-add CAP_KILL": DEFAULT,
    "--cap-drop KILL --cap-add KILL": DEFAULT,
    "--cap-drop NET_RAW": DEFAULT,
}


@pytest.mark.parametrize("words", KEPT)
def test_what_root_keeps(words):
    assert sets(words) == dict.fromkeys(
        ("bounding", "effective", "permitted"), in_order(KEPT[words])
    )


def test_another_user_holds_only_what_was_added():
    for words, held in (
        ("", []),
        ("--cap-add NET_RAW", ["CAP_NET_RAW"]),
        ("--cap-add KILL", ["CAP_KILL"]),
        ("--cap-drop ALL --cap-add KILL", ["CAP_KILL"]),
        ("--cap-add ALL --cap-drop KILL", [c for c in ALL if c != "CAP_KILL"]),
    ):
        found = sets(f"-u 5 {words}")
        for name in ("effective", "permitted", "inheritable", "ambient"):
            assert found[name] == held, (words, name)
        assert found["bounding"] == sets(words)["bounding"], words


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (
            "--cap-add SYS_ADMN",
            "--cap-add: there is no capability 'SYS_ADMN'; did you mean CAP_SYS_ADMIN?",
        ),
        ("--cap-drop KILL,zzz", "--cap-drop: there is no capability 'zzz'"),
        ("--cap-add=", "--cap-add: there is no capability ''; did you mean CAP_BPF?"),
    ],
)
def test_an_unknown_capability(words, text):
    assert sentence(words) == text


# --- volumes and tmpfs ------------------


def test_volumes(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    plain = ["nosuid", "nodev"]
    for text, source, destination, options in (
        ("/tmp:/x", "/tmp", "/x", [*plain, "rbind"]),
        ("/tmp:/x:ro,bind", "/tmp", "/x", [*plain, "ro", "bind"]),
        (".:/y:rw", str(tmp_path), "/y", [*plain, "rw", "rbind"]),
        ("~:/z:", str(tmp_path), "/z", [*plain, "rbind"]),
    ):
        assert container(["-v", text])["mounts"][-1] == {
            "destination": destination,
            "type": "bind",
            "source": source,
            "options": options,
        }


@pytest.mark.parametrize("text", ["", "/tmp", ":/x", "/tmp:x", "/tmp:", "/tmp:/x:ro:z"])
def test_a_volume_of_another_form(text):
    assert sentence(["-v", "/tmp:/ok", "-v", text]) == (
        f"--volume 2: {text!r} is not SOURCE:/DIR or SOURCE:/DIR:OPTIONS"
    )


def test_a_volume_of_nothing_or_with_unknown_options():
    assert sentence("-v /no/such:/x") == "--volume 1: /no/such does not exist on the host"
    assert sentence("-v /tmp:/x:ro,z") == (
        "--volume 1: there is no option 'z'; there are ro, rw, nosuid, suid, nodev, dev, "
        "noexec, exec, bind, rbind"
    )


def test_tmpfs():
    plain = ["nosuid", "nodev", "noexec"]
    assert container("--tmpfs /s --tmpfs /t:size=1m,exec")["mounts"][-2:] == [
        {"destination": "/s", "type": "tmpfs", "source": "tmpfs", "options": plain},
        {
            "destination": "/t",
            "type": "tmpfs",
            "source": "tmpfs",
            "options": [*plain, "size=1m", "exec"],
        },
    ]
    assert sentence("--tmpfs s:size=1m") == (
        "--tmpfs 's:size=1m' does not begin with an absolute path"
    )


# --- security, namespaces, the rest ------------------


@pytest.mark.parametrize(
    ("words", "confined"),
    [
        ("", True),
        ("--security-opt no-new-privileges", True),
        ("--security-opt no-new-privileges=true", True),
        ("--security-opt no-new-privileges:false", False),
        ("--security-opt no-new-privileges=false", False),
    ],
)
def test_no_new_privileges(words, confined):
    assert container(words)["process"]["noNewPrivileges"] is confined


def test_the_seccomp_profile_follows_the_bounding_set():
    found = container("--cap-add SYS_ADMIN")
    bounding = found["process"]["capabilities"]["bounding"]
    assert found["linux"]["seccomp"] == seccomp_default.profile(bounding, "x86_64")
    assert "seccomp" not in container("--security-opt seccomp=unconfined")["linux"]


def test_a_profile_of_one_s_own(tmp_path):
    file = tmp_path / "profile.json"
    file.write_text('{"defaultAction": "SCMP_ACT_ALLOW"}')
    found = container(["--security-opt", f"seccomp={file}"])
    assert found["linux"]["seccomp"] == {"defaultAction": "SCMP_ACT_ALLOW"}


@pytest.mark.parametrize("text", ["{}", "[]", "null", "5", '{"syscalls": []}'])
def test_an_empty_profile_is_not_taken_for_none(tmp_path, text):
    file = tmp_path / "profile.json"
    file.write_text(text)
    assert sentence(["--security-opt", f"seccomp={file}"]) == (
        f"the seccomp profile {file} is not an object with a defaultAction"
    )


def test_a_profile_that_cannot_be_read(tmp_path):
    assert sentence("--security-opt seccomp=/no/such") == (
        "the seccomp profile /no/such cannot be read: No such file or directory"
    )
    file = tmp_path / "profile.json"
    for data in (b"{", b"\xff\xfe"):
        file.write_bytes(data)
        assert sentence(["--security-opt", f"seccomp={file}"]).startswith(
            f"the seccomp profile {file} is not JSON: "
        )


@pytest.mark.parametrize("text", ["apparmor=x", "seccomp", "seccomp=", "no-new-privileges=2", ""])
def test_other_security_options(text):
    assert sentence(["--security-opt", text]) == (
        f"--security-opt {text!r} is not known; there are seccomp=unconfined, seccomp=FILE "
        "and no-new-privileges[=false]"
    )


def test_root_has_a_user_namespace_only_with_id_mapped_layers():
    def kinds(found):
        return [entry["type"] for entry in found["linux"]["namespaces"]]

    shared, own = container(host=ROOT), container(host=MAPPED)
    assert kinds(own) == list(config.NAMESPACES)
    assert kinds(shared) == [kind for kind in config.NAMESPACES if kind != "user"]
    assert "uidMappings" not in shared["linux"]
    assert own["linux"]["uidMappings"] == [{"containerID": 0, "hostID": 5000, "size": 65536}]
    assert own["linux"]["gidMappings"] == [{"containerID": 0, "hostID": 6000, "size": 99}]
    assert kinds(container(host=SINGLE)) == list(config.NAMESPACES)


def test_two_stores_do_not_share_a_cgroup():
    def path(directory):
        found = config.container(
            {},
            [],
            RUN.parse([]),
            ["w"],
            MAPPED,
            name="box",
            hostname="box",
            directory=directory,
        )
        return found["linux"]["cgroupsPath"]

    assert path("/a/box") == path("/a/box") != path("/b/box")
    assert path("/a/box").startswith("/cg/box-")
    assert "cgroupsPath" not in container(host=SINGLE)["linux"]


@pytest.mark.parametrize("host", [ROOT, MAPPED, SINGLE], ids=["root", "mapped", "single"])
def test_every_configuration_can_be_planned(host, users):
    words = ["-v", "/tmp:/x:ro", "--tmpfs", "/s:size=1m", "--read-only", "--cap-add", "ALL"]
    found = container(words, lowers=users, host=host)
    layers = planner.Layers(tuple(users), "/root/containers/box")
    plan = planner.container(found, host, layers, subject="box", seccomp=b"x" * 8)
    names = [step.name for step in plan.steps]
    for path in ("bind /x", "mount /s", "mount /proc", "read-only root", "bind /etc/hosts"):
        assert path in names
    assert len(set(names)) == len(names)
