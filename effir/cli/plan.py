"""`effir plan`: what a cut would cost, before anything is downloaded."""

from typing import TYPE_CHECKING, Any

import click

from effir.cli.terminal import answer, json_option

if TYPE_CHECKING:
    from effir.compress.plan import Plan

UNCUT = ("mlp", 0, 1.0)  # outside a project, where no params.yaml names a cut


@click.command()
@click.argument("model")
@click.option("--sublayer", type=click.Choice(["mlp", "attention", "block"]), help="Kind of sublayer to drop.")
@click.option("--depth", type=click.IntRange(min=0), help="Number of sublayers to drop.")
@click.option(
    "--width", type=click.FloatRange(0, 1, min_open=True), help="Share of the channels of the remaining MLPs to keep."
)
@click.option("--tokens", type=click.IntRange(min=1), default=512, show_default=True, help="Tokens of a text.")
@json_option()
def plan(model: str, sublayer: str | None, depth: int | None, width: float | None, tokens: int, as_json: bool) -> None:
    """Print the size, FLOPs, memory and expected speed-up of a cut. Only config.json is read.

    MODEL is a hub id, a checkpoint's folder, or its config.json. In the project's root, the options default to
    analyze.sublayer, prune.depth and prune.width of params.yaml: the cut that the pipeline makes. Elsewhere nothing is
    cut by default. The LM head is not counted.

    Example: effir plan mistralai/Mistral-7B-v0.1 --sublayer mlp --depth 16 --width 0.7
    """
    from effir.compress.plan import plan as foresee

    found = foresee(model, *_cut(sublayer, depth, width), tokens)
    answer(found.as_json(), _table(found), as_json)


def _cut(sublayer: str | None, depth: int | None, width: float | None) -> tuple[Any, int, float]:
    """Complete the options by what the pipeline would do."""
    from effir.params import PARAMS, load_params

    defaults: tuple[str, int, float] = UNCUT
    if PARAMS.exists() and None in (sublayer, depth, width):
        params = load_params()
        defaults = params.analyze.sublayer, params.prune.depth, params.prune.width
    kind = defaults[0] if sublayer is None else sublayer
    return kind, defaults[1] if depth is None else depth, defaults[2] if width is None else width


def _table(found: "Plan") -> str:
    from effir.compress.plan import BYTES

    before, after = found.whole, found.cut
    rows = [
        ("parameters", *(f"{shape.parameters() / 1e6:,.1f} M" for shape in (before, after))),
        ("without embeddings", *(f"{shape.parameters(embeddings=False) / 1e6:,.1f} M" for shape in (before, after))),
        ("GFLOPs per token", *(f"{shape.flops_per_token(found.tokens) / 1e9:,.2f}" for shape in (before, after))),
        *((f"weights in {name}", *(f"{size / 1e6:,.0f} MB" for size in found.weights(name))) for name in BYTES),
    ]
    cut = f"{found.depth} {found.sublayer} sublayers dropped, {found.width:.0%} of the remaining MLP channels kept"
    lines = [
        f"The cut: {cut}.",
        f"{'':24}{'uncompressed':>14}{'cut':>14}",
        *(f"{name:24}{one:>14}{other:>14}" for name, one, other in rows),
        "",
        f"{found.kept_share:.1%} of the non-embedding parameters are kept. A text of {found.tokens} tokens takes "
        f"{found.flops_speedup:.2f} times fewer FLOPs, which is the most that batches can gain in speed.",
        f"A vector has {found.hidden} numbers: {4 * found.hidden / 1024:.1f} KiB a document in a flat index.",
    ]
    return "\n".join(lines)
