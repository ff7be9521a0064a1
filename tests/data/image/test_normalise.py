import pytest
import torch

from rwp_dist.data.image import Normalise

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
    normalise = Normalise(MEAN, STD)
    result, same_layout = normalise(images), normalise.same_layout(images)
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (MEAN, STD))
    assert torch.allclose(result, (before.float() / 255 - mean) / std, atol=1e-5)
    assert result.dtype == torch.float32 and result.shape == shape
    assert result.is_contiguous() and same_layout.is_contiguous(memory_format=layout)
    assert torch.equal(result, same_layout)
    assert torch.equal(images, before)


def test_one_value_serves_grey_images_and_all_channels():
    for channels in (1, 3):
        images = torch.full((2, channels, 4, 4), 255, dtype=torch.uint8)
        assert torch.allclose(Normalise((0.5,), (0.25,))(images), torch.tensor(2.0))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_a_gpu_images_are_channels_last_and_the_constants_are_there_once():
    normalise = Normalise(MEAN, STD)
    images = torch.randint(0, 256, (4, 3, 16, 16), dtype=torch.uint8)
    first = normalise(images.cuda())
    constants = normalise._constants[first.device]
    assert torch.allclose(first.cpu(), normalise(images), atol=1e-6)
    assert first.is_contiguous(memory_format=torch.channels_last)
    normalise(images.cuda())
    assert normalise._constants[first.device] is constants
