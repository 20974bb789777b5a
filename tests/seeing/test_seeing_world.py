"""Every view of a machine full of containers: what it says, and that it is a sound drawing."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import drawings
import pytest
from seeing_tools import SHELL, USER, python, running, unshared
from seeing_world import ID, UID, VIEWS, picture, world

from ctrt import observe
from ctrt.engine.verbs import VERBS
from ctrt.errors import CtrtError
from ctrt.linux.capabilities import NAMES, mask

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
needs_podman = pytest.mark.skipif(
    not (shutil.which("podman") and shutil.which("runc")), reason="podman with runc is needed"
)


@pytest.fixture(scope="module")
def made():
    with world(podmans=8, ours=12) as found:
        yield found


def words_of(name):
    words = VIEWS[name]
    if "web-" in words:
        return pytest.param(words, marks=needs_podman, id=name)
    return pytest.param(words, id=name)


@pytest.mark.parametrize("options", ["", " --ids", " --all"])
@pytest.mark.parametrize("words", [words_of(name) for name in VIEWS])
def test_every_view_is_a_sound_drawing(made, words, options):
    if words.startswith(("caps", "diff")):
        options = {" --ids": "", " --all": " --all" if words.startswith("caps") else ""}.get(
            options, options
        )
    shown = picture(made, words + options)
    if options == " --all" and len(shown.scene.rows) > 150:
        drawings.json_holds_together(shown)  # a drawing of all that there is need not be small
    else:
        drawings.sound(shown)
    assert shown.text(120)


@pytest.mark.parametrize("words", [words_of(name) for name in VIEWS])
def test_every_view_is_given_as_json(made, words):
    told = json.loads(str(picture(made, words + " --json")))
    assert told["version"] == 1
    assert told["rows"]
    assert told["title"]
    assert {row["id"] for row in told["rows"]} <= set(told["details"])


TARGETS = [
    ("{box-3}", "sleep"),
    ("box-3", "box-3"),
    ("ctrt:box-3", "box-3"),
    pytest.param("podman:web-2", "web-2", marks=needs_podman),
    (f"docker:{ID[:12]}", ID[:12]),
    (f"pod:{UID}", UID),
    ("/proc/{box-3}/ns/mnt", "mnt namespace"),
]
OF_A_TARGET = ("container", "namespaces", "mounts", "caps", "ids", "cgroups", "network", "stack")


@pytest.mark.parametrize(("target", "called"), TARGETS)
@pytest.mark.parametrize("view", OF_A_TARGET)
def test_every_form_of_a_target(made, view, target, called):
    shown = picture(made, f"graph {view} {target}")
    assert shown.scene.rows
    if not target.startswith("{"):
        assert called in shown.scene.title


@pytest.mark.parametrize("view", ["stack", "network", "caps"])
@pytest.mark.parametrize("target", [f"docker:{ID}", "/proc/{box-3}/ns/mnt"])
def test_a_target_that_is_looked_for_is_scanned_for_once(made, view, target, monkeypatch):
    scans = []

    def counted(**options):
        scans.append(options)
        return scan(**options)

    scan = observe.scan
    monkeypatch.setattr(observe, "scan", counted, raising=False)
    picture(made, f"graph {view} {target}")
    assert len(scans) == 1


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("graph stack podman:nobody", "there is no running container podman:nobody; "),
        ("graph ids docker:nobody", f"no running container docker:nobody; there are {ID[:12]}"),
        ("graph ids foo:bar", "foo:bar: 'foo' is no engine; known are ctrt, podman, docker, pod, "),
        ("graph ids nspawn:nobody", "systemd-nspawn:nobody; none of its kind is running"),
        pytest.param("graph ids web-2", "these run: box-1", marks=needs_podman),
        pytest.param("graph ids web-2", "; do you mean podman:web-2?", marks=needs_podman),
        ("graph caps lxc:nobody", "lxc:nobody; none of its kind is running"),
        ("graph network nobody", "there is no running container 'nobody'; these run: box-1"),
        ("graph cgroups 1 2", "graph cgroups: expected one target, got 1 2"),
        ("graph mounts 1 2 3", "graph mounts: expected two operands at most, got 1 2 3"),
        ("graph caps /proc/self/status", "/proc/self/status is no namespace"),
        ("graph caps /nowhere", "/nowhere: no such file or directory"),
        ("graph caps box-1 ping", "ping: name the program by its whole path"),
        ("graph caps box-1 /bin/nothing", "/bin/nothing, as process"),
        ("graph caps box-1 /bin", "/bin is not a file that could be executed"),
        ("graph steps", "graph steps: expected IMAGE [COMMAND...]"),
        ("graph container 4194304", "there is no process 4194304"),
    ],
)
def test_what_cannot_be_shown_is_said_in_a_sentence(made, words, sentence):
    with pytest.raises(CtrtError) as raised:
        picture(made, words)
    assert sentence in str(raised.value)
    assert "\n" not in str(raised.value)


THREAD = """
import os, threading, time
other = threading.Thread(target=time.sleep, args=(600,), daemon=True)
other.start()
ended = os.fork() or os._exit(0)
os.waitid(os.P_PID, ended, os.WEXITED | os.WNOWAIT)
open(sys.argv[1], "w").write(f"{other.native_id} {ended}")
print("ready", flush=True)
sys.stdin.readline()
"""


def test_the_number_of_a_thread_or_of_a_zombie_is_told_as_such(made, tmp_path):
    place = tmp_path / "numbers"
    with running(*python(THREAD, str(place))) as pid:
        thread, ended = place.read_text().split()
        for view in ("caps", "network", "stack"):
            with pytest.raises(CtrtError, match=f"{thread} is a thread of process {pid}; .*{pid}"):
                picture(made, f"graph {view} {thread}")
        for view in ("container", "namespaces", "mounts", "ids"):
            assert picture(made, f"graph {view} {thread}").scene.rows
            with pytest.raises(CtrtError, match=f"has ended, and its parent, process {pid}, has"):
                picture(made, f"graph {view} {ended}")


@needs_podman
def test_a_pid_is_called_what_the_container_is_called_that_it_is_in(made):
    titles = {
        "container": "{}", "namespaces": "Namespaces of {}", "mounts": "Mounts of {}",
        "ids": "Ids of {}", "caps": "Capabilities of {}", "network": "Network of {}",
        "cgroups": "cgroups of {}", "stack": "From the machine's first process to {}",
    }  # fmt: skip
    for view, title in titles.items():
        for pid, name in (("{web-2}", "podman web-2"), ("{box-3}", "container box-3")):
            shown = picture(made, f"graph {view} {pid}").scene.title
            assert shown.lower() == title.format(name).lower()
    assert picture(made, "graph cgroups {inner}").scene.title == "cgroups of sh"
    assert "process" in picture(made, "graph cgroups --ids {inner}").scene.title


def test_what_has_changed_since_a_recording(made, tmp_path):
    file = str(tmp_path / "before")
    observe.record(file, observe.watch(seconds=0))
    (tmp_path / "box-1").write_text("no recording, though a container is called that")
    with unshared("-mn", command=("sh", "-c", "mount -t tmpfs later /mnt; echo ready; read x")):
        text = picture(made, f"diff {file} now").text()
        assert "+ mnt" in text
        assert "+ net" in text
        observe.record(str(tmp_path / "after"), observe.watch(seconds=0))
    text = picture(made, f"diff {file} {tmp_path}/after").text()
    assert "+ net" in text
    assert "- net" in picture(made, f"diff {tmp_path}/after@0 {file}").text()
    assert "Nothing differs." in picture(made, f"diff {file}").text()
    with pytest.raises(CtrtError, match="'x' is not a number of seconds"):
        picture(made, f"diff {file}@x now")
    with pytest.raises(CtrtError, match="nothing is no moment: expected FILE, FILE@SECONDS or now"):
        picture(made, f"diff {file} nothing")


def test_the_drawer_has_the_kernel_s_own_lines(made):
    details = picture(made, "graph namespaces").scene.details
    lines = {raw.path: raw.line for detail in details.values() for raw in detail.raw}
    assert lines["/proc/PID/ns/user"].startswith("user:[")
    assert "0 524288 65536" in {r.line for d in details.values() for r in d.raw}
    details = picture(made, "graph namespaces --ids").scene.details
    key = observe.scan().space(made.pids["box-3"], "net").key
    assert any(f"net:[{key.inode}]" in r.line for d in details.values() for r in d.raw)
    details = picture(made, "graph cgroups box-1 --ids").scene.details
    for detail in details.values():
        for path, line in detail.raw:
            if path.startswith("/sys/fs/cgroup"):
                assert Path(path).read_text().strip() == line


def test_containers_are_put_together_by_engine(made):
    rows = picture(made, "graph namespaces").scene.rows
    assert any(row.number >= 12 for row in rows)
    owners = observe.owners(observe.scan())
    for name, pid in made.pids.items():
        if name.startswith("box-"):
            assert owners[pid][:3] == ("ctrt", name, name)
        if name.startswith("web-"):
            assert (owners[pid].engine, owners[pid].name) == ("podman", name)
    assert owners[made.pids["docker"]].engine == "docker"
    assert owners[made.pids["pod"]].pod.uid == UID
    assert made.pids["inner"] not in owners


def test_shared_slave_and_private_mounts(made):
    system = observe.scan()
    table = system.tables[system.space(made.pids["sharing"], "mnt").key]
    at = {mount.target.rpartition("/tree/")[2]: mount for mount in table.mounts}
    assert (at["one"].propagation, at["three"].propagation) == ("shared", "slave")
    assert at["four"].propagation == "private"
    assert at["one"].shared == at["two"].shared == at["three"].master
    assert {"one/later", "two/later", "three/later"} <= at.keys()
    assert "four/later" not in at
    shown = picture(made, "graph mounts {sharing}")
    struck = [node for node in shown.scene.nodes if node.strike and "later" in node.label]
    assert len(struck) == 3


def test_the_link_between_two_containers(made):
    if shutil.which("ip") is None:
        pytest.skip("ip is needed")
    scene = picture(made, "graph network box-1").scene
    [edge] = [edge for edge in scene.edges if edge.kind == "veth"]
    nodes = {node.id: node for node in scene.nodes}
    assert {nodes[edge.source].label, nodes[edge.target].label} == {"eth0"}
    assert "192.0.2.1/24" in repr(scene.rows)
    assert "ctrt box-2" in picture(made, "graph network box-1").text()


def test_a_container_of_ours_without_a_cgroup_is_known_by_its_journal(made):
    pid = made.pids["box-12"]
    top = observe.hierarchy().mount
    [line] = [g.path for g in observe.scan().processes[pid].cgroups if g.hierarchy == 0]
    move(pid, top)
    try:
        assert observe.owners(observe.scan()).get(pid) is None
        with running("nsenter", "-t", str(pid), "-m", "busybox", *SHELL) as joined:
            owners = observe.owners(observe.scan(), stores=(made.engine.root,))
        assert owners[pid] == ("ctrt", "box-12", "box-12", None, False, "journal of box-12")
        assert owners[joined].name == "box-12"
        assert os.getpid() not in owners
        assert picture(made, "graph stack ctrt:box-12").scene.rows
    finally:
        move(pid, top + line)


def move(pid, cgroup):
    with open(f"{cgroup}/cgroup.procs", "w") as file:
        file.write(str(pid))


# --- capabilities: through an execve, and into namespaces ----------------------------------------


def test_reach_of_the_host_and_of_a_nested_namespace(made):
    system = observe.scan()
    inner, host = made.pids["inner"], os.getpid()
    chain = observe.reach(system, inner)
    assert [one.relation for one in chain][-1] == "own"
    assert len(chain) == 3
    assert [{answer.holds for answer in one.answers} for one in chain] == [{False}, {False}, {True}]
    below = [one for one in observe.reach(system, host) if one.relation == "below"]
    found = {key for one in below for key in (one.space, *one.others)}
    assert {chain[1].space, chain[2].space} <= found


def test_credentials_are_in_the_ids_of_the_own_namespace(made):
    system = observe.scan()
    box = observe.credentials(system, made.pids["box-1"])
    assert (box.uid, box.egid, box.no_new_privs) == (0, 0, True)
    assert system.processes[made.pids["box-1"]].status.uids[0] > 0
    assert 0 in observe.roots(system, made.pids["box-1"])
    assert len(observe.roots(system, made.pids["box-1"])) == 2


def test_a_program_is_found_as_the_process_sees_it(made, tmp_path):
    system = observe.scan()
    program = observe.executable(system, made.pids["box-1"], "/bin/busybox")
    assert (program.owner, program.set_uid, program.capabilities) == (0, False, None)
    file = tmp_path / "tool"
    shutil.copy("/bin/true", file)
    os.chmod(file, 0o6755)
    os.chown(file, 1234, 5)
    os.chmod(file, 0o6755)
    with unshared("-Ur") as pid:
        seen = observe.executable(observe.scan(), pid, str(file))
    # Only root has a number in there.
    assert (seen.owner, seen.group, seen.set_uid, seen.set_gid) == (None, None, True, True)
    own = observe.executable(system, os.getpid(), str(file))
    assert (own.owner, own.group) == (1234, 5)


def test_what_is_drawn_for_an_execve_is_what_the_kernel_makes(made, tmp_path):
    tool = tmp_path / "busybox"  # it looks at its name
    shutil.copy(shutil.which("busybox"), tool)
    tmp_path.chmod(0o755)
    for above in list(tmp_path.parents)[:3]:
        if above != above.parent and str(above) != "/tmp":
            above.chmod(0o755)
    wanted = mask(["net_raw", "kill"])
    data = observe.rules.format_file_capabilities(
        observe.rules.FileCapabilities(2, wanted, 0, True, 0)
    )
    os.setxattr(tool, "security.capability", data)
    start = ("setpriv", f"--reuid={USER}", "--clear-groups", "--inh-caps=+chown",
             "--ambient-caps=+chown")  # fmt: skip
    with running(*start, *SHELL) as pid:
        shown = picture(made, f"graph caps {pid} {tool}")
        before = observe.capabilities(pid)
    marks = {row.id: row.cells for row in shown.scene.rows}
    assert before.effective == mask(["chown"])
    with running(*start, str(tool), *SHELL) as pid:
        after = observe.capabilities(pid)
    assert after.effective == wanted
    assert marks["caps:net_raw"][6] == "+"
    assert marks["caps:chown"][6] == "-"
    assert f"as user id {os.stat('/proc/self').st_uid}" not in shown.text(300)


def test_the_view_of_a_container_s_capabilities(made):
    scene = picture(made, "graph caps box-1").scene
    names = [node.label for node in scene.nodes if node.id.startswith("user:")]
    assert names == ["user[host]", "user[1]"]
    kept = next(row for row in scene.rows if row.id == "caps:kill")
    assert kept.cells[1] == kept.cells[6] == kept.cells[-1] == "■"
    assert kept.cells[-2] == "·"
    assert len(picture(made, "graph caps box-1 --all").scene.rows) >= len(NAMES)


def test_the_verb_caps_takes_every_target(made):
    for words in ("box-1", f"docker:{ID}", str(os.getpid())):
        assert VERBS["caps"](made.engine, [words]).scene.rows


def test_the_plan_of_a_magic_is_a_picture_when_it_is_asked_for(made):
    from ctrt.engine import options
    from ctrt.engine.verbs.seeing import plan_picture

    values = options.UNSHARE.parse(["-Urm", "--plan", "true"])
    shown = plan_picture(made.engine, made.engine.prepare_unshare(values))
    assert shown.scene.title == "The start of true in new namespaces"
    drawings.sound(shown)


# --- mounts that are locked, or that no process sees ---------------------------------------------


def test_locked_mounts_are_marked(made):
    system = observe.scan()
    locked = observe.locked(system, system.space(made.pids["inner"], "mnt").key)
    rows = picture(made, "graph mounts {inner} --all").scene.rows
    assert sum("locked" in row.cells[3].split() for row in rows) == len(locked) > 5
    own = [row for row in rows if row.cells[0] == "/proc"]
    assert ["locked" in row.cells[3] for row in own] == [True, False]  # its own is over the other
    assert "locked" not in repr(picture(made, "graph mounts {sharing}").scene.rows)
    details = picture(made, "graph mounts {inner}").json()["details"].values()
    assert any("cannot be unmounted, or made writable, alone" in d["meaning"] for d in details)


HOLD_MOUNTS = """
import os, subprocess, time
p = subprocess.Popen(["unshare", "-m", "sh", "-c", "mount -t tmpfs kept /mnt; echo; read x"],
    stdin=subprocess.PIPE, stdout=subprocess.PIPE)
