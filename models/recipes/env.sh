# Sourced by the scripts beside it: makes the virtual environment from requirements.lock on first use.
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
venv=$here/.venv
if [ ! -f "$venv/complete" ] || [ "$here/requirements.lock" -nt "$venv/complete" ]; then
    echo "setting up $venv" >&2
    python3 -m venv "$venv"
    "$venv/bin/python" -m pip install --quiet --require-hashes -r "$here/requirements.lock" >&2
    touch "$venv/complete"
fi
export PYTHONPATH=$here${PYTHONPATH:+:$PYTHONPATH}
python=$venv/bin/python
