import pytest
import torch

from rwp_dist.perturb.normals.generator import TorchNormals
from rwp_dist.perturb.normals.native import NativeNormals

CPU = torch.device("cpu")
GENERATORS = {"torch": lambda seed: TorchNormals(seed, CPU), "native": NativeNormals}
if torch.cuda.is_available():
    GENERATORS["cuda"] = lambda seed: TorchNormals(seed, torch.device("cuda"))


@pytest.fixture(params=GENERATORS)
def generator(request):
    """Every generator of noise that runs on this machine, as a function of the seed."""
    return GENERATORS[request.param]
