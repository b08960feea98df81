"""runs/recipes.py: the value of an "auto", from the size of the data and the number of users alone."""

import dataclasses

import pytest

import hyper_params
from lib.settings import check_kept, resolve
from runs import recipes
from runs.recipes import Statistics, candidates, resolve_auto, score_scale

ML_1M = Statistics(6040, 3706, 791_718)
MAGAZINE = Statistics(3092, 1305, 5934)
ML_100K = Statistics(943, 1682, 80_000)
DOUBAN, ML_LATEST_SMALL = Statistics(2666, 34893, 965_353), Statistics(671, 9066, 79_077)
STEAM, ANIME = Statistics(3625, 3569, 45_143), Statistics(2204, 4315, 24_193)
FEW_ITEMS = Statistics(5838, 50, 79_493)


def chosen(data, *arguments, script="distill", of_run=None):
    return resolve_auto(resolve(arguments, "", script)[0], data, of_run)


@pytest.mark.parametrize(
    "data, users, names",
    [
        (ML_1M, 500, ["squared"]),
        (ML_1M, 51, ["squared"]),
        (ML_1M._replace(interactions=150 * ML_1M.items), 500, ["squared", "plain"]),
        (ML_1M._replace(interactions=75 * ML_1M.items), 500, ["plain", "squared"]),
        (ML_1M, 50, ["squared-few"]),
        (ML_1M, 20, ["generalized-few"]),
        (MAGAZINE, 500, ["sparse", "gentle", "popular", "plain"]),
        (MAGAZINE, 10, ["sparse", "gentle", "popular", "plain"]),
        (ML_100K, 235, ["plain"]),
        (FEW_ITEMS, 500, ["squared"]),  # few interactions a user, since there are few items
        (FEW_ITEMS, 20, ["generalized-few"]),
        (ANIME, 500, ["sparse", "gentle", "popular", "plain"]),
    ],
)
def test_which_recipes(data, users, names):
    settings, _ = resolve([f"--user_support={users}"], "", "distill")
    assert candidates(settings, data) == names
    settings, reasons = chosen(data, f"--user_support={users}")
    assert {**recipes.PLAIN, **recipes.RECIPES[names[0]]}.items() <= settings.items()
    assert reasons["loss"] == f"recipe '{names[0]}'" and "auto" not in settings.values()


@pytest.mark.parametrize("name", recipes.RECIPES)
def test_a_recipe_can_be_named(name):
    assert candidates(resolve([f"--recipe={name}"], "", "distill")[0], ML_1M) == [name]
    settings, reasons = chosen(ML_1M, f"--recipe={name}", "--depth=3")
    assert {**recipes.PLAIN, **recipes.RECIPES[name], "depth": 3}.items() <= settings.items()
    assert "recipe" not in reasons


def test_everything_that_was_auto_has_a_reason_and_nothing_else():
    settings, reasons = chosen(ML_1M, "--learning_rate=0.5", "--depth=2")
    auto = {key for key, value in hyper_params.hyper_params.items() if value == "auto"}
    assert reasons.keys() == auto - {"learning_rate", "depth"}
    assert settings["learning_rate"] == 0.5 and settings["depth"] == 2
    line = recipes.say(settings, reasons)
    assert "\n" not in line and all(f"{key}=" in line for key in reasons)


@pytest.mark.parametrize("data", [ML_1M, MAGAZINE, DOUBAN, STEAM, ANIME])
def test_the_numbers_of_users_and_draws_are_the_paper_s(data):
    settings, reasons = chosen(data)
    assert (settings["user_support"], settings["num_per_user"]) == (500, 200)
    assert reasons["user_support"] == reasons["num_per_user"] == "as in the paper"


@pytest.mark.parametrize("items, batch", [(60, 4096), (24_420, 1638), (50_000, 800)])
def test_a_batch_has_fewer_users_where_items_are_many(items, batch):
    settings, reasons = chosen(ML_1M._replace(items=items))
    assert settings["batch_size"] == batch and settings["sampled_items"] == -1
    assert reasons["batch_size"] == f"{items:,} items, 131 of them a user"


