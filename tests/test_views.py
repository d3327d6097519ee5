import pytest
import torch

from sepclr_med.settings import ViewsConfig
from sepclr_med.volumes.views import apply_views, draw_parameters, draw_views

PARTS = ("affine", "flip", "elastic", "crop", "intensity", "gamma", "bias_field", "noise", "blur", "cutout")
NOTHING = dict.fromkeys(PARTS, 0.0)
SHAPE = (12, 20, 16)


def views_of(volumes, seed=0, **parts):
    return draw_views(volumes, ViewsConfig(**{**NOTHING, **parts}), torch.Generator().manual_seed(seed))


@pytest.fixture
def volumes():
    generator = torch.Generator().manual_seed(1)
    coarse = torch.rand(4, 2, 4, 5, 4, generator=generator)
    return torch.nn.functional.interpolate(coarse, size=SHAPE, mode="trilinear")


@pytest.mark.parametrize("part", NOTHING)
def test_each_part_changes_volumes_and_keeps_them_finite_and_in_shape(volumes, part):
    seen = views_of(volumes, **{part: 1.0})
    assert seen.shape == volumes.shape
    assert torch.isfinite(seen).all()
    changed = (seen != volumes).flatten(1).any(dim=1)
    assert changed.all()


@pytest.mark.parametrize("part", NOTHING)
def test_each_part_spares_the_volumes_it_does_not_choose(part):
    volumes = torch.rand(200, 1, 6, 7, 8, generator=torch.Generator().manual_seed(0))
    seen = views_of(volumes, **{part: 0.3})
    share = (seen - volumes).abs().flatten(1).amax(dim=1).gt(1e-4).float().mean()
    assert 0.18 < share < 0.42


def test_the_same_generator_state_gives_the_same_views_and_another_gives_others(volumes):
    everything = dict.fromkeys(NOTHING, 1.0)
    assert torch.equal(views_of(volumes, 7, **everything), views_of(volumes, 7, **everything))
    assert not torch.equal(views_of(volumes, 7, **everything), views_of(volumes, 8, **everything))


def test_the_flip_is_left_to_right(volumes):
    torch.testing.assert_close(views_of(volumes, flip=1.0), volumes.flip(2), atol=1e-5, rtol=1e-4)


def test_a_rotation_keeps_shapes_on_a_grid_with_unequal_edges():
    """A ball stays a ball: its extent is the same along all axes whatever the rotation."""
    axes = torch.meshgrid(*[torch.arange(n) - (n - 1) / 2 for n in (24, 40, 32)], indexing="ij")
    ball = (sum(a**2 for a in axes) < 8**2).float()[None, None].repeat(6, 1, 1, 1, 1)
    seen = views_of(ball, affine=1.0, rotation=90.0, scaling=0.0, translation=0.0)
    torch.testing.assert_close(seen.flatten(1).sum(1), ball.flatten(1).sum(1), rtol=0.02, atol=0)
    for axis in (2, 3, 4):
        others = [a for a in (2, 3, 4) if a != axis]
        width = (seen.amax(dim=others) > 0.5).sum(dim=-1).flatten()
        assert width.sub(16).abs().max() <= 1


def test_translation_moves_the_centre_of_mass_within_its_range():
    volumes = torch.zeros(100, 1, 20, 20, 20)
    volumes[:, :, 9:11, 9:11, 9:11] = 1
    seen = views_of(volumes, affine=1.0, rotation=0.0, scaling=0.0, translation=0.1)
    profile = seen.sum(dim=(1, 3, 4))
    centre = (profile * torch.arange(20)).sum(dim=1) / profile.sum(dim=1) - 9.5
    assert centre.abs().max() <= 2.01
    assert centre.std() > 0.8


def test_the_elastic_deformation_moves_voxels_by_no_more_than_its_strength():
    """A volume that holds its own first coordinate shows how far each voxel was moved."""
    positions = torch.arange(24.0)[:, None, None].expand(24, 20, 28)[None, None].repeat(40, 1, 1, 1, 1)
    seen = views_of(positions, elastic=1.0, elastic_std=1.0, elastic_length=5.0)
    moved = (seen - positions)[:, :, 6:-6, 6:-6, 6:-6]
    spread = moved.flatten(1).std(dim=1)
    assert 0.15 < spread.mean() < 0.75
    assert spread.max() < 1.6
    rough = moved.diff(dim=2).flatten(1).std(dim=1)
    assert (rough < 0.7 * spread).all()


