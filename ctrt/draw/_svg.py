"""A scene as SVG: one self-contained document, the same bytes for the same scene.

It works as an image and inlined in a page: it brings its own background, follows the viewer's
light or dark preference, and all its rules are bound to a class made of a digest of the
content, so that two pictures in one page do not disturb each other. Nothing is fetched.
"""

from __future__ import annotations

from hashlib import blake2s
from typing import TYPE_CHECKING

from ctrt.draw._measure import width
from ctrt.draw._sheet import (
    BOX_SIZE,
    HEAD_SIZE,
    LABEL_SIZE,
    ROW_SIZE,
    SUB_SIZE,
    TITLE_SIZE,
    tidy,
)
from ctrt.words import visible

if TYPE_CHECKING:
    from ctrt.draw._scene import Edge, Node, Scene

COLOURS = {
    "user": ("#5A3FA0", "#B9A3FF"),
    "pid": ("#B0237A", "#FF8CC8"),
    "mnt": ("#1F5FBF", "#7DB4FF"),
    "net": ("#0B7A4B", "#4FD69A"),
    "uts": ("#8A5A00", "#F0B545"),
    "ipc": ("#5F6B00", "#C9D24A"),
    "cgroup": ("#B3391F", "#FF9A80"),
    "time": ("#3F6470", "#9CC7D6"),
}
"""The kinds of namespaces in the light and the dark theme."""

THEME = {
    "paper": ("#FFFFFF", "#1C1F26"),
    "ink": ("#1B1F24", "#E6E9EE"),
    "quiet": ("#57606A", "#A9B2BD"),
    "faint": ("#D5DAE0", "#3A414C"),
    "branch": ("#9AA4AF", "#6B7685"),
    "card": ("#F6F8FA", "#262B34"),
    "good": ("#0B7A4B", "#4FD69A"),
    "bad": ("#B3391F", "#FF9A80"),
}
"""Background, text, quiet text, hairlines, branches of a tree, chips, gained and lost."""

_SIGNS = {"+": "good", "-": "bad", "~": "uts"}
_SANS = "system-ui,-apple-system,'Segoe UI',Roboto,'Helvetica Neue',Arial,sans-serif"
_MONO = "ui-monospace,SFMono-Regular,Menlo,Consolas,'DejaVu Sans Mono',monospace"
_TINT = 0.07


def render(scene: Scene) -> str:
    """The SVG document."""
    body = _bands(scene.nodes)
    for edge in scene.edges:
        body += _edge(edge)
    shapes = {
        "container": _container,
        "tabbed": _tabbed,
        "pill": _pill,
        "chip": _chip,
        "row": _row,
        "hexagon": _hexagon,
        "segment": _segment,
        "trapezoid": _trapezoid,
        "text": _text,
    }
    boxes: list[str] = []
    for node in scene.nodes:
        drawn = shapes[node.shape](node)
        (boxes if node.shape in ("container", "tabbed") else body).extend(drawn)
    inner = "\n".join(boxes + body)
    digest = (
        "ctrt-"
        + blake2s(
            f"{scene.title}\n{scene.description}\n{inner}".encode(errors="replace"), digest_size=5
        ).hexdigest()
    )
    w, h = tidy(scene.width), tidy(scene.height)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" class="{digest}" width="{w}" height="{h}" '
        f'viewBox="0 0 {w} {h}" role="img" aria-labelledby="{digest}-t {digest}-d" '
        'style="max-width:100%;height:auto">\n'
        f'<title id="{digest}-t">{escape(scene.title)}</title>\n'
        f'<desc id="{digest}-d">{escape(scene.description)}</desc>\n'
        f"<style>{_style(digest)}</style>\n"
        f'<rect class="paper" x="0.5" y="0.5" width="{tidy(w - 1)}" height="{tidy(h - 1)}" '
        'rx="10"/>\n'
        f"{inner}\n</svg>\n"
    )


def escape(text: str) -> str:
    """Text for XML: the five characters, and a mark for what XML cannot hold at all."""
    for char, name in (("&", "amp"), ("<", "lt"), (">", "gt"), ('"', "quot"), ("'", "#39")):
        text = text.replace(char, f"&{name};")
    return visible(text)


