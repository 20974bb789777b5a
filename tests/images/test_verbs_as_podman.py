"""The spellings that hands used to podman and skopeo try: -q, --format, --filter, -a, -f, pipes."""

from __future__ import annotations

import io
import json
import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import needs, run
from images_tools import image, member, tar

from ctrt.engine import Engine
from ctrt.engine.verbs import VERBS
from ctrt.errors import CtrtError
from ctrt.images import compose
from ctrt.images.pull import pull
from ctrt.images.store import Store
from ctrt.words import since

COMMAND = "from ctrt.cli.main import command; command()"
PACKAGES = str(Path(__file__).resolve().parents[2])


@pytest.fixture
def own(tmp_path: Path) -> Iterator[Engine]:
    """A store with three names of two images."""
    made = Engine(str(tmp_path / "root"))
    image(made.store, tar(member("a", b"a" * 3000)), name="localhost/group/one:1")
    image(made.store, tar(member("b", b"b")), name="localhost/two")
    made.store.tag("example.com/group/one:2", made.store.find("localhost/group/one:1").digest)  # type: ignore[union-attr]
    yield made
    made.close()


def verb(engine: Engine, *words: str) -> str:
    return str(VERBS[words[0]](engine, words[1:]))


def fails(engine: Engine, *words: str) -> str:
    with pytest.raises(CtrtError) as caught:
        verb(engine, *words)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_images(own: Engine) -> None:
    one, two = own.store.find("localhost/group/one:1"), own.store.find("localhost/two")
    assert one is not None
    assert two is not None
    template = "{{.Repository}}|{{ .Tag }}"
    rows = ["example.com/group/one|2", "localhost/group/one|1", "localhost/two|latest"]

    def shown(*words: str) -> list[str]:
        text = verb(own, "images", "--format", template, *words)
        return text.split("\n") if text else []

    assert shown() == rows
    assert shown("one:1") == shown("localhost/group/one") == [rows[1]]
    assert shown("one") == shown("-f", "reference=*one*") == rows[:2]
    assert shown(one.id[7:19]) == rows[:2]
    assert shown("--filter", f"id={two.id[7:10]}") == [rows[2]]
    assert shown("--filter", "label=x") == []
    assert shown("--filter", "dangling=true") == []
    assert shown("--sort=size") == [rows[2], *rows[:2]]
    own.store.remember("key", one.digest)
    assert [row["Names"] for row in json.loads(verb(own, "images", "-a", "--format=json"))] == [
        ["example.com/group/one:2"], ["localhost/group/one:1"], ["localhost/two:latest"], [],
    ]  # fmt: skip
    assert verb(own, "images", "-aq", "--no-trunc").split("\n") == [one.id[7:], two.id[7:]]
    assert verb(own, "images", "-n", "two").split()[:2] == ["localhost/two:latest", two.id[7:19]]
    table = verb(own, "images", "--format", r"table {{.ID}}\t{{.Size}}", "two")
    assert [line.split()[0] for line in table.split("\n")] == ["ID", two.id[7:19]]
    assert fails(own, "images", "nothing") == (
        "there is no image nothing in the store; see: ctrt images"
    )
    assert "there is no field Nix; there are Repository, Tag" in fails(
        own, "images", "--format={{.Nix}}"
    )
    assert "--format knows {{.FIELD}}, {{json .FIELD}}, " in fails(own, "images", "--format={{if}}")
    assert "--filter 'until=1h' is not known" in fails(own, "images", "-f", "until=1h")


def test_templates(own: Engine) -> None:
    """What people write of Go's templates; podman 4.3 gives the same texts."""
    name = "localhost/group/one:1"
    one = own.store.find(name)
    assert one is not None

    def shown(template: str) -> str:
        return verb(own, "inspect", "-f", template, name)

    assert shown("{{index .RepoTags 1}} {{ len .RepoTags }}") == f"{name} 2"
    assert shown('{{join .RepoTags ","}}') == f"example.com/group/one:2,{name}"
    assert shown("{{range .RepoTags}}<{{.}}>{{end}}") == f"<example.com/group/one:2><{name}>"
    assert shown("{{range .Layers}}{{.Size}} {{end}}") == f"{one.layers[0].size} "
    assert shown('{{index .Config "Cmd"}}{{index .Config "Nix"}}') == "[/bin/sh]"
    assert shown("{{index .Config.Env 0}}") == "PATH=/bin"
    assert fails(own, "inspect", "-f", "{{index .RepoTags 2}}", name) == (
        "inspect: --format: .RepoTags has no member 2"
    )
    assert "is no list for range" in fails(own, "inspect", "-f", "{{range .Id}}{{end}}", name)
    for broken in ("{{range .RepoTags}}", "{{end}}", "{{end}}{{range .RepoTags}}"):
        assert "without the other" in fails(own, "inspect", "-f", broken, name)
    for broken in ("{{index .RepoTags}}", "{{json .Id 1}}", "{{.Id | json}}", "{{join .Env}}"):
        assert f"not {broken}" in fails(own, "inspect", "-f", broken, name)


