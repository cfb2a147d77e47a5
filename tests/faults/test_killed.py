"""Kill -9 at random moments: what is run again ends as if nothing had happened."""

import random
import time

import pytest

TIMES = [1, pytest.param(20, marks=pytest.mark.long)]


@pytest.mark.parametrize("times", TIMES)
@pytest.mark.parametrize("job", ["conversion", "maps", "post-processing", "evaluation"])
def test_the_results_are_those_of_an_undisturbed_run(site, job, times):
    started = time.monotonic()
    undisturbed = site.run(job)
    duration = time.monotonic() - started
    assert undisturbed.returncode == 0, undisturbed.stderr
    expected = site.results()
    assert len(expected) >= 3
    moments = random.Random(job)
    for number in range(times):
        site.clear()
        # most of a short run is start-up: the later half is where files are written
        after = moments.uniform(0.5, 1) * duration
        site.kill(job, after, alone=number % 2 == 0)
        again = site.run(job)
        assert again.returncode == 0, (after, again.stderr)
        found = site.results()
        assert set(found) == set(expected), after
        assert {name for name in expected if found[name] != expected[name]} == set(), after
