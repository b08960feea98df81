"""Where arrays live: on one device, or on all devices of one machine or of many.

The real users of a batch are divided among the devices. Every device has a copy of the synthetic users. XLA
adds up the gradients. With a single device, or a single process, the same code applies.

Each of several processes sees its own devices and holds its own users. All processes must call a step,
`gather` and `share`, in the same order; every other call concerns one process alone.
"""

import hashlib
import os
import pickle
import platform
import sys
import time
import warnings
from pathlib import Path

import jax
import numpy as np
import psutil
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from lib.errors import Output, UserError

JOIN_SECONDS = 120  # how long a process waits for the others to start
GIB = 2**30  # bytes
HEARTBEAT_SECONDS = 40  # how long a process may be silent before it counts as dead
LEAVE_SECONDS = 1  # how long process 0 outlives the others, which take its end for a failure


def join(coordinator, process_id, num_processes):
    """Makes this process one of several; called once, before `start`.

    Args:
        coordinator: host:port of process 0; "" takes that of the launcher (SLURM, Open MPI).
        process_id, num_processes: -1 takes them from the same place.

    Raises:
        UserError: the other processes do not answer, or are unknown.
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
        reason = str(error).splitlines()[0][:200]
        raise UserError(
            f"the processes cannot be joined ({reason}). Without SLURM or Open MPI, "
            "every process needs --coordinator=HOST:PORT --num_processes=N --process_id=I."
        ) from error


def leave(code):
    """Ends this process, one of several, once all have come to their end; returns where it is the only one.

    JAX's own end is left out: now and then the service in process 0 crashes while it shuts down, in gRPC.

    Raises:
        jax.errors.JaxRuntimeError: another process has ended before.
    """
    if not jax.distributed.is_initialized() or jax.process_count() == 1:
        return
    multihost_utils.sync_global_devices("the end")
    sys.stdout.flush()
    if jax.process_index() == 0:
        time.sleep(LEAVE_SECONDS)
    os._exit(code)


def _keep_standard_output():
    """Reserves standard output for Python, because Gloo, in C++, prints a greeting there."""
    sys.stdout.flush()
    about = sys.stdout.encoding, sys.stdout.errors, None, sys.stdout.line_buffering
    sys.stdout = Output(os.fdopen(os.dup(1), "wb"), *about)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


def start(float64):
    """The mesh of `find`, after setting the process's precision; called once, before any array is made."""
    jax.config.update("jax_enable_x64", float64)
    return find()


def keep_programs(folder):
    """Lets JAX keep its compiled programs in a folder, for the next run of the same shapes.

    JAX_COMPILATION_CACHE_DIR names another folder. A program for the CPU is for one kind of CPU and number of
    cores: each has a folder of its own.
    """
    if jax.config.jax_compilation_cache_dir:
        return
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    kind = f"{platform.machine()} {_cpu_features()} {cores}"
    name = f".compiled-{hashlib.sha256(kind.encode()).hexdigest()[:8]}"
    jax.config.update("jax_compilation_cache_dir", str(Path(folder) / name))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    # A program that could not be kept, on a full disk or by a killed process, is only compiled again.
    warnings.filterwarnings("ignore", "Error (reading|writing) persistent compilation cache")


def _cpu_features():
    """What the CPU can do, as the system says; elsewhere than on Linux its name."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line for line in lines if line.startswith(("flags", "Features"))), platform.processor())


def find():
    """A mesh over all devices of all processes, with one axis, "users".

    Raises:
        UserError: JAX finds no device.
    """
    try:
        return Mesh(jax.devices(), "users")
    except (RuntimeError, AssertionError) as error:  # AssertionError: the CUDA wheels are missing
        reason = (str(error).splitlines() or ["no reason given"])[0]
        raise UserError(
            f"JAX finds no device: {reason}. For the CPU set JAX_PLATFORMS=cpu; for an NVIDIA GPU: "
            "pip install -r requirements-gpu.txt"
        ) from error


def local(mesh):
    """The mesh of this process's own devices."""
    return Mesh(jax.local_devices(), "users") if jax.process_count() > 1 else mesh


def describe(mesh):
    """The mesh in words, such as '2 x NVIDIA A100' or '8 x cpu in 2 processes'."""
    processes = f" in {jax.process_count()} processes" if jax.process_count() > 1 else ""
    return f"{mesh.size} x {mesh.devices.flat[0].device_kind}{processes}"


def replicated(mesh):
    """The sharding of an array of which every device has a copy."""
    return NamedSharding(mesh, PartitionSpec())


def few_sizes(size):
    """The size, rounded up to a few eighths of a power of two: of many sizes, few programs are compiled."""
    step = max(1, 2 ** (int(size).bit_length() - 3))
    return size + -size % step


def spread(mesh, rows, capacity=0):
    """The rows of an array, divided among the devices.

    Args:
        mesh: of all processes, each of which passes its own rows; or the `local` one.
        rows: numpy (B, ...).
        capacity: the largest B of all processes, if they differ.

    Returns:
        jax.Array (B', ...): each process's rows, padded with zeros to the capacity and to a multiple of the
        number of its devices.
    """
    capacity = max(capacity, len(rows))
    capacity += -capacity % len(mesh.local_devices)
    if capacity > len(rows):
        rows = np.pad(rows, ((0, capacity - len(rows)), *((0, 0),) * (rows.ndim - 1)))
    return jax.make_array_from_process_local_data(NamedSharding(mesh, PartitionSpec("users")), rows)


def replicate(mesh, tree):
    """A tree of arrays with a copy of each array on every device; all processes must pass the same tree."""
    return jax.tree.map(
        lambda array: jax.make_array_from_process_local_data(replicated(mesh), np.asarray(array)), tree
    )


def localise(mesh, array):
    """An array that all processes have replicated, on the devices of the `local` mesh alone."""
    return array if jax.process_count() == 1 else replicate(mesh, array)


def free_bytes(mesh):
    """Bytes of memory that are free on each device."""
    device = mesh.local_devices[0]
    if stats := device.memory_stats():
        return stats["bytes_limit"] - stats["bytes_in_use"]
    return psutil.virtual_memory().available // len(mesh.local_devices)  # CPU devices share the host's


def gather(array):
    """The numpy arrays (k, ...) of all processes, joined in the processes' order; k may differ."""
    if jax.process_count() == 1:
        return array
    sizes = multihost_utils.process_allgather(np.array(len(array)))
    padded = np.pad(array, ((0, sizes.max() - len(array)), *((0, 0),) * (array.ndim - 1)))
    # As bytes, because JAX would turn 64-bit numbers into 32-bit ones.
    everyone = multihost_utils.process_allgather(np.ascontiguousarray(padded).view(np.uint8))
    return np.concatenate([part.view(array.dtype)[:size] for part, size in zip(everyone, sizes)])


def share(value):
    """The value that process 0 passes, in every process; anything that can be pickled."""
    if jax.process_count() == 1:
        return value
    content = pickle.dumps(value) if jax.process_index() == 0 else b""
    return pickle.loads(gather(np.frombuffer(content, np.uint8)).tobytes())
