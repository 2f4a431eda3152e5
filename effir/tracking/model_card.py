"""What a person reads of a finished model: the result table of a run, the model card of a version, its origin."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from effir.evaluation.baselines import baselines_in, title
from effir.files import read_json
from effir.params import Params
from effir.tracking.runs import HEAD, git

# With the params, which every version carries, this code decides what the pipeline makes.
CODE = ("effir", "stages", "dvc.yaml", "pyproject.toml", "constraints.txt")
Metrics = Mapping[str, float]
DROPPED = {"mlp": "MLPs", "attention": "attentions", "block": "blocks", "attention_or_mlp": "sublayers"}


@dataclass(frozen=True)
class GitState:
    """The commit of the code (``none`` outside git), and the files that differ from that commit."""

    revision: str
    changed: tuple[str, ...]


@dataclass(frozen=True)
class Origin:
    """What a model was made of: the base model's source and licence, the data's licences by set, the code.

    ``teacher`` is the source of the teacher model, if there was one. ``self_distilled`` says that the teacher's scores
    trained the uncompressed model, and that model's scores the cut one.
    """

    base: str
    licence: str
    data_licences: Mapping[str, Sequence[str]]
    code: GitState
    teacher: str = ""
    self_distilled: bool = False

    def tags(self) -> dict[str, str]:
        """Return it flat, as tags of a model version."""
        return {
            "model.base": self.base,
            "training.teacher": self.teacher or "none",
            "finetune.self_distillation": str(self.self_distilled).lower(),
            "licences": json.dumps({"model": self.licence, **{k: ", ".join(v) for k, v in self.data_licences.items()}}),
            "git.revision": self.code.revision,
            "git.dirty": str(bool(self.code.changed)).lower(),
        }


def description(quality: Mapping[str, Metrics], cost: Metrics) -> str:
    """Write the main metrics as one line, which lists of versions show, and all of them as tables below it."""
    name, metrics = next(iter(quality.items()))
    line = (
        f"{metrics['ndcg_at_10']:.3f} on {name}, {cost['kept_share']:.0%} kept, {cost['document_speedup']:.1f}x speed"
    )
    return f"{line}\n\n{result_table(quality, cost)}"


def result_table(quality: Mapping[str, Metrics], cost: Metrics) -> str:
    """Write quality, a row for each set, and cost as Markdown tables; ``cost`` is ``metrics/cost.json``.

    The baselines have a column of quality each, and those that were timed a row of cost.
    """
    baselines = baselines_in(*quality.values())
    heads = "".join(f" {title(name)} nDCG@10 |" for name in baselines)
    rows = "\n".join(_quality_row(name, metrics, baselines) for name, metrics in quality.items())
    timed = "".join(_cost_row(name, cost) for name in baselines if f"{name}_bytes" in cost)
    return f"""| set | nDCG@10 (95 % bounds) | Recall@100 | MRR@10 |{heads} queries |
| --- | --- | --- | --- |{" --- |" * len(baselines)} --- |
{rows}

