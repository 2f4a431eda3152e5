"""MLflow: runs of the pipeline, registered versions, promotion. Only this package imports MLflow, inside functions."""
