"""A running kernel as a test sees it, and what a container must not leave."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path
from queue import Empty
from typing import TYPE_CHECKING, Any, NamedTuple

from jupyter_client.manager import KernelManager

if TYPE_CHECKING:
    from collections.abc import Callable

    from jupyter_client.blocking.client import BlockingKernelClient

PROJECT = Path(__file__).resolve().parents[2]
IMAGE = "localhost/test/shell"
CELL_SECONDS = 60.0


class Message(NamedTuple):
    """A message of a cell's output, and when it came (seconds after the cell was sent)."""

    kind: str
    content: dict[str, Any]
    seconds: float


class Outcome(NamedTuple):
    """All that a cell gave."""

    messages: list[Message]
    reply: dict[str, Any]

    def stream(self, name: str) -> str:
        """What was written to "stdout" or "stderr"."""
        return "".join(
            m.content["text"]
            for m in self.messages
            if m.kind == "stream" and m.content["name"] == name
        )

    @property
    def error(self) -> str:
        """The traceback, which is one line for all errors of ours; "" without an error."""
        return "".join(
            "\n".join(m.content["traceback"]) for m in self.messages if m.kind == "error"
        )

    @property
    def result(self) -> dict[str, Any]:
        """The forms of the cell's value."""
        return next((m.content["data"] for m in self.messages if m.kind == "execute_result"), {})

    @property
    def displays(self) -> list[dict[str, Any]]:
        """The forms of what was displayed."""
        return [m.content["data"] for m in self.messages if m.kind == "display_data"]


class Kernel:
    """A running kernel and its client."""

    def __init__(self, name: str = "ctrt") -> None:
        self.manager = KernelManager(kernel_name=name)
        self.manager.start_kernel(stderr=open(os.devnull, "w"))  # noqa: SIM115
        self.client: BlockingKernelClient = self.manager.client()
        self.client.start_channels()
        self.client.wait_for_ready(timeout=120)
        self.is_read = False
        """Whether cells are sent as a page does, where somebody could answer."""

    @property
    def pid(self) -> int:
        """The kernel's process."""
        return self.manager.provisioner.process.pid

    def send(self, code: str) -> str:
        """Send a cell; its message id."""
        return self.client.execute(code, store_history=False, allow_stdin=self.is_read)

    def outcome(self, sent: str, *, watch: Callable[[Message], object] = lambda _: None) -> Outcome:
        """Wait for a cell's end; `watch` sees each message as it comes."""
        start = time.monotonic()
        messages = []
        while True:
            try:
                message = self.client.get_iopub_msg(timeout=1)
            except Empty:
                assert self.manager.is_alive(), "the kernel died"
                assert time.monotonic() < start + CELL_SECONDS, "the cell does not end"
                continue
            if message["parent_header"].get("msg_id") != sent:
                continue
            content = message["content"]
            if message["msg_type"] == "status":
                if content["execution_state"] == "idle":
                    break
                continue
            messages.append(Message(message["msg_type"], content, time.monotonic() - start))
            watch(messages[-1])
        while True:
            reply = self.client.get_shell_msg(timeout=CELL_SECONDS)
            if reply["parent_header"].get("msg_id") == sent:
                return Outcome(messages, reply["content"])

    def run(self, code: str, *, watch: Callable[[Message], object] = lambda _: None) -> Outcome:
        """Run a cell."""
        return self.outcome(self.send(code), watch=watch)

    def asked(self, code: str, *answers: str | None) -> tuple[Outcome, list[dict[str, Any]]]:
        """Run a cell as a reader who answers its questions; None is the stop button."""
        sent = self.client.execute(code, store_history=False, allow_stdin=True)
        questions: list[dict[str, Any]] = []
        left = list(answers)
        done = threading.Event()

        def answer() -> None:
            while not done.is_set():
                try:
                    question = self.client.get_stdin_msg(timeout=0.1)
                except Empty:
                    continue
                questions.append(question["content"])
                reply = left.pop(0)
                if reply is None:
                    self.interrupt()
                else:
                    self.client.input(reply)

        thread = threading.Thread(target=answer)
        thread.start()
        try:
            return self.outcome(sent), questions
        finally:
            done.set()
            thread.join()

    def good(self, code: str) -> Outcome:
        """Run a cell that must not fail."""
        outcome = self.run(code)
        assert outcome.error == "", outcome.error
        assert outcome.reply["status"] == "ok", outcome.stream("stderr")
        return outcome

    def bad(self, code: str) -> str:
        """Run a cell that must fail; its error as it is shown, which must be one line."""
        outcome = self.run(code)
        assert outcome.reply["status"] == "error"
        assert "\n" not in outcome.error
        assert outcome.error == f"{outcome.reply['ename']}: {outcome.reply['evalue']}"
        return outcome.error

    def completions(self, code: str, position: int | None = None) -> list[str]:
        """What is offered at a position (the end if None)."""
        sent = self.client.complete(code, position)
        while True:
            reply = self.client.get_shell_msg(timeout=CELL_SECONDS)
            if reply["parent_header"].get("msg_id") == sent:
                return list(reply["content"]["matches"])

    def interrupt(self) -> None:
        """What a click on the stop button does."""
        self.manager.interrupt_kernel()

    def stop(self) -> None:
        """Shut it down in order."""
        self.client.stop_channels()
        self.manager.shutdown_kernel()


