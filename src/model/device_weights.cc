#include "model/device_weights.h"

#include <algorithm>
#include <cmath>
#include <new>

#include "core/dtype.h"
#include "quant/block_formats.h"

namespace lserve {
namespace {

class Uploader {
 public:
  Uploader(const ModelFiles& files, Device* device, ThreadPool* pool)
      : files_(files), device_(device), pool_(pool) {}

  // The named matrices one below the other, in bf16.
  Block Matrices(const std::vector<std::string>& names) {
    int64_t rows = 0, cols = 0;
    for (const std::string& name : names) {
      rows += Find(name).rows;
      cols = Find(name).cols;
    }
    Block out(device_, static_cast<size_t>(rows * cols) * 2);
    int64_t at = 0;
    for (const std::string& name : names) {
      const TensorView& t = Find(name);
      // Some thousands of rows at a time: converted by all threads, then copied in one go.
      const int64_t chunk = std::max<int64_t>(1, kChunkElements / cols);
      for (int64_t begin = 0; begin < t.rows; begin += chunk) {
        const int64_t count = std::min(chunk, t.rows - begin);
        bits_.resize(static_cast<size_t>(count * cols));
        pool_->ParallelFor(count, [&](int64_t r, int) {
          std::vector<float> row(static_cast<size_t>(cols));
          DequantizeRow(t.dtype, t.Row(begin + r), cols, row.data());
          for (int64_t c = 0; c < cols; ++c)
            bits_[static_cast<size_t>(r * cols + c)] = ToBf16(row[static_cast<size_t>(c)]);
        });
        device_->CopyIn(out.data() + (at + begin) * cols * 2, bits_.data(), bits_.size() * 2);
      }
      at += t.rows;
      Release(t);
    }
    return out;
  }

  // The named vectors one after the other, as floats; nothing when the model lacks the first.
  Block Vectors(const std::vector<std::string>& names) {
    std::vector<float> all;
    for (const std::string& name : names) {
      const TensorView* t = files_.Find(name);
      if (t == nullptr) return {};
      // A bias of a permuted matrix has its values in the order of the matrix's rows.
      TensorView rows = *t;
      rows.rows = t->rows * t->cols;
      std::vector<float> stored(static_cast<size_t>(rows.rows));
      DequantizeRow(t->dtype, t->data, rows.rows, stored.data());
      for (int64_t i = 0; i < rows.rows; ++i)
        all.push_back(stored[static_cast<size_t>(rows.SourceRow(i))]);
    }
    Block out(device_, all.size() * 4);
    device_->CopyIn(out.data(), all.data(), all.size() * 4);
    return out;
  }

 private:
  static constexpr int64_t kChunkElements = int64_t{1} << 23;

  const TensorView& Find(const std::string& name) const {
    const TensorView* t = files_.Find(name);
    CHECK(t != nullptr);  // OpenModel has seen to it
    return *t;
  }
  // The device's copy is what is used from now on.
  void Release(const TensorView& t) {
    const size_t bytes = static_cast<size_t>(t.rows * RowBytes(t.dtype, t.cols));
    for (const auto& file : files_.files) {
      const std::span<const std::byte> all = file->bytes();
      if (t.data >= all.data() && t.data < all.data() + all.size()) file->Release({t.data, bytes});
    }
  }