def test_the_crop_enlarges():
    volumes = torch.zeros(50, 1, 20, 20, 20)
    volumes[:, :, 8:12, 8:12, 8:12] = 1
    seen = views_of(volumes, crop=1.0, crop_scale=0.5)
    assert (seen.flatten(1).sum(1) > volumes.flatten(1).sum(1) * 0.9).all()
    assert seen.flatten(1).sum(1).mean() > 1.5 * volumes.flatten(1).sum(1).mean()


def test_channels_share_the_geometry_and_the_cutout(volumes):
    twice = torch.cat([volumes[:, :1], volumes[:, :1]], dim=1)
    seen = views_of(twice, affine=1.0, crop=1.0, cutout=1.0)
    assert torch.equal(seen[:, 0], seen[:, 1])


def test_the_cutout_removes_at_most_its_share():
    volumes = torch.ones(60, 1, 16, 16, 16)
    removed = 1 - views_of(volumes, cutout=1.0, cutout_size=0.5).flatten(1).mean(dim=1)
    assert removed.max() <= 0.5**3 + 1e-6
    assert removed.min() > 0


def test_the_blur_matches_scipy(volumes):
    from scipy.ndimage import gaussian_filter

    from sepclr_med.volumes.views import _blur

    sigma = torch.tensor([[0.5], [1.0], [1.5], [2.0]])
    blurred = _blur(volumes, sigma, reach=6)
    inner = (slice(4, -4),) * 3
    for index, value in enumerate(sigma.flatten().tolist()):
        radius = int(3 * 2.0 + 0.5)
        expected = gaussian_filter(volumes[index, 0].numpy(), value, mode="constant", radius=radius)
        torch.testing.assert_close(blurred[index, 0][inner], torch.from_numpy(expected)[inner], atol=1e-4, rtol=1e-4)


def test_images_of_two_dimensions_work():
    images = torch.rand(3, 1, 14, 18)
    seen = views_of(images, **dict.fromkeys(NOTHING, 1.0))
    assert seen.shape == images.shape
    assert torch.isfinite(seen).all()


@pytest.mark.parametrize("n_parts", [2, 3, 4])
def test_parts_of_a_batch_get_the_views_of_the_whole(volumes, n_parts):
    views = ViewsConfig(**dict.fromkeys(NOTHING, 1.0))
    parameters = draw_parameters(2 * len(volumes), tuple(volumes.shape[1:]), views, torch.Generator().manual_seed(3))
    first, second = apply_views(torch.cat([volumes, volumes]), parameters).chunk(2)
    for start in range(n_parts):
        part = slice(start, None, n_parts)
        seen = apply_views(torch.cat([volumes[part], volumes[part]]), parameters.take(part))
        torch.testing.assert_close(seen, torch.cat([first[part], second[part]]))


def test_the_noise_is_white_and_differs_between_views():
    volumes = torch.zeros(40, 1, 12, 12, 12)
    volumes[:, :, ::2] = 2.0
    noise = (views_of(volumes, noise=1.0, noise_std=1.0) - volumes).flatten(1)
    noise = noise / noise.std(dim=1, keepdim=True)
    assert noise.mean().abs() < 0.02
    torch.testing.assert_close(noise.pow(4).mean(), torch.tensor(3.0), atol=0.15, rtol=0)
    assert (noise[:, 1:] * noise[:, :-1]).mean(dim=1).abs().max() < 0.12
    between = torch.corrcoef(noise) - torch.eye(40)
    assert between.abs().max() < 0.12


def test_the_callers_volumes_are_left_as_they_are(volumes):
    before = volumes.clone()
    views_of(volumes, **dict.fromkeys(NOTHING, 1.0))
    assert torch.equal(volumes, before)
