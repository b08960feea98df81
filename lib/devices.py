"""Where arrays live: one device, or the rows of a batch spread over all there are, on one machine or many.

Synthetic users are replicated and the users of a batch divided among the devices; XLA adds up the
gradients. With one device, and in one process, the same code does nothing special.

With several processes, each sees its own devices and holds its own users. What all of them take part in
must be called by all, in the same order: a step, `gather`, `share`. Everything else is a process's own.
"""

import os
import pickle
import sys

import jax
import numpy as np
import psutil
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from lib.errors import UserError

JOIN_SECONDS = 120  # for which a process waits for the others to begin
HEARTBEAT_SECONDS = 40  # of silence, after which a process counts as dead


def join(coordinator, process_id, num_processes):
    """Makes this process one of several; call once, before `start`.

    Args:
        coordinator: host:port of process 0; "" to ask the launcher (SLURM, Open MPI), or the environment.
        process_id, num_processes: likewise; -1 to ask.

    Raises:
        UserError: the others don't answer, or nothing tells who they are.
    """
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    _keep_standard_output()
    try:
        jax.distributed.initialize(
            coordinator or None,
            num_processes if num_processes > 0 else None,
            process_id if process_id >= 0 else None,
            initialization_timeout=JOIN_SECONDS,
            heartbeat_timeout_seconds=HEARTBEAT_SECONDS,
        )
    except (RuntimeError, ValueError, TypeError) as error:
        raise UserError(
            f"the processes cannot be joined ({str(error).splitlines()[0][:200]}); SLURM and Open MPI are found by themselves, "
            "elsewhere give --coordinator=HOST:PORT, --num_processes and --process_id"
        ) from error


def _keep_standard_output():
    """Leaves standard output to Python alone: Gloo, in C++, greets every process there."""
    sys.stdout.flush()
    sys.stdout = os.fdopen(os.dup(1), "w", encoding=sys.stdout.encoding, errors=sys.stdout.errors)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


def start(float64):
    """Chooses the precision of the whole process, and then is `find`; call once, before any array is made."""
    jax.config.update("jax_enable_x64", float64)
    return find()


def find():
    """A mesh over every device of every process, with the one axis "users".

    Raises:
        UserError: JAX finds no device it can use.
    """
    try:
        return Mesh(jax.devices(), "users")
    except (RuntimeError, AssertionError) as error:  # an AssertionError where the wheels for CUDA are missing
        raise UserError(
            f"JAX finds no device: {(str(error).splitlines() or ['no reason given'])[0]}; JAX_PLATFORMS=cpu uses the "
            "CPU, requirements-gpu.txt has what NVIDIA GPUs need"
        ) from error


def local(mesh):
    """The part of the mesh that is this process's own."""
    return Mesh(jax.local_devices(), "users") if jax.process_count() > 1 else mesh


def describe(mesh):
    """One text, such as '2 x NVIDIA A100' or '8 x cpu in 2 processes'."""
    processes = f" in {jax.process_count()} processes" if jax.process_count() > 1 else ""
    return f"{mesh.size} x {mesh.devices.flat[0].device_kind}{processes}"


def replicated(mesh):
    """The sharding of what every device has a copy of."""
    return NamedSharding(mesh, PartitionSpec())


def spread(mesh, rows, capacity=0):
    """Puts a numpy array (B, ...) on the devices, its rows divided among them.

    Args:
        mesh: `local`, or of all processes, each of which gives its own rows.
        capacity: the most rows that any process gives, where they differ.

    Returns:
        jax.Array (B', ...); each process's rows are filled up with zeros to the capacity and to a multiple
        of its devices.
    """
    capacity = max(capacity, len(rows))
    capacity += -capacity % len(mesh.local_devices)
    rows = np.pad(rows, ((0, capacity - len(rows)), *((0, 0),) * (rows.ndim - 1)))
    return jax.make_array_from_process_local_data(NamedSharding(mesh, PartitionSpec("users")), rows)


def replicate(mesh, tree):
    """Puts a copy of every array of the tree on every device; processes must give the same."""
    return jax.tree.map(
        lambda array: jax.make_array_from_process_local_data(replicated(mesh), np.asarray(array)), tree
    )


def localise(mesh, array):
    """A replicated array of all processes on the devices of the `local` mesh."""
    return array if jax.process_count() == 1 else replicate(mesh, array)


def free_bytes(mesh):
    """Memory that may still be allocated on each device."""
    device = mesh.local_devices[0]
    if stats := device.memory_stats():
        return stats["bytes_limit"] - stats["bytes_in_use"]
    return psutil.virtual_memory().available // len(mesh.local_devices)  # on the host, which they share


def gather(array):
    """Joins the processes' numpy arrays (k, ...), whose k may differ, in the order of the processes."""
    if jax.process_count() == 1:
        return array
    sizes = multihost_utils.process_allgather(np.array(len(array)))
    padded = np.pad(array, ((0, sizes.max() - len(array)), *((0, 0),) * (array.ndim - 1)))
    # As bytes: JAX would make 32-bit numbers of 64-bit ones.
    everyone = multihost_utils.process_allgather(np.ascontiguousarray(padded).view(np.uint8))
    return np.concatenate([part.view(array.dtype)[:size] for part, size in zip(everyone, sizes)])


def share(value):
    """Process 0's value (anything that can be pickled), in every process."""
    if jax.process_count() == 1:
        return value
    content = pickle.dumps(value) if jax.process_index() == 0 else b""
    return pickle.loads(gather(np.frombuffer(content, np.uint8)).tobytes())
