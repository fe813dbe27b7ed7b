"""Recipes: complete descriptions, and values that the rest of the package accepts."""

from __future__ import annotations

import functools
from dataclasses import replace

import pytest

from multimix import methods, models, recipes
from multimix.cli import main
from multimix.training import Config, learning_rate

EXPERIMENTS = recipes.names()


def test_the_experiments_of_the_paper_are_there():
    paper = {"cifar10", "cifar10-wrn16-8", "cifar100", "cifar100-wrn16-8", "tinyimagenet", "imagenet-resnet50"}
    assert paper | {"imagenet-vit-s16", "digits", "imagefolder"} <= set(EXPERIMENTS)


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_card_is_complete_and_its_command_is_of_this_recipe(name):
    card = recipes.card(name)
    assert isinstance(card.config, Config)
    assert card.hardware
    assert card.time
    assert card.expected
    assert name in card.text.split("Command:")[1].splitlines()[0]
    methods.parse(card.config.method)


@functools.cache
def built(model, classes, size):
    """Many recipes train the same network."""
    return models.build(model, num_classes=classes, image_size=size)


@pytest.mark.parametrize("name", [n for n in EXPERIMENTS if n != "imagefolder"])
def test_model_is_one_that_can_be_built(name):
    config = recipes.get(name)
    classes = {"cifar100": 100, "imagenet": 1000, "tinyimagenet": 200}.get(config.data, 10)
    size = config.image_size or {"digits": 8, "tinyimagenet": 64}.get(config.data, 32)
    assert built(config.model, classes, size).classifier.out_features == classes


@pytest.mark.parametrize("name", ["cifar10", "cifar10-wrn16-8", "cifar100", "cifar100-wrn16-8"])
def test_cifar_schedule_is_the_published_one(name):
    """AlignMixup's public code: 2000 epochs of batches of 128, 0.1 divided by ten at 500, 1000 and 1500."""
    config = recipes.get(name)
    assert (config.epochs, config.batch_size, config.momentum, config.weight_decay) == (2000, 128, 0.9, 1e-4)
    rates = {epoch: learning_rate(config, epoch * 390, 390) for epoch in (0, 499, 500, 999, 1000, 1500, 1999)}
    assert list(rates.values()) == pytest.approx([0.1, 0.1, 0.01, 0.01, 1e-3, 1e-4, 1e-4])
    assert not config.nesterov
    assert config.decay_all


def test_unknown_recipe_names_the_nearest():
    with pytest.raises(ValueError, match="unknown recipe 'cifar': did you mean cifar10"):
        recipes.get("cifar")


def test_command_lists_and_shows(capsys):
    main(["recipes"])
    table = capsys.readouterr().out
    assert all(name in table for name in EXPERIMENTS)
    assert "77.50" not in table
    main(["recipes", "cifar100-wrn16-8"])
    shown = capsys.readouterr().out
    assert "78.80" in shown
    assert "500 1000 1500" in shown


def test_recipes_are_values():
    assert replace(recipes.get("digits"), seed=1) != recipes.get("digits")
    with pytest.raises(AttributeError):
        recipes.get("digits").seed = 1
