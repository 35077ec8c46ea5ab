"""The networks of the CIFAR experiments have the published numbers of weights."""

import pytest
import torch

from tensorbench.optimizers.tasks.residual_networks import resnet, wide_resnet


def count(network):
    return sum(p.numel() for p in network.parameters())


def test_published_numbers_of_weights():
    with torch.device("meta"):
        # He et al. 2016, table 6 (millions); Zagoruyko, Komodakis 2016, table 4.
        assert [round(count(resnet(depth)) / 1e6, 2) for depth in (20, 32, 56)] == [0.27, 0.46, 0.85]
        assert round(count(resnet(110)) / 1e6, 1) == 1.7
        assert round(count(wide_resnet(28, 10)) / 1e6, 1) == 36.5 and round(count(wide_resnet(16, 8)) / 1e6, 1) == 11.0


@pytest.mark.parametrize("make", [lambda **o: resnet(8, 4, **o), lambda **o: wide_resnet(10, 1, **o)])
@pytest.mark.parametrize("batch_norm", [True, False])
def test_they_classify_images_and_follow_their_generator(make, batch_norm):
    g = torch.Generator().manual_seed(0)
    network = make(batch_norm=batch_norm, generator=g)
    x = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    y = network(x)
    assert y.shape == (2, 10) and torch.isfinite(y).all()
    again = make(batch_norm=batch_norm, generator=torch.Generator().manual_seed(0))
    assert torch.equal(again(x), y)


def test_bad_depths():
    with pytest.raises(ValueError, match="6 n"):
        resnet(18)
    with pytest.raises(ValueError, match="6 n"):
        wide_resnet(18)
