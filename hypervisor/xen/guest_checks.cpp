#include "hypervisor/xen/guest_checks.h"

namespace understudy::xen {

Result<Method> choose_method(const GuestTraits& guest, std::string_view wanted) {
  if (!guest.translated) {
    return fail(
        ErrorCode::config,
        "it is a PV domain: Debian's Xen is built without shadow paging, so it keeps no log "
        "of the pages that a PV domain writes; use type = \"pvh\"");
  }
  if (!guest.hap) {
    return fail(ErrorCode::config,
                "it runs without hardware assisted paging (hap), and Debian's Xen keeps no log of "
                "written pages without");
  }
  if (guest.hvm && guest.pv_drivers) {
    return fail(
        ErrorCode::config,
        "it is an HVM domain whose guest uses PV drivers: part of its devices' state is in "
        "the device model, part in the backends; use type = \"pvh\", or keep the PV drivers "
        "out (xen_nopv)");
  }
  if (!guest.hvm && wanted == "transparent") {
    return fail(ErrorCode::config,
                "its PV drivers' state lies outside its memory, so the transparent method, which "
                "xen.method insists on, would lose it");
  }
  if (guest.hvm && wanted == "cooperative") {
    return fail(ErrorCode::config,
                "without PV drivers it cannot take part in checkpoints, and xen.method insists on "
                "the cooperative method");
  }
  if (!guest.hvm && !guest.pv_drivers) {
    return fail(ErrorCode::unavailable,
                "it shows no PV drivers, so it cannot be asked to suspend; is it still booting?");
  }
  return guest.hvm ? Method::transparent : Method::cooperative;
}

std::string_view reason_for(Method method) {
  if (method == Method::cooperative) {
    return "its PV drivers' state lies outside its memory, so the guest suspends and resumes for "
           "each";
  }
  return "it has no PV drivers: all its devices' state is in the device model, so it is stopped "
         "and "
         "notices nothing";
}

std::optional<std::string> version_obstacle(std::string_view here, std::string_view there) {
  if (here == there) return std::nullopt;
  return fmt::format("version {} here, {} on the primary: the formats of state differ", here,
                     there);
}

}  // namespace understudy::xen
