from __future__ import annotations

import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.svm import LinearSVC
from sklearn.utils.estimator_checks import check_estimator

from conftest import random_bank
from univfd.classifiers.knn import NearestNeighbor
from univfd.classifiers.linear import LinearProbe
from univfd.classifiers.ridge import RidgeProbe
from univfd.classifiers.svm import SupportVectorProbe
from univfd.errors import FormatError
from univfd.official import read_head
from univfd.torchfile import read_tensors


@pytest.mark.filterwarnings("ignore::UserWarning")  # of what it skips, and that no base class is inherited
@pytest.mark.parametrize(
    "estimator",
    [NearestNeighbor(), NearestNeighbor(k=3, balanced=False), LinearProbe(), RidgeProbe(), SupportVectorProbe()],
)
def test_scikit_learns_own_checks(estimator: object) -> None:
    check_estimator(estimator)


def points(n: int, seed: int, dim: int = 6) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((n, dim)).astype(np.float32)


def vote(query: np.ndarray, real: np.ndarray, fake: np.ndarray, k: int) -> bool:
    """The paper's rule: the majority among the k nearest of both classes, by cosine distance."""
    rows = np.concatenate([real, fake]).astype(np.float64)
    q = query.astype(np.float64)
    distance = 1 - rows @ q / (np.linalg.norm(rows, axis=1) * np.linalg.norm(q))
    nearest = np.argsort(distance)[:k]
    return bool((nearest >= len(real)).sum() > k / 2)


@given(n=st.integers(9, 40), k=st.sampled_from([1, 3, 5, 9]), seed=st.integers(0, 10_000))
@settings(max_examples=150, deadline=None)
def test_the_scores_sign_is_the_papers_vote(n: int, k: int, seed: int) -> None:
    real, fake, queries = points(n, seed), points(n, seed + 1) + 0.3, points(8, seed + 2)
    X, y = np.concatenate([real, fake]), np.repeat([0, 1], n)
    classifier = NearestNeighbor(k=k).fit(X, y)
    expected = [vote(q, real, fake, k) for q in queries]
    assert (classifier.decision_function(queries) > 0).tolist() == expected
    assert classifier.predict(queries).tolist() == [int(e) for e in expected]


@pytest.mark.parametrize("k", [1, 3, 9])
def test_unbalanced_flag_also_votes_over_unequal_classes(k: int) -> None:
    real, fake, queries = points(30, 0), points(90, 1), points(50, 2)
    X, y = np.concatenate([real, fake]), np.repeat([0, 1], [30, 90])
    scores = NearestNeighbor(k=k, balanced=False).fit(X, y).decision_function(queries)
    assert (scores > 0).tolist() == [vote(q, real, fake, k) for q in queries]


@pytest.mark.parametrize("k", [1, 3, 5, 9])
@pytest.mark.parametrize("times", [2, 10, 30])
def test_unequal_class_sizes_do_not_tilt_the_decision(k: int, times: int) -> None:
    """Both classes are drawn from one distribution: each must win about half of the time."""
    rng = np.random.default_rng(k * 100 + times)
    shares, plain = [], []
    for _ in range(40):
        X = rng.standard_normal((40 * (1 + times), 6)).astype(np.float32)
        y = np.repeat([0, 1], [40, 40 * times])
        queries = rng.standard_normal((100, 6)).astype(np.float32)
        shares.append(NearestNeighbor(k=k).fit(X, y).predict(queries).mean())
        plain.append(NearestNeighbor(k=k, balanced=False).fit(X, y).predict(queries).mean())
    assert 0.45 < np.mean(shares) < 0.55
    assert np.mean(plain) > 0.62  # what it makes up for


@pytest.mark.parametrize("times", [2, 10])
def test_near_copies_in_the_larger_class_do_not_tilt_the_decision(times: int) -> None:
    """A tenth of it are images and versions of them: as without those, each class must win about half of the time."""
    rng = np.random.default_rng(times)
    shares = []
    for _ in range(40):
        X = rng.standard_normal((40 * (1 + times), 6)).astype(np.float32)
        some = np.arange(40, len(X), 20)
        X[some] = X[some + 1] + 1e-3 * rng.standard_normal((len(some), 6))
        y = np.repeat([0, 1], [40, 40 * times])
        shares.append(NearestNeighbor().fit(X, y).predict(rng.standard_normal((100, 6))).mean())
    assert 0.45 < np.mean(shares) < 0.55


