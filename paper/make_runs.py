"""The runs that the comparison lacks: the commands that make them, and making them."""

import shlex
import signal
import subprocess
import sys
import time

import numpy as np
from tqdm import tqdm

from hyper_params import hyper_params
from lib.errors import UserError
from lib.files import ROOT
from paper import plan
from runs.folder import IN_USE


def command(planned, options):
    """The words after python; of the options, those that are not as in hyper_params.py."""
    elsewhere = (f"--{key}={value}" for key, value in options.items() if value != hyper_params[key])
    return [f"{planned.script}.py", *planned.arguments, *elsewhere]


def seconds_of(planned, matched):
    """How long a run may take: as long as those of its system took, else as all did; None without one."""
    made = {done: run.result["wall_seconds"] for done, run in matched.items() if run}
    of = planned.part, planned.system, planned.dataset
    same = [seconds for done, seconds in made.items() if (done.part, done.system, done.dataset) == of]
    every = same or list(made.values())
    return float(np.mean(every)) if every else None


def show_plan(missing, matched, options):
    for planned in missing:
        if planned.arguments is not None:
            print("python " + shlex.join(command(planned, options)))
    if later := sum(planned.arguments is None for planned in missing):
        print(f"and {later} that take over what one of these chooses or learns")
    known = [seconds for planned in missing if (seconds := seconds_of(planned, matched)) is not None]
    print(
        f"{len(missing)} runs are missing, {sum(run is not None for run in matched.values())} are there"
        + (f"; about {sum(known) / 3600:.1f} hours, by those that have finished" if known else "")
    )


def run_to_the_end(words):
    """Runs a command; (exit code, last line of stderr). What ends this process ends that one first."""
    with subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
        try:
            complaint = process.communicate()[1]
        except BaseException:
            process.terminate()  # it writes a checkpoint
            process.wait()
            raise
    return process.returncode, (complaint.strip().splitlines() or ["no reason given"])[-1]


def make(options):
    """Makes the missing runs; the commands that failed.

    Ctrl-C and SIGTERM stop the run, which goes on from its checkpoint the next time, and all that follow.
    """
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    failed, bar = [], tqdm(unit="run", disable=None)
    in_words = lambda planned: "python " + shlex.join(command(planned, options))
    while True:
        runs, _ = plan.find(options["results_dir"])
        missing = [
            planned
            for planned in plan.missing_of(runs)
            if planned.arguments is None or in_words(planned) not in failed
        ]
        bar.total = bar.n + len(missing)
        if not missing or missing[0].arguments is None:
            return failed
        planned = missing[0]
        bar.set_postfix_str(f"{planned.system}, {planned.dataset}")
        began = time.monotonic()
        script, *arguments = command(planned, options)
        code, complaint = run_to_the_end([sys.executable, ROOT / script, *arguments])
        if code < 0 or code > 128:
            raise UserError(f"{in_words(planned)} was interrupted; the same command goes on where it was")
        if IN_USE in complaint:
            raise UserError(complaint)
        runs, _ = plan.find(options["results_dir"])
        run = next((run for run in runs.all_of(planned) if run.folder), None)
        if code or run is None:
            failed.append(in_words(planned))
            tqdm.write(f"failed: {in_words(planned)}: {complaint}")
        else:
            at = "" if planned.at is None else f"{planned.at}, "
            unclean = "" if run.clean else "; not to be kept: the code has uncommitted changes"
            tqdm.write(
                f"{planned.part}: {planned.system}, {planned.dataset}, {at}seed {planned.seed}: "
                f"test NDCG@10 {run.result['test']['NDCG@10']:.2f}, "
                f"{time.monotonic() - began:.0f} s{unclean}"
            )
        bar.update()
