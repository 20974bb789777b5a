"""What a cell's script prints, how it ends, and what the options of a cell do."""

from __future__ import annotations

import os
import time

import pytest
from kernel_tools import IMAGE, Kernel


def test_the_cell_is_a_script_of_the_container(kernel: Kernel) -> None:
    outcome = kernel.good(f"%%container {IMAGE}\necho out\necho err >&2\nid -u\necho $$ $0")
    assert outcome.stream("stdout") == "out\n0\n1 /bin/sh\n"
    assert outcome.stream("stderr") == "err\n"


def test_with_a_command_the_cell_is_its_input(kernel: Kernel) -> None:
    outcome = kernel.good(f"%%container {IMAGE} cat -n\none\ntwo")
    assert outcome.stream("stdout") == "     1\tone\n     2\ttwo\n"


def test_output_arrives_while_the_cell_runs_and_in_order(kernel: Kernel) -> None:
    kernel.good(f"%%container {IMAGE}\ntrue")  # what a first run takes is not measured here
    seen: list[tuple[str, float]] = []
    outcome = kernel.run(
        f"%%container {IMAGE}\nfor i in 1 2 3; do echo line $i; sleep 1; done; echo done",
        watch=lambda m: seen.append((m.content.get("text", ""), time.monotonic())),
    )
    assert outcome.stream("stdout") == "line 1\nline 2\nline 3\ndone\n"
    lines = {text: when for text, when in seen if text}
    assert lines["done\n"] - lines["line 1\n"] > 2
    assert lines["line 2\n"] - lines["line 1\n"] > 0.5


def test_a_character_that_is_cut_in_two_comes_out_whole(kernel: Kernel) -> None:
    outcome = kernel.good(
        f"%%container {IMAGE}\nprintf 'gr\\303'; sleep 0.3; printf '\\274n \\377 \\342\\202'"
    )
    assert outcome.stream("stdout") == "grün � �"


def test_a_flood_arrives_complete(kernel: Kernel) -> None:
    outcome = kernel.good(f"%%container {IMAGE}\nseq 200000")
    assert outcome.stream("stdout").splitlines() == [str(n) for n in range(1, 200001)]


def test_a_status_is_an_exception_of_one_line(kernel: Kernel) -> None:
    outcome = kernel.run(f"%%container {IMAGE}\necho before; exit 3")
    assert outcome.stream("stdout") == "before\n"
    assert outcome.reply["ename"] == "ContainerError"
    assert outcome.error == (
        "ContainerError: /bin/sh in localhost/test/shell:latest ended with status 3"
    )


def test_no_raise_error_leaves_the_status_in_a_variable(kernel: Kernel) -> None:
    kernel.good(f"%%container --no-raise-error {IMAGE}\nexit 3")
    assert kernel.good("_exit_code").result["text/plain"] == "3"


def test_output_in_variables_is_not_shown(kernel: Kernel) -> None:
    outcome = kernel.good(f"%%container --out o --err e {IMAGE}\necho a; echo b >&2")
    assert outcome.messages == [m for m in outcome.messages if m.kind == "execute_input"]
    assert kernel.good("(o, e)").result["text/plain"] == r"('a\n', 'b\n')"


def test_variables_are_there_after_a_failure_too(kernel: Kernel) -> None:
    kernel.run(f"%%container --out o {IMAGE}\necho kept; exit 1")
    assert kernel.good("o").result["text/plain"] == r"'kept\n'"


def test_python_variables_in_the_line(kernel: Kernel) -> None:
    kernel.good(f"image = {IMAGE!r}")
    assert kernel.good("%%container {image}\necho hi").stream("stdout") == "hi\n"


def test_a_magic_without_a_body(kernel: Kernel) -> None:
    assert kernel.good(f"%%container {IMAGE} id -u").stream("stdout") == "0\n"
    assert kernel.good(f"%container {IMAGE} id -u").stream("stdout") == "0\n"


def test_a_script_longer_than_an_argument_may_be(kernel: Kernel) -> None:
    body = "#" * 200_000
    outcome = kernel.good(f"%%container {IMAGE}\necho long\n{body}")
    assert outcome.stream("stdout") == "long\n"


def test_a_script_with_a_nul(kernel: Kernel) -> None:
    assert kernel.bad(f"%%container {IMAGE}\n\0") == (
        "CtrtError: container: the cell has a NUL at byte 0; a script has none"
    )


