"""How every script that makes a run begins and ends: settings, devices and data first, the result and its lines last."""

import os
import sys
from pathlib import Path

import jax
import numpy as np

import data
import model
from eval import METRICS, number, summarise
from lib import devices
from lib.errors import UserError, run_script
from lib.files import read_npz
from lib.random_streams import Stream, generator
from lib.settings import resolve, without_effect
from runs import published, recipes, reference_models
from runs.folder import START_AGAIN, describe, open_run, peak_rss_mb

PER_USER = ("HR@10", "NDCG@10")  # what is kept of every user, to compare models by


def run_job(main):
    """errors.run_script(main), after which a process of several that failed does not wait for the others to end."""
    try:
        run_script(main)
    except (SystemExit, jax.errors.JaxRuntimeError) as error:
        if (
            not jax.distributed.is_initialized()
            or isinstance(error, SystemExit)
            and isinstance(error.code, (int, type(None)))
        ):
            raise
        if isinstance(error, jax.errors.JaxRuntimeError):
            error = (
                f"{Path(sys.argv[0]).stem}: another process has failed, or cannot be reached any more ({str(error).splitlines()[0][:200]}); the same "
                "command goes on from the last checkpoint, on as many processes as you like"
            )
        print(error, file=sys.stderr, flush=True)
        os._exit(1)  # a common end, which is JAX's way, would wait for them in vain


def begin(arguments, description, script, of_run=lambda settings: None):
    """Reads the settings, joins the other processes if there are any, loads the data, and makes every "auto" concrete.

    Args:
        arguments, description, script: see settings.resolve.
        of_run: settings -> what the run has whose synthetic users are to be trained on, for recipes.resolve_auto; None without one.

    Returns:
        (Settings, {key that was "auto": why it is what it is}, mesh of devices.start, data.Dataset).

    Raises:
        UserError: anything about them is not as it should be.
    """
    settings, changed = resolve(arguments, description, script)
    if settings.get("distributed"):
        devices.join(settings["coordinator"], settings["process_id"], settings["num_processes"])
    mesh = devices.start(settings.get("float64", False))
    dataset = data.load(
        settings["dataset"],
        settings["data_dir"],
        settings["repeats"],
        jax.process_index(),
        jax.process_count(),
        devices.gather,
    )
    settings, reasons = recipes.resolve_auto(settings, recipes.statistics_of(dataset), of_run(settings))
    dataset = data.add_noise(dataset, settings["noise"], settings["seed"])
    train, validation, test = dataset.lengths.sum(axis=1)
    if jax.process_index() == 0:
        print(
            f"{dataset.name}: {dataset.users:,} users, {dataset.items:,} items, {train:,} train / {validation:,} validation / "
            f"{test:,} test interactions"
        )
        print(
            "settings other than in hyper_params.py:",
            ", ".join(f"{key}={value}" for key, value in changed.items() if key != "dataset") or "none",
        )
        if reasons:
            print(recipes.say(settings, reasons))
        for note in without_effect(settings, changed):
            print(note)
        asked, able = settings["validation_users"], int((dataset.lengths[data.VALIDATION] > 0).sum())
        if 0 < asked < able:
            print(
                f"validating on {asked:,} of the {able:,} users with validation interactions, always the same; testing on all"
            )
    for part, count in (("validation", validation), ("test", test)):
        if count == 0:
            raise UserError(f"{dataset.name} has no {part} interactions: there is nothing to measure by")
    return settings, reasons, mesh, dataset


def make_kernel(settings, dataset):
    """model.make_kernel as the settings, and the data set's train interactions, have it."""
    return model.make_kernel(
        settings["depth"], settings["normalize"], data.item_weights(dataset, settings["item_discount"])
    )


