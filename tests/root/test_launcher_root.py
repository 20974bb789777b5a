"""The launcher's helper with real containers: what it keeps open, ends, survives and cleans up."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

import ctrt
from ctrt.engine import Engine
from ctrt.engine.container import ContainerError
from ctrt.engine.options import RUN, UNSHARE
from ctrt.errors import CtrtError
from ctrt.images import compose
from ctrt.images.hostimage import from_host
from ctrt.linux import cgroups
from ctrt.runtime import state

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")

IMAGE = "localhost/test/box"
PACKAGE_PARENT = str(Path(ctrt.__file__).resolve().parents[1])


def wait_until(condition, seconds=10):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.01)
    return condition()


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A store with the image; its path has the characters that overlayfs gives a meaning to."""
    path = tmp_path_factory.mktemp("launcher") / "a:b,c"
    engine = Engine(str(path))
    from_host(engine.store, IMAGE, ["busybox"])
    yield str(path)
    engine.destroy()
    assert not path.exists()


@pytest.fixture
def engine(root):
    engine = Engine(root)
    yield engine
    engine.close()
    assert leftovers(root) == []


def leftovers(root):
    """What containers that ended must not leave: directories, cgroups, mounts, processes."""
    found = sorted(os.listdir(f"{root}/containers"))
    mount = cgroups.unified_mount()
    base = Path(mount or "/", "ctrt")
    if mount and base.exists():
        mine = {f"-{suffix_of(root, name)}" for name in NAMES}
        found += [str(p) for p in base.iterdir() if p.is_dir() and p.name[-9:] in mine]
    with open("/proc/self/mountinfo") as file:
        found += [line for line in file if root in line]
    return found


NAMES: set[str] = set()


def suffix_of(root, name):
    from ctrt.oci.digest import sha256

    return sha256(os.fsencode(f"{root}/containers/{name}"))[7:15]


def start(engine, script, *options, stdin=False):
    words = [word for option in options for word in option.split()]
    prepared = engine.prepare(IMAGE, ["sh", "-c", script], RUN.parse(words))
    NAMES.add(prepared.name)
    return engine.start(prepared, stdin=stdin)


def read_line(container):
    """The first line that a container writes, without the end of its output being waited for."""
    assert select.select([container._stdout], [], [], 20)[0], "the container said nothing"
    return os.read(container._stdout, 4096)


def helper_of(engine):
    return engine.launcher._pid


def descriptors(pid):
    links = []
    for name in os.listdir(f"/proc/{pid}/fd"):
        try:
            links.append(os.readlink(f"/proc/{pid}/fd/{name}"))
        except FileNotFoundError:
            continue
    return sorted(links)


def alive(pid):
    return os.path.exists(f"/proc/{pid}")


# --- descriptors ------------------


def test_thirty_starts_leave_no_descriptor_in_the_helper(engine):
    """Good ones, programs that are missing, steps that fail, namespaces without a container."""
    engine.run(IMAGE, ["true"])
    helper = helper_of(engine)
    assert wait_until(lambda: len(descriptors(helper)) == 4), descriptors(helper)
    before = descriptors(helper)
    unshare = ["-mpf", "--mount-proc", "true"]
    for _ in range(6):
        assert start(engine, "echo $0").collect().stdout == b"sh\n"
        with pytest.raises(CtrtError, match="has no command 'nosuch'"):
            engine.run(IMAGE, ["nosuch"])
        with pytest.raises(CtrtError, match='the step "mount /t" failed'):
            engine.run(IMAGE, ["true"], options=["--tmpfs", "/t:size=x"])
        with pytest.raises(ContainerError, match="ended with status 3"):
            engine.run(IMAGE, ["sh", "-c", "exit 3"])
        engine.start(engine.prepare_unshare(UNSHARE.parse(unshare))).collect().check()
    assert wait_until(lambda: descriptors(helper) == before), descriptors(helper)
    assert helper_of(engine) == helper, "the helper was replaced"


