"""`effir plan`: what a cut would cost, before anything is downloaded."""

import json
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from effir.compress.plan import Plan


@click.command()
@click.argument("model")
@click.option("--sublayer", type=click.Choice(["mlp", "attention", "block"]), default="mlp", show_default=True)
@click.option("--depth", type=click.IntRange(min=0), default=0, show_default=True, help="Sublayers to drop.")
@click.option(
    "--width",
    type=click.FloatRange(0, 1, min_open=True),
    default=1.0,
    show_default=True,
    help="Share of the remaining MLP channels to keep.",
)
@click.option("--tokens", type=click.IntRange(min=1), default=512, show_default=True, help="Tokens of a text.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object, for programs.")
def plan(model: str, sublayer: Any, depth: int, width: float, tokens: int, as_json: bool) -> None:
    """Tell the sizes, FLOPs, memory and predicted speed-up of a cut from config.json alone.

    MODEL is a hub id, a checkpoint's folder, or its config.json; no weights are read. Parameters are counted without
    the LM head.

    Example: effir plan mistralai/Mistral-7B-v0.1 --depth 16 --width 0.7
    """
    from effir.compress.plan import plan as foresee

    found = foresee(model, sublayer, depth, width, tokens)
    click.echo(json.dumps(found.as_json()) if as_json else _table(found))


def _table(found: "Plan") -> str:
    from effir.compress.plan import BYTES

    whole, cut = found.whole, found.cut
    rows = [
        ("parameters", *(f"{shape.parameters() / 1e6:,.1f} M" for shape in (whole, cut))),
        ("beside the embeddings", *(f"{shape.parameters(embeddings=False) / 1e6:,.1f} M" for shape in (whole, cut))),
        ("GFLOPs a token", *(f"{shape.flops_per_token(found.tokens) / 1e9:,.2f}" for shape in (whole, cut))),
        *((f"weights in {name}", *(f"{size / 1e6:,.0f} MB" for size in found.weights(name))) for name in BYTES),
    ]
    lines = [f"{'':24}{'whole':>14}{'cut':>14}", *(f"{name:24}{one:>14}{other:>14}" for name, one, other in rows)]
    said = (
        f"{found.kept_share:.1%} of the parameters beside the embeddings are kept. {found.flops_speedup:.2f} times "
        f"less arithmetic in texts of {found.tokens} tokens: about so many times as fast in batches, at most. "
        f"A vector has {found.hidden} numbers, {4 * found.hidden / 1024:.1f} KiB a document in a flat index."
    )
    return "\n".join([*lines, "", said])
