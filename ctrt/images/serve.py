"""A registry over the content store, so that others can pull from it and push to it.

It speaks the OCI distribution API (distribution-spec 1.1): podman, skopeo, containerd and
another ctrt read from it what the store has. An image is served under its repository path
without the registry: `localhost/tour/shell:latest` is `tour/shell:latest`. What is pushed is
named `localhost/REPOSITORY:TAG`. There are no passwords, so it listens on loopback unless told
otherwise.

Whoever pushes does so in one or more pieces into a private file of the store; as everywhere,
nothing has a name before its digest is checked. Indexes are not taken, and nothing is deleted.
"""

from __future__ import annotations

import asyncio
import errno
import hashlib
import os
import socket
import threading
from typing import TYPE_CHECKING

from ctrt.errors import CtrtError
from ctrt.oci import fastjson, media
from ctrt.oci.digest import sha256
from ctrt.oci.reference import parse

try:
    import tornado.httpserver
    import tornado.iostream
    import tornado.netutil
    import tornado.web
except ImportError:
    raise CtrtError(
        "serving images needs tornado, which comes with Jupyter; install ctrt[jupyter]"
    ) from None

if TYPE_CHECKING:
    from collections.abc import Awaitable
    from typing import Any

    from ctrt.images.locks import Temporary
    from ctrt.images.store import Store

PIECE_BYTES = 256 << 10
_PAGE = 1000
_UPLOAD_BYTES = 64 << 30
_OPEN_UPLOADS = 64
_TLS_HANDSHAKE = b"\x16"  # the first byte of a TLS record that holds a ClientHello (RFC 8446, 5.1)
_NAME = r"((?:[a-z0-9._-]+/)*[a-z0-9._-]+)"


class _ApiError(Exception):
    """An answer that is an error: status, code and message (distribution-spec, "Error Codes")."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.code = code


class _Upload:
    """A blob on its way in: a private file and its hash so far."""

    def __init__(self, store: Store) -> None:
        self.work: Temporary = store.temporary()
        self.file = open(os.path.join(self.work.path, "blob"), "xb")  # noqa: SIM115  # closed by close()
        self.hash = hashlib.sha256()
        self.size = 0

    def close(self) -> None:
        """Forget it; its file goes."""
        self.file.close()
        self.work.__exit__(None, None, None)


class _Images:
    """The store as a registry sees it: repository -> tag or digest -> manifest."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.uploads: dict[str, _Upload] = {}

    def repositories(self) -> dict[str, dict[str, tuple[str, str]]]:
        """Return for each repository what its tags are: (digest, media type).

        Where two registries have the same repository and tag, the local one is served.
        """
        found: dict[str, dict[str, tuple[str, str]]] = {}
        for image in sorted(
            self.store.images(), key=lambda image: image.reference.startswith("localhost/")
        ):
            try:
                reference = parse(image.reference)
            except CtrtError:
                continue  # another tool named it so
            tags = found.setdefault(reference.repository, {})
            tags[image.digest] = (image.digest, image.media_type)
            if reference.tag:
                tags[reference.tag] = (image.digest, image.media_type)
        return dict(sorted(found.items()))

    def manifest(self, repository: str, tag_or_digest: str) -> tuple[str, str, bytes]:
        """Return a manifest's digest, media type and bytes."""
        tags = self.repositories().get(repository)
        if tags is None:
            raise _ApiError(404, "NAME_UNKNOWN", f"there is no repository {repository}")
        if tag_or_digest not in tags:
            raise _ApiError(404, "MANIFEST_UNKNOWN", f"{repository} has no {tag_or_digest}")
        digest, media_type = tags[tag_or_digest]
        return digest, media_type, self.store.read_blob(digest, media.MANIFEST_LIMIT)


class _Handler(tornado.web.RequestHandler):
    images: _Images

    def initialize(self, images: _Images) -> None:
        self.images = images

    def set_default_headers(self) -> None:
        self.set_header("Docker-Distribution-API-Version", "registry/2.0")
        self.set_header("Server", "ctrt")

    def compute_etag(self) -> None:
        """Digests are the only tags; hashing answers again would be for nothing."""

    def write_error(self, status_code: int, **kwargs: Any) -> None:
        error = kwargs.get("exc_info", (None, None, None))[1]
        code, message = "UNSUPPORTED" if status_code == 405 else "UNKNOWN", self._reason
        if isinstance(error, _ApiError):
            code, message = error.code, str(error)
        elif isinstance(error, CtrtError):
            message = str(error)
        self.say({"errors": [{"code": code, "message": message}]})

    def say(self, value: object) -> None:
        self.set_header("Content-Type", "application/json")
        self.finish(fastjson.dumps(value))

    def fail(self, error: CtrtError | _ApiError, status: int, code: str) -> None:
        if isinstance(error, _ApiError):
            status, code = error.status, error.code
        self.set_status(status)
        self.say({"errors": [{"code": code, "message": str(error)}]})

    def log_exception(self, *arguments: Any) -> None:
        """Errors that are answers are not logged; others as tornado does."""
        if not isinstance(arguments[1], (_ApiError, CtrtError)):
            super().log_exception(*arguments)


