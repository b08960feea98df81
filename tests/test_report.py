"""report.py: what the page says, and how it behaves in a real browser on titles that mean harm."""

import json
import re
import shutil
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest
from conftest import NASTY, without_sums

import report
from lib import plots
from lib.errors import UserError
from page import figures, leak
from runs.reading import digest_of
from runs.synthetic_users import load_dataset, open_distilled

BROWSER, DRIVER = (shutil.which(name) for name in ("chromium", "chromedriver"))
needs_browser = pytest.mark.skipif(
    not (BROWSER and DRIVER),
    reason="chromium and chromedriver (Debian: chromium, chromium-driver) are not installed",
)


@pytest.fixture(scope="module")
def page(distilled_run, tmp_path_factory):
    """(path, distilled) of a page whose users like harmful titles most; its folder's name does harm, too."""
    run = shutil.copytree(
        distilled_run, tmp_path_factory.mktemp("results") / "<img src=x onerror='window.hacked=1'>"
    )
    config = json.loads((without_sums(run) / "config.json").read_text())
    config["command"] += " </script><script>window.hacked=1</script>"
    (run / "config.json").write_text(json.dumps(config))
    distilled = open_distilled(run)
    dataset = load_dataset(distilled)
    rows = distilled.rows / 2
    rows[:, np.isin(dataset.titles, NASTY)] += np.linspace(0.1, 0.4, len(rows))[:, None].astype(np.float32)
    distilled = distilled._replace(rows=rows)
    path = run / "report.html"
    path.write_bytes(report.render(distilled, dataset, leak.check(distilled, dataset)).encode())
    return path, distilled


@pytest.fixture(scope="module")
def browser(page):
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--window-size=1200,900"):
        options.add_argument(argument)
    options.binary_location = BROWSER
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    try:
        driver.get(page[0].as_uri())
        yield driver
    finally:
        driver.quit()


def texts(browser, selector):
    return browser.execute_script(
        "return [...document.querySelectorAll(arguments[0])].map(element => element.textContent)", selector
    )


def test_nothing_in_the_page_is_markup_but_its_own(page):
    text = page[0].read_text(encoding="utf-8")
    assert (
        text.count("<script") == text.count("</script>") == 2
        and "<img" not in text
        and "<!--" not in text
        and "\u2028" not in text
    )
    assert "://" not in text, "it fetches nothing"


@needs_browser
def test_titles_are_text(browser, page):
    """All harmful titles can be read, none has run, and the console has nothing to say."""
    for button in browser.find_elements("css selector", "#users .open"):
        button.click()
    shown = set(texts(browser, "#users .items bdi"))
    assert {title for title in NASTY if title.strip()} <= shown and sum(
        title.startswith("item ") for title in shown
    ) == 2, "two have no title: their ids stand there"
    assert browser.execute_script("return typeof window.hacked") == "undefined"
    assert browser.execute_script("return document.images.length") == 0
    assert (
        texts(browser, "h1") == ["6 synthetic users of titled"]
        and "<img src=x" in texts(browser, "header p")[0]
    )
    assert browser.get_log("browser") == []
    browser.refresh()


@needs_browser
def test_search_filters(browser, page):
    """By a piece of a title, in either case; the title found stands first, and is marked."""
    data = json.loads(texts(browser, "#data")[0])
    search = browser.find_element("id", "search")
    for word in ("FILM 3", "</script>", "侍", "İST", "nowhere"):
        search.clear()
        search.send_keys(word)
        expected = [
            user[0]
            for user in data["users"]
            if any(word.lower() in data["titles"][title].lower() for title, _ in user[10])
        ]
        assert list(map(int, texts(browser, "#users .open"))) == expected
        assert browser.find_element("id", "count").text.startswith(f"{len(expected)} of 6")
        marked = texts(browser, "#users mark")
        assert {mark.lower() for mark in marked} <= {word.lower()} and len(marked) >= len(expected)
    search.clear()
    search.send_keys("istan")
    assert set(texts(browser, "#users mark")) == {"İstan"}
    search.clear()
    search.send_keys("\ue00c")  # Escape
    assert len(texts(browser, "#users .open")) == 6


