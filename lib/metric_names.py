"""The names of the metrics that eval.py defines, for scripts that start without JAX."""

from hyper_params import cutoffs as CUTOFFS
from hyper_params import metrics_of_lists as OF_LISTS
from hyper_params import metrics_of_users as OF_USERS

METRICS = "HR@10", "HR@100", "NDCG@10", "NDCG@100", "PSP@10", "PSP@100", "AUC"  # the paper's
PER_USER_METRICS, LIST_METRICS = (
    tuple(f"{name}@{k}" for name in names for k in CUTOFFS) for names in (OF_USERS, OF_LISTS)
)
ALL_METRICS = tuple(dict.fromkeys((*METRICS, *PER_USER_METRICS, *LIST_METRICS)))
