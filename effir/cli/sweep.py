"""`effir sweep`: find the best model that meets a target."""

import re
from pathlib import Path
from typing import Any

import click

from effir.cli.terminal import answer, json_option
from effir.errors import EffirError
from effir.files import require, state_dir

UNITS = {"": 1, "K": 10**3, "M": 10**6, "B": 10**9}


class Amount(click.ParamType[int]):
    """A number with an optional K, M or B for thousands, millions and billions."""

    name = "NUMBER"

    def convert(self, value: object, param: click.Parameter | None, context: click.Context | None) -> int:
        """Read ``60M`` as 60 million."""
        found = re.fullmatch(r"(\d+(?:\.\d+)?)([KMB]?)", str(value).strip(), re.IGNORECASE)
        if not found:
            self.fail(f"{value!r} is not a number of parameters: write 60M for 60 million", param, context)
        return round(float(found[1]) * UNITS[found[2].upper()])


@click.command()
@click.option("--max-parameters", type=Amount(), help="Largest number of non-embedding parameters: 60M.")
@click.option("--min-speedup", type=float, help="Least speed-up on documents over the base model: 2 is twice as fast.")
@click.option("--max-loss", type=float, help="Largest loss of the uncompressed model's nDCG@10: 0.01 is 1 %.")
@click.option("--trials", default=8, show_default=True, type=click.IntRange(min=1), help="In all, also when continued.")
@click.option("--name", default="sweep", show_default=True, help="The trials are the experiments NAME-1, NAME-2, …")
@click.option(
    "--vary",
    multiple=True,
    help="KEY=LOW:HIGH[:STEP] or KEY=a,b. Default: prune.depth, prune.width unless -S sets them.",
)
@click.option("-S", "--set", "settings", multiple=True, help="KEY=VALUE of params.yaml for every trial.")
@click.option("--seed", default=0, show_default=True, help="Seed of the choice of trials.")
@json_option()
def sweep(
    trials: int, name: str, vary: tuple[str, ...], settings: tuple[str, ...], seed: int, as_json: bool, **limits: Any
) -> None:
    """Find the best model that meets a target, and register it as the challenger.

    Quality is nDCG@10 on the first set of data.eval. Use a dev set there: the set that chooses a model gives optimistic
    metrics for it. Each trial is a DVC experiment and an MLflow run. It runs without fine-tuning first, and stops there
    if it is unpromising. Repeat the command to continue a sweep that was stopped or killed. Exit status 1 means that no
    trial meets the target.

    Example: effir sweep --max-parameters 60M --trials 8
    """
    import yaml

    from effir.lab.settings import set_over
    from effir.lab.sweep import sweep as run_sweep
    from effir.lab.sweep_plan import Plan, Target, default_space, read_space
    from effir.model.shape import shape_of
    from effir.params import PARAMS, check_params, flatten, load_params

    if not re.fullmatch(r"[A-Za-z0-9][\w-]*", name):
        raise EffirError(f"--name {name}: use letters, digits, - and _")
    fixed = dict(map(pair, settings))
    target = Target(**limits)
    load_params()
    params: dict[str, Any] = yaml.safe_load(PARAMS.read_text(encoding="utf-8"))
    check_params(set_over(params, fixed))  # the settings of every trial
    space = read_space(vary)
    if both := sorted(space.keys() & fixed.keys()):
        raise EffirError(f"--vary and -S both have {both[0]}: remove one of them")
    shape = shape_of(require(Path("models/base")))
    space = space or {key: where for key, where in default_space(shape.layers).items() if key not in fixed}
    plan = Plan(name, target, space, trials, flatten(params), fixed, seed)
    found = run_sweep(plan, shape, state_dir("sweeps"))
    answer(found, _report(found), as_json)
    if found.best is None:
        raise click.exceptions.Exit(1)


def _report(found: Any) -> str:
    from effir.lab.sweep import line

    if found.best is None:
        return f"no trial of {len(found.trials)} meets the target: relax it, or run more --trials"
    return (
        f"the best of {len(found.trials)} trials: {line(found.best)}\n"
        f"experiment {found.registered} has its version: run `dvc exp apply {found.registered}` to use it here"
    )


def pair(text: str) -> tuple[str, str]:
    """Read KEY=VALUE; EffirError for anything else."""
    key, equals, value = text.partition("=")
    if not equals:
        raise EffirError(f"-S {text}: write KEY=VALUE, as for `dvc exp run -S`")
    return key, value
