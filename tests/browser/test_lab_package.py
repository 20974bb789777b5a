"""The JavaScript half belongs to the same package as the Python half."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
EXTENSION = ROOT / "labextension"


def test_both_halves_have_one_version() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    package = json.loads((EXTENSION / "package.json").read_text())
    lock = json.loads((EXTENSION / "package-lock.json").read_text())
    assert package["version"] == project["version"]
    assert lock["version"] == project["version"]
    assert package["license"] == project["license"]


def test_lock_file_names_no_server_and_pins_every_package() -> None:
    text = (EXTENSION / "package-lock.json").read_text()
    assert "resolved" not in text
    packages = json.loads(text)["packages"]
    loose = [name for name, entry in packages.items() if name and "integrity" not in entry]
    assert loose == []


def test_both_halves_speak_of_one_mime_type() -> None:
    found = re.search(r"MIME_TYPE = '([^']+)'", (EXTENSION / "src" / "index.ts").read_text())
    assert found is not None
    assert found[1] == "application/vnd.ctrt.graph.v1+json"
