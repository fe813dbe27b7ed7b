"""What pages say of how runs were trained."""

from dataclasses import replace

from multimix import recipes
from multimix.reports.conditions import training
from multimix.training import Config

PLAIN = Config(data="digits", epochs=1, schedule="constant")


def test_what_differs_is_said_of_all() -> None:
    clipped = replace(PLAIN, epochs=3, clip_norm=1.0, average="ema", accumulate=4)
    said = training([PLAIN, clipped])
    assert said.startswith("1 / 3 epochs, batches of 128 / 128 in 4 micro-batches, sgd with momentum 0.9, ")
    assert said.endswith(
        "precision 32-true, gradients not clipped / gradients clipped to a norm of 1, "
        "weights not averaged / weights averaged (decay 0.999)"
    )
    assert training([PLAIN]).startswith("1 epoch, batches of 128, sgd")
    assert training([PLAIN]).endswith("precision 32-true")


def test_every_recipe_has_conditions() -> None:
    for name in recipes.names():
        config = recipes.get(name)
        said = training([config])
        assert f"learning rate {config.lr:g} (" in said
        assert ("from published weights" in said) is config.pretrained
        assert ("balanced over domains" in said) is config.balance_domains
        assert " / " not in said
