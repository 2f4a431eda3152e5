"""`effir sweep`: from a target to the best model that meets it."""

import json
import re
from pathlib import Path

import click

UNITS = {"": 1, "K": 10**3, "M": 10**6, "B": 10**9}


class Amount(click.ParamType[int]):
    """A whole number, with K, M or B for thousands, millions and billions."""

    name = "NUMBER"

    def convert(self, value: object, param: click.Parameter | None, context: click.Context | None) -> int:
        """Read ``60M`` as 60 million."""
        found = re.fullmatch(r"(\d+(?:\.\d+)?)([KMB]?)", str(value).strip(), re.IGNORECASE)
        if not found:
            self.fail(f"{value!r} is no amount: write 60M for 60 million", param, context)
        return round(float(found[1]) * UNITS[found[2].upper()])


@click.command()
@click.option("--max-parameters", type=Amount(), help="At most so many parameters, embeddings aside: 60M.")
@click.option("--min-speedup", type=float, help="At least so many times the base model's documents a second.")
@click.option("--max-loss", type=float, help="At most this share of the full-size model's nDCG@10 lost: 0.01 is 1 %.")
@click.option("--trials", default=8, show_default=True, type=click.IntRange(min=1), help="In all, also when continued.")
@click.option("--name", default="sweep", show_default=True, help="The trials are the experiments NAME-1, NAME-2, …")
@click.option(
    "--vary",
    multiple=True,
    help="KEY=LOW:HIGH[:STEP] or KEY=a,b; prune.depth and prune.width by default, as far as -S does not set them.",
)
@click.option("-S", "--set", "settings", multiple=True, help="KEY=VALUE of params.yaml for every trial.")
@click.option("--seed", default=0, show_default=True, help="Of the choice of trials.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object, for programs.")
def sweep(
    max_parameters: int | None,
    min_speedup: float | None,
    max_loss: float | None,
    trials: int,
    name: str,
    vary: tuple[str, ...],
    settings: tuple[str, ...],
    seed: int,
    as_json: bool,
) -> None:
    """Find the best model that meets a target, and register it as the challenger.

    Quality is nDCG@10 on the first set of data.eval: name a dev set, or the choice is made on what should judge it.
    Each trial is a DVC experiment and an MLflow run, first unhealed; one without hope is given up there. A sweep that
    was stopped or killed goes on when the command is repeated. Status 1 where no trial meets the target.

    Example: effir sweep --max-parameters 60M --trials 8
    """
    from dataclasses import asdict

    import yaml

    from effir.errors import EffirError
    from effir.files import require, state_dir
    from effir.lab.overrides import set_over
    from effir.lab.space import default_space, read_space
    from effir.lab.sweep import line
    from effir.lab.sweep import sweep as run_sweep
    from effir.lab.sweep_state import Plan
    from effir.lab.target import Target
    from effir.model.shape import shape_of
    from effir.params import PARAMS, check_params, flatten, load_params

    if not re.fullmatch(r"[A-Za-z0-9][\w-]*", name):
        raise EffirError(f"--name {name}: letters, digits, - and _ make the name of an experiment")
    fixed = dict(pair(text) for text in settings)
    target = Target(max_parameters, min_speedup, max_loss)
    load_params()
    params = yaml.safe_load(PARAMS.read_text(encoding="utf-8"))
    check_params(set_over(params, fixed))
    space = read_space(vary)
    if both := sorted(space.keys() & fixed.keys()):
        raise EffirError(f"--vary and -S both have {both[0]}: leave one of them out")
    shape = shape_of(require(Path("models/base")))
    free = {key: where for key, where in default_space(shape.layers).items() if key not in fixed}
    plan = Plan(name, target, space or free, trials, flatten(params), fixed, seed)
    found = run_sweep(plan, shape, state_dir("sweeps"))
    if as_json:
        click.echo(json.dumps(asdict(found)))
    elif found.best is None:
        click.echo(f"none of {len(found.trials)} trials meets the target: ask for less, or for more --trials")
    else:
        click.echo(f"the best of {len(found.trials)} trials: {line(found.best)}")
        click.echo(
            f"it is registered by experiment {found.registered}; `dvc exp apply {found.registered}` takes it over"
        )
    if found.best is None:
        raise click.exceptions.Exit(1)


def pair(text: str) -> tuple[str, str]:
    """Read KEY=VALUE; EffirError where it is none."""
    from effir.errors import EffirError

    key, equals, value = text.partition("=")
    if not equals:
        raise EffirError(f"-S {text}: write KEY=VALUE, as for `dvc exp run -S`")
    return key, value
