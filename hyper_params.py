"""Every setting of every script, and its value unless something else sets it.

Edit this file, or override a key for one run: `python distill.py --gumbel_tau=5 --seed=7`.
Where several sources set a key, the first of this list wins:

    1. --key=value on the command line
    2. `paper` below, if --paper=true is on the command line
    3. --config=FILE.json, for example the config.json of an earlier run
    4. `paper` below, if "paper" is True in this file or in FILE.json
    5. the dict `infinite_ae`, `stream` or `baselines` below, for the script of that name
    6. the dict `hyper_params`
    7. for a key that is still "auto": the rules in runs/recipes.py

The rules depend on the data and on user_support. A run prints what each "auto" became and why, and keeps it
in its config.json. The defaults were chosen on validation; docs/experiments.md has the measurements.
"""

from typing import Annotated, Literal

from pydantic import Field

# fmt: off
hyper_params = {
    # ---- Data ------------------------------------------------------------------------------------------
    "dataset": "ml-1m",        # a folder in data_dir, made by ./prep.sh
    "data_dir": "data",
    "results_dir": "results",  # every run gets a folder in it
    "repeats": "keep",         # a target that the user's context has, too: "keep" it, as a miss (the paper),
                               # or "drop" it. The paper's magazine has 287; prep.sh makes none
    "noise": 0.0,              # share of the train interactions to replace by random items; 0 to below 1

    # ---- How to learn ----------------------------------------------------------------------------------
    "recipe": "auto",          # loss, kernel and learning rate that go together: a name of RECIPES in
                               # runs/recipes.py. "auto": what rehearsals on validation prefer
    "keep_step": "auto",       # whose synthetic users are kept: "best", of the step that is best on
                               # validation; or of this step, the last one then
    "keep_lamda": "auto",      # lamda of the model that is kept: "best", from the step's own up by factors of
                               # 3, for as long as validation gets better; "step", its own; or a number

    # ---- The ∞-AE --------------------------------------------------------------------------------------
    "depth": "auto",           # hidden layers of the infinitely wide network, 0 (linear) to 4; the paper: 1
    "normalize": "auto",       # True: scale every row to norm sqrt(I) before the kernel. False: the paper
    "item_discount": "auto",   # the kernel divides an item by its popularity to this power, from -1 (popular
                               # items count more) to 1; the paper: 0. Popularity is the item's train
                               # interactions + 1, over their mean
    "float64": False,          # double precision everywhere, about three times slower

    # ---- Synthetic users -------------------------------------------------------------------------------
    "user_support": "auto",    # S, how many synthetic users to learn (the paper: 500)
    "start": "auto",           # "users": each starts as a random real user (the paper); "popularity": mostly
                               # as the popularity among all users, of which short histories say little
    "start_users": "auto",     # how many real users share in the start of each (the paper: 1; "auto": 4 for
                               # sparse rows). Mixtures copy less of each real user: docs/privacy.md
    "rows": "soft",            # "soft": a synthetic user has a weight at every item, the sum of Gumbel draws
                               # (the paper); "sparse": at few items, in steps of 1/255, as histories have
    "row_length": 1.0,         # of sparse rows: their mean number of items, over that of real users
    "max_overlap": 1.0,        # of sparse rows: the largest overlap with any real user's train history, items
                               # of both over items of either; they lose items until it holds: docs/privacy.md
    "num_per_user": "auto",    # n, Gumbel draws that are summed into one synthetic user (the paper: 200). Too
                               # many for the number of items make all synthetic users alike
    "gumbel_tau": 10.0,        # temperature of a draw
    "noise_groups": "auto",    # groups of users that share their noise: 1 (fastest) to S; -1: S (the paper).
                               # Sharing hinders learning at a low gumbel_tau, so "auto" follows it

    # ---- The loss --------------------------------------------------------------------------------------
    "objective": "held_out",   # "held_out": feed a part of a user's interactions, and predict the rest;
                               # "reconstruct": feed all, and predict the same ones (the paper)
    "keep_prob": "auto",       # held_out: the share that is fed
    "history_discount": 0.5,   # a user's loss is divided by their number of targets to this power.
                               # 0: interactions count alike (the paper); 1: users count alike
    "loss": "auto",            # "softmax": cross entropy of the scores (the paper);
                               # "generalized": the same, but hardly penalises the least probable targets;
                               # "squared": distance of the scores from 1 (targets) and 0 (other items)
    "score_scale": "auto",     # factor on the scores in the loss (the paper: 1). A larger one fits closer,
                               # which few synthetic users need
    "cardinality_reg": 1e-3,   # weight, in the loss, of the synthetic users' mean length
    "learn_lamda": True,       # True: learn the ridge strength lamda with the logits.
                               # False: at every validation, take the best of lamda_grid (the paper)
    "lamda": "auto",           # where a learned lamda starts
    "lamda_grid": [1e-5, 1e-3, 0.1, 1.0, 5.0, 50.0],  # the lamdas to try where none is learned

    # ---- Optimisation ----------------------------------------------------------------------------------
    "learning_rate": "auto",   # of Adam (the paper: 0.04)
    "shared_moment": "auto",   # True: a synthetic user's logits share Adam's second moment, so that those of
                               # items that few users have move less. False: each has its own (the paper)
    "cosine_decay": True,      # let the learning rate fall to 0 along a cosine (the paper: False)
    "train_steps": "auto",     # at most (the paper: 500)
    "batch_size": "auto",      # B, real users in a batch; -1: all (the paper)
    "sampled_items": "auto",   # the loss ranks the items of the batch's users and, drawn anew for each batch,
                               # at least so many others, which stand for all others; -1: all (the paper)
    "accumulate_steps": 1,     # batches whose mean gradient makes one step
    "best_by": "NDCG@10",      # the validation metric that chooses the step, lamda, and a baseline's setting
                               # (the paper: "HR@100")
    "patience": 100,           # stop after this many steps without a better validation (the paper: 150)
    "log_freq": 10,            # validate at step 0, then every log_freq steps, and at the end
    "validate_early": True,    # validate at a quarter and half of log_freq, too (the paper: False)
    "validation_users": "auto",  # validate on at most this many users, the same every time; -1: all
    "eval_batch_size": 2048,   # users scored at once (fewer, where the items are many); affects memory and
                               # speed, not the metrics
    "metrics": ["HR@10", "HR@100", "NDCG@10", "NDCG@100", "PSP@10", "PSP@100", "AUC"],  # which are printed,
                               # such as '["Recall@20", "MRR@20"]'; eval.py defines all, result.json has them

    # ---- The run ---------------------------------------------------------------------------------------
    "seed": 42,
    "resume": True,            # continue from the checkpoint of a run with the same settings.
                               # False: start again; the old folder stays, under another name
    "paper": False,            # True: all the choices in `paper` below

    # ---- Many machines ---------------------------------------------------------------------------------
    "distributed": False,      # True: several processes make one run. SLURM and Open MPI set the next three
    "coordinator": "",         # host:port of process 0
    "num_processes": -1,
    "process_id": -1,
}

