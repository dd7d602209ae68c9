#include "hypervisor/qemu/command_line.h"

#include <fmt/format.h>

namespace understudy {
namespace {

/// A value inside QEMU's comma-separated options: a comma is written twice.
std::string escaped(const std::string& value) {
  std::string text;
  for (const char c : value) {
    text += c;
    if (c == ',') text += c;
  }
  return text;
}

}  // namespace

std::vector<std::string> qemu_arguments(const std::string& qemu_binary, const DomainConfig& config,
                                        bool as_standby) {
  std::vector<std::string> arguments{qemu_binary};
  const auto add = [&](std::string option, std::string value) {
    arguments.push_back(std::move(option));
    arguments.push_back(std::move(value));
  };

  add("-name", "guest=" + config.name);
  add("-accel", config.accelerator == Accelerator::kvm ? "kvm" : "tcg");
  // The device state need not describe itself (suppress-vmdesc), and each emulated device that is
  // not there makes every pause a little shorter: all disks are virtio, so no SATA; nor SMBus.
  std::string machine = config.machine + ",memory-backend=ram,suppress-vmdesc=on";
  if (config.machine == "q35" || config.machine.starts_with("pc-q35")) {
    machine += ",sata=off,smbus=off";
  }
  add("-machine", machine);
  add("-cpu", config.cpu);
  add("-smp", fmt::format("{}", config.vcpus));
  add("-m", fmt::format("{}M", config.memory_bytes >> 20));
  add("-object",
      fmt::format("memory-backend-file,id=ram,size={},mem-path=/proc/self/fd/{},share=on",
                  config.memory_bytes, kMemoryDescriptor));
  arguments.insert(arguments.end(), {"-no-user-config", "-nodefaults", "-display", "none"});

  if (!config.kernel.empty()) add("-kernel", config.kernel);
  if (!config.initrd.empty()) add("-initrd", config.initrd);
  if (!config.command_line.empty()) add("-append", config.command_line);
  if (!config.image.empty()) {
    const std::string format = config.image.ends_with(".qcow2") ? "qcow2" : "raw";
    add("-blockdev",
        fmt::format("driver={},node-name=disk0,read-only=on,file.driver=file,file.filename={}",
                    format, escaped(config.image)));
    add("-device", "virtio-blk-pci,id=virtio-disk0,drive=disk0,bootindex=1");
  }
  for (std::size_t i = 0; i < config.nics.size(); ++i) {
    add("-netdev", fmt::format("tap,id=net{},fd={}", i, kFirstTapDescriptor + static_cast<int>(i)));
    // romfile is empty: no boot from the network, and no option ROM in the device state.
    add("-device", fmt::format("virtio-net-pci,id=nic{},netdev=net{},mac={},romfile=", i, i,
                               config.nics[i].mac.to_string()));
  }
  if (config.console_log.empty()) {
    add("-chardev", "null,id=console0");
  } else {
    add("-chardev", fmt::format("file,id=console0,path={},append=on", escaped(config.console_log)));
  }
  add("-serial", "chardev:console0");
  add("-chardev", fmt::format("socket,id=monitor0,fd={},server=on,wait=off", kMonitorDescriptor));
  add("-mon", "chardev=monitor0,mode=control");
  // A guest's reset would start it from the beginning behind the engine's back.
  arguments.emplace_back("-no-reboot");
  if (as_standby) {
    add("-incoming", "defer");
    // Without it the guest would run as soon as its state is loaded, before its interfaces are.
    arguments.emplace_back("-S");
  }
  return arguments;
}

}  // namespace understudy
