#include "hypervisor/qemu/qemu_rehearsal.h"

#include <boost/json.hpp>

namespace understudy {

QemuRehearsal::QemuRehearsal(std::shared_ptr<QemuInstance> instance)
    : instance_(std::move(instance)), standby_(instance_) {}

QemuRehearsal::~QemuRehearsal() {
  instance_->end_at_once();
}

std::span<std::byte> QemuRehearsal::memory() {
  return standby_.memory();
}

int QemuRehearsal::memory_file() const {
  return standby_.memory_file();
}

Task<Result<void>> QemuRehearsal::run(std::span<const std::byte> device_state) {
  auto promoted = co_await standby_.promote(device_state);
  if (!promoted) co_return promoted.error();
  domain_ = std::move(promoted.value());
  co_return ok();
}

Task<Result<bool>> QemuRehearsal::runs() {
  boost::json::object no_arguments;
  auto status = co_await instance_->monitor().execute("query-status", std::move(no_arguments),
                                                      instance_->options().answer_timeout_ms);
  if (!status) {
    const Error error = co_await instance_->explain(status.error());
    co_return error;
  }
  const auto* object = status.value().if_object();
  const auto* running = object == nullptr ? nullptr : object->if_contains("running");
  co_return running != nullptr && running->is_bool() && running->get_bool();
}

int QemuRehearsal::network() const {
  return instance_->isolation()->fd();
}

Result<void> QemuRehearsal::set_address(std::size_t index, const IpAddress& ours, unsigned prefix) {
  if (index >= instance_->outputs().size())
    return fail(ErrorCode::no_such, "the domain has no interface {}", index);
  return instance_->isolation()->set_address(instance_->outputs()[index].device, ours, prefix);
}

Task<void> QemuRehearsal::end() {
  static_cast<void>(co_await instance_->end());
}

}  // namespace understudy
