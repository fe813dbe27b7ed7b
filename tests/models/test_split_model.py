import pytest
import torch
from torch import nn

from multimix.models import GlobalAveragePool, Pool, SplitModel


def small(**options):
    torch.manual_seed(0)
    stages = [nn.Conv2d(3, 4, 3), nn.Conv2d(4, 8, 3, stride=2), nn.ReLU()]
    return SplitModel(stages, GlobalAveragePool(), nn.Linear(8, 5), **options)


def test_normalisation_happens_once_and_only_on_images():
    net = small(mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4))
    plain = small()
    plain.load_state_dict({k: v for k, v in net.state_dict().items() if not k.startswith("pixel")})
    x = torch.rand(2, 3, 9, 9)
    by_hand = torch.stack([(x[:, 0] - 0.5) / 0.2, (x[:, 1] - 0.4) / 0.3, (x[:, 2] - 0.3) / 0.4], 1)
    torch.testing.assert_close(net(x), plain(by_hand))
    assert net.features(x, stop=0) is x
    hidden = net.features(x, stop=1)
    torch.testing.assert_close(net.features(hidden, start=1), net.features(x))


def test_every_way_through_the_layers_is_the_same():
    net, x = small(mean=(0.5,) * 3, std=(0.2,) * 3), torch.rand(2, 3, 9, 9)
    whole = net(x)
    for first in range(net.depth + 1):
        for second in range(first, net.depth + 1):
            h = net.features(net.features(x, stop=first), start=first, stop=second)
            assert torch.equal(net.head(net.features(h, start=second)), whole)
    assert torch.equal(net.classifier(net.embed(x)), whole)


@pytest.mark.parametrize(("start", "stop"), [(-1, None), (0, 4), (2, 1), (4, None)])
def test_layers_out_of_range(start, stop):
    with pytest.raises(ValueError, match=r"0 <= start <= stop <= 3, got start=-?\d, stop=\d"):
        small().features(torch.rand(1, 3, 9, 9), start, stop)


@pytest.mark.parametrize(
    ("mean", "std", "said"),
    [
        ((0.5,) * 3, None, "give both or neither"),
        ((0.5,) * 3, (0.2,), "one value per channel"),
        ((0.5,) * 3, (0.2, 0.2, 0.0), "std positive"),
    ],
)
def test_bad_normalisation(mean, std, said):
    with pytest.raises(ValueError, match=said):
        small(mean=mean, std=std)


def test_no_stages():
    with pytest.raises(ValueError, match="stages must hold at least one module"):
        SplitModel([], nn.Flatten(), nn.Linear(4, 2))


def test_bad_images():
    net = small(mean=(0.5,) * 3, std=(0.2,) * 3)
    with pytest.raises(TypeError, match=r"got torch.uint8: divide them by 255"):
        net(torch.zeros(1, 3, 9, 9, dtype=torch.uint8))
    with pytest.raises(ValueError, match=r"\(b, 3, h, w\).*got \(1, 1, 9, 9\)"):
        net(torch.rand(1, 1, 9, 9))


def test_number_of_classes_is_read_off_the_classifier():
    assert small().num_classes == 5
    deeper = SplitModel([nn.Identity()], nn.Flatten(), nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 7)))
    assert deeper.num_classes == 7
    with pytest.raises(ValueError, match="cannot tell the number of classes"):
        _ = SplitModel([nn.Identity()], nn.Flatten(), nn.Identity()).num_classes


def test_only_a_split_model_has_original_names():
    with pytest.raises(ValueError, match="only a model that was split from another has original names"):
        SplitModel([nn.Flatten()], nn.Identity(), nn.Linear(12, 3)).original_state_dict()


def test_dense_leaves_out_prefix_tokens():
    net = SplitModel([nn.Identity()], nn.Identity(), nn.Linear(6, 5), prefix_tokens=2)
    tokens = torch.randn(3, 9, 6)
    assert torch.equal(net.dense(tokens), tokens[:, 2:])


def test_dense_refuses_a_pool_that_flattens():
    net = SplitModel([nn.Conv2d(3, 8, 3)], nn.Flatten(), nn.Linear(8 * 49, 5))
    features = net.features(torch.rand(1, 3, 9, 9))
    assert net.head(features).shape == (1, 5)
    with pytest.raises(ValueError, match=r"embeddings of size 392, but a position has 8 features"):
        net.dense(features)
    with pytest.raises(ValueError, match=r"without positions.*\(1, 8\)"):
        net.dense(torch.rand(1, 8))


@pytest.mark.parametrize("shape", [(6,), (6, 1, 1)])
def test_pool_applies_its_neck_to_each_position_alone(shape):
    torch.manual_seed(0)
    neck = nn.Sequential(nn.Flatten(), nn.LayerNorm(6), nn.Linear(6, 4), nn.Tanh())
    pool = Pool(nn.AdaptiveAvgPool2d(1), neck, shape=shape)
    x = torch.randn(2, 6, 3, 5)
    dense = pool.dense(x)
    assert dense.shape == (2, 4, 3, 5)
    for i in range(3):
        for j in range(5):
            torch.testing.assert_close(dense[:, :, i, j], neck(x[:, :, i, j]))
    torch.testing.assert_close(pool.dense(x.flatten(2).mT), dense.flatten(2).mT)
    constant = torch.randn(2, 6, 1, 1).expand(2, 6, 3, 5)
    torch.testing.assert_close(pool.dense(constant)[:, :, 1, 2], pool(constant))


def test_global_average_pool_over_any_number_of_axes():
    for spatial in [(7,), (3, 4), (2, 3, 4)]:
        x = torch.randn(2, 5, *spatial)
        torch.testing.assert_close(GlobalAveragePool()(x), x.mean(tuple(range(2, x.ndim))))
