#!/bin/sh
# Writes the stubs of proto/everlook/v1 into DIR/everlook/v1 (default: beside the .proto, where they are committed).
set -eu
cd "$(dirname "$0")"
out=${1:-.}
${PYTHON:-python3} -m grpc_tools.protoc -I . --python_out="$out" --grpc_python_out="$out" \
  --mypy_out="$out" --mypy_grpc_out="$out" everlook/v1/everlook.proto
