"""The verbs about images and their store."""

from __future__ import annotations

from ctrt.engine.options import TLS_VERIFY, Option, Table
from ctrt.engine.verbs.base import MANY, NONE, ONE, Listing, Text, Verb, size_text
from ctrt.errors import CtrtError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from ctrt.engine import Engine
    from ctrt.engine.options import Values
    from ctrt.engine.verbs.base import Report


def _pull(engine: Engine, values: Values, report: Report) -> Text:
    plain_http = True if values.tls_verify == "false" else None
    image = engine.image(values.operands[0], when="always", progress=report, plain_http=plain_http)
    return Text(image.reference)


def _images(engine: Engine, _values: Values, _report: Report) -> Listing:
    rows = [
        (image.reference, image.id[7:19], str(len(image.layers)), size_text(image.size))
        for image in engine.store.images()
    ]
    return Listing(("IMAGE", "ID", "LAYERS", "SIZE"), rows)


def _rmi(engine: Engine, values: Values, _report: Report) -> Text:
    for name in values.operands:
        if engine.store.find(name) is None:
            raise CtrtError(f"there is no image {name} in the store; see: ctrt images")
    for name in values.operands:
        engine.remove_image(name)
    return Text("\n".join(values.operands))


def _image(engine: Engine, values: Values, _report: Report) -> Text:
    if values.operands[0] != "from-host" or len(values.operands) < 2:
        raise CtrtError("image: expected from-host PROGRAM..., as in: ctrt image from-host sh ls")
    from ctrt.images.hostimage import from_host

    image = from_host(engine.store, values.name, values.operands[1:])
    return Text(image.reference)


def _registry(engine: Engine, values: Values, _report: Report) -> Any:
    if values.operands != ["serve"]:
        raise CtrtError("registry: expected serve, as in: ctrt registry serve --port 5000")
    try:
        from ctrt.images.serve import Server
    except ImportError:
        raise CtrtError(
            "registry serve needs tornado; install it with: pip install 'ctrt[jupyter]'"
        ) from None
    if not values.port.isdecimal() or int(values.port) > 65535:
        raise CtrtError(f"registry: --port {values.port!r} is not a port number")
    return Server(engine.store, port=int(values.port))


VERBS = [
    Verb(
        Table("pull", "Fetch an image from its registry.", "IMAGE", [TLS_VERIFY]),
        _pull,
        ONE,
    ),
    Verb(Table("images", "List the images of the store.", "", []), _images, NONE),
    Verb(Table("rmi", "Remove images from the store.", "IMAGE...", []), _rmi, MANY),
    Verb(
        Table(
            "image",
            "Make an image of programs of this machine and the libraries that they need.",
            "from-host PROGRAM...",
            [
                Option(
                    "--name",
                    "the image's name",
                    metavar="IMAGE",
                    default="localhost/host:latest",
                )
            ],
        ),
        _image,
        MANY,
    ),
    Verb(
        Table(
            "registry",
            "Serve the store to this machine by the OCI distribution API.",
            "serve",
            [Option("--port", "port on 127.0.0.1", metavar="PORT", default="5000")],
        ),
        _registry,
        ONE,
    ),
]
