"""Stands in for distill.py where a test is of the search alone: the same folder, lock, files and
signals, no work.

Like distill.py on the tests' data set, it fails for more than 150 synthetic users. FAKE_SAYS is an error that
it ends with, FAKE_ERRNO one of the system's, and FAKE_SECONDS how long a step takes.
"""

import os
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from lib.errors import UserError, run_script
from lib.metric_names import METRICS
from lib.settings import resolve
from runs.folder import Stop, open_run


def main(arguments):
    settings, _ = resolve(arguments, "")
    if "FAKE_ERRNO" in os.environ:
        raise OSError(int(os.environ["FAKE_ERRNO"]), os.strerror(int(os.environ["FAKE_ERRNO"])))
    if settings["user_support"] > 150 or "FAKE_SAYS" in os.environ:
        usual = f"user_support is {settings['user_support']:,}, but tiny has 150 users"
        raise UserError(os.environ.get("FAKE_SAYS", usual))
    fingerprint, quality = os.environ["FAKE_FINGERPRINT"], 10 + settings["seed"] + settings["learning_rate"]
    with open_run(settings, fingerprint, "distill") as run, Stop() as stop:
        if (run.folder / "result.json").exists():
            return
        if (run.folder / "pid").exists():
            run.say("going on")
        run.save("pid", str(os.getpid()).encode())
        about = dict.fromkeys(("script", "command", "python", "devices", "started", "git_revision"), "fake")
        about |= {"settings": settings, "data_fingerprint": fingerprint, "versions": {}}
        run.save_json("config.json", about)
        history = []
        for step in range(settings["train_steps"] + 1):
            validation = {**dict.fromkeys(METRICS, 1.0), "HR@100": 100 - quality, "NDCG@10": quality}
            history.append({"step": 25 * step, "validation": validation})
            run.save_metrics(history)
            time.sleep(float(os.environ.get("FAKE_SECONDS", 0)))
            if stop.signal:
                run.say("SIGTERM: stopped")
                sys.exit(128 + stop.signal)
        run.finish(
            {
                "val": validation,
                "test": {**dict.fromkeys(METRICS, 0.0), "HR@10": 1.0, "HR@100": 2.0, "NDCG@10": 3.0},
                "lamda": 1.0,
                "best_step": step,
                "steps": settings["train_steps"],
                "step_seconds": 0.5,
                "wall_seconds": 5.0 + 0.5 * settings["train_steps"],
            }
        )
        with open(run.folder.parent / "finished", "a") as file:
            file.write(f"{run.folder.name}\n")


if __name__ == "__main__":
    run_script(main, "distill")
