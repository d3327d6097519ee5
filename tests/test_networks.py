import pytest
import torch

from sepclr_med.networks import BACKBONES, SepCLRNetwork, build_backbone

# The largest ones take a minute each; in two dimensions they are the same code.
LARGE = ("densenet121", "resnet50")
KINDS = [
    pytest.param(name, dims, marks=[pytest.mark.slow] if name in LARGE and dims == 3 else [])
    for name in BACKBONES
    for dims in (2, 3)
]


@pytest.mark.parametrize(("backbone", "spatial_dims"), KINDS)
def test_every_backbone_embeds_images_and_learns_in_every_parameter(backbone, spatial_dims):
    torch.manual_seed(0)
    network = SepCLRNetwork(backbone, common_dim=5, salient_dim=3, spatial_dims=spatial_dims, width=4, head_hidden=8)
    images = torch.randn(4, 1, *[32, 40, 32][:spatial_dims])
    found = network(images)
    assert found.common.shape == found.common_head.shape == (4, 5)
    assert found.salient.shape == found.salient_head.shape == (4, 3)
    torch.testing.assert_close(found.common_head.norm(dim=1), torch.ones(4))
    sum(part.square().sum() for part in (found.common_head[:, :2], found.salient_head)).backward()
    unused = [name for name, p in network.named_parameters() if p.grad is None]
    assert unused == []


def test_each_encoder_sees_its_own_input():
    network = SepCLRNetwork("small", 4, 4, width=4).eval()
    plain, deviation = torch.randn(2, 2, 1, 16, 16, 16)
    with torch.no_grad():
        both, other = network(torch.cat([plain, deviation], dim=1)), network(plain)
    assert torch.equal(both.common, other.common)
    assert not torch.allclose(both.salient, other.salient)


def test_an_unknown_backbone_is_named():
    with pytest.raises(ValueError, match=r'"resnet34".*resnet18'):
        build_backbone("resnet34", 4)
