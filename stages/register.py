"""Complete the pipeline's MLflow run and register the retriever."""

import click

from effir.files import read_json, require
from effir.tracking.registry import register_retriever
from effir.tracking.runs import finish_pipeline
from stages.paths import COST, LOSS, METRICS, REDUNDANCY, REPORTS, RETRIEVER, SLIMMING
from stages.program import RUNS, locked_hashes, running, stages_of


@click.command()
def main() -> None:
    """Log all params, figures and plots on the pipeline's run and register the retriever under its alias."""
    with running("register") as stage:
        params, sets = stage.params, stage.params.data.eval
        figures = {name: read_json(METRICS / f"{name}.json", made_by=f"evaluate@{name}") for name in sets}
        figures["cost"] = read_json(COST, made_by="measure_cost")
        plots = [path.with_suffix(".png") for path in (REDUNDANCY, SLIMMING, LOSS)]
        files = [REDUNDANCY, SLIMMING, *(REPORTS / f"{name}-queries.json" for name in sets)]
        pipeline = finish_pipeline(
            params.variant,
            params=params.model_dump(by_alias=True, mode="json"),
            stages=stages_of(sets),
            records=RUNS,
            metrics={f"{group}/{key}": value for group, values in figures.items() for key, value in values.items()},
            artifacts=[*plots, *files, *(REPORTS / f"{name}.png" for name in sets)],
            hashes=locked_hashes(),
        )
        version = register_retriever(
            require(RETRIEVER, made_by="finetune"),
            name=params.register_.name,
            pipeline_run_id=pipeline,
            tags={"variant": params.variant, "model.base": params.model.base},
            alias=params.register_.alias,
        )
        click.echo(f"{params.register_.name} version {version} is now its {params.register_.alias}")


if __name__ == "__main__":
    main()
