"""What ``params.yaml`` may say: typed, checked, every error names the key and the remedy."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from effir.errors import EffirError

PARAMS = Path("params.yaml")

Share = Annotated[float, Field(gt=0, le=1)]
Positive = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(ge=1)]
Amount = Annotated[int, Field(ge=0)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]


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
    dev: Name = Field(description="the set on which choices are checked, a name as in data.eval")
    eval: Annotated[tuple[Name, ...], Field(min_length=1)] = Field(description="names of the sets to evaluate on")
    collections: dict[Name, str] = Field(description="own collections: a name and the source of a folder or zip")
    mirror: str = Field(description="the base address of the BEIR archives")


class TuneParams(Section):
    """How the full-size model becomes a retriever before it is cut."""

    steps: Amount = Field(description="optimiser steps at full size; 0 cuts the language model, as the paper does")
    batch_size: Annotated[int, Field(ge=2)] = Field(description="queries in a step, two or more: in-batch negatives")
    learning_rate: Positive = Field(description="the peak learning rate of the adapters")
    lora_rank: Count = Field(description="the rank of the adapters")


class AnalyzeParams(Section):
    """How the redundancy of sublayers is measured."""

    criterion: Literal["cosine", "final_state", "one_by_one"] = Field(description="cosine, final_state or one_by_one")
    drop_texts: Count = Field(description="calibration texts that final_state and one_by_one read for each candidate")
    drop_share: Share = Field(description="the share of the sublayers that one_by_one orders")
    texts: Count = Field(description="the number of calibration texts")
    max_tokens: Count = Field(description="the length at which a calibration text is cut, in tokens")
    batch_size: Count = Field(description="calibration texts in a forward pass")


class PruneParams(Section):
    """What is dropped, and how much of the rest is kept."""

    sublayer: Literal["mlp", "attention", "block", "either"] = Field(description="mlp, attention, block or either")
    depth: Amount = Field(description="the number of sublayers to drop")
    width: Share = Field(description="the share of the remaining MLP channels that is kept")
    method: Literal["slimming", "taylor", "magnitude", "random"] = Field(
        description="slimming, taylor, magnitude or random"
    )
    keep_gates: bool = Field(description="true or false: whether trained gates are folded into the weights")
    multiple_of: Count = Field(description="widths are rounded to a multiple of it, in channels")
    steps: Count = Field(description="steps of gate training, or of gradients for taylor, or of batches for magnitude")
    batch_size: Annotated[int, Field(ge=2)] = Field(description="training examples in a step, two or more")
    learning_rate: Positive = Field(description="the learning rate of the gates")
    l0_weight: Annotated[float, Field(ge=0)] = Field(description="lambda, the weight of the gates' L0 norm in the loss")
    sharpness: Positive = Field(description="beta, the sharpness of the sigmoid that relaxes the L0 norm")


class RestoreParams(Section):
    """How a model that lost sublayers is brought back near the tuned one, before it is slimmed."""

    steps: Amount = Field(description="optimiser steps; 0 restores nothing")
    batch_size: Annotated[int, Field(ge=2)] = Field(description="training pairs in a step, two or more")
    learning_rate: Positive = Field(description="the peak learning rate of the adapters")
    lora_rank: Count = Field(description="the rank of the adapters")


class RetrieverParams(Section):
    """How a text becomes a vector."""

    pooling: Literal["last", "mean", "base"] = Field(
        description="last (the appended EOS), mean, or base: as the base model, a retriever already, does"
    )
    query_prompt: str | None = Field(description="the text before each query; null: the base model's own")
    document_prompt: str | None = Field(description="the text before each document; null: the base model's own")
    max_tokens: Annotated[int, Field(ge=8)] = Field(description="the length at which a text is cut, in tokens")
    backend: Literal["torch", "openvino"] = Field(description="torch or openvino")
    precision: Literal["auto", "float32", "bfloat16", "int8"] = Field(description="auto, float32, bfloat16 or int8")
    max_drop: Annotated[float, Field(ge=0, lt=1)] = Field(
        description="points of nDCG@10, 0 to 1, that the openvino graph may lose on data.dev"
    )


class FinetuneParams(Section):
    """How the cut model is healed."""

    steps: Amount = Field(description="optimiser steps; 0 leaves the model unhealed")
    examples: Amount = Field(description="training queries that are used; 0 uses all")
    batch_size: Annotated[int, Field(ge=2)] = Field(description="queries in a step, two or more: in-batch negatives")
    mini_batch: Amount = Field(description="texts of which activations are held at a time; 0 holds the whole batch")
    negatives: Annotated[int, Field(ge=0, le=32)] = Field(description="hard negatives a query, at most data.negatives")
    learning_rate: Positive = Field(description="the peak learning rate of the adapters")
    warmup: Annotated[float, Field(ge=0, lt=1)] = Field(description="the share of steps in which the rate rises")
    temperature: Positive = Field(description="the temperature of InfoNCE")
    teacher: str = Field(description='the source of a teacher, e.g. hub:… or wheel:…, or "" for none')
    teacher_weight: Annotated[float, Field(ge=0)] = Field(description="the weight of the teacher's term in the loss")
    teacher_temperature: Positive = Field(description="what the teacher's scores are divided by")
    own_teacher: bool = Field(description="true or false: whether the tuned model, if there is one, is the teacher")
    own_vectors: Annotated[float, Field(ge=0)] = Field(
        description="the weight of the distance to the tuned model's vectors, where it is the teacher"
    )
    miner: Literal["bm25", "teacher"] = Field(description="bm25 or teacher, which must be a bi-encoder then")
    teacher_margin: float = Field(description="how far below the positive a hard negative must lie by the teacher")
    lora_rank: Count = Field(description="the rank of the adapters")
    lora_scaling: Positive = Field(description="alpha / rank of all adapters")
    lora_dropout: Annotated[float, Field(ge=0, lt=1)] = Field(description="dropout before the adapters")
    max_tokens: Annotated[int, Field(ge=8)] = Field(description="the length at which a training text is cut, in tokens")
    precision: Literal["auto", "float32", "bfloat16"] = Field(description="auto, float32 or bfloat16")
    checkpoint_every: Count = Field(description="steps between two checkpoints")
    seed: Amount = Field(description="a whole number")


class IndexParams(Section):
    """How documents are encoded and indexed."""

    factory: str = Field(description="a FAISS index factory string such as Flat, HNSW32 or IVF256,PQ64")
    batch_tokens: Count = Field(description="tokens in a forward pass, padding included")
    shard_size: Count = Field(description="documents in a shard of vectors, the unit of resuming")


class EvaluateParams(Section):
    """How search is judged."""

    depth: Annotated[int, Field(ge=100)] = Field(description="results a query, 100 or more: recall@100 needs them")
    bootstrap: Count = Field(description="resamplings for the bounds of nDCG@10")
    seed: Amount = Field(description="a whole number")


class CostParams(Section):
    """How cost is measured."""

    documents: Count = Field(description="documents that are timed")
    queries: Count = Field(description="queries that are timed, one at a time")
    batch_size: Count = Field(description="documents in a forward pass")
    rounds: Count = Field(description="alternations between the base model and the retriever")


class RegisterParams(Section):
    """Where the result is kept."""

    name: Name = Field(description="the registered model")
    alias: Name = Field(description="the alias that the new version gets")
    version: bool = Field(description="true or false: whether a version is registered, not only the run completed")
    max_drop: Annotated[float, Field(ge=0, lt=1)] = Field(description="points of nDCG@10, 0 to 1, that may be lost")
    min_speedup: Annotated[float, Field(ge=0)] = Field(
        description="the least speed-up on documents over the base model"
    )
    max_kept_share: Share = Field(description="the largest share of the base model's parameters to keep")


class TrackingParams(Section):
    """How much a run depends on MLflow."""

    required: bool = Field(description="true or false: whether a stage refuses to start while the store is away")


class Params(Section):
    """All of ``params.yaml``, one section a stage reads."""

    model: ModelParams
    data: DataParams
    tune: TuneParams
    analyze: AnalyzeParams
    prune: PruneParams
    restore: RestoreParams
    retriever: RetrieverParams
    finetune: FinetuneParams
    index: IndexParams
    evaluate: EvaluateParams
    cost: CostParams
    register_: RegisterParams = Field(alias="register")
    tracking: TrackingParams

    @property
    def taught_by_own(self) -> bool:
        """Whether the tuned model teaches what is left of it, in place of finetune.teacher."""
        return self.finetune.own_teacher and self.tune.steps > 0

    @property
    def mined_negatives(self) -> int:
        """How many of the mined negatives are looked at: none where none is trained with."""
        return self.data.negatives if self.finetune.negatives else 0

    @property
    def variant(self) -> str:
        """A short name of what sets this pipeline apart: ``d10-w0.75-s0``."""
        unhealed = "" if self.finetune.steps else "-unhealed"
        return f"d{self.prune.depth}-w{self.prune.width:.2f}-s{self.finetune.seed}{unhealed}"


def load_params(path: Path = PARAMS) -> Params:
    """Read and check ``params.yaml``; EffirError names the first wrong key, its value and the remedy."""
    if not path.exists():
        raise EffirError(f"{path} is missing: run this in the project's root, or restore it by `git checkout {path}`")
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise EffirError(f"{path} is not YAML ({' '.join(str(error).split())}): mend it") from None
    if values is None:  # what DVC leaves of it that is killed while it writes the settings of an experiment
        raise EffirError(f"{path} is empty: restore it by `git checkout {path}`")
    return check_params(values)


def check_params(values: Any) -> Params:
    """Turn plain values into Params; contradictions between sections die here too."""
    try:
        params = Params.model_validate(values)
    except ValidationError as error:
        raise EffirError(_sentence(error)) from None
    if params.finetune.negatives > params.data.negatives:
        raise EffirError(
            f"finetune.negatives must be at most data.negatives ({params.data.negatives}), "
            f"got {params.finetune.negatives}: mine more or train with fewer"
        )
    batch = max(params.finetune.batch_size, params.tune.batch_size)
    if 0 < params.finetune.examples < batch:
        raise EffirError(
            f"finetune.examples must be 0 or at least the batch_size of finetune and tune ({batch}), "
            f"got {params.finetune.examples}, which cannot fill a batch: raise it"
        )
    if params.finetune.miner == "teacher" and not params.finetune.teacher:
        raise EffirError("finetune.miner is teacher, but finetune.teacher names none: name one, or mine by bm25")
    if params.retriever.precision == "int8" and params.retriever.backend != "openvino":
        raise EffirError(
            "retriever.precision is int8, which the torch backend does not have: set retriever.backend to openvino"
        )
    return params


def _sentence(error: ValidationError) -> str:
    first = error.errors()[0]
    where = tuple(str(part) for part in first["loc"])
    key = ".".join(where) or "params.yaml"
    problem = first["msg"][0].lower() + first["msg"][1:]
    if first["type"] == "extra_forbidden":
        return f"{key} is not a key of params.yaml: remove it or mend its name"
    if first["type"] == "missing":
        return f"{key} is missing from params.yaml: {_meaning(where)}"
    return f"{key}: {problem}, got {first['input']!r}; it is {_meaning(where)}"


def _meaning(where: Sequence[str]) -> str:
    section = next((f for n, f in Params.model_fields.items() if where and where[0] in (n, f.alias)), None)
    fields = getattr(section.annotation, "model_fields", {}) if section else {}
    field = fields.get(where[1]) if len(where) > 1 else None
    return (field.description if field else None) or "a section of settings"
