"""Who types or clicks at once, while the page is still being opened, loses nothing."""

import pytest

pytestmark = pytest.mark.slow

# Counts how often the start screen is put in.
COUNT = """
window.filled = 0;
new MutationObserver((records) => {
  for (const record of records) for (const node of record.addedNodes)
    if (node.matches?.('.start') || node.querySelector?.('.start')) window.filled += 1;
}).observe(document, {childList: true, subtree: true});
"""


def test_an_example_that_is_clicked_at_once_is_drawn(browser, quick) -> None:
    for name in ("a large sunflower", "a rocket above a house", "a blue star and a yellow circle"):
        page = browser.open(quick.url, script=COUNT)
        page.wait_for_selector("#start .example")
        page.click(f"#start .example >> text={name}", no_wait_after=True)
        page.wait_for_selector(f"#draw-heading >> text={name}")
        page.wait_for_selector("#draw-best .tile img")
        assert page.evaluate("window.filled") == 1
        page.context.close()


def test_what_is_typed_at_once_is_kept_over_what_was_typed_before(browser, quick) -> None:
    page = browser.open(quick.url, script=COUNT)
    for prompt in ("a fox", "two pandas", "a lion and a pig"):
        page.wait_for_selector("#prompt textarea")
        page.fill("#prompt textarea", prompt)
        page.wait_for_selector("#start .start")  # all that the server has to say is there
        page.wait_for_timeout(1000)
        assert page.input_value("#prompt textarea") == prompt
        page.goto(quick.url, wait_until="commit")
    page.wait_for_function(
        "document.querySelector('#prompt textarea')?.value == 'a lion and a pig'"
    )


def test_a_prompt_is_typed_before_the_page_is_there(browser, quick) -> None:
    page = browser.open(quick.url, script=COUNT)
    page.wait_for_selector("#early textarea")
    for letter in "a fox":
        page.keyboard.type(letter)
    page.keyboard.press("Enter")
    page.wait_for_selector("#draw-heading >> text=a fox")
    page.wait_for_selector("#draw-best .tile img")
    assert page.input_value("#prompt textarea") == "a fox"
    assert page.locator("#early").count() == 0
    assert page.evaluate("document.activeElement.closest('#prompt') !== null")


def test_settings_come_back_whatever_is_typed_meanwhile(browser, quick) -> None:
    page = browser.open(quick.url, script=COUNT)
    page.wait_for_selector("#start .start")
    page.fill("#seed input, #seed textarea", "77")
    page.wait_for_function("localStorage.getItem('salon-form') !== null")
    page.wait_for_timeout(500)
    page.goto(quick.url, wait_until="commit")
    page.wait_for_selector("#prompt textarea")
    page.fill("#prompt textarea", "a fox")
    page.wait_for_function("document.querySelector('#seed input, #seed textarea')?.value == '77'")
    assert page.input_value("#prompt textarea") == "a fox"
