"""Probabilities stay probabilities, and the table of λ is the one that makes the past likeliest."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from habitab_engine.mixing import LENGTHS, NAMES, WEIGHTS, Prediction, Spelling, cell, fit

shares = st.lists(st.floats(0.01, 1), min_size=1, max_size=6)
spelled = st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=3).map(tuple), min_size=1, max_size=6, unique=True)


def model_of(numbers: list[float], size: int) -> np.ndarray:
    """Probabilities of `size` tokens, and of all others as the last."""
    padded = np.resize(np.array(numbers), size + 1)
    return padded / padded.sum()


@given(shares, shares, st.floats(0, 0.99), st.integers(0, 40))
def test_mixed_probabilities_add_up(own: list[float], model: list[float], weight: float, length: int) -> None:
    prediction = Prediction(length, np.arange(len(own)), np.array(own) / sum(own), weight)
    *ids, others = model_of(model, len(own))
    mixed, factor = prediction.mixed(np.array(ids))
    assert mixed.sum() + factor * others == pytest.approx(1)
    assert (mixed > 0).all() and 0 < factor <= 1


@given(shares, shares, st.floats(0.01, 0.99))
def test_a_match_is_mixed_in_with_its_weight(own: list[float], model: list[float], weight: float) -> None:
    probs = np.array(own) / sum(own)
    prediction = Prediction(5, np.arange(len(own)), probs, weight)
    ids = model_of(model, len(own))[:-1]
    mixed, factor = prediction.mixed(ids)
    assert mixed == pytest.approx((1 - weight) * ids + weight * probs)
    assert factor == pytest.approx(1 - weight)


@given(shares, st.sets(st.integers(0, 5)))
def test_among_the_allowed_the_shares_are_as_before(own: list[float], allowed: set[int]) -> None:
    prediction = Prediction(3, np.arange(len(own)), np.array(own) / sum(own), 0.5)
    found = prediction.among(sorted(allowed), 1.0)
    kept = sorted(allowed & set(range(len(own))))
    if not kept:
        assert found is None
    else:
        assert found is not None and found.ids.tolist() == kept and found.probs.sum() == pytest.approx(1)
        assert found.probs == pytest.approx(prediction.probs[kept] / prediction.probs[kept].sum())


def test_what_is_hardly_foreseen_is_not_foreseen() -> None:
    """Its share of the others' would be a division by next to nothing."""
    prediction = Prediction(5, np.array([1, 2]), np.array([1.0, 1e-17]), 0.5)
    assert prediction.among([2, 3], 0.5) is None
    assert Prediction(0, np.array([1, 2]), np.array([1.0, 1e-17]), 0.5).among([2, 3], 0.5) is None


@given(shares, shares, st.floats(0.01, 0.99), st.sets(st.integers(0, 5), min_size=1))
def test_what_was_typed_speaks_for_who_expected_it(
    own: list[float], model: list[float], weight: float, allowed: set[int]
) -> None:
    """Mixing among the allowed is mixing everything and then leaving out the others."""
    prediction = Prediction(5, np.arange(len(own)), np.array(own) / sum(own), weight)
    everything = model_of(model, 6)[:6]
    whole = (1 - weight) * everything
    whole[: len(own)] += weight * prediction.probs
    kept = sorted(allowed)
    agreed = float(everything[kept].sum())
    found = prediction.among(kept, agreed)
    if found is None:
        assert not allowed & set(range(len(own)))
        return
    among, factor = found.mixed(everything[found.ids] / agreed)
    assert among == pytest.approx(whole[found.ids] / whole[kept].sum(), abs=2e-3)
    assert factor == pytest.approx(1 - found.weight)


