"""Drop the sublayers that come first in the order that analyze found."""

import click

from effir.compress.cut import cut_checkpoint
from effir.compress.drop_order import Drop, first_drops, shape_after
from effir.errors import EffirError
from effir.files import read_json, require
from effir.model.shape import shape_of
from stages.paths import DEPTH, FULL, ORDER
from stages.program import running


@click.command()
def main() -> None:
    """Drop prune.depth sublayers."""
    with running("prune_depth") as stage:
        order = [Drop(**row) for row in read_json(ORDER)]
        dropped = first_drops(order, stage.params.prune.depth)
        shape = shape_after(shape_of(require(FULL)), dropped)
        if not shape.having("block"):
            raise EffirError(f"prune.depth is {len(dropped)}, which leaves neither attention nor MLP: choose less")
        cut_checkpoint(FULL, DEPTH, shape)
        stage.run.log_metrics({"depth/dropped": len(dropped), "depth/parameters": shape.parameters(embeddings=False)})


if __name__ == "__main__":
    main()
