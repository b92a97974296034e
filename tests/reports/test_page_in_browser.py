"""A report page in a real browser: filters, search, keys, links, no request.

Skipped where playwright or a Chromium of the system is missing; .ci/run
installs it.
"""

import pathlib
import shutil

import pytest

from atlas_jax.reports import page, reading
from tests.reports import run_files

playwright = pytest.importorskip(
  "playwright.sync_api", reason="playwright is not installed (extra dev)"
)
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = pytest.mark.skipif(
  CHROMIUM is None, reason="no chromium on PATH (Debian: apt install chromium)"
)


@pytest.fixture(scope="module")
def browser():
  with playwright.sync_playwright() as started:
    # Inside a container there is no sandbox to be had.
    browser = started.chromium.launch(
      executable_path=CHROMIUM, args=["--no-sandbox"]
    )
    yield browser
    browser.close()


@pytest.fixture
def opened(browser, tmp_path):
  """Opens the page of some lines; at the end: no error, no request."""
  said, asked, pages = [], [], []

  def open_(lines, training=(), query="", **options) -> object:
    run = reading.read(run_files.write_run(tmp_path / "run", lines, training))
    path = tmp_path / "index.html"
    page.write(run, path, **options)
    tab = browser.new_page()
    pages.append(tab)
    tab.on("console", lambda message: said.append(message.text))
    tab.on("pageerror", lambda error: said.append(str(error)))
    tab.on("request", lambda request: asked.append(request.url))
    tab.goto(path.as_uri() + query)
    return tab

  yield open_
  for tab in pages:
    tab.close()
  assert said == []
  assert {pathlib.Path(url.split("#")[0]).name for url in asked} <= {
    "index.html",
    "data:,",
  }


def rows(tab):
  return tab.locator("#list .episode")


def test_filters_and_search_leave_what_they_name(opened):
  tab = opened(run_files.attempts())
  assert rows(tab).count() == 8
  tab.select_option("[name=arm]", label=run_files.AFTER)
  assert rows(tab).count() == 4
  tab.select_option("[name=flip]", "broken")
  assert rows(tab).count() == 1
  assert "question 1" in rows(tab).first.inner_text()
  tab.click("button[type=reset]")
  tab.fill("[name=text]", "QUESTION 3")
  assert rows(tab).count() == 2
  tab.fill("[name=text]", "")
  tab.select_option("[name=kind]", "odd")
  assert rows(tab).count() == 4
  assert "4 of 8" in tab.inner_text("#count")


def test_a_cell_of_the_flips_opens_its_episodes(opened):
  tab = opened(run_files.attempts())
  cell = tab.locator('[data-flip="broken"]')
  assert cell.inner_text() == "1 broken"
  cell.click()
  assert rows(tab).count() == 1
  assert cell.get_attribute("aria-pressed") == "true"


def test_keys_walk_and_a_link_leads_back_to_an_episode(opened):
  tab = opened(run_files.attempts())
  tab.keyboard.press("j")
  tab.keyboard.press("j")
  assert tab.locator(".episode.current").count() == 1
  where = tab.evaluate("location.hash")
  assert where == "#episode=p1&arm=1&sample=0"
  tab.keyboard.press("k")
  assert tab.evaluate("location.hash") == "#episode=p0&arm=1&sample=0"
  tab.keyboard.press("/")
  tab.keyboard.type("j3")
  assert tab.input_value("[name=text]") == "j3"
  tab.evaluate("hash => { location.hash = hash }", where)
  tab.wait_for_selector(".episode.current[open]")
  assert "question 1" in tab.inner_text(".episode.current")
  assert "so it is 1" in tab.inner_text(".episode.current")


def test_a_link_in_the_address_opens_its_episode(opened):
  tab = opened(run_files.attempts(), query="#episode=p3&arm=0&sample=0")
  assert "question 3" in tab.inner_text(".episode.current")


