"""`%%caps`: a cell with chosen capability sets, and the rules that execve follows."""

from __future__ import annotations

import itertools
import os
import subprocess
from pathlib import Path

import pytest
from kernel_tools import PROJECT, Kernel, wait_until

STATUS = "grep Cap /proc/self/status"
NET_RAW, NET_BIND_SERVICE, CHOWN = 1 << 13, 1 << 10, 1 << 0


def sets(text: str) -> dict[str, int]:
    """The five sets as /proc/PID/status has them."""
    return {
        line.split(":")[0]: int(line.split()[1], 16)
        for line in text.splitlines()
        if line.startswith("Cap")
    }


def test_drop_and_add(kernel: Kernel) -> None:
    found = sets(kernel.good(f"%%caps --drop ALL --add net_raw\n{STATUS}").stream("stdout"))
    assert found == {
        "CapInh": 0,
        "CapPrm": NET_RAW,
        "CapEff": NET_RAW,
        "CapBnd": NET_RAW,
        "CapAmb": 0,
    }


def test_another_user_keeps_only_what_is_ambient(kernel: Kernel) -> None:
    outcome = kernel.good(
        f"%%caps --user nobody --ambient CAP_NET_BIND_SERVICE,chown\n{STATUS}; id -u"
    )
    found = sets(outcome.stream("stdout"))
    wanted = NET_BIND_SERVICE | CHOWN
    assert {found[name] for name in ("CapInh", "CapPrm", "CapEff", "CapAmb")} == {wanted}
    assert outcome.stream("stdout").endswith("\n65534\n")
    found = sets(kernel.good(f"%%caps --user nobody\n{STATUS}").stream("stdout"))
    assert found["CapEff"] == found["CapPrm"] == 0
    assert found["CapBnd"] != 0


def test_securebits_and_the_bounding_set(kernel: Kernel) -> None:
    found = sets(
        kernel.good(
            f"%%caps --securebits noroot,keep_caps --bounding kill --inheritable chown\n{STATUS}"
        ).stream("stdout")
    )
    assert found["CapPrm"] == found["CapEff"] == 0, "user id 0 gives nothing any more"
    assert (found["CapBnd"], found["CapInh"]) == (1 << 5, CHOWN)


def test_in_a_folder_that_only_its_owner_may_enter(kernel: Kernel, tmp_path: Path) -> None:
    (tmp_path / "own").mkdir(mode=0o700)
    kernel.good(f"import os; here = os.getcwd(); os.chdir({str(tmp_path / 'own')!r})")
    outcome = kernel.good("%%caps --user-namespace --drop net_raw\npwd")
    kernel.good("os.chdir(here)")
    assert outcome.stream("stdout") == f"{tmp_path}/own\n"


def test_in_a_user_namespace(kernel: Kernel) -> None:
    outcome = kernel.good(f"%%caps --user-namespace --drop net_raw\n{STATUS}; id -u")
    found = sets(outcome.stream("stdout"))
    assert found["CapEff"] == found["CapBnd"]
    assert not found["CapEff"] & NET_RAW
    assert outcome.stream("stdout").endswith("\n0\n")


def test_the_picture_is_what_the_rules_make_of_the_sets(kernel: Kernel) -> None:
    outcome = kernel.good(f"%%caps --graph --user nobody --ambient chown\n{STATUS}")
    text = outcome.displays[0]["text/plain"]
    assert text.startswith("Capabilities of sh\n")
    row = next(line.split() for line in text.splitlines() if "─ chown" in line)
    assert row[2:4] == ["EPIBA", "EPIBA"]
    assert "the ambient set is kept, and added to the permitted one" in text
    assert "user[1]" not in text, "other user namespaces are no matter of the cell's"
    kinds = [m.kind for m in outcome.messages if m.kind != "execute_input"]
    assert kinds[0] == "display_data", "it is drawn before the program's first instruction"


WORLDS = {
    "users": ("", "--user nobody "),
    "ambient": ("", "--ambient chown "),
    "inheritable": ("", "--inheritable kill "),
    "bounding": ("", "--bounding kill,chown "),
    "bits": ("", "--securebits noroot ", "--securebits no-setuid-fixup "),
    "privileges": ("", "--no-new-privs "),
}


