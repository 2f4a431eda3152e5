"""The stages of dvc.yaml, one thin program each: read params, call effir, write."""
