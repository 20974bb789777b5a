"""The agent inside the test machine: runs what the tests ask for, one command after the other.

A message is a line of JSON and then as many bytes as the line says. Output goes to files and not
to pipes, so that a command which leaves a child behind is over when it is over.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time

PORT = "ctrt.agent"


def port_path() -> str:
    ports = "/sys/class/virtio-ports"
    for name in os.listdir(ports):
        with open(f"{ports}/{name}/name") as file:
            if file.read().strip() == PORT:
                return f"/dev/{name}"
    raise SystemExit("no port of the agent")


class Port:
    def __init__(self) -> None:
        self.descriptor = os.open(port_path(), os.O_RDWR | os.O_CLOEXEC)
        self.buffer = bytearray()  # grows in place: a port gives a page at a time

    def _more(self) -> None:
        data = os.read(self.descriptor, 1 << 16)
        if not data:  # nobody is at the other end
            time.sleep(0.05)
        self.buffer += data

    def line(self) -> bytes:
        while b"\n" not in self.buffer:
            self._more()
        size = self.buffer.index(b"\n")
        line = bytes(self.buffer[:size])
        del self.buffer[: size + 1]
        return line

    def take(self, size: int) -> bytes:
        while len(self.buffer) < size:
            self._more()
        data = bytes(self.buffer[:size])
        del self.buffer[:size]
        return data

    def send(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            view = view[os.write(self.descriptor, view[: 1 << 15]) :]


def run(order: dict[str, object], stdin: bytes) -> tuple[int, bytes, bytes]:
    with (
        tempfile.TemporaryFile() as source,
        tempfile.TemporaryFile() as out,
        tempfile.TemporaryFile() as err,
    ):
        source.write(stdin)
        source.seek(0)
        try:
            process = subprocess.Popen(
                order["argv"],
                stdin=source,
                stdout=out,
                stderr=err,
                env=order["environment"],
                cwd=order["directory"],
                start_new_session=True,
            )
        except OSError as error:
            return 127, b"", f"agent: {error}".encode()
        try:
            status = process.wait(order["timeout"])
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            status = 124
        out.seek(0)
        err.seek(0)
        return status, out.read(), err.read()


def main() -> None:
    port = Port()
    while True:
        order = json.loads(port.line())
        status, out, err = run(order, port.take(order["stdin"]))
        head = json.dumps({"status": status, "out": len(out), "err": len(err)})
        port.send(head.encode() + b"\n" + out + err)


if __name__ == "__main__":
    sys.exit(main())
