"""What ``params.yaml`` may say: typed and checked; every error names the key and the fix."""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import Field, ValidationError

from effir.errors import EffirError
from effir.sections import (
    AnalyzeParams,
    CostParams,
    DataParams,
    DistillParams,
    EvaluateParams,
    FinetuneFullParams,
    FinetuneParams,
    IndexParams,
    ModelParams,
    PruneParams,
    RegisterParams,
    RetrieverParams,
    Section,
    TrackingParams,
    TrainingParams,
)

PARAMS = Path("params.yaml")
Scalar = str | int | float | bool


class Params(Section):
    """All of ``params.yaml``."""

    model: ModelParams
    data: DataParams
    training: TrainingParams
    finetune_full: FinetuneFullParams
    analyze: AnalyzeParams
    prune: PruneParams
    distill: DistillParams
    retriever: RetrieverParams
    finetune: FinetuneParams
    index: IndexParams
    evaluate: EvaluateParams
    cost: CostParams
    register_: RegisterParams = Field(alias="register")
    tracking: TrackingParams

    @property
    def self_distilled(self) -> bool:
        """Whether the fine-tuned uncompressed model is the teacher of the cut one, in place of training.teacher."""
        return self.finetune.self_distillation and self.finetune_full.steps > 0

    @property
    def mined_negatives(self) -> int:
        """How many of the mined negatives are read: none where none is trained with."""
        return self.data.negatives if self.training.negatives else 0

    @property
    def variant(self) -> str:
        """A short name of this recipe: ``d10-w0.75-s0``."""
        unfinished = "" if self.finetune.steps else "-not-finetuned"
        return f"d{self.prune.depth}-w{self.prune.width:.2f}-s{self.training.seed}{unfinished}"


def load_params(path: Path = PARAMS) -> Params:
    """Read and check ``params.yaml``; EffirError names the first wrong key, its value and the fix."""
    if not path.exists():
        raise EffirError(f"{path} is missing: run this in the project's root, or restore it by `git checkout {path}`")
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise EffirError(f"{path} is not YAML ({' '.join(str(error).split())}): correct it") from None
    except UnicodeDecodeError as error:
        raise EffirError(f"{path} is not UTF-8 text ({error.reason}): correct it") from None
    if values is None:  # what DVC leaves of it that is killed while it writes the settings of an experiment
        raise EffirError(f"{path} is empty: restore it by `git checkout {path}`")
    return check_params(values)


def check_params(values: Any) -> Params:
    """Turn plain values into Params; contradictions between sections are refused here too."""
    try:
        params = Params.model_validate(values)
    except ValidationError as error:
        raise EffirError(_sentence(error)) from None
    for contradiction in _contradictions(params):
        raise EffirError(contradiction)
    return params


def _contradictions(params: Params) -> list[str]:
    training, batch = params.training, max(params.finetune.batch_size, params.finetune_full.batch_size)
    sets = params.data.eval
    found = {
        "data.eval names a set `cost`, but metrics/cost.json is what measure_cost writes: give it another name": (
            "cost" in sets
        ),
        f"data.eval names a set twice ({', '.join(sets)}): name each once": len(set(sets)) < len(sets),
        f"analyze.drop_texts must be at most analyze.texts ({params.analyze.texts}), got {params.analyze.drop_texts}: "
        "lower it, or read more texts": params.analyze.drop_texts > params.analyze.texts,
        f"training.negatives must be at most data.negatives ({params.data.negatives}), got {training.negatives}: "
        "mine more or train with fewer": training.negatives > params.data.negatives,
        f"training.examples must be 0 or at least the batch_size of finetune and finetune_full ({batch}), got "
        f"{training.examples}, which cannot fill a batch: raise it": 0 < training.examples < batch,
        "training.miner is teacher, but training.teacher names none: name one, or mine by bm25": (
            training.miner == "teacher" and not training.teacher
        ),
        f"prune.method is none, but prune.width is {params.prune.width}: choose a method, or width 1.0": (
            params.prune.method == "none" and params.prune.width < 1
        ),
        "retriever.precision is int8, which the torch backend does not have: set retriever.backend to openvino": (
            params.retriever.precision == "int8" and params.retriever.backend != "openvino"
        ),
    }
    return [sentence for sentence, holds in found.items() if holds]


def _sentence(error: ValidationError) -> str:
    # Of a union (data.train) that is told which says more than that the value has the type of another member.
    first = min(error.errors(), key=lambda each: each["type"].endswith("_type"))
    where = tuple(str(part) for part in first["loc"] if not re.search(r"constrained-|\[", str(part)))
    key = ".".join(where) or "params.yaml"
    reason = str(first["ctx"]["error"]) if first["type"] == "value_error" else first["msg"]
    problem = reason if first["type"] == "value_error" else reason[0].lower() + reason[1:]
    if first["type"] == "extra_forbidden":
        return f"{key} is not a key of params.yaml: remove it or correct its name"
    if first["type"] == "missing":
        return f"{key} is missing from params.yaml: {_meaning(where)}"
    return f"{key}: {problem}, got {first['input']!r}; it is {_meaning(where)}"


def _meaning(where: Sequence[str]) -> str:
    section = next((f for n, f in Params.model_fields.items() if where and where[0] in (n, f.alias)), None)
    fields = getattr(section.annotation, "model_fields", {}) if section else {}
    field = fields.get(where[1]) if len(where) > 1 else None
    return (field.description if field else None) or "a section of settings"


def flatten(params: Mapping[str, Any]) -> dict[str, Scalar]:
    """Nested params to one level; lists, nulls and empty sections as JSON.

    >>> flatten({"prune": {"width": 0.7, "depth": 10}, "data": {"eval": ["apidocs"], "mirror": None}})
    {'prune.width': 0.7, 'prune.depth': 10, 'data.eval': '["apidocs"]', 'data.mirror': 'null'}
    """
    flat: dict[str, Scalar] = {}
    for key, value in params.items():
        if isinstance(value, Mapping) and value:
            flat |= {f"{key}.{inner}": leaf for inner, leaf in flatten(value).items()}
        else:
            flat[key] = value if isinstance(value, Scalar) else json.dumps(value, ensure_ascii=False, default=str)
    return flat


def same_text(value: object) -> str:
    """Turn equal values into equal texts, whether YAML, DVC or MLflow kept them.

    >>> same_text("5e-4") == same_text(0.0005), same_text(True) == same_text("True"), same_text(1) == same_text("one")
    (True, True, False)
    """
    try:
        return repr(float(str(value)))
    except ValueError:
        return str(value)
