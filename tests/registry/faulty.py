"""A registry that misbehaves as it is told: real HTTP, wrong answers."""

from __future__ import annotations

import gzip
import hashlib
import json
import socket
import ssl
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from images_tools import digest, member, tar

from ctrt.oci import media

Act = Callable[["Request"], bool]


class Request(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Faulty

    def do_GET(self) -> None:
        self.server.seen.append((self.path, dict(self.headers.items())))
        for place, acts in self.server.acts.items():
            if place in self.path and acts:
                act = acts[0]
                if len(acts) > 1 or getattr(act, "once", False):
                    acts.pop(0)
                if act(self):
                    return
        self.serve()

    def do_HEAD(self) -> None:
        kind, body = self.server.content.get(self.path, ("", None))
        self.send_response(404 if body is None else 200)
        self.send_header("Content-Length", str(len(body or b"")))
        self.send_header("Content-Type", kind)
        self.end_headers()

    def serve(self) -> None:
        """Answer as a good registry does."""
        kind, body = self.server.content.get(self.path, ("", None))
        if body is None:
            code = "BLOB_UNKNOWN" if "/blobs/" in self.path else "MANIFEST_UNKNOWN"
            self.answer(404, json.dumps({"errors": [{"code": code, "message": "no"}]}).encode())
            return
        asked = self.headers.get("Range", "")
        if asked:
            start = int(asked.removeprefix("bytes=").rstrip("-"))
            where = f"bytes {start}-{len(body) - 1}/{len(body)}"
            self.answer(206, body[start:], {"Content-Range": where, "Content-Type": kind})
        else:
            self.answer(200, body, {"Content-Type": kind})

    def answer(self, status: int, body: bytes = b"", headers: dict[str, str] | None = None) -> None:
        headers = {"Content-Length": str(len(body)), **(headers or {})}
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def cut(self) -> None:
        """Break the connection now."""
        self.wfile.flush()
        self.close_connection = True
        self.connection.shutdown(socket.SHUT_RDWR)

    def log_message(self, *args: Any) -> None:
        """Say nothing."""


class Faulty(ThreadingHTTPServer):
    """Serves `content`; `acts` says, by a part of the path, what to do instead.

    An act returns False to let the good answer follow. The last act of a list stays.
    """

    daemon_threads = True
    block_on_close = False

    def __init__(self, certificate: str | None = None) -> None:
        super().__init__(("127.0.0.1", 0), Request)
        self.host = f"127.0.0.1:{self.server_address[1]}"
        self.content: dict[str, tuple[str, bytes]] = {}
        self.acts: dict[str, list[Act]] = {}
        self.seen: list[tuple[str, dict[str, str]]] = []
        self.stalled = threading.Event()
        if certificate:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate)
            self.socket = context.wrap_socket(self.socket, server_side=True)
        self.thread = threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.05})
        self.thread.start()

    def close(self) -> None:
        self.stalled.set()
        self.shutdown()
        self.server_close()
        self.thread.join()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that goes away is what some tests are about."""

    def blob(self, data: bytes, kind: str, name: str = "x") -> dict[str, Any]:
        self.content[f"/v2/{name}/blobs/{digest(data)}"] = ("application/octet-stream", data)
        return {"mediaType": kind, "digest": digest(data), "size": len(data)}

    def manifest(self, data: bytes, kind: str, tag: str = "", name: str = "x") -> dict[str, Any]:
        self.content[f"/v2/{name}/manifests/{digest(data)}"] = (kind, data)
        if tag:
            self.content[f"/v2/{name}/manifests/{tag}"] = (kind, data)
        return {"mediaType": kind, "digest": digest(data), "size": len(data)}

    def image(
        self,
        tag: str = "1",
        *,
        layers: int = 1,
        architecture: str = "amd64",
        layer_type: str = media.OCI_LAYER_GZIP,
        config_type: str = media.OCI_CONFIG,
        indent: int | None = 7,
        kind: str = media.OCI_MANIFEST,
        size: int = 2_000_000,
        **more: Any,
    ) -> dict[str, Any]:
        """Add an image of random layers; its JSON is laid out as no library would."""
        noise = hashlib.shake_128(f"{tag} {architecture}".encode()).digest(size)
        plain = [tar(member(f"file{n}", bytes([n]) + noise)) for n in range(layers)]
        packed = [gzip.compress(layer, 1, mtime=0) for layer in plain]
        config = {
            "architecture": architecture,
            "os": "linux",
            "rootfs": {"type": "layers", "diff_ids": [digest(layer) for layer in plain]},
        }
        value = {
            "layers": [self.blob(layer, layer_type) for layer in packed],
            "config": self.blob(json.dumps(config, indent=3).encode(), config_type),
            "schemaVersion": 2,
            **more,
        }
        return self.manifest(json.dumps(value, indent=indent).encode(), kind, tag)
