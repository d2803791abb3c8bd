"""Asks a server and QdrantClient(":memory:") the same, with the same client, and compares every answer.

    qdrant.py URL CORPUS

CORPUS is JSON: {"collections": {name: {"size", "distance", "points": [{"id", "vector", "payload"}]}}}.
"""

import json
import random
import sys
from datetime import datetime, timezone

from qdrant_client import QdrantClient, models as m
from qdrant_client.http.exceptions import UnexpectedResponse

url, corpus = sys.argv[1], json.load(open(sys.argv[2]))["collections"]
server = QdrantClient(url=url, timeout=60, check_compatibility=True)
local = QdrantClient(":memory:")
compared = 0


def same(what, ours, theirs):
    """Equal, numbers within what f32 arithmetic in another order may differ by."""
    global compared
    compared += 1
    if isinstance(theirs, float) or isinstance(ours, float):
        assert abs(ours - theirs) <= 1e-4 * max(1.0, abs(theirs)), (what, ours, theirs)
    elif isinstance(theirs, list):
        assert len(ours) == len(theirs), (what, ours, theirs)
        for place, (a, b) in enumerate(zip(ours, theirs)):
            same(f"{what}[{place}]", a, b)
    elif isinstance(theirs, dict):
        assert ours.keys() == theirs.keys(), (what, ours, theirs)
        for key in theirs:
            same(f"{what}.{key}", ours[key], theirs[key])
    else:
        assert ours == theirs, (what, ours, theirs)


def plain(point):
    return {key: getattr(point, key, None) for key in ("id", "score", "payload", "vector")}


def points(what, ours, theirs):
    same(what, [plain(point) for point in ours], [plain(point) for point in theirs])


field, match = m.FieldCondition, m.MatchValue
WORDS = ["anvil", "forge", "hammer", "Tongs and fire", "l'enclume d'or", "鉄", "nowhere"]


def leaf(draw, ids):
    word, number = draw.choice(WORDS), draw.randint(-6, 26)
    when = datetime.fromtimestamp(1_700_000_000 + draw.randint(0, 80_000_000_000), tz=timezone.utc)
    key = draw.choice(["page_content", "metadata.source", "metadata.page", "score", "flag", "time", "tags", "missing"])
    return draw.choice([
        lambda: field(key="page_content", match=match(value=word)),
        lambda: field(key="metadata.source", match=match(value=f"doc-{draw.randint(0, 13)}")),
        lambda: field(key="metadata.page", match=match(value=number)),
        lambda: field(key="flag", match=match(value=draw.random() < 0.5)),
        lambda: field(key=draw.choice(["tags", "tags[]"]), match=match(value=word)),
        lambda: field(key=key, match=match(value=draw.choice([word, number, True]))),
        lambda: field(key="metadata.page", match=m.MatchAny(any=[number, number + 1, number + 5])),
        lambda: field(key=key, match=m.MatchAny(any=draw.sample(WORDS, 3))),
        lambda: field(key=key, match=m.MatchExcept(**{"except": draw.sample(WORDS, 2)})),
        lambda: field(key="metadata.page", match=m.MatchExcept(**{"except": [number, 3, 4]})),
        lambda: field(key="page_content", match=m.MatchText(text=draw.choice(["fire tongs", "FORGE", "d'or", "", "x"]))),
        lambda: field(key="page_content", match=m.MatchPhrase(phrase=draw.choice(["and fire", "fire and", "enclume d"]))),
        lambda: field(key="page_content", match=m.MatchTextAny(text_any="tongs hammer")),
        lambda: field(key="page_content", match=m.MatchPrefix(prefix="l'")),
        lambda: field(key="tags", match=m.MatchSubstring(substring="org")),
        lambda: field(key=draw.choice(["metadata.page", "score", "flag", "tags", "missing"]),
                      range=m.Range(gte=number, lt=number + 7.5)),
        lambda: field(key=draw.choice(["score", "metadata.page"]), range=m.Range(gt=number)),
        lambda: field(key="time", range=m.DatetimeRange(gte=when)),
        lambda: field(key=key, range=m.DatetimeRange(lt=when)),
        lambda: field(key=draw.choice(["tags", "page_content", "missing"]), values_count=m.ValuesCount(gte=1, lt=3)),
        lambda: field(key=key, is_empty=draw.random() < 0.5),
        lambda: field(key=key, is_null=draw.random() < 0.5),
        lambda: m.IsEmptyCondition(is_empty=m.PayloadField(key=key)),
        lambda: m.IsNullCondition(is_null=m.PayloadField(key=key)),
        lambda: m.IsEmptyCondition(is_empty=m.PayloadField(key="metadata")),
        lambda: m.HasIdCondition(has_id=draw.sample(ids, min(20, len(ids)))),
    ])()