  const ModelFiles& files_;
  Device* device_;
  ThreadPool* pool_;
  std::vector<uint16_t> bits_;
};

Status NoMemory(const Device& device, const ModelConfig& c) {
  const double layer =
      static_cast<double>(c.hidden) * c.head_dim * (2.0 * c.q_heads + 2.0 * c.kv_heads) +
      3.0 * c.hidden * c.intermediate;
  const double all = 2 * (c.layers * layer + (c.tied_embeddings ? 1.0 : 2.0) * c.vocab * c.hidden);
  const DeviceInfo info = device.info();
  return ResourceExhausted(
      "backend cuda: the weights take {:.1f} GiB in bf16 and {} has {:.1f} GiB, {:.1f} free "
      "(--backend cpu keeps them in host memory)",
      all / (1 << 30), info.name, static_cast<double>(info.total_bytes) / (1 << 30),
      static_cast<double>(info.free_bytes) / (1 << 30));
}

}  // namespace

size_t DeviceWeights::bytes() const {
  size_t sum = embedding.size() + output.size() + output_norm.size();
  for (const Layer& l : layers)
    sum += l.qkv.size() + l.o.size() + l.gate_up.size() + l.down.size() + l.attn_norm.size() +
           l.ffn_norm.size() + l.q_norm.size() + l.k_norm.size() + l.qkv_bias.size();
  return sum;
}

Result<DeviceWeights> UploadWeights(const ModelFiles& files, Device* device, ThreadPool* pool) {
  try {
    const ModelConfig& c = files.config;
    Uploader up(files, device, pool);
    DeviceWeights w;
    w.embedding = up.Matrices({"token_embd.weight"});
    if (!c.tied_embeddings) w.output = up.Matrices({"output.weight"});
    w.output_norm = up.Vectors({"output_norm.weight"});
    for (int i = 0; i < c.layers; ++i) {
      const std::string p = fmt::format("blk.{}.", i);
      DeviceWeights::Layer layer;
      layer.qkv = up.Matrices({p + "attn_q.weight", p + "attn_k.weight", p + "attn_v.weight"});
      layer.o = up.Matrices({p + "attn_output.weight"});
      layer.gate_up = up.Matrices({p + "ffn_gate.weight", p + "ffn_up.weight"});
      layer.down = up.Matrices({p + "ffn_down.weight"});
      layer.attn_norm = up.Vectors({p + "attn_norm.weight"});
      layer.ffn_norm = up.Vectors({p + "ffn_norm.weight"});
      if (c.qk_norm) {
        layer.q_norm = up.Vectors({p + "attn_q_norm.weight"});
        layer.k_norm = up.Vectors({p + "attn_k_norm.weight"});
      }
      if (c.qkv_bias)
        layer.qkv_bias = up.Vectors({p + "attn_q.bias", p + "attn_k.bias", p + "attn_v.bias"});
      w.layers.push_back(std::move(layer));
    }
    if (Status s = device->Synchronize(); !s.ok()) return s;
    return w;
  } catch (const std::bad_alloc&) {
    return NoMemory(*device, files.config);
  }
}

Result<DeviceWeights> RandomWeights(const ModelConfig& c, Device* device, uint64_t seed) {
  try {
    const auto matrix = [&](int64_t rows, int64_t cols, double gain = 1) {
      Block out(device, static_cast<size_t>(rows * cols) * 2);
      device->FillNormal(out.as<uint16_t>(), rows * cols,
                         static_cast<float>(gain / std::sqrt(static_cast<double>(cols))),
                         seed += 0x9e3779b97f4a7c15ull);
      return out;
    };
    const auto ones = [&](int count) {
      const std::vector<float> values(static_cast<size_t>(count), 1.0f);
      Block out(device, values.size() * 4);
      device->CopyIn(out.data(), values.data(), out.size());
      return out;
    };
    const int q = c.q_heads * c.head_dim, kv = c.kv_heads * c.head_dim;
    const double residual = 1 / std::sqrt(2.0 * c.layers);
    DeviceWeights w;
    w.embedding = matrix(c.vocab, c.hidden);
    if (!c.tied_embeddings) w.output = matrix(c.vocab, c.hidden);
    w.output_norm = ones(c.hidden);
    for (int i = 0; i < c.layers; ++i) {
      DeviceWeights::Layer layer;
      layer.qkv = matrix(q + 2 * kv, c.hidden);
      layer.o = matrix(c.hidden, q, residual);
      layer.gate_up = matrix(2 * c.intermediate, c.hidden);
      layer.down = matrix(c.hidden, c.intermediate, residual);
      layer.attn_norm = ones(c.hidden);
      layer.ffn_norm = ones(c.hidden);
      if (c.qk_norm) {
        layer.q_norm = ones(c.head_dim);
        layer.k_norm = ones(c.head_dim);
      }
      w.layers.push_back(std::move(layer));
    }
    if (Status s = device->Synchronize(); !s.ok()) return s;
    return w;
  } catch (const std::bad_alloc&) {
    return NoMemory(*device, c);
  }
}

}  // namespace lserve
