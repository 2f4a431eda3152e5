"""Settings for DVC's command line: what DVC writes into params.yaml is what the setting says."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from dvc.utils.hydra import apply_overrides

from effir.lab.settings import as_written, assignment, flat_settings, set_over


@pytest.mark.parametrize(
    "value",
    [
        "Instruct: find it\nQuery: ",
        'say "yes" or "no"',
        "C:\\data\\",
        'a backslash before a quote: \\" and one more',
        "a\ttab",
        "[INST] find it\n[/INST]",
        "it's 100 %, surely: ",
        "",
    ],
)
def test_a_text_reaches_params_yaml_as_it_is(value: str, tmp_path: Path) -> None:
    assert written_by_dvc(value, tmp_path) == value == as_written(value)
    assert set_over({"retriever": {"query_prompt": "x"}}, {"retriever.query_prompt": value})["retriever"] == {
        "query_prompt": value
    }
    assert flat_settings({"retriever.query_prompt": value}) == {"retriever.query_prompt": value}


@pytest.mark.parametrize(
    ("value", "meant"), [('"a\\nb"', "a\nb"), ("[a, 1]", ["a", 1]), ("null", None), ("1.5", 1.5), (["x\ny"], ["x\ny"])]
)
def test_what_was_written_for_dvc_means_to_dvc_what_it_means_in_yaml(value: Any, meant: Any, tmp_path: Path) -> None:
    assert written_by_dvc(value, tmp_path) == meant == as_written(value)


def written_by_dvc(value: Any, folder: Path) -> Any:
    path = folder / "params.yaml"
    path.write_text("retriever: {query_prompt: x}")
    apply_overrides(path, [assignment("retriever.query_prompt", value)])
    return yaml.safe_load(path.read_text())["retriever"]["query_prompt"]
