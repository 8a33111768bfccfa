"""The comparison of arms: its statistics against simulated sessions, and ``python -m loadtest.experiment``."""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from loadtest.experiment import figures_of, main, verdict_of
from loadtest.experiments.arms import LABELS, ArmCounts, arms_of, parse
from loadtest.experiments.users import ArmAnswer, Population, SimulationResult, simulate_session
from loadtest.experiments.verdict import Moments, Plan, compare, holm, more_sessions, p_value_of
from loadtest.load.texts import Text, load_texts
from service.experiments.experiment import Experiment, split_key
from service.experiments.friction import MOMENTS, ArmLabels, Sessions, Turn
from service.monitoring.metrics import Metrics, Tally
from tests.loadtest.conftest import running

TEXTS = [text for text in load_texts() if text.locale == "de-DE"]
Run = Callable[..., tuple[int, str, dict[str, Any]]]


def moments_of(turns: Any, friction: Any) -> Moments:
    """The moments of sessions, each with its turns and turns with friction."""
    t, f = np.asarray(turns, float), np.asarray(friction, float)
    return Moments(len(t), *(float(found.sum()) for found in (t, f, t * t, f * f, t * f)))


def simulate(rng: np.random.Generator, replicates: int, sessions: int, rate: float) -> list[Moments]:
    """Arms of users who differ: each turn of one goes wrong by a chance of that user's own."""
    shape = (replicates, sessions)
    t = rng.geometric(1 / 4, shape)
    f = rng.binomial(t, rng.beta(4 * rate, 4 * (1 - rate), shape))
    sums = [found.sum(axis=1, dtype=float).tolist() for found in (t, f, t * t, f * f, t * f)]
    return [Moments(sessions, *found) for found in zip(*sums, strict=True)]


def is_near_share(hits: int, trials: int, share: float) -> bool:
    """Whether so many hits are within 3.3 standard deviations of their expectation."""
    return abs(hits - trials * share) <= 3.3 * math.sqrt(trials * share * (1 - share))


# Statistics.


@given(sessions=st.lists(st.tuples(st.integers(1, 30), st.floats(0, 1)), min_size=2, max_size=40))
def test_the_variance_is_that_of_the_delta_method(sessions: list[tuple[int, float]]) -> None:
    t = np.array([turns for turns, _ in sessions], float)
    f = np.array([round(turns * share) for turns, share in sessions], float)
    moments = moments_of(t, f)

    (var_f, cov), (_, var_t) = np.cov(f, t)
    rate = f.mean() / t.mean()
    expected = (var_f - 2 * rate * cov + rate**2 * var_t) / (len(t) * t.mean() ** 2)

    assert moments.rate == pytest.approx(rate)
    assert moments.variance == pytest.approx(expected, abs=1e-12)


def test_with_sessions_of_one_turn_it_is_that_of_a_share() -> None:
    moments = moments_of(np.ones(500), np.arange(500) < 100)

    assert moments.variance == pytest.approx(0.2 * 0.8 / 499)


@pytest.mark.parametrize(("sessions", "rate"), [(50, 0.1), (400, 0.1), (200, 0.3)])
def test_false_alarms_are_as_rare_as_promised_though_turns_would_raise_more(sessions: int, rate: float) -> None:
    rng = np.random.default_rng(sessions)
    pairs = list(zip(*(simulate(rng, 2000, sessions, rate) for _ in range(2)), strict=True))

    alarms = sum(compare(one, [other], Plan())[0].is_shown for one, other in pairs)
    by_turns = 0
    for one, other in pairs:
        error = math.sqrt(sum(arm.rate * (1 - arm.rate) / arm.turns for arm in (one, other)))
        by_turns += abs(one.rate - other.rate) > 1.96 * error

    assert is_near_share(alarms, 2000, 0.05)
    assert by_turns > 0.1 * 2000


def test_intervals_cover_the_true_difference_as_often_as_promised() -> None:
    rng = np.random.default_rng(1)
    pairs = zip(simulate(rng, 2000, 300, 0.1), simulate(rng, 2000, 300, 0.16), strict=True)

    found = [compare(one, [other], Plan())[0].interval for one, other in pairs]

    assert is_near_share(sum(low <= 0.06 <= high for low, high in found), 2000, 0.95)


