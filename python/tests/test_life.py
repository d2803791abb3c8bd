"""Opening, building and following indexes from Python."""

import base64
import pathlib
import subprocess
import sys
import threading

import annvil
import numpy as np
import pyarrow as pa
import pytest

from conftest import GLOVE, job, write_rows


@pytest.fixture
def small(tmp_path):
    """A folder with 200 rows to build from."""
    rows = np.random.default_rng(3).normal(size=(200, 6))
    write_rows(tmp_path / "rows.parquet", rows, pa.array(range(200), pa.int64()))
    return tmp_path


def test_a_build_tells_what_it_does_and_what_it_made(small):
    events = []
    thread = threading.current_thread()

    def progress(event):
        assert threading.current_thread() is thread
        events.append(event)

    summary = annvil.build(job(small, "flat", id="id"), progress=progress)
    assert summary["rows"]["kept"] == 180 and summary["indexes"][0]["outcome"] == "published"
    names = [event["event"] for event in events]
    assert {"stage_started", "stage_finished"} <= set(names)
    index = annvil.open(str(small / "out" / "flat"))
    assert index.manifest["row_counts"]["kept"] == 180
    assert index.version == 1 and index.name == "flat" and "180 × 6, l2" in repr(index)


def test_a_callback_that_raises_ends_the_build(small):
    def progress(event):
        raise KeyError(event["event"])

    with pytest.raises(KeyError):
        annvil.build(job(small, "hnsw", id="id"), progress=progress)


def test_a_job_is_checked_before_anything_is_read(small):
    spec = annvil.check(GLOVE.parents[1] / "pipelines" / "quickstart.toml")
    assert spec["index"][0]["m"] == 16
    assert annvil.check(job(small, "flat", where=None))["index"][0]["kind"] == "flat"
    bad = job(small, "flat")
    bad["index"][0]["metrik"] = "l2"
    with pytest.raises(annvil.InvalidInput, match="metrik.*unknown key"):
        annvil.check(bad)
    with pytest.raises(annvil.InvalidInput, match="backend is `tpu`"):
        annvil.build(job(small, "flat"), backend="tpu")
    with pytest.raises(ValueError, match="missing.toml"):
        annvil.check("missing.toml")


def test_an_index_below_its_gate_is_an_error(small):
    spec = job(small, "hnsw", id="id")
    spec["index"][0] |= {"gate": {"k": 10, "min_recall": 1.0}, "m": 2, "ef_construction": 8, "code": "q1"}
    rows = np.random.default_rng(4).normal(size=(6000, 64))
    write_rows(small / "rows.parquet", rows, pa.array(range(6000), pa.int64()))
    spec["queries"]["sample"] = 100
    with pytest.raises(annvil.BelowGate, match="below its gate"):
        annvil.build(spec)
    assert not (small / "out" / "hnsw" / "v").exists()


def test_damage_is_found_before_an_answer(small):
    annvil.build(job(small, "flat", id="id"))
    folder = small / "out" / "flat"
    victim = next(folder.glob("seg/*/vectors.safetensors"), None) or max(
        folder.glob("seg/*/*"), key=lambda path: path.stat().st_size
    )
    damaged = bytearray(victim.read_bytes())
    damaged[-5] ^= 4
    victim.write_bytes(damaged)
    for residence in ("resident", "mapped"):
        with pytest.raises(annvil.BadArtifact, match=victim.name):
            annvil.open(str(folder), residence=residence)
    index = annvil.open(str(folder), residence="mapped", check="background")
    assert any(victim.name in damage for damage in index.wait_for_check())
    with pytest.raises(annvil.BadArtifact, match="damaged"):
        index.search(np.ones(6, np.float32))


def test_every_residence_finds_the_same(small):
    annvil.build(job(small, "ivf_pq", id="id"))
    uri = str(small / "out" / "ivf_pq")
    queries = np.random.default_rng(5).normal(size=(20, 6)).astype(np.float32)
    expected = annvil.open(uri).search(queries)
    for options in (
        {"residence": "mapped"},
        {"residence": "lazy"},
        {"residence": "lazy", "cache": 1 << 20, "cache_dir": str(small / "blocks"), "cache_dir_bytes": 1 << 20},
    ):
        index = annvil.open(uri, **options)
        found = index.search(queries)
        np.testing.assert_array_equal(found.ids, expected.ids)
        np.testing.assert_array_equal(found.distances, expected.distances)
        assert index.vector(int(found.ids[0, 0])).shape == (6,)
    with pytest.raises(TypeError, match="`memory`: unexpected keyword"):
        annvil.open(uri, memory=1)


