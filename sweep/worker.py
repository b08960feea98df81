"""The devices of a search, and distill.py as a process on one of them.

Called as a script, this is that process. It runs distill.py, and has it stop with a checkpoint when the
search has ended, be it killed. The search holds the other end of its standard input, and never writes to it.
"""

import dataclasses
import os
import runpy
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

if __name__ == "__main__":  # the folder of a script stands first in the path: here, the project's has to
    sys.path[0] = str(Path(__file__).parent.parent)

from lib.errors import UserError
from lib.files import ROOT

DISTILL = ROOT / "distill.py"


@dataclasses.dataclass(frozen=True)
class Device:
    """Where one run at a time is carried out."""

    gpu: str | None  # its entry in CUDA_VISIBLE_DEVICES; None: the CPU
    cores: tuple = ()  # the run keeps to these; empty: all
    workers: int = 1  # runs that share the GPU


def visible_gpus(installed, chosen):
    """The entries of CUDA_VISIBLE_DEVICES that name a GPU, up to the first that names none, as for CUDA.

    Args:
        installed: how many GPUs the machine has.
        chosen: the user's CUDA_VISIBLE_DEVICES, numbers or names such as GPU-1a2b; None where it is not set.
    """
    entries = []
    for entry in map(str, range(installed)) if chosen is None else map(str.strip, chosen.split(",")):
        names_one = entry.startswith(("GPU-", "MIG-")) or entry.isdigit() and int(entry) < installed
        if not installed or not names_one:
            break
        entries.append(entry)
    return entries


def choose_devices(gpu_ids, workers, gpus, cores):
    """A Device for every worker.

    Args:
        gpu_ids: positions in gpus, or "auto" for all; where that is none, the workers are on the CPU.
        workers: how many on every GPU, or on the CPU.
        gpus: see `visible_gpus`.
        cores: those that workers on the CPU divide; empty where the system cannot bind a process to cores.

    Raises:
        UserError: a position that is not in gpus.
    """
    if gpu_ids != "auto" and not all(position in range(len(gpus)) for position in gpu_ids):
        raise UserError(
            f"gpu_ids is {gpu_ids}, but nvidia-smi and CUDA_VISIBLE_DEVICES show {len(gpus)} "
            "GPUs, numbered from 0; --gpu_ids=[] is the CPU"
        )
    chosen = [gpus[position] for position in (range(len(gpus)) if gpu_ids == "auto" else gpu_ids)]
    if not chosen:
        return [Device(None, tuple(cores[number::workers] or cores)) for number in range(workers)]
    return [Device(gpu, workers=workers * chosen.count(gpu)) for gpu in chosen for _ in range(workers)]


def find_devices(gpu_ids, workers):
    """(a Device for every worker, a line that says which they are), on this machine."""
    listed = ""
    if gpu_ids and shutil.which("nvidia-smi"):
        listed = subprocess.run(["nvidia-smi", "--list-gpus"], capture_output=True, text=True).stdout
    gpus = visible_gpus(listed.count("GPU "), os.environ.get("CUDA_VISIBLE_DEVICES"))
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_setaffinity") else []
    devices = choose_devices(gpu_ids, workers, gpus, cores)
    if devices[0].gpu is not None:
        return devices, "workers: " + ", ".join(f"GPU {device.gpu}" for device in devices)
    return devices, (
        f"workers: {workers} on the CPU"
        + ", as no GPU is visible" * (gpu_ids == "auto")
        + "; this system cannot bind them to cores of their own" * (not cores)
    )


def run_environment(environment, device, cache):
    """The environment of a run on a device: the search's own, in which what the user has set stays.

    Args:
        cache: the folder in which all runs keep what JAX compiles.
    """
    usual = {
        "JAX_COMPILATION_CACHE_DIR": str(cache),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    }
    if device.workers > 1 and "XLA_CLIENT_MEM_FRACTION" not in environment:
        # Without it, the first process on a GPU takes 75 % of its memory.
        usual["XLA_PYTHON_CLIENT_MEM_FRACTION"] = f"{0.9 / device.workers:.3f}"
    own = {"CUDA_VISIBLE_DEVICES": "", "JAX_PLATFORMS": "cpu"}
    return {**usual, **environment, **(own if device.gpu is None else {"CUDA_VISIBLE_DEVICES": device.gpu})}


def start(arguments, device, cache, errors):
    """Starts distill.py with these arguments; a Popen. What it says on stderr goes to the file errors."""
    # In a session of its own: Ctrl-C in a terminal reaches it through the search, as one signal.
    command = [sys.executable, __file__, ",".join(map(str, device.cores)), str(DISTILL), *arguments]
    return subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=errors,
        start_new_session=True,
        env=run_environment(os.environ, device, cache),
    )


def _stop_with_search():
    os.read(0, 1)  # returns when the search closes its end of the pipe; when it is killed, the system does
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    if sys.argv[1]:
        os.sched_setaffinity(0, map(int, sys.argv[1].split(",")))
    sys.argv = sys.argv[2:]
    threading.Thread(target=_stop_with_search, daemon=True).start()
    runpy.run_path(sys.argv[0], run_name="__main__")
