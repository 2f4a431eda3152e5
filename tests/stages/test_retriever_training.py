"""Who teaches where: the outside teacher the whole, at its own temperature; the whole what is left of it."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from effir.params import Params, check_params
from stages.paths import SELF_TEACHER, TEACHER
from stages.retriever_training import Opinion, outside_teacher, self_teacher

ROOT = Path(__file__).parents[1]


def params(**changes: Any) -> Params:
    values = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    for key, value in changes.items():
        section, _, name = key.partition("__")
        values[section][name] = value
    return check_params(values)


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for folder in (TEACHER, SELF_TEACHER):
        (tmp_path / folder).mkdir(parents=True)
    monkeypatch.chdir(tmp_path)


def test_an_outside_teacher_has_preferences_at_its_own_temperature_and_no_vectors() -> None:
    found = outside_teacher(params(finetune__teacher_temperature=1.0, finetune__own_vectors=3.0))
    assert found == Opinion(TEACHER, temperature=1.0, vectors=0.0)


def test_the_tuned_model_has_preferences_at_the_temperature_of_its_tuning_and_vectors() -> None:
    changed = params(finetune__teacher_temperature=1.0, finetune__temperature=0.03, finetune__own_vectors=3.0)
    assert self_teacher(changed) == Opinion(SELF_TEACHER, temperature=0.03, vectors=3.0)


@pytest.mark.parametrize(("steps", "own", "teaches"), [(60, True, True), (0, True, False), (60, False, False)])
def test_it_teaches_where_it_was_tuned_and_is_asked_to(steps: int, own: bool, teaches: bool) -> None:
    assert params(tune__steps=steps, finetune__own_teacher=own).self_distilled == teaches


@pytest.mark.parametrize(("trained", "looked_at"), [(0, 0), (1, 3)])
def test_negatives_that_are_not_trained_with_are_not_read(trained: int, looked_at: int) -> None:
    assert params(finetune__negatives=trained, data__negatives=3).mined_negatives == looked_at
