"""The first pass over vectors as bytes: the rows that it leaves out are not among the nearest."""

import builtins

import numpy as np
import pytest
from index_photos import unit

from patchword.index import exact, quantized
from patchword.index.matrix import Matrix
from patchword.index.quantized import Codes, encode, likely_rows


def rows_of(kind: str, draw: np.random.Generator, count: int, dim: int) -> np.ndarray:
    """Unit vectors float32: without order; in clusters; with a number that is large in all, as
    CLIP's have; nearly equal; or of all sizes."""
    rows = draw.standard_normal((count, dim))
    if kind == "clusters":
        rows = 0.3 * rows + draw.standard_normal((7, dim))[draw.integers(7, size=count)]
    elif kind == "rogue":
        rows[:, dim // 2] += 20
    elif kind == "equal":
        rows = 1e-4 * rows + rows[0]
    elif kind == "sizes":
        rows *= 10.0 ** draw.uniform(-6, 0, (count, dim))
    return unit(rows).astype(np.float32)


def coded(vectors: np.ndarray) -> tuple[Codes, np.ndarray, float]:
    half = vectors.astype(np.float16)
    mean = half.astype(np.float32).mean(axis=0)
    error = float(np.linalg.norm(vectors - half.astype(np.float32), axis=1).max())
    return Codes(*encode(half, mean), mean), half, error


KINDS = ["any", "clusters", "rogue", "equal", "sizes"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dim", [1, 7, 512, 1152])
def test_scores_are_within_their_error_bounds(kind: str, dim: int) -> None:
    draw = np.random.default_rng(dim)
    vectors = rows_of(kind, draw, 500, dim)
    codes, half, error = coded(vectors)
    decoded_rows = codes.numbers * codes.scales[:, None].astype(np.float64) + codes.mean
    residual_lengths = np.linalg.norm(half.astype(np.float64) - decoded_rows, axis=1)
    assert (residual_lengths <= codes.residuals + 5e-7).all()
    assert (codes.residuals < residual_lengths * (1 + dim * 2.0**-22) + 1e-6).all()
    query = unit(draw.standard_normal(dim))
    query_rows, scales, query_residual = quantized._encode_query(query)
    decoded = (query_rows * scales[:, None].astype(np.float64)).sum(axis=0)
    assert np.linalg.norm(query - decoded) == pytest.approx(query_residual, abs=1e-12)
    scores = quantized._scores(codes, query_rows, scales)[0].astype(np.float64)
    exact_scores = (vectors.astype(np.float64) - codes.mean) @ query
    bounds = codes.residuals + 3 * query_residual + error + quantized.ROUNDING
    assert (np.abs(scores - exact_scores) <= bounds).all()


@pytest.mark.parametrize("kind", KINDS)
def test_likely_rows_include_the_nearest(kind: str) -> None:
    draw = np.random.default_rng(3)
    vectors = rows_of(kind, draw, 20000, 64)
    codes, half, error = coded(vectors)
    ids = np.arange(len(vectors), dtype=np.uint64)
    with_codes = Matrix(ids, lambda rows: half if rows is None else half[rows], error, None, codes)
    some = np.flatnonzero(draw.random(len(vectors)) < 0.5)
    few = np.flatnonzero(draw.random(len(vectors)) < 0.01)
    for query in unit(draw.standard_normal((2, 64))), vectors[:2].astype(np.float64):
        for unit_query in unit(query):
            scores = vectors.astype(np.float64) @ unit_query
            for choice in (None, some, few):
                allowed = ids.astype(np.intp) if choice is None else choice
                for k in (1, 10, 150):
                    best = allowed[np.argsort(-scores[allowed], kind="stable")[:k]]
                    assert set(best) <= set(exact.candidates(with_codes, unit_query, k, choice))
                    assert set(best) <= set(likely_rows(codes, unit_query, k, error, choice))
    if kind != "equal":  # which are nearer to each other than float16 tells
        assert len(likely_rows(codes, unit_query, 10, error)) < len(vectors) / 50


def test_more_neighbours_than_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    vectors = rows_of("any", np.random.default_rng(0), 300, 32)
    codes, half, error = coded(vectors)
    matrix = Matrix(
        np.arange(300, dtype=np.uint64),
        lambda rows: half if rows is None else half[rows],
        error,
        None,
        codes,
    )
    query = unit(np.ones(32))
    for k in (299, 300, 301):
        assert len(exact.candidates(matrix, query, k)) >= min(k, 300)
    monkeypatch.setattr(quantized, "_library", lambda: None)
    best = set(np.argsort(-(vectors @ query))[:5])
    assert best <= set(exact.candidates(matrix, query, 5))


def test_without_numkong_codes_are_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str, *args: object) -> object:
        if name == "numkong":
            raise ImportError(name)
        return original_import(name, *args)

    original_import = builtins.__import__
    monkeypatch.setattr(builtins, "__import__", absent)
    quantized._library.cache_clear()
    assert not quantized.is_available()
    monkeypatch.undo()
    quantized._library.cache_clear()
    assert quantized.is_available()


def test_zero_vectors_have_codes() -> None:
    numbers, scale, left = encode(np.zeros((3, 8), np.float16), np.zeros(8, np.float32))
    assert not numbers.any()
    assert np.isfinite(scale).all()
    assert not left.any()
