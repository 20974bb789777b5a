"""Rich output from inside a container: only where the cell asks for it."""

from __future__ import annotations

import base64
import struct
import time
import zlib
from pathlib import Path

import pytest
from ctrt_kernel.rich import OPEN, Channel, Refused, Shown
from hypothesis import given
from hypothesis import strategies as st
from kernel_tools import IMAGE, Kernel


def _png() -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = struct.pack(">IIBBBBB", 1, 1, 8, 0, 0, 0, 0)
    pixel = zlib.compress(b"\0\0")
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixel) + chunk(b"IEND", b"")
    )


def test_the_program_shows_a_file(kernel: Kernel) -> None:
    kernel.good(f"png = {_png()!r}")
    outcome = kernel.good(
        f"%%container --display --put png=/a.png {IMAGE}\n"
        "echo before; ctrt-display png /a.png; echo '<b>bold</b>' | ctrt-display html; echo after"
    )
    assert outcome.stream("stdout") == "before\nafter\n"
    assert outcome.stream("stderr") == ""
    png, text = outcome.displays
    assert base64.b64decode(png["image/png"]) == _png()
    assert text == {"text/html": "<b>bold</b>\n", "text/plain": "<text/html>"}


def test_the_sequence_alone(kernel: Kernel) -> None:
    outcome = kernel.good(
        f"%%container --display {IMAGE}\n"
        r"""printf '\033]ctrt;data:application/json,{"a": [1]}\007'"""
        "\n"
        r"""printf '\033]ctrt;data:image/svg+xml,<svg xmlns="http://www.w3.org/2000/svg"/>\033\\'"""
    )
    assert [list(shown)[-1] for shown in outcome.displays] == ["application/json", "image/svg+xml"]
    assert outcome.displays[0]["application/json"] == {"a": [1]}
    assert outcome.stream("stdout") == ""


def test_in_the_background_it_is_shown_in_its_own_cell(kernel: Kernel) -> None:
    sent = kernel.send(
        f"%%container --display --bg=job {IMAGE}\nsleep 0.5; echo late | ctrt-display html"
    )
    kernel.outcome(sent)
    kernel.client.execute("job.wait()", store_history=False)
    while True:
        message = kernel.client.get_iopub_msg(timeout=20)
        if message["msg_type"] == "display_data":
            break
    assert message["parent_header"]["msg_id"] == sent
    assert message["content"]["data"]["text/html"] == "late\n"


HOSTILE = (
    r"printf '\033]ctrt;data:text/html,<script>x</script>\007'; "
    r"printf '<img src=x onerror=alert(1)>\n'; printf '\033[31mred\033]0;title\007\377\n'"
)


def test_without_the_option_nothing_becomes_markup(kernel: Kernel) -> None:
    outcome = kernel.good(f"%%container {IMAGE}\n{HOSTILE}")
    assert {message.kind for message in outcome.messages} == {"execute_input", "stream"}
    assert "<script>" in outcome.stream("stdout")
    kernel.good(f"%%container --out kept {IMAGE}\n{HOSTILE}")
    assert kernel.good("kept").result.keys() == {"text/plain"}


def test_names_and_errors_are_text(kernel: Kernel) -> None:
    outcome = kernel.good(f"%%container --bg=job {IMAGE} /bin/sh -c : <b>x</b>\n")
    assert "<b>x" not in outcome.result["text/html"]
    kernel.good("job.wait()")


@pytest.mark.parametrize(
    ("sequence", "why"),
    [
        ("text/htm,x", "its type is 'text/htm'; did you mean text/html?"),
        ("application/javascript,x", "its type is 'application/javascript'; did you mean"),
        ("image/png;base64,%%", "its data is not base64"),
        ("application/json,{", "its data is not JSON"),
        ("text/html;gzip,x", "its coding is 'gzip', and there is only base64"),
        ("text/html", "it has no comma before the data"),
        ("application/json,[NaN]", "its data is not JSON: Out of range float values"),
        (r'application/json,"\ud800"', "its data is not JSON: 'utf-8' codec can't encode"),
        ("application/json," + "[" * 101 + "]" * 101, "its data is not JSON: it has more than 100"),
        ("application/json," + "[" * 5000, "its data is not JSON: it is nested too deeply"),
    ],
)
def test_a_sequence_that_is_wrong(kernel: Kernel, sequence: str, why: str) -> None:
    outcome = kernel.good(
        f"%%container --display {IMAGE}\nprintf '%s' '\033]ctrt;data:{sequence}\007ok'"
    )
    assert outcome.displays == []
    assert outcome.stream("stdout") == "ok"
    assert outcome.stream("stderr").startswith(
        f"--display: a sequence of the program was left out: {why}"
    )


