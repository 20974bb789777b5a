"""A kernel inside a container: `python -m ctrt_kernel.inside -f FILE --image IMAGE ...`.

A Jupyter client gives a kernel five TCP ports. The container has a network of its own and must not
have those. So the kernel inside binds Unix sockets in a directory that both sides see, and this
program, which the client takes for the kernel, listens on the ports and passes the bytes on.
What it gets, an interrupt or the end, the kernel inside gets. No provisioner is
needed: this works in every client that starts kernels by their `argv`.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import sys
import tempfile
from typing import TYPE_CHECKING, Any

from ctrt.engine import Engine
from ctrt.engine.options import RUN, Option, Table
from ctrt.errors import CtrtError

if TYPE_CHECKING:
    from ctrt.engine.container import Container

PORTS = ("shell_port", "iopub_port", "stdin_port", "control_port", "hb_port")
DIRECTORY = "/run/ctrt-kernel"
PAYLOAD = "/run/ctrt-packages"

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
        directory = tempfile.mkdtemp(prefix="ctrt-k-", dir="/tmp")  # socket paths are short
        try:
            return _run(engine, values, client, directory)
        finally:
            engine.close()
            shutil.rmtree(directory, ignore_errors=True)
    except CtrtError as error:
        print(f"ctrt: {error}", file=sys.stderr)
        return error.status


def _run(engine: Engine, values: Any, client: dict[str, Any], directory: str) -> int:
    inner = {**client, "transport": "ipc", "ip": f"{DIRECTORY}/k"}
    inner.update({name: number for number, name in enumerate(PORTS, 1)})
    with open(f"{directory}/connection.json", "w", encoding="utf-8") as file:
        json.dump(inner, file)
    if engine.host.privileged:
        # The container's root makes the sockets, and it is somebody else outside.
        uid_map, gid_map = engine.host.id_maps()
        for path in (directory, f"{directory}/connection.json"):
            os.chown(path, uid_map[0][1], gid_map[0][1])
    here = os.getcwd()
    options = ["-v", f"{directory}:{DIRECTORY}", "-w", here, "-v", f"{here}:{here}"]
    for volume in values.volume:
        options += ["-v", volume]
    if values.packages:
        options += ["-v", f"{values.packages}:{PAYLOAD}:ro", "-e", f"PYTHONPATH={PAYLOAD}"]
    command = [values.python, "-m", "ipykernel_launcher", "-f", f"{DIRECTORY}/connection.json"]
    prepared = engine.prepare(values.image, command, RUN.parse(options), default_arguments=None)
    container = engine.start(prepared)
    return asyncio.run(_serve(container, client, directory))


async def _serve(container: Container, client: dict[str, Any], directory: str) -> int:
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, _pass_on, container, number)
    servers = [
        await asyncio.start_server(
            _splice(f"{directory}/k-{number}"), client["ip"], client[name], reuse_address=True
        )
        for number, name in enumerate(PORTS, 1)
    ]
    outputs = {"stdout": sys.stdout.buffer, "stderr": sys.stderr.buffer}

    def write(name: str, data: bytes) -> None:
        outputs[name].write(data)
        outputs[name].flush()

    status = await asyncio.to_thread(container.stream, write)
    for server in servers:
        server.close()
    return status


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
