import pytest
import torch

from rwp_dist.perturb.normals.generator import TorchNoise
from rwp_dist.perturb.normals.native import NativeNoise

CPU = torch.device("cpu")
GENERATORS = {"torch": lambda seed: TorchNoise(seed, CPU), "native": NativeNoise}
if torch.cuda.is_available():
    GENERATORS["cuda"] = lambda seed: TorchNoise(seed, torch.device("cuda"))


@pytest.fixture(params=GENERATORS)
def generator(request):
    """Every generator of noise that runs on this machine, as a function of the seed."""
    return GENERATORS[request.param]
