"""The HTML page in a real browser, from a file: it sorts, filters, draws, complains of nothing and asks nobody."""

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from boards import write_leaderboard
from grids import ROWS, drawn, grid

from kdbench.report.html import thinned
from kdbench.report.plots import most_of
from kdbench.report.table import make_board
from kdbench.results.outcomes import Outcomes, packed

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")
FLAGS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage",
]  # fmt: skip
EVIL = "RuntimeError: <img src=x onerror=alert(1)></script><b>"


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three pairs, with a row that was skipped and a cell that failed."""
    folder = tmp_path_factory.mktemp("page")
    _, cells = grid(folder, pairs=3, seeds=4)
    records = drawn(cells, {"kd": 2.0, "rkd": -2.0}, spread=0.05)
    for made in records:
        if made["label"] == "sp":
            made |= {"status": "skipped", "reason": "needs maps", "scores": {}, "profile": {}, "cost": {}}
    records[1] |= {"status": "failed", "reason": EVIL, "scores": {}, "curves": {}}
    links = {made["key"]: f"http://127.0.0.1:5000/#/runs/{made['key']}" for made in records}
    write_leaderboard(cells, records, folder, plots=False, links=links)
    return folder / "leaderboard.html"


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    if CHROMIUM is None or DRIVER is None:
        pytest.skip("no Chromium with its driver here (Debian: apt-get install chromium chromium-driver)")
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in [*FLAGS, "--window-size=1280,1000", f"--user-data-dir={tmp_path_factory.mktemp('chromium')}"]:
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    made = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    yield made
    made.quit()


@pytest.fixture
def browser(driver: Any, page: Path) -> Any:
    for kind in ("browser", "performance"):
        driver.get_log(kind)  # what came before
    driver.set_window_size(1280, 1000)
    driver.get(page.as_uri())
    return driver


def column(browser: Any, number: int) -> list[str]:
    script = f"return [...document.querySelectorAll('tr.main')].map(r => r.children[{number}].textContent)"
    return list(browser.execute_script(script))


def click(browser: Any, css: str, number: int = 0) -> None:
    browser.execute_script(f"document.querySelectorAll({css!r})[{number}].click()")


def lost_row(browser: Any) -> int:
    """The place of the row that lost a seed: kd on the first pair."""
    return next(place for place, text in enumerate(column(browser, 1)) if text == "3 of 4, 1 lost")


def choose_pair(browser: Any, number: int) -> None:
    script = "const s = document.getElementById('pair'); s.value = arguments[0]; s.dispatchEvent(new Event('change'))"
    browser.execute_script(script, str(number))


def type_filter(browser: Any, text: str) -> None:
    field = browser.find_element("id", "filter")
    field.clear()
    field.send_keys(text)


def test_quiet_and_alone(browser: Any, page: Path) -> None:
    click(browser, "tr.main", 1)
    assert browser.get_log("browser") == []
    events = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    asked = {e["params"]["request"]["url"] for e in events if e["method"] == "Network.requestWillBeSent"}
    assert {url for url in asked if not url.startswith(("data:", "chrome"))} == {page.as_uri()}
    assert browser.execute_script("return performance.getEntriesByType('resource').length") == 0


def test_sorts(browser: Any) -> None:
    heads = browser.execute_script("return [...document.querySelectorAll('th')].map(h => h.textContent)")
    place = heads.index("top-1 % ▾")  # at first by score
    scores = [float(text.split(" ")[0]) for text in column(browser, place) if text != "–"]
    assert scores == sorted(scores, reverse=True)
    assert len(scores) == 9
    assert column(browser, place)[-3:] == ["–"] * 3  # skipped rows stand last in either order
    click(browser, "th button", place)
    assert [float(text.split(" ")[0]) for text in column(browser, place)[:9]] == sorted(scores)
    assert browser.execute_script("return document.querySelectorAll('th')[arguments[0]].ariaSort", place) == "ascending"
    click(browser, "th button", 0)
    assert column(browser, 0) == sorted(column(browser, 0))


def test_filters(browser: Any) -> None:
    assert len(column(browser, 0)) == 12
    type_filter(browser, "better")
    assert {name.split(" ")[0] for name in column(browser, 0)} == {"kd"}
    type_filter(browser, "resnet14 rkd")
    assert column(browser, 0) == ["rkd"]
    type_filter(browser, "nothing like this")
    assert column(browser, 0) == []


def test_one_pair(browser: Any) -> None:
    choose_pair(browser, 1)
    assert len(column(browser, 0)) == 4
    assert "cifar_resnet14" in browser.find_element("id", "plotted").text
    assert "90.00% top-1" in browser.find_element("id", "about").text


def test_shows_plots(browser: Any) -> None:
    for name, mark, least in (("latency", "circle", 10), ("cost", "circle", 3), ("curves", "polyline", 3),
                              ("ranks", "polyline", 2), ("forest", "circle", 1)):  # fmt: skip
        assert len(browser.find_elements("css selector", f"#{name} {mark}")) >= least, name
        assert browser.find_element("id", name).size["height"] > 50
    bad = "return [...document.querySelectorAll('svg *')].filter(e => /NaN|undefined/.test(e.outerHTML)).length"
    assert browser.execute_script(bad) == 0


def test_hover_tells_n_interval_and_settings(browser: Any) -> None:
    actions = pytest.importorskip("selenium.webdriver").ActionChains(browser)
    row = lost_row(browser)
    actions.move_to_element(browser.find_elements("css selector", "tr.main td.name")[row]).perform()
    tip = browser.find_element("id", "tip").text
    for part in ("kd: 3 of 4 cells done", "over 3 seeds", "95% interval +", '"temperature": 4'):
        assert part in tip


def test_a_row_opens_on_its_seeds_and_runs(browser: Any) -> None:
    row = lost_row(browser)
    click(browser, "tr.main", row)
    more = browser.find_element("css selector", "tr.more")
    assert "seed 0" in more.text
    assert EVIL in more.text  # as text
    links = [a.get_attribute("href") for a in more.find_elements("css selector", "a")]
    assert len(links) == 4
    assert all(link.startswith("http://127.0.0.1:5000/#/runs/") for link in links)
    click(browser, "tr.main", row)
    assert not browser.find_elements("css selector", "tr.more")


def test_opens_with_a_forest_plot_of_gains(browser: Any) -> None:
    """Over all pairs the means; of one pair its rows by gain, the tied on a grey ground, survivors hollow."""
    names = "return [...document.querySelectorAll('#forest text:not(.soft)')].map(t => t.textContent)"
    assert browser.execute_script(names) == ["rkd"]  # kd lost a seed on one pair, sp does not apply
    choose_pair(browser, 1)
    assert browser.execute_script(names) == ["kd", "rkd"]
    assert len(browser.find_elements("css selector", "#forest line.seeds.good")) == 1
    assert len(browser.find_elements("css selector", "#forest line.seeds.bad")) == 1
    assert len(browser.find_elements("css selector", "#forest rect.tied")) == 1
    choose_pair(browser, 0)
    hollow = "return [...document.querySelectorAll('#forest circle')].filter(c => c.style.strokeWidth !== '').length"
    assert browser.execute_script(hollow) == 1
    told = browser.find_element("id", "told").text
    assert f"kd: 1 of 4 cells failed: {EVIL}; what is left is not a fair sample" in told
    assert "Intervals hold for other seeds" in told
    above = "return document.getElementById('gains').offsetTop < document.getElementById('board').offsetTop"
    assert browser.execute_script(above)


def test_no_column_is_cut_on_a_usual_screen(tmp_path: Path, driver: Any) -> None:
    """With every column there is, long labels and the names of pairs."""
    rows = {"student": {"ce": 1}, "kd": {"ce": 1, "kd": 1}, "a row with a rather long label, of many words": {"kd": 1}}
    _, cells = grid(tmp_path, pairs=2, methods=rows, validation=0.1)
    records = drawn(cells, {"kd": -11.0}, spread=3)
    target = np.arange(100) % 10
    for made in records:
        made["scores"]["test_top1_chosen"] = 71.0
        predicted = np.where(np.arange(100) < made["scores"]["test_top1"], target, 0)
        made["outcomes"] = packed(Outcomes(predicted, target, target), 10)
    write_leaderboard(cells, records, tmp_path, plots=False)
    size = {"width": 1400, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    try:
        driver.get((tmp_path / "leaderboard.html").as_uri())
        heads = driver.execute_script("return [...document.querySelectorAll('th')].map(h => h.textContent)")
        assert {"pair", "chosen", "new examples", "vs kd"} <= set(heads)
        assert (
            driver.execute_script("const s = document.querySelector('.scroll'); return s.scrollWidth - s.clientWidth")
            == 0
        )
    finally:
        driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


@pytest.mark.parametrize("width", [360, 1280])
def test_fits_the_screen(browser: Any, width: int) -> None:
    size = {"width": width, "height": 740, "deviceScaleFactor": 1, "mobile": width < 500}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    try:
        assert browser.execute_script("return document.documentElement.scrollWidth") <= width
    finally:
        browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_dark(browser: Any) -> None:
    paint = "return getComputedStyle(document.body).backgroundColor"
    bright = browser.execute_script(paint)
    dark = [{"name": "prefers-color-scheme", "value": "dark"}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": dark})
    assert bright == "rgb(255, 255, 255)"
    assert max(map(int, re.findall(r"\d+", browser.execute_script(paint)))) < 60
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})


def test_the_page_without_a_result(tmp_path: Path, driver: Any) -> None:
    _, cells = grid(tmp_path)
    write_leaderboard(cells, [], tmp_path, plots=False)
    driver.get_log("browser")
    driver.get((tmp_path / "leaderboard.html").as_uri())
    assert driver.find_element("id", "headline").text == "No cell is done yet."
    assert len(column(driver, 0)) == 4
    assert driver.get_log("browser") == []


def test_the_file_is_self_contained(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert not re.search(r"""(src|href)=["']?(https?:)?//""", text)
    assert EVIL not in text  # no markup from a record reaches the file
    assert "default-src 'none'" in text


