#include "model/gguf.h"

#include <algorithm>
#include <cstring>
#include <set>

namespace lserve {
namespace {

constexpr uint64_t kMaxEntries = 1 << 16;  // metadata keys; tensors
constexpr uint64_t kMaxKeyBytes = 65535, kMaxTensorNameBytes = 255;
constexpr uint64_t kMaxAlignment = 1 << 20;
constexpr int64_t kMaxDimension = int64_t{1} << 31;
constexpr int kMaxDimensions = 4;

size_t ScalarBytes(GgufType type) {
  switch (type) {
    case GgufType::kUint8:
    case GgufType::kInt8:
    case GgufType::kBool:
      return 1;
    case GgufType::kUint16:
    case GgufType::kInt16:
      return 2;
    case GgufType::kUint32:
    case GgufType::kInt32:
    case GgufType::kFloat32:
      return 4;
    default:
      return 8;
  }
}

template <typename T>
T Load(const std::byte* from) {
  T value;
  std::memcpy(&value, from, sizeof(T));
  return value;
}

std::optional<int64_t> LoadInteger(GgufType type, const std::byte* from) {
  switch (type) {
    case GgufType::kUint8:
      return Load<uint8_t>(from);
    case GgufType::kInt8:
      return Load<int8_t>(from);
    case GgufType::kUint16:
      return Load<uint16_t>(from);
    case GgufType::kInt16:
      return Load<int16_t>(from);
    case GgufType::kUint32:
      return Load<uint32_t>(from);
    case GgufType::kInt32:
      return Load<int32_t>(from);
    case GgufType::kInt64:
      return Load<int64_t>(from);
    case GgufType::kUint64: {
      const uint64_t value = Load<uint64_t>(from);
      if (value > INT64_MAX) return std::nullopt;
      return static_cast<int64_t>(value);
    }
    default:
      return std::nullopt;
  }
}

std::optional<double> LoadReal(GgufType type, const std::byte* from) {
  if (type == GgufType::kFloat32) return Load<float>(from);
  if (type == GgufType::kFloat64) return Load<double>(from);
  const std::optional<int64_t> integer = LoadInteger(type, from);
  if (!integer) return std::nullopt;
  return static_cast<double>(*integer);
}

// Reads forward through the file; every read checks what is left.
class Reader {
 public:
  Reader(std::span<const std::byte> bytes, const std::string& path) : bytes_(bytes), path_(path) {}

  size_t at() const { return at_; }
  uint64_t left() const { return bytes_.size() - at_; }

  template <typename T>
  Status Read(T* value, std::string_view what) {
    if (sizeof(T) > left()) return CutOff(what);
    *value = Load<T>(bytes_.data() + at_);
    at_ += sizeof(T);
    return Ok();
  }

  Status Take(uint64_t count, std::span<const std::byte>* taken, std::string_view what) {
    if (count > left()) return CutOff(what);
    *taken = bytes_.subspan(at_, count);
    at_ += count;
    return Ok();
  }

  Status ReadName(uint64_t limit, std::string* name, std::string_view what) {
    uint64_t length = 0;
    if (Status s = Read(&length, what); !s.ok()) return s;
    if (length == 0 || length > limit) {
      return InvalidArgument("{}: {} at byte {} has length {}, allowed are 1 to {}", path_, what,
                             at_ - 8, length, limit);
    }
    std::span<const std::byte> text;
    if (Status s = Take(length, &text, what); !s.ok()) return s;
    name->assign(reinterpret_cast<const char*>(text.data()), text.size());
    return Ok();
  }

  Status CutOff(std::string_view what) const {
    return DataLoss("{}: cut off at byte {} of {}, inside {}", path_, at_, bytes_.size(), what);
  }