@pytest.mark.parametrize("k", [1, 3])
@pytest.mark.parametrize("sizes", [(40, 400), (400, 40), (50, 60)])
def test_rows_of_the_bank_find_themselves_however_unequal_the_classes(sizes: tuple[int, int], k: int) -> None:
    """Few rows of a new generator must count, whatever the bank holds besides."""
    X, y = points(sum(sizes), 0, 16), np.repeat([0, 1], sizes)
    copies = (k + 1) // 2  # so many copies of a row win the vote of k
    fitted = NearestNeighbor(k=k).fit(np.repeat(X, copies, axis=0), np.repeat(y, copies))
    assert fitted.predict(X).tolist() == y.tolist()


def test_the_score_is_continuous() -> None:
    X, y = points(60, 0), np.arange(60) % 2
    scores = NearestNeighbor(k=1).fit(X, y).decision_function(points(200, 1))
    assert len(np.unique(scores)) == 200


def test_a_fake_row_of_the_bank_is_called_fake_a_real_one_real() -> None:
    bank = random_bank(40)
    assert NearestNeighbor.from_bank(bank).predict(bank.vectors).tolist() == bank.labels.tolist()


@pytest.mark.parametrize("k", [0, 2, -1, -2, True, 3.0, "3"])
def test_even_pools_are_refused(k: Any) -> None:
    with pytest.raises(ValueError, match=f"k is {k}; expected an odd number"):
        NearestNeighbor(k=k).fit(points(10, 0), np.arange(10) % 2)


def test_too_few_rows_for_the_pool() -> None:
    with pytest.raises(ValueError, match="k=9 needs at least 5 rows of each class; got 4 real and 6 fake"):
        NearestNeighbor(k=9).fit(points(10, 0), [0] * 4 + [1] * 6)


def test_linear_probe_is_the_optimum_of_bce() -> None:
    """Against scikit-learn run apart on standardised features."""
    X, y = points(200, 0), (points(200, 0)[:, 0] + points(200, 9)[:, 1] > 0).astype(int)
    probe = LinearProbe(C=0.5, tol=1e-8).fit(X, y)
    z = (X.astype(np.float64) - X.mean(0, dtype=np.float64)) / X.std(0, dtype=np.float64)
    reference = LogisticRegression(C=0.5, class_weight="balanced", solver="newton-cg", max_iter=5000, tol=1e-10).fit(
        z, y
    )
    np.testing.assert_allclose(probe.decision_function(X), reference.decision_function(z), atol=1e-4)
    np.testing.assert_allclose(probe.predict_proba(X), reference.predict_proba(z), atol=1e-5)


def test_probabilities_do_not_overflow() -> None:
    probe = LinearProbe.from_state({}, {"coef": np.ones(8) * 1e6, "intercept": np.zeros(1)}, random_bank(4))
    extreme = probe.predict_proba(np.array([[1] * 8, [-1] * 8], np.float32))
    assert extreme.tolist() == [[0, 1], [1, 0]]


@pytest.mark.parametrize("name", ["knn", "linear"])
def test_state_round_trip(name: str) -> None:
    kind = {"knn": NearestNeighbor, "linear": LinearProbe}[name]
    bank = random_bank(60)
    fitted = kind.from_bank(bank)
    again = kind.from_state(fitted.get_params(), fitted.state(), bank)
    queries = points(20, 3, 8)
    np.testing.assert_array_equal(fitted.decision_function(queries), again.decision_function(queries))


def test_state_that_does_not_fit_is_refused() -> None:
    with pytest.raises(FormatError, match="coef"):
        LinearProbe.from_state({}, {"coef": np.ones(3)}, random_bank(4))


def torch_file(path: Path, root: str, pickled: bytes, storages: dict[str, bytes]) -> Path:
    import zipfile

    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"{root}/data.pkl", pickled)
        for key, raw in storages.items():
            archive.writestr(f"{root}/data/{key}", raw)
    return path


