"""Every setting, with the value it has when nobody says otherwise.

Edit this file, or override a key for one run: `python distill.py --gumbel_tau=5 --seed=7`. What a key may
be is checked in settings.py. What a data set, or a number of users on it, has in `for_dataset` and `recipes` wins over the
dict: for those, edit it there. Defaults were chosen on validation; what was tried stands in docs/experiments.md.
"""
import math

hyper_params = {
    # ---- Data ------------------------------------------------------------------------------------------
    "dataset": "ml-1m",        # a folder under data_dir, made by ./prep.sh
    "data_dir": "data",
    "results_dir": "results",  # a folder a run goes here
    "repeats": "keep",         # targets that are in the context, too, as some are in the paper's magazine: "keep" them,
                               # as misses (the paper), or "drop" them. prep.sh makes none

    "noise": 0.0,              # share of the train interactions that are replaced by random items

    # ---- The ∞-AE --------------------------------------------------------------------------------------
    "depth": 1,                # hidden layers of the infinitely wide network, 1 to 4; or 0, which makes it linear
    "normalize": True,         # scale every row to the norm sqrt(I) before the kernel (the paper: False)
    "item_discount": 0.0,      # an item enters the kernel divided by (its train interactions + 1, over their mean)^this,
                               # -1 to 1 (the paper: 0); below 0, what is popular counts more
    "float64": False,          # double precision everywhere, about three times slower

    # ---- Synthetic users -------------------------------------------------------------------------------
    "user_support": 500,       # S, how many to learn; they start at as many real users
    "num_per_user": 200,       # n, Gumbel draws summed into one of them
    "gumbel_tau": 10.0,        # temperature of a draw
    "noise_groups": 1,         # groups that share their noise: from 1, cheapest, to S; -1 = S (the paper).
                               # A gumbel_tau below about 1 needs more than a few

    # ---- What they are asked for -----------------------------------------------------------------------
    "objective": "held_out",   # predict what was not fed, or "reconstruct" what was (the paper)
    "keep_prob": 0.5,          # held_out: share of a user's interactions that is fed
    "history_discount": 0.5,   # a user's loss is divided by (number of targets)^this: 0, every interaction
                               # weighs the same (the paper); 1, every user does
    "loss": "auto",            # "softmax", its cross entropy of the scores (the paper); "generalized", which does without
                               # the items that are hardest to predict; or "squared", the scores' distance from 1 for what
                               # is asked for and 0 for the rest. "auto": what `recipes` has, or the first
    "score_scale": -1.0,       # the loss is of the scores times this (the paper: 1). A larger one fits sharper, which few
                               # users need; -1: by the loss, by their number, and that of the interactions
    "cardinality_reg": 1e-3,   # price of a synthetic user's length
    "learn_lamda": True,       # learn the ridge strength with the logits; False: search it again in
                               # lamda_grid at every validation, by best_by (the paper)
    "lamda": 0.01,             # where it starts when it is learned
    "lamda_grid": [1e-5, 1e-3, 0.1, 1.0, 5.0, 50.0],

    # ---- Optimisation ----------------------------------------------------------------------------------
    "learning_rate": 0.08,     # of Adam (the paper: 0.04)
    "cosine_decay": True,      # let it fall to 0 over train_steps, as half a cosine (the paper: False)
    "train_steps": -1,         # at most; -1: what `steps_for` has
    "batch_size": 4096,        # B, real users a step; -1 = all
    "accumulate_steps": 1,     # batches whose gradients make one step
    "best_by": "NDCG@10",      # the best step is the one with the best of this on validation (the paper: "HR@100")
    "patience": 150,           # stop after as many steps without a better one
    "log_freq": 40,            # validate at 0, 25, 50, ..., 200, then every log_freq steps, and at the end
    "validation_users": 10000, # validate on as many users, always the same, if there are more; -1 = all
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

# train_steps by user_support, up to how many users: few take more to learn, and a step of theirs takes less time.
steps_for = {100: 150, 200: 100, math.inf: 60}

# How synthetic users are best learnt, by data set, and up to how many of them; it holds unless another loss is asked for. A squared loss
# needs unpopular items to count more in the kernel. With few users what is popular is most of what can be said; there the loss that is sharpest
# about it is the best, with popular items counting more and a linear kernel. Only where validation has shown a gain: yours may be a data set that has one.
recipes = {
    "ml-1m": {
        20: {"loss": "generalized", "item_discount": -0.2, "depth": 0, "keep_prob": 0.6, "learning_rate": 0.5},
        50: {"loss": "squared", "item_discount": 0.25, "score_scale": 8.0, "learning_rate": 0.3},
        math.inf: {"loss": "squared", "item_discount": 0.25},
    },
}

# What a data set needs otherwise, where Distill-CF is concerned. Magazine has two train interactions a user: what learns
# fast learns them by heart, and to normalise rows makes a user with one interaction count like one with many.
for_dataset = {
    "magazine": {"normalize": False, "learning_rate": 0.02},
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

# What infinite_ae.py has otherwise.
infinite_ae = {
    "user_support": -1,        # the users it is trained on: all, or as many, picked by the sampler
    "sampler": "random",       # random users, or "head", "interactions", "svp_cf", or those of a run of
                               # distill.py: "distilled", or "distilled_hard", drawn from their logits (samplers.py)
    "distilled": "",           # that run: its folder, or its name in results_dir
    "normalize": False,
    "item_discount": 0.0,
    "lamda_grid": [0, 1, 5, 20, 50, 100],
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
    "patience": 20,            # go on to the next setting after as many epochs without a better HR@100
}

# What baselines.py tries. Batches are large because a step's cost on a CPU hardly depends on them.
grids = {
    "pop": [{}],
    "ease": [{"l2": l2} for l2 in (100, 200, 500, 1000, 2000, 3000)],
    "mf": [{"dimensions": dimensions, "l2": l2, "negatives": 4, "learning_rate": 0.005, "batch_size": 8192}
           for dimensions in (64, 128) for l2 in (2e-3, 4e-3)],
    "neumf": [{"dimensions": 32, "l2": l2, "dropout": dropout, "negatives": 4, "learning_rate": 0.002, "batch_size": 8192}
              for l2, dropout in ((1e-4, 0.2), (1e-3, 0.0), (1e-3, 0.2), (3e-3, 0.2))],
    "mvae": [{"hidden": 600, "dimensions": 200, "kl_weight": kl_weight, "dropout": dropout, "learning_rate": 1e-3, "batch_size": 500}
             for kl_weight in (0.2, 0.5) for dropout in (0.5, 0.7)],
    "lightgcn": [{"dimensions": 64, "layers": layers, "l2": l2, "negatives": 4, "learning_rate": 0.02, "batch_size": 65536}
                 for layers in (2, 3) for l2 in (1e-4, 3e-4)],
}
