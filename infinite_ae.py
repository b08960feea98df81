"""∞-AE on all users, or on a sample of them: trains it in closed form, evaluates it, tests it once.

    python infinite_ae.py                          on everyone, lamda from {1, 5, 20, 50, 100}
    python infinite_ae.py --user_support=1000      on 1,000 random users, evaluated on everyone
    python infinite_ae.py --sampler=head --user_support=500    on other samples: rivals/samplers.py
    python infinite_ae.py --sampler=distilled --distilled=results/<run>    on a run's synthetic users
    python infinite_ae.py --dataset=magazine --lamda_grid=[5]

Validation chooses lamda, by best_by. Where the best of the usual grid lies at an end, further values are
tried; with a lamda_grid of your own, the run says what to type instead. The kernel of m users is built once.
Each lamda costs one factorisation and one solve. Where the model is validated on the users it is trained on,
there is no further product, since K(X,X) alpha = X - lamda tr(K)/m alpha. With all users, lamda = 0 is
therefore left out: the scores are X, which ranks nothing. The same command goes on after the last validated
lamda. What a run leaves is described in runs/folder.py.
"""

if __name__ == "__main__":
    import lib.start  # noqa: F401

import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec

import data
import model
from eval import scores_of, scores_of_trained
from lib import devices
from lib.devices import GIB
from lib.errors import UserError
from rivals import samplers
from runs import grids
from runs.lifecycle import begin, dtype_of, execute, make_kernel, run_job
from runs.loop import Loop
from runs.recipes import FULL_DATA

NO_RIDGE = "without a ridge, the scores of the training users are their own rows."


def build_gram(kernel, train, rows, mesh):
    """K(X, X), (m, m), on every device. For rows of 0 and 1, each device calculates its shard of the rows.

    Args:
        train: X, CSR (m, I).
        rows: X, (m, I), on every device.
    """
    if (train.data != 1).any():
        # Synthetic users nearly coincide: only this form of the kernel is exact there. They are few, so every
        # device calculates all of it.
        return jax.jit(kernel)(rows)
    if mesh.size == 1:
        # Not kernel(rows), which needs room for every layer: rows of 0 and 1 are far enough apart.
        return jax.jit(kernel)(rows, rows)
    offsets = data.shard_offsets(train.shape[0], jax.process_count())
    first, last = offsets[jax.process_index() :][:2]
    local = devices.spread(mesh, train[first:last].toarray().astype(rows.dtype), np.diff(offsets).max())
    capacity = local.shape[0] // jax.process_count()
    # Behind each process's rows stand the empty ones that make the shards even.
    shards = [process * capacity + np.arange(count) for process, count in enumerate(np.diff(offsets))]
    kept = np.concatenate(shards)

    @partial(jax.jit, out_shardings=devices.replicated(mesh))
    def gram(local, rows):
        return kernel(local, rows)[kept]

    return gram(local, rows)


def make_solver(mesh, items):
    """solve(gram (m, m), rows (m, I), lamda) -> alpha (m, I). Devices share the items."""
    if mesh.size == 1:
        return jax.jit(model.ridge)
    everything, share = PartitionSpec(), PartitionSpec(None, "users")
    specs = {"in_specs": (everything, share, everything), "out_specs": share}
    on_devices = jax.shard_map(model.ridge, mesh=mesh, check_vma=False, **specs)

    @partial(jax.jit, out_shardings=devices.replicated(mesh))
    def solve(gram, rows, lamda):
        labels = jnp.pad(rows, ((0, 0), (0, -items % mesh.size)))
        return on_devices(gram, labels, lamda)[:, :items]

    return solve


def check_fits(settings, dataset, mesh):
    """Raises UserError if memory cannot hold the kernel of the users. Nothing has been allocated yet."""
    m, items = settings["user_support"], dataset.items
    if m == -1:
        m = dataset.users
    elif settings["sampler"] == "interactions":  # they spread over more users than m
        m = min(dataset.users, round(dataset.lengths[data.TRAIN].sum() * m / dataset.users))
    number_bytes, free = np.dtype(dtype_of(settings)).itemsize, devices.free_bytes(mesh)
    # The kernel, regularised kernel and factor; the rows, their solution, the best one, a copy to solve in.
    needed = number_bytes * (3 * m**2 + 4 * m * items)
    if needed <= free:
        return
    fits = int((math.sqrt((4 * items) ** 2 + 12 * free / number_bytes) - 4 * items) / 6)
    if settings["sampler"] in samplers.VALUES:
        advice = f"a run with {fits:,} synthetic users would fit" if fits > 0 else "not one would"
    else:
        sampler = "--sampler=random " if settings["sampler"] == "interactions" else ""
        advice = f"{sampler}--user_support={fits} would fit, or " if fits > 0 else ""
        advice += "distill.py needs no kernel of real users"
    raise UserError(
        f"the kernel of {m:,} users and its factor need {needed / GIB:,.1f} GiB, and {free / GIB:,.1f} GiB "
        f"are free on each device; {advice}"
    )