p.stdout.readline()
kept = os.open(f"/proc/{p.pid}/ns/mnt", os.O_RDONLY)
p.kill(); p.wait(); p.stdin.close(); p.stdout.close()
os.dup2(kept, 77); print("ready", flush=True); sys.stdin.read()
"""


def test_the_mounts_of_a_namespace_without_a_process(made):
    with running(*python(HOLD_MOUNTS)) as pid:
        path = f"/proc/{pid}/fd/77"
        shown = picture(made, f"graph mounts {path}")
        assert shown.scene.title == f"Mounts of the mount namespace at {path}"
        assert any(row.cells[:3] == ("/mnt", "tmpfs", "kept") for row in shown.scene.rows)
        drawings.sound(shown)
        beside = picture(made, f"graph mounts host {path}")
        assert [row.cells[0] for row in beside.scene.rows if row.cells[2] == "kept"] == ["/mnt"]
        drawings.sound(beside)
        with pytest.raises(CtrtError, match=r"no process is in .*; only graph mounts can show it"):
            picture(made, f"graph container {path}")


# --- a start, planned and tried ------------------------------------------------------------------


def test_what_each_step_of_a_start_changes_is_seen(made):
    before = sorted(os.listdir(made.engine.containers))
    shown = picture(made, "graph steps --try localhost/world/ours true")
    seen = {row.cells[1]: row.cells[4] for row in shown.scene.rows}
    assert seen["clone"].startswith("new user pid mnt net uts cgroup")
    assert seen["id maps"] == "uids 0 524288 65536; gids 0 524288 65536"
    assert seen["mount /proc"] == "mounted: NEW/proc"
    assert "unmounted: /" in seen["pivot root"]
    assert seen["no new privileges"] == "no_new_privs: off → on"
    assert seen["exec"] == ""
    # The program was never started, and nothing is left of the attempt.
    assert sorted(os.listdir(made.engine.containers)) == before
    shown = picture(made, "graph steps --try localhost/world/ours nothing-of-this-name")
    assert shown.scene.rows[-1].cells[1] == "exec"


def test_a_plan_is_drawn_into_a_file(made, tmp_path, capsys):
    from ctrt.cli.main import main

    store, path = ["--root", made.engine.root], str(tmp_path / "plan.svg")
    words = ["--plan", "--svg", path]
    assert main([*store, "run", *words, "localhost/world/ours", "true"]) == 0
    assert "The start of " in (tmp_path / "plan.svg").read_text()
    assert main([*store, "unshare", *words, "-Ur", "true"]) == 0
    assert main([*store, "exec", *words, "box-1", "true"]) == 0
    assert capsys.readouterr().out == f"written to {path}\n" * 3
    assert main([*store, "run", "--svg", path, "localhost/world/ours"]) == 125
    assert capsys.readouterr().err == (
        "ctrt: run: --svg goes with --plan: it draws the steps of the start\n"
    )


def test_top_knows_containers_of_this_store(made):
    rows = {row[:2] for row in VERBS["top"](made.engine, []).rows}
    assert {("box-1", "ctrt"), ("box-12", "ctrt"), (ID[:12], "docker")} <= rows