def test_an_image_is_found_by_the_first_digits_of_its_id(own: Engine) -> None:
    two = own.store.find("localhost/two")
    assert two is not None
    assert verb(own, "inspect", "-f", "{{.Id}}", two.id[7:10]) == two.id[7:]
    assert verb(own, "tag", two.id[7:12], "localhost/three") == "localhost/three:latest"
    assert "there is no image" in fails(own, "history", two.id[7:9])
    # A name comes before an ID that begins with the same letters.
    own.store.tag(f"localhost/{two.id[7:13]}", own.store.find("localhost/group/one:1").digest)  # type: ignore[union-attr]
    assert verb(own, "inspect", "-f", "{{.Id}}", two.id[7:13]) != two.id[7:]


def test_a_new_name_has_no_digest(own: Engine, tmp_path: Path) -> None:
    """It would say of the image what is not so."""
    name = f"localhost/liar@sha256:{'0' * 64}"
    (tmp_path / "root.tar").write_bytes(tar(member("bin/", kind="dir")))
    (tmp_path / "Containerfile").write_text("FROM scratch\nENV A=1\n")
    for words in (["tag", "two", name], ["import", f"{tmp_path}/root.tar", name],
                  ["build", "-t", name, str(tmp_path)]):  # fmt: skip
        assert "a new name has no digest" in fails(own, *words)
    assert len(own.store.images()) == 3


def test_an_id_with_several_names_is_not_removed_by_halves(own: Engine) -> None:
    one, two = own.store.find("localhost/group/one:1"), own.store.find("localhost/two")
    assert one is not None
    assert two is not None
    assert fails(own, "rmi", one.id[7:19]) == (
        f"rmi: the image {one.id[7:19]} has several names (example.com/group/one:2,"
        " localhost/group/one:1); remove one of them, or all with --force"
    )
    assert verb(own, "rmi", two.id[7:19]) == "localhost/two:latest"
    said = verb(own, "rmi", "-f", one.id[7:19]).split("\n")
    assert said == ["example.com/group/one:2", "localhost/group/one:1"]
    assert own.store.images() == []


def test_removing_one_step_of_a_build_leaves_the_others(own: Engine) -> None:
    one, two = own.store.find("localhost/group/one:1"), own.store.find("localhost/two")
    assert one is not None
    assert two is not None
    own.store.remember("first", one.digest)
    own.store.remember("second", two.digest)
    verb(own, "rmi", "localhost/two")
    verb(own, "rmi", two.id[7:19])
    assert [step.id for step in own.store.steps()] == [one.id]


def test_a_broken_image_can_be_removed(own: Engine) -> None:
    two = own.store.find("localhost/two")
    assert two is not None
    os.unlink(own.store.blob_path(two.id))
    assert "is broken" in fails(own, "image", "inspect", "localhost/two")
    assert verb(own, "rmi", "localhost/two:latest") == "localhost/two:latest"
    assert len(own.store.images()) == 2


