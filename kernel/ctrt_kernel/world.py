"""The world of a kernel, told to JupyterLab's side panel over a comm.

The panel opens a comm to the target `ctrt.world`. While it says that it is visible, a thread looks
every so often and tells what has changed: containers, images, jobs, and the pictures of
what is watched. While it is not, nothing runs. The comm goes wherever the kernel's messages go,
so the panel works with kernels of other machines, too.

From the panel: {"type": "visible", "seconds": 2 | null}, {"type": "watch", "pictures": [WORDS]},
{"type": "do", "id": N, "action": A, "name": NAME}, with the actions stop, remove, output, terminal,
forget (a container that has ended) and pull. WORDS are those of `%ctrt graph`, or ["difference",
ONE, OTHER].
To the panel: {"type": "world", ...}, {"type": "picture", "words", "graph" | "error"},
{"type": "progress", "name", "done", "total"}, {"type": "done", "id", "text" | "error"}.
"""

from __future__ import annotations

import os
import threading
import time
from typing import TYPE_CHECKING, Any

from ctrt.engine import default_engine
from ctrt.errors import CtrtError

if TYPE_CHECKING:
    from collections.abc import Callable

    from comm.base_comm import BaseComm

    from ctrt.engine import Engine
    from ctrt.images.pull import Progress

TARGET = "ctrt.world"
LEAST_SECONDS = 0.5
MOST_OF_A_CORE = 0.025
"""What looking may cost: where a look takes long, there are fewer of them."""
_PROGRESS_SECONDS = 0.1


def register() -> None:
    """Let panels open the comm."""
    from comm import get_comm_manager

    get_comm_manager().register_target(TARGET, _open)


def _open(comm: BaseComm, _message: dict[str, Any]) -> None:
    Panel(comm)


def unregister() -> None:
    """Let them no longer."""
    from comm import get_comm_manager

    get_comm_manager().unregister_target(TARGET, _open)


class Panel:
    """One panel, of one client, as the kernel sees it."""

    def __init__(self, comm: Any) -> None:
        self._comm = comm
        self._wake = threading.Event()
        self._seconds: float | None = None
        self._watched: list[tuple[str, ...]] = []
        self._closed = False
        self._told: dict[str | tuple[str, ...], dict[str, Any]] = {}
        self._thread: threading.Thread | None = None
        comm.on_msg(self._receive)
        comm.on_close(self._close)

    def _close(self, _message: Any) -> None:
        self._closed = True
        self._wake.set()

    def _receive(self, message: dict[str, Any]) -> None:
        data = message["content"]["data"]
        kind = data.get("type")
        if kind == "visible":
            seconds = data.get("seconds")
            self._seconds = None if seconds is None else max(LEAST_SECONDS, float(seconds))
            self._told.clear()
            self._look_soon()
        elif kind == "watch":
            self._watched = [tuple(map(str, words)) for words in data.get("pictures", [])]
            self._look_soon()
        elif kind == "do":
            threading.Thread(target=self._do, args=(data,), name="ctrt panel", daemon=True).start()

    def _look_soon(self) -> None:
        if self._thread is None or not self._thread.is_alive():
            self._thread = threading.Thread(target=self._follow, name="ctrt world", daemon=True)
            self._thread.start()
        self._wake.set()

    def _follow(self) -> None:
        while not self._closed and self._seconds is not None:
            self._wake.clear()
            before = time.thread_time()
            self._tell("world", {"type": "world", **world()})
            for words in self._watched:
                # An image does not change.
                if words[:1] != ("image",) or words not in self._told:
                    message = {"type": "picture", "words": list(words), **_picture(words)}
                    self._tell(words, message)
            spent = time.thread_time() - before
            self._wake.wait(max(self._seconds or 0.0, spent / MOST_OF_A_CORE))

    def _tell(self, what: str | tuple[str, ...], message: dict[str, Any]) -> None:
        """Say it, unless it was said already."""
        if self._told.get(what) != message:
            self._told[what] = message
            self._comm.send(message)

    def _do(self, order: dict[str, Any]) -> None:
        action = _ACTIONS.get(str(order.get("action")))
        answer: dict[str, Any] = {"type": "done", "id": order.get("id")}
        try:
            if action is None:
                raise CtrtError(f"the panel asks for {order.get('action')!r}, which is unknown")
            answer["text"] = action(str(order.get("name", "")), self._comm.send)
        except CtrtError as error:
            answer["error"] = str(error)
        except OSError as error:
            answer["error"] = error.strerror or str(error)
        self._comm.send(answer)
        self._wake.set()


def world() -> dict[str, Any]:
    """What there is now, as JSON."""
    from ctrt.engine.verbs.containers import command_of
    from ctrt.oci.reference import parse
    from ctrt_kernel import jobs

    engine = default_engine()
    mine = {job.name: job for job in jobs.running() if job.name}
    try:
        states = engine.states()
        containers = [
            {
                "name": state["name"],
                "image": parse(state["image"]).familiar(),
                "command": command_of(state, 200),
                "pid": int(state["pid"]),
                "output": bool(state.get("record"))
                or (state["name"] in mine and not mine[state["name"]].keeps),
            }
            for state in states
            if state["image"]
        ]
        sandboxes = [
            {"name": state["name"], "command": command_of(state), "pid": int(state["pid"])}
            for state in states
            if not state["image"]
        ]
        images = [
            {"name": parse(image.reference).familiar(), "size": image.size}
            for image in engine.store.images()
        ]
        ended = _ended(engine, {entry["name"] for entry in containers})
    except (CtrtError, OSError) as error:
        nothing: dict[str, Any] = {"containers": [], "ended": [], "images": [], "sandboxes": []}
        return {"error": str(error), **nothing}
    sandboxes += [
        {"name": f"process {job.pid}", "command": job.what, "pid": job.pid}
        for job in jobs.running()
        if not job.name
    ]
    containers.sort(key=lambda entry: str(entry["name"]))
    images.sort(key=lambda entry: str(entry["name"]))
    return {"containers": containers, "ended": ended, "images": images, "sandboxes": sandboxes}


