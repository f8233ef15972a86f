"""The classifiers and the embedder inside scikit-learn's own tools."""

from __future__ import annotations

import pickle
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import sklearn
from PIL import Image
from sklearn.base import clone, is_classifier
from sklearn.calibration import CalibratedClassifierCV
from sklearn.compose import ColumnTransformer
from sklearn.model_selection import GridSearchCV, GroupKFold, cross_val_score
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import check_estimator

from conftest import encoded, picture
from test_architecture import run
from univfd.backbones import Backbone
from univfd.classifiers.knn import NearestNeighbor
from univfd.classifiers.linear import LinearProbe
from univfd.classifiers.ridge import RidgeProbe
from univfd.classifiers.svm import SupportVectorProbe
from univfd.embedding import embed_images
from univfd.errors import EmptyFileError, FileAccessError, UnknownNameError, UsageError
from univfd.integrations.sklearn import ImageEmbedder, _encoder
from univfd.views import view

CLASSIFIERS = [NearestNeighbor(), LinearProbe(), RidgeProbe(), SupportVectorProbe()]
NOT_RUN = {"check_array_api_input": "runs only with SCIPY_ARRAY_API set; these classifiers work on NumPy arrays alone"}


@pytest.fixture(scope="module")
def images() -> tuple[list[bytes], np.ndarray]:
    """24 small encoded images and their classes: smooth, or with a visible grid."""
    pixels = [picture(i, 64, 64) for i in range(24)]
    for each in pixels[1::2]:
        each[::4, ::4] = 255 - each[::4, ::4] // 2
    return [encoded(each, "PNG") for each in pixels], np.arange(24) % 2


@pytest.mark.parametrize("estimator", CLASSIFIERS, ids=repr)
def test_no_check_of_scikit_learn_is_skipped_without_a_reason(estimator: object) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that no base class of scikit-learn's is inherited: on purpose
        results = check_estimator(estimator, on_skip=None, expected_failed_checks={})
    states = {r["check_name"]: r["status"] for r in results}
    assert len(states) > 40
    assert {name for name, state in states.items() if state != "passed"} == set(NOT_RUN)


@pytest.mark.parametrize(
    "estimator", [*CLASSIFIERS, ImageEmbedder("toy", taps=("mean.1",), unreadable="nan")], ids=repr
)
def test_clones_have_the_same_parameters(estimator: object) -> None:
    copy = clone(estimator)
    assert copy is not estimator
    assert copy.get_params() == estimator.get_params()
    assert is_classifier(estimator) == (not isinstance(estimator, ImageEmbedder))


def test_the_embedder_gives_the_vectors_of_the_line(images: tuple[list[bytes], np.ndarray], toy: Backbone) -> None:
    got = ImageEmbedder("toy", batch_size=5).fit_transform(images[0])
    expected = np.concatenate([b.embeddings.vectors for b in embed_images(toy, view("native"), images[0])])
    assert got.dtype == np.float32
    np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize("classifier", CLASSIFIERS, ids=repr)
def test_a_pipeline_from_images_to_classes(classifier: object, images: tuple[list[bytes], np.ndarray]) -> None:
    X, y = images
    model = Pipeline([("embed", ImageEmbedder("toy")), ("decide", clone(classifier))])
    assert cross_val_score(model, X, y, cv=3, scoring="roc_auc").min() > 0.9
    assert model.fit(X[:16], y[:16]).score(X[16:], y[16:]) > 0.8


def test_a_search_over_parameters_of_both_steps(images: tuple[list[bytes], np.ndarray], tmp_path: Path) -> None:
    steps = [("embed", ImageEmbedder("toy")), ("decide", RidgeProbe())]
    grid = {"embed__taps": [("proj",), ("mean.1",)], "decide__alpha": [0.01, 1.0]}
    search = GridSearchCV(Pipeline(steps, memory=str(tmp_path)), grid, cv=2, error_score="raise").fit(*images)
    assert len(search.cv_results_["params"]) == 4
    assert search.best_score_ > 0.8
    assert search.predict(images[0][:2]).tolist() == [0, 1]