@pytest.mark.parametrize("breaking", ["manifest gone", "manifest cut", "configuration of lists"])
def test_a_broken_image_hides_no_other(
    own: Engine, breaking: str, capfd: pytest.CaptureFixture[str]
) -> None:
    one, two = own.store.find("localhost/group/one:1"), own.store.find("localhost/two")
    assert one is not None
    assert two is not None
    path = Path(own.store.blob_path(two.id if breaking[0] == "c" else two.digest))
    if breaking == "manifest gone":
        path.unlink()
    else:
        path.write_text("[]" if breaking[0] == "c" else path.read_text()[:-9])
    others = ["example.com/group/one:2", "localhost/group/one:1"]
    sentence = "ctrt: the stored image localhost/two:latest is broken"
    for words in (
        ["images"], ["images", "-q"], ["images", "--json"], ["images", "one"], ["df"], ["prune"],
    ):  # fmt: skip
        capfd.readouterr()
        said = verb(own, *words)
        if words[0] == "images":
            assert one.id[7:19] in said
            assert "two" not in said, "standard output is for what could be read"
        warned = capfd.readouterr().err.splitlines()
        assert [line[: len(sentence)] for line in warned] == [sentence], words
        assert warned[0].endswith("remove it and pull again")
    # Found by its ID, shown as layers, tagged and removed as if there was no other.
    found = own.store.find(one.id[7:19])
    assert found is not None
    assert found.digest == one.digest
    assert "Layers of" in verb(own, "layers", one.id[7:17])
    verb(own, "tag", one.id[7:17], "localhost/three")
    verb(own, "rmi", "localhost/three", "localhost/group/one:1")
    assert [image.reference for image in own.store.images()] == others[:1]
    if breaking[0] == "c":
        assert own.store.has_blob(two.layers[0].digest), "what a broken one still names stays"
    verb(own, "rmi", "--all")
    assert own.store.names() == []
    assert os.listdir(own.store.path("blobs", "sha256")) == []


def test_the_command_lists_what_is_whole(own: Engine, tmp_path: Path) -> None:
    two = own.store.find("localhost/two")
    assert two is not None
    os.unlink(own.store.blob_path(two.digest))
    done = subprocess.run(
        [sys.executable, "-c", COMMAND, "images", "--noheading"],
        check=False,
        capture_output=True,
        text=True,
        env={**os.environ, "CTRT_ROOT": str(tmp_path / "root"), "PYTHONPATH": PACKAGES},
    )
    assert done.returncode == 0
    assert [line.split()[0] for line in done.stdout.splitlines()] == [
        "example.com/group/one:2", "localhost/group/one:1",
    ]  # fmt: skip
    assert len(done.stderr.splitlines()) == 1


def test_what_a_stranger_wrote_does_not_move_the_cursor(own: Engine) -> None:
    one = own.store.find("localhost/group/one:1")
    assert one is not None
    config = {**one.config, "created": "\x1b[2J", "history": [{"created_by": "a\x1b]0;x\x07b"}]}
    config["config"] = {**config["config"], "Labels": {"a": "\x1b[1m"}}
    compose.add_image(own.store, "localhost/bad", config, [])
    for words in (["images", "--created"], ["history", "bad"], ["history", "--format",
                  "{{.CreatedBy}}", "bad"], ["inspect", "-f", "{{.Labels.a}}", "bad"],
                  ["inspect", "bad"], ["images", "--format", "{{.Labels}}"]):  # fmt: skip
        assert verb(own, *words).replace("\n", "").isprintable(), words
    assert str(CtrtError("no \x1b[2J\n\udce4")) == "no \ufffd[2J\n\ufffd"


def test_inspect_history_and_df(own: Engine) -> None:
    name = "localhost/group/one:1"
    one = own.store.find(name)
    assert one is not None
    words = ["image", "inspect", "-f", "{{.Id}} {{json .Config.Cmd}} {{.Config.Env}}", name]
    assert verb(own, *words) == f'{one.id[7:]} ["/bin/sh"] [PATH=/bin]'
    assert verb(own, "history", "-q", "--no-trunc", name) == one.layers[0].digest
    assert verb(own, "history", "--format", "{{.ID}}", name) == one.layers[0].digest[7:19]
    assert verb(own, "history", "--format", "{{.CreatedSince}}", name) == ""
    stamps = {"2026-11-28T13:33:23.399289919Z": "ago", "2001-01-01T00:00:00+02:00": "years ago",
              "yesterday": "", "": "", "0001-01-01T00:00:00Z": "years ago"}  # fmt: skip
    assert all(since(stamp).endswith(end) for stamp, end in stamps.items())
    assert verb(own, "df", "--format", "{{.Type}}={{.Total}}").startswith("images=3\n")


