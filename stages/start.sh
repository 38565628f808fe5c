# Starts a stage: `sh stages/start.sh STAGE ARGUMENTS`. It runs the code of this folder, if this is the repository, and
# otherwise the installed package (`bitsperdim init` writes its version into stages/package.txt).
# For the stages `train` and `evaluate`, BITSPERDIM_LAUNCHER may start several processes (see README).
stage=$1
shift
launcher=python
case $stage in train | evaluate) launcher=${BITSPERDIM_LAUNCHER:-python} ;; esac
first="type 'source .venv/bin/activate' first ('make setup' creates it)"
[ -d src/bitsperdim ] || first="first activate the environment in which bitsperdim is installed"

forgotten() {
  echo "$stage: $1; $first." >&2
  exit 1
}

command -v "${launcher%% *}" >/dev/null || forgotten "there is no command '${launcher%% *}' here"
if [ "$launcher" = python ]; then
  python -c 'import importlib.util, sys
names = "jinja2 markupsafe matplotlib numpy PIL pydantic ruamel.yaml safetensors scipy sklearn torch torchvision tqdm zuko"
sys.exit(sys.version_info < (3, 11) or not all(map(importlib.util.find_spec, names.split())))' 2>/dev/null ||
    forgotten "this python ($(command -v python)) is not the one of bitsperdim, or lacks some of its packages"
fi
if [ -d src/bitsperdim ]; then
  export PYTHONPATH=src
elif [ -f stages/package.txt ] && [ "$launcher" = python ]; then
  installed=$(python -c 'import bitsperdim; print("bitsperdim", bitsperdim.__version__)' 2>/dev/null) ||
    forgotten "this python ($(command -v python)) does not have bitsperdim"
  if [ "$installed" != "$(cat stages/package.txt)" ]; then
    echo "$stage: this folder was laid out by $(cat stages/package.txt), but $installed is installed;" \
      "\`bitsperdim init --update .\` writes its stages anew." >&2
    exit 1
  fi
fi
exec $launcher "stages/$stage.py" "$@"
