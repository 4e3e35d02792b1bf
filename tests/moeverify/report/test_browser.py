"""The report in a real browser: Debian's headless Chromium. ``.ci/run`` installs it."""

import shutil

import pytest
from sample_results import HOSTILE, curves, mixed

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not (shutil.which("chromium") and shutil.which("chromedriver")),
        reason="chromium and chromedriver are not installed; .ci/run installs and runs them",
    ),
]

# Contrast by WCAG 2: relative luminance of text against the nearest painted background.
CONTRAST = """
function channels(c) { return (c.match(/[\\d.]+/g) || [0, 0, 0, 0]).map(Number); }
function light(c) { return c.slice(0, 3).map(function (v) { v /= 255;
  return v <= 0.04045 ? v / 12.92 : Math.pow((v + 0.055) / 1.055, 2.4); })
  .reduce(function (s, v, i) { return s + v * [0.2126, 0.7152, 0.0722][i]; }, 0); }
function behind(e) { for (; e; e = e.parentElement) { var c = channels(getComputedStyle(e).backgroundColor);
  if (c.length < 4 || c[3] > 0) { return c; } } return channels("rgb(255, 255, 255)"); }
var worst = [99, ""];
document.querySelectorAll("h1,h2,h3,p,a,td,th,dt,dd,li,summary,figcaption,caption,button,label,code,output").forEach(
  function (e) { if (!e.textContent.trim() || !e.getClientRects().length) { return; }
    var a = light(channels(getComputedStyle(e).color)), b = light(behind(e));
    var ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    if (ratio < worst[0]) { worst = [ratio, e.tagName + ": " + e.textContent.trim().slice(0, 60)]; } });
return worst;
"""


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium")
    for flag in (
        "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
        "--disable-background-networking", "--disable-component-update", "--disable-dev-shm-usage",
        f"--user-data-dir={tmp_path_factory.mktemp('profile')}",
    ):  # fmt: skip
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options, webdriver.ChromeService(shutil.which("chromedriver")))
    yield driver
    driver.quit()


@pytest.fixture
def page(browser, tmp_path):
    """The mixed report, opened afresh; no console message may be left at the end."""
    path = mixed().to_html(tmp_path / "report.html")
    browser.set_window_size(1200, 900)
    browser.get(path.as_uri())
    yield browser
    assert browser.get_log("browser") == []


def visible_rows(page):
    rows = page.find_elements("css selector", "#matrix tbody tr")
    return [row.find_element("tag name", "th").text for row in rows if row.is_displayed()]


def test_filter_and_only_problems(page):
    assert visible_rows(page) == ["zoo:good", "zoo:leaky", HOSTILE]
    page.find_element("id", "filter").send_keys("LEAK")
    assert visible_rows(page) == ["zoo:leaky"]
    assert page.find_element("id", "shown").text == "1 of 3 models"
    assert not page.find_element("id", "case-0").is_displayed()
    page.find_element("id", "filter").send_keys("nothing like it")
    assert page.find_element("id", "empty").is_displayed()
    page.find_element("id", "filter").clear()
    page.find_element("id", "filter").send_keys(" ")
    page.find_element("id", "problems").click()
    assert visible_rows(page) == ["zoo:leaky", HOSTILE]


def test_sorting_by_a_column(page):
    button = page.find_element("css selector", "button[data-sort='0']")
    button.click()
    assert visible_rows(page) == sorted(visible_rows(page), key=str.lower)
    button.click()
    assert button.find_element("xpath", "..").get_attribute("aria-sort") == "descending"
    assert visible_rows(page)[0] == "zoo:leaky"


def test_hostile_names_are_text(page):
    assert page.title == "moeverify: problems found"
    assert f"{HOSTILE} pruned by moe" in page.find_element("id", "case-2-title").text
    assert not page.find_elements("tag name", "img")
    assert len(page.find_elements("tag name", "script")) == 1


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_can_be_read_in_both_schemes(page, scheme):
    media = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    page.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
    dark = page.execute_script("return getComputedStyle(document.body).backgroundColor") != "rgb(255, 255, 255)"
    assert dark == (scheme == "dark")
    ratio, where = page.execute_script(CONTRAST)
    assert ratio >= 4.5, where


