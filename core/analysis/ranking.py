"""Who is better, from votes: win rates with their intervals, and a ranking by strength.

**Win rate** (Wilson, 1927). A contestant that won w of n votes (a tie is half a win) has p̂ = w / n. Its interval holds
every p from which p̂ is no more than z standard errors away, |p̂ − p| ≤ z √(p (1 − p) / n), a quadratic in p:

    (p̂ + z²/2n ± z √(p̂ (1 − p̂)/n + z²/4n²)) / (1 + z²/n)

Unlike p̂ ± z √(p̂ (1 − p̂)/n) it stays within 0 and 1, and is no point where all votes agree.

**Strength** (Bradley and Terry, 1952). P(i is voted over j) = σ(θᵢ − θⱼ) with σ(x) = 1 / (1 + e⁻ˣ). With wᵢⱼ how often
i was voted over j, a tie half to each, and nᵢⱼ = wᵢⱼ + wⱼᵢ, the log-likelihood is Σ wᵢⱼ log σ(θᵢ − θⱼ). It has no
maximum where one contestant won always, so each also plays one tie against an opponent of strength 0, which adds
Σ ½ (log σ(θᵢ) + log σ(−θᵢ)). The sum L is strictly concave, and Newton's steps find its maximum:

    ∂L/∂θᵢ    = Σⱼ (wᵢⱼ − nᵢⱼ σ(θᵢ − θⱼ)) + ½ − σ(θᵢ)
    −∂²L/∂θᵢ² = Σⱼ nᵢⱼ σ(θᵢ − θⱼ) σ(θⱼ − θᵢ) + σ(θᵢ) σ(−θᵢ)        −∂²L/∂θᵢ∂θⱼ = −nᵢⱼ σ(θᵢ − θⱼ) σ(θⱼ − θᵢ)

Only differences mean anything, so strengths are given less their mean: C θ with C = I − 11ᵀ/k. Near the maximum θ is
normal with the inverse H⁻¹ of −∂²L as its covariance, and C θ with C H⁻¹ Cᵀ; from its diagonal come the intervals. They
are told on Elo's scale, where 400 points are odds of 10 to 1: 1000 + 400 / ln 10 · θ.

A vote among several says that the winner is better than each of the others, and nothing of these among themselves; "all
are equal", and "all are bad", is a tie of each pair. Such pairs of one vote are not independent of one another, and the
intervals take them as if they were: with more than two panes they are somewhat too narrow.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

CONFIDENCE = 0.95
ELO_CENTER, ELO_SCALE = 1000.0, 400.0 / math.log(10.0)
MOST_VOTES_TO_TELL = 1000
_TOLERANCE, _MOST_STEPS = 1e-12, 200

Name = TypeVar("Name", bound=Hashable)
Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Ballot(Generic[Name]):
    """One vote: who took part, and whose answer was the best; None where nobody's was."""

    contestants: tuple[Name, ...]
    winner: Name | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing(Generic[Name]):
    """How one contestant stands: of its `votes`, `wins` and `ties`; `rate` is its share of wins, a tie half, from
    `rate_low` to `rate_high`; `rating` is its strength on Elo's scale, from `rating_low` to `rating_high`.
    """

    name: Name
    votes: int
    wins: int
    ties: int
    rate: float
    rate_low: float
    rate_high: float
    rating: float
    rating_low: float
    rating_high: float


def standings(ballots: Sequence[Ballot[Name]], confidence: float = CONFIDENCE) -> tuple[Standing[Name], ...]:
    """Everybody who took part, the strongest first."""
    names = list(dict.fromkeys(name for ballot in ballots for name in ballot.contestants))
    if not names:
        return ()
    theta, covariance = strengths(duels(ballots, names))
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    found = []
    for at, name in enumerate(names):
        own = [ballot for ballot in ballots if name in ballot.contestants]
        wins = sum(ballot.winner == name for ballot in own)
        ties = sum(ballot.winner is None for ballot in own)
        low, high = wilson(wins + ties / 2, len(own), confidence)
        rating, reach = ELO_CENTER + ELO_SCALE * theta[at], z * ELO_SCALE * math.sqrt(max(0.0, covariance[at, at]))
        found.append(
            Standing(
                name=name,
                votes=len(own),
                wins=wins,
                ties=ties,
                rate=(wins + ties / 2) / len(own),
                rate_low=low,
                rate_high=high,
                rating=float(rating),
                rating_low=float(rating - reach),
                rating_high=float(rating + reach),
            )
        )
    return tuple(sorted(found, key=lambda standing: -standing.rating))


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison(Generic[Name]):
    """Two contestants in the votes that say something about them: `wins` of `one`, `ties`, and `rate` its share, a tie
    half, from `low` to `high`. `more` is how many votes with the same share would tell them apart; 0 where these do,
    None where so many are not to be had.
    """

    one: Name
    other: Name
    votes: int
    wins: int
    ties: int
    rate: float
    low: float
    high: float
    more: int | None


