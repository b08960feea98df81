"""Every setting, with the value it has when nobody says otherwise.

Edit this file, or override a key for one run: `python distill.py --gumbel_tau=5 --seed=7`. From the strongest to the weakest:

    1. --key=value on the command line
    2. `paper` below, where --paper=true stands on the command line
    3. --config=FILE.json, such as another run's config.json
    4. `paper` below, where "paper" is True here or in that file
    5. `infinite_ae`, `stream` or `baselines` below, for the script of that name
    6. the dict `hyper_params`
    7. for a key that is still "auto": a rule from the data and from user_support, in runs/recipes.py

What an "auto" became, and why, is said by the run and kept in its config.json. Defaults were chosen on validation; what was tried
stands in docs/experiments.md.
"""

from typing import Annotated, Literal

from pydantic import Field

# fmt: off
hyper_params = {
    # ---- Data ------------------------------------------------------------------------------------------
    "dataset": "ml-1m",        # a folder under data_dir, made by ./prep.sh
    "data_dir": "data",
    "results_dir": "results",  # a folder a run goes here
    "repeats": "keep",         # targets that are in the context, too, as some are in the paper's magazine: "keep" them,
                               # as misses (the paper), or "drop" them. prep.sh makes none

    "noise": 0.0,              # share of the train interactions that are replaced by random items

    # ---- The ∞-AE --------------------------------------------------------------------------------------
    "depth": "auto",           # hidden layers of the infinitely wide network, 1 to 4 (the paper: 1); 0 makes it linear
    "normalize": "auto",       # scale every row to the norm sqrt(I) before the kernel: True, or False (the paper)
    "item_discount": "auto",   # an item enters the kernel divided by (its train interactions + 1, over their mean)^this,
                               # -1 to 1 (the paper: 0); below 0, popular items count more
    "float64": False,          # double precision everywhere, about three times slower

    # ---- Synthetic users -------------------------------------------------------------------------------
    "user_support": 500,       # S, how many to learn; each starts as a real user
    "num_per_user": 200,       # n, Gumbel draws summed into one of them
    "gumbel_tau": 10.0,        # temperature of a draw
    "noise_groups": "auto",    # groups that share their noise: from 1, cheapest, to S; -1 = S (the paper). "auto" follows
                               # gumbel_tau: users that share their noise learn little at a low temperature

    # ---- What they are asked for -----------------------------------------------------------------------
    "objective": "held_out",   # predict what was not fed, or "reconstruct" what was (the paper)
    "keep_prob": "auto",       # held_out: share of a user's interactions that is fed
    "history_discount": 0.5,   # a user's loss is divided by (number of targets)^this: 0, every interaction
                               # weighs the same (the paper); 1, every user does
    "loss": "auto",            # "softmax", the cross entropy of the scores (the paper); "generalized", which lets go of the
                               # items that are hardest to predict; or "squared", the scores' distance from 1 for targets
                               # and from 0 for other items
    "score_scale": "auto",     # the loss is of the scores times this (the paper: 1). A larger one fits sharper, which few
                               # synthetic users need
    "cardinality_reg": 1e-3,   # price of a synthetic user's length
    "learn_lamda": True,       # learn the ridge strength with the logits; False: search it again in
                               # lamda_grid at every validation, by best_by (the paper)
    "lamda": 0.01,             # where it starts when it is learned
    "lamda_grid": [1e-5, 1e-3, 0.1, 1.0, 5.0, 50.0],

    # ---- Optimisation ----------------------------------------------------------------------------------
    "learning_rate": "auto",   # of Adam (the paper: 0.04)
    "cosine_decay": True,      # let it fall to 0 over train_steps, as half a cosine (the paper: False)
    "train_steps": "auto",     # at most (the paper: 500)
    "batch_size": 4096,        # B, real users a step; -1 = all
    "accumulate_steps": 1,     # batches whose gradients make one step
    "best_by": "NDCG@10",      # what is best has the best of this on validation: step, lamda, a baseline's setting (the
                               # paper: "HR@100")
    "patience": 150,           # stop after this many steps without a better one
    "log_freq": 40,            # validate at 0, 25, 50, ..., 200, then every log_freq steps, and at the end
    "validation_users": 10000, # validate on at most this many users, always the same ones; -1 = all
    "eval_batch_size": 2048,   # users scored at once; changes memory and speed, not the metrics

    # ---- The run ---------------------------------------------------------------------------------------
    "seed": 42,
    "resume": True,            # go on from the checkpoint of the same settings; False: start again and
                               # keep what was there under another name
    "paper": False,            # True: every choice in `paper` below, over what stands above

    # ---- Many machines ---------------------------------------------------------------------------------
    "distributed": False,      # one run by several processes; SLURM and Open MPI tell the next three
    "coordinator": "",         # host:port of process 0
    "num_processes": -1,
    "process_id": -1,
}