def test_a_table_of_paths(images: tuple[list[bytes], np.ndarray], tmp_path: Path) -> None:
    for i, image in enumerate(images[0][:8]):
        (tmp_path / f"{i}.png").write_bytes(image)
    table = pd.DataFrame({"path": [str(tmp_path / f"{i}.png") for i in range(8)], "width": range(8)})
    columns = ColumnTransformer([("embed", ImageEmbedder("toy"), "path")], remainder="passthrough")
    made = make_pipeline(columns, StandardScaler(), RidgeProbe()).fit(table, [0, 1] * 4)
    assert made.predict(table).tolist() == [0, 1] * 4
    single = ImageEmbedder("toy").fit_transform(table[["path"]])
    np.testing.assert_array_equal(single, ImageEmbedder("toy").transform(table["path"]))
    named = ImageEmbedder("toy").set_output(transform="pandas").fit_transform(table["path"])
    assert list(named.columns[:2]) == ["embedding0", "embedding1"]


def test_one_row_an_image_or_an_error(tmp_path: Path) -> None:
    good = encoded(picture(0))
    embedder = ImageEmbedder("toy")
    with pytest.raises(EmptyFileError, match="<bytes>: the file is empty"):
        embedder.transform([good, b""])
    with pytest.raises(FileAccessError, match=r"gone\.jpg: no such file"):
        embedder.transform([tmp_path / "gone.jpg"])
    rows = ImageEmbedder("toy", unreadable="nan").transform([b"", good, "gone.jpg"])
    assert np.isnan(rows).all(axis=1).tolist() == [True, False, True]
    np.testing.assert_array_equal(rows[1], embedder.transform([good])[0])
    with pytest.raises(ValueError, match="NaN"):
        make_pipeline(ImageEmbedder("toy", unreadable="nan"), RidgeProbe()).fit([b"", good], [0, 1])
    assert embedder.transform([]).shape == (0, 48)


def test_a_missing_value_is_an_image_that_cannot_be_read() -> None:
    good = encoded(picture(0))
    lenient = ImageEmbedder("toy", unreadable="nan")
    columns = [
        [good, None], [good, float("nan")], pd.Series([good, pd.NA]), pd.Series([good, pd.NaT], dtype=object),
        pd.DataFrame({"image": [good, None]}), np.array([good, np.nan], dtype=object), pa.array([good, None]),
    ]  # fmt: skip
    for column in columns:
        assert np.isnan(lenient.transform(column)).all(axis=1).tolist() == [False, True]
        with pytest.raises(EmptyFileError, match="row 1: the row holds no image"):
            ImageEmbedder("toy").transform(column)


def test_one_tap_may_be_a_name(images: tuple[list[bytes], np.ndarray]) -> None:
    one = ImageEmbedder("toy", taps="mean.1")
    np.testing.assert_array_equal(
        clone(one).fit_transform(images[0][:2]), ImageEmbedder("toy", taps=("mean.1",)).transform(images[0][:2])
    )


def test_what_is_not_exactly_one_image_each_is_refused(tmp_path: Path) -> None:
    for name in "ab":
        (tmp_path / f"{name}.jpg").write_bytes(encoded(picture(0)))
    embedder = ImageEmbedder("toy")
    with pytest.raises(UsageError, match=r"input 1 .* holds several images"):
        embedder.transform([tmp_path / "a.jpg", tmp_path])
    with pytest.raises(UsageError, match="X is one input"):
        embedder.transform(str(tmp_path / "a.jpg"))
    with pytest.raises(UsageError, match="X has 2 columns"):
        embedder.transform(np.array([["a.jpg", "b.jpg"]]))
    for call in ("fit", "transform"):
        with pytest.raises(UsageError, match="unreadable is 'drop'"):
            getattr(ImageEmbedder("toy", unreadable="drop"), call)([])
    for one in (Image.fromarray(picture(0)), np.array("a.jpg"), 5, None, {"bytes": encoded(picture(0))}):
        with pytest.raises(UsageError, match="X is one input"):
            embedder.transform(one)
    with pytest.raises(UsageError, match="input 1: cannot read an image from int"):
        ImageEmbedder("toy", unreadable="nan").transform([encoded(picture(0)), 5])
    with pytest.raises(UsageError, match="lose zeros at their end"):
        embedder.transform(np.array([encoded(picture(0))]))
    with pytest.raises(UnknownNameError, match="no view"):
        ImageEmbedder("toy", view="nativ").fit([])