def _style(scope: str) -> str:
    light = _rules(scope, 0)
    dark = _rules(scope, 1)
    fixed = (
        f".{scope} text{{font-family:{_SANS};font-size:{LABEL_SIZE}px;white-space:pre}}"
        f".{scope} .title{{font-size:{TITLE_SIZE}px;font-weight:600}}"
        f".{scope} .box{{font-size:{BOX_SIZE}px;font-weight:600}}"
        f".{scope} .label{{font-weight:600}}"
        f".{scope} .icon{{font-size:11px;font-weight:700;text-anchor:middle}}"
        f".{scope} .mid{{text-anchor:middle}}"
        f".{scope} .sub{{font-size:{SUB_SIZE}px}}"
        f".{scope} .head{{font-size:{HEAD_SIZE}px;letter-spacing:.02em}}"
        f".{scope} .mono{{font-family:{_MONO}}}"
        f".{scope} .row{{font-family:{_MONO};font-size:{ROW_SIZE}px}}"
        f".{scope} .strike{{text-decoration:line-through}}"
        f".{scope} .together{{font-style:italic}}"
        f".{scope} .family{{font-weight:600}}"
        f".{scope} .line{{fill:none;stroke-width:1.5}}"
        f".{scope} .hair{{fill:none;stroke-width:1}}"
        f".{scope} .tint{{fill-opacity:{_TINT}}}"
    )
    return f"{fixed}{light}@media (prefers-color-scheme:dark){{{dark}}}"


def _rules(scope: str, theme: int) -> str:
    rules = []
    for name, pair in THEME.items():
        colour = pair[theme]
        rules.append(f".{scope} .f-{name}{{fill:{colour}}}.{scope} .s-{name}{{stroke:{colour}}}")
    for name, pair in COLOURS.items():
        colour = pair[theme]
        rules.append(f".{scope} .f-{name}{{fill:{colour}}}.{scope} .s-{name}{{stroke:{colour}}}")
    paper, faint = THEME["paper"][theme], THEME["faint"][theme]
    rules.append(f".{scope} .paper{{fill:{paper};stroke:{faint}}}")
    return "".join(rules)


def _say(x: float, y: float, text: str, classes: str) -> str:
    return f'<text x="{tidy(x)}" y="{tidy(y)}" class="{classes}">{escape(text)}</text>'


def _kind(node: Node) -> str:
    return node.kind if node.kind in COLOURS and node.border != "dotted" else "quiet"


def _dash(border: str) -> str:
    """The stroke of a border; double ones are drawn as a second line by the shape itself."""
    return {"dashed": ' stroke-dasharray="6 4"', "dotted": ' stroke-dasharray="1.5 3.5"'}.get(
        border, ""
    )


def _box(node: Node, radius: float, classes: str, inset: float = 0, *, extra: str = "") -> str:
    return (
        f'<rect class="{classes}" x="{tidy(node.x + inset)}" y="{tidy(node.y + inset)}" '
        f'width="{tidy(node.w - 2 * inset)}" height="{tidy(node.h - 2 * inset)}" '
        f'rx="{tidy(max(radius - inset, 0))}"{extra}/>'
    )


def _outline(node: Node, radius: float) -> list[str]:
    """Tinted area, border, and the second line of a double border."""
    kind = _kind(node)
    drawn = [
        _box(node, radius, "f-paper"),
        _box(node, radius, f"f-{kind} tint"),
        _box(node, radius, f"line s-{kind}", extra=_dash(node.border)),
    ]
    if node.border == "double":
        drawn.append(_box(node, radius, f"line s-{kind}", 3.5))
    return drawn


def _icon(x: float, y: float, node: Node) -> list[str]:
    return [
        f'<circle cx="{tidy(x)}" cy="{tidy(y)}" r="10" class="f-{_kind(node)}"/>',
        _say(x, y + 4, node.icon, "icon f-paper"),
    ]


def _container(node: Node) -> list[str]:
    label = node.x + 46
    drawn = _outline(node, 14) + _icon(node.x + 28, node.y + 25, node)
    drawn.append(_say(label, node.y + 30, node.label, f"box f-{_kind(node)}"))
    if node.sub:
        left = label + width(node.label, BOX_SIZE, bold=True) + 12
        drawn.append(_say(left, node.y + 30, node.sub, "sub f-quiet"))
    return drawn