def carry_out(work, settings, reasons, dataset, mesh, kind, product, system):
    """Runs the work in the folder of these settings, unless it has been finished, and shows the result.

    Args:
        work: run -> result, as it is to stand in result.json but for the time and the memory; "test" as from
            eval.evaluate, of which the means stand there and every user's HR@10 and NDCG@10 in users.npz.
        reasons: see begin.
        kind: see runs.open_run.
        product: the file, a .npz, that a finished run must have; None if only its metrics.
        system: whose figure of the paper is shown, a key of published.NDCG_AT_10; None without one.
    """
    with open_run(settings, dataset.fingerprint, kind, silent=jax.process_index() > 0) as run:
        result, say = devices.share(run.result()), print
        about = describe(
            settings,
            reasons,
            dataset.fingerprint,
            recipes.statistics_of(dataset)._asdict(),
            devices.describe(mesh),
        )
        if result is None:
            say = run.say
            run.keep_config(about)
            run.say(f"run: {run.folder} on {devices.describe(mesh)}, {dataset.name}")
            try:
                result = work(run)
                views = (
                    dataset.validation_view(
                        generator(settings["seed"], Stream.VALIDATION), settings["validation_users"]
                    ),
                    dataset.test_view(generator(settings["seed"], Stream.TEST)),
                )
                result["yardsticks"] = reference_models.measure(settings, dataset, views, devices.local(mesh))
            except jax.errors.JaxRuntimeError as error:
                if "RESOURCE_EXHAUSTED" not in str(error) and "ut of memory" not in str(error):
                    raise
                raise UserError(
                    "out of memory: a smaller batch_size, eval_batch_size, num_per_user or user_support needs less "
                    f"({str(error).splitlines()[0][:120]})"
                ) from error
            run.save_arrays("users.npz", {name: result["test"][name].astype(np.float32) for name in PER_USER})
            result["test"] = summarise(result["test"])
            result = {
                "dataset": dataset.name,
                **result,
                "wall_seconds": run.wall_seconds(),
                "peak_rss_mb": peak_rss_mb(),
            }
            run.save_json("result.json", result)
        elif jax.process_index() == 0:
            if product is not None:
                read_npz(run.folder / product, START_AGAIN)
            print(f"run: {run.folder} was finished before; --resume=false runs it again", flush=True)
            run.warn_of_differences(about, print)
        if jax.process_index() == 0:
            for line in last_lines(settings, dataset, result, system):
                say(line)


def last_lines(settings, dataset, result, system):
    """What a run ends with: how it went, what it is to be compared with, and its test metrics."""
    best = "" if result["best_step"] is None else f"best step {result['best_step']} of {result['steps']}, "
    speed = f", {result['step_seconds']:.2f} s a step" if result["step_seconds"] else ""
    choice = result["choice"] if "choice" in result else {"lamda": result["lamda"]}
    yield (
        f"{dataset.name}: {best}"
        + "".join(f"{key} {number(value)}, " for key, value in choice.items())
        + f"{result['wall_seconds']:.0f} s{speed}, {result['peak_rss_mb']:,.0f} MiB"
    )
    if result["best_step"] == 0:
        yield (
            f"NOTHING WAS LEARNT: no step was better than the start on validation, so the {settings['user_support']:,} synthetic users are "
            "the real users they began as. Try another learning_rate"
            + (", or a gumbel_tau of 2 or more" if settings["gumbel_tau"] < 2 else "")
            + (", or --noise_groups=-1" if settings["noise_groups"] != -1 else "")
            + "."
        )
    by = settings["best_by"]
    for name, metrics in result["yardsticks"].items():
        yield f"for comparison, {name}: validation {by} {metrics['val'][by]:.2f}, test {show(metrics['test'])}"
    if result["test"][by] < result["yardsticks"]["popularity"]["test"][by]:
        yield (
            f"WORSE THAN RECOMMENDING WHAT IS POPULAR, by {by}. Try infinite_ae.py, which trains on all users; with distill.py, "
            "--normalize=false, a smaller learning_rate, or another user_support."
        )
    figure = published.figure(dataset.fingerprint, system, settings)
    if figure is not None:
        yield f"the paper's {system} on this split of {dataset.name}: NDCG@10 {figure}"
    yield f"test  {show(result['test'])}"


def to_arrays(name, tree):
    """The leaves of a tree as a dict of arrays, for a checkpoint."""
    return {f"{name}_{i}": np.asarray(leaf) for i, leaf in enumerate(jax.tree.leaves(tree))}


def from_arrays(name, tree, arrays):
    """A tree like this one with the leaves that `to_arrays` made of such a one.

    Raises:
        KeyError, ValueError: they are of another tree.
    """
    leaves, structure = jax.tree.flatten(tree)
    found = [jax.numpy.asarray(arrays[f"{name}_{i}"]) for i in range(len(leaves))]
    if [each.shape for each in found] != [leaf.shape for leaf in leaves]:
        raise ValueError("shapes differ")
    return jax.tree.unflatten(structure, found)


def show(metrics):
    """The metrics in one line."""
    shown = lambda name: "none" if metrics[name] is None else f"{metrics[name]:.{4 if name == 'AUC' else 2}f}"
    return "  ".join(f"{name} {shown(name)}" for name in METRICS)


def quality(metrics, by):
    """What the best model is chosen by, on validation: one metric, and nDCG@10 where that is the same."""
    return metrics[by], metrics["NDCG@10"]


def best_of(history, by):
    """The first of the best validations of a history, those left out passed over; None if there is none."""
    return max(
        (line for line in history if line["validation"]),
        key=lambda line: quality(line["validation"], by),
        default=None,
    )
