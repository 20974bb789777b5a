"""References: what names mean, and what is said about wrong ones."""

from __future__ import annotations

import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ctrt.errors import CtrtError
from ctrt.oci.reference import Reference, check_digest, parse

D = "sha256:" + "0123456789abcdef" * 4
RULE = 'repository names are lower-case letters and digits, with ".", "_" or "-" between them'


@pytest.mark.parametrize(
    ("text", "canonical", "familiar"),
    [
        ("debian", "docker.io/library/debian:latest", "debian"),
        ("debian:12", "docker.io/library/debian:12", "debian:12"),
        ("library/debian", "docker.io/library/debian:latest", "debian"),
        ("docker.io/debian", "docker.io/library/debian:latest", "debian"),
        ("index.docker.io/debian", "docker.io/library/debian:latest", "debian"),
        ("user/app", "docker.io/user/app:latest", "user/app"),
        ("localhost/shell", "localhost/shell:latest", "localhost/shell"),
        ("localhost:5000/x", "localhost:5000/x:latest", "localhost:5000/x"),
        ("localhost:5000", "docker.io/library/localhost:5000", "localhost:5000"),
        ("quay.io/a/b/c:v1.2", "quay.io/a/b/c:v1.2", "quay.io/a/b/c:v1.2"),
        ("QUAY.io/a", "quay.io/a:latest", "quay.io/a"),
        ("host:80/a", "host:80/a:latest", "host:80/a"),
        ("127.0.0.1:5000/a/b", "127.0.0.1:5000/a/b:latest", "127.0.0.1:5000/a/b"),
        ("[::1]:5000/x", "[::1]:5000/x:latest", "[::1]:5000/x"),
        (f"debian@{D}", f"docker.io/library/debian@{D}", f"debian@{D}"),
        (f"debian:12@{D}", f"docker.io/library/debian:12@{D}", f"debian:12@{D}"),
        (f"debian:latest@{D}", f"docker.io/library/debian:latest@{D}", f"debian:latest@{D}"),
        ("a.b_c__d-e---f", "docker.io/library/a.b_c__d-e---f:latest", "a.b_c__d-e---f"),
        ("x:_Tag.1-2", "docker.io/library/x:_Tag.1-2", "x:_Tag.1-2"),
    ],
)
def test_what_a_name_means(text: str, canonical: str, familiar: str) -> None:
    reference = parse(text)
    assert str(reference) == canonical
    assert reference.familiar() == familiar
    assert parse(canonical) == reference
    assert parse(familiar) == reference


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", 'an image reference is missing; expected a name such as "debian:12"'),
        (
            "Debian",
            f'"Debian" is not an image reference: "D" at character 1 cannot be there: {RULE}',
        ),
        (
            "q.io/Bc",
            '"q.io/Bc" is not an image reference: "B" at character 6 cannot be there: ' + RULE,
        ),
        ("a b", f'"a b" is not an image reference: " " at character 2 cannot be there: {RULE}'),
        ("a..b", f'"a..b" is not an image reference: "." at character 3 cannot be there: {RULE}'),
        ("a___b", f'"a___b" is not an image reference: "_" at character 4 cannot be there: {RULE}'),
        ("a-", f'"a-" is not an image reference: "-" at character 2 cannot be there: {RULE}'),
        (
            "a\nb",
            f"\"a\\nb\" is not an image reference: '\\n' at character 2 cannot be there: {RULE}",
        ),
        ("a//b", '"a//b" is not an image reference: a name is missing at character 3'),
        ("a/", '"a/" is not an image reference: a name is missing at character 3'),
        ("/a", '"/a" is not an image reference: a name is missing at character 1'),
        (
            "debian:",
            (
                '"debian:" is not an image reference: the tag after the colon at character 7 is'
                " missing"
            ),
        ),
        (
            "debian:1+2",
            (
                '"debian:1+2" is not an image reference: "+" at character 9 cannot be there:'
                ' tags are letters, digits, "_", ".", "-"'
            ),
        ),
        (
            "debian:.1",
            (
                '"debian:.1" is not an image reference: "." at character 8 cannot be there:'
                ' tags are letters, digits, "_", ".", "-"'
            ),
        ),
        (
            "docker://debian",
            '"docker://debian" is not an image reference: leave out "docker://"',
        ),
        (
            "localhost:99999/x",
            (
                '"localhost:99999/x" is not an image reference: the port "99999" at character 11'
                " must be a number from 1 to 65535"
            ),
        ),
        (
            "a_b.c/x",
            (
                '"a_b.c/x" is not an image reference: "_" at character 2 cannot be there:'
                " this is no registry's host name"
            ),
        ),
        (
            "x@sha256:12",
            (
                '"x@sha256:12" is not an image reference: the digest at character 3 has 2'
                " hexadecimal digits, not 64"
            ),
        ),
        (
            "x@md5:12",
            (
                '"x@md5:12" is not an image reference: the digest at character 3 must begin with'
                ' "sha256:"'
            ),
        ),
        (
            "x@sha256:1g",
            (
                '"x@sha256:1g" is not an image reference: "g" at character 11 cannot be there:'
                " digests have only digits and the letters a to f"
            ),
        ),
        (
            "[::g]/x",
            (
                '"[::g]/x" is not an image reference: "g" at character 4 cannot be there:'
                " this is no IPv6 address"
            ),
        ),
    ],
)
def test_what_is_said_about_a_wrong_name(text: str, sentence: str) -> None:
    with pytest.raises(CtrtError) as caught:
        parse(text)
    assert str(caught.value) == sentence


def test_a_wrong_digest_alone_is_called_a_digest() -> None:
    with pytest.raises(CtrtError, match=r'^"sha256:xyz" is not a digest: "x" at character 8 '):
        check_digest("sha256:xyz")


def test_references_are_values() -> None:
    assert parse("debian") == Reference("docker.io", "library/debian", "latest")
    assert len({parse("debian"), parse("docker.io/library/debian:latest")}) == 1
    assert parse("debian") != parse("debian:12")
    assert repr(parse("debian")) == "Reference('docker.io/library/debian:latest')"


@given(st.text(max_size=40))
def test_any_text_is_a_reference_or_a_sentence(text: str) -> None:
    try:
        reference = parse(text)
    except CtrtError as error:
        assert str(error).isprintable()  # noqa: PT017
    else:
        assert parse(str(reference)) == reference
        assert parse(reference.familiar()) == reference


def test_finding_an_image_imports_nothing_heavy() -> None:
    code = (
        "import sys; sys.path[:0] = eval(sys.argv[1]);"
        " from ctrt.images import store, layers; import ctrt.oci.reference;"
        " print(sorted({'re','json','typing','dataclasses','msgspec','urllib3','hashlib',"
        "'subprocess','pathlib','tempfile','shutil','enum','tarfile'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", code, repr([p for p in sys.path if p])],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout.strip() == "[]"
