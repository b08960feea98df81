"""∞-AE on all users, or on a sample of them: trains it in closed form, evaluates it, tests it once.

    python infinite_ae.py                          on everyone, lamda from {1, 5, 20, 50, 100}
    python infinite_ae.py --user_support=1000      on 1,000 random users, evaluated on everyone
    python infinite_ae.py --sampler=head --user_support=500    on users picked otherwise: rivals/samplers.py
    python infinite_ae.py --sampler=distilled --distilled=results/<run>    on what distill.py has learnt
    python infinite_ae.py --dataset=magazine --lamda_grid=[5]

lamda is chosen on validation, by best_by. The kernel of m users is built once; each lamda costs one
factorisation and one solve, and where the users it is trained on are those it is validated on, not even a
product, since K(X,X) alpha = X - lamda tr(K)/m alpha. With all users lamda = 0 is left out, therefore: their
scores are X, which ranks nothing. The same command goes on after the last lamda that was validated. What a
run leaves is described in runs/folder.py.
"""

import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec
from tqdm import tqdm

import data
import model
from eval import evaluate, inverse_propensity, scores_of, scores_of_trained, summarise
from lib import devices, plots
from lib.errors import UserError
from lib.random_streams import Stream, generator
from rivals import samplers
from runs.lifecycle import begin, best_of, carry_out, make_kernel, run_job, show

NO_RIDGE = "without a ridge the scores of the training users are their own rows"


def build_gram(kernel, train, rows, mesh):
    """K(X, X), (m, m) on every device; of 0 and 1, each one has calculated its share of the rows.

    Args:
        train: X, CSR (m, I).
        rows: X, (m, I) on every device.
    """
    if (train.data != 1).any():
        # Synthetic users, which nearly coincide: only this form of the kernel is exact there. They are few, so
        # every device calculates it whole.
        return jax.jit(kernel)(rows)
    if mesh.size == 1:
        # Not kernel(rows), which needs room for every layer: rows of 0 and 1 are far enough apart.
        return jax.jit(kernel)(rows, rows)
    shares = data.shares(train.shape[0], jax.process_count())
    first, last = shares[jax.process_index() :][:2]
    own = devices.spread(mesh, train[first:last].toarray().astype(rows.dtype), np.diff(shares).max())
    capacity = own.shape[0] // jax.process_count()
    # Behind each process's rows stand the empty ones that make the shares even.
    kept = np.concatenate(
        [process * capacity + np.arange(count) for process, count in enumerate(np.diff(shares))]
    )
    return jax.jit(lambda own, rows: kernel(own, rows)[kept], out_shardings=devices.replicated(mesh))(
        own, rows
    )


def make_solver(mesh, items):
    """solve(gram (m, m), rows (m, I), lamda) -> alpha (m, I): each device factorises the kernel, and solves for its share of the items."""
    if mesh.size == 1:
        return jax.jit(model.ridge)
    everything, share = PartitionSpec(), PartitionSpec(None, "users")
    on_devices = jax.shard_map(
        model.ridge, mesh=mesh, in_specs=(everything, share, everything), out_specs=share, check_vma=False
    )

    @partial(jax.jit, out_shardings=devices.replicated(mesh))
    def solve(gram, rows, lamda):
        labels = jnp.pad(rows, ((0, 0), (0, -items % mesh.size)))
        return on_devices(gram, labels, lamda)[:, :items]

    return solve


def check_fits(settings, dataset, mesh):
    """Raises UserError if the kernel of so many users cannot be held; nothing has been allocated yet."""
    m, items = settings["user_support"], dataset.items
    if m == -1:
        m = dataset.users
    elif settings["sampler"] == "interactions":  # of nearly all users, unless they are fewer than those
        m = min(dataset.users, round(dataset.lengths[data.TRAIN].sum() * m / dataset.users))
    number, free = 8 if settings["float64"] else 4, devices.free_bytes(mesh)
    # The kernel, the regularised kernel and its factor; the rows, their solution, the best one and a copy to solve in.
    needed = number * (3 * m**2 + 4 * m * items)
    if needed > free:
        fits = int((math.sqrt((4 * items) ** 2 + 12 * free / number) - 4 * items) / 6)
        if settings["sampler"] in samplers.VALUES:
            advice = f"a run with {fits:,} synthetic users would fit" if fits > 0 else "not one would"
        else:
            sampler = "--sampler=random " if settings["sampler"] == "interactions" else ""
            advice = f"{sampler}--user_support={fits} would fit, or " if fits > 0 else ""
            advice += "distill.py needs no kernel of real users"
        raise UserError(
            f"the kernel of {m:,} users and its factor need {needed / 2**30:,.1f} GiB, and {free / 2**30:,.1f} GiB are "
            f"free on each device; {advice}"
        )