# The paper's choices, for --paper=true. A key on the command line overrides them.
paper = {
    "recipe": "plain",
    "keep_step": "best",
    "keep_lamda": "step",
    "normalize": False,
    "item_discount": 0.0,
    "loss": "softmax",
    "noise_groups": -1,
    "objective": "reconstruct",
    "history_discount": 0.0,
    "score_scale": 1.0,
    "learn_lamda": False,
    "cosine_decay": False,
    "train_steps": 500,
    "validate_early": False,
    "log_freq": 25,  # the release: every 25 steps up to 200, then every 40
    "patience": 150,
    "best_by": "HR@100",
    "validation_users": 10000,  # all of its data sets
    "batch_size": -1,
    "sampled_items": -1,
    "accumulate_steps": 1,
    "user_support": 500,
    "num_per_user": 200,
    "start": "users",
    "start_users": 1,
    "gumbel_tau": 10.0,
    "cardinality_reg": 1e-3,
    "learning_rate": 0.04,
    "shared_moment": False,
    "lamda_grid": [1e-5, 1e-3, 0.1, 1.0, 5.0, 50.0],
    "depth": 1,
}

# infinite_ae.py: defaults of its own, then keys that hyper_params lacks. "auto" is the paper's choice, or,
# with a distilled sampler, the choice of the run that made the synthetic users.
infinite_ae = {
    "user_support": -1,        # how many users to train on; -1: all
    "sampler": "random",       # which users: "random"; "head", the longest histories; "interactions", random
                               # interactions; "svp_cf", the hardest users; "distilled", the synthetic users
                               # of a run; "distilled_hard", interactions drawn from their logits or, of
                               # sparse rows, all weights 1
    "distilled": "",           # that run: its folder, or its name in results_dir
    "lamda_grid": "auto",      # the lamdas to try; "auto" grows where the best lies at an end
}

