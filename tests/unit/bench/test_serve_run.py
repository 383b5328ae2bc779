"""Serving a plan on a clock of its own: what is sent when, and what is noted of it."""

import pytest
from simulated import SimulatedClock, SimulatedServer

from kept.bench.model_clock import ModelClock
from kept.bench.serve_record import Given, Record, ServeSettings
from kept.bench.serve_run import Serving, check_settings
from kept.bench.serve_scenarios import find_scenario
from kept.bench.serve_work import Answer, Arrival, Text, Texts
from kept.errors import OptionError

START = SimulatedClock().seconds


def serve(
    plan: list[Arrival],
    server: SimulatedServer,
    clock: SimulatedClock,
    duration: float | None = None,
) -> Record:
    record = Record()
    texts = Texts(plan, 500, seed=0)
    Serving(server, plan, texts, record, ModelClock(), clock).run(lambda _: None, duration)
    return record


def test_requests_are_sent_when_they_are_due() -> None:
    clock = SimulatedClock()
    server = SimulatedServer(clock)
    plan = [Arrival(at, (Text(i, 50),), 20) for i, at in enumerate((0.5, 0.505, 9.0))]
    record = serve(plan, server, clock)
    first, second, last = (record.served[i] for i in range(3))
    assert first.sent == first.due == 0.5
    # The second came in the middle of a step, which is no fault of its own.
    assert second.due == 0.505
    assert second.sent == pytest.approx(0.515)
    assert last.sent == last.due == 9.0
    assert server.submitted == {i: START + record.served[i].sent for i in range(3)}
    for index, found in record.served.items():
        assert found.done
        assert found.answer == [1000 * index + n for n in range(20)]
        assert found.token_ids[:50] == server.prompts[index]
        assert found.due < found.token_times[0]
        assert found.ended == found.token_times[-1]
    assert record.seconds == last.ended
    assert sum(step.seconds for step in record.passes) < 1
    assert record.moments[-1].load.running == 0


def test_an_answer_is_awaited_and_gone_on_from() -> None:
    clock = SimulatedClock()
    server = SimulatedServer(clock)
    plan = [
        Arrival(0.0, (Text(0, 30),), 5),
        Arrival(2.0, (Text(0, 30), Answer(0, 5), Text(1, 7)), 4, after=0),
    ]
    record = serve(plan, server, clock)
    one, other = record.served[0], record.served[1]
    assert one.ended is not None
    assert other.due == pytest.approx(one.ended + 2.0)
    assert server.prompts[1][:35] == one.token_ids
    assert len(server.prompts[1]) == 42


@pytest.mark.parametrize("name", ["chats", "tenants", "mixed"])
def test_everything_is_answered(name: str) -> None:
    clock = SimulatedClock()
    plan = find_scenario(name).plan(0, 16_384, 2.0)
    record = serve(plan, SimulatedServer(clock, slots=16), clock)
    assert len(record.served) == len(plan)
    for index, found in record.served.items():
        assert found.done
        assert len(found.token_times) == plan[index].new_tokens
        assert len(found.token_ids) == plan[index].prompt_tokens + plan[index].new_tokens
        assert found.token_times == sorted(found.token_times)


def test_nothing_is_sent_after_the_duration() -> None:
    clock = SimulatedClock()
    plan = [Arrival(float(i), (Text(i, 20),), 200) for i in range(10)]
    record = serve(plan, SimulatedServer(clock), clock, duration=3.0)
    assert sorted(record.served) == [0, 1, 2]
    assert all(found.done for found in record.served.values())


def test_a_chain_ends_with_the_duration() -> None:
    clock = SimulatedClock()
    plan = [Arrival(0.0, (Text(i, 20),), 100, after=i - 1 if i else None) for i in range(9)]
    record = serve(plan, SimulatedServer(clock), clock, duration=2.0)
    assert [found.done for found in record.served.values()] == [True, True]


def test_what_is_refused_fails_alone_and_its_followers_come() -> None:
    clock = SimulatedClock()
    plan = [
        Arrival(0.0, (Text(0, 400),), 5),
        Arrival(0.0, (Text(1, 40),), 5),
        Arrival(1.0, (Text(0, 400), Answer(0, 5)), 5, after=0),
        Arrival(0.0, (Text(2, 30), Answer(0, 5)), 5, after=0),
    ]
    record = serve(plan, SimulatedServer(clock, longest=300), clock)
    assert [record.served[i].done for i in range(4)] == [False, True, False, True]
    assert record.served[0].error == "a prompt of 400 tokens is too long"
    assert record.served[0].given == Given()
    assert record.served[1].given.num_computed == 45
    assert record.served[2].due >= 1.0
    assert len(record.served[3].token_ids) == 30 + 5  # nothing was said to go on from


def test_ctrl_c_leaves_what_was_seen() -> None:
    clock = SimulatedClock()
    plan = [Arrival(0.0, (Text(0, 20),), 50)]
    record, steps = Record(), 0

    def stepped(_: Record) -> None:
        nonlocal steps
        steps += 1
        if steps == 7:
            raise KeyboardInterrupt

    serving = Serving(
        SimulatedServer(clock), plan, Texts(plan, 500, 0), record, ModelClock(), clock
    )
    with pytest.raises(KeyboardInterrupt):
        serving.run(stepped)
    assert len(record.served[0].token_times) == 7
    assert not record.served[0].done
    assert record.served[0].given == Given(0.0, {"tree": 1}, "new", 27, 0)
    assert record.seconds == pytest.approx(clock.seconds - START)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (ServeSettings("x", 0), "max_batch_size=0"),
        (ServeSettings("x", 1, max_step_time=0.0), "max_step_time=0.0: give seconds above 0"),
        (ServeSettings("x", 1, duration=-1.0), "duration=-1.0"),
        (ServeSettings("x", 1, threads=0), "threads=0"),
    ],
)
def test_settings_out_of_range(settings: ServeSettings, words: str) -> None:
    with pytest.raises(OptionError, match=words):
        check_settings(settings)
