"""The report in a real browser, from a file."""

import json
import os
import shutil
from collections.abc import Iterator

import pytest
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webelement import WebElement
from support.comparisons import EVIL, make

from rwp_dist.compare import compare

OPTIONS = (
    *("headless", "no-sandbox", "disable-gpu", "disable-quic", "no-first-run"),
    *("disable-background-networking", "disable-component-update", "disable-sync"),
)
TOP1 = {"sgd": 9.5, "rwp": 100.0, "m-rwp": 89.5}  # 100 sorts before 89 as a text


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[webdriver.Chrome]:
    lack = [name for name in ("chromium", "chromedriver") if not shutil.which(name)]
    if lack and {"CI", "RWP_NEEDS_BROWSER"} & os.environ.keys():
        pytest.fail(f"The report's tests need {' and '.join(lack)} (Debian: chromium-driver).")
    if lack:
        pytest.skip(f"no browser to try the report in: {' and '.join(lack)} is missing")
    options = webdriver.ChromeOptions()
    options.binary_location = str(shutil.which("chromium"))
    for option in (*OPTIONS, f"user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(f"--{option}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options, webdriver.ChromeService(shutil.which("chromedriver")))
    yield driver
    driver.quit()


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Of the report of some runs."""
    folder = tmp_path_factory.mktemp("report")
    for label, top1 in TOP1.items():
        for seed in (0, 1):
            make(folder / "runs", label, seed, top1 - seed, 0.01)
    run = make(folder / "runs", "rwp", 2, TOP1["rwp"], 0.01)
    run.write_summary((run.read_summary() or {}) | {"label": EVIL, "session": "another"})
    compare([folder / "runs"], folder, baseline="sgd", html=True)
    return (folder / "compare.html").as_uri()


@pytest.fixture
def page(browser: webdriver.Chrome, url: str) -> Iterator[webdriver.Chrome]:
    """The report; a test ends without an error and without a request to anywhere."""
    for kind in ("browser", "performance"):
        browser.get_log(kind)  # of the page before
    browser.get(url)
    yield browser
    assert errors(browser) == []
    asked = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    sent = [e["params"] for e in asked if e["method"] == "Network.requestWillBeSent"]
    places = [params["request"]["url"] for params in sent if params["documentURL"] == url]
    assert places[0] == url and all(place.startswith("data:") for place in places[1:])


def errors(browser: webdriver.Chrome) -> list[str]:
    """What the console has got since it was asked before."""
    return [entry["message"] for entry in browser.get_log("browser") if entry["level"] == "SEVERE"]


def column(table: WebElement, head: str) -> tuple[WebElement, list[str]]:
    """A head's button, and the texts below it."""
    heads = [" ".join(one.text.split()) for one in table.find_elements(By.CSS_SELECTOR, "thead th")]
    place = heads.index(head)
    cells = table.find_elements(By.CSS_SELECTOR, f"tbody tr > :nth-child({place + 1})")
    button = table.find_elements(By.CSS_SELECTOR, "thead button")[place]
    return button, [cell.text for cell in cells]


def test_a_click_on_a_head_sorts_numbers_as_numbers(page: webdriver.Chrome) -> None:
    table = page.find_element(By.TAG_NAME, "table")
    for order, values in (("ascending", [9.0, 89.0, 99.5, 100.0]), ("descending", None)):
        button, _ = column(table, "test top-1 %")
        button.click()
        assert button.find_element(By.XPATH, "..").get_attribute("aria-sort") == order
        found = [float(text.split(" ")[0]) for text in column(table, "test top-1 %")[1]]
        assert found == (values or [100.0, 99.5, 89.0, 9.0])


def test_missing_numbers_stay_last_and_names_are_sorted_as_texts(page: webdriver.Chrome) -> None:
    table = page.find_element(By.TAG_NAME, "table")
    for _ in range(2):
        column(table, "time × SGD")[0].click()
        assert column(table, "time × SGD")[1][-1] == "—"
    column(table, "method")[0].click()
    names = column(table, "method")[1]
    assert names[1:] == ["m-rwp", "rwp", "sgd"] and names[0].startswith("<script>")
    sorted_heads = table.find_elements(By.CSS_SELECTOR, "th[aria-sort=ascending]")
    assert [head.text for head in sorted_heads] == ["method"]


def test_the_keyboard_sorts_too(page: webdriver.Chrome) -> None:
    table = page.find_elements(By.TAG_NAME, "table")[1]
    page.switch_to.active_element.send_keys(Keys.TAB)
    for _ in range(20):
        if page.switch_to.active_element == column(table, "points")[0]:
            break
        page.switch_to.active_element.send_keys(Keys.TAB)
    page.switch_to.active_element.send_keys(Keys.ENTER)
    points = [float(text) for text in column(table, "points")[1] if text != "—"]
    assert points == sorted(points) and len(points) == 2


def test_pictures_are_shown_and_a_phone_scrolls_in_one_direction(page: webdriver.Chrome) -> None:
    widths = page.execute_script("return [...document.images].map((one) => one.naturalWidth)")
    assert len(widths) == 2 and min(widths) > 500
    size = {"width": 400, "height": 800, "deviceScaleFactor": 1, "mobile": True}
    page.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    assert page.execute_script("return document.documentElement.scrollWidth") == 400
    page.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_texts_of_runs_run_nothing(page: webdriver.Chrome) -> None:
    assert page.find_elements(By.CSS_SELECTOR, "[onerror]") == []
    assert page.execute_script("return document.scripts.length") == 1
    page.execute_script("document.body.append(document.createElement('script'))")
    page.execute_script("document.scripts[1].textContent = 'window.ran = 1'")
    assert page.execute_script("return window.ran") is None
    [blocked] = errors(page)
    assert "Content Security Policy" in blocked