class _Nothing(_Handler):
    """Any other path."""

    def prepare(self) -> None:
        self.fail(_ApiError(404, "UNSUPPORTED", f"there is no {self.request.path}"), 404, "")


class _Base(_Handler):
    """`/v2/`: yes, this is a registry."""

    def get(self) -> None:
        self.say({})

    head = get


class _Catalog(_Handler):
    """`/v2/_catalog`: all repositories, in pages."""

    def get(self) -> None:
        names = list(self.images.repositories())
        _page(self, "repositories", names, {})


class _Tags(_Handler):
    """`/v2/NAME/tags/list`: the tags of a repository, in pages."""

    def get(self, repository: str) -> None:
        tags = self.images.repositories().get(repository)
        if tags is None:
            error = _ApiError(404, "NAME_UNKNOWN", f"there is no repository {repository}")
            self.fail(error, 404, "")
            return
        names = sorted(name for name in tags if ":" not in name)
        _page(self, "tags", names, {"name": repository})


def _page(handler: _Handler, key: str, names: list[str], more: dict[str, str]) -> None:
    count_text = handler.get_query_argument("n", str(_PAGE))
    last = handler.get_query_argument("last", "")
    count = int(count_text[:9]) if count_text.isascii() and count_text.isdigit() else -1
    if count < 0:
        handler.fail(_ApiError(400, "PAGINATION_NUMBER_INVALID", "n must be a number"), 400, "")
        return
    rest = [name for name in names if name > last]
    page = rest[:count]
    if len(page) < len(rest) and page:
        from urllib.parse import urlencode

        query = urlencode({"n": count, "last": page[-1]})
        handler.set_header("Link", f'<{handler.request.path}?{query}>; rel="next"')
    handler.say({**more, key: page})


class _Manifests(_Handler):
    """`/v2/NAME/manifests/TAG-OR-DIGEST`."""

    def get(self, repository: str, tag_or_digest: str) -> None:
        try:
            digest, media_type, data = self.images.manifest(repository, tag_or_digest)
        except (_ApiError, CtrtError) as error:
            self.fail(error, 500, "UNKNOWN")
            return
        accept = ",".join(self.request.headers.get_list("Accept")) or "*/*"
        if media_type not in accept and "*/*" not in accept and "application/*" not in accept:
            other = f"the image is {media_type}, not {accept}"
            self.fail(_ApiError(404, "MANIFEST_UNKNOWN", other), 404, "")
            return
        self.set_header("Content-Type", media_type)
        self.set_header("Docker-Content-Digest", digest)
        self.set_header("Content-Length", str(len(data)))
        self.finish(data if self.request.method == "GET" else b"")

    head = get

    def put(self, repository: str, tag_or_digest: str) -> None:
        try:
            data = self.request.body
            digest = sha256(data)
            if ":" in tag_or_digest and tag_or_digest != digest:
                raise _ApiError(400, "DIGEST_INVALID", f"the manifest's digest is {digest}")
            joint = "@" if ":" in tag_or_digest else ":"
            with self.images.store.hold():
                self.images.store.add_blob(data, digest=digest)
                self.images.store.tag(f"localhost/{repository}{joint}{tag_or_digest}", digest)
        except (_ApiError, CtrtError) as error:
            self.fail(error, 400, "MANIFEST_INVALID")
            return
        self.set_status(201)
        self.set_header("Location", f"/v2/{repository}/manifests/{digest}")
        self.set_header("Docker-Content-Digest", digest)
        self.finish()


class _Blobs(_Handler):
    """`/v2/NAME/blobs/DIGEST`, whole or a range of it (RFC 9110, section 14)."""

    async def get(self, _repository: str, digest: str) -> None:
        try:
            file = self.images.store.open_blob(digest)
        except CtrtError as error:
            self.fail(error, 404, "BLOB_UNKNOWN")
            return
        with file:
            size = os.fstat(file.fileno()).st_size
            start, end = 0, size
            self.set_header("Accept-Ranges", "bytes")
            self.set_header("Content-Type", "application/octet-stream")
            self.set_header("Docker-Content-Digest", digest)
            asked = _range(self.request.headers.get("Range", ""), size)
            if asked is not None:
                start, end = asked
                if start >= end:
                    self.set_status(416)
                    self.set_header("Content-Range", f"bytes */{size}")
                    self.say({"errors": [{"code": "SIZE_INVALID", "message": "no such range"}]})
                    return
                self.set_status(206)
                self.set_header("Content-Range", f"bytes {start}-{end - 1}/{size}")
            self.set_header("Content-Length", str(end - start))
            if self.request.method == "HEAD":
                self.finish()
                return
            file.seek(start)
            try:
                while start < end:
                    piece = file.read(min(PIECE_BYTES, end - start))
                    if not piece:
                        return  # the blob was cut short under us; so is the answer
                    start += len(piece)
                    self.write(piece)
                    await self.flush()
            except tornado.iostream.StreamClosedError:
                return
            self.finish()

    head = get