def _ended(engine: Engine, running: set[str]) -> list[dict[str, Any]]:
    """The containers that were left running, and have ended, and are not forgotten yet."""
    from ctrt.engine import detached
    from ctrt.oci.reference import parse

    found = []
    for record in detached.records(engine.root):
        if record.name in running:
            continue
        status = record.status
        try:
            image = parse(record.state()["image"]).familiar()
        except OSError:
            continue  # somebody forgot it just now
        how = "ended" if status is None else f"ended with status {status}"
        found.append({"name": record.name, "image": image, "how": how})
    return found


def _picture(words: tuple[str, ...]) -> dict[str, Any]:
    from ctrt.engine.verbs import VERBS
    from ctrt.engine.verbs.seeing import compare

    # A program of `%%unshare` has no name.
    targets = [word.removeprefix("process ") for word in words]
    try:
        if targets[:1] == ["difference"]:
            return {"graph": compare(default_engine(), *targets[1:3]).json()}
        return {"graph": VERBS["graph"](default_engine(), ["--", *targets]).json()}
    except (CtrtError, OSError) as error:
        return {"error": str(error)}


def _stop(name: str, _send: Callable[[dict[str, Any]], None]) -> str:
    from ctrt_kernel import jobs

    for job in jobs.running():
        if name in (job.name, f"process {job.pid}"):
            job.stop()
            return name
    engine = default_engine()
    engine.stop(name, engine.pid_of(name), 10.0)
    return name


def _remove(name: str, _send: Callable[[dict[str, Any]], None]) -> str:
    default_engine().remove_image(name)
    return name


def _forget(name: str, _send: Callable[[dict[str, Any]], None]) -> str:
    from ctrt.engine.verbs import VERBS

    return str(VERBS["rm"](default_engine(), ["--", name]))


def _output(name: str, _send: Callable[[dict[str, Any]], None]) -> str:
    from ctrt.engine.verbs import VERBS
    from ctrt_kernel import fold, jobs

    for job in jobs.running():
        if name == job.name and not job.keeps:
            return fold.latest(job.text(), "the handle's .text()")
    # A detached container's, whoever started it.
    return fold.latest(str(VERBS["logs"](default_engine(), ["--", name])), f"%ctrt logs {name}")


_WHERE = ("/proc/self/ns/pid", "/proc/self/ns/mnt")
_START = "import sys; sys.path.insert(0, {!r}); from ctrt.cli.main import command; command()"
_SCRIPT = f"""
here=$(cat /proc/sys/kernel/random/boot_id; readlink {" ".join(_WHERE)})
if [ "$here" != "$1" ]; then
    echo "The kernel runs elsewhere than the server that gives terminals, so none can be opened"
    echo "inside $2. Press Enter."
    read -r _
    exit 1
fi
printf '\\033]0;%s\\007' "$2"
shift 2
"$@"
case $? in 12[567]) echo "Press Enter."; read -r _ ;; esac
"""


def _terminal(name: str, _send: Callable[[dict[str, Any]], None]) -> str:
    """A script that opens a shell inside, for a terminal of the server that the page comes from.

    It says so where that server is on another machine, or sees other files or processes.
    """
    import shlex
    import sys

    import ctrt

    engine = default_engine()
    target = name.removeprefix("process ")
    engine.find(target)
    packages = os.path.dirname(os.path.dirname(ctrt.__file__))
    command = [sys.executable, "-I", "-c", _START.format(packages), "--root", engine.root]
    words = [_here(), name, *command, "exec", "-it", target, "sh"]
    return f"set -- {shlex.join(words)}\n{_SCRIPT}"


def _here() -> str:
    """Which machine this is, and which of its files and processes are seen."""
    with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
        boot = file.read().strip()
    return "\n".join([boot, *map(os.readlink, _WHERE)])


def _pull(name: str, send: Callable[[dict[str, Any]], None]) -> str:
    from ctrt.images.progress import Tally

    tally = Tally()
    last = 0.0

    def report(news: Progress) -> None:
        nonlocal last
        tally.take(news)
        if time.monotonic() >= last + _PROGRESS_SECONDS:
            last = time.monotonic()
            progress = {"type": "progress", "done": tally.done, "total": tally.total}
            send({**progress, "name": name})

    return str(default_engine().image(name, when="always", progress=report).reference)


_ACTIONS: dict[str, Callable[[str, Callable[[dict[str, Any]], None]], str]] = {
    "forget": _forget,
    "output": _output,
    "pull": _pull,
    "remove": _remove,
    "stop": _stop,
    "terminal": _terminal,
}