# Protocol 2 pickle of a state dict as torch.save writes it: {"weight": (1, 4), "bias": (1,)}.
PICKLED = (
    b"\x80\x02ccollections\nOrderedDict\n)R(X\x06\x00\x00\x00weightctorch._utils\n_rebuild_tensor_v2\n"
    b"((X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpuK\x04tQK\x00K\x01K\x04\x86"
    b"K\x04K\x01\x86\x89ccollections\nOrderedDict\n)RtRX\x04\x00\x00\x00biasctorch._utils\n_rebuild_tensor_v2\n"
    b"((X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x001X\x03\x00\x00\x00cpuK\x01tQK\x00K\x01\x85"
    b"K\x01\x85\x89ccollections\nOrderedDict\n)RtRu."
)


def test_the_official_heads_format_is_read(tmp_path: Path) -> None:
    weight, bias = np.array([1, -2, 3, 0.5], "<f4"), np.array([0.25], "<f4")
    file = torch_file(tmp_path / "head.pth", "fc", PICKLED, {"0": weight.tobytes(), "1": bias.tobytes()})
    coef, intercept = read_head(file)
    assert coef.tolist() == weight.tolist()
    assert intercept == 0.25


class Evil:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        import os

        return os.system, ("touch pwned",)


def test_a_file_that_wants_to_run_code_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    file = torch_file(tmp_path / "evil.pth", "fc", pickle.dumps({"weight": Evil()}), {})
    with pytest.raises(FormatError, match="not allowed"):
        read_tensors(file)
    assert not (tmp_path / "pwned").exists()


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 broken", b"\x80\x02}."])
def test_other_files_are_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.pth").write_bytes(content)
    with pytest.raises(FormatError):
        read_tensors(tmp_path / "x.pth")


def test_truncated_storage_is_refused(tmp_path: Path) -> None:
    file = torch_file(tmp_path / "head.pth", "fc", PICKLED, {"0": b"\0" * 8, "1": b"\0" * 4})
    with pytest.raises(FormatError, match="expected 4"):
        read_tensors(file)


