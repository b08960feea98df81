"""How every script that makes a run begins and ends."""

import math
import os
import sys
from pathlib import Path

import jax
import numpy as np

import data
import model
from eval import summarise
from lib import devices
from lib.errors import UserError, run_script, shortened
from lib.files import read_npz
from lib.settings import resolve, without_effect
from runs import published, recipes, reference_models
from runs.evaluation import Evaluation, show
from runs.folder import Stopped, describe, open_run, peak_rss_mb
from runs.reading import START_AGAIN

PER_USER = ("HR@10", "NDCG@10")  # kept of every user, to compare models by


def run_job(main):
    """lib.errors.run_script(main); of several processes, one that fails does not wait for the others."""
    try:
        try:
            run_script(main, save_memory="Try a smaller batch_size or eval_batch_size.")
            devices.leave(0)
        except Stopped as stop:
            devices.leave(stop.code)
            raise
    except (SystemExit, jax.errors.JaxRuntimeError) as error:
        # Above 128: a signal has stopped this process, or the reader of the output has ended.
        ended = isinstance(error, SystemExit) and (not error.code or error.code in range(129, 256))
        if not jax.distributed.is_initialized() or ended:
            raise
        if isinstance(error, jax.errors.JaxRuntimeError):
            reason = str(error).splitlines()[0][:200]
            print(
                f"{Path(sys.argv[0]).stem}: another process has failed, or cannot be reached ({reason}). "
                "The same command goes on from the last checkpoint, on any number of processes.",
                file=sys.stderr,
                flush=True,
            )
        # A common end, which is JAX's way, would wait for the other processes in vain.
        os._exit(getattr(error, "code", 1))


def begin(arguments, description, script, of_run=lambda settings: None, choose=None):
    """Reads the settings, joins the other processes, loads the data, and makes every "auto" concrete.

    Args:
        arguments, description, script: see lib.settings.resolve.
        of_run: settings -> the settings of the run whose synthetic users are trained on, for
            recipes.resolve_auto; None without such a run.
        choose: (settings, Dataset, mesh) -> runs.trials.Choice or None, by rehearsals; or None.

    Returns:
        (Settings, {key that was "auto": the reason for its value}, mesh of devices.start, data.Dataset).

    Raises:
        UserError: the settings, the data or the devices are not usable.
    """
    settings, changed = resolve(arguments, description, script)
    if settings.get("distributed"):
        devices.join(settings["coordinator"], settings["process_id"], settings["num_processes"])
    devices.keep_programs(settings["results_dir"])
    mesh = devices.start(settings.get("float64", False))
    shard = jax.process_index(), jax.process_count(), devices.gather
    dataset = data.load(settings["dataset"], settings["data_dir"], settings["repeats"], *shard)
    statistics = recipes.statistics_of(dataset)
    for part, name in ((data.VALIDATION, "validation"), (data.TEST, "test")):
        if not dataset.asked.lengths[part].any():
            raise UserError(f"{dataset.name} has no {name} interactions: there is nothing to measure by")
    dataset = data.add_noise(dataset, settings["noise"], settings["seed"])
    choice = choose(settings, dataset, mesh) if choose else None
    if choice and choice.quality <= choice.popularity and jax.process_index() == 0:
        print(
            f"the recipe is not better than popularity in rehearsals on {dataset.name}: its NDCG@10 is "
            f"{choice.quality:.2f}, and popularity has {choice.popularity:.2f}. "
            f"`python compare.py --data={dataset.name}` shows which model to use"
        )
    settings, reasons = recipes.resolve_auto(settings, statistics, of_run(settings), choice)
    if jax.process_index() == 0:
        for line in _first_lines(settings, changed, reasons, dataset):
            print(line)
    return settings, reasons, mesh, dataset


def _first_lines(settings, changed, reasons, dataset):
    (train, _, _), (_, validation, test) = (of.lengths.sum(axis=1) for of in (dataset, dataset.asked))
    yield (
        f"{dataset.name}: {dataset.users:,} users, {dataset.items:,} items, {train:,} train / "
        f"{validation:,} validation / {test:,} test interactions"
    )
    other = ", ".join(f"{key}={shortened(value)}" for key, value in changed.items() if key != "dataset")
    yield f"settings other than in hyper_params.py: {other or 'none'}"
    if reasons:
        yield recipes.say(settings, reasons)
    yield from without_effect(settings, changed)
    able, tested = (int((dataset.asked.lengths[part] > 0).sum()) for part in (data.VALIDATION, data.TEST))
    if dataset.new_users:
        yield (
            f"nothing is trained on {dataset.new_users.users:,} further users: {able:,} validate, "
            f"{tested:,} are tested"
        )
    sampled = settings["validation_users"]
    if 0 < sampled < able:
        yield (
            f"validating on {sampled:,} of the {able:,} users with validation interactions, always the same; "
            "testing on all"
        )


def make_kernel(settings, dataset):
    """model.Kernel with the settings' depth, normalize and item_discount."""
    weights = data.item_weights(dataset, settings["item_discount"])
    return model.Kernel(settings["depth"], settings["normalize"], weights)


def dtype_of(settings):
    return np.float64 if settings.get("float64") else np.float32