@pytest.mark.parametrize(("power", "effect"), [(0.8, 0.02), (0.9, 0.03)])
def test_the_sessions_asked_for_have_the_power_promised(power: float, effect: float) -> None:
    rng = np.random.default_rng(2)
    plan = Plan(power=power, effect=effect)
    known = [simulate(rng, 1, 200_000, rate)[0] for rate in (0.1, 0.1 + effect)]
    pilot = [Moments(**{name: value / 2000 for name, value in vars(moments).items()}) for moments in known]
    sessions = 100 + more_sessions(*pilot, plan)

    arms = zip(simulate(rng, 800, sessions, 0.1), simulate(rng, 800, sessions, 0.1 + effect), strict=True)
    shown = sum(compare(one, [other], plan)[0].is_shown for one, other in arms)

    assert is_near_share(shown, 800, power)


def test_several_arms_raise_no_more_false_alarms_than_one() -> None:
    rng = np.random.default_rng(3)
    arms = list(zip(*(simulate(rng, 2000, 100, 0.15) for _ in range(4)), strict=True))

    found = [compare(baseline, others, Plan()) for baseline, *others in arms]

    assert sum(any(each.is_shown for each in compared) for compared in found) <= 2000 * 0.05 + 35
    assert all(each.interval.low <= 0 <= each.interval.high for each in found[0])


def test_p_values_are_corrected_step_by_step() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.6, 0.01]) == pytest.approx([0.6, 0.02])
    assert holm([0.7, 0.8]) == [1.0, 1.0]
    assert holm([]) == []


@given(
    sizes=st.tuples(st.integers(2, 5000), st.integers(2, 5000)),
    spreads=st.tuples(st.floats(0.01, 2), st.floats(0.01, 2)),
    effect=st.floats(0.002, 0.3),
)
def test_the_sessions_still_needed_are_just_enough(
    sizes: tuple[int, int], spreads: tuple[float, float], effect: float
) -> None:
    def arm(sessions: int, spread: float) -> Moments:  # with t = 1 and a rate of one half
        return Moments(sessions, sessions, sessions / 2, sessions, sessions / 4 + spread * (sessions - 1), sessions / 2)

    one, other = (arm(*found) for found in zip(sizes, spreads, strict=True))
    plan = Plan(effect=effect)
    more = more_sessions(one, other, plan)

    def variance(added: float) -> float:
        return spreads[0] / (sizes[0] + added) + spreads[1] / (sizes[1] + added)

    allowed = (effect / plan.margins) ** 2
    assert variance(more) <= allowed * (1 + 1e-6)
    assert more == 0 or variance(more - 1) > allowed * (1 - 1e-6)


@given(
    arms=st.lists(
        st.lists(st.tuples(st.integers(1, 5), st.integers(0, 5)), max_size=6).map(
            lambda pairs: moments_of([t for t, _ in pairs], [min(t, f) for t, f in pairs])
        ),
        min_size=1,
        max_size=4,
    )
)
def test_however_little_was_seen_the_figures_are_json(arms: list[Moments]) -> None:
    counts = {f"arm{i}": ArmCounts(moments=moments) for i, moments in enumerate(arms)}

    figures = figures_of("x", counts, None, Plan())

    json.dumps(figures, allow_nan=False)
    assert not any(found["is_shown"] for found in figures["comparisons"])


def test_no_friction_at_all_is_no_difference() -> None:
    calm = moments_of(np.full(200, 3), np.zeros(200))

    assert p_value_of(calm, calm) == 1
    assert not compare(calm, [calm], Plan())[0].is_enough


# Real sessions: users, `Sessions`, metrics, their exposition and what it is read as.


class Counting:
    """A service in this process: it splits and counts users' turns as the real one does, without answers."""

    def __init__(self, experiment: Experiment) -> None:
        self.experiment = experiment
        self.metrics = Metrics()
        self.now = 0.0
        self.sessions = Sessions(self.metrics, lambda: self.now)
        self.turns = 0

    def ask(self, key: str, text: Text) -> ArmAnswer:
        self.turns += 1
        self.now += 2
        request_id = f"request-{self.turns}"
        arm = self.experiment.arm_of(split_key(key.encode(), request_id))
        assert arm is not None
        model = self.experiment.arms[arm].model
        tally = Tally()
        labels = ArmLabels(self.experiment.name, arm, model)
        turn = Turn(labels, self.experiment.friction, request_id, key.encode(), text.text, 0.9, True, 0.001)
        self.sessions.count(tally, turn)
        tally.apply()
        return ArmAnswer(arm, request_id)

    def give_up(self, key: str, answer: ArmAnswer) -> None:
        noted = self.sessions.record_feedback(answer.request_id, "abandoned", ArmLabels())
        assert noted.remembered
        assert not noted.repeated

    def exposition(self) -> str:
        self.sessions.close_all()
        return self.metrics.exposition().decode()