def compare(
    ballots: Sequence[Ballot[Name]], one: Name, other: Name, confidence: float = CONFIDENCE
) -> Comparison[Name]:
    """How two stand against each other alone. A vote that a third won says nothing between them and is left out."""
    own = [ballot for ballot in ballots if {one, other} <= set(ballot.contestants)]
    own = [ballot for ballot in own if ballot.winner in (None, one, other)]
    wins, ties = sum(ballot.winner == one for ballot in own), sum(ballot.winner is None for ballot in own)
    share = wins + ties / 2
    low, high = wilson(share, len(own), confidence)
    return Comparison(
        one=one,
        other=other,
        votes=len(own),
        wins=wins,
        ties=ties,
        rate=share / len(own) if own else 0.5,
        low=low,
        high=high,
        more=_votes_to_tell(share, len(own), confidence),
    )


def _votes_to_tell(wins: float, votes: int, confidence: float) -> int | None:
    """How many more votes with the same share put one half outside Wilson's interval."""
    share = wins / votes if votes else 0.5
    for more in range(MOST_VOTES_TO_TELL + 1):
        low, high = wilson(share * (votes + more), votes + more, confidence)
        if not low <= 0.5 <= high:
            return more
    return None


def wilson(wins: float, votes: int, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """From where to where a share of wins may lie that gave `wins` of `votes`; all is possible without a vote."""
    if votes == 0:
        return 0.0, 1.0
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    share, width = wins / votes, z * z / votes
    center = share + width / 2
    reach = math.sqrt(width * share * (1 - share) + width * width / 4)
    low, high = (center - reach) / (1 + width), (center + reach) / (1 + width)
    return min(share, max(0.0, low)), max(share, min(1.0, high))  # rounding may end just beside


def duels(ballots: Sequence[Ballot[Name]], names: Sequence[Name]) -> Floats:
    """w `[k, k]` fp64: how often each of `names` was voted over each other, a tie half to both."""
    place = {name: at for at, name in enumerate(names)}
    wins = np.zeros((len(names), len(names)), np.float64)
    for ballot in ballots:
        for one in ballot.contestants:
            for other in ballot.contestants:
                if one != other and ballot.winner in (None, one):
                    wins[place[one], place[other]] += 0.5 if ballot.winner is None else 1.0
    return wins


def strengths(wins: Floats) -> tuple[Floats, Floats]:
    """θ `[k]` less its mean, and its covariance `[k, k]`, both fp64, of contestants with these `duels`."""
    theta = np.zeros(len(wins), np.float64)
    played = wins + wins.T
    for _ in range(_MOST_STEPS):
        gradient, information = _slope(theta, wins, played)
        step = np.linalg.solve(information, gradient)
        theta = theta + step * min(1.0, 2.0 / max(float(np.abs(step).max()), 1e-300))  # far leaps may overshoot
        if float(np.abs(step).max()) < _TOLERANCE:
            break
    center = np.eye(len(wins)) - 1 / len(wins)
    return center @ theta, center @ np.linalg.inv(_slope(theta, wins, played)[1]) @ center.T


def _slope(theta: Floats, wins: Floats, played: Floats) -> tuple[Floats, Floats]:
    """∂L/∂θ `[k]` and −∂²L/∂θ² `[k, k]`."""
    chance, alone = _sigmoid(theta[:, None] - theta[None, :]), _sigmoid(theta)
    gradient = (wins - played * chance).sum(1) + 0.5 - alone
    weights = played * chance * chance.T
    return gradient, np.diag(weights.sum(1) + alone * (1 - alone)) - weights


def _sigmoid(x: Floats) -> Floats:
    return 0.5 * (1.0 + np.tanh(0.5 * x))  # without overflow