def execute(work, settings, reasons, dataset, mesh, kind, product=None, system=None, started=None):
    """Does the work in the folder of these settings, unless it is finished, and shows the result.

    Args:
        work: (run, evaluation) -> result, as it is to stand in result.json but for time and memory. Its
            "test" is as from eval.evaluate: result.json gets means, users.npz the HR@10 and NDCG@10 of users.
        reasons: see `begin`.
        kind, started: see runs.folder.open_run.
        product: the .npz file that a finished run must have, if any.
        system: a key of published.NDCG_AT_10, whose figure of the paper is shown, if any.

    Returns:
        The run's folder.
    """
    about = describe(
        settings,
        reasons,
        dataset.fingerprint,
        recipes.statistics_of(dataset)._asdict(),
        devices.describe(mesh),
    )
    with open_run(settings, dataset.fingerprint, kind, jax.process_index() > 0, started) as run:
        result, say = devices.share(run.result()), print
        if result is None:
            say = run.say
            run.keep_config(about)
            run.say(f"run: {run.folder} on {devices.describe(mesh)}, {dataset.name}")
            result = _work_and_save(work, run, settings, dataset, Evaluation(dataset, settings, mesh))
        elif jax.process_index() == 0:
            if product is not None:
                read_npz(run.folder / product, START_AGAIN)
            print(f"run: {run.folder} was finished before; --resume=false runs it again", flush=True)
            run.warn_of_differences(about, print)
        if jax.process_index() == 0:
            for line in last_lines(settings, dataset, result, system):
                say(line)
        return run.folder


def _work_and_save(work, run, settings, dataset, evaluation):
    """The result of the work, as it stands in result.json then."""
    try:
        result = work(run, evaluation)
        sample = settings["user_support"], settings["seed"], dtype_of(settings)
        result["yardsticks"] = reference_models.measure(dataset, evaluation, *sample)
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error) and "ut of memory" not in str(error):
            raise
        raise UserError(
            f"out of memory ({str(error).splitlines()[0][:120]}). Try a smaller batch_size, eval_batch_size, "
            "num_per_user or user_support."
        ) from error
    run.save_arrays("users.npz", {name: result["test"][name].astype(np.float32) for name in PER_USER})
    result["test"] = summarise(result["test"])
    result = {"dataset": dataset.name, **result}
    result |= {"wall_seconds": run.wall_seconds(), "peak_rss_mb": peak_rss_mb()}
    run.finish(result)
    return result


def last_lines(settings, dataset, result, system):
    """The last lines of a run: its choices, the models to compare it with, its test metrics."""
    best = "" if result["best_step"] is None else f"best step {result['best_step']} of {result['steps']}, "
    if settings.get("keep_step", "best") != "best":
        best = f"step {result['best_step']} of {settings['train_steps']}, by keep_step, "
    speed = f", {result['step_seconds']:.2f} s a step" if result["step_seconds"] else ""
    choice = result.get("choice", {"lamda": result.get("lamda")})
    chosen = "".join(f"{key} {format_number(value)}, " for key, value in choice.items())
    cost = f"{result['wall_seconds']:.0f} s{speed}, {result['peak_rss_mb']:,.0f} MiB"
    yield f"{dataset.name}: {best}{chosen}{cost}"
    if result["best_step"] == 0 and not result["steps"]:
        yield (
            "NOTHING WAS LEARNT: keep_step is 0, so the synthetic users are those that learning would begin "
            f"with. `python compare.py --data={dataset.name}` shows whether another model serves better."
        )
    elif result["best_step"] == 0:
        soft = settings["rows"] == "soft"
        tau = ", or a gumbel_tau of 2 or more" if soft and settings["gumbel_tau"] < 2 else ""
        groups = ", or --noise_groups=-1" if soft and settings["noise_groups"] != -1 else ""
        apart = "" if soft or settings["max_overlap"] == 1 else ", or a larger max_overlap"
        yield (
            "NOTHING WAS LEARNT: no step was better on validation than the start, so the "
            f"{settings['user_support']:,} synthetic users are what they began as. "
            f"Try another learning_rate{tau}{groups}{apart}."
        )
    by, shown = settings["best_by"], settings["metrics"]
    for name, metrics in result["yardsticks"].items():
        validation, test = f"{metrics['val'][by]:.2f}", show(metrics["test"], shown)
        yield f"for comparison, {name}: validation {by} {validation}, test {test}"
    if result["test"][by] < result["yardsticks"]["popularity"]["test"][by]:
        yield (
            f"WORSE THAN RECOMMENDING WHAT IS POPULAR, by {by}. `python compare.py --data={dataset.name}` "
            "shows what does better."
        )
    figure = published.figure(dataset.fingerprint, system, settings)
    if figure is not None:
        yield f"the paper's {system} on this split of {dataset.name}: NDCG@10 {figure}"
    yield f"test  {show(result['test'], shown)}"


def format_number(value):
    """A setting as text, with three digits or more: 1400, 0.00142, 0.5, 1e-05."""
    if value == 0 or not 1e-4 <= abs(value) < 1e7:
        return f"{value:.3g}"
    text = f"{value:.{max(0, 2 - math.floor(math.log10(abs(value))))}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text