def test_the_kernel_agrees_with_the_rules(kernel: Kernel) -> None:
    """All combinations at once: what `rules.execve` foretells is what the program finds."""
    lines = ["".join(words) for words in itertools.product(*WORLDS.values())]
    kernel.good(
        "from ctrt.engine import Engine, default_engine, rights\n"
        "from ctrt.observe import rules\n"
        "from ctrt_kernel import words\n"
        "def differs(line):\n"
        "    chosen = rights.chosen(default_engine(), words.parse(words.WITH_RIGHTS, line))\n"
        "    command = ['/bin/cat', '/proc/self/status']\n"
        "    prepared = rights.prepare(default_engine(), chosen, command)\n"
        "    text = default_engine().start(prepared).collect().check().text()\n"
        "    found = dict(l.split(':\\t') for l in text.splitlines() if l.startswith('Cap'))\n"
        "    after = rules.execve(chosen.before, rules.Program()).after\n"
        "    told = [after.inheritable, after.permitted, after.effective, after.bounding,\n"
        "            after.ambient]\n"
        "    return told != [int(bits, 16) for bits in found.values()]\n"
    )
    outcome = kernel.good(f"[line for line in {lines!r} if differs(line)]")
    assert outcome.result["text/plain"] == "[]"


def test_a_program_gets_the_cell_as_its_input(kernel: Kernel) -> None:
    assert kernel.good("%%caps --drop ALL cat -n\nx").stream("stdout") == "     1\tx\n"
    assert kernel.good("%%caps --drop ALL id -u").stream("stdout") == "0\n"


def test_an_interpreter_and_the_background(kernel: Kernel) -> None:
    body = "#!/bin/sh -e\nsleep 0.2; id -u"
    assert kernel.good(f"%%caps --user nobody\n{body}").stream("stdout") == "65534\n"
    kernel.good("import glob, tempfile; here = tempfile.gettempdir() + '/ctrt-cell-*'")
    before = kernel.good("len(glob.glob(here))").result["text/plain"]
    kernel.good(f"%%caps --user nobody --bg=job\n{body}")
    assert kernel.good("job.wait(), job.text()").result["text/plain"] == r"(0, '65534\n')"
    assert wait_until(lambda: kernel.good("len(glob.glob(here))").result["text/plain"] == before), (
        "the script is gone when it has ended"
    )


def test_a_line_still_shows_the_sets_of_a_process(kernel: Kernel) -> None:
    assert kernel.good("%caps").result["text/plain"].startswith("Capabilities of python")
    assert kernel.good("%%caps --all").result["text/plain"].startswith("Capabilities of python")
    plan = kernel.good("%%caps --plan --drop ALL --user nobody\ntrue").result["text/plain"]
    assert "setresuid(65534, 65534, 65534); capset(bounding=0x0, permitted=0x0" in plan
    assert "--securebits" in kernel.good("%%caps --help\nx").result["text/plain"]


@pytest.mark.parametrize(
    ("line", "error"),
    [
        ("--drp x\ntrue", "caps: there is no option --drp; did you mean --drop?"),
        ("--drop net_rw\ntrue", "--drop: there is no capability 'net_rw'; did you mean CAP_NET_R"),
        ("--securebits root\ntrue", "--securebits: there is no 'root'; there are noroot, "),
        ("--user nobdy\ntrue", "--user 'nobdy': there is no user 'nobdy' here"),
        ("--user 1:nogrp\ntrue", "--user '1:nogrp': there is no group 'nogrp' here"),
        (
            "--drop chown --ambient chown\ntrue",
            "--ambient: CAP_CHOWN cannot be had, for it is not permitted before",
        ),
        ("--drop ALL", "caps: there is no cell to run with these sets, and no PROGRAM"),
        ("--bg --out x\ntrue", "caps: --out cannot go with --bg"),
    ],
)
def test_mistakes(kernel: Kernel, line: str, error: str) -> None:
    assert kernel.bad(f"%%caps {line}").startswith(f"CtrtError: {error}")


def test_what_is_offered(kernel: Kernel) -> None:
    assert kernel.completions("%%caps --securebi") == ["--securebits"]
    assert kernel.completions("%%caps --drop net_ra") == []
    assert kernel.completions("%%caps --drop CAP_NET_R") == ["CAP_NET_RAW"]
    assert "--drop" not in kernel.completions("%caps --")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_an_ordinary_user_is_given_all_in_a_user_namespace() -> None:
    program = (
        "from ctrt.engine import Engine, rights; from ctrt_kernel import words, extension;"
        "engine = Engine('/nonexistent');"
        "values = words.parse(words.WITH_RIGHTS, '--drop ALL --add net_raw');"
        "chosen = rights.chosen(engine, values);"
        "prepared = rights.prepare(engine, chosen, ['/bin/cat', '/proc/self/status']);"
        "from ctrt.runtime import executor;"
        "started = executor.execute(prepared.plan.wire(), {'stdin': 0, 'stdout': 1, 'stderr': 2});"
        "import os; os.waitpid(started.pid, 0)"
    )
    import sys

    done = subprocess.run(
        ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", sys.executable, "-c",
         program],
        env={**os.environ, "PYTHONPATH": f"{PROJECT}:{PROJECT / 'kernel'}", "HOME": "/"},
        cwd="/", capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = sets(done.stdout)
    assert found["CapEff"] == found["CapPrm"] == found["CapBnd"] == NET_RAW
