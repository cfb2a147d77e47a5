"""The page in a real browser: ``apt install chromium chromium-driver``, then ``pytest -m browser``."""

import csv
import io
import json
import shutil
import time

import numpy as np
import pytest
from PIL import Image
from scipy.spatial import KDTree

pytestmark = pytest.mark.browser

AXES = """
const linear = (value) => (value /= 255) <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4;
const light = (text) => text.match(/[\\d.]+/g).slice(0, 3).map(Number).map(linear)
  .reduce((sum, value, k) => sum + value * [0.2126, 0.7152, 0.0722][k], 0);
const ground = (element) => {
  for (; element; element = element.parentElement) {
    const colour = getComputedStyle(element).backgroundColor;
    if (!/, 0\\)$/.test(colour)) return colour;
  }
  return "rgb(255, 255, 255)";
};
const poor = [];
for (const element of document.querySelectorAll("body *")) {
  const own = [...element.childNodes].some((node) => node.nodeType === 3 && node.data.trim());
  if (!own || !element.checkVisibility() || element.closest("svg") || element.closest("script")) continue;
  const [a, b] = [light(getComputedStyle(element).color), light(ground(element))].sort((x, y) => y - x);
  if ((a + 0.05) / (b + 0.05) < 4.5) poor.push(element.outerHTML.slice(0, 100));
}
return poor;
"""
"""Elements whose text has a contrast below 4.5 to what is behind it (WCAG 2.2, 1.4.3)."""


class Browser:
    """A page in headless Chromium, without a network."""

    def __init__(self, driver, by, keys):
        self.driver, self.by, self.keys = driver, by, keys

    def open(self, file, *, width=1280, height=1000, dark=False) -> None:
        self.driver.execute_cdp_cmd(
            "Emulation.setDeviceMetricsOverride",
            {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600},
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})
        self.driver.get(file.as_uri())
        self.ready()

    def ready(self) -> None:
        self.until(lambda: self("#status").text == "" and self("#branch option:nth-child(2)"))

    def until(self, condition):
        end = time.monotonic() + 20
        while not (found := condition()):
            assert time.monotonic() < end, "waited in vain"
            time.sleep(0.05)
        return found

    def __call__(self, selector):
        return self.driver.find_element(self.by.CSS_SELECTOR, selector)

    def all(self, selector) -> list:
        return self.driver.find_elements(self.by.CSS_SELECTOR, selector)

    def run(self, script, *arguments):
        return self.driver.execute_script(script, *arguments)

    def press(self, *names) -> None:
        from selenium.webdriver import ActionChains

        for name in names:
            ActionChains(self.driver).send_keys(getattr(self.keys, name, name)).perform()

    def click_at(self, element, x, y) -> None:
        from selenium.webdriver import ActionChains

        ActionChains(self.driver).move_to_element_with_offset(element, x, y).click().perform()

    def picture(self, selector) -> str:
        self.run("arguments[0].scrollIntoView()", self(selector))  # what is below the window is cut off
        return self(selector).screenshot_as_base64

    def errors(self) -> list[str]:
        return [entry["message"] for entry in self.driver.get_log("browser") if entry["level"] == "SEVERE"]


@pytest.fixture(scope="module")
def browser():
    from selenium import webdriver
    from selenium.webdriver.common.by import By
    from selenium.webdriver.common.keys import Keys

    options = webdriver.ChromeOptions()
    for argument in (
        "--headless=new",
        "--no-sandbox",
        "--enable-unsafe-swiftshader",
        "--host-resolver-rules=MAP * 0.0.0.0",
    ):
        options.add_argument(argument)
    options.binary_location = shutil.which("chromium")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(shutil.which("chromedriver")))
    yield Browser(driver, By, Keys)
    driver.quit()


@pytest.fixture
def shown(browser, page):
    """The page of two models, opened anew."""
    browser.open(page / "two.html")
    yield browser
    assert browser.errors() == []


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390], ids=["wide", "phone"])
@pytest.mark.parametrize("name", ["one", "two", "measured"])
def test_it_opens_without_network_and_errors_in_every_shape(browser, page, name, width, dark):
    browser.driver.get_log("performance")
    browser.open(page / f"{name}.html", width=width, dark=dark)
    events = [json.loads(entry["message"])["message"] for entry in browser.driver.get_log("performance")]
    asked = [event["params"] for event in events if event["method"] == "Network.requestWillBeSent"]
    addresses = [params["request"]["url"] for params in asked]
    assert addresses and all(address.startswith(("file:", "data:")) for address in addresses)
    assert browser.errors() == []
    assert browser.run("return document.documentElement.scrollWidth") <= width
    assert browser.run(AXES) == []
    assert browser.run("return typeof window.alerted") == "undefined"
    assert browser.run("return [...document.images].length") == 0


def pixels(browser, selector) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(browser(selector).screenshot_as_png)).convert("RGB")).astype(int)