def test_an_embedder_travels_without_its_encoder() -> None:
    image = encoded(picture(3))
    embedder = ImageEmbedder("toy").fit([image])
    vectors = embedder.transform([image])
    again = pickle.loads(pickle.dumps(embedder))
    assert not any(hasattr(value, "embed") for value in vars(again).values())
    np.testing.assert_array_equal(again.transform([image]), vectors)
    assert embedder.set_params(taps=("proj", "mean.1")).transform([image]).shape == (1, 96)


def test_clones_share_the_open_encoder(images: tuple[list[bytes], np.ndarray]) -> None:
    _encoder.cache_clear()
    cross_val_score(make_pipeline(ImageEmbedder("toy"), RidgeProbe()), images[0][:8], images[1][:8], cv=2)
    assert _encoder.cache_info().misses == 1


def test_metadata_are_routed_as_they_are_asked_for() -> None:
    rng = np.random.default_rng(0)
    X, y, places = rng.normal(size=(60, 5)), np.arange(60) % 2, np.arange(60) % 6
    X[:, 0] += 2 * y
    with sklearn.config_context(enable_metadata_routing=True):
        for classifier in CLASSIFIERS:
            assert np.isfinite(cross_val_score(make_pipeline(StandardScaler(), classifier), X, y, cv=3)).all()
        told = make_pipeline(RidgeProbe(between=50.0).set_fit_request(groups=True))
        fitted = told.fit(X, y, groups=places)[-1]
        np.testing.assert_array_equal(fitted.coef_, RidgeProbe(between=50.0).fit(X, y, groups=places).coef_)
        assert not np.array_equal(fitted.coef_, RidgeProbe(between=50.0).fit(X, y).coef_)
        assert clone(told[-1]).get_metadata_routing().fit.requests["groups"] is True
        scores = cross_val_score(told, X, y, cv=GroupKFold(3), params={"groups": places}, error_score="raise")
        assert scores.mean() > 0.7
    with pytest.raises(TypeError, match=r"NearestNeighbor\.fit takes nothing; not 'sample_weight'"):
        NearestNeighbor().set_fit_request(sample_weight=True)


def test_scikit_learn_calibrates_them(images: tuple[list[bytes], np.ndarray]) -> None:
    model = make_pipeline(ImageEmbedder("toy"), NearestNeighbor())
    chances = CalibratedClassifierCV(model, cv=3).fit(*images).predict_proba(images[0])
    assert ((chances[:, 1] > 0.5) == images[1]).mean() > 0.8


def test_scikit_learn_is_imported_by_nobody_else() -> None:
    code = "import sys, univfd.integrations, univfd.classifiers.ridge, univfd.detector; print('sklearn' in sys.modules)"
    assert run(code).strip() == "False"


def test_single_precision_is_checked_like_any_other() -> None:
    """Arrays of float32 take a shorter way, which must not pass over what scikit-learn says."""
    X = np.array([[0, 1], [1, 0], [0.1, 1], [0.9, 0]], np.float32)
    named = RidgeProbe().fit(pd.DataFrame(X, columns=["a", "b"]), [0, 1, 0, 1])
    with pytest.warns(UserWarning, match="valid feature names"):
        named.predict(X)
    model = RidgeProbe().fit(X, [0, 1, 0, 1])
    with pytest.raises(ValueError, match="3 features, but RidgeProbe is expecting 2"):
        model.predict(np.zeros((2, 3), np.float32))
