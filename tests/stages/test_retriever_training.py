"""Which teacher is distilled where: the outside one at its own temperature, the uncompressed model with its vectors."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from effir.params import Params, check_params
from stages.paths import SELF_TEACHER, TEACHER
from stages.retriever_training import CachedTeacher, outside_teacher, self_teacher

ROOT = Path(__file__).parents[2]


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


def test_an_outside_teacher_has_scores_at_its_own_temperature_and_no_vectors() -> None:
    found = outside_teacher(params(training__teacher_temperature=1.0, finetune__vector_weight=3.0))
    assert found == CachedTeacher(TEACHER, temperature=1.0, vector_weight=0.0)


def test_the_uncompressed_model_has_scores_at_the_temperature_of_its_training_and_vectors() -> None:
    changed = params(training__teacher_temperature=1.0, training__temperature=0.03, finetune__vector_weight=3.0)
    assert self_teacher(changed) == CachedTeacher(SELF_TEACHER, temperature=0.03, vector_weight=3.0)


@pytest.mark.parametrize(("steps", "own", "teaches"), [(60, True, True), (0, True, False), (60, False, False)])
def test_it_is_the_teacher_where_it_was_trained_and_is_asked_to_be(steps: int, own: bool, teaches: bool) -> None:
    assert params(finetune_full__steps=steps, finetune__self_distillation=own).self_distilled == teaches


@pytest.mark.parametrize(("trained", "looked_at"), [(0, 0), (1, 3)])
def test_negatives_that_are_not_trained_with_are_not_read(trained: int, looked_at: int) -> None:
    assert params(training__negatives=trained, data__negatives=3).mined_negatives == looked_at
