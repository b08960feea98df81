"""Where arrays live: one device, or the rows of a batch spread over all there are.

Synthetic users are replicated and the users of a batch divided among the devices; XLA adds up the
gradients. With one device the same code does nothing special.
"""
import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from settings import UserError


def start(float64):
    """Chooses the precision and finds the devices; call once, before any array is made.

    Returns:
        A mesh over every device, with the one axis "users".

    Raises:
        UserError: JAX finds no device it can use.
    """
    jax.config.update("jax_enable_x64", float64)
    try:
        return Mesh(jax.devices(), "users")
    except (RuntimeError, AssertionError) as error:  # an AssertionError where the wheels for CUDA are missing
        raise UserError(f"JAX finds no device: {(str(error).splitlines() or ['no reason given'])[0]}; JAX_PLATFORMS=cpu uses the "
                        "CPU, requirements-gpu.txt has what NVIDIA GPUs need") from error


def describe(mesh):
    """One text, such as '2 x NVIDIA A100' or '1 x cpu'."""
    return f"{mesh.size} x {mesh.devices.flat[0].device_kind}"


def spread(mesh, rows):
    """Puts a numpy array (B, ...) on the devices, its rows divided among them.

    Returns:
        jax.Array (B', ...), B' the next multiple of the number of devices; rows added are 0.
    """
    missing = -len(rows) % mesh.size
    rows = np.pad(rows, ((0, missing), *((0, 0),) * (rows.ndim - 1)))
    return jax.device_put(rows, NamedSharding(mesh, PartitionSpec("users")))


def replicate(mesh, tree):
    """Puts a copy of every array of the tree on every device."""
    return jax.device_put(tree, NamedSharding(mesh, PartitionSpec()))
