"""fastjson agrees with json, is stricter, and does not import it."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ctrt.oci import fastjson

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)  # fmt: skip


@given(VALUES)
def test_reads_what_json_writes_and_writes_what_json_reads(value: object) -> None:
    assert fastjson.loads(json.dumps(value, indent=1)) == value
    assert json.loads(fastjson.dumps(value)) == value
    assert fastjson.dumps(value).isascii()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"", "Expecting value: line 1 column 1 (char 0)"),
        (b"  ", "Expecting value: line 1 column 3 (char 2)"),
        (b'{"a" 1}', "Expecting ':' delimiter: line 1 column 6 (char 5)"),
        (b"[1,\nx]", "Expecting value: line 2 column 1 (char 4)"),
        (b"[1] 2", "Extra data: line 1 column 5 (char 4)"),
        (b"[NaN]", "NaN is not JSON"),
        (b"-Infinity", "-Infinity is not JSON"),
        (b"[1e400]", "the number 1e400 is too large"),
        (b"[" + b"9" * 5000 + b"]", "a number in it has too many digits"),
        (b"[" * 100_000, "JSON is nested too deeply"),
    ],
)
def test_says_what_is_wrong(text: bytes, message: str) -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        fastjson.loads(text)
    assert str(caught.value) == message


def test_refuses_what_is_not_utf8() -> None:
    with pytest.raises(UnicodeDecodeError):
        fastjson.loads(b'"\xff"')


def test_refuses_to_write_what_json_has_not() -> None:
    with pytest.raises(TypeError, match="bytes has no JSON form"):
        fastjson.dumps([b"x"])
    with pytest.raises(ValueError, match="Out of range float values"):
        fastjson.dumps(float("nan"))


def test_works_without_json_until_something_is_wrong() -> None:
    code = (
        "import sys; sys.path[:0] = eval(sys.argv[1]); from ctrt.oci import fastjson\n"
        "assert fastjson.loads(b'[1, 2.5]') == [1, 2.5] and fastjson.dumps({'a': None})\n"
        "assert 'json' not in sys.modules\n"
        "try: fastjson.loads(b'{')\n"
        "except ValueError as error: print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", code, repr([p for p in sys.path if p])],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout.startswith("Expecting property name enclosed in double quotes: line 1")
