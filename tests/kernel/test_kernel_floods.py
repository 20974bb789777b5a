"""Much output: behind a Jupyter server a page shows its ends, and elsewhere every byte goes on."""

from __future__ import annotations

import threading
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest
from ctrt_kernel import fold, pace
from kernel_tools import IMAGE, Kernel

if TYPE_CHECKING:
    from collections.abc import Iterator

LINES = 400_000
FLOOD = "".join(f"{n}\n" for n in range(1, LINES + 1))


@pytest.fixture(scope="module")
def served(store: object) -> Iterator[Kernel]:
    """A kernel as Jupyter's server starts it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JPY_SESSION_NAME", "notebook.ipynb")
        kernel = Kernel()
    kernel.is_read = True
    yield kernel
    kernel.stop()


def test_the_ends_are_shown_and_all_is_kept(served: Kernel) -> None:
    outcome = served.good(f"%%container {IMAGE}\nseq {LINES}; echo the end >&2")
    kinds = [message.kind for message in outcome.messages]
    shown = outcome.stream("stdout")
    (note,) = outcome.displays
    at = kinds.index("display_data")
    first = "".join(m.content["text"] for m in outcome.messages[:at] if m.kind == "stream")
    assert FLOOD.startswith(first)
    assert first.endswith("\n")
    assert len(first) >= fold.MOST_CHARACTERS // 2
    last = shown.removeprefix(first)
    assert f"\n{FLOOD}".endswith(f"\n{last}")
    assert fold.END_CHARACTERS // 2 < len(last) <= fold.END_CHARACTERS
    assert outcome.stream("stderr") == "the end\n"
    # Other numbers come as changes of the first note.
    assert "too much for a page" in note["text/plain"]
    news = [m.content["data"]["text/plain"] for m in outcome.messages if "update" in m.kind]
    words = [note["text/plain"], *news][-1]
    assert words == (
        f"… of {(len(FLOOD) + 8) / 1e6:.1f} MB, which is too much for a page. All of it: "
        '_output.text(), or _output.save("file"). The end:'
    )
    served.good("_output.save('saved'); text = _output.text()")
    check = "text == open('saved', newline='').read() == everything + 'the end\\n'"
    served.good(f"everything = ''.join(f'{{n}}\\n' for n in range(1, {LINES} + 1))")
    assert served.good(f"import os; x = {check}; os.remove('saved'); x").result["text/plain"] == (
        "True"
    )


def test_it_is_kept_when_the_cell_fails_or_is_stopped(served: Kernel) -> None:
    assert served.bad(f"%%container {IMAGE}\nseq {LINES}; exit 3").endswith("ended with status 3")
    assert served.good("_output.size").result["text/plain"] == str(len(FLOOD))
    sent = served.send(f"%%container {IMAGE}\nseq {LINES}; echo now; exec sleep 600")
    timer = threading.Timer(3, served.interrupt)
    timer.start()
    assert served.outcome(sent).error.startswith("KeyboardInterrupt")
    assert served.good("_output.text().endswith('now\\n')").result["text/plain"] == "True"


def test_a_job_shows_its_ends_too(served: Kernel) -> None:
    started = served.good(f"%%container --bg=job {IMAGE}\nseq {LINES}")
    assert "in the background" in started.result["text/plain"]
    shown = served.good("job.wait(); len(job.text())")
    assert shown.result["text/plain"] == str(len(FLOOD))


def test_what_is_kept_in_a_variable_is_whole(served: Kernel) -> None:
    served.good(f"%%container --out text {IMAGE}\nseq {LINES}")
    assert served.good("len(text)").result["text/plain"] == str(len(FLOOD))


def test_without_a_page_every_byte_goes_on(kernel: Kernel, served: Kernel) -> None:
    assert kernel.good(f"%%container {IMAGE}\nseq {LINES}").stream("stdout") == FLOOD
    served.is_read = False  # as nbval that was started by a cell
    assert served.good(f"%%container {IMAGE}\nseq {LINES}").stream("stdout") == FLOOD
    served.is_read = True


def test_the_panel_shows_the_latest() -> None:
    assert fold.latest("few", "x") == "few"
    first, shown = fold.latest(FLOOD, "%ctrt logs web").split("\n", 1)
    assert first == f"… the latest of {len(FLOOD) / 1e6:.1f} MB; there is more in %ctrt logs web"
    assert f"\n{FLOOD}".endswith(f"\n{shown}")
    assert fold.MOST_CHARACTERS // 2 < len(shown) <= fold.MOST_CHARACTERS


def test_a_window_takes_no_more_than_the_server(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    # Its own clock, which no other thread of this process moves.
    clock = SimpleNamespace(
        monotonic=lambda: now[0], sleep=lambda seconds: now.__setitem__(0, now[0] + seconds)
    )
    monkeypatch.setattr(pace, "time", clock)
    window = pace.Window()
    sent: list[tuple[float, int]] = []
    for _ in range(400):
        window.admit(65536)
        sent.append((now[0], 65536))
    for moment, _ in sent:
        late = (moment, moment + 3 + pace.LONGEST_GAP_SECONDS)
        assert sum(size for when, size in sent if late[0] <= when < late[1]) <= 3_000_000
    # As fast as may be, all the same, and what is little at once.
    assert sent[20][0] == 100.0
    rate = sum(size for _, size in sent) / (sent[-1][0] - 100.0)
    assert rate > 700_000