# stream.py: defaults of its own, then keys that hyper_params lacks.
stream = {
    "memory": "distilled",     # what it keeps of earlier users: "distilled" users, "random" ones, or "all"
    "parts": 10,               # the users arrive in this many parts
    "loss": "softmax",
    "score_scale": 50.0,
    "train_steps": 60,         # for each part
    "user_support": 200,       # how many users it keeps
    "lamda_grid": [0.1, 0.3, 1, 5, 20, 50],  # the lamdas to try with "random" or "all"
}

# baselines.py: defaults of its own, then keys that hyper_params lacks.
baselines = {
    "model": "ease",           # or "pop", "edlae", "rp3beta", "svd_ae", "ials"; "mf", "neumf", "mvae",
                               # "recvae", "lightgcn"
    "grid": [],                # settings to try, a list such as those in `grids`; []: the model's list there,
                               # and further ones where the best lies at an end
    "user_support": -1,        # user_support, sampler and distilled: as in infinite_ae
    "sampler": "random",
    "distilled": "",
    "epochs": 300,             # at most, for each setting of the grid
    "log_freq": 5,             # validate every log_freq epochs
    "patience": 20,            # leave a setting after this many epochs without a better validation
}

# The settings that baselines.py tries by default. On a CPU a step's cost hardly depends on batch_size, so
# it is large.
grids = {
    "pop": [{}],
    "ease": [{"l2": l2} for l2 in (100, 200, 500, 1000, 2000, 3000)],
    "edlae": [{"l2": l2, "dropout": dropout} for dropout in (0.2, 0.5) for l2 in (100, 300, 1000)],
    "rp3beta": [
        {"beta": beta, "alpha": alpha, "neighbours": neighbours}
        for beta, alpha, neighbours in (
            (0.6, 0.7, 100), (0.7, 0.7, 100), (0.8, 0.7, 100), (0.6, 0.7, 1000), (0.7, 0.7, 1000),
            (0.8, 0.7, 1000), (0.7, 0.5, 1000), (0.7, 1.0, 1000),
        )
    ],
    "svd_ae": [{"dimensions": dimensions} for dimensions in (50, 75, 100, 150, 200, 300)],
    # 128 dimensions only: 256 gain 0.04 of nDCG@10 on ML-1M, and a grid that grows along them takes long.
    "ials": [
        {"l2": l2, "unobserved": unobserved, "exponent": 1.0, "dimensions": 128, "epochs": 8}
        for unobserved in (0.1, 0.3) for l2 in (0.003, 0.006, 0.012)
    ],
    "mf": [
        {"dimensions": dimensions, "l2": l2, "negatives": 4, "learning_rate": 0.005, "batch_size": 8192}
        for dimensions in (64, 128) for l2 in (2e-3, 4e-3)
    ],
    "neumf": [
        {"dimensions": 32, "l2": l2, "dropout": dropout,
         "negatives": 4, "learning_rate": 0.002, "batch_size": 8192}
        for l2, dropout in ((1e-4, 0.2), (1e-3, 0.0), (1e-3, 0.2), (3e-3, 0.2))
    ],
    "mvae": [
        {"hidden": 600, "dimensions": 200, "kl_weight": kl_weight, "dropout": dropout,
         "learning_rate": 1e-3, "batch_size": 500}
        for kl_weight in (0.2, 0.5) for dropout in (0.5, 0.7)
    ],
    "recvae": [
        {"hidden": 600, "dimensions": 200, "gamma": gamma, "dropout": dropout,
         "learning_rate": 1e-3, "batch_size": 500}
        for gamma in (0.005, 0.01) for dropout in (0.5, 0.7)
    ],
    "lightgcn": [
        {"dimensions": 64, "layers": layers, "l2": l2,
         "negatives": 4, "learning_rate": 0.02, "batch_size": 65536}
        for layers in (2, 3) for l2 in (1e-4, 3e-4)
    ],
}

