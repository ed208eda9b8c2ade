// The part of DLPack's stable C interface (version 1) that is used here, written out so that no header is needed.
#pragma once

#include <cstdint>

namespace layerpace::dlpack {

enum DeviceType : int32_t { kCPU = 1 };
enum TypeCode : uint8_t { kFloat = 2, kBfloat = 4, kComplex = 5, kBool = 6 };

struct Device {
  int32_t type;
  int32_t id;
};

struct DataType {
  uint8_t code;
  uint8_t bits;
  uint16_t lanes;
};

struct Tensor {
  void *data;
  Device device;
  int32_t ndim;
  DataType dtype;
  int64_t *shape;
  int64_t *strides;
  uint64_t byte_offset;
};

struct Version {
  uint32_t major;
  uint32_t minor;
};

struct ExchangeHeader {
  Version version;
  ExchangeHeader *previous;
};

// torch.Tensor.__dlpack_c_exchange_api__ (torch 2.10 and later) is a capsule of this table.
struct ExchangeApi {
  ExchangeHeader header;
  void *managed_tensor_allocator;
  void *managed_tensor_from_py_object_no_sync;
  void *managed_tensor_to_py_object_no_sync;
  int (*tensor_from_py_object_no_sync)(void *py_object, Tensor *out);
  void *current_work_stream;
};

}  // namespace layerpace::dlpack