def test_a_sequence_without_an_end(kernel: Kernel) -> None:
    outcome = kernel.good(f"%%container --display {IMAGE}\nprintf 'a\\033]ctrt;data:text/html,<b>'")
    assert outcome.stream("stdout") == "a"
    assert "the output ended in the middle of it" in outcome.stream("stderr")


def test_a_long_one_is_searched_once() -> None:
    """As it grows it costs no more for each piece: a hostile one kept the kernel busy."""

    def seconds(size: int) -> float:
        channel, start = Channel(), time.thread_time()
        assert not [
            *channel.feed(OPEN),
            *(p for _ in range(size) for p in channel.feed(b"a" * 999)),
        ]
        return time.thread_time() - start

    assert seconds(8_000) < 40 * seconds(1_000)  # were each piece searched from the start: 64


def test_one_that_is_too_long_ends_at_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ctrt_kernel.rich.MOST_BYTES", 20)
    for end in (b"\x07", b"\x1b\\"):
        sequence = OPEN + b"text/html," + b"a" * 30 + end
        pieces = [bytes([byte]) for byte in sequence + b"after"]
        assert _read(pieces) == ["it is longer than 0 MiB", b"after"]


@given(
    st.lists(st.sampled_from([b"a", b"\x1b", OPEN, b"text/plain,", b"\x07", b"\x1b\\", b"x"])),
    st.integers(1, 7),
)
def test_however_it_is_cut_it_is_read_the_same(parts: list[bytes], size: int) -> None:
    data = b"".join(parts)
    assert _read([data]) == _read([data[at : at + size] for at in range(0, len(data), size)])


def _read(pieces: list[bytes]) -> list[object]:
    channel = Channel()
    found: list[object] = []
    for piece in [*pieces, None]:
        for part in channel.feed(piece or b"", final=piece is None):
            if isinstance(part, bytes) and found and isinstance(found[-1], bytes):
                found[-1] += part
            elif isinstance(part, Shown):
                found.append(tuple(part.bundle.items()))
            elif isinstance(part, Refused):
                found.append(part.why)
            else:
                found.append(part)
    return found


SHOWS = "echo before; echo '<b>bold</b>' | ctrt-display html; echo after"


@pytest.mark.parametrize(
    "cell",
    [
        f"%%unshare --display -Urm sh\n{SHOWS}",
        f"%%unshare --display -Urm --as sandbox sh\n{SHOWS}",
        f"%%caps --display --drop ALL\n{SHOWS}",
        f"%%caps --display sh\n{SHOWS}",
    ],
)
def test_a_program_of_the_machine_s_finds_the_program_that_shows(kernel: Kernel, cell: str) -> None:
    outcome = kernel.good(cell)
    assert outcome.stream("stdout") == "before\nafter\n"
    assert outcome.stream("stderr") == ""
    assert [shown["text/html"] for shown in outcome.displays] == ["<b>bold</b>\n"]


def test_only_a_cell_that_asks_for_it_has_it_and_only_while_it_runs(kernel: Kernel) -> None:
    for line in ("%%unshare sh", "%%caps --drop ALL"):
        where = "command -v ctrt-display || echo none"
        assert kernel.good(f"{line}\n{where}").stream("stdout") == "none\n"
        magic, _, rest = line.partition(" ")
        path = kernel.good(f"{magic} --display {rest}\n{where}").stream("stdout").strip()
        assert path.endswith("/bin/ctrt-display")
        assert not Path(path).parent.parent.exists()


def test_it_stays_for_a_program_in_the_background(kernel: Kernel) -> None:
    kernel.good("%%unshare --display --bg=shows sh\nsleep 0.5; ctrt-display 2>/dev/null; echo $?")
    assert kernel.good("shows.wait(); shows.text()").result["text/plain"] == r"'2\n'"
