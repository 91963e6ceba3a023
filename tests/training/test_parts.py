"""A model with parts for images: every method trains it on texts."""

from pathlib import Path

import pytest
from assignments import LORA, METHODS, TRAIN, assignment, rows_of, token_mean, trained
from parts import gemma

from sapo.models.losses import Scorer
from sapo.training.methods import make_method
from sapo.training.settings import MethodName


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning")
@pytest.mark.parametrize("name", METHODS)
def test_it_is_scored_and_trained_and_its_configuration_stays(name: MethodName, tmp_path: Path) -> None:
    model, rows = gemma(), rows_of("one", 8)
    # The premise: only the configuration of its text says whether keys and values are kept.
    assert "use_cache" not in vars(model.config)
    scored = Scorer(model)(rows).per_token
    assert scored == pytest.approx(float(token_mean(model, rows).detach()), rel=1e-5)
    learner = make_method(name, LORA)
    task = assignment(rows)
    model = learner.prepare(learner.start(model), task)
    log = trained(learner, model, task, TRAIN.model_copy(update={"batch_size": 8}))
    assert log.losses[0] == pytest.approx(scored, rel=1e-4) and log.losses[-1] < log.losses[0]
    learner.finish(model, task, tmp_path)
    assert "use_cache" not in vars(model.config)
