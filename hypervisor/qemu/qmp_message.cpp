#include "hypervisor/qemu/qmp_message.h"

#include <boost/json/parse.hpp>

namespace understudy {
namespace {

/// The beginning of a line, fit for an error message.
std::string excerpt(std::string_view line) {
  constexpr std::size_t kExcerptBytes = 80;
  std::string text(line.substr(0, kExcerptBytes));
  for (char& c : text) {
    if (static_cast<unsigned char>(c) < 0x20 || static_cast<unsigned char>(c) >= 0x7f) c = '?';
  }
  if (line.size() > kExcerptBytes) text += "…";
  return text;
}

Error nonsense(std::string_view why, std::string_view line) {
  return fail(ErrorCode::bad_data, "QEMU's monitor sent a line that {}: {}", why, excerpt(line));
}

/// "7.2.22" out of the greeting; empty if it is not there, which harms nothing.
std::string version_of(const boost::json::value& greeting) {
  const auto* greeting_object = greeting.if_object();
  const auto* version = greeting_object ? greeting_object->if_contains("version") : nullptr;
  const auto* version_object = version ? version->if_object() : nullptr;
  const auto* qemu = version_object ? version_object->if_contains("qemu") : nullptr;
  const auto* numbers = qemu ? qemu->if_object() : nullptr;
  if (!numbers) return {};
  std::string text;
  for (const char* part : {"major", "minor", "micro"}) {
    const auto* number = numbers->if_contains(part);
    if (!number || !number->is_int64()) return {};
    if (!text.empty()) text += '.';
    text += std::to_string(number->get_int64());
  }
  return text;
}

}  // namespace

Result<QmpMessage> parse_qmp_line(std::string_view line) {
  boost::system::error_code error;
  boost::json::parse_options options;
  options.max_depth = 32;
  boost::json::value json = boost::json::parse(line, error, {}, options);
  if (error) return nonsense("is not JSON", line);
  auto* object = json.if_object();
  if (!object) return nonsense("is not an object", line);

  if (const auto* greeting = object->if_contains("QMP")) {
    return QmpMessage(QmpGreeting{version_of(*greeting)});
  }
  if (const auto* name = object->if_contains("event")) {
    if (!name->is_string()) return nonsense("names no event", line);
    QmpEvent event;
    event.name = std::string(name->get_string());
    if (auto* data = object->if_contains("data")) {
      if (!data->is_object()) return nonsense("has event data that is not an object", line);
      event.data = std::move(data->get_object());
    }
    return QmpMessage(std::move(event));
  }

  QmpReply reply;
  if (const auto* id = object->if_contains("id")) {
    if (!id->is_int64() || id->get_int64() < 0) return nonsense("has an id we never sent", line);
    reply.id = static_cast<std::uint64_t>(id->get_int64());
  }
  if (auto* value = object->if_contains("return")) {
    reply.value = std::move(*value);
    return QmpMessage(std::move(reply));
  }
  if (const auto* refusal = object->if_contains("error")) {
    const auto* details = refusal->if_object();
    const auto* words = details ? details->if_contains("desc") : nullptr;
    if (!words || !words->is_string()) return nonsense("is an error without 'desc'", line);
    reply.error = std::string(words->get_string());
    return QmpMessage(std::move(reply));
  }
  return nonsense("is neither greeting, event, return nor error", line);
}

Result<void> QmpLineReader::feed(std::string_view bytes) {
  if (start_ > 0) {
    buffer_.erase(0, start_);
    start_ = 0;
  }
  // Whoever feeds takes all lines out before feeding again, so what is left is part of one line.
  const std::size_t first_end = bytes.find('\n');
  const std::size_t line_bytes =
      buffer_.size() + (first_end == std::string_view::npos ? bytes.size() : first_end);
  if (line_bytes > line_bytes_max_) {
    return fail(ErrorCode::bad_data, "QEMU's monitor sent a line of more than {} bytes",
                line_bytes_max_);
  }
  buffer_.append(bytes);
  return ok();
}

std::optional<std::string_view> QmpLineReader::next() {
  const std::size_t end = buffer_.find('\n', start_);
  if (end == std::string::npos) return std::nullopt;
  std::string_view line(buffer_.data() + start_, end - start_);
  start_ = end + 1;
  if (!line.empty() && line.back() == '\r') line.remove_suffix(1);
  return line;
}

}  // namespace understudy
