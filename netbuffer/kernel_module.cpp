#include "netbuffer/kernel_module.h"

#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <string>

namespace understudy::netbuffer {

void load_kernel_module(const char* module) {
  std::string program = "modprobe";
  std::string quiet = "-q";
  std::string name = module;
  std::array<char*, 4> arguments = {program.data(), quiet.data(), name.data(), nullptr};
  pid_t child = -1;
  if (::posix_spawnp(&child, "modprobe", nullptr, nullptr, arguments.data(), environ) != 0) return;
  int status = 0;
  while (::waitpid(child, &status, 0) < 0 && errno == EINTR) {
  }
}

}  // namespace understudy::netbuffer
