"""Option tables: what words mean, what help says, and what a mistake is answered with."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ctrt.engine.options import CAPS, RUN, UNSHARE, Option, Table
from ctrt.engine.verbs import VERBS
from ctrt.errors import CtrtError

TABLES = {
    table.verb: table for table in (RUN, UNSHARE, CAPS, *(verb.table for verb in VERBS.values()))
}


def given_options(table, words, **keywords):
    """What differs from the defaults, and the operands."""
    values = vars(table.parse(words, **keywords))
    defaults = vars(table.parse([]))
    return {key: value for key, value in values.items() if value != defaults[key]}


RUN_WORDS = {
    "": {},
    "box": {"operands": ["box"]},
    "-d box": {"detach": True, "operands": ["box"]},
    "-di box": {"detach": True, "interactive": True, "operands": ["box"]},
    "-dw /x box": {"detach": True, "workdir": "/x", "operands": ["box"]},
    "-dw/x box": {"detach": True, "workdir": "/x", "operands": ["box"]},
    "-w=/x box": {"workdir": "/x", "operands": ["box"]},
    "-eA=b -e A -eC=": {"env": ["A=b", "A", "C="]},
    "--env A=b=c --env=D=e": {"env": ["A=b=c", "D=e"]},
    "--env -x": {"env": ["-x"]},
    "--name a --name b": {"name": "b"},
    "--workdir= box": {"workdir": "", "operands": ["box"]},
    "--read-only=false box": {"operands": ["box"]},
    "--read-only --read-only=false": {},
    "--read-only=true": {"read_only": True},
    "box -d": {"operands": ["box", "-d"]},
    "-- -d": {"operands": ["-d"]},
    "-d -- box --": {"detach": True, "operands": ["box", "--"]},
    "-": {"operands": ["-"]},
    "--pull never x": {"pull": "never", "operands": ["x"]},
    "-h host --entrypoint=": {"hostname": "host", "entrypoint": ""},
}


@pytest.mark.parametrize("words", RUN_WORDS)
def test_words_of_run(words):
    assert given_options(RUN, words.split()) == RUN_WORDS[words]


UNSHARE_WORDS = {
    "-Urpf": {"user": True, "map_root_user": True, "pid": True, "fork": True},
    "-UinpmrC -f /bin/bash": {
        **dict.fromkeys("user ipc net pid mount map_root_user cgroup fork".split(), True),
        "operands": ["/bin/bash"],
    },
    "--mount-proc sh": {"mount_proc": True, "operands": ["sh"]},
    "--mount-proc=/p sh": {"mount_proc": "/p", "operands": ["sh"]},
    "--uts=/run/uts -n sh": {"uts": "/run/uts", "net": True, "operands": ["sh"]},
    "-Tw / ls -l": {"time": True, "wd": "/", "operands": ["ls", "-l"]},
}


@pytest.mark.parametrize("words", UNSHARE_WORDS)
def test_words_of_unshare(words):
    assert given_options(UNSHARE, words.split()) == UNSHARE_WORDS[words]


def test_options_after_operands_where_they_are_wanted():
    words = ["123", "--all", "--", "--json"]
    assert given_options(CAPS, words, interspersed=True) == {
        "all": True,
        "operands": ["123", "--json"],
    }
    assert given_options(CAPS, words)["operands"] == words


def test_parsing_leaves_the_words_and_the_defaults_alone():
    words = ["-e", "A=b", "box"]
    RUN.parse(words)
    assert words == ["-e", "A=b", "box"]
    assert RUN.parse([]).env == []


SENTENCES = {
    "--nam x": "run: there is no option --nam; did you mean --name?",
    "--memroy=5m": "run: there is no option --memroy; did you mean --memory?",
    "--cap-ad=x": "run: there is no option --cap-ad; did you mean --cap-add?",
    "--zzz": "run: there is no option --zzz; see ctrt run --help",
    "-dz": "run: there is no option -z (in -dz); see ctrt run --help",
    "-z": "run: there is no option -z; see ctrt run --help",
    "--name": "run: --name needs a value (NAME)",
    "-dw": "run: -w needs a value (DIR)",
    "--detach=5": "run: --detach takes no value, but got '5'",
    "--detach=": "run: --detach takes no value, but got ''",
    "--pull=daily": "run: --pull is one of missing, always, never, not 'daily'",
}


@pytest.mark.parametrize("words", SENTENCES)
def test_a_mistake_is_one_sentence(words):
    with pytest.raises(CtrtError) as caught:
        RUN.parse(words.split())
    assert str(caught.value) == SENTENCES[words]
    assert caught.value.status == 125


@pytest.mark.parametrize("verb", TABLES)
def test_every_option_is_found_when_a_letter_is_missing(verb):
    table = TABLES[verb]
    for option in table.options:
        name = option.names[-1]
        typo = name[:-1]
        if typo in table._by_name or len(typo) < 5:
            continue
        with pytest.raises(CtrtError, match=r"; did you mean --[a-z-]+\?$"):
            table.parse([f"{typo}=x"])


@pytest.mark.parametrize("verb", TABLES)
def test_help_tells_every_option(verb):
    table = TABLES[verb]
    text = table.help()
    lines = text.splitlines()
    assert lines[0] == f"usage: ctrt {verb} [options] {table.operands}".rstrip()
    assert lines[2] == table.summary
    assert table.summary.endswith(".")
    for option in table.options:
        shown = [line for line in lines if f"{line} ".startswith(f"  {option.usage()} ")]
        assert len(shown) == 1, option.names
        assert option.help in text
        for choice in option.choices:
            assert choice in text
    assert not any(line != line.rstrip() for line in lines)


def test_help_of_one_table_word_for_word():
    table = Table(
        "do",
        "Do a thing.",
        "THING",
        [
            Option("-a --all", "all of it"),
            Option("--a-very-long-option-name", "far away", metavar="VALUE"),
            Option("--how", "the way", metavar="WAY", choices=("slow", "fast")),
            Option("--maybe", "perhaps", metavar="DIR", kind="optional"),
        ],
    )
    assert table.help(prefix="%") == (
        "usage: %do [options] THING\n"
        "\n"
        "Do a thing.\n"
        "\n"
        "options:\n"
        "  -a, --all                       all of it\n"
        "  --a-very-long-option-name=VALUE\n"
        "                                  far away\n"
        "  --how=WAY                       the way (slow, fast)\n"
        "  --maybe[=DIR]                   perhaps"
    )


@pytest.mark.parametrize("verb", TABLES)
def test_no_two_options_share_a_name_or_a_key(verb):
    options = TABLES[verb].options
    names = [name for option in options for name in option.names]
    keys = [option.key for option in options]
    assert len(set(names)) == len(names)
    assert len(set(keys)) == len(keys)
    assert "operands" not in keys


# --- values survive the way through words ------------------

TEXT = st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\0"), max_size=12)


def value_of(option):
    if option.kind == "flag":
        return st.booleans()
    one = st.sampled_from(option.choices) if option.choices else TEXT
    if option.kind == "list":
        return st.lists(one, max_size=3)
    if option.kind == "optional":
        return st.none() | st.just(True) | one
    return st.none() | one


@st.composite
def commands(draw, table):
    """Values for a table, and words that say them in one of the ways there are."""
    wanted, said = {}, []
    for option in table.options:
        value = draw(value_of(option))
        if value is None:
            continue
        wanted[option.key] = value
        for one in value if option.kind == "list" else [value]:
            name = draw(st.sampled_from(option.names))
            if one is True:
                said.append([name])
            elif one is False:
                said.append([f"{option.names[-1]}=false"])
            elif option.kind == "optional":
                said.append([f"{option.names[-1]}={one}"])
            elif name.startswith("--") and draw(st.booleans()):
                said.append([f"{name}={one}"])
            elif one and one[0] != "=" and not name.startswith("--") and draw(st.booleans()):
                said.append([f"{name}{one}"])
            else:
                said.append([name, one])
    operands = draw(st.lists(TEXT, max_size=3))
    wanted["operands"] = operands
    end = [] if operands and not operands[0].startswith("-") and draw(st.booleans()) else ["--"]
    return wanted, [word for words in said for word in words] + end + operands


@pytest.mark.parametrize("table", [RUN, UNSHARE], ids=lambda table: table.verb)
@settings(suppress_health_check=[HealthCheck.too_slow])  # run has some forty options
@given(data=st.data())
def test_values_survive_a_round_trip(table, data):
    wanted, words = data.draw(commands(table))
    defaults = vars(table.parse([]))
    assert vars(table.parse(words)) == {**defaults, **wanted}


@given(st.lists(st.sampled_from("muinpUCTfrc"), max_size=8))
def test_a_cluster_is_as_good_as_its_letters(letters):
    apart = UNSHARE.parse([f"-{letter}" for letter in letters])
    joined = UNSHARE.parse(["-" + "".join(letters)] if letters else [])
    assert vars(apart) == vars(joined)


@given(st.lists(TEXT, max_size=6))
def test_any_words_end_in_values_or_in_one_sentence(words):
    try:
        values = RUN.parse(words)
    except CtrtError as error:
        assert str(error).startswith("run: ")  # noqa: PT017 - either end is right
    else:
        assert all(isinstance(word, str) for word in values.operands)
