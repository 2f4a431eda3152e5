import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from effir.errors import EffirError, MissingError
from effir.files import (
    project_root,
    read_json,
    read_jsonl,
    require,
    sha256_of,
    state_dir,
    write_json,
    write_jsonl,
    writing,
)
from effir.process import identity

ENVIRONMENT = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def tree(folder: Path) -> dict[str, str]:
    return {p.relative_to(folder).as_posix(): p.read_text() for p in folder.rglob("*") if p.is_file()}


@pytest.fixture
def dead() -> str:
    """The identity of a process that has ended."""
    code = "from effir.process import identity; print(identity())"
    said = subprocess.run([sys.executable, "-c", code], env=ENVIRONMENT, capture_output=True, text=True, check=True)
    return said.stdout.strip()


def test_a_file_is_absent_until_its_block_ends(tmp_path: Path) -> None:
    target = tmp_path / "deep/er/a.txt"
    with writing(target) as draft:
        draft.write_text("new")
        assert draft.parent.parent == target.parent  # on the same file system: the rename is atomic
        assert not target.exists()
    assert tree(tmp_path) == {"deep/er/a.txt": "new"}


def test_a_folder_replaces_the_old_one_whole(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model/stale").write_text("old")
    with writing(tmp_path / "model") as draft:
        draft.mkdir()
        (draft / "fresh").write_text("new")
        assert names(tmp_path / "model") == ["stale"]
    assert tree(tmp_path) == {"model/fresh": "new"}


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_an_exception_leaves_the_old_and_no_draft(tmp_path: Path, kind: str) -> None:
    target = tmp_path / "kept"
    if kind == "folder":
        target.mkdir()
    (target if kind == "file" else target / "inside").write_text("old")
    before = tree(tmp_path)

    def fail() -> None:
        with writing(target) as draft:
            if kind == "folder":
                draft.mkdir()
            (draft if kind == "file" else draft / "inside").write_text("half")
            raise KeyError("in the middle")

    with pytest.raises(KeyError):
        fail()
    assert tree(tmp_path) == before
    assert names(tmp_path) == ["kept"]


def test_drafts_of_killed_writers_are_removed_by_the_next_one(tmp_path: Path, dead: str) -> None:
    (tmp_path / f".a.json.{dead}.0.draft").mkdir()
    (tmp_path / f".a.json.{dead}.0.draft/a.json").write_text("half")
    write_json(tmp_path / "a.json", 1)
    assert names(tmp_path) == ["a.json"]


def test_drafts_of_living_writers_and_of_other_files_are_left_alone(tmp_path: Path, dead: str) -> None:
    kernel, pid, began = dead.rsplit("-", 2)
    others = [
        f".a.json.{identity()}.99.draft",  # another thread writes the same file right now
        f".a.json.{kernel}9-{pid}-{began}.0.draft",  # another container's process, whose id means nothing here
        f".a.json.feedfeedfeedn1-{pid}-{began}.0.draft",  # another machine's, on a shared disk
        f".b.a.json.{dead}.0.draft",
        f".axjson.{dead}.0.draft",
        f".a.json.{dead}.0.draft.txt",
        ".a.json.notes.0.draft",
    ]
    for name in others:
        (tmp_path / name).mkdir()
    write_json(tmp_path / "a.json", 1)
    assert names(tmp_path) == sorted([*others, "a.json"])


def killed_at(event: int, path: Path) -> bool:
    """Replace the folder ``path`` by the file ``fresh``; the process is killed before its file operation ``event``."""
    code = (
        "import os, signal, sys; from pathlib import Path; from effir.files import identity, writing\n"
        "identity(); left = [int(sys.argv[1])]\n"
        "def kill(name, arguments):\n"
        "    if name.split('.')[0] in ('open', 'os', 'shutil') and name != 'os.kill':\n"
        "        left[0] -= 1\n"
        "        left[0] or os.kill(os.getpid(), signal.SIGKILL)\n"
        "sys.addaudithook(kill)\n"
        "with writing(Path(sys.argv[2])) as draft:\n"
        "    draft.mkdir(); (draft / 'fresh').write_text('new')\n"
        "os._exit(0)\n"
    )
    command = [sys.executable, "-c", code, str(event), str(path)]
    return subprocess.run(command, env=ENVIRONMENT, check=False, timeout=60).returncode == -9


@pytest.mark.slow
def test_a_folder_is_old_or_new_wherever_its_replacement_is_killed(tmp_path: Path) -> None:
    path, seen = tmp_path / "model", list[dict[str, str]]()
    for event in range(1, 99):
        shutil.rmtree(tmp_path)
        path.mkdir(parents=True)
        (path / "stale").write_text("old")
        if not killed_at(event, path):
            break
        seen.append(tree(require(path)))
        with writing(path) as draft:
            draft.mkdir()
            (draft / "fresh").write_text("newer")
        assert (tree(path), names(tmp_path)) == ({"fresh": "newer"}, ["model"])
    assert len(seen) > 8
    first = seen.index({"fresh": "new"})
    assert seen == [{"stale": "old"}] * first + [{"fresh": "new"}] * (len(seen) - first)


def test_of_two_writers_of_a_folder_at_once_the_later_one_holds(tmp_path: Path) -> None:
    path = tmp_path / "model"
    with writing(path) as first:
        first.mkdir()
        (first / "a").write_text("first")
        with writing(path) as second:
            second.mkdir()
            (second / "b").write_text("second")
        assert tree(path) == {"b": "second"}
    assert (tree(path), names(tmp_path)) == ({"a": "first"}, ["model"])


def test_a_folder_that_someone_removed_stays_away(tmp_path: Path, dead: str) -> None:
    (tmp_path / f".model.{dead}.0.draft/model.old").mkdir(parents=True)  # killed while it removed the old one
    with pytest.raises(MissingError):
        require(tmp_path / "model")


def test_json_lines_come_back_as_written_and_a_bad_line_is_named(tmp_path: Path) -> None:
    rows = [{"text": "naïve 中文\nsecond line"}, {"text": "", "n": 0.1}]
    write_jsonl(tmp_path / "a.jsonl", iter(rows))
    assert list(read_jsonl(tmp_path / "a.jsonl")) == rows
    assert (tmp_path / "a.jsonl").read_bytes().count(b"\n") == 2
    (tmp_path / "b.jsonl").write_text('{"a": 1}\n\n{"a": \n')
    with pytest.raises(EffirError, match=r"b\.jsonl, line 3, is not JSON \(.*\): correct or remove it"):
        list(read_jsonl(tmp_path / "b.jsonl"))
    (tmp_path / "c.jsonl").write_text("[1]\n")
    with pytest.raises(EffirError, match=r"c\.jsonl, line 1, is not a JSON object: correct or remove it"):
        list(read_jsonl(tmp_path / "c.jsonl"))


def test_a_missing_file_is_named_and_known_to_the_program_that_says_what_makes_it(tmp_path: Path) -> None:
    for read, name in ((read_json, "redundancy.json"), (require, "model")):
        with pytest.raises(MissingError, match=f"{name} is missing: check the path, or make it first$") as raised:
            read(tmp_path / name)
        assert raised.value.path == tmp_path / name


def test_the_hash_of_a_file_is_its_sha256_and_of_a_folder_its_names_and_contents(tmp_path: Path) -> None:
    for folder, order in (("one", ("b/c", "a")), ("two", ("a", "b/c"))):  # written in another order
        for name in order:
            (tmp_path / folder / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / folder / name).write_text(name)
    file = {name: hashlib.sha256(name.encode()).hexdigest() for name in ("a", "b/c")}
    assert sha256_of(tmp_path / "one/a") == file["a"]
    # A folder: one line a file, `name hash`, sorted by name.
    assert sha256_of(tmp_path / "one") == hashlib.sha256(f"a {file['a']}\nb/c {file['b/c']}\n".encode()).hexdigest()
    assert sha256_of(tmp_path / "one") == sha256_of(tmp_path / "two")
    (tmp_path / "two/a").rename(tmp_path / "two/d")
    assert sha256_of(tmp_path / "one") != sha256_of(tmp_path / "two")


def test_state_lies_in_the_main_checkout_also_in_an_experiments_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "experiment").mkdir()
    monkeypatch.chdir(tmp_path / "experiment")
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    assert state_dir("checkpoints") == tmp_path.resolve() / ".effir/checkpoints"
    assert (tmp_path / ".effir/checkpoints").is_dir()
    monkeypatch.delenv("DVC_ROOT")
    assert project_root() == (tmp_path / "experiment").resolve()
