// Much data in one direction, every byte checkable: the service of port 9003.
//
//   G SEED BYTES   the service sends that many bytes of the pattern
//   P SEED BYTES   the client sends them; the service checks, tells how far it is (`@ POSITION
//                  WRONG`, every MiB), and at last `= POSITION WRONG`
//
// One after the other, as often as wanted, on one connection.
#pragma once

#include <algorithm>
#include <cinttypes>
#include <cstdint>
#include <cstdio>
#include <memory>
#include <string>

#include "tests/guest/pattern.h"
#include "tests/guest/server.h"

namespace understudy::guest {

constexpr std::uint64_t bulk_report_bytes = std::uint64_t{1} << 20U;  ///< Between two `@`.

class Bulk final : public Service {
 public:
  bool consume(Connection& connection) override {
    if (!connection.memory) {
      connection.memory = std::make_shared<Order>();
    }
    auto& order = *static_cast<Order*>(connection.memory.get());
    while (!connection.input.empty() && order.kind != 'G') {
      if (order.kind == 'P') {
        take(order, connection);
      } else if (!begin(order, connection)) {
        return connection.input.find('\n') == std::string::npos;  // more of the line may come
      }
    }
    return true;
  }

  [[nodiscard]] bool eager() const override { return true; }

  void produce(Connection& connection) override {
    if (!connection.memory) {
      return;
    }
    auto& order = *static_cast<Order*>(connection.memory.get());
    if (order.kind != 'G') {
      return;
    }
    const std::size_t old_size = connection.output.size();
    const std::uint64_t size =
        std::min<std::uint64_t>(output_bytes_max - old_size, order.bytes - order.position);
    connection.output.resize(old_size + size);
    fill_pattern(order.seed, order.position, {connection.output.data() + old_size, size});
    order.position += size;
    if (order.position == order.bytes) {
      order.kind = '\0';
    }
  }

 private:
  struct Order {
    char kind = '\0';  ///< Or G, or P, while it is being carried out.
    std::uint64_t seed = 0;
    std::uint64_t bytes = 0;
    std::uint64_t position = 0;
    std::uint64_t wrong = 0;
  };

  /// Reads an order. False if there is no whole one, or a malformed one.
  static bool begin(Order& order, Connection& connection) {
    const std::size_t end = connection.input.find('\n');
    if (end == std::string::npos) {
      return false;
    }
    Order read;
    if (std::sscanf(connection.input.c_str(), "%c %" SCNu64 " %" SCNu64, &read.kind, &read.seed,
                    &read.bytes) != 3 ||
        (read.kind != 'G' && read.kind != 'P') || read.bytes == 0) {
      return false;
    }
    connection.input.erase(0, end + 1);
    order = read;
    return true;
  }

  static void take(Order& order, Connection& connection) {
    // Up to the next report: what it says must not depend on how the network cuts the stream.
    const std::uint64_t to_report = bulk_report_bytes - order.position % bulk_report_bytes;
    const std::uint64_t size =
        std::min<std::uint64_t>({connection.input.size(), order.bytes - order.position, to_report});
    order.wrong += count_wrong(order.seed, order.position, {connection.input.data(), size});
    connection.input.erase(0, size);
    order.position += size;
    const bool done = order.position == order.bytes;
    if (done || order.position % bulk_report_bytes == 0) {
      connection.output += (done ? "= " : "@ ") + std::to_string(order.position) + " " +
                           std::to_string(order.wrong) + "\n";
    }
    if (done) {
      order.kind = '\0';
    }
  }
};

}  // namespace understudy::guest
