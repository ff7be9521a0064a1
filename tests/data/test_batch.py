import pytest
import torch

from rwp_dist.data.batch import normalise

MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.3, 0.25)


@pytest.mark.parametrize("shape", [(5, 3, 224, 224), (300, 3, 8, 8), (1, 3, 7, 5), (0, 3, 8, 8)])
@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format])
@pytest.mark.parametrize("kind", [torch.uint8, torch.float32])
def test_pixels_are_normalised_whatever_their_layout_and_the_input_is_left_alone(
    shape, layout, kind
):
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)
    images = images.to(kind).contiguous(memory_format=layout)
    before = images.clone()
    result = normalise(images, MEAN, STD)
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (MEAN, STD))
    assert torch.allclose(result, (before.float() / 255 - mean) / std, atol=1e-5)
    assert result.dtype == torch.float32 and result.shape == shape
    assert result.is_contiguous(memory_format=layout)
    assert torch.equal(images, before)


def test_one_value_serves_grey_images_and_all_channels():
    for channels in (1, 3):
        images = torch.full((2, channels, 4, 4), 255, dtype=torch.uint8)
        assert torch.allclose(normalise(images, (0.5,), (0.25,)), torch.tensor(2.0))