@pytest.mark.parametrize(
  "evil",
  [
    "</script><script>window.evil = 1</script>",
    "<img src=x onerror='window.evil = 1'>",
    "<svg onload='window.evil = 1'>",
  ],
)
def test_markup_of_a_model_is_text(opened, evil):
  lines = run_files.attempts(teaching=evil, probe=evil, teacher_text=evil)
  for line in lines:
    line["question"] = f"{evil} {line['id']}"
  tab = opened(lines, [run_files.training_line(1, 0)])
  tab.keyboard.press("j")
  tab.wait_for_selector(".episode.current .part")
  assert evil in tab.inner_text(".episode.current")
  assert evil in tab.inner_text("#teaching-table")
  assert tab.evaluate("window.evil") is None


def test_a_teaching_of_the_table_shows_its_episodes(opened):
  lines = run_files.attempts()
  lines[5]["teaching"] = "borrow"
  tab = opened(lines)
  tab.locator("#teaching-table button", has_text="borrow").click()
  assert rows(tab).count() == 1
  first = tab.locator("#teaching-table tbody tr").first
  assert first.inner_text().split("\t")[:3] == ["carry", run_files.AFTER, "3"]


def test_failures_of_form_and_leaks_are_listed(opened):
  lines = run_files.attempts()
  lines[4] |= {"status": "no_tags", "teaching": None}
  lines[6]["leaked"] = True
  tab = opened(lines)
  assert tab.locator("#failure-list .episode").count() == 2


def test_a_training_problem_is_shown_over_its_steps(opened):
  training = [run_files.training_line(step, 0) for step in (1, 5)]
  training[1]["teachings"][1] = training[1]["teachings"][0]
  tab = opened(run_files.attempts(), training)
  text = tab.inner_text("#step-list")
  assert "step 1: alone 0%, taught 50%" in text
  assert "2 × teaching" in text


def test_ten_thousand_episodes_stay_usable(opened):
  scores = [((i // 2) % 2, i % 2) for i in range(5000)]
  tab = opened(run_files.attempts(scores), most_bytes=10**9)
  assert "10000 of 10000" in tab.inner_text("#count")
  assert rows(tab).count() == 200
  tab.click("text=Show more")
  assert rows(tab).count() == 400
  tab.fill("[name=text]", "question 4999")
  assert rows(tab).count() == 2


def test_a_narrow_and_a_dark_screen_show_all_of_the_width(opened):
  tab = opened(run_files.attempts())
  tab.set_viewport_size({"width": 390, "height": 800})
  assert tab.evaluate("document.documentElement.scrollWidth") <= 390
  tab.emulate_media(color_scheme="dark")
  color = tab.evaluate("getComputedStyle(document.body).backgroundColor")
  assert color == "rgb(20, 23, 26)"


def test_the_sections_stand_in_their_order_and_their_links_in_sight(opened):
  tab = opened(run_files.attempts(), [run_files.training_line(1, 0)])
  tab.set_viewport_size({"width": 900, "height": 400})
  names = tab.locator("nav a").all_inner_texts()
  assert names == [
    *("Arms", "Flips", "Episodes", "Steps", "Teachings", "Curves", "Failures"),
    "Provenance",
  ]
  tab.click("nav a >> text=Provenance")
  tab.click("nav a >> text=Teachings")
  assert tab.locator("#teachings h2").bounding_box()["y"] > 20


def test_an_id_with_signs_of_an_address_has_a_link(opened):
  lines = [x | {"id": f"a&b=#%{x['id']}"} for x in run_files.attempts()]
  tab = opened(lines)
  tab.keyboard.press("j")
  where = tab.evaluate("location.hash")
  tab.keyboard.press("k")
  tab.evaluate("location.hash = ''")
  tab.evaluate("hash => { location.hash = hash }", where)
  tab.wait_for_selector(".episode.current[open]")
  assert "a&b=#%p0" in tab.inner_text(".episode.current")


def test_of_each_teacher_the_most_common_teachings_the_last_one_first(opened):
  lines = run_files.attempts()
  before = [x | {"arm": "teacher after sft"} for x in lines[4:]] * 2
  tab = opened([*lines[:4], *before, *lines[4:]])
  cells = tab.locator("#teaching-table tbody td:nth-child(2)")
  assert cells.all_inner_texts() == [run_files.AFTER, "teacher after sft"]