def _tabbed(node: Node) -> list[str]:
    kind = _kind(node)
    tab = (
        52
        + width(node.label, LABEL_SIZE, bold=True)
        + (width(node.sub, SUB_SIZE) + 10 if node.sub else 0)
    )
    x, y, right, bottom = node.x, node.y, node.x + node.w, node.y + node.h
    top = y + 30
    path = (
        f"M{tidy(x)} {tidy(bottom - 8)}V{tidy(y + 8)}q0-8 8-8"
        f"H{tidy(x + tab - 8)}q8 0 8 8V{tidy(top)}"
        f"H{tidy(right - 8)}q8 0 8 8V{tidy(bottom - 8)}q0 8-8 8H{tidy(x + 8)}q-8 0-8-8z"
    )
    seam = f"M{tidy(x)} {tidy(top)}H{tidy(x + tab)}"
    drawn = [
        f'<path class="f-paper" d="{path}"/>',
        f'<path class="f-{kind} tint" d="{path}"/>',
        f'<path class="line s-{kind}" d="{path}"{_dash(node.border)}/>',
        f'<path class="hair s-{kind}" stroke-opacity="0.45" d="{seam}"/>',
        *_icon(x + 20, y + 15.5, node),
        _say(x + 36, y + 20, node.label, f"label f-{kind}"),
    ]
    if node.sub:
        left = x + 36 + width(node.label, LABEL_SIZE, bold=True) + 8
        drawn.append(_say(left, y + 20, node.sub, "sub f-quiet"))
    return drawn


def _pill(node: Node) -> list[str]:
    drawn = _outline(node, node.h / 2) + _icon(node.x + 17, node.y + node.h / 2, node)
    drawn.append(_say(node.x + 34, node.y + 20.5, node.label, f"label f-{_kind(node)}"))
    if node.sub:
        left = node.x + 34 + width(node.label, LABEL_SIZE, bold=True) + 8
        drawn.append(_say(left, node.y + 20.5, node.sub, "sub f-quiet"))
    return drawn


def _chip(node: Node) -> list[str]:
    drawn = [
        _box(node, 7, "f-card"),
        _box(node, 7, "hair s-quiet"),
        _say(node.x + 14, node.y + 20.5, node.label, "label mono f-ink"),
    ]
    if node.sub:
        left = node.x + 14 + width(node.label, LABEL_SIZE, mono=True) + 10
        drawn.append(_say(left, node.y + 20.5, node.sub, "sub f-quiet"))
    return drawn


def _bands(nodes: tuple[Node, ...]) -> list[str]:
    """A band behind every other row, so that the eye finds from one column to the next."""
    rows = [node for node in nodes if node.shape == "row"]
    table: dict[str, str | None] = {}  # what holds each row: a box, or nothing
    lefts: dict[str | None, float] = {}
    for node in rows:
        table[node.id] = table.get(node.parent or "", node.parent)
        holder = table[node.id]
        lefts[holder] = min(lefts.get(holder, node.x), node.x)
    drawn = []
    for node in rows[::2]:
        left = lefts[table[node.id]] - 8
        drawn.append(
            f'<rect class="f-card" x="{tidy(left)}" y="{tidy(node.y)}" '
            f'width="{tidy(node.x + node.w + 8 - left)}" height="{tidy(node.h)}" rx="5"/>'
        )
    return drawn


def _row(node: Node) -> list[str]:
    base = node.y + node.h / 2 + 4.5
    words = "row" + (" strike" if node.strike else "")
    tone = "f-quiet" if node.strike or node.code == "together" else "f-ink"
    if node.code in ("together", "family"):
        words += f" {node.code}"
    drawn = [_say(node.x, base, node.label, f"{words} {tone}")]
    for cell in node.cells:
        if cell.mark:
            drawn += _mark(cell.x, node.y + node.h / 2, cell.mark)
        else:
            drawn.append(_say(cell.x, base, cell.text, "row f-quiet"))
    return drawn


def _mark(x: float, y: float, mark: str) -> list[str]:
    """A cell of a matrix, told by its form as well as by its colour."""
    left, top = tidy(x - 7), tidy(y - 7)
    square = f'x="{left}" y="{top}" width="14" height="14" rx="3.5"'
    if mark == "off":
        return [f'<circle cx="{tidy(x)}" cy="{tidy(y)}" r="1.6" class="f-quiet"/>']
    if mark == "on":
        return [f'<rect class="f-user" {square}/>']
    tone = "good" if mark == "gained" else "bad"
    cross = f"M{tidy(x - 3.5)} {tidy(y)}h7" + (
        f"M{tidy(x)} {tidy(y - 3.5)}v7" if mark == "gained" else ""
    )
    return [
        f'<rect class="line s-{tone}" {square}/>',
        f'<path class="line s-{tone}" d="{cross}"/>',
    ]