def test_diff_of_what_is_no_container_of_ours(own: Engine) -> None:
    me = str(os.getpid())
    assert fails(own, "diff", me) == (
        f"diff: which files {me} changed is not known here, it is no container of ctrt; "
        f"what sets it apart as a process: ctrt diff {me} host, or: ctrt diff {me} inside"
    )
    assert fails(own, "diff", "nothing") == (
        "there is no image nothing in the store; see: ctrt images"
    )


def test_rmi_and_prune(own: Engine) -> None:
    assert "no image none" in fails(own, "rmi", "two", "none")
    assert own.store.find("localhost/two") is not None, "nothing is done by halves"
    assert verb(own, "rmi", "-f", "none", "two") == "two"
    assert verb(own, "rmi", "--ignore", "none") == ""
    assert fails(own, "rmi") == "rmi: expected IMAGE..., or --all"
    assert verb(own, "rmi", "-a").split("\n") == [
        "example.com/group/one:2", "localhost/group/one:1",
    ]  # fmt: skip
    assert own.store.images() == []
    assert "removed" in verb(own, "prune", "-a", "-f")


def ctrt(engine: Engine, *words: str, given: bytes = b"") -> bytes:
    done = subprocess.run(
        [sys.executable, "-c", COMMAND, *words], input=given, capture_output=True, check=False,
        env={**os.environ, "PYTHONPATH": PACKAGES, "CTRT_ROOT": engine.root},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_pipes(own: Engine, tmp_path: Path) -> None:
    other = Engine(str(tmp_path / "other"))
    try:
        saved = ctrt(own, "save", "localhost/two")
        assert ctrt(other, "load", given=saved) == b"localhost/two:latest\n"
        assert other.store.find("localhost/two").id == own.store.find("localhost/two").id  # type: ignore[union-attr]
        exported = ctrt(own, "export", "localhost/two")
        assert exported.endswith(bytes(1024)), "no line more than the archive"
        assert ctrt(own, "rmi", "-f", "nothing") == b""
        assert os.listdir(own.store.path("tmp")) == []
    finally:
        other.close()


def shell(engine: Engine, script: str, **more: str) -> str:
    """What a script of bash prints, in which $CTRT is the command on that store."""
    command = f"ctrt() {{ {sys.executable} -c '{COMMAND}' \"$@\"; }}"
    done = subprocess.run(
        ["bash", "-c", f"set -eo pipefail; {command}\n{script}"],
        check=False, capture_output=True, text=True,
        env={**os.environ, "PYTHONPATH": PACKAGES, "CTRT_ROOT": engine.root, **more},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize(
    "script",
    [
        "ctrt save $IMAGE | CTRT_ROOT=$OTHER ctrt load -i -",
        "ctrt save -o - $IMAGE | CTRT_ROOT=$OTHER ctrt load -",
        "ctrt save -o /dev/stdout $IMAGE | CTRT_ROOT=$OTHER ctrt load -i /dev/stdin",
        "ctrt save -o /dev/stdout $IMAGE > x.tar; CTRT_ROOT=$OTHER ctrt load < x.tar",
        "CTRT_ROOT=$OTHER ctrt load -i <(ctrt save --format oci-archive $IMAGE)",
        "mkfifo x.fifo; ctrt save -q -o x.fifo $IMAGE & CTRT_ROOT=$OTHER ctrt load -i x.fifo; wait",
        "ctrt save $IMAGE | tee >(wc -c >&2) | CTRT_ROOT=$OTHER ctrt import - $IMAGE",
    ],
)
def test_a_stream_by_every_name_that_it_has(own: Engine, tmp_path: Path, script: str) -> None:
    other = Engine(str(tmp_path / "other"))
    try:
        said = shell(
            own, f"cd {tmp_path}; {script}", OTHER=other.root, IMAGE="localhost/two:latest"
        )
        assert said == "localhost/two:latest\n"
        assert other.store.find("localhost/two").id == own.store.find("localhost/two").id  # type: ignore[union-attr]
        assert os.listdir(other.store.path("tmp")) == []
    finally:
        other.close()


def test_podman_reads_and_writes_the_other_end(
    own: Engine, tmp_path: Path, podman: list[str]
) -> None:
    with_podman = " ".join(podman)
    saved = shell(own, f"ctrt save localhost/two | {with_podman} load -q")
    assert "localhost/two:latest" in saved
    other = Engine(str(tmp_path / "other"))
    try:
        said = shell(other, f"{with_podman} save -q localhost/two | ctrt load")
        assert said == "localhost/two:latest\n"
        run(*podman, "rmi", "localhost/two")
    finally:
        other.close()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make a device")
def test_a_device_is_written_to_and_stays_one(own: Engine, tmp_path: Path) -> None:
    null = tmp_path / "null"
    os.mknod(null, 0o600 | stat.S_IFCHR, os.makedev(1, 3))
    for words in (
        ["save", "-o", str(null), "two"],
        ["save", "--format", "oci-archive", "-o", str(null), "two"],
        ["export", "-o", str(null), "two"],
    ):  # fmt: skip
        assert verb(own, *words) == ""
        assert stat.S_ISCHR(null.stat().st_mode)
    assert "is a directory" in fails(own, "save", "--format", "oci-dir", "-o", str(null), "two")
    for transport in ("docker-archive", "oci-archive", "oci", "dir"):
        with pytest.raises((CtrtError, OSError)):
            verb(own, "push", "localhost/two", f"{transport}:{null}")
        assert stat.S_ISCHR(null.stat().st_mode)
    assert sorted(os.listdir(tmp_path)) == ["null", "root"]


def test_what_is_read_from_a_stream_and_is_no_archive(own: Engine, tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="the standard input is no archive of"):
        shell(own, "echo hello | ctrt load -")
    with pytest.raises(AssertionError, match=r"/dev/fd/[0-9]+ is no archive of"):
        shell(own, "ctrt load -i <(echo hello)")
    with pytest.raises(AssertionError, match="there is no file none"):
        shell(own, "ctrt load -i none")


def test_without_a_file_or_a_pipe_it_is_said(own: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO())
    monkeypatch.setattr(sys, "stdout", io.StringIO())
    assert fails(own, "save", "two").startswith("save: where to? name a file")
    assert fails(own, "save", "-o", "-", "two").startswith("save: where to? name a file")
    assert fails(own, "export", "two").startswith("export: where to? name a file")
    assert fails(own, "load").startswith("load: which file?")
    assert fails(own, "import", "-", "x").startswith("import: which file?")


def test_save_as_directories(own: Engine, tmp_path: Path) -> None:
    needs("skopeo")
    for form, kind in (("oci-dir", "oci"), ("docker-dir", "dir")):
        assert verb(own, "save", "-q", "--format", form, "-o", f"{tmp_path}/{form}", "two") == ""
        said = json.loads(run("skopeo", "inspect", f"{kind}:{tmp_path}/{form}"))
        assert said["Digest"] == own.store.find("localhost/two").digest  # type: ignore[union-attr]


def test_several_images_are_saved_in_one_archive(
    own: Engine, tmp_path: Path, podman: list[str]
) -> None:
    """As `docker save A B` and `podman save -m` do; layers that they share are there once."""
    names = ["localhost/group/one:1", "localhost/two:latest", "example.com/group/one:2"]
    path = f"{tmp_path}/all.tar"
    assert verb(own, "save", "-q", "-m", "-o", path, *names) == ""
    assert run("tar", "tf", path).count(".tar\n") == 2
    said = run(*podman, "load", "-q", "-i", path)
    assert all(name in said for name in names)
    for name in names:
        identity = run(*podman, "image", "inspect", "-f", "{{.Id}}", name).strip()
        assert identity == own.store.find(name).id[7:]  # type: ignore[union-attr]
    run(*podman, "rmi", "-f", *names)
    assert "holds one image" in fails(own, "save", "--format", "oci-archive", "-o", path, *names)
    assert "there is already a file" in fails(own, "save", "-o", path, *names)
    assert fails(own, "save", "-o", f"{tmp_path}/no.tar", "two", "none").startswith("there is no")
    assert "no.tar" not in os.listdir(tmp_path)


def test_packed_archives_are_loaded_as_docker_and_podman_do(own: Engine, tmp_path: Path) -> None:
    needs("zstd", "xz", "bzip2")
    other = Engine(str(tmp_path / "other"))
    path = f"{tmp_path}/plain.tar"
    verb(own, "save", "-q", "-o", path, "localhost/two")
    for words in (["gzip", "-k"], ["bzip2", "-k"], ["xz", "-k"], ["zstd", "-q", "-k"]):
        run(*words, path)
        end = {"gzip": "gz", "bzip2": "bz2", "xz": "xz", "zstd": "zst"}[words[0]]
        assert verb(other, "load", "-q", "-i", f"{path}.{end}") == "localhost/two:latest"
        assert verb(other, "pull", f"docker-archive:{path}.{end}") == "localhost/two:latest"
        verb(other, "rmi", "-a")
        Path(f"{path}.{end}").write_bytes(Path(f"{path}.{end}").read_bytes()[:-30])
        assert f"{path}.{end}" in fails(other, "load", "-q", "-i", f"{path}.{end}")
    other.close()


def test_what_comes_by_a_pipe_is_called_the_standard_input(own: Engine) -> None:
    done = subprocess.run(
        [sys.executable, "-c", COMMAND, "load"], input="", capture_output=True, text=True,
        check=False, env={**os.environ, "PYTHONPATH": PACKAGES, "CTRT_ROOT": own.root},
    )  # fmt: skip
    assert done.stderr.startswith("ctrt: the standard input is no archive of an image")


def test_load_takes_all_that_an_archive_has(own: Engine, tmp_path: Path, podman: list[str]) -> None:
    names = ["localhost/group/one:1", "localhost/two:latest"]
    for name in names:
        identity = run(*podman, "pull", "-q", f"oci:{own.store.root}:{name}").strip()
        run(*podman, "tag", identity, name)
    run(*podman, "save", "-q", "-m", "-o", f"{tmp_path}/both.tar", *names)
    run(*podman, "rmi", "-f", *names)
    other = Engine(str(tmp_path / "other"))
    try:
        said = verb(other, "load", "-q", "-i", f"{tmp_path}/both.tar").split("\n")
        assert sorted(said) == names
        found = {each.reference: each.id for each in other.store.images()}
        assert found == {name: own.store.find(name).id for name in names}  # type: ignore[union-attr]
    finally:
        other.close()


def test_zstd_layers_become_plain_in_a_docker_archive(tmp_path: Path) -> None:
    needs("skopeo", "zstd")
    store = Store(str(tmp_path / "store"))
    made = image(store, tar(member("f", os.urandom(300_000))), name="localhost/x")
    run("skopeo", "copy", "-q", "--dest-compress-format=zstd", "--dest-compress",
        f"oci:{store.root}:localhost/x:latest", f"dir:{tmp_path}/zstd")  # fmt: skip
    engine = Engine(str(tmp_path / "other"))
    try:
        packed = pull(engine.store, f"dir:{tmp_path}/zstd")
        assert packed.layers[0].media_type.endswith("zstd")
        verb(engine, "save", "-o", f"{tmp_path}/plain.tar", packed.reference)
        said = json.loads(run("skopeo", "inspect", f"docker-archive:{tmp_path}/plain.tar"))
        assert said["Layers"] == [made.layers[0].diff_id]
    finally:
        engine.close()


def test_import_changes_the_configuration(own: Engine, tmp_path: Path) -> None:
    (tmp_path / "root.tar").write_bytes(tar(member("bin/", kind="dir"), member("bin/sh", b"#!")))
    verb(own, "import", "-c", "CMD /bin/sh -l", "--change", 'ENTRYPOINT=["/bin/x"]', "-c",
         "ENV A=1 B=2", "-c", "LABEL l=v", "-c", "EXPOSE 80", "-c", "WORKDIR /w", "-c", "USER 5",
         "-m", "why", str(tmp_path / "root.tar"), "localhost/made")  # fmt: skip
    made = own.store.find("localhost/made")
    assert made is not None
    process = made.config["config"]
    assert process["Cmd"] == ["/bin/sh", "-c", "/bin/sh -l"]
    assert process["Entrypoint"] == ["/bin/x"]
    assert process["Env"][-2:] == ["A=1", "B=2"]
    assert (process["Labels"], process["User"]) == ({"l": "v"}, "5")
    assert (process["ExposedPorts"], process["WorkingDir"]) == ({"80/tcp": {}}, "/w")
    assert made.config["history"][-1]["comment"] == "why"
    archive = str(tmp_path / "root.tar")
    assert fails(own, "import", "-c", "RUN x", archive, "localhost/no").startswith(
        "--change takes CMD, ENTRYPOINT, "
    )
    assert own.store.find("localhost/no") is None
    assert "CPOY" in fails(own, "import", "-c", "CPOY x", archive, "localhost/no")