def test_a_phone_does_not_scroll_sideways(page):
    page.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride", {"width": 390, "height": 844, "deviceScaleFactor": 2, "mobile": True}
    )
    wide = page.execute_script("return [document.documentElement.scrollWidth, window.innerWidth]")
    page.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    assert wide[0] <= wide[1] == 390


def test_the_keyboard_reaches_filter_and_tables(page):
    from selenium.webdriver.common.keys import Keys

    seen = []
    for _ in range(12):
        page.switch_to.active_element.send_keys(Keys.TAB)
        element = page.switch_to.active_element
        seen.append(element.get_attribute("id") or element.get_attribute("class") or element.tag_name)
    assert {"jump", "filter", "problems", "wide overview"} <= set(seen)


def test_a_mark_leads_to_its_verdict_and_the_overview_fits(page):
    page.set_window_size(1280, 900)
    fits = "var e = document.querySelector('.overview'); return e.scrollWidth <= e.clientWidth"
    assert page.execute_script(fits)
    page.find_element("css selector", "#matrix td.fail a").click()
    target = page.execute_script("return document.querySelector('li:target')")
    assert "experts leak" in target.text
    assert target.find_element("tag name", "details").get_attribute("open")


def test_the_reproduce_line_is_copied(page):
    button = page.find_element("css selector", "article button.copy")
    page.execute_script(
        "navigator.clipboard.writeText = function (text) { window.copied = text; return Promise.resolve(); }"
    )
    button.click()
    assert page.execute_script("return window.copied") == "moeverify verify zoo:leaky"
    assert button.text == "Copied"


@pytest.fixture
def curve(browser, tmp_path):
    """The figure of a report with quality curves; no console message may be left at the end."""
    path = curves().to_html(tmp_path / "report.html")
    browser.set_window_size(1200, 900)
    browser.get(path.as_uri())
    yield browser.find_element("css selector", "figure[data-curve]")
    assert browser.get_log("browser") == []


def test_values_of_a_curve_are_read_by_keys_and_by_pointer(curve, browser):
    from selenium.webdriver.common.action_chains import ActionChains
    from selenium.webdriver.common.keys import Keys

    svg, said = curve.find_element("css selector", "svg.curve"), curve.find_element("tag name", "output")
    ActionChains(browser).click(svg).send_keys(Keys.ARROW_LEFT * 3).perform()
    assert said.text == "unpruned: arc 0.620 ± 0.010, piqa 0.710 ± 0.010"
    ActionChains(browser).move_to_element_with_offset(svg, svg.size["width"] // 2 - 30, 0).perform()
    assert said.text == "ratio 0.5, 60 % of the parameters: arc 0.550 ± 0.010, piqa 0.660 ± 0.010"


def test_a_task_can_be_hidden_and_the_scale_fitted(curve):
    dot = curve.find_element("css selector", ".series.s1 circle")
    before = float(dot.get_attribute("cy"))
    curve.find_element("css selector", "button.fit").click()
    fitted = float(dot.get_attribute("cy"))
    assert fitted < before  # the best score moves to the top
    curve.find_element("css selector", "button[data-series='0']").click()
    assert not curve.find_element("css selector", ".series.s0 polyline").is_displayed()
    lowest = curve.find_elements("css selector", ".series.s1 circle")[-1]
    assert float(lowest.get_attribute("cy")) > 200  # what is left fills the picture
    ticks = [float(tick.text) for tick in curve.find_elements("css selector", ".tick")]
    assert ticks == sorted(ticks)
    assert ticks[0] > 0.6


def test_the_curve_is_there_without_scripts(tmp_path):
    page = curves().to_html(tmp_path / "report.html").read_text("utf-8")
    assert page.count("<polyline points=") == 4  # two curves and their keys
    assert '<p class="tools" hidden>' in page