# ---- Which keys there are: edit this only to add a key -------------------------------------------------

# The keys that `hyper_params` lacks.
of_one_script = ("sampler", "distilled", "memory", "parts", "model", "grid", "epochs")

# The keys that each script takes.
_data = ("dataset", "data_dir", "results_dir", "repeats", "noise")
_kernel = ("depth", "normalize", "item_discount", "float64")
_sampling = ("num_per_user", "gumbel_tau", "noise_groups")
_learning = ("objective", "keep_prob", "history_discount", "cardinality_reg", "lamda", "learning_rate",
             "shared_moment", "batch_size", "sampled_items")
_evaluation = ("best_by", "validation_users", "eval_batch_size", "metrics", "seed", "resume")
_many_machines = ("distributed", "coordinator", "num_processes", "process_id")
takes = {
    "distill": tuple(hyper_params),
    "infinite_ae": (*_data, *_kernel, *infinite_ae, *_evaluation, *_many_machines),
    "stream": (*_data, *stream, "depth", "normalize", "float64", *_sampling, *_learning, *_evaluation),
    "baselines": (*_data, *baselines, *_evaluation),
    "compare": ("data_dir", "results_dir"),
}

# (key, other key, value): the key has no effect while the other key has this value.
_not_without_synthetic_users = (*_sampling, *_learning, "loss", "score_scale", "train_steps")
_closed_forms = "pop", "ease", "edlae", "rp3beta", "svd_ae", "ials"
no_effect = [
    ("lamda_grid", "learn_lamda", True),
    ("lamda", "learn_lamda", False),
    ("keep_prob", "objective", "reconstruct"),
    *((key, "rows", "soft") for key in ("row_length", "max_overlap")),
    *((key, "rows", "sparse") for key in ("num_per_user", "gumbel_tau", "noise_groups")),
    *((key, "distributed", False) for key in ("coordinator", "num_processes", "process_id")),
    *((key, "model", model) for key in ("epochs", "log_freq", "patience") for model in _closed_forms),
    ("grid", "model", "pop"),
    ("lamda_grid", "memory", "distilled"),
    ("user_support", "memory", "all"),
    *((key, "memory", memory) for key in _not_without_synthetic_users for memory in ("random", "all")),
]

