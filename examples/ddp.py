"""Train a small network with m-RWP under DistributedDataParallel: a whole script to copy.

    torchrun --nproc-per-node 2 examples/ddp.py
    python examples/ddp.py --method rwp

Lines marked with * are what random weight perturbation adds to an ordinary script. Any method works
here; mixed ones (m-rwp, m-arwp) need two ranks. These labels are clean, so
expect little from it here.
"""

import argparse
import os

import torch
import torch.distributed as dist
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

from rwp_dist.perturb import Perturbed  # *


def main() -> None:
    """Train on the digits of scikit-learn, and test."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--method", default="m-rwp")
    parser.add_argument("--sigma", type=float, help="noise level, of the methods with noise")
    parser.add_argument("--rho", type=float, help="radius, of the methods sam, asam and last-sam")
    parser.add_argument("--steps", type=int, default=200)
    args = parser.parse_args()

    cuda = torch.cuda.is_available()
    device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0"))) if cuda else "cpu"
    if cuda:
        torch.cuda.set_device(device)
    os.environ.setdefault("MASTER_ADDR", "localhost")
    os.environ.setdefault("MASTER_PORT", "29500")
    rank, world_size = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    dist.init_process_group("nccl" if cuda else "gloo", rank=rank, world_size=world_size)

    x, y = load_digits(return_X_y=True)
    x = torch.tensor(x, dtype=torch.float32, device=device).view(-1, 1, 8, 8) / 16
    y = torch.tensor(y, device=device)
    train, test = slice(0, 1200), slice(1200, None)

    torch.manual_seed(0)
    convolutions = [nn.Conv2d(1, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU()]
    model = nn.Sequential(*convolutions, nn.Flatten(), nn.Linear(32 * 64, 10)).to(device)
    ddp = DistributedDataParallel(model)
    optimizer = torch.optim.SGD(ddp.parameters(), lr=0.05, momentum=0.9)
    noisy = Perturbed(ddp, args.method, sigma=args.sigma, rho=args.rho, seed=0)  # *

    sampler = torch.Generator().manual_seed(rank)
    for step in range(args.steps):
        batch = torch.randint(train.stop, (64,), generator=sampler).to(device)

        def loss(batch: torch.Tensor = batch) -> torch.Tensor:
            return F.cross_entropy(ddp(x[batch]), y[batch])

        with noisy(step, loss=loss):  # *
            (noisy.weight * loss()).backward()  # * the weight
        optimizer.step()
        optimizer.zero_grad()
        noisy.end_step()  # *

    # Clean weights, and BatchNorm statistics that belong to them.
    with noisy.evaluating(relearn=lambda: model(x[train])), torch.no_grad():  # *
        model.eval()
        hits = (model(x[test]).argmax(1) == y[test]).float().mean()
        model.train()
    if rank == 0:
        print(f"{args.method}: top-1 {100 * hits:.1f} % after {args.steps} steps")
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
