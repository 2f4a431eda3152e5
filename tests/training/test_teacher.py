"""A teacher's opinions: of the right texts in the right order, kept once, and of nobody it was not asked about."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from sentence_transformers import CrossEncoder, SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Dense

from effir.data.examples import Example
from effir.encoding.encoder import TextEncoder
from effir.errors import EffirError
from effir.files import write_json
from effir.model.retriever import build_retriever, encode_documents, encode_queries, save_retriever
from effir.training.opinions import write_no_teacher
from effir.training.teacher import load_teacher, with_hard_negatives, without_false_negatives
from effir.training.teacher_cache import SHARD, cache_teacher_scores, is_retriever, kind_of

pytestmark = pytest.mark.usefixtures("one_thread")

ROUNDED = 2e-2  # read in bfloat16, where the processor has it, and kept in float16
EXAMPLES = [
    Example("first?", "the first", ("a second", "a third")),
    Example("second?", "a second", ("the first", "a fourth")),
    Example("first?", "also first", ("a third", "a second")),
]


@pytest.fixture
def bi_encoder(tiny_checkpoint: Callable[[bool], Path], tmp_path: Path) -> Path:
    model = build_retriever(
        tiny_checkpoint(False), pooling="mean", query_prompt="q: ", document_prompt="d: ", max_tokens=32
    )
    save_retriever(model, tmp_path / "bi")
    return tmp_path / "bi"


@pytest.fixture
def cross_encoder(tiny_checkpoint: Callable[[bool], Path], tmp_path: Path) -> Path:
    from transformers import AutoTokenizer, LlamaConfig, LlamaForSequenceClassification

    torch.manual_seed(0)
    config = LlamaConfig.from_pretrained(tiny_checkpoint(False), num_labels=1, initializer_range=0.3)
    LlamaForSequenceClassification(config).save_pretrained(tmp_path / "cross")
    AutoTokenizer.from_pretrained(tiny_checkpoint(False)).save_pretrained(tmp_path / "cross")
    return tmp_path / "cross"


def test_a_bi_encoder_scores_every_document_of_the_batch_in_the_order_of_the_loss(
    bi_encoder: Path, tmp_path: Path
) -> None:
    assert (
        cache_teacher_scores("here", bi_encoder, EXAMPLES, tmp_path / "kept", max_tokens=32, work=tmp_path / "work")
        == "bi-encoder"
    )
    teacher = load_teacher(tmp_path / "kept", EXAMPLES)
    assert teacher is not None
    found = teacher.scores(torch.tensor([2, 1]))
    model = SentenceTransformer(str(bi_encoder))
    # The batch is examples 2 and 1: positives of both, then their first negatives, then their second.
    documents = ["also first", "a second", "a third", "the first", "a second", "a fourth"]
    expected = encode_queries(model, ["first?", "second?"], 2) @ encode_documents(model, documents, 2).T
    assert found.shape == (2, 6)
    assert found.dtype == torch.float32
    np.testing.assert_allclose(found.numpy(), expected, atol=ROUNDED)
    vectors = teacher.vectors(torch.tensor([2, 1]))
    np.testing.assert_allclose(vectors[:2], encode_queries(model, ["first?", "second?"], 2), atol=ROUNDED)
    np.testing.assert_allclose(vectors[2:], encode_documents(model, documents, 2), atol=ROUNDED)


def test_one_of_our_own_is_read_by_our_own_encoder_and_any_other_by_sentence_transformers(
    bi_encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert is_retriever(bi_encoder)
    cache_teacher_scores("here", bi_encoder, EXAMPLES, tmp_path / "ours", max_tokens=32, work=tmp_path / "work")
    monkeypatch.setattr("effir.training.teacher_cache.is_retriever", lambda folder: False)
    cache_teacher_scores("here", bi_encoder, EXAMPLES, tmp_path / "theirs", max_tokens=32, work=tmp_path / "work")
    one, other = (load_teacher(tmp_path / name, EXAMPLES) for name in ("ours", "theirs"))
    assert one is not None
    assert other is not None
    # bfloat16, where the processor has it, against float32
    torch.testing.assert_close(one.scores(torch.arange(3)), other.scores(torch.arange(3)), atol=2e-2, rtol=0)
    write_json(bi_encoder / "config.json", {"model_type": "bert"})
    monkeypatch.undo()
    assert not is_retriever(bi_encoder)


def with_a_dense(folder: Path) -> None:
    model = SentenceTransformer(str(folder))
    transformer, pooling, normalize = model
    size = pooling.get_embedding_dimension()
    torch.manual_seed(3)
    modules = [transformer, pooling, Dense(size, 8), normalize]
    SentenceTransformer(modules=modules, prompts=model.prompts).save_pretrained(str(folder), create_model_card=False)


def that_looks_ahead(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    write_json(folder / "config.json", {**config, "is_causal": False})


@pytest.mark.parametrize("other", [with_a_dense, that_looks_ahead])
def test_a_decoder_that_our_encoder_would_read_wrongly_is_left_to_sentence_transformers(
    bi_encoder: Path, tmp_path: Path, other: Callable[[Path], None]
) -> None:
    other(bi_encoder)
    assert not is_retriever(bi_encoder)
    cache_teacher_scores("here", bi_encoder, EXAMPLES, tmp_path / "kept", max_tokens=32, work=tmp_path / "work")
    expected = encode_documents(SentenceTransformer(str(bi_encoder)), ["also first"], 1)
    teacher = load_teacher(tmp_path / "kept", EXAMPLES)
    assert teacher is not None
    np.testing.assert_allclose(teacher.vectors(torch.tensor([2]))[1:2], expected, atol=ROUNDED)


def test_a_cross_encoder_scores_a_query_s_own_documents_and_no_others(cross_encoder: Path, tmp_path: Path) -> None:
    kind = cache_teacher_scores(
        "here", cross_encoder, EXAMPLES, tmp_path / "kept", max_tokens=32, work=tmp_path / "work"
    )
    assert kind == "cross-encoder"
    teacher = load_teacher(tmp_path / "kept", EXAMPLES)
    assert teacher is not None
    found = teacher.scores(torch.tensor([0, 1]))
    judge = CrossEncoder(str(cross_encoder), max_length=64)
    own = judge.predict(
        [("first?", "the first"), ("first?", "a second"), ("first?", "a third")], activation_fn=torch.nn.Identity()
    )
    np.testing.assert_allclose(found[0, [0, 2, 4]].numpy(), own, atol=1e-5)
    assert torch.isnan(found[0, [1, 3, 5]]).all()
    assert torch.isnan(found[1, [0, 2, 4]]).all()
    assert not torch.isnan(found[1, [1, 3, 5]]).any()
    with pytest.raises(EffirError, match="a cross-encoder has no vectors to learn"):
        teacher.vectors(torch.tensor([0]))


def test_a_cross_encoder_that_sentence_transformers_saved_is_none_other(cross_encoder: Path, tmp_path: Path) -> None:
    CrossEncoder(str(cross_encoder)).save_pretrained(str(tmp_path / "saved"))
    assert (tmp_path / "saved/modules.json").exists()  # as a bi-encoder has
    assert kind_of(tmp_path / "saved") == kind_of(cross_encoder) == "cross-encoder"


def test_a_classifier_gives_no_score_a_pair(cross_encoder: Path) -> None:
    config = json.loads((cross_encoder / "config.json").read_text(encoding="utf-8"))
    write_json(cross_encoder / "config.json", {**config, "id2label": {"0": "no", "1": "yes"}})
    with pytest.raises(EffirError, match="sorts into several classes"):
        kind_of(cross_encoder)


def test_fewer_negatives_than_were_taught_need_no_new_reading(bi_encoder: Path, tmp_path: Path) -> None:
    cache_teacher_scores("here", bi_encoder, EXAMPLES, tmp_path / "kept", max_tokens=32, work=tmp_path / "work")
    fewer = [Example(e.query, e.positive, e.negatives[:1]) for e in EXAMPLES]
    some, all_ = (load_teacher(tmp_path / "kept", examples) for examples in (fewer, EXAMPLES))
    assert some is not None
    assert all_ is not None
    rows = torch.tensor([0, 1])
    torch.testing.assert_close(some.scores(rows), all_.scores(rows)[:, :4])


def test_a_killed_teacher_goes_on_where_it_stopped(
    bi_encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    examples = [Example(f"{i}?", f"number {i}", ()) for i in range(SHARD + 3)]
    read: list[int] = []
    usual = TextEncoder._encode

    def encode(self: TextEncoder, texts: Sequence[str], prompt: str) -> object:
        read.append(len(texts))
        if len(read) == 4:
            raise KeyboardInterrupt
        return usual(self, texts, prompt)

    monkeypatch.setattr(TextEncoder, "_encode", encode)
    for expected in (KeyboardInterrupt, None):
        if expected:
            with pytest.raises(expected):
                cache_teacher_scores(
                    "here", bi_encoder, examples, tmp_path / "kept", max_tokens=16, work=tmp_path / "work"
                )
            assert not (tmp_path / "kept").exists()
        else:
            cache_teacher_scores("here", bi_encoder, examples, tmp_path / "kept", max_tokens=16, work=tmp_path / "work")
    assert read == [SHARD, 3, SHARD, 3, 3]  # queries, documents and the kill; then what was missing
    assert load_teacher(tmp_path / "kept", examples) is not None
    assert not (tmp_path / "work").exists()


def test_without_a_teacher_there_is_nothing_to_learn(tmp_path: Path) -> None:
    write_no_teacher(tmp_path / "kept")
    assert load_teacher(tmp_path / "kept", EXAMPLES) is None


def test_texts_that_were_never_read_name_the_command_that_reads_them(bi_encoder: Path, tmp_path: Path) -> None:
    cache_teacher_scores("here", bi_encoder, EXAMPLES, tmp_path / "kept", max_tokens=32, work=tmp_path / "work")
    with pytest.raises(EffirError, match="was taught on other texts: run `dvc repro teach`"):
        load_teacher(tmp_path / "kept", [Example("new?", "the first", ())])


def test_a_model_that_is_no_teacher_is_refused_and_nothing_is_kept(tmp_path: Path) -> None:
    (tmp_path / "llm").mkdir()
    write_json(tmp_path / "llm/config.json", {"architectures": ["LlamaForCausalLM"]})
    with pytest.raises(EffirError, match=r"is no teacher: training\.teacher must name"):
        cache_teacher_scores(
            "here", tmp_path / "llm", EXAMPLES, tmp_path / "kept", max_tokens=32, work=tmp_path / "work"
        )
    assert not (tmp_path / "kept").exists()


def test_what_is_kept_says_where_it_comes_from(bi_encoder: Path, tmp_path: Path) -> None:
    cache_teacher_scores("wheel:x==1/y", bi_encoder, EXAMPLES, tmp_path / "kept", max_tokens=32, work=tmp_path / "work")
    kept = json.loads((tmp_path / "kept/teacher.json").read_text(encoding="utf-8"))
    assert kept == {"source": "wheel:x==1/y", "kind": "bi-encoder", "max_tokens": 32}
    files = {"teacher.json", "queries.npy", "queries.txt", "documents.npy", "documents.txt"}
    assert {path.name for path in (tmp_path / "kept").iterdir()} == files


def test_negatives_that_may_be_answers_give_way_to_the_next() -> None:
    (example,) = [Example("?", "yes", ("perhaps", "no", "surely not", "also yes"))]
    # Below 0.8 - 0.1 lie the second and the third; then the least likely answer comes, 0.75, and then 0.9.
    own = np.array([[0.8, 0.75, 0.6, 0.1, 0.9]], dtype=np.float32)

    def kept(margin: float, count: int) -> tuple[str, ...]:
        return without_false_negatives([example], own, margin, count)[0].negatives

    assert kept(0.1, 1) == ("no",)
    assert kept(0.1, 2) == ("no", "surely not")
    assert kept(0.1, 3) == ("no", "surely not", "perhaps")
    assert kept(0.1, 4) == ("no", "surely not", "perhaps", "also yes")
    assert kept(0.0, 3) == ("perhaps", "no", "surely not")
    assert kept(0.1, 0) == ()


def test_a_teacher_finds_what_it_confuses_among_all_documents_but_never_an_answer(
    bi_encoder: Path, tmp_path: Path
) -> None:
    cache_teacher_scores("here", bi_encoder, EXAMPLES, tmp_path / "kept", max_tokens=32, work=tmp_path / "work")
    chosen, teacher = with_hard_negatives(
        tmp_path / "kept", EXAMPLES, -2.0, 3, "teacher"
    )  # by that margin all are sure
    assert teacher is not None
    everything = ["the first", "a second", "a third", "also first", "a fourth"]
    model = SentenceTransformer(str(bi_encoder))
    scores = encode_queries(model, ["first?", "second?"], 2) @ encode_documents(model, everything, 2).T
    for example, row, answers in zip(
        chosen, (0, 1, 0), (("the first", "also first"), ("a second",), ("the first", "also first")), strict=True
    ):
        ranked = [everything[i] for i in np.argsort(-scores[row]) if everything[i] not in answers]
        assert len(example.negatives) == 3
        assert not set(example.negatives) & set(answers)
        # Neighbours whose scores differ by less than the rounding may swap.
        wanted = scores[row, [everything.index(text) for text in ranked[:3]]]
        np.testing.assert_allclose(
            scores[row, [everything.index(t) for t in example.negatives]], wanted, atol=2 * ROUNDED
        )
    # The teacher that comes back scores those.
    documents = [chosen[1].positive, *chosen[1].negatives]
    expected = encode_queries(model, ["second?"], 1) @ encode_documents(model, documents, 2).T
    np.testing.assert_allclose(teacher.own[1], expected[0], atol=ROUNDED)


def test_a_cross_encoder_cannot_mine(cross_encoder: Path, tmp_path: Path) -> None:
    cache_teacher_scores("here", cross_encoder, EXAMPLES, tmp_path / "kept", max_tokens=32, work=tmp_path / "work")
    with pytest.raises(EffirError, match=r"cannot search: set training\.miner to bm25"):
        with_hard_negatives(tmp_path / "kept", EXAMPLES, 0.0, 1, "teacher")


def test_the_teacher_of_chosen_negatives_scores_those_and_no_others(bi_encoder: Path, tmp_path: Path) -> None:
    cache_teacher_scores("here", bi_encoder, EXAMPLES, tmp_path / "kept", max_tokens=32, work=tmp_path / "work")
    whole = load_teacher(tmp_path / "kept", EXAMPLES)
    assert whole is not None
    chosen, teacher = with_hard_negatives(tmp_path / "kept", EXAMPLES, -2.0, 1)  # nothing is doubtful: the first stay
    assert teacher is not None
    assert [example.negatives for example in chosen] == [example.negatives[:1] for example in EXAMPLES]
    np.testing.assert_allclose(teacher.own, whole.own[:, :2], atol=1e-6)
    np.testing.assert_allclose(np.diag(teacher.scores(torch.arange(3))[:, :3]), whole.own[:, 0], atol=1e-5)


def test_without_a_teacher_the_first_negatives_are_taken(tmp_path: Path) -> None:
    write_no_teacher(tmp_path / "kept")
    chosen, teacher = with_hard_negatives(tmp_path / "kept", EXAMPLES, 0.0, 1)
    assert teacher is None
    assert [example.negatives for example in chosen] == [example.negatives[:1] for example in EXAMPLES]
