"""Memory that perturbing the weights takes on one rank. Imports no torch."""

from rwp_dist.perturb.methods import Method


def perturbation_bytes(
    method: Method,
    weight_bytes: int,
    largest_bytes: int,
    *,
    num_perturbed: int,
    copy: bool,
    prefetch: bool,
    in_registers: bool,
) -> dict[str, float]:
    """Bytes on the rank with the most perturbed passes, by what they are for.

    The tables of ARWP are left out: four floats for each row, about 1 % of the weights.

    Args:
        method: what an update computes.
        weight_bytes: all weights of the network, in fp32.
        largest_bytes: its largest parameter.
        num_perturbed: perturbed passes of this rank in one update.
        copy: perturbed weights have memory of their own (``rwp_dist.engine.sharding.needs_copy``).
        prefetch: the setting ``noise.prefetch``.
        in_registers: the Triton kernels draw the noise, which then takes no memory.
    """
    if method.move is None or not num_perturbed:
        return {}
    parts: dict[str, float] = {"perturbed copy": weight_bytes} if copy else {}
    if method.draws_noise:
        if not in_registers:  # without prefetch it is drawn for one parameter at a time
            parts["noise"] = weight_bytes if prefetch else largest_bytes
    else:
        parts["perturbation"] = method.buffers * weight_bytes
    return parts