def _hexagon(node: Node) -> list[str]:
    x, y, w, h = node.x, node.y, node.w, node.h
    quarter = w / 4
    points = " ".join(
        f"{tidy(px)},{tidy(py)}"
        for px, py in (
            (x, y + h / 2),
            (x + quarter, y + 0.5),
            (x + w - quarter, y + 0.5),
            (x + w, y + h / 2),
            (x + w - quarter, y + h - 0.5),
            (x + quarter, y + h - 0.5),
        )
    )
    solid = node.border == "solid"
    shape = "f-mnt" if solid else "f-paper"
    dash = "" if solid else ' stroke-dasharray="3 2"'
    size = ' style="font-size:9px"' if len(node.label) > 2 else ""
    centre, base = tidy(x + w / 2), tidy(y + h / 2 + 4)
    words = f"icon {'f-paper' if solid else 'f-mnt'}"
    polygon = f'<polygon class="{shape} s-mnt" stroke-width="1.3" points="{points}"{dash}/>'
    number = f'<text x="{centre}" y="{base}" class="{words}"{size}>{escape(node.label)}</text>'
    return [polygon, number]


def _segment(node: Node) -> list[str]:
    """A piece of a ruler, or of a bar: its words in the middle."""
    centre, base = node.x + node.w / 2, node.y + node.h / 2 + 4.5
    return [*_outline(node, 5), _say(centre, base, node.label, "sub mid f-ink")]


def _trapezoid(node: Node) -> list[str]:
    """A cgroup: narrower at its foot, where what is left for those below goes through."""
    kind, slope = _kind(node), 9
    x, y, right, bottom = node.x, node.y, node.x + node.w, node.y + node.h
    path = (
        f"M{tidy(x)} {tidy(y)}H{tidy(right)}L{tidy(right - slope)} {tidy(bottom)}"
        f"H{tidy(x + slope)}z"
    )
    base = y + node.h / 2 + 4.5
    left = x + slope + 7
    drawn = [
        f'<path class="f-paper" d="{path}"/>',
        f'<path class="f-{kind} tint" d="{path}"/>',
        f'<path class="line s-{kind}" stroke-linejoin="round" d="{path}"{_dash(node.border)}/>',
        _say(left, base, node.label, f"label f-{kind}"),
    ]
    if node.sub:
        left += width(node.label, LABEL_SIZE, bold=True) + 8
        drawn.append(_say(left, base, node.sub, "sub f-quiet"))
    return drawn


def _text(node: Node) -> list[str]:
    classes = {
        "title": "title f-ink",
        "heading": "box f-ink",
        "head": "head f-quiet",
        "seen": "sub f-good",
        "sign": f"sub f-{_SIGNS.get(node.label, 'quiet')}",
    }.get(node.code, "sub f-quiet")
    size = {"title": TITLE_SIZE, "heading": BOX_SIZE, "head": HEAD_SIZE}.get(node.code, SUB_SIZE)
    return [_say(node.x, node.y + size * 1.1, node.label, classes)]


def _edge(edge: Edge) -> list[str]:
    path = "M" + "L".join(f"{tidy(x)} {tidy(y)}" for x, y in edge.points)
    if edge.kind == "tree":
        return [f'<path class="hair s-branch" d="{path}"/>']
    if edge.kind == "ribbon":
        return [f'<path class="f-user" fill-opacity="0.16" d="{path}Z"/>']
    dash = ' stroke-dasharray="4 3"' if edge.dash else ""
    tone = {"veth": "net", "link": "branch"}.get(edge.kind, "mnt")
    drawn = [f'<path class="line s-{tone}" stroke-linejoin="round" d="{path}"{dash}/>']
    ends = []
    (x0, y0), (x1, y1) = edge.points[0], edge.points[-1]
    if abs(x1 - x0) + abs(y1 - y0) < 14 and edge.arrow == "both":
        return drawn  # two heads would not fit; two filled hexagons say the same
    if edge.arrow in ("end", "both"):
        ends.append((edge.points[-1], edge.points[-2]))
    if edge.arrow == "both":
        ends.append((edge.points[0], edge.points[1]))
    for (x, y), (x_before, y_before) in ends:
        if y_before == y:
            back = 6 if x_before > x else -6
            head = f"l{back} -3.5v7z"
        else:
            back = 6 if y_before > y else -6
            head = f"l-3.5 {back}h7z"
        drawn.append(f'<path class="f-{tone}" d="M{tidy(x)} {tidy(y)}{head}"/>')
    return drawn
