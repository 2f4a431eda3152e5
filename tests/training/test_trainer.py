import math
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer
from torch import Tensor, nn

from effir.data.examples import Example
from effir.errors import EffirError
from effir.files import sha256_of
from effir.model.auto_precision import Decision
from effir.model.retriever import build_retriever, encode_documents, save_retriever
from effir.training.losses import TeacherTerm, cosine, ranking_loss
from effir.training.teacher import CrossEncoderOutputs
from effir.training.trainer import (
    PROJECTIONS,
    Adapters,
    Curve,
    Job,
    Log,
    Schedule,
    add_adapters,
    fit,
    fit_adapters,
    merge_adapters,
)

pytestmark = [pytest.mark.usefixtures("one_thread"), pytest.mark.slow]

EXAMPLES = [
    Example(f"what is number {i}?", f"the number {i} is {i * i} squared", (f"letter {i}", f"{i} words"))
    for i in range(24)
]
MIXED = [replace(example, part="few" if i % 3 == 0 else "many") for i, example in enumerate(EXAMPLES)]
ADAPTERS = Adapters(rank=4, alpha=8, dropout=0.0)
SCHEDULE = Schedule(
    steps=10,
    batch_size=4,
    learning_rate=0.01,
    warmup=0.2,
    decay="cosine",
    max_tokens=24,
    precision="float32",
    checkpoint_every=3,
    seed=0,
)


def tiny_retriever(checkpoint: Callable[[bool], Path]) -> SentenceTransformer:
    return build_retriever(checkpoint(False), pooling="mean", query_prompt="q: ", document_prompt="", max_tokens=32)


@pytest.fixture
def retriever(tiny_checkpoint: Callable[[bool], Path]) -> Callable[[], SentenceTransformer]:
    return partial(tiny_retriever, tiny_checkpoint)


def job(work: Path, log: Log = lambda step, row: None, **changes: Any) -> Job:
    return Job(replace(SCHEDULE, **changes), work, log)


def finetuned(
    model: SentenceTransformer,
    work: Path,
    log: Log = lambda step, row: None,
    adapters: Adapters = ADAPTERS,
    examples: Sequence[Example] = EXAMPLES,
    **changes: Any,
) -> Curve:
    return fit_adapters(model, examples, ranking_loss(model, 0.1), adapters, job(work, log, **changes))


def collect(rows: Curve) -> Log:
    return lambda step, row: rows.append({"step": step, **row})


def weights(model: SentenceTransformer) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in model[0].model.state_dict().items()}