# The values that a key may have. A key that is missing here may have values of its default's type: True or
# False, text, a whole number from 1, or a number above 0.
INT_MAX = 2**31 - 1
count = Annotated[int, Field(ge=1, le=INT_MAX)]
# Single precision cannot calculate with numbers beyond these.
positive = Annotated[float, Field(ge=1e-30, le=1e30)]
from_zero = Annotated[float, Field(ge=0, le=1e30)]
line = Annotated[str, Field(pattern=r"^[^\p{Cc}]*$", description="one line of text")]  # \p{Cc}: controls
text = Annotated[str, Field(pattern=r"^[^\p{Cc}]+$", description="one line of text")]
everything, auto = Literal[-1], Literal["auto"]
metrics_of_users = "HR", "NDCG", "PSP", "PSP_textbook", "Recall", "Precision", "HitRate", "MRR", "MAP"
metrics_of_lists = "Coverage", "Gini", "Popularity", "Novelty"
cutoffs = 10, 20, 50, 100
_names, _cutoffs = "|".join((*metrics_of_users, *metrics_of_lists)), "|".join(map(str, cutoffs))
_metric = rf"^(({_names})@({_cutoffs})|AUC)$"
_example = "metrics of eval.py, at 10, 20, 50 or 100, such as Recall@20"
metric = Annotated[str, Field(pattern=_metric, description=_example)]
_name = r"^[^./\\\p{Cc}][^/\\\p{Cc}]*$"
name = Annotated[str, Field(pattern=_name, description="a plain name, without slashes and controls")]
kinds = {
    **dict.fromkeys(("float64", "learn_lamda", "cosine_decay", "validate_early"), bool),
    **dict.fromkeys(("resume", "paper", "distributed"), bool),
    **dict.fromkeys(("accumulate_steps", "eval_batch_size", "parts"), count),
    **dict.fromkeys(("patience", "log_freq", "epochs"), count),
    **dict.fromkeys(("gumbel_tau", "row_length"), positive),
    "lamda": positive | auto,
    "max_overlap": Annotated[float, Field(ge=0, le=1)],
    "rows": Literal["soft", "sparse"],
    **dict.fromkeys(("data_dir", "results_dir"), text),
    **dict.fromkeys(("batch_size", "sampled_items"), count | everything | auto),
    "validation_users": count | everything | auto,
    "num_processes": count | everything,
    "distilled": line,
    "dataset": Annotated[str, Field(pattern=_name, description="the name of a folder under data_dir")],
    "repeats": Literal["keep", "drop"],
    "noise": Annotated[float, Field(ge=0, lt=1)],
    "depth": Annotated[int, Field(ge=0, le=4)] | auto,
    "normalize": bool | auto,
    "item_discount": Annotated[float, Field(ge=-1, le=1)] | auto,
    "user_support": count | everything | auto,
    "num_per_user": count | auto,
    "start_users": Annotated[int, Field(ge=1, le=100)] | auto,
    "start": Literal["users", "popularity"] | auto,
    "recipe": Literal[
        "plain", "sparse", "gentle", "popular", "squared", "squared-few", "generalized-few", "interactions",
        "auto"
    ],
    "keep_step": Annotated[int, Field(ge=0, le=INT_MAX)] | Literal["best", "auto"],
    "keep_lamda": positive | Literal["best", "step", "auto"],
    "noise_groups": count | everything | auto,
    "objective": Literal["held_out", "reconstruct"],
    "keep_prob": Annotated[float, Field(gt=0, lt=1)] | auto,
    "history_discount": Annotated[float, Field(ge=0, le=1)],
    "loss": Literal["softmax", "generalized", "squared", "auto"],
    "score_scale": positive | auto,
    "cardinality_reg": from_zero,
    "lamda_grid": Annotated[list[from_zero], Field(min_length=1)] | auto,
    "learning_rate": positive | auto,
    "shared_moment": bool | auto,
    "train_steps": count | auto,
    "best_by": Literal["HR@10", "HR@100", "NDCG@10", "NDCG@100"],
    "metrics": Annotated[list[metric], Field(min_length=1)],
    "seed": Annotated[int, Field(ge=0, le=INT_MAX)],
    "coordinator": Annotated[str, Field(pattern=r"^([^\p{Cc}]*:\d+)?$", description="host:port, or empty")],
    "process_id": Annotated[int, Field(ge=-1, le=INT_MAX)],
    "sampler": Literal["random", "head", "interactions", "svp_cf", "distilled", "distilled_hard"],
    "memory": Literal["distilled", "random", "all"],
    "model": Literal[
        "pop", "mf", "neumf", "mvae", "recvae", "lightgcn", "ease", "edlae", "rp3beta", "svd_ae", "ials"
    ],
    "grid": list[dict],
}

# The values that a key in `grids` may have; "others" stands for all other keys.
_size = Annotated[int, Field(ge=1, le=1_000_000)]
grid_kinds = {
    **dict.fromkeys(("negatives", "hidden", "anneal_steps", "batch_size", "neighbours", "epochs"), _size),
    "encoder_passes": _size,
    "dimensions": Annotated[int, Field(ge=2, le=1_000_000)],
    "layers": Annotated[int, Field(ge=0, le=100)],
    "dropout": Annotated[float, Field(ge=0, lt=1)],
    "others": Annotated[float, Field(ge=0)],
}
# fmt: on
