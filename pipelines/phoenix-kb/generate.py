#!/usr/bin/env python3
"""Writes a knowledge base as phoenix exports it: DIR/entries.jsonl, an entry a line, and DIR/queries.jsonl.

    generate.py --size small|large --data DIR

Entries are of three kinds: episodes (`epm:<who>:<seconds>`), facts (`mind:fact:<what>`) and notes (`note:<who>:<number>`), each with a
text, when it was made, who it is of, and free metadata. Queries are what one would ask for some of the facts. Needs nothing but Python.
"""

import argparse
import json
import random
from pathlib import Path

SIZES = {"small": 3_000, "large": 300_000}
START = 1_704_067_200
PEOPLE = ["dad", "mum", "ada", "grace", "linus", "margaret"]
PLACES = """France Germany Japan Kenya Peru Norway Egypt India Brazil Canada Chile Ghana Greece Hungary Iceland Ireland Italy Jordan
Latvia Malta Mexico Mongolia Nepal Oman Poland Portugal Qatar Romania Senegal Serbia Spain Sweden Tonga Tunisia Turkey Uganda
Ukraine Uruguay Vietnam Zambia""".split()
RELATIONS = ["capital", "highest mountain", "longest river", "currency", "anthem", "largest lake", "oldest university", "main port"]
SYLLABLES = "ba ce di fo gu ha je ki lo mu na pe qui ra so ta ve wi xo zu".split()
VERBS = ["walked to", "talked about", "forgot", "planned", "repaired", "read about", "dreamt of", "wrote down"]
THINGS = ["the garden", "a bicycle", "the old radio", "dinner", "the exam", "a letter", "the holidays", "music", "the roof"]


def word(choose):
    return "".join(choose.choice(SYLLABLES) for _ in range(choose.randint(2, 4))).capitalize()


def facts(choose):
    """Each once: what it is called, its text, and what is asked for it."""
    for relation in RELATIONS:
        for place in PLACES:
            key = f"mind:fact:{relation.replace(' ', '_')}_{place.lower()}"
            yield key, f"The {relation} of {place} is {word(choose)}.", f"{relation} of {place}?"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SIZES, default="small")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    choose = random.Random(args.seed)
    rows = SIZES[args.size]
    args.data.mkdir(parents=True, exist_ok=True)
    with (args.data / "entries.jsonl").open("w") as entries, (args.data / "queries.jsonl").open("w") as queries:
        known = list(facts(choose))
        for number in range(rows):
            made = START + 3600 * number + choose.randrange(3600)
            who = choose.choice(PEOPLE)
            if number < len(known):
                key, text, question = known[number]
                queries.write(json.dumps({"text": question, "answer": key}) + "\n")
                metadata = {"source": "atlas", "checked": number % 3 == 0}
            elif number % 2:
                key = f"epm:{who}:{made}"
                text = f"{who.capitalize()} {choose.choice(VERBS)} {choose.choice(THINGS)} in {word(choose)} with {word(choose)}."
                metadata = {"mood": choose.choice(["calm", "glad", "sad"]), "people": choose.sample(PEOPLE, 2)}
            else:
                key = f"note:{who}:{number}"
                text = " ".join(word(choose) for _ in range(choose.randint(5, 30)))
                metadata = {}
            entry = {"id": key, "text": text, "created_at": made, "owner": who, "metadata": metadata}
            entries.write(json.dumps(entry) + "\n")
    print(f"{args.data / 'entries.jsonl'}: {rows:,} entries, {len(known):,} queries")


if __name__ == "__main__":
    main()
