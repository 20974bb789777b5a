"""What a cell gives to Python and takes from it: variables, files, interpreters, questions."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from kernel_tools import IMAGE, Kernel, Message, leftovers, on_control, wait_until


def test_dollar_variables_in_the_line(kernel: Kernel) -> None:
    kernel.good(f"image = {IMAGE!r}; count = 2; word = 'hi'")
    assert kernel.good("%%container $image seq $count\n").stream("stdout") == "1\n2\n"
    # What is no variable of Python is left to the container, and so is the cell's body.
    outcome = kernel.good("%%container -e A={word} {image}\necho $word$A")
    assert outcome.stream("stdout") == "hi\n"


def test_json_into_a_variable(kernel: Kernel) -> None:
    kernel.good(f"%%container --json found {IMAGE}\necho '{{\"a\": [1, 2]}}'")
    assert kernel.good("found['a']").result["text/plain"] == "[1, 2]"


def test_what_is_no_json(kernel: Kernel) -> None:
    outcome = kernel.run(f"%%container --json found {IMAGE}\necho no")
    assert outcome.stream("stdout") == "no\n"
    error = outcome.error
    assert error.startswith("CtrtError: --json: the output of /bin/sh in localhost/test/shell")
    assert error.endswith("is not JSON: Expecting value: line 1 column 1 (char 0)")


def test_a_failing_program_with_json_shows_what_it_said(kernel: Kernel) -> None:
    outcome = kernel.run(f"%%container --json found {IMAGE}\necho why; exit 2")
    assert outcome.stream("stdout") == "why\n"
    assert outcome.reply["ename"] == "ContainerError"


@pytest.mark.parametrize(
    ("line", "error"),
    [
        ("--out 1a", "container: --out '1a' is not the name of a variable"),
        ("--bg=1a", "container: --bg '1a' is not the name of a variable"),
        ("--out a --json b", "container: --out and --json both want standard output; name one"),
        ("--jsn b", "container: there is no option --jsn; did you mean --json?"),
        ("--disply", "container: there is no option --disply; did you mean --display?"),
        (
            "--bg -i",
            "container: --interactive cannot go with --bg: a cell that has ended can ask nothing",
        ),
        (
            "--bg --out a",
            (
                "container: --out cannot go with --bg: "
                "the cell ends before the program; ask its handle"
            ),
        ),
        (
            "--put greetin=/a",
            "--put 'greetin=/a': there is no variable 'greetin'; did you mean greeting?",
        ),
        (
            "--put greeting=a",
            (
                "--put 'greeting=a' is not VAR=/PATH, with an absolute path of a file that "
                "holds no ':'"
            ),
        ),
    ],
)
def test_mistakes_in_the_line(kernel: Kernel, line: str, error: str) -> None:
    kernel.good("greeting = 'hi'")
    assert kernel.bad(f"%%container {line} {IMAGE}\ntrue") == f"CtrtError: {error}"


def test_variables_as_files(kernel: Kernel) -> None:
    kernel.good("text = 'grün\\n'; raw = b'\\xff\\n'; data = {'a': [1, None]}")
    outcome = kernel.good(
        "%%container --put text=/srv/text --put raw=/srv/deep/raw --put data=/data.json "
        f"--out got {IMAGE}\ncat /srv/text /data.json; base64 /srv/deep/raw"
    )
    assert outcome.stream("stderr") == ""
    assert kernel.good("got").result["text/plain"] == repr('grün\n{"a": [1, null]}/wo=\n')


def test_a_variable_that_is_no_file(kernel: Kernel) -> None:
    kernel.good("odd = object()")
    assert kernel.bad(f"%%container --put odd=/a {IMAGE}\ntrue").startswith(
        "CtrtError: --put 'odd=/a': a object is no text, no bytes, and JSON cannot hold it"
    )


def test_a_body_for_another_interpreter(kernel: Kernel) -> None:
    body = '#!/usr/bin/env bash\na=(1 2); echo ${#a[@]} "$0"; cat'
    assert kernel.good(f"%%container {IMAGE}\n{body}").stream("stdout") == "2 /run/ctrt/cell\n"
    assert kernel.good(f"%%container {IMAGE}\n#!/bin/cat -n\nx").stream("stdout") == (
        "     1\t#!/bin/cat -n\n     2\tx\n"
    )


def test_an_interpreter_that_is_none(kernel: Kernel) -> None:
    assert kernel.bad(f"%%container {IMAGE}\n#!python\n1").startswith(
        "CtrtError: the cell begins with #!python, which is no absolute path"
    )
    assert "/usr/bin/nothing" in kernel.bad(f"%%container {IMAGE}\n#!/usr/bin/nothing\n1")


def test_a_program_asks(kernel: Kernel) -> None:
    outcome, questions = kernel.asked(
        f"%%container -i {IMAGE}\nprintf 'Name? '; read name; echo Hello $name; cat; echo end",
        *("Ada", "more", "^D"),
    )
    assert outcome.stream("stdout") == "Name? Hello Ada\nmore\nend\n"
    assert [question["password"] for question in questions] == [False] * 3


def test_with_a_command_the_questions_come_after_the_cell(kernel: Kernel) -> None:
    outcome, questions = kernel.asked(f"%%container -i {IMAGE} head -n 3\none\n", "two", "three")
    assert outcome.stream("stdout") == "one\ntwo\nthree\n"
    assert len(questions) == 2


def test_a_terminal(kernel: Kernel) -> None:
    outcome, questions = kernel.asked(
        f"%%container -t {IMAGE}\ntest -t 0 && test -t 1 && stty size\n"
        "printf 'Name? '; read name; echo Hello $name\n"
        "stty -echo; printf 'Secret? '; read secret; stty echo; echo; echo ${#secret}",
        *("Ada", "mellon"),
    )
    assert outcome.stream("stdout") == "24 100\nName? Hello Ada\nSecret? \n6\n"
    assert [question["password"] for question in questions] == [False, True]


def test_the_terminal_is_the_program_s_own(kernel: Kernel) -> None:
    """It is the session's terminal, in the container's own /dev/pts, with job control."""
    outcome, _ = kernel.asked(
        f"%%container -t {IMAGE} bash -i\n"
        "tty; test -e /dev/console && echo x > /dev/tty\nPS1=; set -m; sleep 0 & wait; jobs; exit\n"
    )
    text = outcome.stream("stdout") + outcome.stream("stderr")
    assert "/dev/pts/0\nx\n" in text
    assert "no job control" not in text
    assert "cannot set terminal" not in text


def test_an_interrupt_with_a_terminal(kernel: Kernel, store: Path) -> None:
    # A shell that has forked but not yet run its program loses the signal: so it waits.
    body = "trap 'echo caught; exit 7' INT; sleep 99 & echo go; wait"
    sent = kernel.send(f"%%container -t {IMAGE}\n{body}")
    outcome = kernel.outcome(
        sent, watch=lambda m: kernel.interrupt() if "go" in m.content.get("text", "") else None
    )
    assert "caught\n" in outcome.stream("stdout")
    assert wait_until(lambda: leftovers(store) == [])


def test_the_end_of_a_terminal_s_input(kernel: Kernel) -> None:
    outcome, _ = kernel.asked(f"%%container -t {IMAGE}\ncat; echo end", "one", "^D")
    assert outcome.stream("stdout") == "one\nend\n"


def test_a_frontend_that_answers_nothing_is_the_end_of_input(kernel: Kernel) -> None:
    for option in ("-i", "-t"):
        outcome = kernel.good(f"%%container {option} {IMAGE}\nread a || echo none")
        assert outcome.stream("stdout") == "none\n"


def test_an_interrupt_while_a_program_asks(kernel: Kernel, store: Path) -> None:
    code = f"%%container -i {IMAGE}\necho ready; read name; echo never"
    outcome, _ = kernel.asked(code, None)
    assert outcome.stream("stdout") == "ready\n"
    assert outcome.error.startswith("KeyboardInterrupt: ")
    assert leftovers(store) == []


def test_stdin_is_empty_without_i(kernel: Kernel) -> None:
    assert kernel.good(f"%%container {IMAGE}\nread a || echo none").stream("stdout") == "none\n"


def test_a_job_prints_in_its_own_cell(kernel: Kernel) -> None:
    sent = kernel.send(
        f"%%container --bg=job {IMAGE}\nfor i in 1 2 3; do echo tick $i; sleep 0.3; done"
    )
    started = kernel.outcome(sent)
    assert started.result["text/plain"] == (
        "/bin/sh in localhost/test/shell:latest, in the background: "
        ".wait(), .stop(), .text(), .status"
    )
    assert kernel.good("job.status is None").result["text/plain"] == "True"
    later: list[tuple[str, str]] = []
    kernel.client.execute("print('mine', flush=True); print(job.wait())", store_history=False)
    end = time.monotonic() + 30
    while not any("0" in text for _, text in later):
        message = kernel.client.get_iopub_msg(timeout=end - time.monotonic())
        if message["msg_type"] == "stream":
            own = message["parent_header"]["msg_id"] == sent
            later.append(("job" if own else "other", message["content"]["text"]))
    assert "".join(text for whose, text in later if whose == "other") == "mine\n0\n"
    told = started.stream("stdout") + "".join(text for whose, text in later if whose == "job")
    assert "tick 3\n" in told
    assert "tick" not in "".join(text for whose, text in later if whose == "other")
    assert kernel.good("job.text()").result["text/plain"] == r"'tick 1\ntick 2\ntick 3\n'"


def test_a_job_is_stopped(kernel: Kernel, store: Path) -> None:
    kernel.good(f"%%container --bg=job --name steady {IMAGE}\nexec sleep 600")
    assert "steady" in kernel.good("job").result["text/html"]
    assert kernel.good("job.stop()").result["text/plain"] == "137"
    assert kernel.good("job.status, job.text()").result["text/plain"] == "(137, '')"
    assert wait_until(lambda: leftovers(store) == [])


def test_a_job_that_ends_well_when_asked(kernel: Kernel) -> None:
    kernel.good(
        f"%%container --bg=job {IMAGE}\n"
        "trap 'echo bye; exit 0' TERM\necho set\nwhile :; do sleep 0.1; done"
    )
    kernel.good("import time\nwhile job.text() != 'set\\n': time.sleep(0.05)")
    assert kernel.good("job.stop()").result["text/plain"] == "0"
    assert kernel.good("job.text()").result["text/plain"] == r"'set\nbye\n'"


def test_a_program_of_unshare_in_the_background(kernel: Kernel) -> None:
    kernel.good("%%unshare -Ur --bg=job sh\nid -u")
    assert kernel.good("job.wait(), job.text()").result["text/plain"] == r"(0, '0\n')"


def test_ten_megabytes_do_not_stall(kernel: Kernel) -> None:
    """They come in pieces, and meanwhile the kernel answers and other jobs are heard."""
    kernel.good(f"%%container --bg=job {IMAGE}\nwhile :; do echo tick; sleep 0.05; done")
    answered: list[float] = []

    def watch(message: Message) -> None:
        if message.kind == "stream" and not answered:
            on_control(kernel, "kernel_info_request", {})
            answered.append(message.seconds)

    try:
        sent = kernel.send(f"%%container {IMAGE}\nhead -c 7500000 /dev/zero | base64")
        outcome = kernel.outcome(sent, watch=watch)
        assert len(outcome.stream("stdout")) == 10_131_579
        assert len(outcome.messages) > 3
        assert answered
        assert answered[0] < outcome.messages[-1].seconds < 20
        before = kernel.good("len(job.text())").result["text/plain"]
        assert int(before) > 0
    finally:
        kernel.good("job.stop(0)")


def test_a_hundred_megabytes_arrive_whole_and_so_does_their_end(kernel: Kernel) -> None:
    """A frontend is behind then, and of what a kernel has sent it may miss all but a thousand."""
    outcome = kernel.good(f"%%container {IMAGE}\nseq -w 13000000")
    size = sum(len(m.content["text"]) for m in outcome.messages if m.kind == "stream")
    assert size == 13_000_000 * 9


def test_what_is_printed_at_once_shares_a_message(kernel: Kernel) -> None:
    """JupyterLab's server takes a thousand messages in a second, and drops the rest."""
    body = "i=0; while [ $i -lt 5000 ]; do echo line $i; i=$((i + 1)); done"
    wanted = "".join(f"line {i}\n" for i in range(5000))
    outcome = kernel.good(f"%%container {IMAGE}\n{body}")
    assert outcome.stream("stdout") == wanted
    assert len(outcome.messages) < 100
    sent = kernel.client.execute(f"%%container --bg {IMAGE}\n{body}", store_history=False)
    pieces: list[str] = []
    while not "".join(pieces).endswith("line 4999\n"):
        message = kernel.client.get_iopub_msg(timeout=20)
        if message["parent_header"].get("msg_id") == sent and message["msg_type"] == "stream":
            pieces.append(message["content"]["text"])
    assert "".join(pieces) == wanted
    assert len(pieces) < 100


def test_a_flood_is_stopped(kernel: Kernel, store: Path) -> None:
    sent = kernel.send(f"%%container {IMAGE}\nwhile :; do echo left-behind flood; done")
    pieces = 0

    def watch(message: Message) -> None:
        nonlocal pieces
        pieces += message.kind == "stream"
        if message.kind == "stream" and pieces == 20:
            kernel.interrupt()

    outcome = kernel.outcome(sent, watch=watch)
    assert outcome.error.startswith("KeyboardInterrupt")
    assert kernel.good("1 + 1").result["text/plain"] == "2"
    assert wait_until(lambda: leftovers(store) == [])