def test_ridge_is_scikit_learns_ridge_on_standardised_features() -> None:
    X = np.concatenate([points(60, 0), points(40, 1) + 0.5]) * np.array([1, 10, 0.1, 1, 1, 100], np.float32)
    y = np.repeat([0, 1], [60, 40])
    for balanced in (True, False):
        weight = np.where(y == 1, 1 / 40, 1 / 60) if balanced else np.ones(100)
        weight = weight / weight.sum()
        mean = weight @ X
        spread = np.sqrt(weight @ (X - mean) ** 2)
        wanted = Ridge(alpha=0.3).fit((X - mean) / spread, 2.0 * y - 1, sample_weight=weight)
        got = RidgeProbe(alpha=0.3, balanced=balanced).fit(X, y)
        np.testing.assert_allclose(got.coef_ * spread, wanted.coef_, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("balanced", [True, False])
def test_ridges_zero_is_half_way_between_the_classes(balanced: bool) -> None:
    X = np.concatenate([points(90, 0), points(30, 1) + 1])
    y = np.repeat([0, 1], [90, 30])
    scores = RidgeProbe(balanced=balanced).fit(X, y).decision_function(X)
    assert abs(scores[y == 0].mean() + scores[y == 1].mean()) < 1e-6
    assert scores[y == 1].mean() > 0


def test_ridge_comes_back_from_its_state_and_refuses_nonsense() -> None:
    bank = random_bank(30)
    made = RidgeProbe.from_bank(bank, {"alpha": 0.5})
    again = RidgeProbe.from_state(made.get_params(), made.state(), bank)
    np.testing.assert_array_equal(made.decision_function(bank.vectors), again.decision_function(bank.vectors))
    with pytest.raises(ValueError, match="alpha is 0; expected a number above 0"):
        RidgeProbe(alpha=0).fit(bank.vectors, bank.labels)


@pytest.mark.parametrize("values", [6, 300])  # fewer and more than rows
def test_ridge_with_groups_is_the_formula_written_out(values: int) -> None:
    rng = np.random.default_rng(5)
    X = rng.standard_normal((120, values)).astype(np.float32) @ rng.standard_normal((values, values)).astype(np.float32)
    y = np.repeat([0, 1], 60)
    groups = np.array([f"{'rf'[c]}{i % 5}" for i, c in enumerate(y)])
    alpha, between = 0.3, 2.0
    Z = (X - X.mean(axis=0)) / X.std(axis=0)
    shrunk = Z.T @ Z / len(Z) + alpha * np.eye(values)
    for c in (0, 1):
        for g in range(5):
            rows = Z[groups == f"{'rf'[c]}{g}"]
            off = rows.mean(axis=0) - Z[y == c].mean(axis=0)
            shrunk += between / 5 * len(rows) / (len(rows) + 20) * np.outer(off, off)
    wanted = np.linalg.solve(shrunk, (Z[y == 1].mean(axis=0) - Z[y == 0].mean(axis=0)) / 2)
    got = RidgeProbe(alpha=alpha, between=between).fit(X, y, groups=groups)
    np.testing.assert_allclose(got.coef_ * X.std(axis=0), wanted, rtol=1e-4, atol=1e-6)


def test_layers_of_a_bank_whose_layers_differ_in_size_are_refused() -> None:
    bank = random_bank(30)
    space = replace(bank.space, taps=("cls.6", "mlp.6"))
    with pytest.raises(ValueError, match=r"layers need vectors of equal size; cls\.6, mlp\.6 are not"):
        RidgeProbe.from_bank(replace(bank, space=space), {"layers": 2})
    alike = replace(bank, space=replace(bank.space, taps=("cls.6", "mean.8")))
    assert RidgeProbe.from_bank(alike, {"layers": 2}).coef_.shape == (bank.space.dim,)


@pytest.mark.parametrize("probe", [RidgeProbe, SupportVectorProbe])
def test_more_values_than_rows_change_nothing(probe: type[RidgeProbe]) -> None:
    """Rows given three times over are the same problem, with fewer values than rows."""
    rng = np.random.default_rng(2)
    X = rng.standard_normal((40, 100)).astype(np.float32) * rng.uniform(0.1, 10, 100).astype(np.float32) + 3
    y = np.arange(40) % 2
    X[:, 7] = 5  # a constant
    X[y == 1] += 0.5
    few, many = probe().fit(X, y), probe().fit(np.tile(X, (3, 1)), np.tile(y, 3))
    np.testing.assert_allclose(few.decision_function(X), many.decision_function(X), atol=2e-4)
    unseen = rng.standard_normal((20, 100)).astype(np.float32)
    np.testing.assert_allclose(few.decision_function(unseen), many.decision_function(unseen), rtol=1e-3, atol=1e-3)


def test_of_very_many_values_no_matrix_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(2)
    y, places = np.arange(300) % 2, np.arange(300) // 2 % 15
    X = (rng.standard_normal((300, 80)) * rng.uniform(0.1, 10, 80) + 0.3 * y[:, None] + 3).astype(np.float32)
    exact = SupportVectorProbe().fit(X, y, groups=places).decision_function(X)
    monkeypatch.setattr("univfd.classifiers.svm.SupportVectorProbe._solved", lambda *_: pytest.fail("a matrix"))
    monkeypatch.setattr("univfd.classifiers.svm._MANY_VALUES", 50)
    monkeypatch.setattr("univfd.classifiers.svm._FEW_ROWS", 200)
    for rows in (300, 20):  # of which the coordinates are made
        monkeypatch.setattr("univfd.classifiers.svm._ROWS_OF_CURVATURE", rows)
        found = SupportVectorProbe().fit(X, y, groups=places).decision_function(X)
        np.testing.assert_allclose(found, exact, atol=1e-4)
    monkeypatch.setattr("univfd.classifiers.ridge._EXACT_VALUES", 0)
    found = SupportVectorProbe().fit(X, y, groups=places).decision_function(X)
    np.testing.assert_allclose(found, exact, atol=5e-3)


def test_layers_of_unequal_sizes_are_brought_to_length_1_each() -> None:
    rng = np.random.default_rng(0)
    y = np.arange(60) % 2
    X = rng.normal(size=(60, 7)).astype(np.float32) + y[:, None]
    unit = np.concatenate([p / np.linalg.norm(p, axis=1, keepdims=True) for p in (X[:, :2], X[:, 2:])], axis=1)
    probe = RidgeProbe(layers=[2, 5]).fit(X, y)
    expected = RidgeProbe().fit(unit, y).decision_function(unit)
    np.testing.assert_allclose(probe.decision_function(X), expected, atol=1e-5)
    for wrong in ([2, 4], [0, 7], [-1, 8], "each"):
        with pytest.raises(ValueError, match="layers is"):
            RidgeProbe(layers=wrong).fit(X, y)  # type: ignore[arg-type]


def test_ridge_told_of_places_scores_a_new_place_more_like_the_others() -> None:
    """Places differ along the first axis, classes along the second; a new place must not be scored by the first."""
    rng = np.random.default_rng(0)
    X = points(200, 6)
    y = np.repeat([0, 1], 100)
    place = np.arange(200) // 20
    X[:, 0] += np.where(y == 1, 1.5, 0) + rng.normal(0, 2, 10).astype(np.float32)[place]
    X[:, 1] += 1.5 * y
    told, untold = (RidgeProbe(between=20.0).fit(X, y, groups=g).coef_ for g in (place, None))
    assert abs(told[0] / told[1]) < abs(untold[0] / untold[1]) / 3
    np.testing.assert_array_equal(RidgeProbe(between=0.0).fit(X, y, groups=place).coef_, untold)


def test_ridge_refuses_groups_that_do_not_fit() -> None:
    X, y = points(20, 7), np.repeat([0, 1], 10)
    with pytest.raises(ValueError, match=r"groups of shape \(3,\) for 20 rows"):
        RidgeProbe().fit(X, y, groups=["a", "b", "c"])
    with pytest.raises(ValueError, match="between is -1"):
        RidgeProbe(between=-1).fit(X, y)


def test_ridge_of_layers_looks_at_directions_alone() -> None:
    rng = np.random.default_rng(5)
    y = np.arange(80) % 2
    X = rng.normal(size=(80, 6)).astype(np.float32)
    X[:, :3] += 2 * y[:, None] * np.array([1, -1, 0.5], np.float32)
    lengths = np.repeat(rng.uniform(0.1, 10, (80, 2)), 3, axis=1).astype(np.float32)
    unit = np.concatenate([part / np.linalg.norm(part, axis=1, keepdims=True) for part in (X[:, :3], X[:, 3:])], axis=1)
    probe = RidgeProbe(layers=2).fit(X, y)
    expected = RidgeProbe().fit(unit, y).decision_function(unit)
    np.testing.assert_allclose(probe.decision_function(X), expected, atol=1e-5)
    np.testing.assert_allclose(probe.decision_function(X * lengths), expected, atol=1e-5)
    assert np.isfinite(probe.decision_function(np.zeros((1, 6), np.float32))).all()
    assert np.abs(RidgeProbe().fit(X, y).decision_function(X * lengths) - expected).max() > 0.1
    for wrong in (4, -1, 1.5):
        with pytest.raises(ValueError, match="layers is"):
            RidgeProbe(layers=wrong).fit(X, y)  # type: ignore[arg-type]


@pytest.mark.parametrize("balanced", [True, False])
def test_the_support_vector_probe_is_scikit_learns(balanced: bool) -> None:
    """On standardised features, in coordinates where both penalties together are the one that LinearSVC knows."""
    X = np.concatenate([points(60, 0), points(40, 1) + 0.7]) * np.array([1, 10, 0.1, 1, 1, 100], np.float32)
    y, groups = np.repeat([0, 1], [60, 40]), np.array([f"{i // 10}" for i in range(100)])
    weight = np.where(y == 1, 1 / 80, 1 / 120) if balanced else np.full(100, 0.01)
    mean = weight @ X
    spread = np.sqrt(weight @ (X - mean) ** 2)
    Z = ((X - mean) / spread).astype(np.float64)
    penalty = 0.2 * np.eye(6)
    for c, number in ((0, 6), (1, 4)):
        for g in np.unique(groups[y == c]):
            off = Z[groups == g].mean(axis=0) - Z[y == c].mean(axis=0)
            penalty += 3.0 / number * 10 / (10 + 20) * np.outer(off, off)
    root = np.linalg.cholesky(penalty)
    model = LinearSVC(loss="squared_hinge", C=1e3, dual=False, intercept_scaling=1e4, tol=1e-10, max_iter=100_000)
    model.fit(np.linalg.solve(root, Z.T).T, y, sample_weight=weight / 2 / 1e3)
    wanted = np.linalg.solve(root.T, model.coef_[0])
    got = SupportVectorProbe(alpha=0.2, balanced=balanced, between=3.0).fit(X, y, groups=groups)
    np.testing.assert_allclose(got.coef_ * spread, wanted, rtol=1e-3, atol=1e-4)
    assert got.intercept_ + got.coef_ @ mean == pytest.approx(model.intercept_[0], abs=1e-3)


def test_rows_well_on_their_side_do_not_pull_a_support_vector() -> None:
    X, y = np.concatenate([points(50, 3) - 1, points(50, 4) + 1]), np.repeat([0, 1], 50)
    far = X.copy()
    far[y == 1] += np.where(SupportVectorProbe().fit(X, y).decision_function(X)[y == 1] > 1.5, 3, 0)[:, None]
    moved = {kind: kind().fit(far, y).decision_function(X) - kind().fit(X, y).decision_function(X)
             for kind in (RidgeProbe, SupportVectorProbe)}  # fmt: skip
    assert np.abs(moved[SupportVectorProbe]).max() < np.abs(moved[RidgeProbe]).max()
    bank = random_bank(30)
    made = SupportVectorProbe.from_bank(bank, {"alpha": 0.5, "layers": 2})
    again = SupportVectorProbe.from_state(made.get_params(), made.state(), bank)
    np.testing.assert_array_equal(made.decision_function(bank.vectors), again.decision_function(bank.vectors))


def test_a_support_vector_probe_in_single_precision_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    X, y = np.concatenate([points(300, 3, 40) - 0.1, points(300, 4, 40) + 0.1]), np.repeat([0, 1], 300)
    exact = SupportVectorProbe().fit(X, y, groups=np.arange(600) // 20)
    monkeypatch.setattr("univfd.classifiers.ridge._EXACT_VALUES", 0)
    single = SupportVectorProbe().fit(X, y, groups=np.arange(600) // 20)
    assert not np.array_equal(exact.coef_, single.coef_)
    np.testing.assert_allclose(single.decision_function(X), exact.decision_function(X), atol=1e-4)


def test_a_support_vector_probe_that_is_stopped_early_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    X, y = np.concatenate([points(50, 3), points(50, 4) + 1]), np.repeat([0, 1], 50)
    monkeypatch.setattr("univfd.classifiers.svm._STEPS", 1)
    with pytest.warns(
        ConvergenceWarning, match=r"no optimum in 1 steps \(slope .*, expected 1e-06\); raise alpha"
    ) as said:
        SupportVectorProbe().fit(X, y)
    assert said[0].filename == __file__  # whoever fits, not the solver
    monkeypatch.setattr("univfd.classifiers.svm._MANY_VALUES", 1)
    monkeypatch.setattr("univfd.classifiers.svm._FEW_ROWS", 1)
    with pytest.warns(ConvergenceWarning, match="no optimum in 1 steps") as said:
        SupportVectorProbe().fit(X, y)
    assert said[0].filename == __file__


def test_the_mean_of_linear_layers_is_the_mean_of_their_scores() -> None:
    rng = np.random.default_rng(3)
    x, y = rng.normal(size=(80, 6)).astype(np.float32), rng.integers(0, 2, 80)
    parts = [RidgeProbe().fit(x[::2], y[::2]), RidgeProbe().fit(x[1::2], y[1::2])]
    made = RidgeProbe.mean(parts, [1, 2])
    expected = (parts[0].decision_function(x) + 2 * parts[1].decision_function(x)) / 3
    np.testing.assert_allclose(made.decision_function(x), expected, atol=1e-12)


def test_parameters_are_set_by_name_and_shown() -> None:
    made = NearestNeighbor(k=3)
    assert repr(made) == "NearestNeighbor(k=3, balanced=True)"
    assert made.set_params(k=5) is made
    assert made.get_params() == {"k": 5, "balanced": True}
    with pytest.raises(ValueError, match="NearestNeighbor has no parameter 'neighbours'; it has: k, balanced"):
        made.set_params(neighbours=1)


def test_accuracy_takes_weights() -> None:
    X, y = np.array([[1, 0], [0, 1], [1, 0.1], [0.1, 1]], np.float32), np.array([0, 1, 0, 1])
    made = NearestNeighbor().fit(X, y)
    wrong = [0, 1, 1, 1]
    assert made.score(X, y) == 1
    assert made.score(X, wrong) == 0.75
    assert made.score(X, wrong, sample_weight=[1, 1, 6, 0]) == 0.25


@pytest.mark.parametrize("kind", [LinearProbe, RidgeProbe, SupportVectorProbe])
def test_a_class_without_weight_is_no_class(kind: type) -> None:
    with pytest.raises(ValueError, match=f"{kind.__name__} needs both classes; all weights of one class are zero"):
        kind().fit(points(4, 0), [0, 0, 1, 1], sample_weight=[1, 1, 0, 0])


def test_weights_are_repeated_rows() -> None:
    X, y = points(30, 11), np.arange(30) % 2
    weight = np.arange(30) % 3 + 1
    for make in (RidgeProbe, LinearProbe, SupportVectorProbe):
        weighted = make().fit(X, y, sample_weight=weight).decision_function(X)
        repeated = make().fit(np.repeat(X, weight, axis=0), np.repeat(y, weight)).decision_function(X)
        np.testing.assert_allclose(weighted, repeated, atol=1e-4)


@pytest.mark.parametrize("intercept", [None, np.zeros(2), np.zeros((1, 1))])
def test_a_linear_state_needs_both_arrays(intercept: np.ndarray | None) -> None:
    state = {"coef": np.ones(8)} | ({} if intercept is None else {"intercept": intercept})
    with pytest.raises(FormatError, match=r"needs coef \(8,\) and intercept \(1,\)"):
        LinearProbe.from_state({}, state, random_bank(4))


@pytest.mark.parametrize("scale", [None, np.ones(3)])
def test_a_neighbor_state_needs_its_scale(scale: np.ndarray | None) -> None:
    with pytest.raises(FormatError, match=r"nearest neighbours need 'scale' \(2,\)"):
        NearestNeighbor.from_state({}, {} if scale is None else {"scale": scale}, random_bank(4))


def test_a_constant_feature_has_no_weight() -> None:
    X = np.concatenate([points(40, 12), np.full((40, 1), 7, np.float32)], axis=1)
    for make in (RidgeProbe, LinearProbe, SupportVectorProbe):
        made = make().fit(X, np.arange(40) % 2)
        assert made.coef_[-1] == pytest.approx(0, abs=1e-9)
        assert np.isfinite(made.decision_function(X)).all()


def test_the_factor_on_the_larger_class_alone() -> None:
    """More rows are nearer by number: the distances to them are made larger; equal classes are left alone."""
    X = points(330, 13)
    for y, larger in ((np.repeat([0, 1], [300, 30]), 0), (np.repeat([0, 1], [30, 300]), 1)):
        scale = NearestNeighbor().fit(X, y).scale_
        assert scale[1 - larger] == 1
        assert scale[larger] > 1.5
    assert NearestNeighbor().fit(X, np.arange(330) % 2).scale_.tolist() == [1, 1]
    assert NearestNeighbor(balanced=False).fit(X, np.repeat([0, 1], [300, 30])).scale_.tolist() == [1, 1]


def test_what_the_classifiers_are_made_with_by_default() -> None:
    assert NearestNeighbor().get_params() == {"k": 1, "balanced": True}
    assert LinearProbe().get_params() == {"C": 0.01, "balanced": True, "max_iter": 2000, "tol": 1e-8}
    assert RidgeProbe().get_params() == {"alpha": 0.3, "balanced": True, "between": 1.0, "layers": 0}
    assert SupportVectorProbe().get_params() == {"alpha": 0.1, "balanced": True, "between": 4.0, "layers": 0}
    for made in (NearestNeighbor(), LinearProbe(), RidgeProbe(), SupportVectorProbe()):
        assert made._estimator_type == "classifier"
    with pytest.raises(ValueError, match="layers is 4; 6 values are not so many layers"):
        RidgeProbe(layers=4).fit(points(8, 0), [0, 1] * 4)
    with pytest.raises(ValueError, match="continuous"):
        RidgeProbe().fit(points(8, 0), np.linspace(0, 1, 8))


@pytest.mark.parametrize(("dim", "solver"), [(2048, "newton-cholesky"), (2049, "lbfgs")])
def test_the_linear_probes_solver_goes_by_the_width(dim: int, solver: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import sklearn.linear_model

    asked = []

    class Watched(LogisticRegression):
        def __init__(self, **options: object) -> None:
            asked.append(options)
            super().__init__(**options)

    monkeypatch.setattr(sklearn.linear_model, "LogisticRegression", Watched)
    made = LinearProbe(C=0.5, max_iter=7, tol=0.1).fit(points(6, 0, dim), [0, 1] * 3)
    assert asked == [{"C": 0.5, "max_iter": 7, "tol": 0.1, "solver": solver}]
    assert 1 <= made.n_iter_ <= 7


def test_a_mean_has_the_first_ones_parameters_and_classes() -> None:
    X, y = points(40, 8), np.arange(40) % 2
    first, second = RidgeProbe(alpha=0.5).fit(X, y), RidgeProbe(alpha=2.0).fit(X, np.where(y, "x", "a"))
    made = RidgeProbe.mean([first, second], [1, 1])
    assert made.get_params() == first.get_params()
    assert made.classes_.tolist() == [0, 1]
    assert made.predict(X).dtype == y.dtype


def wanted_scale(larger: np.ndarray, ratio: float, m: int) -> float:
    """The factor of the module's docstring written out: the mean ratio of two distances of a row to its own class."""
    unit = larger / np.linalg.norm(larger, axis=1, keepdims=True)
    rank = min(1 / 3 + (m - 1 / 3) * ratio, len(larger) - 1)
    logs = []
    distances = [np.sort(np.delete(1 - unit @ row, i)) for i, row in enumerate(unit)]
    middle = np.median([far[m - 1] for far in distances])
    for far in distances:
        if far[m - 1] > max(1e-6, middle / 3):
            low = far[int(rank) - 1]
            high = far[min(int(rank), len(far) - 1)]
            logs.append(np.log((low + (rank - int(rank)) * (high - low)) / far[m - 1]))
    return float(np.exp(np.mean(logs)))


@pytest.mark.parametrize(("n_real", "n_fake", "k"), [(60, 20, 1), (20, 60, 3), (30, 4, 3), (31, 10, 1), (9, 2, 3)])
def test_the_factor_of_the_larger_class_is_the_formula_written_out(n_real: int, n_fake: int, k: int) -> None:
    real, fake = points(n_real, 21), points(n_fake, 22)
    larger = real if n_real > n_fake else fake
    larger[1] = larger[0]  # copies of one image say nothing about density
    made = NearestNeighbor(k=k).fit(np.concatenate([real, fake]), np.repeat([0, 1], [n_real, n_fake]))
    of = int(n_fake > n_real)
    m = (k + 1) // 2
    assert made.scale_[of] == pytest.approx(wanted_scale(larger, len(larger) / min(n_real, n_fake), m), rel=1e-4)
    assert made.scale_[1 - of] == 1
    assert NearestNeighbor(k=k, balanced=False).fit(
        np.concatenate([real, fake]), np.repeat([0, 1], [n_real, n_fake])
    ).scale_.tolist() == [1, 1]


@pytest.mark.parametrize(("k", "least"), [(1, 1), (3, 2), (5, 3)])
def test_a_class_must_fill_its_half_of_the_pool(k: int, least: int) -> None:
    X = points(2 * least + 9, 5)
    enough = np.repeat([0, 1], [least, len(X) - least])
    assert NearestNeighbor(k=k).fit(X, enough).n_features_in_ == 6
    if least > 1:
        few = np.repeat([0, 1], [least - 1, len(X) - least + 1])
        with pytest.raises(ValueError, match=f"k={k} needs at least {least} rows? of each class; got {least - 1} real"):
            NearestNeighbor(k=k).fit(X, few)


def test_arrays_that_are_ready_are_checked_as_others_are() -> None:
    """Single precision, as the line gives them: what scikit-learn would refuse is refused."""
    probe = LinearProbe().fit(np.concatenate([points(20, 1), points(20, 2) + 1]), np.repeat([0, 1], 20))
    with pytest.raises(ValueError, match="X has 7 features, but LinearProbe is expecting 6"):
        probe.decision_function(points(3, 3, dim=7))
    with pytest.raises(ValueError, match="0 sample"):
        probe.decision_function(points(0, 3))
    with pytest.raises(ValueError, match="NaN"):
        probe.decision_function(np.full((1, 6), np.nan, np.float32))
    with pytest.raises(ValueError, match="2D array"):
        probe.decision_function(points(1, 3)[0])
    assert probe.decision_function(points(1, 3)).shape == (1,)
