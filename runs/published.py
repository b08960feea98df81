"""The paper's table 1: nDCG@10 in percent, by data set and system, printed beside a run only where it is of the same kind."""

NDCG_AT_10 = {
    "magazine": {
        "pop": 8.42,
        "mf": 13.1,
        "neumf": 13.6,
        "mvae": 12.18,
        "lightgcn": 22.57,
        "ease": 22.84,
        "infinite_ae": 23.06,
        "distill": 23.81,
    },
    "ml-1m": {
        "pop": 13.84,
        "mf": 25.65,
        "neumf": 24.44,
        "mvae": 22.14,
        "lightgcn": 28.85,
        "ease": 29.88,
        "infinite_ae": 32.82,
        "distill": 32.52,
    },
}
# The released splits, by data.Dataset.fingerprint: a data set of the same name with another split is not comparable.
RELEASED = {"3ecf83f40a8e90a7": "magazine", "d14e1fb5f7739081": "ml-1m"}
DISTILLED_USERS = 500


def figure(fingerprint, system, settings):
    """The paper's nDCG@10 of this system on these data, or None: its split, all train interactions, and for "distill" 500 synthetic users."""
    users = DISTILLED_USERS if system == "distill" else -1
    if settings["noise"] or settings["user_support"] != users:
        return None
    return NDCG_AT_10.get(RELEASED.get(fingerprint), {}).get(system)
