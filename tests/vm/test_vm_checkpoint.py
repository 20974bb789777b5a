"""Checkpoint and restore by criu: processes go on where they were, in a container of ours."""

from __future__ import annotations

import json

from vm_bundle import Bundle, config
from vm_image import ROOTFS
from vm_machine import Machine, wait_until

IMAGE = "localhost/counting"
COUNT = "n=0; while :; do n=$((n + 1)); echo $n >/tmp/count; echo $n; sleep 0.2; done"


def counting(vm: Machine, **linux: object) -> Bundle:
    document = config("sh", "-c", COUNT)
    document["mounts"].append({"destination": "/tmp", "type": "tmpfs", "source": "tmpfs"})
    document["mounts"].append(
        {"destination": "/mnt", "type": "bind", "source": "/var/tmp", "options": ["rbind", "ro"]}
    )
    document["linux"]["maskedPaths"] = ["/proc/kcore", "/proc/scsi", "/proc/timer_list"]
    document["linux"]["readonlyPaths"] = ["/proc/sys", "/proc/bus"]
    document["linux"].update(linux)
    return Bundle(vm, "ctrt-runtime", document)


def count(box: Bundle, name: str = "ID") -> int:
    said = box.say(f"exec {name} cat /tmp/count")
    assert said.status == 0, (said, box.machine.run(f"tail -20 {box.path}/work/*.log"))
    return int(said.out)


def saved(box: Bundle, flags: str = "") -> None:
    said = box.say(f"checkpoint --image-path image --work-path work {flags} ID")
    assert said.status == 0, (said, box.machine.run(f"tail -30 {box.path}/work/dump.log"))


def restored(box: Bundle, name: str = "ID", out: str = "out") -> None:
    words = f"restore -d --pid-file pid --image-path image --work-path work {name}"
    said = box.say(f"{words} </dev/null >>{out} 2>&1")
    out = box.machine.run(f"tail -5 {box.path}/out; grep -m5 Error -B5 {box.path}/work/restore.log")
    assert said.status == 0, out


def test_processes_go_on_where_they_were(vm: Machine) -> None:
    limits = {"pids": {"limit": 17}}
    box = counting(vm, cgroupsPath="/tests/saved", resources=limits)
    before = box.start()
    wait_until(vm, f"test $(tail -n1 {box.path}/out) -gt 5")
    saved(box)
    assert vm.run(f"test -d /proc/{before}").status != 0
    assert "does not exist" in box.say("state ID").err
    reached = int(vm.check(f"tail -n1 {box.path}/out"))

    restored(box)
    assert box.state()["status"] == "running"
    pid = int(vm.check(f"cat {box.path}/pid"))
    assert box.state()["pid"] == pid
    wait_until(vm, f"test $(tail -n1 {box.path}/out) -gt {reached + 3}")
    assert reached < count(box) < reached + 1000
    assert vm.check("cat /sys/fs/cgroup/tests/saved/pids.max") == "17\n"
    assert vm.check(f"cat /proc/{pid}/cgroup") == "0::/tests/saved\n"
    assert box.say("exec ID hostname").out == "box\n"
    assert box.say("exec ID touch /mnt/x").status != 0  # the mount from outside, read-only as ever
    box.delete()
    assert vm.run(f"test -d /proc/{pid}").status != 0
    assert vm.run("test -d /sys/fs/cgroup/tests/saved").status != 0
    assert vm.run(f"grep {box.id} /proc/mounts").status != 0


def test_one_that_is_left_running_goes_on_twice(vm: Machine) -> None:
    box = counting(vm)
    # A file that grows meanwhile could not be given to the saved process again.
    assert box.say("create --pid-file pid ID </dev/null >/dev/null 2>&1").status == 0
    assert box.say("start ID").status == 0
    first = int(vm.check(f"cat {box.path}/pid"))
    wait_until(vm, f"test $({box.command} exec {box.id} cat /tmp/count) -gt 3")
    saved(box, "--leave-running")
    assert box.state()["pid"] == first
    said = box.say("restore -d --image-path image --work-path work ID")
    assert "already exists" in said.err
    restored(box, "again", "/dev/null")
    assert box.say("list -q").out.split() == ["again", box.id]
    assert count(box) > 0
    assert count(box, "again") > 0
    assert box.say("delete --force again").status == 0
    box.delete()