def search(settings, evaluation, dataset, loop, kernel, solve, strength, rows):
    """Trains with each lamda of the grid, and validates; alpha (m, I) of the best lamda.

    Args:
        loop: runs.loop.Loop, whose history gets a line for every lamda.
        solve: lamda -> alpha (m, I).
        strength: lamda -> what it adds to the kernel's diagonal.
        rows: X, (m, I), on the devices of this process.
    """
    best_alpha, given = None, settings["lamda_grid"]
    at_most = grids.AT_MOST if given == FULL_DATA["lamda_grid"] else 0

    def grid_and_qualities():
        validations = [line["validation"] for line in loop.history]
        qualities = [validation and evaluation.quality(validation) for validation in validations]
        return grids.grow([{"lamda": lamda} for lamda in given], qualities, at_most), qualities

    # Whether the users that are asked are those of X, and then in what order.
    alike = not dataset.new_users and settings["user_support"] in (-1, dataset.users)
    everyone = alike and settings["user_support"] == -1
    unusable = f"the kernel is not positive definite in {rows.dtype}. Try --float64=true."
    for place in loop.steps(lambda: len(grid_and_qualities()[0]), "lamda"):
        lamda = grid_and_qualities()[0][place]["lamda"]
        if place >= len(given):
            loop.run.say(f"the best lamda lies at an end of the grid, so {lamda:g} is tried, too")
        text, line = f"lamda {lamda:<6g}", {"lamda": lamda}
        if lamda == 0 and alike:  # K alpha = X: all that is not hidden as context scores 0
            loop.keep(text, line, None, unusable=NO_RIDGE)
            continue
        alpha = devices.localise(evaluation.mesh, solve(lamda))
        scores = scores_of(kernel, rows, [alpha])
        if everyone:
            scores = scores_of_trained(alpha, strength(lamda), dataset.first_user)
        [metrics] = evaluation.validate(scores)
        if loop.keep(text, line, metrics, unusable=unusable):
            best_alpha = alpha
    if note := grids.note(*grid_and_qualities(), "lamda_grid"):
        loop.run.say(note)
    best = loop.best_line()
    if best is None:
        reason = NO_RIDGE if alike and not any(given) else unusable
        values = ", ".join(f"{lamda:g}" for lamda in given)
        raise UserError(f"no lamda of {values} can be used: {reason} Try a larger lamda in lamda_grid.")
    if best_alpha is None:  # the best lamda was validated before an interruption
        best_alpha = devices.localise(evaluation.mesh, solve(best["lamda"]))
    return best_alpha


def train_and_test(settings, run, evaluation, dataset, mesh):
    """All of a run; its result."""
    from lib import plots  # here: no step need wait for Matplotlib

    local = partial(devices.localise, evaluation.mesh)
    kernel, solver = make_kernel(settings, dataset), make_solver(mesh, dataset.items)
    train = samplers.sample(settings, dataset)
    rows = devices.replicate(mesh, train.toarray().astype(dtype_of(settings)))
    gram = build_gram(kernel, train, rows, mesh)
    mean_diagonal = float(jnp.trace(local(gram))) / len(rows)
    solve, strength = lambda lamda: solver(gram, rows, lamda), lambda lamda: lamda * mean_diagonal
    loop = Loop(run, evaluation, mesh)
    alpha = search(settings, evaluation, dataset, loop, kernel, solve, strength, local(rows))
    best = loop.best_line()
    metrics = evaluation.test(scores_of(kernel, local(rows), [alpha]))
    usable = [line for line in loop.history if line["validation"]]
    title = f"∞-AE on {dataset.name}: {title_of(settings, dataset)}"
    run.save("curve.png", plots.grid(usable, best["lamda"], title))
    return {
        "val": best["validation"],
        "test": metrics,
        "lamda": best["lamda"],
        "best_step": None,
        "steps": None,
        "step_seconds": None,
    }


def title_of(settings, dataset):
    """The users it is trained on, in words."""
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
    words_for_sampler = words.get(settings["sampler"], "{} users")
    users = words_for_sampler.format(f"{settings['user_support']:,}")
    return f"{users}, of {dataset.users:,}"


def main(arguments):
    arguments = samplers.arguments_of_run(arguments, __doc__, "infinite_ae")
    settings, reasons, mesh, dataset = begin(arguments, __doc__, "infinite_ae", samplers.kernel_of_run)
    settings = samplers.resolve_users(settings, dataset)
    check_fits(settings, dataset, mesh)
    work = partial(train_and_test, settings, dataset=dataset, mesh=mesh)
    execute(work, settings, reasons, dataset, mesh, "infinite_ae", system="infinite_ae")


if __name__ == "__main__":
    run_job(main)
