"""A browser is killed once its jar is written, and again, and is still logged in when it starts again."""

from random import Random

from soak.browser import KILLED, WRITTEN, Browser, soak


def test_a_browser_that_was_killed_is_still_logged_in() -> None:
    def lives(browser: Browser, chance: Random) -> None:
        browser.live(0, write=True)
        browser.live(chance.uniform(0.5, 2))
        browser.live(0)

    result = soak(0, 1, lives, browsers=1)
    assert result.failures == []
    assert result.faults == {KILLED: 3, WRITTEN: 3}
    assert result.did["restarts that were still logged in"] == 2
