"""LangChain's and LlamaIndex's vector stores, unchanged, against a server and against QdrantClient(":memory:").

    frameworks.py URL CORPUS
"""

import json
import sys

from langchain_core.embeddings import Embeddings
from langchain_qdrant import QdrantVectorStore
from llama_index.core.vector_stores import FilterCondition, FilterOperator, MetadataFilter, MetadataFilters, VectorStoreQuery
from llama_index.vector_stores.qdrant import QdrantVectorStore as LlamaStore
from qdrant_client import QdrantClient, models as m

url, corpus = sys.argv[1], json.load(open(sys.argv[2]))["collections"]
NAME = "uuids"
one = corpus[NAME]
server, local = QdrantClient(url=url, timeout=60), QdrantClient(":memory:")
distance = m.Distance[one["distance"].upper()]
local.create_collection(NAME, vectors_config=m.VectorParams(size=one["size"], distance=distance))
local.upsert(NAME, [m.PointStruct(**row) for row in one["points"]])
vectors = [row["vector"] for row in one["points"]]


class Rows(Embeddings):
    """A text is the number of the row whose vector it has."""

    def embed_query(self, text):
        return vectors[int(text) if text.isdigit() else 0]

    def embed_documents(self, texts):
        return [self.embed_query(text) for text in texts]


def close(ours, theirs):
    assert len(ours) == len(theirs), (ours, theirs)
    for (a, x), (b, y) in zip(ours, theirs):
        assert a == b and abs(x - y) <= 1e-4 * max(1.0, abs(y)), ((a, x), (b, y))


def langchain(client):
    # Looks at the collection's description before anything else.
    store = QdrantVectorStore(client=client, collection_name=NAME, embedding=Rows(), distance=distance)
    condition = m.Filter(must=[m.FieldCondition(key="metadata.source", match=m.MatchValue(value="doc-3"))])
    found = []
    for filter in (None, condition):
        documents = store.similarity_search_with_score("5", k=7, filter=filter)
        found.append([((d.page_content, json.dumps(d.metadata, sort_keys=True)), score) for d, score in documents])
    diverse = store.max_marginal_relevance_search("5", k=4, fetch_k=20)
    found.append([((d.page_content, d.metadata["_id"]), 0.0) for d in diverse])
    documents = store.get_by_ids([one["points"][0]["id"], one["points"][9]["id"]])
    found.append([((d.page_content, d.metadata["_id"]), 0.0) for d in documents])
    return found


def llama_index(client):
    store = LlamaStore(collection_name=NAME, client=client, text_key="page_content")
    assert store._collection_exists(NAME)
    simple = MetadataFilters(filters=[MetadataFilter(key="metadata.source", value="doc-3")])
    nested = MetadataFilters(condition=FilterCondition.OR, filters=[
        MetadataFilters(filters=[
            MetadataFilter(key="metadata.page", value=5, operator=FilterOperator.GTE),
            MetadataFilter(key="metadata.source", value=["doc-1", "doc-2"], operator=FilterOperator.IN),
        ]),
        MetadataFilter(key="flag", value="x", operator=FilterOperator.NE),
    ])
    found = []
    for filters in (None, simple, nested):
        answer = store.query(VectorStoreQuery(query_embedding=vectors[7], similarity_top_k=6, filters=filters))
        found.append(list(zip(answer.ids, answer.similarities)))
    nodes = store.get_nodes(node_ids=[one["points"][2]["id"]])
    found.append([(node.id_, 0.0) for node in nodes])
    return found


for ask in (langchain, llama_index):
    for ours, theirs in zip(ask(server), ask(local)):
        close(ours, theirs)
    print(f"{ask.__name__}: every answer agrees")
