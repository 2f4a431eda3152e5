"""Public and own collections, from archives and folders."""

import json
import zipfile
from pathlib import Path

import pytest

from effir.data.beir import Collection, Document, write_collection
from effir.data.catalog import ADDRESS, PUBLIC, install_collection
from effir.errors import EffirError
from effir.files import sha256_of

SHARED = Path(__file__).parents[2] / "../shared/data"
DOCUMENTS = [Document("d1", "Cells", "They divide."), Document("d2", "", "Naïve\ttabs\nand 中文.")]


@pytest.fixture
def collection(tmp_path: Path) -> Collection:
    queries = {"q1": "what divides?", "q2": "which scripts?"}
    return write_collection(tmp_path / "set", DOCUMENTS, queries, {"test": {"q1": {"d1": 2}, "q2": {"d2": 1}}})


def zip_of(folder: Path, archive: Path, top: str) -> Path:
    with zipfile.ZipFile(archive, "w") as members:
        for path in sorted(p for p in folder.rglob("*") if p.is_file()):
            members.write(path, f"{top}{path.relative_to(folder).as_posix()}")
        members.writestr("__MACOSX/._corpus.jsonl", "junk that macOS adds")
    return archive


def install(name: str, tmp_path: Path, **collections: str) -> Collection:
    mirror = (tmp_path / "mirror").as_uri()
    return install_collection(name, tmp_path / "in", mirror=mirror, collections=collections, cache=tmp_path / "cache")


@pytest.mark.parametrize("top", ["", "scifact/", "some-other-name/"])
def test_a_public_set_comes_from_a_mirror_with_or_without_a_top_folder(
    top: str, collection: Collection, tmp_path: Path
) -> None:
    (tmp_path / "mirror").mkdir()
    zip_of(collection.folder, tmp_path / "mirror" / "scifact.zip", top)
    installed = install("scifact", tmp_path)
    assert sha256_of(installed.folder) == sha256_of(collection.folder)


def test_an_own_set_comes_from_a_folder_or_a_zip_and_only_its_own_files_are_taken(
    collection: Collection, tmp_path: Path
) -> None:
    before = sha256_of(collection.folder)
    archive = zip_of(collection.folder, tmp_path / "own.zip", "own/")
    (collection.folder / "notes.txt").write_text("mine")
    for source in (str(collection.folder), f"{archive.as_uri()}#sha256={sha256_of(archive)}"):
        assert sha256_of(install("own", tmp_path, own=source).folder) == before


def test_an_own_set_may_carry_a_public_name(collection: Collection, tmp_path: Path) -> None:
    assert list(install("scifact", tmp_path, scifact=str(collection.folder)).documents()) == DOCUMENTS


def test_an_unknown_set_lists_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(
        EffirError, match=r"no collection 'scifacts': your own are mine; the public ones are .*scifact;"
    ):
        install("scifacts", tmp_path, mine="somewhere")


def test_an_archive_that_is_no_collection_is_named_and_nothing_is_installed(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "own.zip", "w") as archive:
        archive.writestr("own/corpus.jsonl", json.dumps({"_id": "d", "text": "x"}))
    with pytest.raises(EffirError, match=r"own\.zip is not a BEIR collection: queries\.jsonl is missing"):
        install("own", tmp_path, own=str(tmp_path / "own.zip"))
    assert [path.name for path in tmp_path.iterdir()] == ["own.zip"]


def test_the_official_archives_are_held_to_their_checksums(
    collection: Collection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert len(PUBLIC) == 13
    assert ADDRESS.startswith("https://")
    (tmp_path / "mirror").mkdir()
    zip_of(collection.folder, tmp_path / "mirror" / "fiqa.zip", "fiqa/")
    monkeypatch.setattr("effir.data.catalog.ADDRESS", (tmp_path / "mirror").as_uri())  # as if it were BEIR's own server
    with pytest.raises(EffirError, match=rf"fiqa\.zip arrived with MD5 \w+, not {PUBLIC['fiqa']}"):
        install("fiqa", tmp_path)
    assert not (tmp_path / "in").exists()


@pytest.mark.parametrize(
    ("name", "documents", "queries", "pairs"), [("scifact", 5183, 300, 339), ("nfcorpus", 3633, 323, 12334)]
)
def test_real_beir_archives_install(name: str, documents: int, queries: int, pairs: int, tmp_path: Path) -> None:
    archives = SHARED / "beir"
    if not archives.is_dir():
        pytest.skip("no shared/data/beir beside this checkout")
    mirror = archives.resolve().as_uri()
    installed = install_collection(name, tmp_path / "in", mirror=mirror, collections={}, cache=tmp_path / "cache")
    # Counts as BEIR's paper and shared/DATA.md give them.
    assert sum(1 for _ in installed.documents()) == documents
    assert len(installed.queries("test")) == queries
    assert sum(map(len, installed.qrels("test").values())) == pairs
