"""What Jupyter does that nobody would expect, and what the kernel does about it."""

from __future__ import annotations

import re
import time
from importlib.metadata import version
from queue import Empty

import pytest
from kernel_tools import IMAGE, Kernel, on_control


def test_a_widget_answers_while_a_cell_runs(kernel: Kernel) -> None:
    """ipykernel 7.4.0 sends the answer to the subshell that last published: after the cell."""
    kernel.good(
        "import comm, threading\n"
        "def opened(channel, _):\n"
        "    def heard(_message): channel.send(threading.current_thread().name)\n"
        "    channel.on_msg(heard); channel.send('open')\n"
        "comm.get_comm_manager().register_target('echo', opened)"
    )
    subshell = on_control(kernel, "create_subshell_request", {})["subshell_id"]
    try:
        session = kernel.client.session
        opening = session.msg("comm_open", {"comm_id": "c1", "target_name": "echo", "data": {}})
        kernel.client.shell_channel.send(opening)
        sent = kernel.send("import time; print('runs', flush=True); time.sleep(4)")
        asked = ended = answered = 0.0
        end = time.monotonic() + 30
        while not ended and time.monotonic() < end:
            try:
                message = kernel.client.get_iopub_msg(timeout=1)
            except Empty:
                continue
            content = message["content"]
            of_the_cell = message["parent_header"].get("msg_id") == sent
            if of_the_cell and "runs" in content.get("text", ""):
                question = session.msg("comm_msg", {"comm_id": "c1", "data": "are you there?"})
                question["header"]["subshell_id"] = subshell
                kernel.client.shell_channel.send(question)
                asked = time.monotonic()
            elif message["msg_type"] == "comm_msg" and "subshell" in str(content["data"]):
                answered = time.monotonic()
            elif of_the_cell and content.get("execution_state") == "idle":
                ended = time.monotonic()
        assert asked, f"ipykernel {version('ipykernel')}"
        assert answered
        assert answered < ended - 1, "it answered only when the cell had ended"
    finally:
        on_control(kernel, "delete_subshell_request", {"subshell_id": subshell})


def test_networks_are_looked_at_while_an_event_loop_runs(kernel: Kernel) -> None:
    """A cell runs in one, and there the calls of pyroute2 raise RuntimeError."""
    picture = kernel.good("%ctrt graph network").result["text/plain"]
    assert re.search(r"^net\[host\] +the host$", picture, re.MULTILINE)
    seen = (
        "import asyncio\nfrom ctrt import observe\n"
        "async def look():\n"
        "    asyncio.get_running_loop()\n"
        "    return observe.networks(observe.scan())\n"
        "found = await look()\n"
        "any(link.name == 'lo' for net in found.values() for link in getattr(net, 'links', ()))"
    )
    assert kernel.good(seen).result["text/plain"] == "True"


@pytest.mark.parametrize(
    "cell",
    [
        "%%container",
        "%%container\n",
        f"%%container {IMAGE}\nexit 1",
        "%%container --nonsense a\nb",
        "%%image",
        "%%image a",
        "%%caps --nonsense",
        "%%caps --drop ALL",
        "%%unshare --nonsense",
        "%%unshare",
        "%unshare",
        "%ctrt nonsense",
        "%ctrt pull --nonsense",
        "%ctrt pull 'no end",
        "%caps --nonsense",
        "x = %caps --nonsense",
    ],
)
def test_a_mistake_is_an_error_that_tests_can_see(kernel: Kernel, cell: str) -> None:
    """A UsageError is printed, and nothing else tells of it: nbval takes that for success."""
    outcome = kernel.run(cell)
    assert outcome.reply["status"] == "error"
    assert any(m.kind == "error" for m in outcome.messages), outcome.stream("stderr")
    assert outcome.reply["ename"] != "UsageError"


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        *(("contianer", "container"), ("imgae", "image"), ("unhsare", "unshare")),
        *(("cpas", "caps"), ("crtt", "ctrt")),
    ],
)
def test_a_mistyped_magic_is_one_too(kernel: Kernel, typed: str, meant: str) -> None:
    assert kernel.bad(f"%%{typed} {IMAGE}\necho 'body'") == (
        f"CtrtError: there is no magic %%{typed}; did you mean %%{meant}?"
    )


def test_another_s_magic_is_left_alone(kernel: Kernel) -> None:
    assert kernel.good("%%bash\necho other").stream("stdout") == "other\n"
    assert "not found" in kernel.run("%%somethingelse\nx").stream("stderr")
    assert "not found" in kernel.run("%somethingelse").stream("stderr")
    assert kernel.good("%time x = 1\nprint(x)").stream("stdout").endswith("1\n")
    text = '"""\n%cap\n"""'
    assert kernel.good(text).result["text/plain"] == repr("\n%cap\n")
    assert kernel.good("cap = 4\n(7\n%cap)").result["text/plain"] == "3"


def test_background_output_stays_in_its_cell(kernel: Kernel) -> None:
    """ipykernel takes what a thread prints, or shows, for that of the latest cell."""
    sent = kernel.send(
        f"%%container --bg=job --display {IMAGE}\n"
        "sleep 0.5; echo out; echo err >&2; echo '<b>x</b>' | ctrt-display html; exit 3"
    )
    kernel.outcome(sent)
    waiting = kernel.client.execute("job.wait()", store_history=False)
    mine: dict[str, list[str]] = {"stream": [], "display_data": []}
    others: list[str] = []
    while True:
        message = kernel.client.get_iopub_msg(timeout=30)
        parent, kind = message["parent_header"].get("msg_id"), message["msg_type"]
        if kind in mine:
            text = str(message["content"].get("text") or message["content"]["data"])
            mine[kind].append(text) if parent == sent else others.append(text)
        if parent == waiting and message["content"].get("execution_state") == "idle":
            break
    assert others == []
    told = "".join(mine["stream"])
    assert "out\n" in told
    assert "err\n" in told
    assert "ended with status 3" in told
    assert "<b>x</b>" in mine["display_data"][0]
