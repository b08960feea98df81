#!/bin/sh
# Downloads and preprocesses a data set: ./prep.sh [ml-1m | ml-100k ...], or takes your own table. The work is in prep/; --help tells all.
here=$(dirname "$0")
python=$here/.venv/bin/python
[ -x "$python" ] || python=python3
if ! "$python" -c 'import h5py, pandas, pooch, pyarrow' 2>/dev/null; then
    echo "prep.sh: the requirements are not installed: run make setup first" >&2
    exit 1
fi
PYTHONPATH="$here" exec "$python" -m prep.preprocess "$@"