def explained(kernel: Kernel, code: str, position: int | None = None) -> str:
    """What Shift-Tab shows at a position (the end if None)."""
    sent = kernel.client.inspect(code, position)
    while True:
        reply = kernel.client.get_shell_msg(timeout=CELL_SECONDS)
        if reply["parent_header"].get("msg_id") == sent:
            return str(reply["content"]["data"].get("text/plain", ""))


def on_control(kernel: Kernel, kind: str, content: dict[str, Any]) -> dict[str, Any]:
    """Ask on the control channel; the answer's content."""
    message = kernel.client.session.msg(kind, content)
    kernel.client.control_channel.send(message)
    while True:
        reply = kernel.client.get_control_msg(timeout=CELL_SECONDS)
        if reply["parent_header"].get("msg_id") == message["header"]["msg_id"]:
            return dict(reply["content"])


def debugged(kernel: Kernel) -> tuple[int, str]:
    """Debug a cell as JupyterLab does: the line that it stopped at, and what it printed then."""
    code = "x = 1\ny = x + 1\nprint(y)"
    number = iter(range(1, 100))

    def ask(command: str, **arguments: Any) -> dict[str, Any]:
        request = {"type": "request", "seq": next(number), "command": command}
        answer = on_control(kernel, "debug_request", {**request, "arguments": arguments})
        assert answer["success"], answer
        return dict(answer.get("body") or {})

    assert ask("debugInfo")["isStarted"] is False
    ask("initialize", clientID="jupyterlab", adapterID="", pathFormat="path", locale="en",
        linesStartAt1=True, columnsStartAt1=True)  # fmt: skip
    ask("attach")
    path = ask("dumpCell", code=code)["sourcePath"]
    ask("setBreakpoints", source={"path": path}, breakpoints=[{"line": 2}], sourceModified=False)
    ask("configurationDone")
    sent = kernel.send(code)
    while True:
        message = kernel.client.get_iopub_msg(timeout=CELL_SECONDS)
        if message["content"].get("event") == "stopped":
            break
    thread = message["content"]["body"]["threadId"]
    line = ask("stackTrace", threadId=thread)["stackFrames"][0]["line"]
    ask("continue", threadId=thread)
    printed = kernel.outcome(sent).stream("stdout")
    ask("disconnect", restart=False, terminateDebuggee=False)
    return line, printed


def leftovers(store: Path) -> list[str]:
    """What a container must not leave: a directory, a mount, a cgroup, a process."""
    containers = store / "containers"
    found = [str(path) for path in containers.iterdir()] if containers.exists() else []
    with open("/proc/self/mountinfo") as file:
        found += [line for line in file if f"{store}/containers" in line]
    for process in Path("/proc").glob("[0-9]*"):
        try:
            command = (process / "cmdline").read_bytes()
        except OSError:
            continue
        if b"left-behind" in command and process.name != str(os.getpid()):
            found.append(f"{process.name} {command!r}")
    return found


def wait_until(condition: Callable[[], object], seconds: float = 20.0) -> bool:
    """Whether a condition comes true in time."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.05)
    return False
