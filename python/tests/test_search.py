"""What a search gives Python is what the rows say."""

import threading
import uuid

import annvil
import numpy as np
import pyarrow as pa
import pytest

from conftest import job, write_rows


def unit(rows):
    rows = np.asarray(rows, dtype=np.float64)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


@pytest.fixture(scope="module")
def queries(glove_rows):
    return np.stack(glove_rows["embedding"].to_numpy()[::50]).astype(np.float32)


@pytest.mark.parametrize("kind", ["glove10k-hnsw", "glove10k-ivf"])
def test_an_exact_search_finds_what_numpy_finds(glove, glove_rows, queries, kind):
    base = unit(np.stack(glove_rows["embedding"].to_numpy()))
    similarities = unit(queries) @ base.T
    expected = -np.sort(-similarities, axis=1)[:, :10]
    found = glove[kind].search(queries, 10, exact=True)
    kept_as = 1e-3 if kind == "glove10k-ivf" else 1e-5  # f16 beside IVF's codes, f32 beside the graph
    np.testing.assert_allclose(found.similarities, expected, atol=kept_as)
    ids = glove_rows["id"].to_numpy()
    place = {row_id: row for row, row_id in enumerate(ids)}
    told = [[similarities[query, place[row_id]] for row_id in row] for query, row in enumerate(found.ids)]
    np.testing.assert_allclose(found.similarities, told, atol=kept_as)


@pytest.mark.parametrize("kind", ["glove10k-hnsw", "glove10k-ivf"])
def test_a_search_at_a_certified_recall_reaches_it(glove, queries, kind):
    exact = glove[kind].search(queries, 10, exact=True).ids
    found = glove[kind].search(queries, 10, recall=0.95).ids
    recall = np.mean([len(set(a) & set(b)) / 10 for a, b in zip(exact, found, strict=True)])
    # The certificate was measured on other queries; 200 of them leave a spread of .01.
    assert recall >= 0.93


def test_whatever_numpy_understands_is_a_query(glove, queries):
    index = glove["glove10k-hnsw"]
    queries = queries.astype(np.float16).astype(np.float32)
    expected = index.search(queries).ids
    assert expected.dtype == np.int64 and expected.shape == (len(queries), 10)
    for same in (
        queries.astype(np.float64),
        queries.astype(np.float16),
        np.asfortranarray(queries),
        np.repeat(queries, 2, axis=0)[::2],
        queries.tolist(),
        queries.astype(">f4"),
    ):
        np.testing.assert_array_equal(index.search(same).ids, expected)
    for query, ids in zip(queries[:5], expected, strict=False):
        found = index.search(query)
        assert found.ids.shape == found.distances.shape == (10,)
        np.testing.assert_array_equal(found.ids, ids)
    unaligned = np.frombuffer(b"\0" + queries.tobytes(), dtype=np.uint8)[1:].view(np.float32).reshape(queries.shape)
    np.testing.assert_array_equal(index.search(unaligned).ids, expected)


def test_options_mean_what_they_say(glove, queries):
    index = glove["glove10k-hnsw"]
    query = queries[0]
    all_found = index.search(query, 20, exact=True)
    np.testing.assert_array_equal(index.search(query, 10, offset=10, exact=True).ids, all_found.ids[10:])
    without = index.search(query, 10, exclude=all_found.ids[:3], exact=True).ids
    np.testing.assert_array_equal(without, all_found.ids[3:13])
    near = index.search(query, 20, min_similarity=float(all_found.similarities[4]), exact=True)
    assert near.counts.tolist() == [5]
    filtered = index.search(query, 5, filter="rank < 1000", attributes=["rank", "word"], exact=True)
    ranks = pa.record_batch(filtered)["rank"].to_numpy()
    assert len(ranks) == 5 and (ranks < 1000).all()
    np.testing.assert_array_equal(index.search(query, 5, attributes=True).ids, index.search(query, 5).ids)


def test_answers_are_an_arrow_record_batch(glove, glove_rows, queries):
    found = glove["glove10k-ivf"].search(queries[:3], 4, attributes=["word"])
    batch = pa.record_batch(found)
    assert batch.schema == pa.schema(found)
    assert batch.column_names == ["_query", "_rank", "row_id", "_similarity", "_distance", "word"]
    assert batch["_query"].to_pylist() == [0] * 4 + [1] * 4 + [2] * 4
    np.testing.assert_array_equal(batch["row_id"].to_numpy().reshape(3, 4), found.ids)
    words = dict(zip(glove_rows["id"].to_pylist(), glove_rows["word"].to_pylist(), strict=True))
    assert batch["word"].to_pylist() == [words[row_id] for row_id in found.ids.ravel()]


def test_queries_that_find_less_are_filled_up(glove, queries):
    index = glove["glove10k-hnsw"]
    distances = index.search(queries[:2], 5, exact=True).distances
    found = index.search(queries[:2], 5, exact=True, max_distance=float(np.median(distances)))
    counts = found.counts
    assert counts.min() < counts.max() == found.ids.shape[1]
    for row, count in enumerate(counts):
        assert (found.ordinals[row, count:] == -1).all() and np.isinf(found.distances[row, count:]).all()
        assert (found.ids[row, count:] == np.iinfo(np.int64).min).all()
        assert (found.ordinals[row, :count] >= 0).all()
    none = index.search(queries, 5, filter="rank < 0")
    assert none.counts.tolist() == [0] * len(queries) and none.ids.shape == (len(queries), 0)