RECEIVER = """
import array, os, socket, sys
listener = socket.socket(socket.AF_UNIX)
listener.bind(sys.argv[1])
listener.listen()
while True:
    connection, _ = listener.accept()
    _, rights, _, _ = connection.recvmsg(64, socket.CMSG_SPACE(4))
    master = array.array("i", rights[0][2])[0]
    if os.fork() == 0:
        os.write(master, b"hello\\n")
        with open(sys.argv[2], "ab", buffering=0) as said:
            while True:
                try:
                    said.write(os.read(master, 4096))
                except OSError:
                    os._exit(0)
    os.close(master)
    connection.close()
"""


LISTEN = "n=0; while :; do n=$((n + 1)); echo $n; read -t 1 line && echo got $line; done"


def test_a_terminal_s_other_end_comes_over_the_socket_again(vm: Machine) -> None:
    box = counting(vm)
    document = config("sh", "-c", LISTEN, terminal=True)
    vm.put(f"{box.path}/config.json", json.dumps(document))
    vm.put(f"{box.path}/receiver.py", RECEIVER)
    vm.check(
        f"cd {box.path} && (setsid python3 receiver.py socket said </dev/null >received 2>&1 &"
        " echo $! >receiver) && for i in $(seq 100); do test -S socket && exit; sleep 0.1; done"
    )
    last = f"tr -d '\\r' <{box.path}/said | grep -x '[0-9]*' | tail -n1"
    socket = "--console-socket socket --pid-file pid"
    assert box.say(f"run -d {socket} ID </dev/null >out 2>&1").status == 0
    for _ in range(2):
        wait_until(vm, f"test $({last}) -gt 2")
        saved(box)
        reached = int(vm.check(last))
        refused = box.say("restore -d --image-path image --work-path work ID")
        assert "console socket" in refused.err
        said = box.say(
            f"restore -d {socket} --image-path image --work-path work ID </dev/null >out 2>&1"
        )
        assert said.status == 0, vm.run(f"cat {box.path}/out; tail {box.path}/work/restore.log")
        wait_until(vm, f"test $({last}) -gt {reached + 2}")
    assert box.say("exec ID readlink /proc/1/fd/0").out == "/dev/pts/0\n"
    # What the receiver typed at each of the three came to the one process.
    wait_until(vm, f"test $(grep -c 'got hello' {box.path}/said) = 3")
    box.delete()
    vm.check(f"kill $(cat {box.path}/receiver)")


def test_hooks_equip_a_restored_network(vm: Machine) -> None:
    box = counting(vm)
    document = json.loads(vm.check(f"cat {box.path}/config.json"))
    found = f"sed 's/.*\"pid\": *\\([0-9]*\\).*/\\1/' {box.path}/told"
    script = f"ip netns attach {box.id} $({found})"
    hook = {"path": "/bin/sh", "args": ["sh", "-c", f"cat > {box.path}/told; {script}"]}
    document["hooks"] = {"createRuntime": [hook]}
    vm.put(f"{box.path}/config.json", json.dumps(document))
    box.start()
    wait_until(vm, f"test $(tail -n1 {box.path}/out) -gt 2")
    vm.check(f"ip -n {box.id} link add v0 type dummy && ip netns delete {box.id}")
    saved(box, "--empty-ns network")
    restored(box)
    assert json.loads(vm.check(f"cat {box.path}/told"))["status"] == "creating"
    # It is the new one, of which nothing is restored.
    own = vm.check(f"readlink /proc/$(cat {box.path}/pid)/ns/net")
    assert vm.check(f"ip netns exec {box.id} readlink /proc/self/ns/net") == own
    assert vm.run(f"ip -n {box.id} link show v0").status != 0
    vm.check(f"ip netns delete {box.id}")
    assert box.say("checkpoint --empty-ns pid ID").status == 1
    saved(box, "--empty-ns network")
    document["hooks"]["createRuntime"] = [{"path": "/bin/false"}]
    vm.put(f"{box.path}/config.json", json.dumps(document))
    said = box.say("restore -d --image-path image --work-path work ID </dev/null >out2 2>&1")
    assert said.status == 1
    assert "error running createRuntime hook #0" in vm.check(f"cat {box.path}/out2")
    assert box.id not in box.say("list -q").out


