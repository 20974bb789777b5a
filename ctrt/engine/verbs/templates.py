"""`--format` as podman has it: JSON, or a template in which `{{.FIELD}}` stands for a value."""

from __future__ import annotations

import re
from typing import Any

from ctrt.engine.verbs.base import Listing, Text, json_text
from ctrt.errors import CtrtError

_FIELD = re.compile(r"\{\{\s*(json\s+)?\.([A-Za-z_][\w.-]*)?\s*\}\}")


def rendered(rows: list[dict[str, Any]], template: str, verb: str) -> Listing | Text:
    r"""Rows as a template shows them: `json`, `{{.ID}} {{.Size}}`, or `table {{.ID}}\t{{.Size}}`.

    A field may lead further in (`{{.Config.Cmd}}`), and `{{json .FIELD}}` shows it as JSON.
    CtrtError for what is neither.
    """
    if template == "json":
        return json_text(rows)
    headings, _, table = template.partition("table ")
    text = (table if table and not headings else template).replace("\\t", "\t").replace("\\n", "\n")
    for part in re.findall(r"\{\{.*?\}\}", text):
        if not _FIELD.fullmatch(part):
            raise CtrtError(f"{verb}: --format knows {{{{.FIELD}}}} and {{{{json .FIELD}}}}, "
                            f"not {part}")  # fmt: skip
    lines = [_FIELD.sub(lambda found, row=row: _value(found, row, verb), text) for row in rows]  # type: ignore[misc]
    if table and not headings:
        names = [found[2].upper() for found in _FIELD.finditer(text)]
        return Listing(names, [_cells(line, len(names)) for line in lines])
    return Text("\n".join(lines))


def _cells(line: str, count: int) -> list[str]:
    cells = line.split("\t", count - 1)
    return cells + [""] * (count - len(cells))


def _value(found: re.Match[str], row: dict[str, Any], verb: str) -> str:
    value: Any = row
    for name in (found[2] or "").split(".") if found[2] else ():
        if not isinstance(value, dict) or name not in value:
            known = ", ".join(value) if isinstance(value, dict) else "none"
            raise CtrtError(f"{verb}: --format: there is no field {name}; there are {known}")
        value = value[name]
    if found[1]:
        import json

        return json.dumps(value)
    return _shown(value)


def _shown(value: Any) -> str:
    """As Go's templates print it."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return f"[{' '.join(map(_shown, value))}]"
    if isinstance(value, dict):
        return f"map[{' '.join(f'{key}:{_shown(part)}' for key, part in value.items())}]"
    return str(value)