@needs_browser
def test_rows_are_lined(browser):
    """The line below a row goes on under its titles, and all names of columns stand on one line."""
    bottoms = """return [...document.querySelectorAll('#users tbody tr')]
        .map(row => [...row.cells].map(cell => cell.getBoundingClientRect().bottom))"""
    assert all(len(set(cells)) == 1 for cells in browser.execute_script(bottoms))
    tops = browser.execute_script("""return [...document.querySelectorAll('#users th')].map(cell => {
        const range = document.createRange();
        range.selectNodeContents(cell.querySelector('button') || cell);
        return range.getBoundingClientRect().top;
    })""")
    assert max(tops) - min(tops) < 1.5, tops


@needs_browser
def test_sort_sorts(browser):
    data = json.loads(texts(browser, "#data")[0])
    for header in browser.find_elements("css selector", "#users th button"):
        place = int(header.get_attribute("data-key"))
        for _ in range(2):
            header.click()
            values = [data["users"][int(user)][place] for user in texts(browser, "#users .open")]
            order = header.find_element("xpath", "..").get_attribute("aria-sort")
            assert values == sorted(values, reverse=order == "descending") and len(values) == 6
        assert texts(browser, "#users th:is([aria-sort=ascending], [aria-sort=descending]) button") == [
            header.text.split()[0]
        ]


@needs_browser
def test_keyboard_and_phone(browser):
    """/ goes to the search, arrows from user to user, Enter opens and closes; the page fits a phone."""
    keys = lambda text: browser.switch_to.active_element.send_keys(text)
    browser.refresh()
    keys("/")
    assert browser.switch_to.active_element.get_attribute("id") == "search"
    keys("\ue015")  # arrow down
    keys("\ue015")
    assert browser.switch_to.active_element.get_attribute("aria-label") == "synthetic user 1"
    keys("\ue007")  # Enter
    assert (
        browser.switch_to.active_element.get_attribute("aria-expanded") == "true"
        and len(texts(browser, "#users tr.detail")) == 1
    )
    keys("\ue007")
    assert texts(browser, "#users tr.detail") == []
    browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": 360, "height": 740, "deviceScaleFactor": 2, "mobile": True},
    )
    assert browser.execute_script("return document.documentElement.scrollWidth") == 360


def test_the_script_and_the_runs_beside_it(run_script, distilled_run, tmp_path):
    """Runs on the same data are compared, whatever script made them; unfinished or damaged ones are not."""
    run = shutil.copytree(distilled_run, tmp_path / "own")
    for name, change in (
        (
            "baseline",
            lambda config: {
                **config,
                "command": "python popularity.py --x=1",
                "settings": {"dataset": "titled", "neighbours": 7},
            },
        ),
        ("elsewhere", lambda config: {**config, "data_fingerprint": "0", "command": "python elsewhere.py"}),
        ("unfinished", lambda config: {**config, "command": "python unfinished.py"}),
        ("damaged", lambda config: {**config, "command": "python damaged.py"}),
        ("worded", lambda config: {**config, "command": "python worded.py"}),
    ):
        other = shutil.copytree(distilled_run, tmp_path / name)
        (other / "distilled.npz").unlink()
        (without_sums(other) / "config.json").write_text(
            json.dumps(change(json.loads((other / "config.json").read_text())))
        )
    (tmp_path / "unfinished" / "result.json").unlink()
    (tmp_path / "damaged" / "result.json").write_text("{")
    result = json.loads((distilled_run / "result.json").read_text())
    (tmp_path / "worded" / "result.json").write_text(
        json.dumps({**result, "val": {"HR@100": "5"}, "test": {**result["test"], "HR@10": "6"}})
    )
    done = run_script("report.py", f"--run={run}")
    assert done.returncode == 0 and done.stderr == "", done.stderr
    page = (run / "report.html").read_text(encoding="utf-8")
    assert (
        "popularity<small>neighbours=7</small>" in page
        and "distill (this run)<small>S = 6, " in page
        and page.index("this run") < page.index("popularity<")
    )
    assert (
        "elsewhere" not in page
        and "unfinished" not in page
        and "damaged" not in page
        and "worded" not in page
    )
    leaks = json.loads((run / "leak.json").read_text(encoding="utf-8"))
    assert len(leaks["synthetic_users"]) == 6 and leaks["references"].keys() == {"train", "seen", "held_out"}
    assert f"{leaks['references']['train']['jaccard']['start']} of 6 synthetic users" in done.stdout
    altered = shutil.copytree(distilled_run, tmp_path / "altered") / "result.json"
    altered.write_text(json.dumps({**result, "wall_seconds": 1}))
    done = run_script("report.py", f"--run={run}")
    assert done.returncode == 0 and len(done.stderr.splitlines()) == 1
    assert done.stderr.startswith(f"report: left out: {altered} has been altered since the run ended")
    done = run_script("report.py", f"--run={tmp_path / 'baseline'}")
    assert done.returncode == 1 and "Give a run of distill.py" in done.stderr and done.stdout == ""