@pytest.mark.parametrize(
    "data, batch, sampled",
    [
        (Statistics(200_000, 100_000, 2_000_000), 1389, 4096),
        (Statistics(10**6, 500_000, 10**7), 1805, 4096),
        (Statistics(200_000, 20_000, 2_000_000), 2000, -1),  # so many users have half of the items
        (Statistics(1000, 100_000, 10_000), 1389, 4096),  # all users have a few of the items
        (DOUBAN, 1146, -1),
    ],
)
def test_a_batch_has_few_items_where_its_users_have_few(data, batch, sampled):
    settings, _ = chosen(data)
    assert (settings["batch_size"], settings["sampled_items"]) == (batch, sampled)
    given, _ = chosen(data, "--sampled_items=100", "--batch_size=32")
    assert (given["batch_size"], given["sampled_items"]) == (32, 100)
    assert chosen(data, "--sampled_items=-1")[0]["batch_size"] == max(256, min(4096, 4 * 10**7 // data.items))


@pytest.mark.parametrize("items, users", [(60, 10_000), (34_893, 5731), (100_000, 2000), (10**6, 2000)])
def test_a_validation_asks_fewer_users_where_items_are_many(items, users):
    for script in ("distill", "infinite_ae", "baselines", "stream"):
        settings, _ = chosen(ML_1M._replace(items=items), script=script)
        assert settings["validation_users"] == users
    assert chosen(ML_1M._replace(items=items), "--validation_users=-1")[0]["validation_users"] == -1


@pytest.mark.parametrize("users, support", [(1, 1), (7, 1), (40, 10), (1999, 499), (2000, 500), (9000, 500)])
def test_at_most_a_quarter_of_the_users(users, support):
    data = ML_100K._replace(users=users, interactions=200 * users)
    settings, reasons = chosen(data)
    assert settings["user_support"] == support
    assert (reasons["user_support"] == f"a quarter of the {users:,} users") == (users < 2000)
    alike = chosen(data, f"--user_support={support}")[0]
    assert settings == alike, "the other rules know the number of users"
    assert chosen(data, "--user_support=700")[0]["user_support"] == 700, "what is asked for stays"


@pytest.mark.parametrize(
    "items, draws", [(1, 1), (9, 1), (10, 2), (50, 10), (999, 199), (1000, 200), (5000, 200)]
)
def test_few_items_get_few_draws(items, draws):
    data = ML_1M._replace(items=items)
    settings, reasons = chosen(data, "--user_support=10")
    assert settings["num_per_user"] == draws
    assert (reasons["num_per_user"] == f"{items} items, of which a draw needs 5") == (items < 1000)
    assert chosen(data, "--num_per_user=70")[0]["num_per_user"] == 70, "what is asked for stays"
    assert chosen(data, script="stream")[0]["num_per_user"] == draws


def test_a_stream_and_real_users_keep_their_own_numbers_of_users():
    for script, users in (("stream", 200), ("infinite_ae", -1), ("baselines", -1)):
        assert chosen(ML_1M, script=script)[0]["user_support"] == users
    assert chosen(ML_1M, "--user_support=auto", script="infinite_ae")[0]["user_support"] == -1
    settings, reasons = chosen(ML_100K._replace(users=30, items=40), "--paper=true")
    assert (settings["user_support"], settings["num_per_user"]) == (
        500,
        200,
    ) and "user_support" not in reasons


def test_the_name_of_the_data_set_decides_nothing(tiny):
    renamed = dataclasses.replace(tiny, name="ml-1m")
    assert recipes.statistics_of(renamed) == recipes.statistics_of(tiny)
    first, second = (chosen(ML_1M, f"--dataset={name}")[0] for name in ("ml-1m", "mine"))
    assert {key for key in first if first[key] != second[key]} == {"dataset"}


def test_another_loss_than_the_recipe_s_takes_nothing_else_of_it():
    settings, reasons = chosen(ML_1M, "--loss=softmax")
    assert settings["item_discount"] == 0 and settings["learning_rate"] == 0.08
    assert reasons["item_discount"] == "recipe 'plain'"
    assert reasons["score_scale"] == "softmax loss, 500 synthetic users"
    assert chosen(ML_1M, "--loss=squared")[0]["item_discount"] == 0.25, "the recipe's own"
    assert chosen(MAGAZINE, "--loss=softmax")[0]["normalize"] is False


@pytest.mark.parametrize(
    "users, steps", [(1, 150), (100, 150), (101, 100), (200, 100), (201, 60), (6040, 60)]
)
def test_train_steps_follow_the_number_of_users(users, steps):
    assert chosen(ML_1M, f"--user_support={users}")[0]["train_steps"] == steps
    assert chosen(ML_1M, f"--user_support={users}", "--train_steps=7")[0]["train_steps"] == 7


@pytest.mark.parametrize("tau, groups", [(0.3, -1), (1, -1), (2, 1), (10, 1)])
def test_noise_groups_follow_the_temperature(tau, groups):
    assert chosen(ML_1M, f"--gumbel_tau={tau}")[0]["noise_groups"] == groups
    assert chosen(ML_100K, f"--gumbel_tau={tau}")[0]["learning_rate"] == (0.4 if tau < 2 else 0.08)
    assert chosen(MAGAZINE, f"--gumbel_tau={tau}")[0]["learning_rate"] == (0.1 if tau < 2 else 0.02)
    assert chosen(ML_1M, f"--gumbel_tau={tau}", "--noise_groups=3")[0]["noise_groups"] == 3


def test_the_scale_of_the_scores():
    scale = lambda loss, users, interactions: score_scale(loss, users, Statistics(9, 9, interactions))
    assert scale("softmax", 100, 10**6) == scale("softmax", 100, 10**9) == 100
    assert scale("softmax", 25, 70_000) == 20 and scale("softmax", 500, 5_000) == 1
    assert scale("squared", 500, 5_000) == 8 and scale("squared", 200, 10**6) == 12
    assert scale("generalized", 25, 10**6) == 100 and scale("generalized", 500, 5_000) == 1
    settings, reasons = chosen(ML_1M._replace(new_users=True))
    assert settings["score_scale"] == 12 and reasons["score_scale"].endswith("new ones asked")
    assert chosen(ML_1M)[0]["score_scale"] == 8 and chosen(ML_1M, "--score_scale=3")[0]["score_scale"] == 3


def test_the_scale_of_a_squared_loss_falls_where_a_draw_has_fewer_items_than_on_ml_1m():
    settings, reasons = chosen(FEW_ITEMS)
    assert settings["score_scale"] == pytest.approx(8 * 5 / 18)
    assert reasons["score_scale"] == "squared loss, 500 synthetic users, 10 draws of 50 items"
    few = chosen(ML_1M, "--num_per_user=20")[0], chosen(FEW_ITEMS, "--num_per_user=2")[0]
    assert [settings["score_scale"] for settings in few] == [8, 8]
    assert chosen(FEW_ITEMS, "--user_support=50")[0]["score_scale"] == pytest.approx(8 * 5 / 18)
    assert chosen(FEW_ITEMS, "--loss=softmax")[0]["score_scale"] == score_scale("softmax", 500, FEW_ITEMS)


def test_the_infinite_ae_has_the_paper_s_kernel_on_real_users_and_the_run_s_on_synthetic_ones():
    settings, reasons = chosen(ML_1M, script="infinite_ae")
    assert recipes.FULL_DATA.items() <= settings.items() and reasons["depth"] == "the paper's, on real users"
    run = {"depth": 0, "normalize": True, "item_discount": 0.25, "lamda_grid": [0.002]}
    arguments = "--sampler=distilled", "--distilled=x"
    assert run.items() <= chosen(ML_1M, *arguments, script="infinite_ae", of_run=run)[0].items()
    assert chosen(ML_1M, *arguments, "--depth=2", script="infinite_ae", of_run=run)[0]["depth"] == 2


@pytest.mark.parametrize("script", ["distill", "infinite_ae", "stream", "baselines"])
@pytest.mark.parametrize("data", [ML_1M, MAGAZINE, ML_100K])
def test_no_script_is_left_with_an_auto(script, data):
    keys = [key for key in hyper_params.takes[script] if "auto" in str(hyper_params.kinds[key])]
    settings, reasons = chosen(data, *(f"--{key}=auto" for key in keys), script=script)
    assert "auto" not in settings.values() and reasons.keys() == set(keys)


def test_the_usual_settings_are_those_for_the_number_of_users():
    settings, _ = chosen(ML_1M, "--user_support=10", "--depth=2", "--dataset=mine")
    usual = recipes.usual(settings, ML_1M, "distill")
    assert {key for key in settings if settings[key] != usual[key]} == {"depth"}


def test_a_folder_may_be_called_auto():
    settings, reasons = chosen(ML_1M, "--results_dir=auto", "--dataset=auto", script="infinite_ae")
    assert settings["results_dir"] == settings["dataset"] == "auto" and "results_dir" not in reasons
    assert check_kept(dict(settings)) == settings, "as a run keeps them"
