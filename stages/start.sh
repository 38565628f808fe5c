# Starts a stage with the code of this folder: `sh stages/start.sh STAGE ARGUMENTS`.
# For the stages `train` and `evaluate`, BITSPERDIM_LAUNCHER may start several processes (see README).
stage=$1
shift
launcher=python
case $stage in train | evaluate) launcher=${BITSPERDIM_LAUNCHER:-python} ;; esac

forgotten() {
  echo "$stage: $1; type 'source .venv/bin/activate' first ('make setup' creates it)." >&2
  exit 1
}

command -v "${launcher%% *}" >/dev/null || forgotten "there is no command '${launcher%% *}' here"
if [ "$launcher" = python ]; then
  python -c 'import importlib.util, sys
names = "jinja2 markupsafe matplotlib numpy PIL pydantic ruamel.yaml safetensors scipy sklearn torch torchvision tqdm zuko"
sys.exit(sys.version_info < (3, 11) or not all(map(importlib.util.find_spec, names.split())))' 2>/dev/null ||
    forgotten "this python ($(command -v python)) is not the one of bitsperdim, or lacks some of its packages"
fi
export PYTHONPATH=src
exec $launcher "stages/$stage.py" "$@"