def test_the_page_of_a_run_that_one_may_only_read(run_script, distilled_run, tmp_path):
    """Its folder stays as it is; --out makes another one; one that cannot be written is a line of error."""
    run = shutil.copytree(distilled_run, tmp_path / "no text \udcff")  # a name may be any bytes
    before = {path.name: path.stat().st_mtime_ns for path in run.iterdir()}
    done = run_script("report.py", f"--run={run}", f"--out={tmp_path}/new/folder")
    assert done.returncode == 0 and done.stderr == "", done.stderr
    assert {path.name for path in (tmp_path / "new" / "folder").iterdir()} == {"report.html", "leak.json"}
    assert {path.name: path.stat().st_mtime_ns for path in run.iterdir()} == before
    assert f"written: {tmp_path}/new/folder/report.html" in done.stdout
    (tmp_path / "file").write_text("")
    done = run_script("report.py", f"--run={run}", f"--out={tmp_path}/file")
    assert done.returncode == 1 and done.stdout == "" and len(done.stderr.splitlines()) == 1
    assert f"report: {tmp_path}/file cannot be written" in done.stderr


def test_a_folder_that_may_not_be_written_names_out(tmp_path, monkeypatch):
    def refuse(dir):
        raise PermissionError(13, "Permission denied")  # root, who may run this, is refused nothing

    monkeypatch.setattr(report.tempfile, "TemporaryFile", refuse)
    with pytest.raises(
        UserError, match="cannot be written .Permission denied.: --out=FOLDER writes the page elsewhere"
    ):
        report.prepare(tmp_path)


VALIDATION = {"step": 0, "lamda": 0.1, "loss": None, "validation": {"HR@100": 1, "NDCG@10": 1}}


@pytest.mark.parametrize(
    "text",
    [
        None,
        "",
        '{"step": 0, "valid',
        "null\n",
        "[]\n",
        *(
            json.dumps(line) + "\n"
            for line in (
                {**VALIDATION, "step": "0"},
                {**VALIDATION, "step": float("nan")},
                {**VALIDATION, "loss": float("inf")},
                {**VALIDATION, "lamda": None},
                {**VALIDATION, "validation": {"HR@100": None, "NDCG@10": 1}},
                {**VALIDATION, "validation": {"HR@100": 1}},
                {**VALIDATION, "validation": None},
                {"step": 0, "validation": VALIDATION["validation"]},
            )
        ),
    ],
)
def test_no_curve_without_numbers(tmp_path, capsys, text):
    if text is not None:
        (tmp_path / "metrics.jsonl").write_text(text)
    assert report.curve(tmp_path, {"best_step": 0}) is None
    note = capsys.readouterr().err
    damage = "cannot be read: No such file" if text is None else "is damaged ("
    assert note.startswith(f"report: the page has no learning curve: {tmp_path}/metrics.jsonl {damage}")
    assert note.count("\n") == 1


