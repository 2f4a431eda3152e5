"""The mean output of a dropped sublayer in its place: the change of the final states before any fine-tuning."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import click
import torch
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity

from benchmarks.table import save
from effir.compress.drop_order import order_by_score
from effir.compress.redundancy import measure_importance
from effir.data.calibration import load_calibration
from effir.files import require
from effir.model.checkpoint import calibration_batches
from effir.model.retriever import build_retriever
from effir.model.shape import Sublayer, shape_of
from effir.params import load_params
from stages.paths import CALIBRATION, FULL
from stages.settings import retriever_settings

KINDS: tuple[Sublayer, ...] = ("mlp", "block")
BATCH = 16
Batches = Sequence[Mapping[str, Tensor]]


class Constant(nn.Module):
    """Returns a constant (hidden,) instead of an MLP's output, or adds it to the input instead of a block's work."""

    def __init__(self, constant: Tensor, kind: Sublayer) -> None:
        super().__init__()
        self.constant, self.kind = constant, kind

    def forward(self, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Return (batch, tokens, hidden)."""
        return self.constant + (hidden_states if self.kind == "block" else torch.zeros_like(hidden_states))


def mean_outputs(model: Any, batches: Batches, kind: Sublayer) -> list[Tensor]:
    """Return by layer the mean over real tokens of what the sublayer adds to the stream, (hidden,) each."""
    sums = [torch.zeros(model.config.hidden_size, dtype=torch.float64) for _ in model.layers]
    real, tokens = torch.empty(0), 0

    def add(layer: int, module: Any, args: tuple[Any, ...], output: Any) -> None:
        added = output - args[0] if kind == "block" else output
        sums[layer] += added[real].double().sum(dim=0)

    seen = [layer if kind == "block" else layer.mlp for layer in model.layers]
    hooks = [module.register_forward_hook(partial(add, i)) for i, module in enumerate(seen)]
    for batch in batches:
        real = batch["attention_mask"].bool()
        tokens += int(real.sum())
        model(**batch, use_cache=False)
    for hook in hooks:
        hook.remove()
    return [(each / tokens).float() for each in sums]


@contextmanager
def replaced(model: Any, kind: Sublayer, layers: Sequence[int], constants: Sequence[Tensor]) -> Iterator[None]:
    """Replace some sublayers by constants until the block ends."""
    blocks, mlps = list(model.layers), [layer.mlp for layer in model.layers]
    for layer in layers:
        instead = Constant(constants[layer], kind)
        if kind == "block":
            model.layers[layer] = instead
        else:
            model.layers[layer].mlp = instead
    yield
    for layer, (block, mlp) in enumerate(zip(blocks, mlps, strict=True)):
        model.layers[layer] = block
        block.mlp = mlp


def final_states(model: Any, batches: Batches) -> tuple[Tensor, Tensor]:
    """Return the final hidden states of all real tokens, (tokens, hidden), and of each text's last, (texts, hidden)."""
    tokens, last = list[Tensor](), list[Tensor]()
    for batch in batches:
        real, states = batch["attention_mask"].bool(), model(**batch, use_cache=False).last_hidden_state
        tokens.append(states[real])
        last.append(states[torch.arange(len(real)), real.sum(dim=1) - 1])
    return torch.cat(tokens), torch.cat(last)


@click.command()
@click.option("--depth", "depths", multiple=True, type=int, default=(2, 5, 10), show_default=True)
def main(depths: Sequence[int]) -> None:
    """Drop MLPs and blocks of models/full by cosine, with nothing or their mean output in their place."""
    params = load_params()
    retriever = build_retriever(require(FULL), **retriever_settings(params))
    model: Any = retriever[0].model.eval()
    texts = load_calibration(require(CALIBRATION), 2 * params.analyze.texts)
    batched = partial(calibration_batches, retriever.tokenizer, max_tokens=params.analyze.max_tokens, batch_size=BATCH)
    seen, held_out = (list(batched(part)) for part in (texts[: params.analyze.texts], texts[params.analyze.texts :]))
    rows = []
    with torch.inference_mode():
        importance, uncut = measure_importance(model, seen), final_states(model, held_out)
        for kind in KINDS:
            order = [drop.layer for drop in order_by_score(importance.scores(), shape_of(FULL), [kind])]
            means = mean_outputs(model, seen, kind)
            for depth in depths:
                for name, constants in {"nothing": [torch.zeros_like(one) for one in means], "its mean": means}.items():
                    with replaced(model, kind, order[:depth], constants):
                        cut = final_states(model, held_out)
                    tokens, last = (
                        1 - cosine_similarity(*pair, dim=-1).mean().item() for pair in zip(cut, uncut, strict=True)
                    )
                    rows.append(
                        {"sublayer": kind, "dropped": depth, "in its place": name, "tokens": tokens, "last": last}
                    )
                    click.echo(str(rows[-1]))
    columns: dict[str, Callable[[Any], str]] = {
        "sublayer": lambda row: row["sublayer"],
        "dropped": lambda row: str(row["dropped"]),
        "in its place": lambda row: row["in its place"],
        "1 - cos of the final states": lambda row: f"{row['tokens']:.3f}",
        "of the last token": lambda row: f"{row['last']:.3f}",
    }
    note = (
        f"models/full, float32, without training after the drop. Means over {params.analyze.texts} calibration texts, "
        "changes over the same number of others. The state of the last token becomes the vector."
    )
    save("bias", "A dropped sublayer's mean", rows, columns=columns, notes=[note], settings={"depths": list(depths)})


if __name__ == "__main__":
    main()