def _range(text: str, size: int) -> tuple[int, int] | None:
    """Read `bytes=FIRST-LAST`; None for no range, or one that may be ignored."""
    unit, _, what = text.partition("=")
    first, dash, last = what.strip().partition("-")
    if unit.strip() != "bytes" or not dash or "," in what:
        return None
    if not all(part.isascii() and (part.isdigit() or not part) for part in (first, last)):
        return None
    if not first:
        return (max(0, size - int(last[:18])), size) if last else None
    end = min(size, int(last[:18]) + 1) if last else size
    return int(first[:18]), end


@tornado.web.stream_request_body
class _Uploads(_Handler):
    """`/v2/NAME/blobs/uploads/[ID]`: monolithic and chunked pushes."""

    _upload: _Upload | None = None
    _problem: _ApiError | None = None

    def prepare(self) -> None:
        identifier = self.path_args[1]
        uploads = self.images.uploads
        if identifier:
            self._upload = uploads.get(identifier)
            if self._upload is None:
                self._problem = _ApiError(404, "BLOB_UPLOAD_UNKNOWN", "there is no such upload")
            elif self.request.method == "PATCH":
                begin = self.request.headers.get("Content-Range", "").partition("-")[0]
                if begin and begin != str(self._upload.size):
                    self._problem = _ApiError(
                        416, "BLOB_UPLOAD_INVALID", f"expected bytes from {self._upload.size} on"
                    )
        elif self.request.method == "POST":
            while len(uploads) >= _OPEN_UPLOADS:
                uploads.pop(next(iter(uploads))).close()
            self.identifier = os.urandom(12).hex()
            self._upload = uploads[self.identifier] = _Upload(self.images.store)

    def data_received(self, chunk: bytes) -> None:
        upload = self._upload
        if upload is None or self._problem is not None:
            return
        upload.size += len(chunk)
        upload.hash.update(chunk)
        try:
            upload.file.write(chunk)
        except OSError as error:
            self._problem = _ApiError(507, "BLOB_UPLOAD_INVALID", str(error.strerror))

    def post(self, repository: str, _: str) -> None:
        digest = self.get_query_argument("digest", "")
        mount = self.get_query_argument("mount", "")
        if mount and self.images.store.has_blob(mount):
            self._drop(self.identifier)
            self._created(repository, mount)
        elif digest:
            self._complete(repository, self.identifier, digest)
        else:
            self._accepted(repository, self.identifier)

    def patch(self, repository: str, identifier: str) -> None:
        if self._problem is not None:
            self.fail(self._problem, 400, "")
        else:
            self._accepted(repository, identifier)

    def put(self, repository: str, identifier: str) -> None:
        if self._problem is not None:
            self.fail(self._problem, 400, "")
        else:
            self._complete(repository, identifier, self.get_query_argument("digest", ""))

    def get(self, repository: str, identifier: str) -> None:
        if self._problem is not None or self._upload is None:
            self.fail(self._problem or _ApiError(404, "BLOB_UPLOAD_UNKNOWN", "none"), 404, "")
            return
        self._accepted(repository, identifier, 204)

    def delete(self, _repository: str, identifier: str) -> None:
        if self._problem is not None:
            self.fail(self._problem, 404, "")
            return
        self._drop(identifier)
        self.set_status(204)
        self.finish()

    def _drop(self, identifier: str) -> None:
        self.images.uploads.pop(identifier).close()

    def _accepted(self, repository: str, identifier: str, status: int = 202) -> None:
        size = self.images.uploads[identifier].size
        self.set_status(status)
        self.set_header("Location", f"/v2/{repository}/blobs/uploads/{identifier}")
        self.set_header("Docker-Upload-UUID", identifier)
        self.set_header("Range", f"0-{max(0, size - 1)}")
        self.finish()

    def _complete(self, repository: str, identifier: str, digest: str) -> None:
        upload = self.images.uploads[identifier]
        try:
            if f"sha256:{upload.hash.hexdigest()}" != digest:
                raise _ApiError(400, "DIGEST_INVALID", "what came has another digest")
            upload.file.flush()
            path = os.path.join(upload.work.path, "blob")
            self.images.store.adopt_blob(path, digest)
        except (_ApiError, CtrtError) as error:
            self.fail(error, 400, "DIGEST_INVALID")
            return
        finally:
            self._drop(identifier)
        self._created(repository, digest)

    def _created(self, repository: str, digest: str) -> None:
        self.set_status(201)
        self.set_header("Location", f"/v2/{repository}/blobs/{digest}")
        self.set_header("Docker-Content-Digest", digest)
        self.finish()


