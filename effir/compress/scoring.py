"""Score every MLP channel by one of four methods, through one interface."""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch
from sentence_transformers import SentenceTransformer
from torch import Tensor
from tqdm import tqdm

from effir.compress.channel_scores import (
    ChannelScores,
    SlimmingLoss,
    gating,
    magnitude_scores,
    opened,
    random_scores,
    taylor_scores,
)
from effir.data.examples import Example
from effir.training.losses import ranking_loss
from effir.training.trainer import Log, Schedule, fit


@dataclass(frozen=True)
class Scoring:
    """How channels are scored; ``l0_weight`` and ``sharpness`` are the paper's lambda and beta."""

    method: Literal["slimming", "taylor", "magnitude", "random", "none"]
    temperature: float
    l0_weight: float
    sharpness: float


def score_channels(
    model: SentenceTransformer,
    examples: Sequence[Example],
    scoring: Scoring,
    schedule: Schedule,
    checkpoints: Path,
    log: Log,
) -> ChannelScores:
    """Score the channels of every MLP that is left, in ``schedule.steps`` batches; the model stays as it was.

    The ranking task has in-batch negatives only: a hard negative would double the time of a step.
    """
    pairs = [replace(example, negatives=()) for example in examples]
    decoder = model[0].model
    if scoring.method == "random":
        return random_scores(decoder, schedule.seed)
    if scoring.method == "magnitude":
        return magnitude_scores(decoder, _tokenised(model, pairs, schedule))
    with gating(decoder) as gates:
        ranking = ranking_loss(model, scoring.temperature)
        if scoring.method == "taylor":
            return taylor_scores(gates, (ranking(columns, None) for columns in _columns(model, pairs, schedule)))
        loss = SlimmingLoss(ranking, list(gates.values()), scoring.l0_weight, scoring.sharpness)
        fit(model, pairs, loss, schedule, checkpoints, log)
        return opened(gates)


def _columns(
    model: SentenceTransformer, pairs: Sequence[Example], schedule: Schedule
) -> Iterator[tuple[dict[str, Tensor], dict[str, Tensor]]]:
    """Yield batches of (query, positive) features on the model's device, in an order that the seed decides."""
    order = random.Random(schedule.seed).sample(
        range(len(pairs)), min(len(pairs), schedule.steps * schedule.batch_size)
    )
    order.sort(key=lambda row: pairs[row].part)  # a batch is of one part of a mixture, but for those between two parts
    length, model.max_seq_length = model.max_seq_length, schedule.max_tokens
    try:
        for start in tqdm(range(0, len(order), schedule.batch_size), desc="score", unit=" batches", disable=None):
            batch = [pairs[i] for i in order[start : start + schedule.batch_size]]
            yield (
                _features(model, [pair.query for pair in batch], "query"),
                _features(model, [pair.positive for pair in batch], "document"),
            )
    finally:
        model.max_seq_length = length


def _tokenised(model: SentenceTransformer, pairs: Sequence[Example], schedule: Schedule) -> Iterator[dict[str, Tensor]]:
    for columns in _columns(model, pairs, schedule):
        for features in columns:
            yield {"input_ids": features["input_ids"], "attention_mask": features["attention_mask"]}


def _features(model: SentenceTransformer, texts: list[str], side: str) -> dict[str, Tensor]:
    features = model.preprocess(texts, prompt=model.prompts[side])
    return {k: v.to(model.device) if isinstance(v, torch.Tensor) else v for k, v in features.items()}
