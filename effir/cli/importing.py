"""`effir import`."""

import json
from pathlib import Path

import click


@click.command("import")
@click.argument("folder", type=click.Path(path_type=Path))
@click.argument("into", type=click.Path(path_type=Path))
@click.option("--base", type=click.Path(path_type=Path), help="The model under an adapter, if not where it says.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object, for programs.")
def importing(folder: Path, into: Path, base: Path | None, as_json: bool) -> None:
    """Make the effir checkpoint INTO of FOLDER: a model of LLM-Drop, or a LoRA adapter over one, as EffiR's are.

    What config.json names as dropped (drop_mlp_list, drop_attn_list) is cut out for good, and an adapter is multiplied
    in. The result may be `model.base`, to be slimmed or healed.

    Example: effir import EffiR-mistral models/effir-mistral --base Mistral-7B-v0.1-drop16
    """
    from effir.compress.foreign import import_checkpoint

    found = import_checkpoint(folder, into, base)
    mlps, attentions = (found.shape.layers - len(found.shape.having(kind)) for kind in ("mlp", "attention"))
    figures = {
        "folder": str(into),
        "parameters": found.shape.parameters(),
        "dropped_mlps": mlps,
        "dropped_attentions": attentions,
        "adapter": found.has_adapter,
    }
    if as_json:
        click.echo(json.dumps(figures))
        return
    folded = ", an adapter folded in" if found.has_adapter else ""
    size = f"{found.shape.parameters() / 1e6:,.1f} M parameters"
    click.echo(f"{into}: {size}, without {mlps} MLPs and {attentions} attentions{folded}")