| model | non-embedding parameters | FLOPs | documents | query | weights |
| --- | --- | --- | --- | --- | --- |
| this retriever | {cost["parameters_without_embeddings"] / 1e6:.1f} M ({cost["kept_share"]:.1%}) \
| {cost["flops_speedup"]:.2f} times fewer \
| {cost["document_speedup"]:.2f} times as fast | {cost["query_speedup"]:.2f} times as fast \
| {cost["bytes"] / 1e6:.0f} MB |{timed}"""


def recipe(params: Params) -> str:
    """Say what the pipeline did to the base model, step by step; a stage that did nothing is not named."""
    prune, teacher = params.prune, f"`{params.training.teacher}`" if params.training.teacher else ""
    last = "its uncompressed model" if params.self_distilled else teacher
    by_teacher, by_last = (f", distilled from {source}" if source else "" for source in (teacher, last))
    steps = {
        f"fine-tuned uncompressed for {params.finetune_full.steps} steps{by_teacher}": params.finetune_full.steps > 0,
        f"{prune.depth} {DROPPED[params.analyze.sublayer]} dropped": prune.depth > 0,
        f"hidden states distilled for {params.distill.steps} steps": prune.depth > 0 and params.distill.steps > 0,
        f"{prune.width:.0%} of its MLP channels kept": prune.width < 1,
        f"fine-tuned for {params.finetune.steps} steps{by_last}": params.finetune.steps > 0,
    }
    return "; ".join(step for step, done in steps.items() if done) or "nothing was cut or trained"


def model_card(
    variant: str, quality: Mapping[str, Metrics], cost: Metrics, origin: Origin, prompts: Mapping[str, str], made: str
) -> str:
    """Write a model card in the Hugging Face Hub's format, metrics in its front matter; ``made`` is the recipe."""
    licences = "; ".join(f"{name}: {', '.join(found)}" for name, found in origin.data_licences.items())
    changed = f", with changes in {', '.join(origin.code.changed)}" if origin.code.changed else ""
    named = "; ".join(f"`{name}`: `{text}`" for name, text in prompts.items() if text) or "none"
    return f"""---
{_front_matter(variant, quality, origin.licence)}
---

# {variant}

A dense retriever that [effir](https://arxiv.org/abs/2512.20612) made from `{origin.base}`: {made}.

{result_table(quality, cost)}

Speed is measured beside the base model in one process, all in float32. Evaluated as BEIR
does; every query of the qrels counts.

```python
from sentence_transformers import SentenceTransformer

retriever = SentenceTransformer("<this folder>", trust_remote_code=True)
queries = retriever.encode(["smooth a noisy signal"], prompt_name="query")
documents = retriever.encode(["a document"])
print(retriever.similarity(queries, documents))
```

- Prompts: {named}
- Licence of the base model: {origin.licence}
- Licences of the data: {licences}
- Code: git {origin.code.revision}{changed}
"""


def _front_matter(variant: str, quality: Mapping[str, Metrics], licence: str) -> str:
    from huggingface_hub import EvalResult, ModelCardData

    data = ModelCardData(
        license=licence.lower(),
        library_name="sentence-transformers",
        pipeline_tag="sentence-similarity",
        tags=["effir", "dense-retrieval", "feature-extraction", "sentence-transformers"],
        model_name=variant,
        eval_results=[
            EvalResult("information-retrieval", name, name, metric, metrics[metric])
            for name, metrics in quality.items()
            for metric in ("ndcg_at_10", "recall_at_100")
        ],
    )
    return str(data.to_yaml().strip())


def _cost_row(name: str, cost: Metrics) -> str:
    return (
        f"\n| {name} | {cost[f'{name}_parameters_without_embeddings'] / 1e6:.1f} M | "
        f"| {cost[f'{name}_document_speedup']:.2f} times as fast | {cost[f'{name}_query_speedup']:.2f} times as fast "
        f"| {cost[f'{name}_bytes'] / 1e6:.0f} MB |"
    )


def _quality_row(name: str, metrics: Metrics, baselines: Sequence[str]) -> str:
    theirs = "".join(f" {metrics[f'{baseline}_ndcg_at_10']:.3f} |" for baseline in baselines)
    middle, low, high = (metrics[f"ndcg_at_10{end}"] for end in ("", "_low", "_high"))
    return (
        f"| {name} | **{middle:.3f}** ({low:.3f} to {high:.3f}) | {metrics['recall_at_100']:.3f} "
        f"| {metrics['mrr_at_10']:.3f} |{theirs} {metrics['queries']:.0f} |"
    )


def git_state(root: Path) -> GitState:
    """Read the git state of the code under ``root``; params, documents and outputs of the pipeline are not code."""
    revision = git(root, *HEAD).strip()
    listing = git(root, "status", "--porcelain", "--no-renames", "-z", "--", *CODE)
    return GitState(revision or "none", tuple(sorted(entry[3:] for entry in listing.split("\0") if entry)))


def licences_of(folders: Iterable[Path]) -> dict[str, list[str]]:
    """Map each folder's name to the licences in its ``SOURCES.json``, a list of objects; ``not stated`` without it."""
    files = {folder.name: folder / "SOURCES.json" for folder in folders}
    sources = {name: read_json(file) if file.exists() else [{}] for name, file in files.items()}
    return {name: sorted({str(each.get("licence", "not stated")) for each in found}) for name, found in sources.items()}
