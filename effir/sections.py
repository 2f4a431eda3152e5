"""The sections of ``params.yaml``: every key, its type, and what it means."""

import re
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

Share = Annotated[float, Field(gt=0, le=1)]
Points = Annotated[float, Field(ge=0, lt=1)]
Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
Count = Annotated[int, Field(ge=1)]
Amount = Annotated[int, Field(ge=0)]
Batch = Annotated[int, Field(ge=2)]
Tokens = Annotated[int, Field(ge=8)]
NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]*$"
Name = Annotated[str, Field(pattern=NAME)]
RESERVED = ("bm25", "effir", "uncompressed", "base", "cut", "served", "usual")


def _alias(text: str) -> str:
    """Return what MLflow takes as an alias, and what `effir promote` does not set itself."""
    if not re.fullmatch(r"[A-Za-z0-9_-]+", text):
        raise ValueError("MLflow takes letters, digits, _ and - in an alias")
    if text.lower() == "latest" or re.fullmatch(r"[vV]\d+", text):
        raise ValueError("MLflow reserves `latest`, and `v` with a number, for itself")
    if text in ("champion", "previous"):
        raise ValueError("`effir promote` alone sets champion and previous")
    return text


def _prompt(text: str) -> str:
    """Refuse what a prompt becomes by DVC's ``-S``, which keeps the two characters of an escaped line break."""
    if found := re.search(r"\\[nrt]", text):
        fix = "write the character itself: in double quotes in params.yaml, in a shell as -S $'key=\"a\\nb\"'"
        raise ValueError(f"it holds the two characters {found[0]}, {fix}")
    if "${" in text:
        raise ValueError("it holds ${, which DVC takes for a reference to another setting: write it otherwise")
    return text


def _baseline(name: str) -> str:
    """Refuse names whose metrics would be those of another system."""
    if name.lower() in RESERVED:
        raise ValueError(f"{', '.join(RESERVED)} name other systems: choose another name")
    if name.endswith(("_low", "_high")):
        raise ValueError("metrics that end in _low and _high are bounds: choose another name")
    return name


Alias = Annotated[str, AfterValidator(_alias)]
BaselineName = Annotated[Name, AfterValidator(_baseline)]
Prompt = Annotated[str, AfterValidator(_prompt)]

BATCH = "queries in a batch, two or more: the others' documents are the negatives"
RATE = "the peak learning rate"
RANK = "the rank of the adapters, 0 to train the weights themselves"