def test_curves_are_thinned_and_keep_their_end() -> None:
    assert thinned([1.0, 2.0]) == [(1, 1.0), (2, 2.0)]
    long = thinned([float(x) for x in range(1000)])
    assert len(long) <= 120
    assert long[-1] == (1000, 999.0)


# --- many rows -------------------------------------------------------------------------------------------------------

ASKED = """<script>
const seen = [], count = what => document.querySelectorAll(what).length;
const click = what => document.querySelector(what).click();
seen.push(count("tr.main"), count(".plots circle"), count("#forest circle"));
click("#more button"); seen.push(count("tr.main"));
click("#draw button"); seen.push(count("#cost circle"));
document.querySelector("#filter").value = "row 248";
document.querySelector("#filter").dispatchEvent(new Event("input"));
seen.push(count("tr.main"), document.querySelector("#more").hidden);
document.body.dataset.seen = seen.join();
</script></body>"""


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here")
def test_many_rows_are_shown_as_they_are_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(249):
        row = {"ce": 0.1, "kd": {"weight": 0.9, "temperature": 2.0 + number}}
        monkeypatch.setitem(ROWS, f"row {number} more", row)
    _, cells = grid(tmp_path, ["student", *(f"row {number} more" for number in range(249))], seeds=1)
    monkeypatch.setattr("kdbench.report.html.ALL_POINTS", 500)
    write_leaderboard(cells, drawn(cells, {}), tmp_path, plots=False)
    path = tmp_path / "leaderboard.html"
    text = path.read_text(encoding="utf-8")
    data = json.loads(re.findall(r'id="data">(.*?)</script>', text, re.DOTALL)[0])
    assert sum(map(len, data["pairs"][0]["curves"].values())) == 500  # two epochs of each, the last among them
    path.write_text(text.replace("</body>", ASKED), encoding="utf-8")
    words = [str(CHROMIUM), *FLAGS, f"--user-data-dir={tmp_path / 'chromium'}", "--dump-dom", path.as_uri()]
    seen = subprocess.run(words, capture_output=True, check=True, timeout=120).stdout.decode()
    assert 'data-seen="200,0,60,250,250,2,true"' in seen  # that row, and the one whose temperature is 248


def test_a_figure_has_room_for_the_best_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, cells = grid(tmp_path)
    pair = make_board("grid", cells, drawn(cells, {"kd": 2.0, "rkd": 4.0, "sp": -9.0, "student": -5.0})).pairs[0]
    monkeypatch.setattr("kdbench.report.plots.MOST_ROWS", 2)
    assert [row.label for row in most_of(pair.rows)] == ["student", "kd", "rkd"]