def some_filter(draw, ids, depth=0):
    def conditions():
        nested = lambda: some_filter(draw, ids, depth + 1) if depth < 3 and draw.random() < 0.3 else leaf(draw, ids)
        found = [nested() for _ in range(draw.randint(1, 3))]
        return found[0] if len(found) == 1 and draw.random() < 0.5 else found

    clauses = {name: conditions() for name in ("must", "should", "must_not") if draw.random() < 0.5}
    if draw.random() < 0.15:
        least = m.MinShould(conditions=[leaf(draw, ids) for _ in range(3)], min_count=draw.randint(1, 3))
        clauses["min_should"] = least
    return m.Filter(**clauses)


def refused(status, ask):
    try:
        ask()
    except UnexpectedResponse as error:
        assert error.status_code == status, (status, error)
        return
    raise AssertionError(f"expected {status}")


def compare(name, size, distance, rows, draw):
    local.create_collection(name, vectors_config=m.VectorParams(size=size, distance=m.Distance[distance.upper()]))
    local.upsert(name, [m.PointStruct(**row) for row in rows])
    ids = [row["id"] for row in rows]
    both = lambda ask: (ask(server), ask(local))

    ours, theirs = both(lambda client: client.get_collection(name))
    same("vectors", ours.config.params.vectors.model_dump(include={"size", "distance"}),
         theirs.config.params.vectors.model_dump(include={"size", "distance"}))
    same("points_count", ours.points_count, theirs.points_count)
    same("exists", *both(lambda client: [client.collection_exists(name), client.collection_exists("nope")]))

    # Exact search: both compare with every row. Equal distances would come in any order: there are none.
    payloads = [True, False, ["metadata"], ["metadata.page", "tags"],
                m.PayloadSelectorExclude(exclude=["metadata.source", "flag"]), m.PayloadSelectorInclude(include=["score"])]
    for turn in range(60):
        vector = [draw.gauss(0, 1) for _ in range(size)]
        query = draw.choice([vector, vector, draw.choice(ids)])
        request = dict(
            query=query, limit=draw.randint(1, 30), offset=draw.choice([None, 0, 3]),
            query_filter=some_filter(draw, ids) if turn % 4 else None,
            search_params=m.SearchParams(exact=True),
            with_payload=draw.choice(payloads), with_vectors=draw.random() < 0.3,
        )
        if draw.random() < 0.3:
            nearest = local.query_points(name, query=query, limit=20).points
            # Between two scores: rounding cannot move one across.
            request["score_threshold"] = (nearest[4].score + nearest[5].score) / 2
        ours, theirs = both(lambda client: client.query_points(name, **request).points)
        points(f"{name} query {request}", ours, theirs)

    for _ in range(8):
        vector = [draw.gauss(0, 1) for _ in range(size)]
        mmr = m.Mmr(diversity=draw.choice([None, 0.0, 0.3, 0.8]), candidates_limit=draw.choice([None, 15]))
        request = dict(query=m.NearestQuery(nearest=vector, mmr=mmr), limit=5, offset=draw.choice([None, 2]),
                       query_filter=some_filter(draw, ids), search_params=m.SearchParams(exact=True))
        points(f"{name} mmr {request}", *both(lambda client: client.query_points(name, **request).points))
    request = dict(limit=9, query_filter=some_filter(draw, ids), with_payload=True)
    points(f"{name} by id", *both(lambda client: client.query_points(name, **request).points))

    # The index's own search, on few rows of many filters: exact as well, so that the scores agree.
    requests = [m.QueryRequest(query=[draw.gauss(0, 1) for _ in range(size)], limit=5, filter=some_filter(draw, ids),
                               with_payload=True) for _ in range(20)]
    for ours, theirs in zip(*both(lambda client: client.query_batch_points(name, requests))):
        points(f"{name} batch", ours.points, theirs.points)

    for _ in range(20):
        chosen = some_filter(draw, ids)
        same(f"{name} count {chosen}", *[r.count for r in both(lambda c: c.count(name, count_filter=chosen))])
        ours, theirs = both(lambda client: client.scroll(name, scroll_filter=chosen, limit=7, with_vectors=True))
        points(f"{name} scroll {chosen}", ours[0], theirs[0])
        same("next page", ours[1], theirs[1])

    def pages(client):
        offset, found = None, []
        while True:
            page, offset = client.scroll(name, limit=97, offset=offset, with_payload=False)
            found += [point.id for point in page]
            if offset is None:
                return found
    same(f"{name} pages", *both(pages))

    chosen = draw.sample(ids, 10)
    ours, theirs = both(lambda client: client.retrieve(name, chosen, with_payload=True, with_vectors=True))
    points(f"{name} retrieve", ours, theirs)

    for _ in range(15):
        request = dict(
            query=[draw.gauss(0, 1) for _ in range(size)], limit=draw.randint(1, 6), group_size=draw.randint(1, 4),
            group_by=draw.choice(["metadata.source", "metadata.page", "page_content", "tags", "missing"]),
            query_filter=draw.choice([None, some_filter(draw, ids)]), search_params=m.SearchParams(exact=True), with_payload=True,
        )
        ours, theirs = both(lambda client: client.query_points_groups(name, **request).groups)
        # A list's values share their nearest points: groups that begin with the same point may change places.
        if request["group_by"] == "tags":
            ours.sort(key=lambda group: (-round(group.hits[0].score, 4), group.id))
            theirs.sort(key=lambda group: (-round(group.hits[0].score, 4), group.id))
            if len(ours) == request["limit"]:
                continue
        same(f"{name} groups {request}", [group.id for group in ours], [group.id for group in theirs])
        for mine, other in zip(ours, theirs):
            points(f"{name} group {mine.id} of {request}", mine.hits, other.hits)

    for key in ("metadata.source", "metadata.page", "tags", "flag"):
        chosen = draw.choice([None, some_filter(draw, ids)])
        ours, theirs = both(lambda client: client.facet(name, key, facet_filter=chosen, limit=20).hits)
        same(f"{name} facet {key}", [[hit.value, hit.count] for hit in ours], [[hit.value, hit.count] for hit in theirs])

    refused(403, lambda: server.upsert(name, [m.PointStruct(**rows[0])]))
    refused(403, lambda: server.delete(name, [ids[0]]))
    refused(403, lambda: server.set_payload(name, {"a": 1}, [ids[0]]))
    refused(403, lambda: server.create_payload_index(name, "flag", m.PayloadSchemaType.BOOL))
    refused(403, lambda: server.delete_collection(name))
    refused(403, lambda: server.create_collection("new", vectors_config=m.VectorParams(size=2, distance=m.Distance.DOT)))
    refused(404, lambda: server.count("nope"))
    refused(400, lambda: server.query_points(name, query=m.FusionQuery(fusion=m.Fusion.RRF),
                                             prefetch=[m.Prefetch(query=[0.0] * size)]))
    refused(422, lambda: server.query_points(name, query=[0.5] * (size + 1)))


same("collections", sorted(one.name for one in server.get_collections().collections), sorted(corpus))
for number, (name, one) in enumerate(sorted(corpus.items())):
    compare(name, one["size"], one["distance"], one["points"], random.Random(number))
print(f"{compared} values compared")