class Section(BaseModel):
    """A section of ``params.yaml``: unknown keys are refused, values are coerced (``-S lr=1e-5`` arrives as text)."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class ModelParams(Section):
    """The language model to compress."""

    base: str = Field(description="a source: hub:<id>@<revision>, wheel:<package>==<version>/<path>, a URL or a path")
    licence: str = Field(description="its licence, as an SPDX identifier; `unknown` where none is stated")


class DataParams(Section):
    """What to calibrate, train and evaluate on."""

    train: Name | Annotated[dict[Name, Positive], Field(min_length=1)] = Field(
        description="apidocs, a BEIR set with a train split, a name of data.collections, or several with their weights"
    )
    negatives: Annotated[int, Field(ge=1, le=32)] = Field(description="hard negatives mined for each training query")
    calibration: str = Field(description="train, a name of data.collections, or the source of JSON lines with `text`")
    dev: Name = Field(description="the set by which settings are chosen, a name as in data.eval")
    eval: Annotated[tuple[Name, ...], Field(min_length=1)] = Field(description="names of the sets to evaluate on")
    collections: dict[Name, str] = Field(description="own collections: a name and the source of a folder or zip")
    mirror: str = Field(description="the base address of the BEIR archives")


class TrainingParams(Section):
    """What all trainings share."""

    examples: Amount = Field(description="training queries that are used; 0 uses all")
    negatives: Annotated[int, Field(ge=0, le=32)] = Field(description="hard negatives a query, at most data.negatives")
    max_tokens: Tokens = Field(description="the length at which a training text is truncated, in tokens")
    mini_batch: Amount = Field(description="texts whose activations are held at a time; 0 holds the whole batch")
    temperature: Positive = Field(description="the temperature of InfoNCE")
    warmup: Points = Field(description="the share of the steps in which the learning rate rises")
    lora_scaling: Positive = Field(description="alpha / rank of all adapters")
    lora_dropout: Points = Field(description="dropout before the adapters")
    teacher: str = Field(description='the source of a teacher, e.g. hub:… or wheel:…, or "" for none')
    teacher_weight: NotNegative = Field(description="the weight of the KL divergence from the teacher's scores")
    similarity_weight: NotNegative = Field(description="the weight of a bi-encoder's similarities between all texts")
    teacher_temperature: Positive = Field(description="what the teacher's scores are divided by")
    teacher_margin: float = Field(description="how far below the positive the teacher must score a hard negative")
    miner: Literal["bm25", "teacher"] = Field(description="bm25 or teacher, which must be a bi-encoder then")
    precision: Literal["auto", "float32", "bfloat16"] = Field(description="auto, float32 or bfloat16")
    checkpoint_every: Count = Field(description="steps between two checkpoints")
    seed: Amount = Field(description="a whole number")


class FinetuneFullParams(Section):
    """How the uncompressed model becomes a retriever before it is cut."""

    steps: Amount = Field(description="optimiser steps; 0 cuts the language model, as the paper does")
    batch_size: Batch = Field(description=BATCH)
    learning_rate: Positive = Field(description=RATE)
    lora_rank: Amount = Field(description=RANK)


class AnalyzeParams(Section):
    """How the redundancy of sublayers is measured."""

    sublayer: Literal["mlp", "attention", "block", "attention_or_mlp"] = Field(
        description="mlp, attention, block or attention_or_mlp: the kind of sublayer to rank and to drop"
    )
    criterion: Literal["cosine", "leave_one_out", "greedy"] = Field(description="cosine, leave_one_out or greedy")
    drop_texts: Count = Field(description="calibration texts that leave_one_out and greedy read for each candidate")
    drop_share: Share = Field(description="the share of the sublayers that greedy ranks")
    texts: Count = Field(description="the number of calibration texts")
    max_tokens: Count = Field(description="the length at which a calibration text is truncated, in tokens")
    batch_size: Count = Field(description="calibration texts in a forward pass")


class PruneParams(Section):
    """How many sublayers are dropped, and how much of the remaining MLPs is kept."""

    depth: Amount = Field(description="the number of sublayers to drop")
    width: Share = Field(description="the share of the remaining MLP channels that is kept")
    method: Literal["slimming", "taylor", "magnitude", "random", "none"] = Field(
        description="slimming, taylor, magnitude, random, or none with width 1.0"
    )
    keep_gates: bool = Field(description="true or false: whether trained gates are folded into the weights")
    multiple_of: Count = Field(description="widths are rounded to a multiple of it, in channels")
    steps: Count = Field(description="steps of gate training, or batches that taylor and magnitude read")
    batch_size: Batch = Field(description="training examples in a batch, two or more")
    learning_rate: Positive = Field(description="the learning rate of the gates")
    l0_weight: NotNegative = Field(description="lambda, the weight of the gates' L0 norm in the loss")
    sharpness: Positive = Field(description="beta, the sharpness of the sigmoid that relaxes the L0 norm")


class DistillParams(Section):
    """How a model that lost sublayers learns the hidden states of the uncompressed one."""

    steps: Amount = Field(description="optimiser steps; 0 distils nothing")
    batch_size: Batch = Field(description="training pairs in a batch, two or more")
    learning_rate: Positive = Field(description=RATE)
    lora_rank: Amount = Field(description=RANK)


class RetrieverParams(Section):
    """How a text becomes a vector."""

    pooling: Literal["last", "mean", "base"] = Field(
        description="last (the appended EOS), mean, or base: as the base model, a retriever already, does"
    )
    query_prompt: Prompt | None = Field(description="the text before each query; null: the base model's own")
    document_prompt: Prompt | None = Field(description="the text before each document; null: the base model's own")
    max_tokens: Tokens = Field(description="the length at which a text is truncated, in tokens")
    backend: Literal["torch", "openvino"] = Field(description="torch or openvino")
    precision: Literal["auto", "float32", "bfloat16", "int8"] = Field(description="auto, float32, bfloat16 or int8")
    max_drop: Points = Field(description="points of nDCG@10, 0 to 1, that the openvino graph may lose on data.dev")
    vocabulary: Literal["all", "train"] = Field(description="all, or train: tokens that data.train and data.dev use")


class FinetuneParams(Section):
    """The last training, of the cut model."""

    steps: Amount = Field(description="optimiser steps; 0 leaves the model as it was cut")
    batch_size: Batch = Field(description=BATCH)
    learning_rate: Positive = Field(description=RATE)
    lora_rank: Amount = Field(description=RANK)
    self_distillation: bool = Field(description="true or false: whether the uncompressed model is the teacher")
    vector_weight: NotNegative = Field(description="the weight of the distance to the uncompressed model's vectors")


class IndexParams(Section):
    """How documents are encoded and indexed."""

    factory: str = Field(description="a FAISS index factory string such as Flat, HNSW32 or IVF256,PQ64")
    batch_tokens: Count = Field(description="tokens in a forward pass, padding included")
    shard_size: Count = Field(description="documents in a shard of vectors, the unit of resuming")


class EvaluateParams(Section):
    """How search is scored."""

    depth: Annotated[int, Field(ge=100)] = Field(description="results a query, 100 or more: recall@100 needs them")
    bootstrap: Count = Field(description="bootstrap samples for the interval of nDCG@10")
    seed: Amount = Field(description="a whole number")
    baselines: dict[BaselineName, Annotated[str, Field(min_length=1)]] = Field(
        description="a name and the source of a sentence-transformers folder each; {} compares with BM25 alone"
    )


class CostParams(Section):
    """How speed is measured."""

    documents: Count = Field(description="documents that are timed")
    queries: Count = Field(description="queries that are timed, one at a time")
    batch_size: Count = Field(description="documents in a forward pass")
    rounds: Count = Field(description="alternations between the base model and the retriever")


class RegisterParams(Section):
    """Where the result is kept, and what promotes it."""

    name: Name = Field(description="the registered model")
    alias: Alias = Field(description="the alias that the new version gets")
    version: bool = Field(description="true or false: whether a version is registered, not only the run completed")
    max_drop: Points = Field(description="points of nDCG@10, 0 to 1, that may be lost")
    min_speedup: NotNegative = Field(description="the least speed-up on documents over the base model")
    max_kept_share: Share = Field(description="the largest share of the base model's parameters to keep")


class TrackingParams(Section):
    """How much a run depends on MLflow."""

    required: bool = Field(description="true or false: whether a stage refuses to start while the store is away")