@pytest.mark.parametrize(
    "ids",
    [
        pa.array([2**63 + i for i in range(60)], pa.uint64()),
        pa.array([-i for i in range(60)], pa.int64()),
        pa.array([f"doc:{i}" for i in range(60)]),
        pa.array([uuid.UUID(int=i).bytes for i in range(60)], pa.binary(16)),
    ],
    ids=["uint64", "int64", "text", "uuid"],
)
def test_every_kind_of_id_goes_in_and_comes_out(tmp_path, ids):
    rows = np.random.default_rng(1).normal(size=(60, 4)).astype(np.float32)
    write_rows(tmp_path / "rows.parquet", rows, ids)
    annvil.build(job(tmp_path, "flat", id="id"))
    index = annvil.open(str(tmp_path / "out" / "flat"))
    assert len(index) == 40 and index.kind == "flat" and index.metric == "l2" and index.dim == 4
    names = [uuid.UUID(bytes=row_id) if isinstance(row_id, bytes) else row_id for row_id in ids.to_pylist()]
    kept = [row for row in range(60) if index.find(names[row]) is not None]
    assert len(kept) == 40
    for row in kept:
        np.testing.assert_array_equal(index.vector(names[row]), rows[row])
        nearest = index.search(rows[row], 2).ids
        assert nearest[0] == names[row]
        assert index.search(rows[row], 1, exclude=[names[row]]).ids[0] == nearest[1]
    assert index.search(rows[kept[0]], 1).similarities is None


def test_shards_are_one_index(tmp_path):
    rows = np.random.default_rng(2).normal(size=(400, 8)).astype(np.float32)
    halves = []
    for half in range(2):
        folder = tmp_path / str(half)
        folder.mkdir()
        ids = pa.array(range(half * 200, half * 200 + 200), pa.int64())
        write_rows(folder / "rows.parquet", rows[half * 200 : half * 200 + 200], ids)
        annvil.build(job(folder, "hnsw", id="id"))
        halves.append(annvil.open(str(folder / "out" / "hnsw")))
    shards = annvil.Shards(halves)
    assert (len(shards), shards.dim) == (360, 8)
    found = shards.search(rows, 10, exact=True)
    each = [half.search(rows, 10, exact=True) for half in halves]
    both = np.sort(np.concatenate([half.distances for half in each], axis=1), axis=1)[:, :10]
    np.testing.assert_array_equal(found.distances, both)
    np.testing.assert_array_equal(found.shards, found.ids // 200)
    np.testing.assert_array_equal(pa.record_batch(found)["row_id"].to_numpy().reshape(400, 10), found.ids)
    with pytest.raises(annvil.InvalidInput, match="1 index or more"):
        annvil.Shards([])


def test_threads_share_an_index(glove, queries):
    index = glove["glove10k-hnsw"]
    expected = index.search(queries).ids
    found = {}

    def search(thread):
        found[thread] = [index.search(queries).ids for _ in range(5)]

    threads = [threading.Thread(target=search, args=(thread,)) for thread in range(4)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    assert len(found) == 4
    for ids in (ids for of_thread in found.values() for ids in of_thread):
        np.testing.assert_array_equal(ids, expected)


@pytest.mark.parametrize(
    ("options", "error", "says"),
    [
        ({"k": 0}, annvil.InvalidInput, "k is 0, expected 1 or more"),
        ({"k": -1}, OverflowError, "negative"),
        ({"effort": 0}, annvil.InvalidInput, "effort is 0"),
        ({"effort": 5, "recall": 0.9}, annvil.InvalidInput, "one may be given"),
        ({"recall": 2.0}, annvil.InvalidInput, "above 0 and at most 1"),
        ({"filter": "lang = 'en'"}, annvil.InvalidInput, "lang"),
        ({"filter": "rank <"}, annvil.InvalidInput, "filter"),
        ({"filter": 7}, TypeError, "`filter`"),
        ({"attributes": ["nothing"]}, annvil.InvalidInput, "no attribute is called `nothing`"),
        ({"attributes": "word"}, annvil.InvalidInput, "list of columns"),
        ({"exclude": ["a"]}, annvil.InvalidInput, "`a` is no"),
        ({"timeout": -1.0}, annvil.InvalidInput, "timeout is -1"),
        ({"timeout": 0.0}, annvil.SearchTimeout, "queries were answered"),
        ({"max_distance": float("nan")}, annvil.InvalidInput, "NaN"),
        ({"max_distance": 1.0, "min_similarity": 0.5}, annvil.InvalidInput, "one may be given"),
        ({"ef": 5}, TypeError, "`ef`: unexpected keyword argument"),
    ],
)
def test_what_does_not_fit_is_named(glove, queries, options, error, says):
    with pytest.raises(error, match=says):
        glove["glove10k-hnsw"].search(queries, **options)


@pytest.mark.parametrize(
    ("vectors", "says"),
    [
        (np.zeros((2, 99), np.float32), "99 dimensions, the index 100"),
        (np.zeros((2, 100), np.float32), "query 0 has length 0"),
        (np.full((3, 100), np.nan, np.float32), "query 0: dimension 0 is NaN"),
        (np.zeros((1, 1, 100), np.float32), "1 or 2 axes"),
        (np.float32(1), "1 or 2 axes"),
        (np.zeros((0, 0), np.float32), "1 dimension or more"),
        (["a", "b"], "numbers"),
        (None, "queries"),
    ],
)
def test_queries_that_are_none_are_refused(glove, vectors, says):
    with pytest.raises(annvil.InvalidInput, match=says):
        glove["glove10k-hnsw"].search(vectors)


def test_no_queries_have_no_answers(glove):
    found = glove["glove10k-hnsw"].search(np.zeros((0, 100), np.float32))
    assert len(found) == 0 and found.ids.shape == (0, 0)
