"""`effir import`."""

from pathlib import Path

import click

from effir.cli.terminal import PATH, answer, json_option


@click.command("import")
@click.argument("folder", type=PATH)
@click.argument("into", type=PATH)
@click.option("--base", type=PATH, help="The base model of an adapter, if its config names another.")
@json_option()
def importing(folder: Path, into: Path, base: Path | None, as_json: bool) -> None:
    """Convert FOLDER, a checkpoint of LLM-Drop or a LoRA adapter over one, to the effir checkpoint INTO.

    The sublayers that config.json lists as dropped (drop_mlp_list, drop_attn_list) are removed, and the adapter is
    merged. EffiR's published models have this form. The result can be `model.base`.

    Example: effir import EffiR-mistral models/effir-mistral --base Mistral-7B-v0.1-drop16
    """
    from effir.compress.foreign import import_checkpoint

    found = import_checkpoint(folder, into, base)
    size = found.shape.parameters()
    mlps, attentions = (found.shape.layers - len(found.shape.having(kind)) for kind in ("mlp", "attention"))
    merged = ", adapter merged" if found.has_adapter else ""
    said = f"{into}: {size / 1e6:,.1f} M parameters, without {mlps} MLPs and {attentions} attentions{merged}"
    dropped = {"dropped_mlps": mlps, "dropped_attentions": attentions}
    answer({"folder": str(into), "parameters": size, **dropped, "adapter": found.has_adapter}, said, as_json)