def test_what_is_missed_is_red_and_on_its_side_of_the_patient(shown):
    shown.run("location.hash = '#case=half'")
    shown.until(lambda: shown("#case option:checked").text == "half")
    shown.ready()
    shown.all("#colour option")[2].click()  # found by the second model, which lacks an end on the patient's left
    time.sleep(0.2)
    red, green, blue = pixels(shown, "#view").transpose(2, 0, 1)
    width = red.shape[1]
    missed = np.nonzero((red > 2 * green) & (red > 2 * blue))[1]
    found = np.nonzero((abs(red - green) < 12) & (red < 200))[1]
    assert len(missed) > 100 and (missed > 0.52 * width).all()
    assert found.min() < 0.48 * width and len(found) > 3 * len(missed)
    shown.all("#colour option")[1].click()  # the first model lacks nothing
    time.sleep(0.2)
    red, green, blue = pixels(shown, "#view").transpose(2, 0, 1)
    assert not ((red > 2 * green) & (red > 2 * blue)).any()


@pytest.mark.parametrize("plane", ["axial", "coronal", "sagittal"])
def test_outlines_lie_around_the_lumen_of_the_ct(shown, plane):
    for option in shown.all("#branch option")[1:]:
        option.click()
        picture = pixels(shown, f"[data-plane={plane}] canvas")
        grey = picture.max(2) - picture.min(2) < 20
        lumen = np.argwhere(grey & (picture[..., 0] > 3) & (picture[..., 0] < 40))
        outline = np.argwhere(picture.max(2) - picture.min(2) > 100)
        millimetre = picture.shape[1] / 60
        assert len(lumen) and len(outline) > 20
        away, _ = KDTree(lumen).query(outline)
        assert np.quantile(away, 0.95) < 3 * millimetre
        back, _ = KDTree(outline).query(lumen)
        assert np.quantile(back, 0.8) < 3 * millimetre


def test_a_browser_that_cannot_unpack_says_so(shown):
    shown.run("window.DecompressionStream = undefined")
    shown.run("arguments[0].value = '1'; arguments[0].dispatchEvent(new Event('change'))", shown("#case"))
    shown.until(lambda: "cannot show the case" in shown("#status").text)
    assert "Firefox 113" in shown("#status").text


def test_hostile_names_are_text(shown):
    options = [option.text for option in shown.all("#case option")]
    assert sorted(options) == ["<img src=x>", "half", "whole"]
    assert "</script><script>alert(1)</script>" in shown("h1").text
    assert [option.text for option in shown.all("#colour option")] == [
        "difference of the models", "found by first", "found by </script><script>alert(1)</script>", "generation",
    ]  # fmt: skip