def search(settings, run, dataset, mesh, kernel, solve, strength, rows):
    """Trains with each lamda that has not been validated yet, and validates.

    Args:
        solve: lamda -> alpha.
        strength: lamda -> what it adds to the kernel's diagonal.

    Returns:
        (history, a dict a lamda; the alpha of the best lamda).
    """
    view = dataset.validation_view(
        generator(settings["seed"], Stream.VALIDATION), settings["validation_users"]
    )
    weights, here = inverse_propensity(dataset.frequency), devices.local(mesh)
    history, alpha = [], None
    if (saved := devices.share(run.load_checkpoint())) is not None:
        history, run.earlier_seconds = saved[1]["history"], saved[1]["wall_seconds"]
        run.say(f"going on after {len(history)} of {len(settings['lamda_grid'])} lamdas")
    everyone, alike = settings["user_support"] == -1, settings["user_support"] in (-1, dataset.users)
    bar = tqdm(
        settings["lamda_grid"][len(history) :],
        unit="lamda",
        disable=None if jax.process_index() == 0 else True,
    )
    for lamda in bar:
        if lamda == 0 and alike:  # K alpha = X: all that is not hidden as context scores 0
            metrics, words = None, f"left out: {NO_RIDGE}"
        else:
            solution = devices.localise(here, solve(lamda))
            scores = (
                scores_of_trained(solution, strength(lamda), dataset.first_user)
                if everyone
                else scores_of(kernel, rows, [solution])
            )
            [metrics] = evaluate(scores, 1, view, weights, settings["eval_batch_size"], here)
            metrics = summarise(metrics)
            words = f"validation  {show(metrics)}"
            if not math.isfinite(metrics["HR@100"]):
                metrics, words = (
                    None,
                    f"left out: with it the kernel is not positive definite in {rows.dtype}; --float64=true may help",
                )
        history.append({"lamda": lamda, "validation": metrics})
        run.say(f"lamda {lamda:<6g}  {words}")
        alpha = solution if metrics and best_of(history, settings["best_by"]) is history[-1] else alpha
        run.save_metrics(history)
        run.save_checkpoint({}, {"history": history, "wall_seconds": run.wall_seconds()})
    best = best_of(history, settings["best_by"])
    if best is None:
        raise UserError(
            f"no lamda of {', '.join(f'{lamda:g}' for lamda in settings['lamda_grid'])} can be used: "
            + (
                NO_RIDGE
                if alike and not any(settings["lamda_grid"])
                else f"the kernel is not positive definite in {rows.dtype} with any of them; --float64=true may help"
            )
            + "; a larger one helps"
        )
    return history, devices.localise(here, solve(best["lamda"])) if alpha is None else alpha


def train_and_test(settings, run, dataset, mesh):
    """All of a run; its result."""
    here = devices.local(mesh)
    kernel = make_kernel(settings, dataset)
    train = samplers.sample(settings, dataset)
    rows = devices.replicate(mesh, train.toarray().astype(np.float64 if settings["float64"] else np.float32))
    gram = build_gram(kernel, train, rows, mesh)
    mean_diagonal = float(jnp.trace(devices.localise(here, gram))) / len(rows)
    solver = make_solver(mesh, dataset.items)
    history, alpha = search(
        settings,
        run,
        dataset,
        mesh,
        kernel,
        lambda lamda: solver(gram, rows, lamda),
        lambda lamda: lamda * mean_diagonal,
        devices.localise(here, rows),
    )
    best = best_of(history, settings["best_by"])
    [metrics] = evaluate(
        scores_of(kernel, devices.localise(here, rows), [alpha]),
        1,
        dataset.test_view(generator(settings["seed"], Stream.TEST)),
        inverse_propensity(dataset.frequency),
        settings["eval_batch_size"],
        here,
    )
    title = f"∞-AE on {dataset.name}: " + title_of(settings, dataset)
    run.save("curve.png", plots.grid([line for line in history if line["validation"]], best["lamda"], title))
    return {
        "val": best["validation"],
        "test": metrics,
        "lamda": best["lamda"],
        "best_step": None,
        "steps": None,
        "step_seconds": None,
    }


def title_of(settings, dataset):
    """Whom it is trained on, in words."""
    if settings["user_support"] == -1:
        return "all users"
    words = {
        "random": "{} random users",
        "head": "the {} longest users",
        "interactions": "random interactions, as of {} users",
        "svp_cf": "the {} hardest users",
        "distilled": "{} synthetic users",
        "distilled_hard": "{} synthetic users, their interactions drawn",
    }
    return words[settings["sampler"]].format(f"{settings['user_support']:,}") + f", of {dataset.users:,}"


def main(arguments):
    settings, reasons, mesh, dataset = begin(arguments, __doc__, "infinite_ae", samplers.kernel_of_run)
    settings = samplers.resolve_users(settings, dataset)
    check_fits(settings, dataset, mesh)
    carry_out(
        lambda run: train_and_test(settings, run, dataset, mesh),
        settings,
        reasons,
        dataset,
        mesh,
        "infinite_ae",
        None,
        "infinite_ae",
    )


if __name__ == "__main__":
    run_job(main)
