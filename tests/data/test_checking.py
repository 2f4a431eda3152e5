"""`effir data check`: each fault of a collection, found and named, and nothing where there is none."""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from effir.cli import main
from effir.data.beir import Collection
from effir.data.checking import FAULTS, check_collection

CORPUS = [{"_id": "d1", "title": "Cells", "text": "They divide."}, {"_id": "d2", "text": "They grow."}]
QUERIES = [{"_id": "q1", "text": "Do cells divide?"}, {"_id": "q2", "text": "Do cells grow?"}]
HEAD = "query-id\tcorpus-id\tscore\n"
QRELS = {"train": f"{HEAD}q1\td1\t1\n", "test": f"{HEAD}q2\td2\t1\n"}


def lines(rows: Sequence[Mapping[str, object]]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def write(folder: Path, corpus: str, queries: str, qrels: Mapping[str, str]) -> Path:
    (folder / "qrels").mkdir()
    (folder / "corpus.jsonl").write_text(corpus, encoding="utf-8")
    (folder / "queries.jsonl").write_text(queries, encoding="utf-8")
    for split, text in qrels.items():
        (folder / f"qrels/{split}.tsv").write_text(text, encoding="utf-8")
    return folder


def effir(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["data", "check", *arguments])


def test_a_sound_collection_has_no_faults(tmp_path: Path) -> None:
    result = effir(str(write(tmp_path, lines(CORPUS), lines(QUERIES), QRELS)))
    said = (
        "note: 1 test queries: a paired test detects differences of nDCG@10 of about 0.56 and more; a difference of "
        "0.02 needs about 785 queries\n"
        "note: 2 documents: Recall@100 is 1 for every model, so add documents\n"
        "2 documents, 2 queries, with relevance judgements 1 in test, 1 in train: 0 errors, 0 warnings\n"
    )
    assert (result.exit_code, result.output) == (0, said)


@pytest.mark.parametrize(
    ("file", "added", "fault", "example"),
    [
        ("corpus", "{broken\n", "not JSON", "line 3"),
        ("corpus", '{"text": "x"}\n', "no _id", "line 3"),
        ("corpus", '{"_id": "d3", "text": 3}\n', "no text", "line 3"),
        ("corpus", '{"_id": "d1", "text": "They shrink."}\n', "duplicate _id", "'d1', line 3"),
        ("corpus", '{"_id": "d3", "text": " "}\n', "empty text", "'d3', line 3"),
        ("corpus", '{"_id": "d3", "text": "they  GROW."}\n', "duplicate text", "'d3', line 3"),
        ("queries", '{"_id": "q3", "text": "do cells grow?"}\n', "duplicate question", "'q3', line 3"),
        ("queries", '{"_id": "q3", "text": "Do they?"}\n', "query without qrels", "'q3'"),
        ("test", "q2\td2\tyes\n", "not a relevance judgement", "line 3"),
        ("test", "q2\td2\t--1\n", "not a relevance judgement", "line 3"),
        ("test", "q2\td2\t\u00b2\n", "not a relevance judgement", "line 3"),
        ("corpus", '{"_id": "d3", "text": "\\ud800"}\n', "no text", "line 3"),
        ("test", "q9\td1\t1\n", "unknown query", "'q9', line 3"),
        ("test", "q2\td9\t1\n", "unknown document", "'d9', line 3"),
        ("test", "q2\td2\t1\n", "duplicate relevance judgement", "'q2' and 'd2', line 3"),
        ("test", "q1\td2\t1\n", "query of the train split", "'q1'"),
        ("test", "q2\td2\t0\n", "two grades for one pair", "'q2' and 'd2', line 3"),
        ("corpus", '{"_id": "q1", "text": "They shrink."}\n', "document with the id of a query", "'q1', line 3"),
        ("corpus", '{"_id": "q1", "title": "T", "text": "do cells DIVIDE?"}\n', "query in the corpus", "'q1', line 3"),
    ],
)
def test_each_fault_is_found_where_it_is(tmp_path: Path, file: str, added: str, fault: str, example: str) -> None:
    texts = {"corpus": lines(CORPUS), "queries": lines(QUERIES), **QRELS}
    texts[file] += added
    corpus, queries = texts.pop("corpus"), texts.pop("queries")
    report = check_collection(write(tmp_path, corpus, queries, texts))
    found = {finding.fault: finding for finding in report.findings}
    assert found[fault].example == example
    assert FAULTS[fault][1] in str(found[fault])


def test_a_header_that_is_a_judgement_and_a_query_without_answer_are_found(tmp_path: Path) -> None:
    qrels = {"train": "q1\td1\t1\n", "test": f"{HEAD}q2\td2\t0\n"}
    report = check_collection(write(tmp_path, lines(CORPUS), lines(QUERIES), qrels))
    assert [(finding.file, finding.fault) for finding in report.findings] == [
        ("qrels/test.tsv", "query without answer"),
        ("qrels/train.tsv", "no header"),
        ("qrels/train.tsv", "no relevance judgements"),
        ("queries.jsonl", "query without qrels"),
    ]


def test_a_split_without_judgements_is_found(tmp_path: Path) -> None:
    report = check_collection(write(tmp_path, lines(CORPUS), lines(QUERIES), {**QRELS, "test": HEAD}))
    assert ("qrels/test.tsv", "no relevance judgements") in [(each.file, each.fault) for each in report.errors]


def test_the_same_question_in_train_and_test_is_leakage_whatever_its_id(tmp_path: Path) -> None:
    queries = [QUERIES[0], {"_id": "q2", "text": "do CELLS divide? "}]
    result = effir(str(write(tmp_path, lines(CORPUS), lines(queries), QRELS)))
    assert result.exit_code == 1
    said = "error: qrels/test.tsv: query of the train split (1), e.g. 'q2', which is 'q1' in train: keep"
    assert result.output.startswith(said)


def test_broken_utf_8_is_a_fault_of_its_line(tmp_path: Path) -> None:
    folder = write(tmp_path, lines(CORPUS), lines(QUERIES), QRELS)
    with (folder / "corpus.jsonl").open("ab") as file:
        file.write(b'{"_id": "d3", "text": "\xff"}\n')
    assert [str(each) for each in check_collection(folder).errors] == [
        "error: corpus.jsonl: not JSON (1), e.g. line 3: write one JSON object per line, in UTF-8"
    ]


@pytest.mark.parametrize(("id_", "judged"), [('"d2"', '"d2"'), (2, "2")], ids=["quotation marks", "an integer"])
def test_ids_that_beirs_loader_reads_otherwise_are_found(tmp_path: Path, id_: object, judged: str) -> None:
    corpus, queries, qrels = CORPUS, QUERIES, dict(QRELS)
    if isinstance(id_, int):
        queries, qrels["test"] = [QUERIES[0], {"_id": id_, "text": "Do cells grow?"}], f"{HEAD}{judged}\td2\t1\n"
    else:
        corpus, qrels["test"] = [CORPUS[0], {"_id": id_, "text": "They grow."}], f"{HEAD}q2\t{judged}\t1\n"
    report = check_collection(write(tmp_path, lines(corpus), lines(queries), qrels))
    assert [(each.kind, each.file, each.fault) for each in report.findings] == [
        ("warning", "qrels/test.tsv", "BEIR reads something else")
    ]


def test_findings_are_json_for_programs(tmp_path: Path) -> None:
    folder = write(tmp_path, lines(CORPUS) * 2, lines(QUERIES), QRELS)
    found = json.loads(effir(str(folder), "--json").output)
    (twice,) = found["findings"]
    assert (twice["fault"], twice["count"], twice["kind"]) == ("duplicate _id", 2, "error")
    assert found["judged"] == {"train": 1, "test": 1}


def test_a_byte_order_mark_and_a_null_title_are_no_faults(tmp_path: Path) -> None:
    corpus = [{**CORPUS[0], "title": None}, CORPUS[1]]
    folder = write(tmp_path, "\ufeff" + lines(corpus), lines(QUERIES), QRELS)
    assert not check_collection(folder).errors
    assert [document.title for document in Collection(folder).documents()] == ["", ""]


def test_documents_that_are_longer_than_the_model_reads_are_counted(
    tmp_path: Path, tiny_checkpoint: Callable[[bool], Path]
) -> None:
    from effir.model.retriever import build_retriever, save_retriever

    model = build_retriever(tiny_checkpoint(False), pooling="last", query_prompt="", document_prompt="", max_tokens=16)
    save_retriever(model, tmp_path / "retriever")
    (tmp_path / "set").mkdir()
    folder = write(tmp_path / "set", lines(CORPUS), lines(QUERIES), QRELS)  # 18 bytes and EOS; 10 and EOS
    result = effir(str(folder), "--model", str(tmp_path / "retriever"))
    assert "warning: corpus.jsonl: longer than the model reads (1), e.g. 'd1': split it" in result.output
    assert result.exit_code == 0


def test_an_incomplete_collection_is_one_sentence(tmp_path: Path) -> None:
    result = effir(str(tmp_path))
    assert (result.exit_code, result.output.count("\n")) == (2, 1)
    assert "is not a BEIR collection: corpus.jsonl is missing" in result.output


def test_a_folder_that_cannot_name_a_set_is_refused(tmp_path: Path) -> None:
    (tmp_path / "pairs.jsonl").write_text('{"query": "q", "positive": "p"}\n')
    made = CliRunner().invoke(main, ["data", "from-pairs", str(tmp_path / "pairs.jsonl"), str(tmp_path / "a@b")])
    assert (made.exit_code, made.output.count("\n")) == (2, 1)
    assert "'a@b' cannot name a set: use letters, digits, dots, _ and - in the folder's name" in made.output
    assert not (tmp_path / "a@b").exists()
