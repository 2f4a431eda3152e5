"""Measure: score every MLP channel by slimming, Taylor, magnitude or at random, through one interface."""

import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.util import batch_to_device
from torch import Tensor, nn
from tqdm import tqdm

from effir.compress.channels import ChannelScores
from effir.compress.gates import SlimmingLoss, down_projections, gate_scores, gating
from effir.data.examples import Example
from effir.training.losses import ranking_loss
from effir.training.trainer import Job, Schedule, fit

Features = dict[str, Tensor]


@dataclass(frozen=True)
class Scoring:
    """How channels are scored; ``l0_weight`` and ``sharpness`` are the paper's lambda and beta."""

    method: Literal["slimming", "taylor", "magnitude", "random", "none"]
    temperature: float
    l0_weight: float
    sharpness: float


def score_channels(model: SentenceTransformer, examples: list[Example], scoring: Scoring, job: Job) -> ChannelScores:
    """Score the channels of every remaining MLP in ``job.schedule.steps`` batches, without changing the model.

    The ranking loss uses in-batch negatives only: a hard negative would double the time of a step.
    """
    schedule = job.schedule
    pairs = [replace(example, negatives=()) for example in examples]
    decoder = model[0].model
    if scoring.method == "random":
        generator = torch.Generator().manual_seed(schedule.seed)
        widths = {layer: projection.in_features for layer, projection in down_projections(decoder).items()}
        return {layer: torch.rand(width, generator=generator) for layer, width in widths.items()}
    if scoring.method == "magnitude":
        return magnitude_scores(decoder, (side for columns in _batches(model, pairs, schedule) for side in columns))
    with gating(decoder) as gates:
        ranking = ranking_loss(model, scoring.temperature)
        if scoring.method == "taylor":
            return taylor_scores(gates, (ranking(columns, None) for columns in _batches(model, pairs, schedule)))
        loss = SlimmingLoss(ranking, list(gates.values()), scoring.l0_weight, scoring.sharpness)
        fit(model, pairs, loss, job)
        return gate_scores(gates)


def taylor_scores(gates: Mapping[int, nn.Parameter], losses: Iterable[Tensor]) -> ChannelScores:
    """Sum over batches of |dLoss/dz| at z = 1: the first-order change of the loss when a channel is removed.

    (Molchanov et al., 2019, "Importance Estimation for Neural Network Pruning".) Scores are on the CPU.
    """
    scores = {layer: torch.zeros_like(gate) for layer, gate in gates.items()}
    for loss in losses:
        gradients = torch.autograd.grad(loss, list(gates.values()))
        for layer, gradient in zip(gates, gradients, strict=True):
            scores[layer] += gradient.abs()
    return {layer: score.cpu() for layer, score in scores.items()}


@torch.inference_mode()
def magnitude_scores(model: nn.Module, batches: Iterable[Mapping[str, Tensor]]) -> ChannelScores:
    """Norm of a channel's ``down_proj`` column times the root mean square of its activation, padding excluded.

    (Sun et al., 2024, "Wanda", applied to channels.) A batch holds ``input_ids`` and ``attention_mask``.
    """
    projections = down_projections(model)
    squares = {layer: torch.zeros(p.in_features, dtype=torch.float64) for layer, p in projections.items()}
    mask, tokens = torch.zeros(()), 0

    def add(layer: int, module: Any, args: tuple[Tensor, ...]) -> None:
        squares[layer] += (args[0] * mask.unsqueeze(-1)).double().pow(2).sum(dim=(0, 1)).cpu()

    with ExitStack() as hooks:
        for layer, projection in projections.items():
            hooks.enter_context(projection.register_forward_pre_hook(partial(add, layer)))
        for batch in batches:
            mask = batch["attention_mask"].float()
            tokens += int(mask.sum())
            model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"])
    return {
        layer: (projection.weight.double().norm(dim=0).cpu() * (squares[layer] / max(tokens, 1)).sqrt()).float()
        for layer, projection in projections.items()
    }


def _batches(model: SentenceTransformer, pairs: Sequence[Example], schedule: Schedule) -> Iterator[list[Features]]:
    """Yield batches of (query, positive) features on the model's device, in an order given by the seed.

    A batch holds each text once, as in training, so it may be smaller than ``batch_size`` at the end.
    """
    count = min(len(pairs), schedule.steps * schedule.batch_size)
    order = random.Random(schedule.seed).sample(range(len(pairs)), count)
    order.sort(key=lambda row: pairs[row].part)  # a batch is of one part of a mixture, except between two parts
    length, model.max_seq_length = model.max_seq_length, schedule.max_tokens
    try:
        batches = list(without_duplicates([pairs[i] for i in order], schedule.batch_size))
        for batch in tqdm(batches, desc="score", unit=" batches", disable=None):
            sides = {"query": [pair.query for pair in batch], "document": [pair.positive for pair in batch]}
            tokenised = [model.preprocess(texts, prompt=model.prompts[side]) for side, texts in sides.items()]
            yield [batch_to_device(features, model.device) for features in tokenised]
    finally:
        model.max_seq_length = length


def without_duplicates(pairs: Sequence[Example], size: int) -> Iterator[list[Example]]:
    """Yield batches of up to ``size`` pairs in order; a pair that shares a text with its batch waits for the next."""
    waiting = list(pairs)
    while waiting:
        batch, texts, later = list[Example](), set[str](), list[Example]()
        for pair in waiting:
            own = {pair.query, pair.positive}
            fits = len(batch) < size and not own & texts
            (batch if fits else later).append(pair)
            texts |= own if fits else set()
        yield batch
        waiting = later
