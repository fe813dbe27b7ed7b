"""Domain folders: who is trained on, who is held out, and batches that hold every domain."""

from __future__ import annotations

import pytest
import torch

from multimix.data import ArrayDataset, FileDataset, load, loader, pictures

COUNTS = {
    "art": {"cat": 4, "dog": 3},
    "clipart": {"cat": 2, "dog": 5, "owl": 2},
    "photo": {"cat": 3, "owl": 6},
}


@pytest.fixture
def root(tree, tmp_path):
    return tree(tmp_path / "home", COUNTS)


@pytest.mark.parametrize("held_out", list(COUNTS))
def test_every_image_of_the_sources_is_trained_on_and_of_the_held_out_domain_tested(root, held_out):
    data = load("domains", root=root, held_out=held_out)
    sources = [name for name in COUNTS if name != held_out]
    assert data.domains == tuple(sources)
    assert data.class_names == ("cat", "dog", "owl")
    found = {}
    for domain, label in zip(data.train.extras["domain"].tolist(), data.train.labels.tolist(), strict=True):
        key = sources[domain], data.class_names[label]
        found[key] = found.get(key, 0) + 1
    assert found == {(name, label): count for name in sources for label, count in COUNTS[name].items()}
    assert len(data.test) == sum(COUNTS[held_out].values())
    assert [data.class_names[k] for k in data.test.labels.unique()] == list(COUNTS[held_out])


def test_pixels_belong_to_the_domain_and_class_they_are_said_to(root):
    """In memory and from files, which are put together differently."""
    memory = load("domains", root=root, held_out="art")
    files = load("domains", root=root, held_out="art", image_size=112)
    assert isinstance(memory.train, ArrayDataset)
    assert isinstance(files.train, FileDataset)
    for i in range(len(files.train)):
        domain, label, _ = files.train.name(i).split("/")
        assert (
            memory.domains[memory.train.extras["domain"][i]] == domain == files.domains[files.train.extras["domain"][i]]
        )
        assert memory.class_names[memory.train.labels[i]] == label == files.class_names[files.train.labels[i]]
        assert torch.equal(
            memory.train.images[i],
            pictures.pixels(pictures.read(root / domain / label / files.train.name(i).split("/")[2])),
        )
        assert files.train.path(i).is_file()


def test_validation_takes_as_many_from_every_class_of_every_source(root):
    data = load("domains", root=root, held_out="art", val_per_class=1)
    pairs = list(zip(data.val.extras["domain"].tolist(), data.val.labels.tolist(), strict=True))
    assert sorted(pairs) == [(0, 0), (0, 1), (0, 2), (1, 0), (1, 2)]
    again = load("domains", root=root, held_out="art", val_per_class=1)
    assert torch.equal(data.val.images, again.val.images)
    other = load("domains", root=root, held_out="art", val_per_class=1, subset_seed=5)
    assert not torch.equal(data.val.images, other.val.images)
    assert len(data.train) + len(data.val) == 18


def test_a_domain_is_decoded_once_whichever_is_held_out(root, own_cache, monkeypatch):
    load("domains", root=root, held_out="art")

    def fail(path):
        raise AssertionError(path)

    monkeypatch.setattr("multimix.data.pictures.read", fail)
    load("domains", root=root, held_out="photo")


def test_unreadable_images_are_left_out_with_their_domain(root):
    (root / "clipart" / "dog" / "0.png").write_bytes(b"no image")
    with pytest.warns(UserWarning, match="left out 1 of 25"):
        data = load("domains", root=root, held_out="art", bad_images="skip")
    assert data.train.extras["domain"].bincount().tolist() == [8, 9]


def test_balanced_batches_hold_every_domain_alike(root):
    """The sources have 7 and 9 images: turns of two domains, over ranks too; unbalanced batches differ."""
    data = load("domains", root=root, held_out="clipart")
    for seed in range(5):
        batches = loader(data.train, batch_size=4, train=True, seed=seed, balance_domains=True)
        drawn = [batch.extras["domain"].bincount(minlength=2).tolist() for batch in batches.batches(epoch=seed)]
        assert drawn == [[2, 2]] * 4
        halves = [
            loader(data.train, batch_size=4, train=True, seed=seed, balance_domains=True, rank=r, world_size=2)
            for r in (0, 1)
        ]
        for whole, *parts in zip(*(part.batches(epoch=seed) for part in (batches, *halves)), strict=True):
            assert torch.equal(whole.images, torch.cat([part.images for part in parts]))


def test_balanced_epoch_uses_a_domain_up_before_it_begins_again():
    images = torch.arange(30, dtype=torch.uint8)[:, None, None, None].expand(30, 3, 8, 8)
    domain = torch.tensor([0] * 25 + [1] * 3 + [4] * 2)
    dataset = ArrayDataset(images, torch.zeros(30, dtype=torch.int64), extras={"domain": domain})
    batches = loader(dataset, batch_size=3, train=True, balance_domains=True)
    drawn = torch.cat([batch.images[:, 0, 0, 0] for batch in batches.batches(epoch=3)]).mul(255).round().int()
    counts = drawn.bincount(minlength=30)
    assert counts[:25].max() == 1
    assert counts[:25].sum() == 10
    assert sorted(counts[25:28].tolist()) == [3, 3, 4]
    assert counts[28:].tolist() == [5, 5]
    # Each time in another order.
    of_three = [image for image in drawn.tolist() if 25 <= image < 28]
    rounds = [tuple(of_three[k : k + 3]) for k in range(0, 9, 3)]
    assert all(len(set(one)) == 3 for one in rounds)
    assert len(set(rounds)) > 1
    again = torch.cat([batch.images[:, 0, 0, 0] for batch in batches.batches(epoch=4)]).mul(255).round().int()
    assert not torch.equal(drawn, again)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "art, clipart, photo: say which one is held out"),
        ({"held_out": "Art"}, "unknown domain 'Art' in .*: did you mean art?"),
        ({"held_out": "art", "per_class": 4}, "clipart/cat' has 2 training images"),
        ({"held_out": "art", "image_size": 0}, "image_size must be at least 1"),
    ],
)
def test_mistakes(root, arguments, message):
    with pytest.raises(ValueError, match=message):
        load("domains", root=root, **arguments)


def test_more_mistakes(tree, tmp_path):
    with pytest.raises(ValueError, match="held_out names a domain of the data set 'domains', and 'digits' has none"):
        load("digits", held_out="art")
    with pytest.raises(FileNotFoundError, match="DOMAIN/CLASS/IMAGE"):
        load("domains", root=tmp_path / "nowhere", held_out="art")
    one = tree(tmp_path / "one", {"art": {"cat": 1}})
    with pytest.raises(ValueError, match="holds 1 domain folders, and needs at least two"):
        load("domains", root=one, held_out="art")
    new = tree(tmp_path / "new", {"art": {"cat": 1, "elk": 1}, "photo": {"cat": 1}})
    with pytest.raises(ValueError, match="class folder 'elk' that the training set lacks"):
        load("domains", root=new, held_out="art")
    digits = load("digits", per_class=2)
    with pytest.raises(ValueError, match="balance_domains needs examples with a domain"):
        loader(digits.train, batch_size=4, train=True, balance_domains=True)
