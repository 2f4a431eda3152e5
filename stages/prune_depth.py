"""Drop the sublayers that change their input least."""

import click

from effir.compress.importance import Importance, lowest
from effir.compress.shape import shape_of
from effir.compress.surgery import cut_checkpoint
from effir.files import read_json, require
from stages.paths import BASE, DEPTH, REDUNDANCY
from stages.program import running


@click.command()
def main() -> None:
    """Drop the prune.depth sublayers that change their input least."""
    with running("prune_depth") as stage:
        prune = stage.params.prune
        importance = Importance(**read_json(REDUNDANCY, made_by="analyze"))
        shape = shape_of(require(BASE, made_by="download"))
        dropped = lowest(
            importance.of(prune.sublayer),
            prune.depth,
            what=f"{prune.sublayer} sublayers",
            among=shape.having(prune.sublayer),
        )
        shape = shape.without(prune.sublayer, dropped)
        cut_checkpoint(BASE, DEPTH, shape)
        stage.run.log_metrics({"depth/dropped": len(dropped), "depth/parameters": shape.parameters(embeddings=False)})


if __name__ == "__main__":
    main()
