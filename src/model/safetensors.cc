#include "model/safetensors.h"

#include <algorithm>
#include <cstring>
#include <nlohmann/json.hpp>

#include "model/hf_json.h"

namespace lserve {
namespace {

using nlohmann::json;

constexpr uint64_t kMaxHeaderBytes = 100'000'000;  // the format's own limit
constexpr uint64_t kMaxDimension = uint64_t{1} << 31;

Status ReadShape(const json& entry, const std::string& path, TensorView* tensor) {
  const auto shape = entry.find("shape");
  if (shape == entry.end() || !shape->is_array())
    return InvalidArgument("{}: tensor '{}' has no shape", path, tensor->name);
  if (shape->empty() || shape->size() > 2) {
    return Unsupported("{}: tensor '{}' has {} dimensions; supported are 1 and 2", path,
                       tensor->name, shape->size());
  }
  for (const json& extent : *shape) {
    if (!extent.is_number_unsigned() || extent.get<uint64_t>() == 0 ||
        extent.get<uint64_t>() > kMaxDimension) {
      return InvalidArgument("{}: shape of tensor '{}': dimensions must be 1 to {}", path,
                             tensor->name, kMaxDimension);
    }
  }
  tensor->rows = shape->size() == 2 ? (*shape)[0].get<int64_t>() : 1;
  tensor->cols = shape->back().get<int64_t>();
  return Ok();
}

Status ReadDType(const json& entry, const std::string& path, TensorView* tensor) {
  const auto dtype = entry.find("dtype");
  if (dtype == entry.end() || !dtype->is_string())
    return InvalidArgument("{}: tensor '{}' has no dtype", path, tensor->name);
  for (const DType type : {DType::kF32, DType::kF16, DType::kBF16}) {
    if (*dtype == Info(type).name) {
      tensor->dtype = type;
      return Ok();
    }
  }
  return Unsupported("{}: tensor '{}' has type {}; supported are BF16, F16 and F32", path,
                     tensor->name, dtype->get<std::string>());
}

Status ReadTensor(const json& entry, std::span<const std::byte> data, const std::string& path,
                  TensorView* tensor) {
  if (!entry.is_object())
    return InvalidArgument("{}: the entry of tensor '{}' must be an object", path, tensor->name);
  if (Status s = ReadDType(entry, path, tensor); !s.ok()) return s;
  if (Status s = ReadShape(entry, path, tensor); !s.ok()) return s;
  const auto offsets = entry.find("data_offsets");
  if (offsets == entry.end() || !offsets->is_array() || offsets->size() != 2 ||
      !(*offsets)[0].is_number_unsigned() || !(*offsets)[1].is_number_unsigned()) {
    return InvalidArgument("{}: data_offsets of tensor '{}' must be two numbers", path,
                           tensor->name);
  }
  const uint64_t begin = (*offsets)[0], end = (*offsets)[1];
  if (begin > end || end > data.size()) {
    return DataLoss(
        "{}: tensor '{}' ends outside the file (bytes {} to {} of {}); is the file cut off?", path,
        tensor->name, begin, end, data.size());
  }
  uint64_t bytes = 0;
  if (__builtin_mul_overflow(static_cast<uint64_t>(tensor->rows),
                             static_cast<uint64_t>(RowBytes(tensor->dtype, tensor->cols)),
                             &bytes) ||
      bytes != end - begin) {
    return InvalidArgument("{}: tensor '{}' has {} bytes, which is not its shape's size", path,
                           tensor->name, end - begin);
  }
  tensor->data = data.data() + begin;
  return Ok();
}

}  // namespace

Result<std::vector<TensorView>> ParseSafetensors(std::span<const std::byte> bytes,
                                                 const std::string& path) {
  uint64_t header_bytes = 0;
  if (bytes.size() < sizeof(header_bytes))
    return DataLoss("{}: too short for a safetensors file ({} bytes)", path, bytes.size());
  std::memcpy(&header_bytes, bytes.data(), sizeof(header_bytes));
  if (header_bytes > kMaxHeaderBytes) {
    return InvalidArgument("{}: not a safetensors file (header of {} bytes, the limit is {})", path,
                           header_bytes, kMaxHeaderBytes);
  }
  if (header_bytes > bytes.size() - sizeof(header_bytes)) {
    return DataLoss("{}: header of {} bytes in a file of {}; is the file cut off?", path,
                    header_bytes, bytes.size());
  }
  const char* text = reinterpret_cast<const char*>(bytes.data()) + sizeof(header_bytes);
  Result<json> header = ParseJsonObject({text, header_bytes}, path, 4);
  if (!header.ok()) return header.status();

  const std::span<const std::byte> data = bytes.subspan(sizeof(header_bytes) + header_bytes);
  std::vector<TensorView> tensors;
  for (const auto& [name, entry] : header->items()) {
    if (name == "__metadata__") continue;
    TensorView tensor;
    tensor.name = name;
    if (Status s = ReadTensor(entry, data, path, &tensor); !s.ok()) return s;
    tensors.push_back(std::move(tensor));
  }
  std::sort(tensors.begin(), tensors.end(),
            [](const TensorView& a, const TensorView& b) { return a.data < b.data; });
  for (size_t i = 1; i < tensors.size(); ++i) {
    const TensorView& before = tensors[i - 1];
    if (before.data + before.rows * RowBytes(before.dtype, before.cols) > tensors[i].data) {
      return InvalidArgument("{}: tensors '{}' and '{}' overlap", path, before.name,
                             tensors[i].name);
    }
  }
  return tensors;
}

}  // namespace lserve
