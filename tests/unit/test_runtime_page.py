"""The page on the runtime: its table has every property, and names tests that there are.

A property is what the check of configurations knows, and what the specification's own schema
knows. The words of a refusal are those of the code.
"""

from __future__ import annotations

import ast
import inspect
import json
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from ctrt.cli.runtime import main, options
from ctrt.oci import spec

PROJECT = Path(__file__).resolve().parents[2]
PAGE = PROJECT / "docs" / "runtime.md"
SCHEMA = Path("/usr/share/gocode/src/github.com/opencontainers/runtime-spec/schema")
RESULTS = ("works", "refused", "ignored")
_VARIABLE = "…"


class Row(NamedTuple):
    """A line of the table."""

    name: str
    result: str
    tests: tuple[tuple[str, str], ...]


@cache
def rows(heading: str = "## Every property of config.json") -> tuple[Row, ...]:
    """The lines of the tables below a heading."""
    found = []
    section = PAGE.read_text().partition(f"\n{heading}\n")[2].partition("\n## ")[0]
    for line in section.splitlines():
        cells = [cell.strip() for cell in line.strip().strip("|").split(" | ")]
        if not line.startswith("| `") or len(cells) != 3 or "::" not in cells[2]:
            continue
        tests = tuple(
            (file, name)
            for file, _, name in (each.strip().partition("::") for each in cells[2].split(","))
        )
        found.append(Row(cells[0].strip("`"), cells[1], tests))
    return tuple(found)


def properties(check: Any, place: str = "") -> Iterator[str]:
    """The properties that a check of `ctrt.oci.spec` knows, with those below them."""
    if not inspect.isfunction(check):
        return
    known = inspect.getclosurevars(check).nonlocals
    for name, below in (known.get("fields") or {}).items():
        path = f"{place}.{name}" if place else name
        yield path
        yield from properties(below, path)
    if "item" in known:
        kind = "[]" if getattr(check, "words", "") == "a list" else ".*"
        yield from properties(known["item"], place + kind)


def schema_properties() -> Iterator[str]:
    """The properties of the specification's schema, but those of other systems."""
    documents = {path.name: json.loads(path.read_text()) for path in SCHEMA.glob("*.json")}

    def walk(node: dict[str, Any], file: str, place: str, depth: int = 0) -> Iterator[str]:
        if depth > 14:
            return
        if "$ref" in node:
            other, _, path = node["$ref"].partition("#")
            found = documents[other or file]
            for part in filter(None, path.split("/")):
                found = found[part]
            yield from walk(found, other or file, place, depth + 1)
        for key in ("anyOf", "allOf", "oneOf"):
            for entry in node.get(key, ()):
                yield from walk(entry, file, place, depth + 1)
        for name, below in node.get("properties", {}).items():
            path = f"{place}.{name}" if place else name
            yield path
            yield from walk(below, file, path, depth + 1)
        if isinstance(node.get("items"), dict):
            yield from walk(node["items"], file, place + "[]", depth + 1)

    for path in walk(documents["config-schema.json"], "config-schema.json", ""):
        if path.partition(".")[0] not in ("windows", "solaris", "vm", "zos"):
            yield path


@cache
def defined_in(file: str) -> frozenset[str]:
    """The names of a file's tests; there is one file of that name."""
    (path,) = (PROJECT / "tests").rglob(file)
    tree = ast.parse(path.read_text())
    return frozenset(
        node.name
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
    )


@cache
def sentences() -> str:
    """All that the code can say: its strings, one after the other."""
    found: list[str] = []
    for path in (PROJECT / "ctrt").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.append(node.value)
    return "\n".join(found)


def test_every_property_that_is_checked_has_a_line() -> None:
    known = list(properties(spec._CONFIG))
    assert len(known) > 200
    names = [row.name for row in rows()]
    assert names == sorted(set(names), key=names.index), "each once"
    assert set(names) == set(known)


def test_every_property_of_the_schema_has_a_line() -> None:
    if not SCHEMA.is_dir():
        pytest.skip("golang-github-opencontainers-specs-dev is not installed")
    known = set(schema_properties())
    assert len(known) > 150
    assert known - {row.name for row in rows()} == set()


def test_every_line_has_a_result() -> None:
    for row in rows():
        assert row.result.startswith(RESULTS), row.name


def test_every_test_that_is_named_is_there() -> None:
    options_too = rows("## Options that no property stands for")
    assert options_too
    for row in (*rows(), *options_too):
        assert row.tests
        for file, name in row.tests:
            assert name in defined_in(file), f"{row.name}: {file}::{name}"


def test_every_test_that_the_text_names_is_there() -> None:
    """Beside the tables of properties, also in the one of what a container tries."""
    text = PAGE.read_text()
    for file, name in re.findall(r"\b(test_\w+\.py)(?:::(test_\w+))?", text):
        assert not name or name in defined_in(file), f"{file}::{name}"
        assert defined_in(file)
    tried = text.partition("\n## What a container tries\n")[2].partition("\n## ")[0]
    listed = [line.split("|") for line in tried.splitlines() if line.startswith("| CVE-")]
    assert len(listed) == len({line[1] for line in listed}) >= 10
    for line in listed:
        bare = re.findall(r"(?<![:\w])(test_\w+)(?![.\w])", line[3])
        assert bare or "::" in line[3], line[1]
        assert set(bare) <= defined_in("test_runtime_breakouts.py"), line[1]


def test_the_words_of_a_refusal_are_those_of_the_code() -> None:
    """A refusal's place, which the check puts before it, and what varies are left out."""
    checked = 0
    for row in rows():
        quoted = [words for words in re.findall(r"`([^`]*)`", row.result) if " " in words]
        assert bool(quoted) or "refused" not in row.result, row.name
        for words in quoted:
            place = re.match(r"[a-zA-Z]+(\.[a-zA-Z…]+(\[[^]]*\])?)* ?", words)
            for piece in re.split(f"{_VARIABLE}|[;:] ", words):
                text = piece.strip(' "[].:')
                if len(text) < 8 or (place and text in place.group()):
                    continue
                bare = text.removeprefix(place.group()) if place else text
                found = any(part in sentences() for part in (text, bare))
                assert found, f"{row.name}: {text!r}"
                checked += 1
    assert checked > 20


def test_features_tell_of_every_annotation_that_means_something(
    capsys: pytest.CaptureFixture[str],
) -> None:
    named = set(
        re.findall(
            r"^(?:(?:run\.oci|org\.[a-z.]+\.property)\.\w*|org\.criu\.config)$",
            sentences(),
            re.MULTILINE,
        )
    )
    assert len(named) > 3
    assert main.main(["features"]) == 0
    told = json.loads(capsys.readouterr().out)["potentiallyUnsafeConfigAnnotations"]
    assert set(told) == named
    (row,) = (row for row in rows() if row.name == "annotations")
    for name in named:
        assert f"`{name}" in row.result


def test_every_verb_has_a_line_and_every_option_is_named() -> None:
    text = PAGE.read_text()
    for verb, (_, _, table) in options.VERBS.items():
        assert f"| `{verb}" in text, verb
        for name in table:
            assert f"--{name}" in text, f"{verb} --{name}"
    for name in options.GLOBAL:
        assert f"--{name}" in text, name
