"""A kernel inside a container: `python -m ctrt_kernel.inside -f FILE --image IMAGE ...`.

A Jupyter client gives a kernel five TCP ports. The container has a network of its own and must not
have those. So the kernel inside binds Unix sockets in its own file system, and this program,
which the client takes for the kernel, listens on the ports and passes the bytes on: the way to the
sockets is /proc/PID/root. What it gets, an interrupt or the end, the kernel inside gets. No
provisioner is needed: this works in every client that starts kernels by their `argv`.

Nothing of it is on this side's disk, so nothing stays when this program is killed; the container is
cleaned up by the helper, as any other.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from typing import TYPE_CHECKING, Any

from ctrt.engine import Engine
from ctrt.engine.options import RUN, Option, Table
from ctrt.errors import CtrtError

if TYPE_CHECKING:
    from ctrt.engine.container import Container

PORTS = ("shell_port", "iopub_port", "stdin_port", "control_port", "hb_port")
DIRECTORY = "/run/ctrt-kernel"
PAYLOAD = "/run/ctrt-packages"
PARENT_SECONDS = 1.0
"""How often it is looked whether the client still is there."""

# The first process of the container: it has the connection file by its input, since the kernel may
# be any user, and waits for what other processes leave behind.
INIT = f"""'the first process of a Jupyter kernel'; import os, signal, sys
signal.signal(signal.SIGINT, signal.SIG_IGN)
file = os.open({f"{DIRECTORY}/connection.json"!r}, os.O_WRONLY | os.O_CREAT, 0o600)
os.write(file, sys.stdin.buffer.read())
os.close(file)
kernel = os.posix_spawnp(sys.argv[1], sys.argv[1:], os.environ, setsigdef=[signal.SIGINT])
while True:
    process, status = os.wait()
    if process == kernel:
        sys.exit(os.waitstatus_to_exitcode(status) % 256)
"""

TABLE = Table(
    "inside",
    "Run the kernel of a connection file in a container.",
    "",
    [
        Option("-f --file", "the client's connection file", metavar="FILE"),
        Option("--image", "the image", metavar="IMAGE"),
        Option("--python", "the interpreter in the image", metavar="PATH", default="python3"),
        Option("--packages", "a directory of packages for it", metavar="DIR"),
        Option("-v --volume", "bind-mount", metavar="SOURCE:DIR[:OPTIONS]", kind="list"),
    ],
    prefix="python -m ctrt_kernel.",
)


def main(words: list[str]) -> int:
    """Run until the kernel ends; its status."""
    values = TABLE.parse(words)
    try:
        with open(values.file, encoding="utf-8") as file:
            client: dict[str, Any] = json.load(file)
        engine = Engine()
        engine.recover()
        try:
            return _run(engine, values, client)
        finally:
            engine.close()
    except CtrtError as error:
        print(f"ctrt: {error}", file=sys.stderr)
        return error.status
    except (OSError, ValueError) as error:
        print(f"ctrt: the kernel of {values.file} cannot start: {error}", file=sys.stderr)
        return 125


def _run(engine: Engine, values: Any, client: dict[str, Any]) -> int:
    inner = {**client, "transport": "ipc", "ip": f"{DIRECTORY}/k"}
    inner.update({name: number for number, name in enumerate(PORTS, 1)})
    here = os.getcwd()
    options = ["--tmpfs", f"{DIRECTORY}:mode=1777", "-w", here, "-v", f"{here}:{here}"]
    if not engine.host.privileged:
        # Its user is the one outside; another one's sockets and files would be out of reach.
        options += ["-u", "0:0"]
    for volume in values.volume:
        options += ["-v", volume]
    if values.packages:
        options += ["-v", f"{values.packages}:{PAYLOAD}:ro", "-e", f"PYTHONPATH={PAYLOAD}"]
    # Without an entry point of the image, as it was asked for its Python.
    options += ["--entrypoint", ""]
    command = [values.python, "-I", "-S", "-c", INIT, values.python]
    command += ["-m", "ipykernel_launcher", "-f", f"{DIRECTORY}/connection.json"]
    prepared = engine.prepare(values.image, command, RUN.parse(options), default_arguments=None)
    container = engine.start(prepared, stdin=True)
    return asyncio.run(_serve(container, client, json.dumps(inner).encode()))


async def _serve(container: Container, client: dict[str, Any], connection: bytes) -> int:
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, _pass_on, container, number)
    servers = [
        await asyncio.start_server(
            _splice(f"/proc/{container.pid}/root{DIRECTORY}/k-{number}"),
            client["ip"],
            client[name],
            reuse_address=True,
        )
        for number, name in enumerate(PORTS, 1)
    ]
    outputs = {"stdout": sys.stdout.buffer, "stderr": sys.stderr.buffer}

    def write(name: str, data: bytes) -> None:
        outputs[name].write(data)
        outputs[name].flush()

    watch = asyncio.create_task(_follow_parent(container))
    status = await asyncio.to_thread(container.stream, write, connection)
    watch.cancel()
    for server in servers:
        server.close()
    return status


async def _follow_parent(container: Container) -> None:
    """End with the client, as other kernels do, unless it says that it may go first."""
    if os.environ.get("JPY_PARENT_PID", "0") == "0":
        return
    parent = os.getppid()
    while os.getppid() == parent:
        await asyncio.sleep(PARENT_SECONDS)
    container.signal(signal.SIGKILL)


def _pass_on(container: Container, number: int) -> None:
    # A first process without a handler never sees SIGTERM, and nobody waits for a kernel's end.
    container.signal(signal.SIGKILL if number != signal.SIGINT else number)


def _splice(path: str) -> Any:
    """What a port does with a client: it passes bytes to a socket and back."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for _ in range(600):
            try:
                inner_reader, inner_writer = await asyncio.open_unix_connection(path)
                break
            except OSError:
                await asyncio.sleep(0.05)  # the kernel is still starting
        else:
            writer.close()
            return
        await asyncio.gather(_copy(reader, inner_writer), _copy(inner_reader, writer))

    return serve


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(1 << 18):
            writer.write(data)
            await writer.drain()
    except (ConnectionError, OSError):
        pass
    finally:
        writer.close()


if __name__ == "__main__":
    status = main(sys.argv[1:])
    sys.stdout.flush()
    os._exit(status)
