"""Containers that are kept: `--as` makes one, `--in` runs the next cells in it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from kernel_tools import IMAGE, Kernel, leftovers, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def one(kernel: Kernel) -> Iterator[Kernel]:
    outcome = kernel.good(f"%%container --as one {IMAGE}\necho first > /left; echo made")
    assert outcome.stream("stdout") == "made\n"
    yield kernel
    kernel.run("%ctrt stop one")


def test_the_next_cell_runs_in_it(one: Kernel) -> None:
    outcome = one.good(
        "%%container --in one\ncat /left; id -u; echo $$ > /second\ncat /proc/1/comm"
    )
    assert outcome.stream("stdout") == "first\n0\nsh\n"
    assert one.good("%%container --in one cat /second\n").stream("stdout").strip().isdecimal()
    assert one.good("%%container --in one cat\nas input").stream("stdout") == "as input\n"
    assert one.good("%%container --in one -e A=1 -w /etc\necho $A; pwd").stream("stdout") == (
        "1\n/etc\n"
    )


def test_an_image_is_no_command(one: Kernel) -> None:
    assert one.bad(f"%%container --in one {IMAGE}\ntrue") == (
        f"CtrtError: container: {IMAGE} is an image, and with --in one there is none: "
        "what follows the options is a COMMAND"
    )


def test_two_containers_are_two(one: Kernel) -> None:
    one.good(f"%%container --as two {IMAGE}")
    one.good("%%container --in two\ntest ! -e /left && echo other > /left")
    assert one.good("%%container --in one\ncat /left").stream("stdout") == "first\n"
    assert one.good("%%container --in two\ncat /left").stream("stdout") == "other\n"
    one.good("%ctrt stop two")


def test_a_mount_is_seen_by_the_next_cell(one: Kernel) -> None:
    one.good(f"%%container --as mounts --cap-add SYS_ADMIN {IMAGE}\nmkdir /m; mount -t tmpfs t /m")
    seen = one.good("%%container --in mounts\ncat /proc/self/mountinfo").stream("stdout")
    assert " /m " in seen
    assert " /m " not in one.good("%%container --in one\ncat /proc/self/mountinfo").stream("stdout")
    one.good("%ctrt stop mounts")


def test_the_same_cell_again_begins_anew(one: Kernel) -> None:
    one.good("%%container --in one\necho more >> /left")
    one.good(f"%%container --as one {IMAGE}\necho first > /left")
    assert one.good("%%container --in one\ncat /left").stream("stdout") == "first\n"


def test_a_cell_that_starts_nothing_leaves_the_one_that_is_kept(one: Kernel) -> None:
    one.bad("%%container --as one --pull never localhost/none\ntrue")
    one.good(f"%%container --as one --plan {IMAGE}\ntrue")
    assert "one" in one.good("%ctrt ps").result["text/plain"].split()


def test_all_that_a_cell_can(one: Kernel) -> None:
    one.good("text = 'put'")
    outcome = one.good(
        "%%container --in one --put text=/put --display --out got\n"
        "#!/usr/bin/env bash\na=(1 2 3); echo ${#a[@]}; cat /put; echo x | ctrt-display html"
    )
    assert outcome.displays[0]["text/html"] == "x\n"
    assert one.good("got").result["text/plain"] == r"'3\nput'"
    assert one.bad("%%container --in one\nexit 3").endswith("ended with status 3")
    asked, _ = one.asked("%%container --in one -i\nread a; echo $a", "answer")
    assert asked.stream("stdout") == "answer\n"
    one.good("%%container --in one --bg=job\necho behind")
    assert one.good("job.wait(), job.text()").result["text/plain"] == r"(0, 'behind\n')"
    graph = one.good("%%container --in one --graph\ntrue").displays[0]
    assert "image/svg+xml" in graph


def test_a_container_of_another_notebook(one: Kernel, fresh_kernel: Kernel) -> None:
    outcome = fresh_kernel.good("text = 'put'")
    outcome = fresh_kernel.good(
        "%%container --in one --put text=/from-there\ncat /left; id -u; cat /proc/self/cgroup"
    )
    assert outcome.stream("stdout").startswith("first\n0\n")
    assert one.good("%%container --in one\ncat /from-there").stream("stdout") == "put"
    same = one.good("%%container --in one\ncat /proc/self/cgroup").stream("stdout")
    assert outcome.stream("stdout").endswith(same)
    sent = fresh_kernel.send("%%container --in one\necho ready; exec sleep 600")
    ended = fresh_kernel.outcome(
        sent, watch=lambda m: fresh_kernel.interrupt() if m.kind == "stream" else None
    )
    assert ended.error.startswith("KeyboardInterrupt")
    assert one.good("%%container --in one\ncat /left").stream("stdout") == "first\n"


def test_two_notebooks_pull_and_run_the_same_at_once(one: Kernel, fresh_kernel: Kernel) -> None:
    one.good("from ctrt.images.serve import Server; from ctrt.engine import default_engine")
    one.good("server = Server(default_engine().store).start_in_thread()")
    port = one.good("print(server.port)").stream("stdout").strip()
    image = f"localhost:{port}/test/shell"
    cell = f"%%container --pull always {image}\necho ran"
    for _ in range(3):
        sent = [(kernel, kernel.send(cell)) for kernel in (one, fresh_kernel)]
        for kernel, message in sent:
            outcome = kernel.outcome(message)
            assert outcome.error == ""
            assert outcome.stream("stdout") == "ran\n"
        one.good(f"%ctrt rmi {image}")
    one.good("server.stop()")
    error = fresh_kernel.bad(f"%%container --name one {IMAGE}\ntrue")
    assert "one" in error


def test_a_container_that_was_left_running(kernel: Kernel) -> None:
    kernel.good(f"%%container -d --name apart {IMAGE}\nexec sleep 600")
    try:
        outcome = kernel.good("%%container --in apart -u 12:34\nid -u; id -g; cat /proc/1/comm")
        assert outcome.stream("stdout") == "12\n34\nsleep\n"
    finally:
        kernel.good("%ctrt stop -t 0 apart")


def test_a_terminal_in_a_container_that_runs(one: Kernel) -> None:
    outcome, _ = one.asked("%%container --in one -t\ntty; read a < /dev/tty; echo $a", "answer")
    assert outcome.stream("stdout") == "/dev/pts/0\nanswer\n"


def test_mistakes(one: Kernel) -> None:
    assert one.bad("%%container --in oen\ntrue") == (
        "CtrtError: there is no running container 'oen'; these run: one"
    )
    assert one.bad("%%container --in one --tmpfs /a\ntrue") == (
        "CtrtError: container: --tmpfs cannot go with --in: the container is there already, and "
        "has what it was made with"
    )
    assert one.bad(f"%%container --as one --name two {IMAGE}\ntrue").startswith(
        "CtrtError: container: --name cannot go with --as"
    )


def test_it_ends_with_the_kernel(fresh_kernel: Kernel, store: Path) -> None:
    fresh_kernel.good(f"%%container --as gone {IMAGE}\ntrue")
    assert leftovers(store)
    import os
    import signal

    os.kill(fresh_kernel.pid, signal.SIGKILL)
    assert wait_until(lambda: leftovers(store) == [])


def test_a_program_is_entered_after_a_background_cell_ran_in_it(kernel: Kernel) -> None:
    kernel.good("first = %unshare --bg -Urpf --mount-proc sleep 600")
    second = kernel.good("%container --bg=second --in {first.pid} sleep 600")
    # The handle's words are the same tomorrow, when the process has another number.
    assert second.result["text/plain"].startswith("sleep in other namespaces, in the background")
    outcome = kernel.good("%%container --in {first.pid}\ncat /proc/1/comm")
    assert outcome.stream("stdout") == "sleep\n"
    kernel.good("second.stop(); first.stop()")


def test_a_picture_of_mounts_is_of_one_place_and_says_no_pid(kernel: Kernel) -> None:
    lines = "mount -t tmpfs x /srv; mkdir /srv/a /srv/ab; mount -t tmpfs y /srv/a; exec sleep 600"
    kernel.good(f"%%unshare --bg=one -Urm /bin/sh\n{lines}")
    kernel.good("two = %container --bg --in {one.pid} unshare -m sleep 600")
    waiting = "while any(observe.snapshot(j.pid).status.name != 'sleep' for j in (one, two)): pass"
    kernel.good(f"from ctrt import observe\n{waiting}")
    kernel.good("%%container --in {one.pid}\nmount -t tmpfs over /mnt; mount -t tmpfs over /mnt")
    bundle = kernel.good("%ctrt graph mounts --below /srv/ {one.pid}").result
    assert "covered" not in bundle["image/svg+xml"]  # what is so elsewhere is not counted
    picture = bundle["text/plain"]
    assert [line.split()[0] for line in picture.splitlines()[4:]] == ["/srv", "└─"]
    assert picture.startswith("Mounts of sleep\n")
    beside = kernel.good("%ctrt graph mounts --below /srv {one.pid} {two.pid}")
    assert "Mounts of the first sleep and of the second sleep" in beside.result["text/plain"]
    network = kernel.good("%ctrt graph network {one.pid}").result["text/plain"]
    assert network.startswith("Network of sleep\n")
    nothing = kernel.run("%ctrt graph mounts --below /srv/b {one.pid}").error
    assert nothing == "CtrtError: graph mounts: sleep has no mount at /srv/b or below it"
    relative = kernel.run("%ctrt graph mounts --below srv {one.pid}").error
    assert relative == "CtrtError: graph: --below needs a whole path, as in /mnt, not 'srv'"
    other = kernel.run("%ctrt graph caps --below /srv {one.pid}").error
    assert other == "CtrtError: graph caps: --below goes with mounts alone"
    kernel.good("two.stop(); one.stop()")


def test_a_verb_with_nothing_to_say_shows_nothing(kernel: Kernel, tmp_path: Path) -> None:
    assert kernel.good(f"%ctrt save --quiet -o {tmp_path}/saved.tar {IMAGE}").result == {}
