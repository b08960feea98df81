"""The runs that the comparison lacks: the commands that make them, and making them."""

import shlex
import signal
import subprocess
import sys
import time

import numpy as np
from tqdm import tqdm

from hyper_params import hyper_params
from lib.errors import IN_USE, InUse, UserError
from lib.files import ROOT
from paper import plan


def command(planned, options):
    """The words after python; of the options, those with another value than in hyper_params.py."""
    elsewhere = (f"--{key}={value}" for key, value in options.items() if value != hyper_params[key])
    return [f"{planned.script}.py", *planned.arguments, *elsewhere]


def command_line(planned, options):
    return "python " + shlex.join(command(planned, options))


def expected_seconds(planned, matched):
    """The mean time of the finished runs of the same system, or else of all; None without any."""
    seconds = {done: run.result["wall_seconds"] for done, run in matched.items() if run}
    same = [seconds[done] for done in seconds if done[:3] == planned[:3]]
    return float(np.mean(same or list(seconds.values()))) if seconds else None


def show_plan(missing, matched, options):
    for planned in missing:
        if planned.arguments is not None:
            print(command_line(planned, options))
    if waiting := sum(planned.arguments is None for planned in missing):
        print(f"and {waiting} whose settings or synthetic users come from one of these")
    seconds = [expected_seconds(planned, matched) for planned in missing]
    hours = sum(filter(None, seconds)) / 3600
    print(
        f"{len(missing)} runs are missing, {len({run.name for run in matched.values() if run})} are made"
        + (f"; about {hours:.1f} hours, judging by the finished runs" if any(seconds) else "")
    )


def run_to_the_end(words):
    """Runs a command; (exit code, last line of stderr). What ends this process ends the command first."""
    with subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
        try:
            errors = process.communicate()[1]
        except BaseException:
            process.terminate()  # it writes a checkpoint
            process.wait()
            raise
    return process.returncode, (errors.strip().splitlines() or ["no reason given"])[-1]


def stop_on_sigterm():
    """SIGTERM ends this process, and first the run that it is making, which writes a checkpoint."""
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))


def make_run(planned, options):
    """Makes a planned run, or goes on with it; the reason why it failed, or "".

    Raises:
        UserError: the run was interrupted, or (InUse) another process is making it.
    """
    script, *arguments = command(planned, options)
    code, last_error = run_to_the_end([sys.executable, ROOT / script, *arguments])
    if code == -signal.SIGKILL:  # Linux does so to the process that holds most, when memory runs out
        return f"{script} was killed, most likely because memory ran out"
    if code < 0 or code > 128:
        line = command_line(planned, options)
        raise UserError(f"{line} was interrupted; the same command goes on from its checkpoint")
    if code == IN_USE:
        raise InUse(last_error)
    return last_error if code else ""


def make(options):
    """Makes the missing runs; the command lines that failed.

    Ctrl-C and SIGTERM stop the run and all that follow; the next call goes on from the run's checkpoint.
    """
    stop_on_sigterm()
    failed, bar = [], tqdm(unit="run", disable=None)
    while True:
        runs, _ = plan.read_runs(options["results_dir"])
        missing = [
            planned
            for planned in plan.missing_runs(runs)
            if planned.arguments is None or command_line(planned, options) not in failed
        ]
        bar.total = bar.n + len(missing)
        if not missing or missing[0].arguments is None:
            return failed
        planned = missing[0]
        bar.set_postfix_str(f"{planned.system}, {planned.dataset}")
        began = time.monotonic()
        line, failure = command_line(planned, options), make_run(planned, options)
        runs, _ = plan.read_runs(options["results_dir"])
        run = next((run for run in runs.find_all(planned) if run.folder), None)
        if failure or run is None:
            failed.append(line)
            tqdm.write(f"failed: {line}: {failure or 'its run is not in results_dir'}")
        else:
            point = "" if planned.point is None else f"{planned.point}, "
            unclean = "" if run.clean else "; not recorded: the code has uncommitted changes"
            tqdm.write(
                f"{planned.part}: {planned.system}, {planned.dataset}, {point}seed {planned.seed}: "
                f"test NDCG@10 {run.result['test']['NDCG@10']:.2f}, "
                f"{time.monotonic() - began:.0f} s{unclean}"
            )
        bar.update()
