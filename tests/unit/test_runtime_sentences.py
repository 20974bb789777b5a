"""What the runtime's command says of a failure: one line, whatever it is about."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from ctrt.cli.runtime import main

NAMES = ("a\nb", "a\rb", "\x1b[2Jgone", "half \udcff", "\u202eright to left", "x" * 100_000)


@pytest.mark.parametrize("name", NAMES, ids=lambda name: ascii(name)[:12])
@pytest.mark.parametrize("form", ["text", "json"])
def test_a_sentence_is_one_line_that_does_nothing_to_a_terminal(
    name: str, form: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    log = tmp_path / "log"
    words = ["--log", str(log), "--log-format", form, "--root", str(tmp_path / "root")]
    words += ["create", "--bundle", f"{tmp_path}/{name}", "one"]
    assert main.main(words) == 1
    said, logged = capfd.readouterr().err, log.read_text()
    for text in (said, logged):
        assert text.endswith("\n")
        assert text[:-1].isprintable()
        assert len(text) < 3000
    assert said.startswith(f"ctrt-runtime: --bundle: {tmp_path}/")
    told = json.loads(logged)["msg"] if form == "json" else logged
    assert f"--bundle: {tmp_path}/" in told
    if len(name) > 1000:
        assert re.search(r"x{300}\.\.\.x{50}", said)


def test_what_is_printable_stays_as_it_is() -> None:
    sentence = "container b\N{LATIN SMALL LETTER O WITH DIAERESIS}x: \N{WHITE SMILING FACE} \\n"
    assert main.one_line(sentence) == sentence
    assert main.one_line("two\nlines\tand \x7f") == "two\\nlines\\tand \\x7f"
