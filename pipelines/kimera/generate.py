#!/usr/bin/env python3
"""Fills kimera's tables in PostgreSQL (PGHOST, PGPORT, PGUSER, PGPASSWORD say where) with data that behave like its own, and writes
queries beside them.

    generate.py --size small|large --data DIR

Vectors are of 1,024 dimensions: 64 topics in a space of 48 dimensions, turned into 1,024, with noise in all of them, so that neighbours
are of a topic and the intrinsic dimension is some dozens, as with embeddings of text. Entropy follows how far a state is from its topic.
Everything follows from the seed.
"""

import argparse
import json
import struct
import uuid
from pathlib import Path

import numpy as np
import psycopg

SIZES = {"small": (3_000, 1_500), "large": (100_000, 50_000)}
DIM, LATENT, TOPICS, QUERIES = 1024, 48, 64, 1000
TAGS = ["orbital", "thermal", "semantic", "causal", "drift", "anchor", "probe", "archive"]
EPOCH = 1_767_225_600  # 2026-01-01, in seconds since 1970
EPOCH_2000 = 946_684_800
DATABASE = "kimera"

TABLES = """
CREATE EXTENSION IF NOT EXISTS vector;
DROP TABLE IF EXISTS geoid_states, semantic_embeddings, queries;
CREATE TABLE geoid_states (
    id uuid PRIMARY KEY, "timestamp" timestamptz NOT NULL, state_vector vector(1024) NOT NULL, metadata jsonb,
    entropy float8, coherence_factor float8, energy_level float8, tags text[]
);
CREATE TABLE semantic_embeddings (
    id uuid PRIMARY KEY, text_content text NOT NULL, embedding vector(1024) NOT NULL, source text, metadata jsonb
);
CREATE TABLE queries (n int4 PRIMARY KEY, v vector(1024) NOT NULL);
"""


class Law:
    """Where vectors come from."""

    def __init__(self, random):
        self.centres = random.standard_normal((TOPICS, LATENT))
        self.turn = np.linalg.qr(random.standard_normal((DIM, LATENT)))[0].T

    def draw(self, random, rows):
        topic = random.integers(0, TOPICS, rows)
        spread = random.gamma(4.0, 0.2, (rows, 1))
        latent = self.centres[topic] + spread * random.standard_normal((rows, LATENT))
        vectors = latent @ self.turn + 0.02 * random.standard_normal((rows, DIM))
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        return topic, spread[:, 0], vectors.astype(np.float32)


def field(value):
    return struct.pack(">i", -1) if value is None else struct.pack(">i", len(value)) + value


def vector(row):
    return struct.pack(">HH", len(row), 0) + row.astype(">f4").tobytes()


def jsonb(value):
    return b"\x01" + json.dumps(value).encode()


def texts(values):
    head = struct.pack(">iiI", 1 if values else 0, 0, 25)
    if not values:
        return head
    return head + struct.pack(">ii", len(values), 1) + b"".join(field(value.encode()) for value in values)


def rows_of(random, law, rows, make):
    for start in range(0, rows, 10_000):
        count = min(10_000, rows - start)
        drawn = law.draw(random, count)
        yield b"".join(make(start + at, *(column[at] for column in drawn)) for at in range(count))


def copy(connection, table, batches):
    with connection.cursor() as cursor, cursor.copy(f"COPY {table} FROM STDIN (FORMAT binary)") as stream:
        stream.write(b"PGCOPY\n\xff\r\n\0" + struct.pack(">ii", 0, 0))
        for batch in batches:
            stream.write(batch)
        stream.write(struct.pack(">h", -1))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SIZES, default="small")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    geoids, embeddings = SIZES[args.size]
    random = np.random.default_rng(args.seed)
    law = Law(random)

    def identity():
        return uuid.UUID(bytes=random.bytes(16), version=4).bytes

    def geoid(number, topic, spread, row):
        entropy = float(spread + 0.1 * random.standard_normal())
        microseconds = (EPOCH - EPOCH_2000 + 300 * number) * 1_000_000 + int(random.integers(0, 1_000_000))
        metadata = {"topic": int(topic), "cycle": number // 100, "origin": f"probe-{number % 17}"}
        tags = [TAGS[topic % len(TAGS)]] + [tag for tag in TAGS[4:] if random.random() < 0.1]
        return struct.pack(">h", 8) + b"".join(
            map(
                field,
                [
                    identity(),
                    struct.pack(">q", microseconds),
                    vector(row),
                    jsonb(metadata) if random.random() < 0.98 else None,
                    struct.pack(">d", entropy),
                    struct.pack(">d", float(np.exp(-spread))),
                    struct.pack(">d", float(random.gamma(2.0, 10.0))),
                    texts(list(dict.fromkeys(tags))),
                ],
            )
        )

    def embedding(number, topic, spread, row):
        text = f"Observation {number} of topic {topic}: spread {spread:.3f}."
        return struct.pack(">h", 5) + b"".join(
            map(
                field,
                [
                    identity(),
                    text.encode(),
                    vector(row),
                    f"stream-{topic % 5}".encode(),
                    jsonb({"topic": int(topic)}),
                ],
            )
        )

    _, _, queries = law.draw(random, QUERIES)
    args.data.mkdir(parents=True, exist_ok=True)
    np.save(args.data / "queries.npy", queries)
    with psycopg.connect(dbname=DATABASE) as connection:
        connection.execute(TABLES)
        copy(connection, "geoid_states", rows_of(random, law, geoids, geoid))
        copy(connection, "semantic_embeddings", rows_of(random, law, embeddings, embedding))
        asked = (struct.pack(">h", 2) + field(struct.pack(">i", n)) + field(vector(row)) for n, row in enumerate(queries))
        copy(connection, "queries", asked)
    with psycopg.connect(dbname=DATABASE, autocommit=True) as connection:
        connection.execute("VACUUM ANALYZE")
    print(f"{DATABASE}: {geoids:,} geoid_states, {embeddings:,} semantic_embeddings; {args.data / 'queries.npy'}")


if __name__ == "__main__":
    main()