def test_a_branch_is_picked_by_pointer_and_its_figures_appear(shown):
    view = shown("#view")
    before = shown.picture("#view")
    size = view.size
    for y in range(-size["height"] // 2 + 10, size["height"] // 2, 20):
        shown.click_at(view, 0, y)
        if shown("#facts").text:
            break
    words = shown("#facts").text
    assert all(word in words for word in ("branch", "generation", "parent", "length", "diameter", "found by first"))
    number = shown("#branch").get_attribute("value")
    assert f"branch\n{number}\n" in words and shown.picture("#view") != before


def test_a_branch_chosen_in_the_list_is_that_of_the_evaluation(shown, page):
    shown.run("arguments[0].value = '0'; arguments[0].dispatchEvent(new Event('change'))", shown("#case"))
    shown.ready()
    case = shown("#case option:checked").text
    with (page / "ev_second" / "branches.csv").open() as lines:
        wanted = {row["branch"]: row for row in csv.DictReader(lines) if row["case"] == case}
    assert len(wanted) == 3
    for number, row in wanted.items():
        shown(f"#branch option[value='{number}']").click()
        words = shown("#facts").text
        assert f"generation\n{row['generation']}" in words and f"length\n{float(row['length_mm']):.1f} mm" in words
        detected = "detected" if row["detected"] == "1" else "missed"
        assert words.endswith(f"{float(row['found_percent']):.0f} %, {detected}")


def test_colours_and_what_is_shown_can_be_changed(shown):
    pictures = [shown.picture("#view")]
    for option in shown.all("#colour option")[1:]:
        option.click()
        time.sleep(0.1)
        pictures.append(shown.picture("#view"))
    assert len(set(pictures)) == len(pictures)
    assert shown("#legend").text.startswith("generation")
    shown("[data-kind=found]").click()
    time.sleep(0.1)
    assert shown.picture("#view") not in pictures


def test_the_table_sorts_by_every_column(shown):
    for place, head in enumerate(shown.all("#table thead th")):
        for order in ("ascending", "descending"):
            head.find_element(shown.by.TAG_NAME, "button").click()
            assert head.get_attribute("aria-sort") == order
            cells = [row.find_elements(shown.by.CSS_SELECTOR, "th, td")[place] for row in shown.all("#table tbody tr")]
            values = [cell.get_attribute("data-value") for cell in cells]
            keys = [float(value) for value in values] if place else [value.lower() for value in values]
            assert keys == sorted(keys, reverse=order == "descending")
    assert len(shown.all("#table [aria-sort=descending]")) == 1


def test_the_keyboard_alone_is_enough(shown):
    shown.run("document.activeElement.blur(); scrollTo(0, 0)")
    reached = []
    for _ in range(80):
        shown.press("TAB")
        reached.append(
            shown.run("const e = document.activeElement; return e.id || e.dataset.kind || e.textContent.trim()")
        )
        if reached[-1] == "whole":
            break
    assert {"case", "colour", "found", "missed", "false", "view", "branch", "before", "next", "field"} <= set(reached)
    outline = shown.run("return getComputedStyle(document.activeElement).outlineStyle")
    assert outline != "none"
    shown.press("ENTER")  # the case's name in the table
    shown.until(lambda: shown("#case option:checked").text == "whole")
    shown.ready()
    shown.run("document.querySelector('#view').focus()")
    seen = {shown.picture("#view")}
    for key in ("ARROW_LEFT", "ARROW_UP", "+", "-", "ARROW_DOWN"):
        shown.press(key)
        time.sleep(0.1)
        seen.add(shown.picture("#view"))
    assert len(seen) >= 4
    shown.run("document.querySelector('#branch').focus()")
    shown.press("ARROW_DOWN")
    assert "generation" in shown("#facts").text


def test_next_missed_goes_through_the_missed_branches(shown):
    shown.run("location.hash = '#case=half'")
    shown.until(lambda: shown("#case option:checked").text == "half")
    shown.ready()
    shown("#next").click()
    assert ", missed" in shown("#facts").text
    number = shown("#branch").get_attribute("value")
    shown("#before").click()
    assert shown("#branch").get_attribute("value") == number  # the only one


def test_planes_of_the_ct_follow_the_branch_the_slider_and_the_pointer(shown):
    assert shown("#slices").is_displayed()
    place = "return document.querySelector('[data-plane=axial] input').value"
    seen = set()
    for option in shown.all("#branch option")[1:]:
        option.click()
        seen.add((shown.run(place), shown.picture("[data-plane=coronal] canvas")))
    assert len({level for level, _ in seen}) > 1 and len({picture for _, picture in seen}) == 3
    for name in ("axial", "coronal", "sagittal"):
        label = shown(f"[data-plane={name}] canvas").get_attribute("aria-label")
        assert label.startswith(f"{name} plane of the CT at ")
    shown.run("document.querySelector('[data-plane=coronal] input').focus()")
    before = shown.picture("[data-plane=coronal] canvas")
    shown.press("PAGE_DOWN")
    assert shown.picture("[data-plane=coronal] canvas") != before
    level = shown.run(place)
    shown.click_at(shown("[data-plane=coronal] canvas"), 0, -60)
    assert float(shown.run(place)) > float(level)  # up is towards the head


def test_a_dot_of_a_drawing_leads_to_its_case(shown):
    dot = shown(".drawings a[*|href='#case=whole']")
    shown.run("arguments[0].dispatchEvent(new MouseEvent('click', {bubbles: true, cancelable: true}))", dot)
    shown.until(lambda: shown("#case option:checked").text == "whole")
    shown.ready()
    other = shown("#case option[value='0']")
    other.click()
    shown.until(lambda: f"Airway tree of {other.text}:" in shown("#view").get_attribute("aria-label"))
    shown.run("arguments[0].querySelector('use').dispatchEvent(new MouseEvent('click', {bubbles: true}))", dot)
    shown.until(lambda: shown("#case option:checked").text == "whole")


def test_alternative_texts_and_names(shown):
    nameless = """
    const named = (e) => e.getAttribute("aria-label") || e.labels?.length || e.textContent.trim();
    return [...document.querySelectorAll("button, select, input, canvas, [role=img], [role=region]")]
      .filter((e) => !named(e) && !e.getAttribute("aria-labelledby")).map((e) => e.outerHTML.slice(0, 100));
    """
    assert shown.run(nameless) == []
    assert shown.run("return document.documentElement.lang") == "en"
    heads = [head.tag_name for head in shown.all("h1, h2, h3")]
    assert heads[0] == "h1" and heads.count("h1") == 1
    assert "Airway tree of " in shown("#view").get_attribute("aria-label")


def test_measured_masks_show_their_branches(browser, page):
    browser.open(page / "measured.html")
    with (page / "measured" / "branches.csv").open() as lines:
        case = browser("#case option:checked").text
        wanted = {row["branch"]: row for row in csv.DictReader(lines) if row["case"] == case}
    for number, row in wanted.items():
        browser(f"#branch option[value='{number}']").click()
        words = browser("#facts").text
        assert f"generation\n{row['generation']}" in words and f"length\n{float(row['length_mm']):.1f} mm" in words
        assert f"diameter\n{float(row['diameter_mm']):.1f} mm (" in words
    pictures = set()
    for option, legend in zip(browser.all("#colour option"), ("generation", "diameter", ""), strict=True):
        option.click()
        time.sleep(0.1)
        pictures.add(browser.picture("#view"))
        assert browser("#legend").text.startswith(legend)
    assert len(pictures) == 3
    assert len(browser.all("#drawings svg")) == 2 and browser("#slices").is_displayed()
    assert browser.errors() == []
