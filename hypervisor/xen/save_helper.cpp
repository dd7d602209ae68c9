#include <charconv>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <vector>

#include "hypervisor/xen/save_guard.h"

namespace understudy::xen {
namespace {

namespace fs = std::filesystem;

// The helper's arguments: mode, stream, back channel, domain, flags …
constexpr std::size_t kModeArgument = 1;
constexpr std::size_t kDomainArgument = 4;

template <typename Number>
std::optional<Number> number_in(std::string_view text) {
  Number number{};
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (error != std::errc() || end != text.data() + text.size()) return std::nullopt;
  return number;
}

}  // namespace

std::string guard_words(std::string_view name) {
  return fmt::format("0 protected by understudy; first: understudy unprotect {}", name);
}

std::optional<DomainId> domain_saved_by(std::string_view command_line) {
  std::vector<std::string_view> arguments;
  while (!command_line.empty()) {
    const auto end = command_line.find('\0');
    arguments.push_back(command_line.substr(0, end));
    if (end == std::string_view::npos) break;
    command_line.remove_prefix(end + 1);
  }
  if (arguments.size() <= kDomainArgument) return std::nullopt;
  if (!arguments.front().ends_with("libxl-save-helper")) return std::nullopt;
  if (arguments[kModeArgument] != "--save-domain") return std::nullopt;
  return number_in<DomainId>(arguments[kDomainArgument]);
}

std::optional<int> saver_of(DomainId domid) {
  std::error_code error;
  for (const auto& entry : fs::directory_iterator("/proc", error)) {
    const auto pid = number_in<int>(entry.path().filename().string());
    if (!pid) continue;
    std::ifstream file(entry.path() / "cmdline", std::ios::binary);
    const std::string command_line{std::istreambuf_iterator<char>(file), {}};
    if (domain_saved_by(command_line) == domid) return pid;
  }
  return std::nullopt;
}

}  // namespace understudy::xen