def assert_same(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    assert one.keys() == other.keys()
    for name, tensor in one.items():
        assert torch.equal(tensor, other[name]), name


def test_info_nce_is_the_log_share_of_the_positive_among_all_documents_of_the_batch(
    retriever: Callable[[], SentenceTransformer],
) -> None:
    queries = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    positives = torch.tensor([[2.0, 0.0], [0.0, 3.0]])  # not of length 1: only their directions count
    negatives = torch.tensor([[0.0, 1.0], [-1.0, 0.0]])
    # Cosines of the first query to p1, p2, n1, n2: 1, 0, 0, -1; of the second: 0, 1, 1, 0. Divided by 0.5:
    # -log(e^2 / (e^2 + 1 + 1 + e^-2)) and -log(e^2 / (1 + e^2 + e^2 + 1)), and their mean.
    with_negatives = (math.log(math.e**2 + 2 + math.e**-2) - 2 + math.log(2 * math.e**2 + 2) - 2) / 2
    # Without hard negatives both queries see 2 and 0: -log(e^2 / (e^2 + 1)).
    without = math.log(math.e**2 + 1) - 2
    loss: Any = ranking_loss(retriever(), temperature=0.5)
    found = loss.compute_loss_from_embeddings([queries, positives, negatives], None)
    assert found.item() == pytest.approx(with_negatives, abs=1e-6)
    assert loss.compute_loss_from_embeddings([queries, positives], None).item() == pytest.approx(without, abs=1e-6)


def test_cosines_are_float32_under_autocast() -> None:
    # cos((1, 1), (1, 0.99)) = 1.99 / sqrt(2 * 1.9801) = 0.99998737; bfloat16, of 8 bits, would round it to 1.
    one, other = torch.tensor([[1.0, 1.0]]), torch.tensor([[1.0, 0.99]])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = cosine(one, other)
    assert found.dtype == torch.float32
    assert found.item() == pytest.approx(0.99998737, abs=1e-7)
    assert cosine(one.bfloat16(), one.bfloat16()).dtype == torch.float32


def test_only_adapters_train_and_on_every_projection(retriever: Callable[[], SentenceTransformer]) -> None:
    model = retriever()
    before = weights(model)
    add_adapters(model, ADAPTERS, seed=0)
    trained = [name for name, p in model.named_parameters() if p.requires_grad]
    assert all("lora_" in name for name in trained)
    # A and B on seven projections in three layers.
    assert len(trained) == 2 * len(PROJECTIONS) * 3
    merge_adapters(model)
    assert_same(weights(model), before)  # B begins at zero


def test_merged_adapters_are_w_plus_alpha_over_rank_b_a_and_give_the_same_vectors(
    retriever: Callable[[], SentenceTransformer],
) -> None:
    model = retriever()
    before = weights(model)
    add_adapters(model, ADAPTERS, seed=0)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(0, 0.1, generator=generator)
    factors = {name: p.detach().clone() for name, p in model.named_parameters() if "lora_" in name}
    model.eval()
    texts = ["a text", "another, longer text", ""]
    unmerged = encode_documents(model, texts, 4)
    merge_adapters(model)
    assert encode_documents(model, texts, 4) == pytest.approx(unmerged, abs=1e-5)
    after = weights(model)
    assert after.keys() == before.keys()
    for name, weight in before.items():
        place = name.removesuffix(".weight")
        found = [tensor for key, tensor in sorted(factors.items()) if f".{place}.lora_" in key]
        change = ADAPTERS.alpha / ADAPTERS.rank * found[1] @ found[0] if found else 0  # B A, named lora_A and lora_B
        torch.testing.assert_close(after[name], weight + change, atol=1e-5, rtol=0)
    assert not torch.equal(after["layers.0.mlp.down_proj.weight"], before["layers.0.mlp.down_proj.weight"])


def test_with_rank_0_all_weights_train_but_the_embeddings(
    retriever: Callable[[], SentenceTransformer], tmp_path: Path
) -> None:
    model = retriever()
    before = weights(model)
    curve = finetuned(model, tmp_path / "work", adapters=replace(ADAPTERS, rank=0), steps=40)
    after = weights(model)
    assert {name for name in before if torch.equal(before[name], after[name])} == {"embed_tokens.weight"}
    assert curve[-1]["loss"] < curve[0]["loss"] - 0.3
    assert not any(parameter.requires_grad for parameter in model.parameters())


@pytest.mark.parametrize(
    ("steps", "said"), [(40, "the loss is nan at step 5"), (3, "a weight is not finite after 3 steps")]
)
def test_a_training_that_diverges_ends_with_one_sentence(
    steps: int, said: str, retriever: Callable[[], SentenceTransformer], tmp_path: Path
) -> None:
    model = retriever()
    with pytest.raises(EffirError, match=rf"{said}: lower the learning_rate of this training from 1e\+39"):
        finetuned(model, tmp_path / "work", learning_rate=1e39, steps=steps, checkpoint_every=20)


@pytest.mark.parametrize(("rate", "said"), [(1e-9, True), (0.01, False)])
def test_a_loss_that_did_not_fall_is_said(
    rate: float,
    said: bool,
    retriever: Callable[[], SentenceTransformer],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    finetuned(retriever(), tmp_path / "work", learning_rate=rate, steps=40, checkpoint_every=20)
    assert ("the loss did not fall" in capsys.readouterr().err) == said


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_fine_tuning_lowers_the_loss_and_leaves_a_plain_model(
    precision: str, retriever: Callable[[], SentenceTransformer], tmp_path: Path
) -> None:
    model, seen = retriever(), []
    curve = finetuned(model, tmp_path / "work", collect(seen), steps=40, checkpoint_every=20, precision=precision)
    # A row is the mean over 5 steps; the last learning rate of a cosine decay is almost nothing.
    assert [row["step"] for row in curve] == [5, 10, 15, 20, 25, 30, 35, 40]
    assert curve == seen
    assert curve[-1]["loss"] < curve[0]["loss"] - 0.3
    assert curve[-1]["learning_rate"] < 0.0005 < max(row["learning_rate"] for row in curve)
    assert weights(model).keys() == weights(retriever()).keys()
    assert (model.max_seq_length, model.training) == (32, False)


def test_two_runs_with_one_seed_are_identical_and_another_seed_is_not(
    retriever: Callable[[], SentenceTransformer], tmp_path: Path
) -> None:
    models = [retriever() for _ in range(3)]
    dropping = replace(ADAPTERS, dropout=0.1)
    curves = [
        finetuned(model, tmp_path / str(i), adapters=dropping, seed=seed)
        for i, (model, seed) in enumerate(zip(models, (0, 0, 1), strict=True))
    ]
    assert curves[0] == curves[1]
    assert curves[0] != curves[2]
    assert_same(weights(models[0]), weights(models[1]))


class KilledError(Exception):
    """Stands for the signal: nothing in effir catches it."""


def dies_at(last: int) -> Log:
    def log(step: int, row: dict[str, float]) -> None:
        if step == last:
            raise KilledError

    return log


@pytest.mark.parametrize(
    ("examples", "rank"),
    [(EXAMPLES, 4), (MIXED, 4), (EXAMPLES, 0)],
    ids=["one collection", "a mixture", "without adapters"],
)
def test_a_killed_run_continues_to_the_weights_and_curve_of_an_uninterrupted_one(
    retriever: Callable[[], SentenceTransformer], tmp_path: Path, examples: Sequence[Example], rank: int
) -> None:
    dropping = Adapters(rank, alpha=8, dropout=0.1)  # so that the state of the random numbers matters too
    uninterrupted, seen = retriever(), []
    expected = finetuned(uninterrupted, tmp_path / "uninterrupted", adapters=dropping, examples=examples)
    with pytest.raises(KilledError):
        finetuned(retriever(), tmp_path / "work", dies_at(10), adapters=dropping, examples=examples)
    # Checkpoints every 3 steps, only the last kept: the tenth step is lost, and trained again.
    assert [path.name for path in (tmp_path / "work").iterdir()] == ["checkpoint-9"]
    saved = sorted(path.name for path in (tmp_path / "work/checkpoint-9").iterdir())
    assert "trained.safetensors" in saved
    assert "model.safetensors" not in saved  # what does not train is not copied every time
    again = retriever()
    curve = finetuned(again, tmp_path / "work", collect(seen), adapters=dropping, examples=examples)
    assert curve == expected
    assert seen == expected  # the part before the kill is logged again
    assert_same(weights(again), weights(uninterrupted))


@pytest.fixture(scope="module")
def interrupted(
    tiny_checkpoint: Callable[[bool], Path], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Curve, Path]:
    """The curve of the usual training, and the folder of one killed at step 5, with the checkpoint of step 3."""
    work = tmp_path_factory.mktemp("interrupted")
    curve = finetuned(tiny_retriever(tiny_checkpoint), work / "whole")
    with pytest.raises(KilledError):
        finetuned(tiny_retriever(tiny_checkpoint), work / "killed", dies_at(5))
    return curve, work / "killed"


@pytest.mark.parametrize("left", [None, b'{"epoch": 0.', b"{}"], ids=["no state", "half of a state", "no seal"])
def test_an_incomplete_checkpoint_is_ignored(
    retriever: Callable[[], SentenceTransformer],
    interrupted: tuple[Curve, Path],
    tmp_path: Path,
    left: bytes | None,
) -> None:
    expected, killed = interrupted
    shutil.copytree(killed, tmp_path / "work")
    torn = tmp_path / "work/checkpoint-6"  # its seal is written last
    torn.mkdir()
    (torn / "trained.safetensors").write_bytes(b"torn")
    if left:
        (torn / "trainer_state.json").write_bytes(left)
    assert finetuned(retriever(), tmp_path / "work") == expected


@pytest.mark.parametrize("file", ["trained.safetensors", "optimizer.pt", "rng_state.pth", "trainer_state.json"])
def test_a_damaged_checkpoint_is_removed_and_the_training_begins_again(
    retriever: Callable[[], SentenceTransformer], interrupted: tuple[Curve, Path], tmp_path: Path, file: str
) -> None:
    expected, killed = interrupted
    shutil.copytree(killed, tmp_path / "work")
    damaged = bytearray((tmp_path / "work/checkpoint-3" / file).read_bytes())
    damaged[-9] ^= 1  # one bit
    (tmp_path / "work/checkpoint-3" / file).write_bytes(damaged)
    assert finetuned(retriever(), tmp_path / "work") == expected


class Witness(nn.Module):
    """A ranking loss that remembers which examples came together."""

    def __init__(self, loss: nn.Module) -> None:
        super().__init__()
        self.loss, self.batches = loss, list[list[int]]()

    def forward(self, columns: Any, labels: Tensor) -> Tensor:
        self.batches.append(labels.tolist())
        found: Tensor = self.loss(columns, labels)
        return found


def test_a_batch_is_of_one_part_of_a_mixture_and_all_are_read_once_before_any_twice(
    retriever: Callable[[], SentenceTransformer], tmp_path: Path
) -> None:
    model = retriever()
    add_adapters(model, ADAPTERS, seed=0)
    loss = Witness(ranking_loss(model, 0.1))
    fit(model, MIXED, loss, job(tmp_path / "work", steps=6))
    parts = [{MIXED[row].part for row in batch} for batch in loss.batches]
    assert all(len(of) == 1 for of in parts)
    assert sorted(part for of in parts for part in of) == ["few"] * 2 + ["many"] * 4  # 8 and 16 examples, 4 a batch
    assert parts != [{"few"}] * 2 + [{"many"}] * 4  # not one part after the other
    assert sorted(row for batch in loss.batches for row in batch) == list(range(24))


def test_a_finished_training_that_was_not_saved_is_not_trained_further(
    retriever: Callable[[], SentenceTransformer], tmp_path: Path
) -> None:
    first, again, seen = retriever(), retriever(), []
    expected = finetuned(first, tmp_path / "work", steps=9)
    assert (tmp_path / "work/checkpoint-9").is_dir()
    assert finetuned(again, tmp_path / "work", collect(seen), steps=9) == expected
    assert seen == expected
    assert_same(weights(again), weights(first))
    for name, model in (("first", first), ("again", again)):
        save_retriever(model, tmp_path / name)
    assert sha256_of(tmp_path / "again") == sha256_of(tmp_path / "first")  # the tokenizer's files too


def test_a_checkpoint_of_other_weights_is_refused(
    retriever: Callable[[], SentenceTransformer], interrupted: tuple[Curve, Path], tmp_path: Path
) -> None:
    shutil.copytree(interrupted[1], tmp_path / "work")
    bare = retriever()  # without adapters: all of its weights would train
    with pytest.raises(EffirError, match="checkpoint-3 does not fit this model: remove it and run again"):
        fit(bare, EXAMPLES, ranking_loss(bare, 0.1), job(tmp_path / "work"))


def test_no_steps_do_not_change_the_model(retriever: Callable[[], SentenceTransformer], tmp_path: Path) -> None:
    model = retriever()
    before = weights(model)
    assert finetuned(model, tmp_path / "work", steps=0) == []
    assert_same(weights(model), before)


def test_the_scores_of_the_teacher_are_those_of_the_batch_and_are_learnt(
    retriever: Callable[[], SentenceTransformer], tmp_path: Path
) -> None:
    # It scores the first negative of even rows above the positive, of odd rows the second.
    teacher = CrossEncoderOutputs(np.array([[0, 1, 0], [0, 0, 1]] * 12, dtype=np.float32))
    model, teacher_term = retriever(), TeacherTerm(teacher, weight=20.0, temperature=0.1)
    loss = ranking_loss(model, 0.1, teacher_term)
    fit_adapters(model, EXAMPLES, loss, ADAPTERS, job(tmp_path / "work", steps=60, checkpoint_every=60))
    chosen = []
    for example in EXAMPLES:
        query = encode_documents(model, [model.prompts["query"] + example.query], 1)[0]
        chosen.append(int((encode_documents(model, [example.positive, *example.negatives], 3) @ query).argmax()))
    learnt = sum(choice == 1 + row % 2 for row, choice in enumerate(chosen))
    assert learnt > 18  # of 24; by chance 8


def test_too_few_examples_are_one_sentence(retriever: Callable[[], SentenceTransformer], tmp_path: Path) -> None:
    model = retriever()
    with pytest.raises(EffirError, match=r"^3 training examples cannot fill a batch of 4: lower batch_size$"):
        fit(model, EXAMPLES[:3], ranking_loss(model, 0.1), job(tmp_path / "work"))


@pytest.mark.parametrize("measured", ["float32", "bfloat16"])
def test_auto_trains_in_what_was_measured_to_be_faster(
    retriever: Callable[[], SentenceTransformer], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, measured: str
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr("effir.model.precision._multiplies_natively", lambda: True)
    monkeypatch.setattr("effir.model.precision._measured", lambda product: Decision(measured))  # type: ignore[arg-type]
    found = {name: retriever() for name in ("auto", "asked")}
    curves = [
        finetuned(model, tmp_path / name, steps=2, precision="auto" if name == "auto" else measured)
        for name, model in found.items()
    ]
    assert curves[0] == curves[1]
    assert_same(weights(found["auto"]), weights(found["asked"]))
