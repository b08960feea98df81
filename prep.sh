#!/bin/sh
# Downloads and prepares a data set, or your own table: ./prep.sh ml-1m, ./prep.sh --help. The work is in prep/.
root=$(dirname "$0")
python=$root/.venv/bin/python
[ -x "$python" ] || python=python3
if ! "$python" -c 'import duckdb, h5py, pandas, pooch' 2>/dev/null; then
    echo "prep.sh: the requirements are not installed. Run make setup." >&2
    exit 1
fi
PYTHONPATH="$root" exec "$python" -m prep.preprocess "$@"
