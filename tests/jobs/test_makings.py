"""Adapters out of others, by real processes: combined and shrunk."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from core.adapters.peft_format import read_adapter
from core.adapters.portable import products_in
from core.adapters.ways import Combination
from core.errors import AdapterError, ConfigError, UserError
from jobs.service import Adapter, Service
from tests.jobs.shelf import placed, rest


def dense(folder: Path) -> dict[str, torch.Tensor]:
    """Every module's ΔW in fp64."""
    products = products_in(read_adapter(folder)).items()
    return {name: product.scale * product.b.double() @ product.a.double() for name, product in products}


def test_a_combination_changes_what_its_parents_change_by_their_weights(
    service: Service, pair: tuple[Adapter, Adapter]
) -> None:
    one, two = pair
    wanted = Combination(how="concat", weights=(0.5, -1.0))
    done = rest(service, service.library.begin_combination([one.id, two.id], wanted, "Both"))
    assert done.adapter_id is not None, done.problem
    both = service.adapter(done.adapter_id)
    assert (both.name, both.rank, both.base_model) == ("Both", 6, one.base_model)
    assert both.origin.kind == "combined" and both.origin.energy == 1.0 and both.origin.rank is None
    assert [(parent.id, parent.name, parent.weight) for parent in both.origin.parents] == [
        (one.id, "one", 0.5),
        (two.id, "two", -1.0),
    ]
    first, second, sums = dense(one.path), dense(two.path), dense(both.path)
    for name, delta in sums.items():
        assert torch.allclose(delta, 0.5 * first[name] - second[name], atol=1e-6)


@pytest.mark.parametrize("how", ["svd", "ties", "dare_linear", "dare_ties"])
def test_every_other_way_ends_with_the_rank_asked_for(
    service: Service, pair: tuple[Adapter, Adapter], how: Any
) -> None:
    wanted = Combination(how=how, weights=(1.0, 1.0), rank=3, density=0.7, seed=5)
    done = rest(service, service.library.begin_combination([each.id for each in pair], wanted, how))
    assert done.adapter_id is not None, done.problem
    origin = service.adapter(done.adapter_id).origin
    assert service.adapter(done.adapter_id).rank == 3
    assert origin.energy is not None and 0 < origin.energy < 1
    assert (origin.density, origin.seed) == {
        "svd": (None, None),
        "ties": (0.7, None),
        "dare_linear": (0.7, 5),
        "dare_ties": (0.7, 5),
    }[how]


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"ids": 1}, "1 adapters cannot be combined"),
        ({"weights": (1.0,)}, "1 weights for 2 adapters"),
        ({"weights": (0.0, 0.0)}, "All weights are 0"),
        ({"how": "magic"}, "no way magic"),
        ({"how": "svd"}, "Rank is 0"),
        ({"how": "ties", "rank": 2, "density": 0.0}, "Density is 0"),
        ({"name": " "}, "name is empty"),
        ({"weights": (float("nan"), 1.0)}, "nan"),
    ],
)
def test_what_cannot_be_combined_is_refused_at_once(
    service: Service, pair: tuple[Adapter, Adapter], values: dict[str, Any], says: str
) -> None:
    given = {"how": "concat", "weights": (1.0, 1.0), **values}
    ids = [each.id for each in pair][: given.pop("ids", 2)]
    name = given.pop("name", "x")
    with pytest.raises(UserError, match=says):
        service.library.begin_combination(ids, Combination(**given), name)


def test_adapters_of_different_bases_are_not_combined(service: Service, made: dict[str, Path]) -> None:
    one, other = placed(service, made["one"]), placed(service, made["elsewhere"])
    wanted = Combination(how="concat", weights=(1.0, 1.0))
    with pytest.raises(AdapterError, match="different base models"):
        service.library.begin_combination([one.id, other.id], wanted, "x")
    service._store.shelf.change(other.id, base_model=one.base_model)  # as `choose_base` does
    done = rest(service, service.library.begin_combination([one.id, other.id], wanted, "x"))
    assert done.state == "done", done.problem


def test_what_a_rank_keeps_is_said_before_and_comes_true(service: Service, pair: tuple[Adapter, Adapter]) -> None:
    one, _ = pair
    weighing = service.library.begin_weighing(one.id)
    rest(service, weighing)
    said = service.library.kept(weighing.id, rank=2)
    assert said is not None and 0 < said.energy < 1 and said.highest_rank == 2
    done = rest(service, service.library.begin_shrinking(one.id, "small", rank=2, energy=None))
    assert done.adapter_id is not None, done.problem
    small = service.adapter(done.adapter_id)
    assert (small.rank, small.origin.kind, small.origin.rank) == (2, "shrunk", 2)
    assert small.origin.energy == pytest.approx(said.energy, rel=1e-9)
    assert abs(small.bytes - said.bytes) < 4000  # the header
    share = service.library.kept(weighing.id, energy=0.8)
    by_share = rest(service, service.library.begin_shrinking(one.id, "share", rank=None, energy=0.8))
    assert by_share.adapter_id is not None and share is not None
    assert service.adapter(by_share.adapter_id).origin.energy == pytest.approx(share.energy, rel=1e-9)


@pytest.mark.parametrize(
    ("rank", "energy", "says"), [(0, None, "Rank is 0"), (None, 1.5, "Energy is 1.5"), (None, None, "to a rank or")]
)
def test_a_size_that_cannot_be_is_refused(
    service: Service, pair: tuple[Adapter, Adapter], rank: int | None, energy: float | None, says: str
) -> None:
    with pytest.raises(ConfigError, match=says):
        service.library.begin_shrinking(pair[0].id, "x", rank=rank, energy=energy)
