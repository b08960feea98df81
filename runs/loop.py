"""The loop of a long run, for every script: progress, validations, the best of them, checkpoints, signals.

    loop = Loop(run, evaluation, mesh)                   # as the checkpoint has it, or new
    loop.state = loop.restored("state", state)
    for step in loop.steps(100, "step", closing=True):   # goes on where the checkpoint was
        if not loop.validated:
            loop.keep(f"step {step}", {"step": step}, metrics, best)    # said, kept, saved
        loop.state = ...

A script gives the step and the validation; everything else of a run that may be killed is here.
"""

import math
import signal
import time

import jax
import numpy as np
from tqdm import tqdm

from lib import devices
from lib.errors import UserError
from runs.evaluation import is_finite, show
from runs.folder import Stop, Stopped
from runs.reading import START_AGAIN

CHECKPOINT_SECONDS = 60  # between two steps, a checkpoint is written when the last is this old


class Loop:
    """Where a run stands. What is public is in the checkpoint.

    Args:
        quality: of a line of the history, by which the best is chosen; None: evaluation.quality.

    Attributes:
        stage, step: where it is; a stage is one of several trainings, such as a setting of a grid.
        history: a dict for every validation, as in metrics.jsonl; "validation" is None if it cannot be used.
        seconds: of every step that was timed.
        state, best: trees of arrays: what the next step starts from, and what the best validation had.
        validated: whether this step has been validated.
    """

    def __init__(self, run, evaluation, mesh, quality=None):
        self.run, self._mesh, self._shown = run, mesh, evaluation.shown
        self._quality = quality or (lambda line: evaluation.quality(line["validation"]))
        self.stage, self.step, self.validated = 0, 0, False
        self.history, self.seconds = [], []
        self.state = self.best = None
        self._stop, self._stop_after, self._bar = None, math.inf, None
        self._sent, self._timed_from, self._saved_at = None, None, time.monotonic()
        self._arrays = self._read()

    # ---- Steps -----------------------------------------------------------------------------------------

    def steps(self, count, unit, closing=False, label=None):
        """Generates the steps of this stage that are left, and sets `step`.

        Between two steps it writes a checkpoint if the last one is old. SIGINT and SIGTERM, to any process,
        end all processes after a checkpoint, with the exit code that shells expect.

        Args:
            count: how many steps there are, or a function that says so, where it depends on the history.
            unit: what a step is called.
            closing: a step is validated before it is taken, so generate `count` itself at the end, too.
                Otherwise a step is over when it is validated.
            label: of the progress bar.
        """
        counted = count if callable(count) else lambda: count
        silent = None if jax.process_index() == 0 else True
        if self.validated and not closing:
            self.step, self.validated = self.step + 1, False
        if self._arrays is not None:
            self.run.say(f"going on from {label + ', ' if label else ''}{unit} {self.step} of {counted()}")
        about = {"unit": unit, "desc": label, "dynamic_ncols": True, "disable": silent}
        bar = tqdm(total=counted(), initial=self.step, **about)
        with Stop() as self._stop, bar as self._bar:
            step = self.step
            while step < counted() + closing:
                if step > self.step:
                    self.step, self.validated = step, False
                    self._bar.total = counted()
                    self._bar.update()
                self._stop_or_save(unit)
                yield step
                step += 1
            self.step = counted()

    def next_stage(self):
        """Begins the next stage, at its step 0."""
        self.stage, self.step, self.validated, self._arrays = self.stage + 1, 0, False, None

    def _stop_or_save(self, unit):
        alone = jax.process_count() == 1
        stopping = self._stop.signal is not None if alone else self.step >= self._stop_after
        if stopping or time.monotonic() - self._saved_at > CHECKPOINT_SECONDS:
            self.save()
        if stopping:
            name = signal.Signals(self._stop.signal or signal.SIGTERM)
            again = "the same command" + ("" if self.run.resume else ", with --resume=true,")
            self.run.say(f"{name.name}: stopped after {unit} {self.step}; {again} goes on from there")
            raise Stopped(128 + name)

    # ---- Validations -----------------------------------------------------------------------------------

    def keep(self, text, line, metrics, best=None, unusable="its scores are not finite", saved=True):
        """Adds a validation to the history, and writes log, metrics.jsonl and checkpoint.

        Args:
            text: what was validated, for the log.
            line: what was validated, for metrics.jsonl.
            metrics: {metric: mean}; None, or not finite, if the validation cannot be used.
            best: the tree of arrays to keep, should this be the best validation so far.
            unusable: why, for the log.
            saved: write the checkpoint.

        Returns:
            Whether it is the best so far.
        """
        usable = metrics is not None and is_finite(metrics)
        self.history.append({**line, "validation": metrics if usable else None})
        said = f"validation  {show(metrics, self._shown)}" if usable else f"left out: {unusable}"
        self.run.say(f"{text}  {said}")
        self.run.save_metrics(self.history)
        is_best = usable and self.best_line() is self.history[-1]
        if is_best:
            self.best = best
        self.validated = True
        if saved:
            self.save()
        return is_best

    def best_line(self, of=lambda line: True):
        """The first of the best lines of the history, of those for which `of` is true; None without one."""
        usable = (line for line in self.history if line["validation"] and of(line))
        return max(usable, key=self._quality, default=None)

    def best_step(self):
        """The "step" of the best line; 0 without one."""
        line = self.best_line()
        return line["step"] if line else 0

    # ---- Steps that the devices take while the host goes on ---------------------------------------------

    def watch(self, outcome):
        """Takes the Outcome of a step that was just sent to the devices, and looks at the one before.

        The one before is ready by now, so looking at it leaves the devices with work.

        Args:
            outcome: loss, lamda and stop_votes, arrays on the devices.
        """
        previous, self._sent = self._sent, (self.step + 1, outcome)
        if previous is not None:
            loss = self._check(*previous)
            now = time.perf_counter()
            if self._timed_from is not None:
                self.seconds.append(now - self._timed_from)
            self._timed_from = now
            self._show(loss)

    def loss(self):
        """Waits for the devices. The loss of the last step; None before the first."""
        sent, self._sent, self._timed_from = self._sent, None, None
        if sent is None:
            return None
        loss = self._check(*sent)
        if not all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(self.state)):
            self._fail(*sent, "its parameters are not finite")
        return loss

    def stop_votes(self):
        """1 for each device of this process if it is to stop, else 0. Their sum tells every process."""
        vote = int(self._stop.signal is not None)
        return devices.spread(self._mesh, np.full(len(self._mesh.local_devices), vote, np.int32))

    def _check(self, step, outcome):
        loss = float(outcome.loss)
        if outcome.stop_votes:
            # Not at once: other processes may learn of it only while they take the next step.
            self._stop_after = min(self._stop_after, step + 1)
        if not math.isfinite(loss):
            self._fail(step, outcome, f"its loss is {loss}")
        return loss

    def _fail(self, step, outcome, symptom):
        raise UserError(
            f"step {step} failed at lamda {float(outcome.lamda):.3g}: {symptom}. The kernel is not positive "
            "definite in this precision, or the last update was too large. Try a larger lamda, a smaller "
            f"learning_rate, or --float64=true. The last good state is in {self.run.folder}/checkpoint.npz."
        )

    def _show(self, loss):
        reached = [line["validation"] for line in self.history if line["validation"]]
        shown = f", validation HR@100 {reached[-1]['HR@100']:.2f}" if reached else ""
        self._bar.set_postfix_str(f"loss {loss:.4g}{shown}", refresh=False)

    # ---- Checkpoints -----------------------------------------------------------------------------------

    def save(self):
        """Writes the checkpoint. The arrays in it are finite."""
        self.loss()
        place = {key: getattr(self, key) for key in ("stage", "step", "validated", "history", "seconds")}
        arrays = {**_to_arrays("state", self.state), **_to_arrays("best", self.best)}
        self.run.save_checkpoint(arrays, {**place, "wall_seconds": self.run.wall_seconds()})
        self._saved_at = time.monotonic()

    def restored(self, name, tree):
        """The tree of arrays that the checkpoint has under this name; without a checkpoint, `tree` itself.

        Args:
            name: "state" or "best".
            tree: one of the same structure and shapes.

        Raises:
            UserError: the checkpoint is of another tree.
        """
        if self._arrays is None:
            return tree
        leaves, structure = jax.tree.flatten(tree)
        try:
            saved = [jax.numpy.asarray(self._arrays[f"{name}_{place}"]) for place in range(len(leaves))]
            if [leaf.shape for leaf in saved] != [leaf.shape for leaf in leaves]:
                raise ValueError("shapes differ")
        except (KeyError, ValueError) as error:
            path = self.run.folder / "checkpoint.npz"
            raise UserError(f"{path} does not fit these settings ({error}); {START_AGAIN}") from error
        return jax.tree.unflatten(structure, saved)

    def _read(self):
        """The checkpoint's arrays, once its place is taken over; None without a checkpoint."""
        saved = devices.share(self.run.load_checkpoint())
        if saved is None:
            return None
        arrays, place = saved
        for key in ("stage", "step", "validated", "history", "seconds"):
            setattr(self, key, place[key])
        self.run.earlier_seconds = place["wall_seconds"]
        return arrays


def _to_arrays(name, tree):
    return {f"{name}_{place}": np.asarray(leaf) for place, leaf in enumerate(jax.tree.leaves(tree))}
