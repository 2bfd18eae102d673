"""The pair that meta-trains on the page does what `metacontrast train` does."""

import time

import pytest
import torch

from metacontrast import InputError
from metacontrast.data.episodes import EpisodeSampler
from metacontrast.play import watch
from metacontrast.play.watch import INNER, META_BATCH, QUERIES, SHOTS, WAYS, Learner, Watch, characters, probed_images
from metacontrast.training.checkpoint import TrainState
from metacontrast.training.config import TrainConfig
from metacontrast.training.step import Resources
from metacontrast.training.train_run import outer_step
from metacontrast.types import to_tensors
from play_kit import Client, serving


def batches(count: int):
    tasks = EpisodeSampler(characters()[0], WAYS, SHOTS, QUERIES, seed=0)
    return [tasks.batch(range(META_BATCH * k, META_BATCH * (k + 1))) for k in range(count)]


def wait_for(pair: Watch, number: int) -> dict:
    end = time.monotonic() + 120
    while not (found := pair.read(-1, -1))["records"] or found["records"][-1]["update"] < number:
        assert time.monotonic() < end
        assert not found["problem"]
        time.sleep(0.02)
    return found


@pytest.fixture
def pair():
    made = Watch()
    yield made
    made.close()


@pytest.mark.parametrize("head", ["random", "zeroed"])
def test_an_update_is_that_of_training(head):
    """Bit for bit: the same program runs on the same shapes."""
    learner = Learner.start(head, 0)
    other = Learner.start(head, 0)
    kind = "zeroed" if head == "zeroed" else "learned"
    config = TrainConfig(dataset="glyphs", head=kind, meta_batch=META_BATCH, inner_lr=INNER.lr, order="first")
    assert config.inner() == INNER
    state = TrainState(other.params, other.optimizer, 0)
    for batch in batches(3):
        learner.update(batch)
        outer_step(config, other.model, Resources(engine="vmap"))(state, batch)
    for one, two in zip(to_tensors(learner.params), to_tensors(state.params), strict=True):
        assert torch.equal(one, two)
    assert head == "random" or not learner.params.head.weight.any()


def test_the_two_start_from_one_encoder_and_test_on_other_characters():
    random, zeroed = Learner.start("random", 3), Learner.start("zeroed", 3)
    assert all(torch.equal(random.params.encoder[name], t) for name, t in zeroed.params.encoder.items())
    assert random.params.head.weight.any()
    train, test = characters()
    assert not set(train.classes) & set(test.classes)


def test_shares_sum_to_one_and_a_zeroed_head_does_not_interfere(pair):
    """With one inner step and a head of zeros the theory is exact: all of the gradient is contrast."""
    pair.control("step")
    for record in wait_for(pair, 1)["records"]:
        for head in ("random", "zeroed"):
            assert sum(record[head][part] for part in ("contrast", "interference", "rest")) == pytest.approx(1)
        assert record["zeroed"]["interference"] == 0
        assert record["zeroed"]["rest"] == pytest.approx(0, abs=1e-4)
        assert abs(record["random"]["interference"]) > 0.01
    latest = pair.read(-1, -1)["latest"]["zeroed"]
    assert [weight < 0 for weight in latest["weights"]] == [True, False, False, False, False]
    assert len(latest["map"]) == WAYS
    assert set(probed_images()) == {"query", *(f"support-{k}" for k in range(WAYS))}


def test_a_seed_is_the_same_training_every_time_and_another_is_another(pair):
    first = wait_for(pair, 0)
    pair.control("step")
    one = wait_for(pair, 1)["records"]
    pair.control("reset", seed=1)
    pair.control("step")
    other = wait_for(pair, 1)
    pair.control("reset", seed=0)
    pair.control("step")
    assert wait_for(pair, 1)["records"] == one
    assert other["records"] != one
    assert other["generation"] != first["generation"]


def test_it_plays_pauses_and_stops_when_nobody_looks(pair, monkeypatch):
    pair.control("speed", speed=60)
    pair.control("play")
    wait_for(pair, 2)
    pair.control("pause")
    time.sleep(0.3)
    last = pair.read(-1, -1)["records"][-1]["update"]
    time.sleep(0.3)
    assert pair.read(-1, -1)["records"][-1]["update"] <= last + 1
    monkeypatch.setattr(watch, "UNSEEN_FOR", 0.0)
    pair.control("play")
    time.sleep(1.0)
    assert not pair._playing


@pytest.mark.parametrize(
    ("wish", "given"),
    [
        ("reset", {"seed": -1}),
        ("reset", {"seed": "1"}),
        ("reset", {}),
        ("speed", {"speed": 0}),
        ("speed", {"speed": float("nan")}),
        ("speed", {"speed": 1e9}),
        ("close", {}),
        ("_run", {}),
    ],
)
def test_a_wish_that_makes_no_sense_is_refused(pair, wish, given):
    with pytest.raises(InputError):
        pair.control(wish, **given)


def test_the_other_tab_is_answered_while_it_trains(tmp_path):
    """Over HTTP: updates go on while the boards are changed."""
    with serving(tmp_path) as port:
        client = Client(port).open()
        client.post("watch", '{"do": "speed", "speed": 60}')
        client.post("watch", '{"do": "play"}')
        for k in range(3):
            assert client.act("add_class", name=f"class {k}")[0] == 200
        since, end = 0, time.monotonic() + 60
        while since < 3 and time.monotonic() < end:
            found = client.get("watch?generation=-1&since=-1")[1]
            since = found["records"][-1]["update"] if found["records"] else 0
        assert since >= 3
        assert client.get("watch/query")[1].startswith(b"\x89PNG")
        assert client.get("watch/other")[0] == 404
        assert client.post("watch", '{"do": "play", "path": "x"}')[0] == 400
        assert client.post("watch", '{"seed": 1}')[0] == 400
