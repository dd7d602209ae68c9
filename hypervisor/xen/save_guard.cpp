#include "hypervisor/xen/save_guard.h"

#include "hypervisor/xen/control.h"

namespace understudy::xen {
namespace {

std::string channel_node(DomainId domid) {
  return fmt::format("/local/domain/{}/device/suspend/event-channel", domid);
}

}  // namespace

Result<void> forbid_saving(Store& store, DomainId domid, std::string_view name) {
  if (!store.write(channel_node(domid), guard_words(name)))
    return fail(ErrorCode::io, "xenstore: {} could not be written", channel_node(domid));
  return ok();
}

void allow_saving(Store& store, DomainId domid) {
  const auto found = store.read(channel_node(domid));
  // A guest of old times has written a channel of its own over ours meanwhile: that stays.
  if (found && found->starts_with(guard_words(""))) (void)store.write(channel_node(domid), "");
}

}  // namespace understudy::xen