def test_only_the_memory_is_saved_first(vm: Machine) -> None:
    box = counting(vm)
    box.start()
    wait_until(vm, f"test $(tail -n1 {box.path}/out) -gt 1")
    said = box.say("checkpoint --pre-dump --image-path before --work-path work ID")
    assert said.status == 0, (said, vm.run(f"tail -30 {box.path}/work/dump.log"))
    assert box.state()["status"] == "running"
    for parent in (f"{box.path}/before", "../nowhere"):
        refused = box.say(f"checkpoint --image-path image --parent-path {parent} ID")
        assert (refused.status, "--parent-path" in refused.err) == (1, True)
    saved(box, "--parent-path ../before --manage-cgroups-mode soft")
    assert vm.check(f"readlink {box.path}/image/parent") == "../before\n"
    restored(box)
    reached = count(box)
    wait_until(vm, f"test $(tail -n1 {box.path}/out) -gt {reached}")
    box.delete()


def test_what_cannot_be_saved_or_restored_is_told_in_a_sentence(vm: Machine) -> None:
    box = counting(vm)
    assert "only a running one can be saved" in counting_created(vm)
    said = box.say("restore --image-path /var/empty ID")
    assert said.status == 1
    assert "/var/empty has no saved container" in said.err
    assert box.id not in box.say("list -q").out
    # criu's own refusal, with nothing left behind: the image is not whole.
    box = counting(vm)
    box.start()
    saved(box)
    vm.check(f"rm {box.path}/image/pages-1.img")
    said = box.say("restore -d --image-path image --work-path work ID </dev/null >/dev/null")
    assert said.status == 1
    assert "restore: criu failed" in said.err
    assert box.id not in box.say("list -q").out
    assert vm.run(f"test -d /sys/fs/cgroup/ctrt-runtime/{box.id}").status != 0


KILLED = """
cd $1
for after in 0.3 0.6 0.9 1.2; do
    ctrt-runtime restore -d --image-path image --work-path work $2 </dev/null >/dev/null 2>&1 &
    sleep $after
    kill -9 $! 2>/dev/null
    wait $! 2>/dev/null
    ctrt-runtime delete --force $2 || echo delete
    ctrt-runtime list -q | grep $2
    ls -d /sys/fs/cgroup/tests/killed 2>/dev/null
    grep $1 /proc/mounts
    pgrep -f "[c]riu restore.*$2"
    pgrep -f "[s]h -c n=0.*$2"
done
true
"""


def test_a_restore_that_is_killed_leaves_nothing(vm: Machine) -> None:
    box = counting(vm, cgroupsPath="/tests/killed")
    config = json.loads(vm.check(f"cat {box.path}/config.json"))
    config["process"]["args"][2] += f"; : {box.id}"
    vm.put(f"{box.path}/config.json", json.dumps(config))
    box.start()
    wait_until(vm, f"test $(tail -n1 {box.path}/out) -gt 2")
    saved(box)
    words = ("bash", "-c", KILLED, "bash", box.path, box.id)
    assert vm.run(*words, timeout=110) == (0, "", "")


def counting_created(vm: Machine) -> str:
    """What `checkpoint` says of a container that is created, and not started."""
    box = counting(vm)
    assert box.say("create ID </dev/null >out 2>&1").status == 0
    said = box.say("checkpoint ID")
    assert said.status == 1
    box.delete()
    return said.err


def test_podman_saves_and_restores(systemd_vm: Machine) -> None:
    systemd_vm.check(f"tar -C {ROOTFS} -c . | podman import --quiet - {IMAGE}")
    podman = "podman --runtime /opt/ctrt/bin/ctrt-runtime"
    out = systemd_vm.check(
        f"""
        {podman} run -d --name counts --network none {IMAGE} sh -c '{COUNT}' >/dev/null
        sleep 2
        {podman} container checkpoint counts >/dev/null
        {podman} inspect --format '{{{{.State.Status}}}}' counts
        before=$({podman} logs counts | tail -n1)
        {podman} container restore counts >/dev/null
        {podman} inspect --format '{{{{.State.Status}}}}' counts
        sleep 2
        after=$({podman} exec counts cat /tmp/count)
        test $after -gt $before && echo "went on"
        {podman} rm --force --time 0 counts >/dev/null
        """
    )
    assert out.split("\n") == ["exited", "running", "went on", ""]
