// Built where libxen-dev is not: says so.
#include "hypervisor/xen/xen_hypervisor.h"

namespace understudy {

std::string xen_obstacle() {
  return "this program was built without Xen's libraries";
}

Result<std::unique_ptr<Hypervisor>> make_xen_hypervisor(boost::asio::any_io_executor /*executor*/,
                                                        XenOptions /*options*/) {
  return fail(ErrorCode::unavailable, "Xen domains are not to be had here: {}", xen_obstacle());
}

}  // namespace understudy