# The paper's own choices. A key given on the command line still wins over them.
paper = {
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
    "log_freq": 40,
    "patience": 150,
    "best_by": "HR@100",
    "batch_size": -1,
    "accumulate_steps": 1,
    "user_support": 500,
    "num_per_user": 200,
    "gumbel_tau": 10.0,
    "cardinality_reg": 1e-3,
    "learning_rate": 0.04,
    "lamda_grid": [1e-5, 1e-3, 0.1, 1.0, 5.0, 50.0],
    "depth": 1,
}

# What infinite_ae.py has otherwise, or alone. There an "auto" is the paper's choice, or with a distilled sampler that of its run.
infinite_ae = {
    "user_support": -1,        # the users it is trained on: all, or this many, picked by the sampler
    "sampler": "random",       # "random" users, "head", "interactions", "svp_cf", or those of a run of distill.py:
                               # "distilled", or "distilled_hard", drawn from their logits (rivals/samplers.py)
    "distilled": "",           # that run: its folder, or its name in results_dir
    "lamda_grid": "auto",
}

# What stream.py has otherwise, or alone.
stream = {
    "memory": "distilled",     # what is kept of users who have come: synthetic users, "random" ones, or "all"
    "parts": 10,               # in which they come
    "loss": "softmax",
    "score_scale": 50.0,
    "train_steps": 60,         # for each part
    "user_support": 200,       # how many are kept
    "lamda_grid": [0.1, 0.3, 1, 5, 20, 50],  # for a memory of real users
}

# What baselines.py has otherwise, or alone.
baselines = {
    "model": "ease",           # or pop, mf, neumf, mvae, lightgcn
    "grid": [],                # the settings to try, as in `grids`; [] is what `grids` has for the model
    "user_support": -1,        # these three as above: whom it is trained on
    "sampler": "random",
    "distilled": "",
    "epochs": 300,             # at most, for each setting
    "log_freq": 5,             # validate every so many epochs
    "patience": 20,            # go on to the next setting after this many epochs without a better one
}

# fmt: on
# What only the scripts above have; every other key stands in `hyper_params`.
of_scripts = ("sampler", "distilled", "memory", "parts", "model", "grid", "epochs")

# Which settings a script takes; distill.py takes all of `hyper_params`.
_data = ("dataset", "data_dir", "results_dir", "repeats", "noise")
_kernel = ("depth", "normalize", "item_discount", "float64")
_evaluation = ("best_by", "validation_users", "eval_batch_size", "seed", "resume")
_many_machines = ("distributed", "coordinator", "num_processes", "process_id")
takes = {
    "distill": tuple(hyper_params),
    "infinite_ae": (*_data, *_kernel, *infinite_ae, *_evaluation, *_many_machines),
    "stream": (
        *_data,
        *stream,
        "depth",
        "normalize",
        "float64",
        "num_per_user",
        "gumbel_tau",
        "noise_groups",
        "objective",
        "keep_prob",
        "history_discount",
        "cardinality_reg",
        "lamda",
        "learning_rate",
        "batch_size",
        *_evaluation,
    ),
    "baselines": (*_data, *baselines, *_evaluation),
    "compare": ("data_dir", "results_dir"),
}