def split(name: str) -> Experiment:
    arms = {"control": {"model": "s", "weight": 1}, "candidate": {"model": "xs", "weight": 1}}
    return Experiment.model_validate({"name": name, "arms": arms})


def simulate_service(seed: int, users: int = 160, **friction: float) -> tuple[str, SimulationResult]:
    """The metrics of a service after a simulation, and the result of the simulation."""
    service, played = Counting(split(f"round-{seed}")), SimulationResult()
    population = Population(TEXTS, friction, turns=3, seed=seed)
    for number in range(users):
        simulate_session(population, number, service, played)
    return service.exposition(), played


def compare_service(seed: int, users: int = 160, **friction: float) -> tuple[dict[str, Any], SimulationResult]:
    exposition, played = simulate_service(seed, users, **friction)
    name = f"round-{seed}"
    return figures_of(name, arms_of(parse(exposition, "a test"), name), None, Plan()), played


def test_the_service_counts_exactly_the_friction_of_the_users() -> None:
    figures, played = compare_service(7, users=400, control=0.1, candidate=0.3)

    done = played.figures()
    assert done["failures"] == 0
    assert figures["arms"].keys() == {"control", "candidate"}
    for name, arm in figures["arms"].items():
        assert arm["session_turns"] == arm["turns"] == done["arms"][name]["turns"]
        assert arm["sessions"] == done["arms"][name]["sessions"]
        assert arm["signs"] == {
            "out_of_scope": 0,
            "low_confidence": 0,
            "rephrase": done["arms"][name]["said_again"],
            "abandoned": done["arms"][name]["gave_up"],
        }
        assert arm["feedback"]["abandoned"] == done["arms"][name]["gave_up"]
        assert arm["friction_points"] == done["arms"][name]["friction_points"]
    assert figures["comparisons"][0]["verdict"].startswith("candidate is worse than control: +")


def test_real_sessions_raise_few_false_alarms_and_show_what_is_there() -> None:
    rounds = 30
    alarms = [compare_service(seed, control=0.2, candidate=0.2)[0] for seed in range(rounds)]
    shown = [compare_service(seed, control=0.1, candidate=0.45)[0] for seed in range(rounds)]

    assert sum(found["comparisons"][0]["is_shown"] for found in alarms) <= 6  # more come once in a thousand times
    assert sum(found["comparisons"][0]["is_shown"] for found in shown) >= 27


# The command.


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Run the command; exit code, what people read, and the figures."""

    def start(*flags: str) -> tuple[int, str, dict[str, Any]]:
        code = main(flags)
        output = capsys.readouterr()
        if code:
            assert not output.out
            return code, output.err, {}
        *table, last = output.out.splitlines()
        return code, "\n".join(table), json.loads(last)

    return start


@pytest.fixture(scope="module")
def exposition() -> str:
    """The metrics of a service whose candidate is worse."""
    return simulate_service(11, users=300, control=0.1, candidate=0.3)[0]


@pytest.fixture
def saved(exposition: str, tmp_path: Path) -> Path:
    path = tmp_path / "metrics.txt"
    path.write_text(exposition)
    return path


@pytest.fixture
def serve_routes() -> Iterator[Callable[..., str]]:
    with ExitStack() as stack:
        yield lambda *routes: stack.enter_context(running(Starlette(routes=[*routes])))


def build(**arms: dict[str, Any]) -> str:
    """An exposition of an experiment's arms: sessions of three turns, and how many of them had friction in one."""
    metrics = Metrics()
    for arm, seen in arms.items():
        sessions, wrong = seen["sessions"], seen["wrong"]
        moments = (sessions, 3 * sessions, wrong, 9 * sessions, wrong, 3 * wrong)
        for moment, amount in zip(MOMENTS, moments, strict=True):
            metrics.session_moments.labels(seen.get("experiment", "x"), arm, moment).inc(amount)
        metrics.turns.labels(seen.get("experiment", "x"), arm, "s").inc(3 * sessions + seen.get("keyless", 0))
    return metrics.exposition().decode()


def test_a_saved_file_is_compared(run: Run, saved: Path) -> None:
    code, table, figures = run("--metrics", str(saved))

    assert code == 0
    assert figures["experiment"] == "round-11"
    assert figures["baseline"] == "control"
    found = figures["comparisons"][0]
    assert found["arm"] == "candidate"
    assert found["interval"][0] < found["difference_points"] < found["interval"][1]
    assert found["p_value"] < 0.001
    assert re.search(
        r"^candidate is worse than control: \+\d+\.\d points \[\d.*\], p < 0.001, relative \+\d+\.\d %$", table, re.M
    )
    assert re.search(r"^control +\d+ +\d+ +0 +\d+\.\d % +\d+\.\d to \d+\.\d( +\d+\.\d\d){3} +s$", table, re.M)
    assert figures["arms"]["candidate"]["models"] == ["xs"]
    assert 0 < figures["arms"]["control"]["p50_ms"] <= figures["arms"]["control"]["p99_ms"]