def test_a_failed_start_names_its_step_and_the_kernel_s_words(engine):
    with pytest.raises(CtrtError) as caught:
        engine.run(IMAGE, ["true"], options=["--tmpfs", "/t:size=x"])
    assert "tmpfs: Bad value for 'size'" in str(caught.value)
    assert "[tmpfs(5)]" in str(caught.value)
    assert leftovers(engine.root) == []


def test_the_client_keeps_no_descriptor_either(engine):
    engine.run(IMAGE, ["true"])
    before = descriptors("self")
    for _ in range(3):
        engine.run(IMAGE, ["true"])
        with pytest.raises(CtrtError):
            engine.run(IMAGE, ["nosuch"])
        start(engine, "sleep 100").close()
    assert descriptors("self") == before


# --- running containers ------------------


def test_two_containers_at_once(engine):
    first = start(engine, "read x; echo first $x", stdin=True)
    second = start(engine, "read x; echo second $x", stdin=True)
    assert {s["pid"] for s in engine.states()} == {first.pid, second.pid}
    # The one that was started last ends first.
    assert second.collect(b"b\n").stdout == b"second b\n"
    assert first.collect(b"a\n").stdout == b"first a\n"
    assert wait_until(lambda: leftovers(engine.root) == [])


def test_a_signal_reaches_the_command(engine):
    container = start(
        engine, "trap 'echo got; exit 4' USR1; echo ready; while :; do sleep 0.05; done"
    )
    assert read_line(container) == b"ready\n"
    container.signal(signal.SIGUSR1)
    result = container.collect()
    assert (result.stdout, result.status) == (b"got\n", 4)
    container.signal(signal.SIGUSR1)  # it is gone, and that is no error


def test_closing_kills_and_cleans_up(engine):
    container = start(engine, "echo ready; sleep 1000")
    read_line(container)
    pid = container.pid
    container.close()
    assert wait_until(lambda: not alive(pid))
    assert wait_until(lambda: leftovers(engine.root) == [])


def test_closing_the_engine_ends_what_it_started(root):
    engine = Engine(root)
    containers = [start(engine, "echo ready; sleep 1000") for _ in range(2)]
    pids = [container.pid for container in containers]
    helper = helper_of(engine)
    engine.close()
    assert not alive(helper)
    assert not any(alive(pid) for pid in pids)
    assert leftovers(root) == []
    for container in containers:
        assert container._running.poll(5) in (137, 255)
        container.close()


def test_a_container_that_floods_its_output(engine):
    """More than a pipe holds, on both streams, and read slowly."""
    size = 4 << 20
    container = start(engine, f"head -c {size} /dev/zero >&2 & head -c {size} /dev/zero; wait")
    counts = {"stdout": 0, "stderr": 0}

    def count(name, data):
        counts[name] += len(data)

    assert container.stream(count) == 0
    assert counts == {"stdout": size, "stderr": size}


def test_a_flood_does_not_hold_up_another_container(engine):
    flood = start(engine, "yes")
    assert engine.run(IMAGE, ["echo", "through"]).text() == "through\n"
    pid = flood.pid
    flood.close()
    assert wait_until(lambda: not alive(pid))


def test_one_that_ignores_sigterm_is_stopped(engine):
    container = start(engine, "trap '' TERM; echo ready; while :; do sleep 0.05; done")
    read_line(container)
    begin = time.monotonic()
    engine.stop(container.name, container.pid, 0.3)
    assert 0.3 <= time.monotonic() - begin < 20
    assert container._running.wait() == 137
    assert not os.path.exists(f"{engine.containers}/{container.name}")
    container.close()


def test_one_that_heeds_sigterm_is_stopped_at_once(engine):
    container = start(engine, "trap 'exit 5' TERM; echo ready; while :; do sleep 0.05; done")
    read_line(container)
    begin = time.monotonic()
    engine.stop(container.name, container.pid, 60)
    assert time.monotonic() - begin < 20
    assert container._running.wait() == 5
    container.close()


