"""registries.conf: what short names mean, where full names are fetched from, what is wrong."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from images_tools import image, member, tar

from ctrt import draw
from ctrt.errors import CtrtError
from ctrt.images import registries
from ctrt.images.store import Store
from ctrt.oci.reference import parse

Configure = Callable[[str], registries.Config]


@pytest.fixture
def configure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Configure:
    path = tmp_path / "r.conf"
    monkeypatch.setenv("CONTAINERS_REGISTRIES_CONF", str(path))

    def write(text: str) -> registries.Config:
        path.write_text(text)
        return registries.load()

    return write


def meant(config: registries.Config, text: str) -> list[str]:
    return [str(candidate.reference) for candidate in config.candidates(text)]


ENDS = """
[[registry]]
prefix = "a.io"
location = "inside.example:5000/a"
[[registry]]
prefix = "a.io/special"
insecure = true
[[registry]]
prefix = "*.wild.io"
blocked = true
[[registry]]
prefix = "*.good.wild.io"
[[registry.mirror]]
location = "m.io/x"
[[registry]]
location = "docker.io"
[[registry.mirror]]
location = "one.io"
pull-from-mirror = "digest-only"
[[registry.mirror]]
location = "two.io:1/cache"
insecure = true
pull-from-mirror = "tag-only"
[[registry.mirror]]
location = "three.io"
"""
D = "sha256:" + "0" * 64


def test_the_lecture_s_example(configure: Configure) -> None:
    config = configure('unqualified-search-registries = ["registry.access.redhat.com"]')
    assert meant(config, "rhel7") == ["registry.access.redhat.com/rhel7:latest"]


def test_without_any_configuration_it_is_docker_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CONTAINERS_REGISTRIES_CONF", "")
    config = registries.load()
    assert meant(config, "debian") == ["docker.io/library/debian:latest"]
    assert meant(config, "user/app:1") == ["docker.io/user/app:1"]
    assert config.candidates("debian")[0].origin == "default"


def test_search_lists_and_aliases(configure: Configure) -> None:
    config = configure(
        'unqualified-search-registries = ["a.io", "b.io:5000/group", "docker.io"]\n'
        '[aliases]\n"deb" = "quay.io/x/debian"\n"g/deb" = "localhost:1/y"\n'
    )
    assert meant(config, "app:1") == [
        "a.io/app:1", "b.io:5000/group/app:1", "docker.io/library/app:1",
    ]  # fmt: skip
    assert meant(config, f"app@{D}")[0] == f"a.io/app@{D}"
    assert meant(config, "deb") == ["quay.io/x/debian:latest"]
    assert meant(config, "deb:12") == ["quay.io/x/debian:12"]
    assert meant(config, f"deb:12@{D}") == [f"quay.io/x/debian:12@{D}"]
    assert meant(config, "g/deb") == ["localhost:1/y:latest"]
    assert meant(config, "a.io/deb") == ["a.io/deb:latest"]
    assert meant(config, "localhost/deb") == ["localhost/deb:latest"]


def test_enforcing_wants_a_full_name(configure: Configure) -> None:
    config = configure(
        'unqualified-search-registries = ["a.io", "b.io"]\nshort-name-mode = "enforcing"\n'
        '[aliases]\nx = "c.io/x"\n'
    )
    assert meant(config, "x") == ["c.io/x:latest"]
    with pytest.raises(CtrtError) as caught:
        config.candidates("y")
    assert str(caught.value).endswith("give one of a.io/y:latest, b.io/y:latest")


@pytest.mark.parametrize(
    ("name", "places"),
    [
        ("a.io/x:1", ["inside.example:5000/a/x:1"]),
        ("a.io/special/x", ["a.io/special/x:latest insecure"]),
        ("a.io/specialist", ["inside.example:5000/a/specialist:latest"]),
        ("a.iox/x", ["a.iox/x:latest"]),
        ("q.good.wild.io/r/s", ["m.io/x/r/s:latest mirror", "q.good.wild.io/r/s:latest"]),
        (
            "debian",
            [
                "two.io:1/cache/library/debian:latest insecure mirror",
                "three.io/library/debian:latest mirror",
                "docker.io/library/debian:latest",
            ],
        ),
        (
            f"debian@{D}",
            [
                f"one.io/library/debian@{D} mirror",
                f"three.io/library/debian@{D} mirror",
                f"docker.io/library/debian@{D}",
            ],
        ),
    ],
)
def test_where_an_image_is_fetched_from(configure: Configure, name: str, places: list[str]) -> None:
    found = [
        f"{end.location}{' insecure' * end.insecure}{' mirror' * end.mirror}"
        for end in configure(ENDS).endpoints(parse(name))
    ]
    assert found == places


def test_a_blocked_registry(configure: Configure, tmp_path: Path) -> None:
    with pytest.raises(CtrtError) as caught:
        configure(ENDS).endpoints(parse("bad.wild.io/x"))
    assert str(caught.value) == (
        f"the registry *.wild.io is blocked by {tmp_path}/r.conf (blocked = true)"
    )


def test_drop_ins_come_after_the_user_s_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CONTAINERS_REGISTRIES_CONF", raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    place = tmp_path / "containers"
    (place / "registries.conf.d").mkdir(parents=True)
    (place / "registries.conf").write_text(
        'unqualified-search-registries = ["a.io"]\n[aliases]\nctrt-x = "one.io/x"\n'
        'ctrt-gone = "one.io/y"\n[[registry]]\nlocation = "ctrt.test"\nblocked = true\n'
    )
    (place / "registries.conf.d/50.conf").write_text(
        '[aliases]\nctrt-x = "two.io/x"\nctrt-gone = ""\n[[registry]]\nlocation = "ctrt.test"\n'
    )
    (place / "registries.conf.d/note.txt").write_text("not read")
    config = registries.load()
    assert meant(config, "ctrt-x") == ["two.io/x:latest"]
    assert meant(config, "ctrt-gone") == ["a.io/ctrt-gone:latest"]
    assert config.endpoints(parse("ctrt.test/x"))


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("x = ", "PATH is not TOML: Invalid value (at end of document)"),
        ("unqualified-search-registries = 1", "PATH: unqualified-search-registries must be a list"),
        (
            'unqualified-search-registries = ["hub"]',
            (
                'PATH: unqualified-search-registries[0] names no registry ("hub"); write it as'
                " HOST[:PORT][/GROUP...]"
            ),
        ),
        (
            '[aliases]\nx = "y"',
            'PATH: aliases.x names no registry ("y"); write it as HOST[:PORT][/GROUP...]',
        ),
        (
            'short-name-mode = "maybe"',
            'PATH: short-name-mode is one of enforcing, permissive, disabled, not "maybe"',
        ),
        (
            "[registries.search]\nregistries = []",
            (
                "PATH is in the old format ([registries.search]); write"
                ' unqualified-search-registries = ["..."] instead'
            ),
        ),
        ("[[registry]]", "PATH: registry[0] has neither prefix nor location"),
        (
            '[[registry]]\nlocation = "a.io"\ninsecure = "yes"',
            "PATH: registry[0].insecure must be true or false",
        ),
        (
            '[[registry]]\nlocation = "a.io"\n[[registry.mirror]]\nlocation = "B.io/X"',
            "PATH: registry[0].mirror[0].location: ",
        ),
    ],
)
def test_what_is_wrong_is_named(
    configure: Configure, tmp_path: Path, text: str, sentence: str
) -> None:
    with pytest.raises(CtrtError) as caught:
        configure(text)
    assert str(caught.value).startswith(sentence.replace("PATH", f"{tmp_path}/r.conf"))


def test_the_store_finds_short_names_by_it(configure: Configure, tmp_path: Path) -> None:
    configure('unqualified-search-registries = ["a.io", "b.io"]\n[aliases]\ny = "c.io/q/y"\n')
    store = Store(str(tmp_path / "store"))
    made = {
        name: image(store, tar(member(name.replace("/", "-"))), name=name)
        for name in ("b.io/x", "docker.io/library/z", "c.io/q/y:2", "localhost/h")
    }
    for short, name in (("x", "b.io/x"), ("y:2", "c.io/q/y:2"), ("h", "localhost/h")):
        found = store.find(short)
        assert found is not None
        assert found.digest == made[name].digest
    assert store.find("z") is None, "docker.io is not in the search list"


def test_what_was_read_is_kept_until_a_file_changes(
    configure: Configure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    configure('unqualified-search-registries = ["a.io"]')
    cache = str(tmp_path / "kept")

    def load() -> registries.Config:
        """As another process would, which has nothing in its memory."""
        monkeypatch.setattr(registries, "_last", ([], registries.Config()))
        return registries.load(cache)

    first = load()
    assert os.path.exists(cache)
    with monkeypatch.context() as patch:
        patch.setattr(registries, "_merge", None)
        assert load().dump() == first.dump(), "no file was read again"
        assert registries.load() is registries.load()
    (tmp_path / "r.conf").write_text('unqualified-search-registries = ["changed.io"]')
    assert load().search == ["changed.io"]
    Path(cache).write_text('{"stamp":1}')
    assert load().search == ["changed.io"]


def test_the_picture(configure: Configure) -> None:
    config = configure(
        'unqualified-search-registries = ["registry.access.redhat.com"]\n'
        '[[registry]]\nlocation = "registry.access.redhat.com"\n'
        '[[registry.mirror]]\nlocation = "localhost:5000"\ninsecure = true\n'
    )
    found = config.candidates("rhel7")
    picture = draw.reference("rhel7", found, config.endpoints(found[0].reference))
    assert picture.text() == (
        "What rhel7 means\n"
        "\n"
        "PART        VALUE                       FROM\n"
        "registry    registry.access.redhat.com  search list of r.conf\n"
        "repository  rhel7                       typed\n"
        "tag         latest                      the default\n"
        "= registry.access.redhat.com/rhel7:latest\n"
        "\n"
        "It is fetched from, in this order\n"
        "mirror    localhost:5000/rhel7:latest              insecure\n"
        "registry  registry.access.redhat.com/rhel7:latest"
    )
    value = picture.json()
    assert value["view"] == "reference"
    ids = {node["id"] for node in value["nodes"]}
    assert {row["id"] for row in value["rows"]} <= ids
    assert all(row["parent"] is None or row["parent"] in ids for row in value["rows"])
    assert all(edge["from"] in ids and edge["to"] in ids for edge in value["edges"])
    for node in value["nodes"]:
        assert node["x"] + node["w"] <= value["width"], node
        assert node["y"] + node["h"] <= value["height"], node
    assert "registry.access.redhat.com" in picture.svg()
    assert picture == draw.reference("rhel7", found, config.endpoints(found[0].reference))
