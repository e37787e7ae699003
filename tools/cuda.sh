# Building the CUDA backend on a machine that has an NVIDIA driver and no toolkit: the compiler from the package index, pinned.
# Sourced after tools/setup.sh.

# The release of nvcc that the project is built and tested with, and what belongs to it.
cuda_wheels=(nvidia-cuda-nvcc==13.0.88 nvidia-nvvm==13.0.88 nvidia-cuda-crt==13.0.88 nvidia-cuda-runtime==13.0.96
  nvidia-cuda-cccl==13.0.85 nvidia-cublas==13.1.0.3)

has_driver() { [ -e /proc/driver/nvidia/version ]; }

# Prints the machine's nvcc if it is of release 13 or newer.
installed_nvcc() {
  local nvcc
  nvcc=$(PATH=/usr/local/cuda/bin:$PATH command -v nvcc) || return 1
  "$nvcc" --version | grep -qE 'release (1[3-9]|[2-9][0-9])\.' || return 1
  echo "$nvcc"
}

# Prints the wheels' nvcc; downloads them (about 500 MB) the first time.
wheel_nvcc() {
  local folder=$lserve_cache/cuda-13.0 cuda
  cuda=$folder/nvidia/cu13
  if [ ! -e "$folder/complete" ]; then
    "$system_python" -m pip install -q --no-deps --upgrade --target "$folder" "${cuda_wheels[@]}" >&2 || return 1
    # The wheels name libraries by their release, linkers look for the bare name and for lib64.
    ln -sfn libcudart.so.13 "$cuda/lib/libcudart.so"
    ln -sfn libcublasLt.so.13 "$cuda/lib/libcublasLt.so"
    ln -sfn lib "$cuda/lib64"
    touch "$folder/complete"
  fi
  echo "$cuda/bin/nvcc"
}

# Prints what cmake needs to build for this machine's first GPU: Hopper's own kernels need 90a.
cuda_architecture() {
  local capability
  capability=$(nvidia-smi --query-gpu=compute_cap --format=csv,noheader 2>/dev/null | head -n 1 | tr -d '. ')
  case $capability in
    '' | 90) echo 90a ;;
    *) echo "$capability" ;;
  esac
}