# What a key may be. A key that is added above and not here may be what its default is: a switch, text, a whole number from 1,
# or a number above 0.
most = 2**31 - 1
count = Annotated[int, Field(ge=1, le=most)]
number = Annotated[
    float, Field(ge=1e-30, le=1e30)
]  # single precision has nothing to calculate with beyond these
text = Annotated[str, Field(min_length=1)]
all_of_them, auto = Literal[-1], Literal["auto"]
kinds = {
    **dict.fromkeys(("float64", "learn_lamda", "cosine_decay", "resume", "paper", "distributed"), bool),
    **dict.fromkeys(
        ("num_per_user", "accumulate_steps", "patience", "log_freq", "eval_batch_size", "epochs", "parts"),
        count,
    ),
    **dict.fromkeys(("gumbel_tau", "lamda"), number),
    **dict.fromkeys(("data_dir", "results_dir"), text),
    "distilled": str,
    "dataset": Annotated[
        str,
        Field(
            pattern=r"^[^./\\\x00-\x1f\x7f][^/\\\x00-\x1f\x7f]*$",
            description="the name of a folder under data_dir",
        ),
    ],
    "repeats": Literal["keep", "drop"],
    "noise": Annotated[float, Field(ge=0, lt=1)],
    "depth": Annotated[int, Field(ge=0, le=4)] | auto,
    "normalize": bool | auto,
    "item_discount": Annotated[float, Field(ge=-1, le=1)] | auto,
    "user_support": count | all_of_them,
    "noise_groups": count | all_of_them | auto,
    "objective": Literal["held_out", "reconstruct"],
    "keep_prob": Annotated[float, Field(gt=0, lt=1)] | auto,
    "history_discount": Annotated[float, Field(ge=0, le=1)],
    "loss": Literal["softmax", "generalized", "squared", "auto"],
    "score_scale": number | auto,
    "cardinality_reg": Annotated[float, Field(ge=0, le=1e30)],
    "lamda_grid": Annotated[list[Annotated[float, Field(ge=0, le=1e30)]], Field(min_length=1)] | auto,
    "learning_rate": number | auto,
    "train_steps": count | auto,
    "batch_size": count | all_of_them,
    "best_by": Literal["HR@10", "HR@100", "NDCG@10", "NDCG@100"],
    "validation_users": count | all_of_them,
    "seed": Annotated[int, Field(ge=0, le=most)],
    "coordinator": Annotated[
        str, Field(pattern=r"^(.*:\d+)?$", description="host:port, or nothing where the launcher tells")
    ],
    "num_processes": count | all_of_them,
    "process_id": Annotated[int, Field(ge=-1, le=most)],
    "sampler": Literal["random", "head", "interactions", "svp_cf", "distilled", "distilled_hard"],
    "memory": Literal["distilled", "random", "all"],
    "model": Literal["pop", "mf", "neumf", "mvae", "lightgcn", "ease"],
    "grid": list[dict],
}

# What a setting of `grids` may be.
_size = Annotated[int, Field(ge=1, le=1_000_000)]
grid_kinds = {
    **dict.fromkeys(("negatives", "hidden", "anneal_steps", "batch_size"), _size),
    "dimensions": Annotated[int, Field(ge=2, le=1_000_000)],
    "layers": Annotated[int, Field(ge=0, le=100)],
    "dropout": Annotated[float, Field(ge=0, lt=1)],
    "others": Annotated[float, Field(ge=0)],
}

# (key, other key, value): the key has no effect while the other one has this value.
no_effect = [
    ("lamda_grid", "learn_lamda", True),
    ("lamda", "learn_lamda", False),
    ("keep_prob", "objective", "reconstruct"),
    *((key, "distributed", False) for key in ("coordinator", "num_processes", "process_id")),
    *((key, "model", name) for key in ("epochs", "log_freq", "patience") for name in ("pop", "ease")),
    ("grid", "model", "pop"),
    ("lamda_grid", "memory", "distilled"),
    ("user_support", "memory", "all"),
    *(
        (key, "memory", name)
        for key in (
            "num_per_user",
            "gumbel_tau",
            "noise_groups",
            "objective",
            "keep_prob",
            "history_discount",
            "loss",
            "score_scale",
            "cardinality_reg",
            "lamda",
            "learning_rate",
            "train_steps",
            "batch_size",
        )
        for name in ("random", "all")
    ),
]

# What baselines.py tries. Batches are large because a step's cost on a CPU hardly depends on them.
grids = {
    "pop": [{}],
    "ease": [{"l2": l2} for l2 in (100, 200, 500, 1000, 2000, 3000)],
    "mf": [
        {"dimensions": dimensions, "l2": l2, "negatives": 4, "learning_rate": 0.005, "batch_size": 8192}
        for dimensions in (64, 128)
        for l2 in (2e-3, 4e-3)
    ],
    "neumf": [
        {
            "dimensions": 32,
            "l2": l2,
            "dropout": dropout,
            "negatives": 4,
            "learning_rate": 0.002,
            "batch_size": 8192,
        }
        for l2, dropout in ((1e-4, 0.2), (1e-3, 0.0), (1e-3, 0.2), (3e-3, 0.2))
    ],
    "mvae": [
        {
            "hidden": 600,
            "dimensions": 200,
            "kl_weight": kl_weight,
            "dropout": dropout,
            "learning_rate": 1e-3,
            "batch_size": 500,
        }
        for kl_weight in (0.2, 0.5)
        for dropout in (0.5, 0.7)
    ],
    "lightgcn": [
        {
            "dimensions": 64,
            "layers": layers,
            "l2": l2,
            "negatives": 4,
            "learning_rate": 0.02,
            "batch_size": 65536,
        }
        for layers in (2, 3)
        for l2 in (1e-4, 3e-4)
    ],
}