def test_an_image_says_what_stops_it(engine):
    """As systemd's and nginx's do: SIGTERM means another thing to them, or nothing."""
    image = engine.store.find(IMAGE)
    for written, number in (("SIGRTMIN+3", 37), ("quit", 3), ("10", 10), ("nothing", 15)):
        config = {**image.config["config"], "StopSignal": written}
        blobs = compose.blobs(image)
        compose.add_image(
            engine.store, "localhost/stops", {**image.config, "config": config}, blobs
        )
        ignored = "" if number == 15 else "trap '' TERM; "
        script = f"{ignored}trap 'exit 5' {number}; echo ready; while :; do sleep 0.05; done"
        prepared = engine.prepare("localhost/stops", ["sh", "-c", script])
        container = engine.start(prepared)
        read_line(container)
        engine.stop(container.name, container.pid, 60)
        assert container._running.wait() == 5, written
        container.close()


def test_stopping_what_has_ended_is_no_error(engine):
    process = subprocess.Popen(["true"])
    process.wait()
    engine.stop("gone", process.pid, 1)


def test_a_name_is_taken_once(engine):
    container = start(engine, "sleep 1000", "--name twin")
    with pytest.raises(CtrtError) as caught:
        start(engine, "true", "--name twin")
    assert str(caught.value) == "there is a container 'twin' already; see: ctrt ps"
    assert alive(container.pid), "the first one is none the worse for it"
    container.close()
    assert wait_until(lambda: leftovers(engine.root) == [])
    assert start(engine, "exit 0", "--name twin").collect().status == 0


def test_a_detached_container_outlives_its_engine(root):
    first = Engine(root)
    prepared = first.prepare(IMAGE, ["sleep", "1000"], RUN.parse(["--name", "lasting"]))
    NAMES.add(prepared.name)
    assert first.detach(prepared) == "lasting"
    with pytest.raises(CtrtError, match="there is a container 'lasting' already"):
        first.detach(prepared)
    first.close()
    second = Engine(root)
    (found,) = second.states()
    assert found["name"] == "lasting"
    second.stop("lasting", found["pid"], 0)
    assert wait_until(lambda: leftovers(root) == [])
    second.close()


# --- what a container leaves ------------------

DEEP = {
    # Deeper than a Python function may call itself, and longer than a path may be.
    "many": "i=0; while [ $i -lt 1300 ]; do mkdir x && cd x || exit 1; i=$((i+1)); done",
    "long": "n=$(printf '%0250d' 1); for top in a b; do mkdir /$top && cd /$top; i=0; "
    "while [ $i -lt 14 ]; do mkdir $n && cd $n || exit 1; i=$((i+1)); done; done; mv /a .",
}


@pytest.mark.parametrize("kind", DEEP)
def test_directories_in_each_other_are_removed_however_deep(engine, kind):
    helper = engine.run(IMAGE, ["true"]) and helper_of(engine)
    assert start(engine, DEEP[kind]).collect().check().status == 0
    assert leftovers(engine.root) == []
    engine.run(IMAGE, ["true"])
    assert helper_of(engine) == helper, "the helper broke on it"


def test_modes_and_links_are_removed_and_not_followed(engine, tmp_path):
    (tmp_path / "kept").write_text("kept")
    script = (
        f"mkdir -p /d/e && touch /d/e/f && ln -s {tmp_path} /d/link && ln -s / /d/e/root && "
        "mkfifo /d/pipe && chmod 0 /d/e /d"
    )
    assert start(engine, script).collect().check().status == 0
    assert leftovers(engine.root) == []
    assert (tmp_path / "kept").read_text() == "kept"


# --- a helper that is killed ------------------


def test_the_helper_s_death_is_its_containers_death_and_the_next_start_cleans_up(engine):
    containers = [start(engine, "echo ready; sleep 1000") for _ in range(2)]
    for container in containers:
        read_line(container)
    helper = helper_of(engine)
    os.kill(helper, signal.SIGKILL)
    for container in containers:
        assert wait_until(lambda pid=container.pid: not alive(pid) or state_of(pid) == "Z")
        assert container._running.poll(10) == 255
        assert container._running.left == "the launcher's process ended"
        container.close()
    os.waitpid(helper, 0)
    assert leftovers(engine.root) != [], "nobody was there to clean up"
    assert engine.states() == []
    assert engine.run(IMAGE, ["echo", "again"]).text() == "again\n"
    assert helper_of(engine) != helper
    assert leftovers(engine.root) == []