def test_a_running_service_is_read(run: Run, serve_routes: Callable[..., str], saved: Path, exposition: str) -> None:
    host = serve_routes(Route("/metrics", lambda _: PlainTextResponse(exposition)))

    assert run("--host", host + "/")[2] == run("--metrics", str(saved))[2]


def test_what_was_counted_before_is_taken_off(run: Run, tmp_path: Path) -> None:
    before, now = tmp_path / "before", tmp_path / "now"
    before.write_text(build(control={"sessions": 500, "wrong": 400}))
    now.write_text(build(control={"sessions": 800, "wrong": 430}, candidate={"sessions": 300, "wrong": 27}))

    _, _, figures = run("--metrics", str(now), "--since", str(before))

    assert figures["arms"]["control"]["sessions"] == 300
    assert figures["arms"]["control"]["friction_points"] == pytest.approx(100 * 30 / 900, abs=1e-3)
    assert figures["comparisons"][0]["difference_points"] == pytest.approx(-100 * 3 / 900, abs=1e-3)
    assert run("--metrics", str(before), "--since", str(now))[:2] == (
        2,
        "error: a count is lower than in the --since file: the service was restarted since it was saved\n",
    )


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (("--prometheus", "http://127.0.0.1:9", "--since", "x"), "--since: only allowed with --host or --metrics"),
        (("--metrics", "x", "--range", "1d"), "--range: only allowed with --prometheus"),
    ],
)
def test_what_does_not_go_together_is_refused(
    arguments: tuple[str, ...], problem: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    assert capsys.readouterr().err.startswith(f"error: {problem}")


def test_a_prometheus_server_is_asked(run: Run, serve_routes: Callable[..., str], saved: Path, exposition: str) -> None:
    queries: list[str] = []

    def query(request: Request) -> Response:
        queries.append(request.query_params["query"])
        asked = re.fullmatch(r"sum by \(([\w, ]+)\) \(increase\((\w+)\[7d\]\)\)", queries[-1])
        assert asked
        sums: Counter[tuple[str, ...]] = Counter()
        for processes in text_string_to_metric_families(exposition):
            for sample in processes.samples:
                if sample.name == asked[2]:
                    sums[tuple(sample.labels[name] for name in asked[1].split(", "))] += sample.value
        rows = [
            {"metric": dict(zip(asked[1].split(", "), values, strict=True)), "value": [1.5, repr(value)]}
            for values, value in sums.items()
        ]
        return JSONResponse({"status": "success", "data": {"resultType": "vector", "result": rows}})

    server = serve_routes(Route("/api/v1/query", query))

    assert run("--prometheus", server, "--range", "7d")[2] == run("--metrics", str(saved))[2]
    assert len(queries) == len(LABELS)


def test_what_a_prometheus_server_refuses_is_said(run: Run, serve_routes: Callable[..., str]) -> None:
    def refuse(request: Request) -> Response:
        return JSONResponse({"status": "error", "errorType": "bad_data", "error": "no such thing"}, status_code=400)

    server = serve_routes(Route("/api/v1/query", refuse), Route("/other/api/v1/query", lambda _: JSONResponse([1])))

    assert run("--prometheus", server)[:2] == (2, f"error: {server}/api/v1/query answers 400 (no such thing)\n")
    assert run("--prometheus", f"{server}/other")[1].endswith("the reply is not that of a Prometheus server\n")


def test_too_little_is_not_judged(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "metrics"
    path.write_text(build(control={"sessions": 4000, "wrong": 400}, candidate={"sessions": 49, "wrong": 40}))

    _, table, figures = run("--metrics", str(path))

    assert "not enough data to compare candidate with control: needs 50 finished sessions in each arm" in table
    assert not figures["comparisons"][0]["is_shown"]


def test_no_difference_tells_how_many_sessions_would_show_one(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "metrics"
    path.write_text(build(control={"sessions": 400, "wrong": 100}, candidate={"sessions": 400, "wrong": 104}))

    _, table, figures = run("--metrics", str(path), "--effect", "2")
    more = figures["comparisons"][0]["more_sessions"]
    assert 400 < more < 4000
    assert "no difference shown between candidate and control: +0.3 points [-1.7, 2.3]" in table
    assert f"; about {more:,} more sessions in each arm would show one of 2 points" in table

    assert "; there were enough sessions to show one of 50 points" in run("--metrics", str(path), "--effect", "50")[1]


def test_better_is_said_too() -> None:
    calm, wild = moments_of(np.full(300, 3), np.arange(300) < 30), moments_of(np.full(300, 3), np.arange(300) < 150)

    found = compare(wild, [calm], Plan())[0]

    assert verdict_of("candidate", "control", found, Plan()).startswith(
        "candidate is better than control: -13.3 points"
    )
    assert found.relative == pytest.approx(-0.8)


def test_the_baseline_is_control_or_the_largest_or_chosen(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "metrics"
    path.write_text(
        build(a={"sessions": 60, "wrong": 9}, b={"sessions": 90, "wrong": 9}, c={"sessions": 70, "wrong": 9})
    )

    assert run("--metrics", str(path))[2]["baseline"] == "b"
    figures = run("--metrics", str(path), "--baseline", "c")[2]
    assert [found["arm"] for found in figures["comparisons"]] == ["a", "b"]
    assert run("--metrics", str(path), "--baseline", "d")[:2] == (
        2,
        "error: experiment x has no arm 'd'; its arms: a, b, c\n",
    )


def test_a_single_arm_is_shown_and_clients_without_keys_are_noted(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "metrics"
    path.write_text(build(only={"sessions": 0, "wrong": 0, "keyless": 8}))

    _, table, figures = run("--metrics", str(path))

    assert "there is no other arm to compare only with" in table
    assert "clients must send x-client-key" in table
    assert figures["comparisons"] == []
    assert figures["arms"]["only"]["friction_points"] is None


def test_one_of_several_experiments_must_be_chosen(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "metrics"
    path.write_text(build(a={"sessions": 9, "wrong": 1}, b={"sessions": 9, "wrong": 1, "experiment": "y"}))

    assert run("--metrics", str(path))[1].endswith(
        "several experiments in these metrics; choose with --experiment: x, y\n"
    )
    assert run("--metrics", str(path), "--experiment", "z")[1].endswith(
        "no experiment 'z'; choose with --experiment: x, y\n"
    )
    assert run("--metrics", str(path), "--experiment", "y")[2]["arms"].keys() == {"b"}


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "no experiment in these metrics; start the service with --experiment-file"),
        (
            b'nlu_feedback_total{experiment="none",arm="none",model="s",outcome="accepted"} 1\n',
            "no experiment in these metrics",
        ),
        (b"<html>\n", "is not in the Prometheus text format"),
        (b'nlu_turns_total{arm="a"} 1\n', "is not in the Prometheus text format"),
        (b"\xff", "is not UTF-8"),
    ],
)
def test_a_file_without_an_experiment_is_one_sentence(run: Run, tmp_path: Path, content: bytes, problem: str) -> None:
    path = tmp_path / "metrics"
    path.write_bytes(content)

    code, error, _ = run("--metrics", str(path))

    assert code == 2
    assert error.startswith(f"error: {path}: {problem}")
    assert error.count("\n") == 1


def test_what_is_not_there_is_one_sentence(run: Run, tmp_path: Path) -> None:
    assert "nowhere: can't be read: No such file" in run("--metrics", str(tmp_path / "nowhere"))[1]
    assert "http://127.0.0.1:9/metrics can't be reached (" in run("--host", "http://127.0.0.1:9")[1]
    assert "nonsense/metrics can't be reached (unknown url type" in run("--host", "nonsense")[1]


@pytest.mark.parametrize(
    "flags", [(), ("--metrics", "x", "--alpha", "1"), ("--metrics", "x", "--range", "a week"), ("--effect", "0")]
)
def test_flags_that_make_no_sense_are_refused(flags: tuple[str, ...]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(flags)

    assert stopped.value.code == 2


def test_latencies_are_read_off_the_buckets() -> None:
    counts = ArmCounts()
    counts.buckets.update({0.001: 50.0, 0.002: 90.0, 0.004: 99.0, math.inf: 100.0})

    assert counts.latency(0.5) == pytest.approx(0.001)
    assert counts.latency(0.25) == pytest.approx(0.0005)
    assert counts.latency(0.95) == pytest.approx(0.002 + 0.002 * 5 / 9)
    assert counts.latency(0.999) == pytest.approx(0.004)
    assert ArmCounts().latency(0.5) is None


def test_the_help_warns_of_peeking(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])

    assert "repeated looks until a difference shows" in " ".join(capsys.readouterr().out.split())