@given(spelled, st.lists(st.floats(0.05, 1), min_size=6, max_size=6), shares)
def test_spelling_ends_and_its_belief_stays_a_probability(names, numbers, model) -> None:
    total = sum(numbers[: len(names)])
    spelling = Spelling(tuple((ids, share / total) for ids, share in zip(names, numbers, strict=False)))
    for token in names[0]:
        prediction = spelling.predict()
        assert prediction is not None and 0 < prediction.probs.sum() <= 1 + 1e-9
        probabilities = model_of(model, len(prediction.ids))[:-1]
        mixed, factor = prediction.mixed(probabilities)
        belief = prediction.belief(token, probabilities)
        at = prediction.ids.tolist().index(token)
        assert mixed[at] == pytest.approx(belief * mixed[at] + factor * probabilities[at], abs=0.01)
        assert 0 <= belief < 1
        spelling = spelling.after(token, belief)
    for _ in range(3):
        spelling = spelling.after(9, 0.0)
    assert spelling.predict() is None


def test_a_token_that_no_name_has_ends_the_spelling() -> None:
    spelling = Spelling((((1, 2), 1.0),))
    prediction = spelling.predict()
    assert prediction is not None
    belief = prediction.belief(7, np.array([0.5]))
    assert belief == 0 and spelling.after(7, belief).predict() is None


def test_the_model_chooses_among_names() -> None:
    prediction = Spelling((((1,), 0.6), ((2,), 0.4))).predict()
    assert prediction is not None
    mixed, factor = prediction.mixed(np.array([0.01, 0.3]))
    assert mixed[1] > 0.6 and factor == pytest.approx(1 - NAMES, abs=0.01)


def test_an_ended_name_leaves_the_word_to_the_model() -> None:
    """The word is whole already, and a longer name begins as it does: the longer one must not be forced."""
    spelling = Spelling((((1,), 0.5), ((1, 2), 0.5))).after(1, 0.65)
    assert spelling.names == (((), 0.5), ((2,), 0.5))
    prediction = spelling.predict()
    assert prediction is not None
    assert prediction.mixed(np.array([0.01]))[0] < 0.05  # the model ends the word
    assert prediction.mixed(np.array([0.9]))[0] > 0.9  # the model goes on with it


def test_a_name_foreseen_against_the_model_is_believed_by_bayes() -> None:
    prediction = Prediction(5, np.array([1]), np.array([1.0]), 0.5)
    assert prediction.belief(1, np.array([0.1])) == pytest.approx(0.5 / 0.55)


def test_the_table_has_a_cell_for_every_match() -> None:
    assert len(WEIGHTS) == len(LENGTHS) + 1
    cells = {cell(length, best) for length in range(1, 33) for best in (0.3, 1.0)}
    assert cells == {(row, column) for row in range(len(WEIGHTS)) for column in (0, 1)}
    assert all(0 < weight < 1 for row in WEIGHTS for weight in row)
    assert cell(1, 0.5) == (0, 0) and cell(32, 0.95) == (len(WEIGHTS) - 1, 1)


@given(st.lists(st.tuples(st.floats(0.01, 1), st.floats(0, 1)), min_size=1, max_size=30))
def test_no_other_weight_makes_the_past_likelier(seen: list[tuple[float, float]]) -> None:
    model, memory = np.array(seen).T
    cells = np.full((len(seen), 2), (3, 1))
    weights = fit(cells, model, memory, rounds=2000)

    def loss(weight: float) -> float:
        return -float(np.log(np.maximum((1 - weight) * model + weight * memory, 1e-30)).mean())

    assert all(loss(weights[3, 1]) <= loss(other / 50) + 1e-3 for other in range(50))
    assert weights.sum() == pytest.approx(weights[3, 1])


def test_cells_are_fitted_apart() -> None:
    cells = np.array([cell(1, 1.0), cell(30, 1.0)] * 50)
    model, memory = np.full(100, 0.5), np.array([0.0, 1.0] * 50)
    weights = fit(cells, model, memory, rounds=400)
    assert weights[cell(1, 1.0)] < 0.01 < 0.99 < weights[cell(30, 1.0)]
    assert math.isclose(weights.sum(), weights[cell(1, 1.0)] + weights[cell(30, 1.0)])