def state_of(pid):
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0]
    except OSError:
        return "gone"


def test_signals_to_the_client_s_group_do_not_reach_the_helper(engine):
    engine.run(IMAGE, ["true"])
    helper = helper_of(engine)
    assert os.getpgid(helper) == helper != os.getpgid(0)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        os.kill(helper, number)
    assert engine.run(IMAGE, ["echo", "on"]).text() == "on\n"
    assert helper_of(engine) == helper


def test_recovery_leaves_alone_what_somebody_looks_after(engine):
    container = start(engine, "echo ready; sleep 1000")
    read_line(container)
    assert state.recover(engine.containers) == []
    assert alive(container.pid)
    assert [s["pid"] for s in engine.states()] == [container.pid]
    container.close()


# --- two engines on one root ------------------


def test_two_engines_on_one_root_at_the_same_time(root):
    """Each with a helper of its own, both starting, ending and cleaning up."""
    failures = []

    def work(number):
        engine = Engine(root)
        try:
            for turn in range(6):
                word = f"{number}-{turn}"
                text = engine.run(IMAGE, ["echo", word]).text()
                if text != f"{word}\n":
                    failures.append((word, text))
                failures.extend(engine.recover())
        except Exception as error:
            failures.append((number, repr(error)))
        finally:
            engine.close()

    threads = [threading.Thread(target=work, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert leftovers(root) == []


def test_of_two_engines_one_gets_the_name(root):
    engines = [Engine(root), Engine(root)]
    container = start(engines[0], "echo ready; sleep 1000", "--name one")
    read_line(container)
    with pytest.raises(CtrtError, match="there is a container 'one' already"):
        start(engines[1], "true", "--name one")
    assert engines[1].pid_of("one") == container.pid
    container.close()
    for engine in engines:
        engine.close()
    assert leftovers(root) == []


# --- kernels that are older ------------------

OLD_KERNEL = """
import sys
sys.path.insert(0, sys.argv[1])
from ctrt.cli.start import carry_out
from ctrt.engine import Engine
from ctrt.engine.options import RUN
from ctrt.linux import calls
from ctrt.runtime.operations import mounts
from ctrt.runtime.host import Host

engine = Engine(sys.argv[2])
engine._host = Host.probe(idmapped_overlay=False)
modern = mounts.configured

def before_6_7(fstype, options, *rest):
    if any(key == "lowerdir+" for key, _ in options):
        raise calls.KernelError(22, "fsconfig")
    return modern(fstype, options, *rest)

if "old" in sys.argv:
    mounts.configured = before_6_7
script = "head -1 /proc/mounts; echo new > /etc/new; cat /etc/new; id -u; rm /bin/ls; ls /bin/ls"
options = RUN.parse(["--name", "old"])
sys.exit(carry_out(engine.prepare("localhost/test/box", ["sh", "-c", script], options),
                   keep_input=False))
"""


@pytest.mark.parametrize("kernel", ["old", "new"])
def test_layers_without_id_maps_by_mount_2_and_by_fsconfig(root, kernel):
    """Before Linux 6.7 overlayfs has no lowerdir+, so mount(2) is used: here it is refused."""
    NAMES.add("old")
    done = subprocess.run(
        [sys.executable, "-c", OLD_KERNEL, PACKAGE_PARENT, root, kernel],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert "No such file or directory" in done.stderr
    mount, *rest = done.stdout.splitlines()
    assert mount.startswith("overlay / overlay rw,")
    assert rest == ["new", "0"], done.stderr
    assert ("lowerdir+=" in mount) == (kernel == "new")
    assert leftovers(root) == []