def test_the_lecture_s_unshare(kernel: Kernel) -> None:
    outcome = kernel.good("%%unshare -UinpmrC -f /bin/bash\nwhoami\ngetpcaps $$ 2>&1")
    assert outcome.stream("stdout") == "root\n1: =ep\n"


def test_unshare_as_a_line(kernel: Kernel) -> None:
    assert kernel.good("%unshare -Ur id -u").stream("stdout") == "0\n"
    assert kernel.good("%%unshare -Ur id -u").stream("stdout") == "0\n"


def test_unshare_failing(kernel: Kernel) -> None:
    assert kernel.bad("%%unshare -Ur sh\nexit 4") == (
        "ContainerError: sh in new namespaces ended with status 4"
    )


def test_a_plan_is_shown_and_nothing_runs(kernel: Kernel) -> None:
    outcome = kernel.good(f"%%container --plan {IMAGE}\necho it ran")
    assert "clone3(" in outcome.result["text/plain"]
    assert outcome.stream("stdout") == ""
    assert "unshare" in kernel.good("%%unshare --plan -Up true\n#").result["text/plain"]


def test_detached_and_stopped(kernel: Kernel) -> None:
    name = f"detached-{os.getpid()}"
    started = kernel.good(f"%container -d --name {name} {IMAGE} sleep 600")
    assert started.result["text/plain"] == name
    assert name in kernel.good("%ctrt ps").result["text/plain"]
    assert "sleep" in kernel.good(f"%caps {name}").result["text/plain"].splitlines()[0]
    assert kernel.good(f"%ctrt stop -t 0 {name}").result["text/plain"] == name
    assert name not in kernel.good("%ctrt ps").result["text/plain"]


def test_a_first_process_that_knows_no_sigterm_is_not_waited_for(kernel: Kernel) -> None:
    kernel.good(f"%%container -d --name deaf {IMAGE}\nwhile :; do sleep 1; done")
    listed = kernel.good("%ctrt ps").result["text/plain"]
    assert "deaf  localhost/test/shell  /bin/sh -c while :; do sleep 1; done" in listed
    start = time.monotonic()
    kernel.good("%ctrt stop deaf")
    assert time.monotonic() < start + 5


def test_a_command_of_many_lines_is_one_in_a_table(kernel: Kernel) -> None:
    kernel.good(f"%%container -d --name many {IMAGE}\nsleep 100\nprintf '\\033[31m'\n")
    for verb in ("ps", "top many"):
        lines = kernel.good(f"%ctrt {verb}").result["text/plain"].splitlines()
        assert sum("/bin/sh -c sleep 100…" in line for line in lines) == 1
    kernel.good("%ctrt rm --force many")


@pytest.mark.parametrize("line", ["%%container", "%%unshare", "%caps", "%ctrt", "%ctrt graph"])
def test_help(kernel: Kernel, line: str) -> None:
    text = kernel.good(f"{line} --help\n").result["text/plain"]
    assert text.startswith(f"usage: {line} ")


def test_help_of_a_verb_in_either_order(kernel: Kernel) -> None:
    for verb, usage in {"ps": "%ctrt ps", "run": "%%container", "exec": "%ctrt exec"}.items():
        text = kernel.good(f"%ctrt help {verb}").result["text/plain"]
        assert text.startswith(f"usage: {usage} ")
        assert kernel.good(f"%ctrt {verb} --help").result["text/plain"] == text


def test_run_and_unshare_as_verbs_are_the_magics(kernel: Kernel) -> None:
    run = f"%ctrt run {IMAGE} sh -c 'echo \"a  b\"'"
    assert kernel.good(run).stream("stdout") == "a  b\n"
    assert kernel.good(f"%%ctrt run {IMAGE}\necho $$").stream("stdout") == "1\n"
    assert kernel.good("%ctrt unshare -Ur id -u").stream("stdout") == "0\n"


def test_question_mark_shows_the_same_help(kernel: Kernel) -> None:
    (payload,) = kernel.good("%%container?").reply["payload"]
    assert "--no-raise-error" in payload["data"]["text/plain"]


def test_the_two_streams_stay_in_their_order(kernel: Kernel) -> None:
    outcome = kernel.good(
        "from ctrt_kernel.cells import Here\n"
        "here = Here()\n"
        "for number in range(5):\n"
        "    here.stream('stdout', f'o{number} ')\n"
        "    here.stream('stderr', f'e{number} ')\n"
        "here.end()"
    )
    texts = [m.content["text"] for m in outcome.messages if m.kind == "stream"]
    assert "".join(texts) == "o0 e0 o1 e1 o2 e2 o3 e3 o4 e4 "
