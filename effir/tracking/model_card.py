"""What a person reads of a finished model: the result table of a run, and the model card of a version."""

from collections.abc import Mapping

from effir.params import Params
from effir.tracking.provenance import Origin

Figures = Mapping[str, float]
DROPPED = {"mlp": "MLPs", "attention": "attentions", "block": "blocks", "attention_or_mlp": "sublayers"}


def description(quality: Mapping[str, Figures], cost: Figures) -> str:
    """Say the main figures in a line, which lists of versions begin with, and lay all of them out below it."""
    name, figures = next(iter(quality.items()))
    line = (
        f"{figures['ndcg_at_10']:.3f} on {name}, {cost['kept_share']:.0%} kept, {cost['document_speedup']:.1f}x speed"
    )
    return f"{line}\n\n{result_table(quality, cost)}"


def result_table(quality: Mapping[str, Figures], cost: Figures) -> str:
    """Lay out quality, a row a set, and cost beside the base model, as Markdown; ``cost`` is ``metrics/cost.json``."""
    rows = [_quality_row(name, figures) for name, figures in quality.items()]
    return "\n".join(
        [
            "| set | nDCG@10 (95 % bounds) | Recall@100 | MRR@10 | BM25 nDCG@10 | queries |",
            "| --- | --- | --- | --- | --- | --- |",
            *rows,
            "",
            "| non-embedding parameters | FLOPs | documents | query | weights |",
            "| --- | --- | --- | --- | --- |",
            _cost_row(cost),
        ]
    )


def recipe(params: Params) -> str:
    """Say what the pipeline did to the base model, step by step; a stage that has nothing to do is not named."""
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
    variant: str, quality: Mapping[str, Figures], cost: Figures, origin: Origin, prompts: Mapping[str, str], made: str
) -> str:
    """Write a model card in the Hugging Face Hub's format, whose front matter holds the figures too.

    ``made`` is what :func:`recipe` says.
    """
    from huggingface_hub import EvalResult, ModelCardData

    data = ModelCardData(
        license=origin.licence.lower(),
        library_name="sentence-transformers",
        pipeline_tag="sentence-similarity",
        tags=["effir", "dense-retrieval", "feature-extraction", "sentence-transformers"],
        model_name=variant,
        eval_results=[
            EvalResult(
                task_type="information-retrieval",
                dataset_type=name,
                dataset_name=name,
                metric_type=metric,
                metric_value=figures[metric],
            )
            for name, figures in quality.items()
            for metric in ("ndcg_at_10", "recall_at_100")
        ],
    )
    return "\n".join(["---", data.to_yaml().strip(), "---", "", _body(variant, quality, cost, origin, prompts, made)])


def _body(
    variant: str, quality: Mapping[str, Figures], cost: Figures, origin: Origin, prompts: Mapping[str, str], made: str
) -> str:
    licences = "; ".join(f"{name}: {', '.join(found)}" for name, found in origin.data_licences.items())
    changed = f", with changes in {', '.join(origin.code.changed)}" if origin.code.changed else ""
    named = "; ".join(f"`{name}`: `{text}`" for name, text in prompts.items() if text) or "none"
    return f"""# {variant}

A dense retriever that [effir](https://arxiv.org/abs/2512.20612) made of `{origin.base}`: {made}.

{result_table(quality, cost)}

Speed is measured beside the base model in one process. Evaluated as BEIR does; every judged query counts.

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


def _quality_row(name: str, figures: Figures) -> str:
    middle, low, high = (figures[f"ndcg_at_10{end}"] for end in ("", "_low", "_high"))
    return (
        f"| {name} | **{middle:.3f}** ({low:.3f} to {high:.3f}) | {figures['recall_at_100']:.3f} "
        f"| {figures['mrr_at_10']:.3f} | {figures['bm25_ndcg_at_10']:.3f} | {figures['queries']:.0f} |"
    )


def _cost_row(cost: Figures) -> str:
    return (
        f"| {cost['parameters_without_embeddings'] / 1e6:.1f} M ({cost['kept_share']:.1%}) "
        f"| {cost['flops_speedup']:.2f} times fewer "
        f"| {cost['document_speedup']:.2f} times as fast | {cost['query_speedup']:.2f} times as fast "
        f"| {cost['bytes'] / 1e6:.0f} MB |"
    )