class _PlainServer(tornado.httpserver.HTTPServer):
    """Hangs up on a client that begins with TLS, as most do: it then tries plain HTTP.

    Tornado would wait for the end of a header that never comes.
    """

    def initialize(self, *arguments: Any, **settings: Any) -> None:
        super().initialize(*arguments, **settings)
        self._looks: set[asyncio.Task[None]] = set()

    def handle_stream(self, stream: tornado.iostream.IOStream, address: Any) -> None:
        look = asyncio.ensure_future(self._look_at(stream, address))
        self._looks.add(look)
        look.add_done_callback(self._looks.discard)

    async def _look_at(self, stream: tornado.iostream.IOStream, address: Any) -> None:
        loop = asyncio.get_running_loop()
        readable = asyncio.Event()
        loop.add_reader(stream.fileno(), readable.set)
        try:
            await readable.wait()
        finally:
            loop.remove_reader(stream.fileno())
        try:
            first = stream.socket.recv(1, socket.MSG_PEEK)
        except OSError:
            first = b""
        if first in (b"", _TLS_HANDSHAKE):
            stream.close()
        else:
            super().handle_stream(stream, address)


class Server:
    """A registry over `store`, on `address` and `port` (0: a free one, then in `port`).

    >>> server = Server(store); server.start_in_thread()
    >>> server.port
    """

    def __init__(self, store: Store, port: int = 0, address: str = "127.0.0.1") -> None:
        self.store = store
        self.address = address
        self.port = port
        self._images = _Images(store)
        self._stop: asyncio.Event | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None

    def start_in_thread(self) -> Server:
        """Serve from a thread of this process; returns when it can be connected to."""
        ready = threading.Event()
        failure: list[BaseException] = []

        def work() -> None:
            try:
                asyncio.run(self._serve(ready))
            except BaseException as error:
                failure.append(error)
            finally:
                ready.set()

        self._thread = threading.Thread(target=work, name="ctrt-serve", daemon=True)
        self._thread.start()
        ready.wait()
        if failure:
            raise failure[0]
        return self

    def stop(self) -> None:
        """Stop serving and wait for the end of it."""
        if self._loop is not None and self._stop is not None and self._thread is not None:
            self._loop.call_soon_threadsafe(self._stop.set)
            self._thread.join()
            self._thread = self._loop = self._stop = None

    def run(self) -> None:
        """Serve in the foreground until interrupted."""
        try:
            asyncio.run(self._serve(None))
        except KeyboardInterrupt:
            pass

    async def _serve(self, ready: threading.Event | None) -> None:
        pages: list[Any] = [
            (r"/v2/?", _Base),
            (r"/v2/_catalog", _Catalog),
            (rf"/v2/{_NAME}/tags/list", _Tags),
            (rf"/v2/{_NAME}/manifests/([^/]+)", _Manifests),
            (rf"/v2/{_NAME}/blobs/uploads/?([0-9a-f]*)", _Uploads),
            (rf"/v2/{_NAME}/blobs/(sha256:[0-9a-f]{{64}})", _Blobs),
        ]
        shared = {"images": self._images}
        application = tornado.web.Application(
            [(pattern, page, shared) for pattern, page in pages],
            default_handler_class=_Nothing,
            default_handler_args=shared,
            log_function=lambda _: None,
        )
        try:
            sockets = tornado.netutil.bind_sockets(self.port, self.address)
        except OSError as error:
            taken = error.errno == errno.EADDRINUSE
            raise CtrtError(
                f"images cannot be served on {self.address}:{self.port}: {error.strerror}"
                + ("; choose another by --port, 0 for a free one" if taken else "")
            ) from None
        server = _PlainServer(application, max_body_size=_UPLOAD_BYTES)
        server.add_sockets(sockets)
        self.port = sockets[0].getsockname()[1]
        self._loop = asyncio.get_running_loop()
        self._stop = asyncio.Event()
        if ready is not None:
            ready.set()
        try:
            await self._stop.wait()
        finally:
            server.stop()
            closing: Awaitable[None] = server.close_all_connections()
            await closing
            for identifier in list(self._images.uploads):
                self._images.uploads.pop(identifier).close()
