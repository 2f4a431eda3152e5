"""Complete the pipeline's MLflow run and register the retriever."""

import click

from effir.files import read_json, require
from effir.tracking.registry import register_retriever
from effir.tracking.runs import finish_pipeline, pipeline_run
from stages.paths import COST, METRICS, PLOTS, REDUNDANCY, REPORTS, RETRIEVER, SLIMMING
from stages.program import RUNS, checked, locked_hashes, stages_of


@click.command()
def main() -> None:
    """Register the retriever under its alias, and log all params, figures and plots on the pipeline's run."""
    with checked() as params:
        sets, everything = params.data.eval, params.model_dump(by_alias=True, mode="json")
        figures = {name: read_json(METRICS / f"{name}.json", made_by=f"evaluate@{name}") for name in sets}
        figures["cost"] = read_json(COST, made_by="measure_cost")
        pipeline = pipeline_run(everything)
        version = register_retriever(
            require(RETRIEVER, made_by="finetune"),
            name=params.register_.name,
            pipeline_run_id=pipeline,
            tags={"variant": params.variant, "model.base": params.model.base},
            alias=params.register_.alias,
        )
        finish_pipeline(
            params.variant,
            params=everything,
            stages=stages_of(sets),
            records=RUNS,
            metrics={f"{group}/{key}": value for group, values in figures.items() for key, value in values.items()},
            artifacts=[PLOTS, REDUNDANCY, SLIMMING, *(REPORTS / f"{name}-queries.json" for name in sets)],
            hashes=locked_hashes(),
        )
        click.echo(f"{params.register_.name} version {version} is now its {params.register_.alias}")


if __name__ == "__main__":
    main()
