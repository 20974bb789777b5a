"""The verbs that show what an image is, here or elsewhere, and that put several into an index."""

from __future__ import annotations

from ctrt.engine.options import Option, Table
from ctrt.engine.verbs.base import MANY, Text, Verb, json_text
from ctrt.engine.verbs.images import describe
from ctrt.engine.verbs.registries import ACCESS, PLATFORM, POLICY, options_of
from ctrt.errors import CtrtError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from ctrt.engine import Engine
    from ctrt.engine.options import Values
    from ctrt.engine.verbs.base import Listing, Report
    from ctrt.images.transports import Source


def _inspect(engine: Engine, values: Values, _report: Report) -> Listing | Text:
    """Containers, images of the store, and images elsewhere, each as JSON."""
    if values.raw:
        if len(values.operands) != 1:
            raise CtrtError("inspect: --raw shows one image")
        return Text(_raw(engine, values.operands[0], values))
    found = [_described(engine, name, values) for name in values.operands]
    if values.format is not None:
        from ctrt.engine.verbs.templates import rendered

        return rendered(found, values.format, "inspect")
    return json_text(found)


def _described(engine: Engine, name: str, values: Values) -> dict[str, Any]:
    from ctrt.images.transports import split

    if split(name)[0]:
        place = _place(engine, name, values)
        try:
            return _elsewhere(place, values.platform)
        except CtrtError as error:
            raise CtrtError(f"cannot inspect {place.name}: {error}") from None
        finally:
            place.close()
    for state in engine.states():
        if state["name"] == name:
            return {
                "Name": name,
                "ImageName": state["image"],
                "Path": state["command"][0] if state["command"] else "",
                "Args": state["command"][1:],
                "State": {"Status": "running", "Running": True, "Pid": state["pid"]},
            }
    image = engine.store.find(name)
    if image is None:
        raise CtrtError(
            f"there is no container and no image {name} here; an image elsewhere is shown by:"
            f" ctrt inspect docker://{name}"
        )
    return describe(image, engine.store.names_of(image.id))


def _elsewhere(place: Source, platform: str | None) -> dict[str, Any]:
    """An image that is not here, without its layers; and what else its index has."""
    from ctrt.images.pull import manifest_of, platform_of
    from ctrt.images.store import Image, check_image, layers_of
    from ctrt.oci import fastjson, media
    from ctrt.oci import image as documents

    digest, data, manifest, through = manifest_of(place, platform_of(platform))
    if manifest.config.media_type not in media.CONFIGS:
        raise CtrtError(f"it is no container image but has {manifest.config.media_type}")
    if manifest.config.size > media.CONFIG_LIMIT:
        raise CtrtError(f"its configuration has more than {media.CONFIG_LIMIT >> 20} MiB")
    from ctrt.images.transports.base import checked

    text = b"".join(checked(place.blob(manifest.config), manifest.config))
    config = documents.read_config(text, "the image")
    check_image(manifest, config, "the image")
    layers = layers_of(manifest, config)
    image = Image(
        str(place.reference), digest, documents.kind(data, "", "the image"),
        manifest.config.digest, fastjson.loads(text), layers,
        len(data) + manifest.config.size + sum(layer.size for layer in layers),
    )  # fmt: skip
    found = describe(image, [image.reference])
    if through:
        index = documents.read_index(place.manifest(through[0])[2], "the image")
        found["Index"] = {
            "Digest": through[0],
            "Manifests": [
                {"Digest": entry.digest, "Platform": str(entry.platform or ""),
                 "MediaType": entry.media_type, "Size": entry.size}
                for entry in index.manifests
            ],
        }  # fmt: skip
    return found


def _raw(engine: Engine, name: str, values: Values) -> str:
    """The manifest or index that a name leads to, as it is."""
    place = _place(engine, name, values)
    try:
        return place.manifest()[2].decode("utf-8", "replace")
    except CtrtError as error:
        raise CtrtError(f"cannot inspect {place.name}: {error}") from None
    finally:
        place.close()


def _place(engine: Engine, name: str, values: Values) -> Source:
    """An image to read from: one of the store, or one elsewhere."""
    from ctrt.images import transports
    from ctrt.images.copy import StoreSource

    if transports.split(name)[0]:
        return transports.source(name, options_of(values), engine.store.registries())
    image = engine.store.find(name)
    if image is None:
        raise CtrtError(
            f"there is no image {name} in the store; one elsewhere is named as in: docker://{name}"
        )
    return StoreSource(engine.store, image)


def _index(engine: Engine, values: Values, report: Report) -> Text:
    """Join images for several platforms under one name."""
    from ctrt.images import policy, transports
    from ctrt.images.copy import copy
    from ctrt.images.together import Together

    where, *names = values.operands
    if not names:
        raise CtrtError(
            "index: expected DESTINATION IMAGE..., as in: ctrt index registry.example/app:1"
            " app-amd64 app-arm64"
        )
    places: list[Source] = []
    try:
        for name in names:
            places.append(_place(engine, name, values))
        try:
            together = Together(places, policy.load(values.signature_policy or ""))
        except CtrtError as error:
            raise CtrtError(f"cannot make an index of {', '.join(names)}: {error}") from None
        to = transports.destination(where, options_of(values), engine.store.registries())
    except CtrtError:
        for place in places:
            place.close()
        raise
    with engine.store.hold():
        digest = copy(together, to, everything=True, progress=None if values.quiet else report)
    return Text("" if values.quiet else digest)


VERBS = [
    Verb(
        Table(
            "inspect",
            "Show all that there is to know about containers and images as JSON; docker://NAME,"
            " oci:DIRECTORY and so on are images elsewhere.",
            "NAME...",
            [
                Option("-f --format", "only this, such as '{{.Digest}}'", metavar="TEMPLATE"),
                Option("--raw", "the manifest or index as it is"),
                PLATFORM,
                *ACCESS,
            ],
        ),
        _inspect,
        MANY,
    ),
    Verb(
        Table(
            "index",
            "Join images for several platforms under one name (an index, or manifest list), in a"
            " registry, oci:, oci-archive: or dir:.",
            "DESTINATION IMAGE...",
            [Option("-q --quiet", "print nothing"), *ACCESS, POLICY],
        ),
        _index,
        MANY,
    ),
]