def test_a_curve_of_one_validation(tmp_path):
    (tmp_path / "metrics.jsonl").write_text(json.dumps(VALIDATION) + "\n")
    (tmp_path / "sums.json").write_text(json.dumps({"metrics.jsonl": digest_of(tmp_path / "metrics.jsonl")}))
    for best in (0, None):
        assert "Learning curve" in report.curve(tmp_path, {"best_step": best})


def test_effective_items_against_a_loop():
    rows = np.array([[0, 1, 1, 0], [0.2, 0.2, 0.2, 0.2], [0.1, 0.3, 0, 0.9], [0, 0, 0, 0]], np.float32)
    expected = [
        np.exp(-sum(share * np.log(share) for share in row / row.sum() if share))
        for row in rows[:3].astype(float)
    ]
    assert report.effective_items(rows) == pytest.approx([*expected, 1]) and expected[:2] == pytest.approx(
        [2, 4]
    )


def test_pictures_of_the_page_are_safe_and_take_its_colours():
    """Whatever the texts of a picture are, they stay text; two pictures share no id; nothing is fetched."""
    names = ("</svg><script>alert(1)</script>", "\"'&<u>", r"$\frac$ &")
    rng = np.random.default_rng(0)

    def draw(kind):
        line = {"x": [1, 2], "HR@10": rng.random(2), "HR@10 deviation": [0, 0]}
        frames = {name: pd.DataFrame(line) for name in (*names, "Distill-CF")}
        return plots.lines(frames, "HR@10", names[0], names[1], kind)

    ids = []
    for title in (names[0], "another"):
        text = str(figures.inline(title, draw))
        outside = re.sub(r"<[a-zA-Z/][^<>]*>", "", text)
        assert not set("<>") & set(outside), "no < or > but those of whole tags"
        assert "<script" not in text and "<u>" not in text and "<!--" not in text and "://" not in text
        assert text.count("</svg>") == 1 and "<style" not in text
        element = ElementTree.fromstring(text)
        shown = {part.text for part in element.iter("text")}
        assert {*names, "Distill-CF", "HR@10, %"} <= shown, "text, not outlines"
        assert element.find("svg").get("aria-label") == element.find("figcaption").text == title
        ids.append(set(re.findall(' id="(.*?)"', text)))
        assert set(re.findall('(?:"|[(])#([^")]*)', text)) == ids[-1]
        assert plots.DISTILL_CF[0] not in text and "var(--distilled)" in text and "var(--ink)" in text
    assert ids[0] and not ids[0] & ids[1]


@pytest.mark.parametrize("users", [1, 5])
def test_pictures_of_differences_survive_anything(users):
    """Of one user, of equal ones, of items that nobody has."""
    same = np.full(users, 7)
    for values in (same, np.arange(users) + 0.5):
        picture = str(figures.inline("t", lambda kind: figures.lengths(same, values, values, kind)))
        assert "nan" not in picture and picture.count("synthetic: ") == 2
    for frequency in (np.zeros(3), np.array([0, 0.5, 0.5]), np.array([2.0, 0, 30])):
        draw = lambda kind: figures.popularity(frequency, np.array([0, 0.1, 0.1]), kind)
        picture = str(figures.inline("t", draw))
        assert "nan" not in picture and picture.count("<use ") >= (frequency > 0).sum()


def test_the_page_has_three_pictures(page):
    text = page[0].read_text(encoding="utf-8")
    captions = re.findall("<figcaption>(.*?)</figcaption><svg ", text)
    assert captions == ["Learning curve", "Lengths of histories", "Popularity of items"]
    assert all(f"{name}: {colour};" in text for name, colour in figures.VARIABLES)
