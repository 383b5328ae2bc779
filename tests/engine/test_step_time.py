"""What is learned of the time of a pass, from times that a formula gives."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kept.engine.step_time import LATELY, StepTime, attended_by

SECONDS = st.floats(1e-4, 0.2)


class Machine:
    """Weights are read once a pass, which arithmetic of so many rows takes as long as."""

    def __init__(self, weights: float, row: float, token: float) -> None:
        self.weights, self.row, self.token = weights, row, token

    def seconds(self, rows: int, attended: int) -> float:
        return max(self.weights, self.row * rows) + self.token * attended

    def run(self, model: StepTime, random: Random, passes: int = 200) -> None:
        """Passes that decode, and some with part of a prompt, each up to 5 % off."""
        for _ in range(passes):
            rows = random.choice([1, 2, 4, 8, 16])
            attended = rows * random.randint(1, 4000)
            if random.random() < 0.3:
                new = random.choice([32, 100, 256, 512])
                rows, attended = rows + new, attended + attended_by(random.randint(0, 4000), new)
            noise = 1 + 0.05 * random.uniform(-1, 1)
            model.observe(rows, attended, noise * self.seconds(rows, attended))


machines = st.builds(
    lambda weights, knee, share: Machine(weights, weights / knee, share * weights / knee / 1000),
    weights=SECONDS,
    knee=st.sampled_from([1, 5, 12, 40, 100]),
    share=st.floats(0, 1),
)


@settings(max_examples=15)
@given(machine=machines, seed=st.integers(0, 99))
def test_it_predicts_passes_it_has_not_seen(machine: Machine, seed: int) -> None:
    model, random = StepTime(), Random(seed)
    machine.run(model, random)
    for _ in range(20):
        rows, past = random.randint(1, 600), random.randint(0, 5000)
        attended = attended_by(past, rows)
        expected = machine.seconds(rows, attended)
        assert 0.65 * expected <= model.predict(rows, attended) <= 1.5 * expected


@settings(max_examples=40)
@given(
    seen=st.lists(
        st.tuples(st.integers(1, 700), st.integers(0, 10**7), st.floats(0, 100)), max_size=20
    ),
    rows=st.integers(0, 10**4),
    attended=st.integers(0, 10**9),
    seconds=st.floats(0, 50),
    most=st.integers(1, 2000),
)
def test_whatever_it_saw_more_takes_no_less(
    seen: list[tuple[int, int, float]], rows: int, attended: int, seconds: float, most: int
) -> None:
    model = StepTime()
    for item in seen:
        model.observe(*item)
    base = model.predict(rows, attended)
    assert 0 <= base <= model.predict(rows + 1, attended)
    assert base <= model.predict(rows, attended + 1000)

    def fits(count: int) -> bool:
        return model.predict(rows + count, attended + attended_by(77, count)) <= seconds

    found = model.rows_within(seconds, rows, attended, 77, most)
    if not model.knows_prompts:
        assert found == most
    else:
        assert 1 <= found <= most
        assert found == 1 or fits(found)
        assert found == most or not fits(found + 1)


def test_before_it_has_seen_a_prompt_it_tries_one() -> None:
    model = StepTime()
    assert model.predict(4, 100) == 0
    for _ in range(100):
        model.observe(4, 4000, 0.01)
    assert model.predict(4, 4000) == pytest.approx(0.01, rel=0.01)
    assert model.rows_within(0.01, 4, 4000, 0, 512) == 512
    model.observe(516, 140_000, 0.3)
    assert model.rows_within(0.03, 4, 4000, 0, 512) < 100


def test_it_knows_few_rows_from_late_passes_of_few() -> None:
    model = StepTime()
    for rows, known in ((512, []), (40, [20, 60]), (2, [1, 20, 60])):
        model.observe(rows, 100, 0.1)
        assert [few for few in (1, 20, 60) if model.knows_few(few)] == known
    for _ in range(LATELY):
        assert model.knows_few(1)
        model.observe(512, 100, 0.1)
    assert not model.knows_few(60)


def test_one_slow_pass_tells_nothing() -> None:
    machine, model = Machine(0.01, 0.001, 1e-8), StepTime()
    machine.run(model, Random(0))
    before = [model.predict(rows, 1000 * rows) for rows in (1, 16, 300)]
    for rows in (1, 16, 300):
        model.observe(rows, 1000 * rows, 60.0)
    for _ in range(20):
        model.observe(4, 4000, machine.seconds(4, 4000))
    after = [model.predict(rows, 1000 * rows) for rows in (1, 16, 300)]
    assert after == pytest.approx(before, rel=0.3)


def test_a_slow_first_pass_is_soon_forgotten() -> None:
    machine, model = Machine(0.01, 0.001, 1e-8), StepTime()
    model.observe(512, 131_000, 5.0)
    for _ in range(2):
        model.observe(512, 131_000, machine.seconds(512, 131_000))
        model.observe(1, 512, machine.seconds(1, 512))
    assert model.predict(512, 131_000) == pytest.approx(machine.seconds(512, 131_000), rel=0.1)


def test_it_follows_a_machine_that_slows_down() -> None:
    model, random = StepTime(), Random(0)
    Machine(0.01, 0.001, 1e-8).run(model, random)
    slow = Machine(0.1, 0.01, 1e-7)
    slow.run(model, random, 600)
    assert model.predict(300, 10**6) == pytest.approx(slow.seconds(300, 10**6), rel=0.3)


def test_an_hour_of_single_tokens_leaves_what_a_prompt_took() -> None:
    machine, model = Machine(0.01, 0.001, 1e-8), StepTime()
    machine.run(model, Random(0))
    for number in range(5000):
        model.observe(1, number, machine.seconds(1, number))
    assert model.predict(513, 200_000) == pytest.approx(machine.seconds(513, 200_000), rel=0.3)
