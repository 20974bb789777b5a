"""Annotations that become properties of systemd's unit."""

from __future__ import annotations

import pytest

from ctrt.errors import CtrtError
from ctrt.linux import gvariant
from ctrt.runtime.cgroup import annotated_properties

VALUES = {
    "true": ("b", True),
    " false ": ("b", False),
    "5": ("i", 5),
    "-5": ("i", -5),
    "0x10": ("i", 16),
    "5000000000": ("x", 5000000000),
    "1.5": ("d", 1.5),
    "double 2": ("d", 2.0),
    "byte 255": ("y", 255),
    "uint64 18446744073709551615": ("t", 2**64 - 1),
    "int16 -3": ("n", -3),
    "'inactive-or-failed'": ("s", "inactive-or-failed"),
    '"it\'s \\"so\\""': ("s", 'it\'s "so"'),
    "['a', 'b']": ("as", ["a", "b"]),
    "[1,2,3]": ("ai", [1, 2, 3]),
    "@as []": ("as", []),
    "@as ['x']": ("as", ["x"]),
}


@pytest.mark.parametrize("text", VALUES)
def test_values(text):
    assert gvariant.parse(text) == VALUES[text]


@pytest.mark.parametrize(
    "text",
    [
        *("", "text", "'open", "5 6", "[1, 'a']", "[]", "[1", "byte 256", "uint64 -1", "uint32 x"),
        *("double 'a'", "'\\q'", "uint64", "[1 2]", "@as [1]"),
    ],
)
def test_what_is_no_value(text):
    with pytest.raises(ValueError, match=r"\w{2}"):
        gvariant.parse(text)


def test_annotations_are_properties():
    found = annotated_properties(
        {
            "org.systemd.property.CollectMode": "'inactive-or-failed'",
            "org.systemd.property.TimeoutStopUSec": "uint64 123",
            "org.systemd.property.TimeoutStartSec": "1.5",
            "org.example": "not for systemd",
        }
    )
    assert found == (
        ("CollectMode", "s", "inactive-or-failed"),
        ("TimeoutStopUSec", "t", 123),
        ("TimeoutStartUSec", "t", 1_500_000),
    )


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("CollectMode", "failed", "'failed' is no value; text stands in quotes"),
        ("Bad/Name", "5", "'Bad/Name' is not the name of a unit's property"),
        ("", "5", "is not the name of a unit's property"),
        ("TimeoutStopSec", "'a'", "is \"'a'\", not a number of seconds"),
    ],
)
def test_a_wrong_annotation_is_one_sentence(name, text, words):
    with pytest.raises(CtrtError) as error:
        annotated_properties({f"org.systemd.property.{name}": text})
    assert words in str(error.value)
    assert f'annotations["org.systemd.property.{name}"]' in str(error.value)
