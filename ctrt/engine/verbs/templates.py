"""`--format` as podman has it: JSON, or a template in which `{{.FIELD}}` stands for a value.

Of Go's text/template there is what people write on a command line: fields, `json`, `len`, `index`,
`join`, and `range`.
"""

from __future__ import annotations

import re
from typing import Any

from ctrt.engine.verbs.base import Listing, Text, json_text
from ctrt.errors import CtrtError
from ctrt.words import visible

_FIELD = r"\.(?:[A-Za-z_][\w-]*(?:\.[A-Za-z_][\w-]*)*)?"
_ARGUMENT = r'\d+|"[^"]*"'
_ACTION = re.compile(
    rf"(?:(?P<what>json|len|index|join|range)\s+)?(?P<field>{_FIELD})"
    rf"(?P<arguments>(?:\s+(?:{_ARGUMENT}))*)|(?P<end>end)"
)
_TAKES = {None: range(1), "json": range(1), "len": range(1), "range": range(1),
          "join": range(1, 2), "index": range(1, 3)}  # fmt: skip
_KNOWN = (
    "{{.FIELD}}, {{json .FIELD}}, {{len .FIELD}}, {{index .FIELD 0}},"
    ' {{join .FIELD ","}} and {{range .FIELD}}...{{end}}'
)


class _Action:
    """What is between two pairs of braces."""

    def __init__(self, found: re.Match[str]) -> None:
        self.what: str | None = found["end"] or found["what"]
        self.field: str = (found["field"] or ".")[1:]
        words = re.findall(_ARGUMENT, found["arguments"] or "")
        self.arguments = [word[1:-1] if word[0] == '"' else int(word) for word in words]


def rendered(rows: list[dict[str, Any]], template: str, verb: str) -> Listing | Text:
    r"""Rows as a template shows them: `json`, `{{.ID}} {{.Size}}`, or `table {{.ID}}\t{{.Size}}`.

    A field may lead further in (`{{.Config.Cmd}}`). CtrtError for what is no such template.
    """
    if template == "json":
        return json_text(rows)
    headings, _, table = template.partition("table ")
    is_table = bool(table) and not headings
    text = (table if is_table else template).replace("\\t", "\t").replace("\\n", "\n")
    parts = _parsed(text, verb)
    lines = [_filled(parts, row, verb) for row in rows]
    if is_table:
        names = [part.field.upper() for part in parts if isinstance(part, _Action) and part.field]
        return Listing(names, [_cells(line, len(names)) for line in lines])
    return Text("\n".join("\n".join(map(visible, line.split("\n"))) for line in lines))


def _parsed(text: str, verb: str) -> list[str | _Action]:
    """The template's texts and actions in turn; each `range` has its `end`."""
    parts: list[str | _Action] = []
    depth = 0
    for part in re.split(r"(\{\{.*?\}\})", text, flags=re.DOTALL):
        if not part.startswith("{{"):
            parts.append(part)
            continue
        found = _ACTION.fullmatch(part[2:-2].strip())
        action = _Action(found) if found else None
        if action is None or (
            action.what != "end" and len(action.arguments) not in _TAKES[action.what]
        ):
            raise CtrtError(f"{verb}: --format knows {_KNOWN}, not {part}")
        depth += {"range": 1, "end": -1}.get(action.what or "", 0)
        if depth < 0:
            break
        parts.append(action)
    if depth:
        raise CtrtError(f"{verb}: --format has a {{{{range}}}} or an {{{{end}}}} without the other")
    return parts


def _cells(line: str, count: int) -> list[str]:
    cells = line.split("\t", count - 1)
    return cells + [""] * (count - len(cells))


def _filled(parts: list[str | _Action], row: Any, verb: str) -> str:
    """The text of a template for one row."""
    text = ""
    at = 0
    while at < len(parts):
        part = parts[at]
        at += 1
        if isinstance(part, str):
            text += part
        elif part.what == "range":
            end, depth = at, 1
            while depth:
                inner = parts[end]
                if isinstance(inner, _Action):
                    depth += {"range": 1, "end": -1}.get(inner.what or "", 0)
                end += 1
            value = _value(part, row, verb)
            values = value.values() if isinstance(value, dict) else value or ()
            text += "".join(_filled(parts[at : end - 1], each, verb) for each in values)
            at = end
        else:
            text += _shown(_made(part, row, verb))
    return text


def _made(action: _Action, row: Any, verb: str) -> Any:
    """What an action stands for."""
    value = _value(action, row, verb)
    if action.what == "json":
        import json

        return json.dumps(value)
    if action.what == "len":
        return len(value or ())
    if action.what == "join":
        return str(action.arguments[0]).join(map(_shown, value or ()))
    for key in action.arguments:
        if isinstance(value, dict):
            value = value.get(key)  # as Go has it: nothing, where there is no such key
        elif isinstance(key, int) and key < len(value or ()):
            value = value[key]
        else:
            raise CtrtError(f"{verb}: --format: .{action.field} has no member {key}")
    return value


def _value(action: _Action, row: Any, verb: str) -> Any:
    """The field of an action, which is a list or a dict where that is needed."""
    value = row
    for name in action.field.split(".") if action.field else ():
        if not isinstance(value, dict) or name not in value:
            known = ", ".join(value) if isinstance(value, dict) else "none"
            raise CtrtError(f"{verb}: --format: there is no field {name}; there are {known}")
        value = value[name]
    kinds = {"range": (list, dict), "index": (list, dict), "join": (list,),
             "len": (list, dict, str)}.get(action.what or "")  # fmt: skip
    if kinds and value is not None and not isinstance(value, kinds):
        raise CtrtError(f"{verb}: --format: .{action.field} is no list for {action.what}")
    return value


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