def test_what_cannot_be_opened_says_why(small):
    with pytest.raises(annvil.InvalidInput):
        annvil.open(str(small / "nothing"))
    with pytest.raises(annvil.InvalidInput, match="residence is `ram`"):
        annvil.open(str(small), residence="ram")
    annvil.build(job(small, "flat", id="id"))
    with pytest.raises(annvil.InvalidInput, match="more than the limit of 100"):
        annvil.open(str(small / "out" / "flat"), memory_limit=100)


def test_a_watched_index_moves_to_the_new_version(small):
    spec = job(small, "flat", id="id")
    annvil.build(spec)
    with annvil.watch(str(small / "out" / "flat"), every=None) as watched:
        before = watched.index
        assert before.version == 1 and not watched.refresh() and watched.refused is None
        annvil.build(spec, seed=7)
        assert watched.refresh() and watched.index.version == 2
        assert before.version == 1 and len(before.search(np.ones(6, np.float32)).ids) == 10
        annvil.build(spec, seed=8)
        manifest = small / "out" / "flat" / "v" / f"{3:020}.json"
        manifest.write_bytes(manifest.read_bytes().replace(b'"l2"', b'"L2"'))
        assert not watched.refresh() and watched.index.version == 2
        assert watched.refused is not None and watched.refused[0] == 3


def test_a_read_is_as_new_as_it_asks_to_be(small):
    spec = job(small, "flat", id="id")
    annvil.build(spec)
    query = np.ones(6, np.float32)
    with annvil.watch(str(small / "out" / "flat"), every=None) as watched:
        annvil.build(spec, seed=7)
        assert watched.read("local").version == 1 and watched.read("eventual", max_age=3600).version == 1
        assert len(watched.search(query, 3).ids) == 3 and watched.index.version == 1
        assert len(watched.search(query, 3, consistency="strong", exact=True).ids) == 3 and watched.index.version == 2
        annvil.build(spec, seed=8)
        assert watched.read("eventual", max_age=0).version == 3
        for wrong in (lambda: watched.read("sometimes"), lambda: watched.read("eventual", max_age=-1)):
            with pytest.raises(annvil.InvalidInput):
                wrong()


def test_the_tour_runs(tmp_path):
    tour = pathlib.Path(__file__).parents[1] / "tour.py"
    shown = subprocess.run([sys.executable, tour, tmp_path], capture_output=True, text=True, check=True).stdout
    assert "recall@10" in shown


def test_the_stubs_say_what_the_module_has():
    stubtest = [sys.executable, "-m", "mypy.stubtest", "annvil"]
    result = subprocess.run(stubtest, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr


def test_types_are_in_the_package():
    folder = pathlib.Path(annvil.__file__).parent
    assert (folder / "py.typed").is_file() and (folder / "_annvil.pyi").is_file()


def test_an_encrypted_index_takes_its_key(tmp_path, monkeypatch):
    rng = np.random.default_rng(5)
    write_rows(tmp_path / "rows.parquet", rng.normal(size=(300, 8)), id=[f"patient {row}" for row in range(300)])
    monkeypatch.delenv("ANNVIL_KEY", raising=False)
    monkeypatch.setenv("KB_KEY", base64.b64encode(bytes(range(32))).decode())
    spec = job(tmp_path, "flat", id="id") | {"encryption": {"key": "env:KB_KEY", "key_id": "kb"}}
    annvil.build(spec, backend="cpu")
    uri = str(tmp_path / "out" / "flat")
    with pytest.raises(annvil.InvalidInput, match="`kb`"):
        annvil.open(uri)
    with pytest.raises(annvil.InvalidInput, match="command:") as refused:
        annvil.open(uri, key="hunter2")
    assert "hunter2" not in str(refused.value)
    monkeypatch.setenv("OTHER_KEY", "00" * 32)
    with pytest.raises(annvil.InvalidInput, match="wrong key"):
        annvil.open(uri, key="env:OTHER_KEY")
    for residence in ["resident", "lazy", "mapped"]:
        index = annvil.open(uri, key="env:KB_KEY", residence=residence)
        assert len(index.search(rng.normal(size=8), k=3).ids) == 3
    assert all(b"patient" not in path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file())
