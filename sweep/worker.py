"""The devices of a search, and distill.py as a process on one of them."""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from itertools import takewhile
from typing import NamedTuple

from lib.errors import UserError
from lib.files import ROOT

DISTILL = ROOT / "distill.py"
POLL_SECONDS = 0.3
STOP_SECONDS = 20  # for which a run may write its last checkpoint
# The run gets SIGTERM when the pipe from the search closes before a line has come: the search was killed.
WATCHED = 'exec 3<&0 </dev/null; (read line <&3 || kill $$) & exec "$@" 3<&-'


class Device(NamedTuple):
    gpu: str | None  # its entry in CUDA_VISIBLE_DEVICES; None: the CPU
    cores: tuple = ()  # that a run keeps to; empty: all
    workers: int = 1  # runs that share the GPU


def choose_devices(gpu_ids, workers, installed, visible, cores):
    """A Device for every worker: on each GPU of gpu_ids or, where there is none, on the CPU.

    Args:
        gpu_ids: positions in `visible`, or "auto" for all of it.
        installed: the machine's number of GPUs.
        visible: CUDA_VISIBLE_DEVICES or None. As for CUDA, it ends before the first entry that is no GPU.
        cores: divided among workers on the CPU; empty where the system cannot bind a process to cores.
    """
    is_gpu = lambda name: name.startswith(("GPU-", "MIG-")) or name.isdigit() and int(name) < installed
    names = map(str, range(installed)) if visible is None else map(str.strip, visible.split(","))
    gpus = list(takewhile(is_gpu, names)) if installed else []
    positions = range(len(gpus)) if gpu_ids == "auto" else gpu_ids
    if not set(positions) <= set(range(len(gpus))):
        shown = f"nvidia-smi and CUDA_VISIBLE_DEVICES show {len(gpus)} GPUs, numbered from 0"
        raise UserError(f"gpu_ids is {gpu_ids}, but {shown}. --gpu_ids=[] is the CPU")
    chosen = [gpus[position] for position in positions]
    on_cpu = [Device(None, tuple(cores[i::workers] or cores)) for i in range(workers)]
    return [Device(gpu, workers=workers * chosen.count(gpu)) for gpu in chosen * workers] or on_cpu


def find_devices(gpu_ids, workers):
    """(a Device for every worker on this machine, a line that names them)."""
    listed = ""
    if gpu_ids and shutil.which("nvidia-smi"):
        listed = subprocess.run(["nvidia-smi", "--list-gpus"], capture_output=True, text=True).stdout
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_setaffinity") else []
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    devices = choose_devices(gpu_ids, workers, listed.count("GPU "), visible, cores)
    if devices[0].gpu:
        return devices, "workers: " + ", ".join(f"GPU {device.gpu}" for device in devices)
    reason = ", as no GPU is visible" if gpu_ids == "auto" else ""
    unbound = "" if cores else "; this system cannot bind them to cores of their own"
    return devices, f"workers: {workers} on the CPU{reason}{unbound}"


def run_environment(environment, device):
    """The user's environment, with what a run on the device adds."""
    usual = {}
    if device.workers > 1 and "XLA_CLIENT_MEM_FRACTION" not in environment:  # else, the first takes 75 %
        usual["XLA_PYTHON_CLIENT_MEM_FRACTION"] = f"{0.9 / device.workers:.3f}"
    on_cpu = {"CUDA_VISIBLE_DEVICES": "", "JAX_PLATFORMS": "cpu"}
    return {**usual, **environment, **({"CUDA_VISIBLE_DEVICES": device.gpu} if device.gpu else on_cpu)}


def run_distill(arguments, device, is_unwanted):
    """Runs distill.py to its end, or stops it once is_unwanted(); (exit code, last line on stderr)."""
    command = ["sh", "-c", WATCHED, "sh", sys.executable, DISTILL, *arguments]
    with tempfile.TemporaryFile("w+") as errors:
        streams = {"stdin": subprocess.PIPE, "stdout": subprocess.DEVNULL, "stderr": errors}
        # In a session of its own: Ctrl-C in a terminal reaches it through the search, as one signal.
        way = {"start_new_session": True, "env": run_environment(os.environ, device)}
        with subprocess.Popen(command, **streams, **way) as process:
            if device.cores:
                os.sched_setaffinity(process.pid, device.cores)
            try:
                while process.poll() is None and not is_unwanted():
                    time.sleep(POLL_SECONDS)
            finally:
                process.terminate()
                with suppress(subprocess.TimeoutExpired):
                    process.communicate(b"\n", STOP_SECONDS)
                process.kill()
        errors.seek(0)
        lines = errors.read().strip().splitlines()
    return process.returncode, lines[-1] if lines else f"exit code {process.returncode}, without a message"
