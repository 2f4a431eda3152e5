"""What a dropped sublayer's mean output, left in its place, is worth before anything is healed."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import click
import torch
from sentence_transformers import SentenceTransformer
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity

from benchmarks.outsiders import quality_of
from benchmarks.table import save
from effir.compress.importance import measure_importance
from effir.compress.loading import token_batches
from effir.compress.order import order_by_score
from effir.compress.shape import Sublayer, shape_of
from effir.data.beir import open_collection
from effir.data.calibration import load_calibration
from effir.files import require
from effir.params import load_params
from effir.precision import Precision, uses_bfloat16
from effir.retriever import build_retriever, encode_documents, encode_queries
from stages.paths import CALIBRATION, DEV, TUNED
from stages.settings import retriever_settings

KINDS: tuple[Sublayer, ...] = ("mlp", "block")
BATCH = 16
Batches = Sequence[Mapping[str, Tensor]]


class InPlaceOf(nn.Module):
    """Gives a constant, (hidden,), instead of a dropped MLP's output; of a block's, added to its input."""

    def __init__(self, constant: Tensor, kind: Sublayer) -> None:
        super().__init__()
        self.constant, self.kind = constant, kind

    def forward(self, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Return (batch, tokens, hidden)."""
        return self.constant + (hidden_states if self.kind == "block" else torch.zeros_like(hidden_states))


def mean_outputs(model: Any, batches: Batches, kind: Sublayer) -> list[Tensor]:
    """Return by layer what the sublayers add to the stream, the mean over all real tokens: (hidden,) each."""
    sums = [torch.zeros(model.config.hidden_size, dtype=torch.float64) for _ in model.layers]
    real, tokens = torch.empty(0), 0

    def see(layer: int, module: Any, args: tuple[Any, ...], output: Any) -> None:
        added = output - args[0] if kind == "block" else output
        sums[layer] += added[real].double().sum(dim=0)

    seen = [layer if kind == "block" else layer.mlp for layer in model.layers]
    hooks = [module.register_forward_hook(partial(see, i)) for i, module in enumerate(seen)]
    for batch in batches:
        real = batch["attention_mask"].bool()
        tokens += int(real.sum())
        model(**batch, use_cache=False)
    for hook in hooks:
        hook.remove()
    return [(each / tokens).float() for each in sums]


@contextmanager
def without(model: Any, kind: Sublayer, layers: Sequence[int], constants: Sequence[Tensor]) -> Iterator[None]:
    """Put constants in the place of some sublayers for a while."""
    blocks, mlps = list(model.layers), [layer.mlp for layer in model.layers]
    for layer in layers:
        instead = InPlaceOf(constants[layer], kind)
        if kind == "block":
            model.layers[layer] = instead
        else:
            model.layers[layer].mlp = instead
    yield
    for layer, (block, mlp) in enumerate(zip(blocks, mlps, strict=True)):
        model.layers[layer] = block
        block.mlp = mlp


def final_states(model: Any, batches: Batches) -> Tensor:
    """Return the final hidden states of all real tokens, (tokens, hidden)."""
    found = (model(**batch, use_cache=False).last_hidden_state[batch["attention_mask"].bool()] for batch in batches)
    return torch.cat(list(found))


@click.command()
@click.option("--depth", "depths", multiple=True, type=int, default=(2, 5, 10), show_default=True)
def main(depths: Sequence[int]) -> None:
    """Drop MLPs and blocks out of models/tuned by cosine: nothing in their place, or their mean output."""
    params = load_params()
    retriever = build_retriever(require(TUNED, made_by="tune"), **retriever_settings(params))
    model: Any = retriever[0].model.eval()
    texts = load_calibration(require(CALIBRATION, made_by="download"), 2 * params.analyze.texts)
    batched = partial(token_batches, retriever.tokenizer, max_tokens=params.analyze.max_tokens, batch_size=BATCH)
    seen, held_out = (list(batched(part)) for part in (texts[: params.analyze.texts], texts[params.analyze.texts :]))
    found = partial(dev_ndcg, retriever, params.finetune.precision)
    rows = []
    with torch.inference_mode():
        importance, whole, all_of_it = measure_importance(model, seen), final_states(model, held_out), found()
        for kind in KINDS:
            order = [drop.layer for drop in order_by_score(importance.scores(), shape_of(TUNED), [kind])]
            means = mean_outputs(model, seen, kind)
            for depth in depths:
                for name, constants in {"nothing": [torch.zeros_like(one) for one in means], "its mean": means}.items():
                    with without(model, kind, order[:depth], constants):
                        change = 1 - cosine_similarity(final_states(model, held_out), whole, dim=-1).mean().item()
                        row = {"sublayer": kind, "dropped": depth, "in its place": name, "change": change}
                        rows.append({**row, "dev": found()})
                    click.echo(str(rows[-1]))
    columns: dict[str, Callable[[Any], str]] = {
        "sublayer": lambda row: row["sublayer"],
        "dropped": lambda row: str(row["dropped"]),
        "in its place": lambda row: row["in its place"],
        "1 - cos of the final states": lambda row: f"{row['change']:.3f}",
        "nDCG@10 apidocs-dev": lambda row: f"{row['dev']:.3f}",
    }
    note = (
        f"Nothing is healed. The whole model has {all_of_it:.3f}. Means over {params.analyze.texts} calibration texts, "
        "the change over as many others, in float32; searched in finetune.precision."
    )
    save("bias", "A dropped sublayer's mean", rows, columns=columns, notes=[note], settings={"depths": list(depths)})


def dev_ndcg(retriever: SentenceTransformer, precision: Precision) -> float:
    """Search the dev set; returns nDCG@10."""
    documents, queries = (partial(each, retriever, batch_size=BATCH) for each in (encode_documents, encode_queries))
    with torch.autocast("cpu", torch.bfloat16, uses_bfloat16(precision)):
        quality, _ = quality_of(documents, queries, open_collection(require(DEV, made_by="download")))
    return quality["ndcg_at_10"]


if __name__ == "__main__":
    main()
