"""Moves: how a perturbed pass moves the weights. One file each; ``METHODS`` names them."""

from rwp_dist.perturb.moves.move import Move, Network, Options, build_move
from rwp_dist.perturb.moves.noise import Noise

__all__ = ["Move", "Network", "Noise", "Options", "build_move"]
