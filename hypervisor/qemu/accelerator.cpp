#include "hypervisor/qemu/accelerator.h"

#include <fcntl.h>
#include <linux/kvm.h>
#include <sys/ioctl.h>

#include <fstream>
#include <sstream>
#include <string>

#include "base/unique_fd.h"

namespace understudy {
namespace {

/// Whether the first processor offers Intel's or AMD's virtualization.
bool processor_can_virtualize() {
  std::ifstream cpuinfo("/proc/cpuinfo");
  for (std::string line; std::getline(cpuinfo, line);) {
    if (!line.starts_with("flags")) continue;
    std::istringstream words(line);
    for (std::string word; words >> word;) {
      if (word == "vmx" || word == "svm") return true;
    }
    return false;
  }
  return false;
}

}  // namespace

Result<void> probe_kvm() {
  if (!processor_can_virtualize()) {
    return fail(ErrorCode::unavailable, "the processor offers no virtualization (vmx or svm)");
  }
  UniqueFd kvm(::open("/dev/kvm", O_RDWR | O_CLOEXEC));
  if (!kvm.valid()) return system_error(errno, "/dev/kvm");
  const int version = ::ioctl(kvm.get(), KVM_GET_API_VERSION, 0);
  if (version != KVM_API_VERSION) {
    return fail(ErrorCode::unavailable, "/dev/kvm: interface version {}, expected {}", version,
                KVM_API_VERSION);
  }
  UniqueFd machine(::ioctl(kvm.get(), KVM_CREATE_VM, 0));
  if (!machine.valid()) return system_error(errno, "/dev/kvm: making a virtual machine");
  UniqueFd processor(::ioctl(machine.get(), KVM_CREATE_VCPU, 0));
  if (!processor.valid()) return system_error(errno, "/dev/kvm: making a virtual processor");
  return ok();
}

Result<Accelerator> choose_accelerator(Accelerator wish) {
  if (wish == Accelerator::tcg) return Accelerator::tcg;
  const Result<void> kvm = probe_kvm();
  if (kvm) return Accelerator::kvm;
  if (wish == Accelerator::kvm) return kvm.error().in("accelerator kvm");
  return Accelerator::tcg;
}

}  // namespace understudy