 private:
  std::span<const std::byte> bytes_;
  const std::string& path_;
  size_t at_ = 0;
};

Status ReadType(Reader& in, const std::string& path, const std::string& key, GgufType* type) {
  uint32_t number = 0;
  if (Status s = in.Read(&number, "the type of key '" + key + "'"); !s.ok()) return s;
  if (number > static_cast<uint32_t>(GgufType::kFloat64)) {
    return InvalidArgument("{}: key '{}' has unknown value type {}", path, key, number);
  }
  *type = static_cast<GgufType>(number);
  return Ok();
}

Status ReadValue(Reader& in, const std::string& path, const std::string& key, GgufValue* value) {
  const std::string what = "the value of key '" + key + "'";
  if (Status s = ReadType(in, path, key, &value->type); !s.ok()) return s;
  if (value->type == GgufType::kArray) {
    value->array = true;
    if (Status s = ReadType(in, path, key, &value->type); !s.ok()) return s;
    if (value->type == GgufType::kArray)
      return Unsupported("{}: key '{}' is an array of arrays", path, key);
    if (Status s = in.Read(&value->count, what); !s.ok()) return s;
  }
  if (value->type != GgufType::kString) {
    const size_t size = ScalarBytes(value->type);
    if (value->count > in.left() / size) return in.CutOff(what);
    return in.Take(value->count * size, &value->bytes, what);
  }
  // Strings: walk them once here, so that the getters may trust the lengths.
  if (value->count > in.left() / 8) return in.CutOff(what);
  Reader start = in;
  for (uint64_t i = 0; i < value->count; ++i) {
    uint64_t length = 0;
    std::span<const std::byte> text;
    if (Status s = in.Read(&length, what); !s.ok()) return s;
    if (Status s = in.Take(length, &text, what); !s.ok()) return s;
  }
  return start.Take(in.at() - start.at(), &value->bytes, what);
}

Status ReadMetadata(Reader& in, const std::string& path, uint64_t count, GgufFile* file) {
  for (uint64_t i = 0; i < count; ++i) {
    std::string key;
    GgufValue value;
    if (Status s = in.ReadName(kMaxKeyBytes, &key, "a metadata key"); !s.ok()) return s;
    if (Status s = ReadValue(in, path, key, &value); !s.ok()) return s;
    if (!file->metadata.emplace(key, value).second)
      return InvalidArgument("{}: key '{}' occurs twice", path, key);
  }
  return Ok();
}

// Names of the numbers that GGUF files use; an empty name: unknown or withdrawn.
constexpr std::string_view kTensorTypes[] = {
    "F32",     "F16",   "Q4_0",   "Q4_1",  "",      "",       "Q5_0", "Q5_1",    "Q8_0",
    "Q8_1",    "Q2_K",  "Q3_K",   "Q4_K",  "Q5_K",  "Q6_K",   "Q8_K", "IQ2_XXS", "IQ2_XS",
    "IQ3_XXS", "IQ1_S", "IQ4_NL", "IQ3_S", "IQ2_S", "IQ4_XS", "I8",   "I16",     "I32",
    "I64",     "F64",   "IQ1_M",  "BF16",  "",      "",       "",     "TQ1_0",   "TQ2_0",
    "",        "",      "",       "MXFP4", "NVFP4", "Q1_0"};

Status ReadTensorType(const std::string& path, const std::string& name, uint32_t number,
                      DType* dtype) {
  const std::string_view text = number < std::size(kTensorTypes) ? kTensorTypes[number] : "";
  for (int i = 0; i <= static_cast<int>(DType::kQ6_K); ++i) {
    if (Info(static_cast<DType>(i)).name != text) continue;
    *dtype = static_cast<DType>(i);
    return Ok();
  }
  return Unsupported(
      "{}: tensor '{}' has type {} ({}); supported are F32, F16, BF16, Q4_0, Q4_1, Q5_0, Q5_1, "
      "Q8_0, Q4_K, Q5_K, Q6_K",
      path, name, text.empty() ? "unknown" : text, number);
}

struct TensorPlace {
  uint64_t offset = 0, bytes = 0;
};

Status ReadTensorInfo(Reader& in, const std::string& path, TensorView* tensor, TensorPlace* place) {
  if (Status s = in.ReadName(kMaxTensorNameBytes, &tensor->name, "a tensor name"); !s.ok())
    return s;
  const std::string what = "the description of tensor '" + tensor->name + "'";
  uint32_t dimensions = 0;
  if (Status s = in.Read(&dimensions, what); !s.ok()) return s;
  if (dimensions < 1 || dimensions > kMaxDimensions) {
    return InvalidArgument("{}: tensor '{}' has {} dimensions", path, tensor->name, dimensions);
  }
  int64_t shape[kMaxDimensions] = {1, 1, 1, 1};
  for (uint32_t d = 0; d < dimensions; ++d) {
    uint64_t extent = 0;
    if (Status s = in.Read(&extent, what); !s.ok()) return s;
    if (extent == 0 || extent > static_cast<uint64_t>(kMaxDimension)) {
      return InvalidArgument("{}: dimension {} of tensor '{}' is {}", path, d, tensor->name,
                             extent);
    }
    shape[d] = static_cast<int64_t>(extent);
  }
  if (shape[2] != 1 || shape[3] != 1)
    return Unsupported("{}: tensor '{}' has more than two dimensions", path, tensor->name);
  uint32_t type = 0;
  if (Status s = in.Read(&type, what); !s.ok()) return s;
  if (Status s = in.Read(&place->offset, what); !s.ok()) return s;
  if (Status s = ReadTensorType(path, tensor->name, type, &tensor->dtype); !s.ok()) return s;
  tensor->cols = shape[0];
  tensor->rows = shape[1];
  if (tensor->cols % Info(tensor->dtype).block_elements != 0) {
    return InvalidArgument("{}: rows of tensor '{}' have {} elements, not whole blocks of {}", path,
                           tensor->name, tensor->cols, Info(tensor->dtype).block_elements);
  }
  // At most 2^31 elements of 4 bytes a row and 2^31 rows: the product may pass 64 bits.
  if (__builtin_mul_overflow(static_cast<uint64_t>(RowBytes(tensor->dtype, tensor->cols)),
                             static_cast<uint64_t>(tensor->rows), &place->bytes)) {
    return InvalidArgument("{}: tensor '{}' is larger than memory", path, tensor->name);
  }
  return Ok();
}

Result<uint64_t> Alignment(const GgufFile& file, const std::string& path) {
  const GgufValue* value = file.Find("general.alignment");
  if (!value) return uint64_t{32};
  const std::optional<int64_t> alignment = value->Integer();
  if (!alignment || *alignment < 8 || *alignment > static_cast<int64_t>(kMaxAlignment) ||
      (*alignment & (*alignment - 1)) != 0) {
    return InvalidArgument("{}: general.alignment must be a power of two from 8 to {}", path,
                           kMaxAlignment);
  }
  return static_cast<uint64_t>(*alignment);
}

// Checks that every tensor lies inside `data` and that no two share bytes, and sets their pointers.
Status PlaceTensors(const std::string& path, std::span<const std::byte> data, uint64_t alignment,
                    const std::vector<TensorPlace>& places, GgufFile* file) {
  std::vector<size_t> order(places.size());
  for (size_t i = 0; i < order.size(); ++i) {
    const TensorPlace& place = places[i];
    TensorView& tensor = file->tensors[i];
    if (place.offset % alignment != 0) {
      return InvalidArgument("{}: tensor '{}' at offset {} is not aligned to {}", path, tensor.name,
                             place.offset, alignment);
    }
    if (place.offset > data.size() || place.bytes > data.size() - place.offset) {
      return DataLoss(
          "{}: tensor '{}' ends outside the file ({} bytes at offset {} of {}); is the file cut "
          "off?",
          path, tensor.name, place.bytes, place.offset, data.size());
    }
    tensor.data = data.data() + place.offset;
    order[i] = i;
  }
  std::sort(order.begin(), order.end(),
            [&](size_t a, size_t b) { return places[a].offset < places[b].offset; });
  for (size_t i = 1; i < order.size(); ++i) {
    const TensorPlace& before = places[order[i - 1]];
    if (before.offset + before.bytes > places[order[i]].offset) {
      return InvalidArgument("{}: tensors '{}' and '{}' overlap", path,
                             file->tensors[order[i - 1]].name, file->tensors[order[i]].name);
    }
  }
  return Ok();
}

}  // namespace

std::optional<int64_t> GgufValue::Integer() const {
  if (array) return std::nullopt;
  return LoadInteger(type, bytes.data());
}

std::optional<double> GgufValue::Real() const {
  if (array) return std::nullopt;
  return LoadReal(type, bytes.data());
}

std::optional<bool> GgufValue::Bool() const {
  if (array || type != GgufType::kBool) return std::nullopt;
  return Load<uint8_t>(bytes.data()) != 0;
}

std::optional<std::string> GgufValue::String() const {
  if (array || type != GgufType::kString) return std::nullopt;
  return std::string(reinterpret_cast<const char*>(bytes.data()) + 8, bytes.size() - 8);
}

std::optional<std::vector<int64_t>> GgufValue::Integers() const {
  if (!array || type == GgufType::kString) return std::nullopt;
  std::vector<int64_t> values(count);
  for (uint64_t i = 0; i < count; ++i) {
    const std::optional<int64_t> value = LoadInteger(type, bytes.data() + i * ScalarBytes(type));
    if (!value) return std::nullopt;
    values[i] = *value;
  }
  return values;
}

std::optional<std::vector<float>> GgufValue::Reals() const {
  if (!array || type == GgufType::kString) return std::nullopt;
  std::vector<float> values(count);
  for (uint64_t i = 0; i < count; ++i) {
    const std::optional<double> value = LoadReal(type, bytes.data() + i * ScalarBytes(type));
    if (!value) return std::nullopt;
    values[i] = static_cast<float>(*value);
  }
  return values;
}

std::optional<std::vector<std::string>> GgufValue::Strings() const {
  if (!array || type != GgufType::kString) return std::nullopt;
  std::vector<std::string> values(count);
  const std::byte* at = bytes.data();
  for (std::string& value : values) {
    const uint64_t length = Load<uint64_t>(at);
    value.assign(reinterpret_cast<const char*>(at) + 8, length);
    at += 8 + length;
  }
  return values;
}

Result<GgufFile> ParseGguf(std::span<const std::byte> bytes, const std::string& path) {
  Reader in(bytes, path);
  GgufFile file;
  char magic[4];
  uint64_t tensor_count = 0, key_count = 0;
  for (char& c : magic) {
    if (Status s = in.Read(&c, "the header"); !s.ok()) return s;
  }
  if (std::memcmp(magic, "GGUF", 4) != 0)
    return InvalidArgument("{}: not a GGUF file (bad magic)", path);
  if (Status s = in.Read(&file.version, "the header"); !s.ok()) return s;
  if (file.version == 0x02000000 || file.version == 0x03000000)
    return Unsupported("{}: a big-endian GGUF file", path);
  if (file.version != 2 && file.version != 3)
    return Unsupported("{}: GGUF version {}; supported are 2 and 3", path, file.version);
  if (Status s = in.Read(&tensor_count, "the header"); !s.ok()) return s;
  if (Status s = in.Read(&key_count, "the header"); !s.ok()) return s;
  if (tensor_count > kMaxEntries || key_count > kMaxEntries) {
    return InvalidArgument("{}: {} tensors and {} metadata keys; the limit is {} each", path,
                           tensor_count, key_count, kMaxEntries);
  }
  if (Status s = ReadMetadata(in, path, key_count, &file); !s.ok()) return s;

  std::set<std::string> names;
  std::vector<TensorPlace> places;
  for (uint64_t i = 0; i < tensor_count; ++i) {
    TensorView tensor;
    TensorPlace place;
    if (Status s = ReadTensorInfo(in, path, &tensor, &place); !s.ok()) return s;
    if (!names.insert(tensor.name).second)
      return InvalidArgument("{}: tensor '{}' occurs twice", path, tensor.name);
    file.tensors.push_back(std::move(tensor));
    places.push_back(place);
  }

  Result<uint64_t> alignment = Alignment(file, path);
  if (!alignment.ok()) return alignment.status();
  const uint64_t begin = (in.at() + *alignment - 1) / *alignment * *alignment;
  const std::span<const std::byte> data =
      begin < bytes.size() ? bytes.subspan(begin) : std::span<const std::byte>();
  if (Status s = PlaceTensors(path, data, *alignment, places, &file); !s.ok()) return s;
  return file;
}

}  // namespace lserve
