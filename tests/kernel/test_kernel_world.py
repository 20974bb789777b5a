"""What the side panel learns over its comm, and what it can do; here the test is the panel."""

from __future__ import annotations

import time
from queue import Empty
from typing import TYPE_CHECKING, Any

import pytest
from kernel_tools import IMAGE, Kernel, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator


class Panel:
    """A panel: a comm that a client has opened."""

    def __init__(self, kernel: Kernel, target: str = "ctrt.world") -> None:
        self.client = kernel.client
        self.id = f"panel-{time.monotonic_ns()}"
        self._send("comm_open", {"comm_id": self.id, "target_name": target, "data": {}})

    def _send(self, kind: str, content: dict[str, Any]) -> None:
        self.client.shell_channel.send(self.client.session.msg(kind, content))

    def say(self, **data: Any) -> None:
        self._send("comm_msg", {"comm_id": self.id, "data": data})

    def close(self) -> None:
        self._send("comm_close", {"comm_id": self.id, "data": {}})

    def hear(self, kind: str, seconds: float = 20.0) -> dict[str, Any]:
        """The next message of a kind."""
        end = time.monotonic() + seconds
        while True:
            message = self.client.get_iopub_msg(timeout=max(0, end - time.monotonic()))
            content = message["content"]
            if message["msg_type"] == "comm_close" and kind == "close":
                return dict(content)
            mine = message["msg_type"] == "comm_msg" and content["comm_id"] == self.id
            if mine and content["data"]["type"] == kind:
                return dict(content["data"])

    def world_with(self, name: str | None) -> dict[str, Any]:
        """The world as soon as it has just that container, or none."""
        while True:
            world = self.hear("world")
            if [c["name"] for c in world["containers"]] == ([name] if name else []):
                return world


@pytest.fixture
def panel(kernel: Kernel) -> Iterator[Panel]:
    opened = Panel(kernel)
    yield opened
    opened.close()


def test_the_world(kernel: Kernel, panel: Panel) -> None:
    panel.say(type="visible", seconds=0.5)
    world = panel.hear("world")
    assert IMAGE in [image["name"] for image in world["images"]]
    assert world["containers"] == world["sandboxes"] == []
    kernel.send(f"%%container --bg=job --name seen {IMAGE}\necho hello; sleep 600")
    (container,) = panel.world_with("seen")["containers"]
    assert container["image"] == IMAGE
    assert container["output"] is True
    panel.say(type="watch", pictures=[["container", "seen"], ["nobody"]])
    seen, nobody = panel.hear("picture"), panel.hear("picture")
    assert seen["graph"]["title"] == "Container seen"
    assert "there is no running container 'nobody'" in nobody["error"]
    panel.say(type="do", id=1, action="output", name="seen")
    assert panel.hear("done") == {"type": "done", "id": 1, "text": "hello\n"}
    panel.say(type="do", id=2, action="stop", name="seen")
    panel.world_with(None)


def test_a_container_that_is_kept_says_what_for(kernel: Kernel, panel: Panel) -> None:
    kernel.good(f"%%container --as kept {IMAGE}\ntrue")
    panel.say(type="visible", seconds=0.5)
    (container,) = panel.world_with("kept")["containers"]
    assert container["command"] == "kept for cells"
    assert container["output"] is False
    kernel.good("%ctrt stop kept")


def test_what_did_not_change_is_not_told(kernel: Kernel, panel: Panel) -> None:
    panel.say(type="visible", seconds=0.5)
    panel.hear("world")
    with pytest.raises(Empty):
        panel.hear("world", 2.0)


def test_a_hidden_panel_costs_nothing(kernel: Kernel, panel: Panel) -> None:
    threads = "import threading; print(sorted(t.name for t in threading.enumerate()))"
    panel.say(type="visible", seconds=0.5)
    panel.hear("world")
    assert "ctrt world" in kernel.good(threads).stream("stdout")
    panel.say(type="visible", seconds=None)
    assert wait_until(lambda: "ctrt world" not in kernel.good(threads).stream("stdout"))


def test_a_live_view_uses_little_of_a_core(kernel: Kernel, panel: Panel) -> None:
    kernel.good(
        f"%%container --bg=job --name busy {IMAGE}\n"
        "for i in $(seq 1 200); do sleep 600 & done; wait"
    )
    panel.say(type="visible", seconds=1)
    panel.say(type="watch", pictures=[["container", "busy"]])
    panel.hear("picture")
    used = kernel.good(
        "import time\nstart, before = time.monotonic(), time.process_time()\n"
        "time.sleep(4)\nprint((time.process_time() - before) / (time.monotonic() - start))"
    )
    assert float(used.stream("stdout")) < 0.1
    kernel.good("job.stop(0)")


def test_the_output_of_a_container_that_was_left_running(kernel: Kernel, panel: Panel) -> None:
    kernel.good(f"%%container -d --name apart {IMAGE}\necho from afar; exec sleep 600")
    try:
        panel.say(type="visible", seconds=0.5)
        (container,) = panel.world_with("apart")["containers"]
        assert container["output"] is True
        panel.say(type="do", id=3, action="output", name="apart")
        assert panel.hear("done") == {"type": "done", "id": 3, "text": "from afar\n"}
        kernel.good("%ctrt stop -t 0 apart")
        ended: list[dict[str, Any]] = []
        while not ended:
            told = panel.hear("world")["ended"]
            ended = [one for one in told if one["name"] == "apart"]
        assert ended == [{"name": "apart", "image": IMAGE, "how": "ended with status 137"}]
        panel.say(type="do", id=4, action="output", name="apart")
        assert panel.hear("done") == {"type": "done", "id": 4, "text": "from afar\n"}
        panel.say(type="do", id=5, action="forget", name="apart")
        while ended:
            told = panel.hear("world")["ended"]
            ended = [one for one in told if one["name"] == "apart"]
    finally:
        kernel.run("%ctrt rm --force apart")


def test_a_terminal_where_a_program_of_unshare_is(kernel: Kernel, panel: Panel) -> None:
    kernel.good("%%unshare --bg=job --uts --map-root-user\nhostname apart; exec sleep 600")
    try:
        pid = kernel.good("print(job.pid)").stream("stdout").strip()
        panel.say(type="do", id=4, action="terminal", name=f"process {pid}")
        answer = panel.hear("done")
        assert answer["id"] == 4
        assert f" exec -it {pid} sh\n" in answer["text"]
        assert kernel.good(f"%ctrt exec {pid} hostname").stream("stdout") == "apart\n"
    finally:
        kernel.good("job.stop(0)")


def test_mistakes_are_answers(panel: Panel) -> None:
    for action, name, error in (
        ("stop", "nobody", "there is no running container 'nobody'"),
        ("fly", "x", "the panel asks for 'fly', which is unknown"),
        ("output", "x", "there is no container 'x'"),
        ("remove", "localhost/none", "localhost/none"),
        ("pull", "UPPER", "UPPER"),
    ):
        panel.say(type="do", id=action, action=action, name=name)
        answer = panel.hear("done")
        assert answer["id"] == action
        assert error in answer["error"]


def test_a_kernel_without_us_closes_the_comm(plain_kernel: Kernel) -> None:
    assert Panel(plain_kernel).hear("close")
    plain_kernel.good("%load_ext ctrt")
    panel = Panel(plain_kernel)
    panel.say(type="visible", seconds=1)
    assert panel.hear("world")["images"]
