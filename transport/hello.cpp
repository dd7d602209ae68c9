// See hello.h.
#include "transport/hello.h"

#include <algorithm>

#include "transport/octets.h"

namespace understudy::transport {
namespace {

Result<void> check_names(const std::string& name, std::string& software, bool broken,
                         std::string_view what) {
  if (broken) return fail(ErrorCode::bad_data, "{} is cut short", what);
  if (const auto good = check_host_name(name); !good) {
    return fail(ErrorCode::bad_data, "{}: '{}' is no host name", what, printable(name, 63));
  }
  software = printable(software, 64);
  return ok();
}

std::string text_of(std::span<const std::byte> octets) {
  return printable({reinterpret_cast<const char*>(octets.data()), octets.size()});
}

// Codes that a peer may make us report; any other becomes `failed`.
ErrorCode code_from_peer(std::uint16_t code) {
  for (const ErrorCode known :
       {ErrorCode::unavailable, ErrorCode::no_resources, ErrorCode::try_again, ErrorCode::protocol,
        ErrorCode::permission, ErrorCode::no_such, ErrorCode::not_authorized,
        ErrorCode::needs_force, ErrorCode::exists, ErrorCode::timed_out, ErrorCode::bad_data}) {
    if (static_cast<int>(known) == code) return known;
  }
  return ErrorCode::failed;
}

}  // namespace

std::vector<std::byte> encode(const Hello& hello) {
  OctetWriter writer;
  writer.number(hello.version_lowest);
  writer.number(hello.version_highest);
  writer.number(static_cast<std::uint16_t>(hello.purpose));
  writer.number(std::uint16_t{0});
  writer.array(hello.boot_id.octets);
  writer.text(hello.name);
  writer.text(hello.software);
  return writer.take();
}

std::vector<std::byte> encode(const HelloReply& reply) {
  OctetWriter writer;
  writer.number(reply.version);
  writer.number(std::uint16_t{0});
  writer.array(reply.boot_id.octets);
  writer.text(reply.name);
  writer.text(reply.software);
  return writer.take();
}

Result<Hello> decode_hello(std::span<const std::byte> payload) {
  OctetReader reader(payload);
  Hello hello;
  hello.version_lowest = reader.number<std::uint16_t>();
  hello.version_highest = reader.number<std::uint16_t>();
  const auto purpose = reader.number<std::uint16_t>();
  reader.number<std::uint16_t>();
  hello.boot_id.octets = reader.array<16>();
  hello.name = reader.text();
  hello.software = reader.text();
  BOOST_OUTCOME_TRY(check_names(hello.name, hello.software, reader.broken(), "hello"));
  if (purpose < 1 || purpose > static_cast<std::uint16_t>(LinkPurpose::pairing)) {
    return fail(ErrorCode::protocol, "hello: unknown purpose {}", purpose);
  }
  hello.purpose = LinkPurpose{purpose};
  return hello;
}

Result<HelloReply> decode_hello_reply(std::span<const std::byte> payload) {
  OctetReader reader(payload);
  HelloReply reply;
  reply.version = reader.number<std::uint16_t>();
  reader.number<std::uint16_t>();
  reply.boot_id.octets = reader.array<16>();
  reply.name = reader.text();
  reply.software = reader.text();
  BOOST_OUTCOME_TRY(check_names(reply.name, reply.software, reader.broken(), "hello_reply"));
  if (reply.version < kProtocolVersionLowest || reply.version > kProtocolVersionHighest) {
    return fail(ErrorCode::protocol, "hello_reply: version {}, we offered {} to {}", reply.version,
                kProtocolVersionLowest, kProtocolVersionHighest);
  }
  return reply;
}

Result<std::uint16_t> agree_on_version(const Hello& hello) {
  const auto highest = std::min(hello.version_highest, kProtocolVersionHighest);
  if (hello.version_lowest > hello.version_highest ||
      highest < std::max(hello.version_lowest, kProtocolVersionLowest)) {
    return fail(ErrorCode::protocol,
                "protocol versions do not fit: {} ({}) speaks {} to {}, we ({}) speak {} to {}",
                hello.name, hello.software, hello.version_lowest, hello.version_highest,
                UNDERSTUDY_VERSION, kProtocolVersionLowest, kProtocolVersionHighest);
  }
  return highest;
}

std::vector<std::byte> encode_refusal(const Error& error) {
  OctetWriter writer;
  writer.number(static_cast<std::uint16_t>(error.code()));
  writer.octets(std::as_bytes(std::span(error.message()))
                    .first(std::min<std::size_t>(error.message().size(), 512)));
  return writer.take();
}

std::vector<std::byte> encode_goodbye(std::string_view reason) {
  OctetWriter writer;
  writer.number(std::uint16_t{0});
  writer.octets(std::as_bytes(std::span(reason.substr(0, 512))));
  return writer.take();
}

Error decode_refusal(std::span<const std::byte> payload) {
  OctetReader reader(payload);
  const auto code = code_from_peer(reader.number<std::uint16_t>());
  return {code, "refused by the peer: " + text_of(reader.rest())};
}

Error decode_goodbye(std::span<const std::byte> payload) {
  OctetReader reader(payload);
  reader.number<std::uint16_t>();
  return {ErrorCode::unavailable, "the peer ended the link: " + text_of(reader.rest())};
}

}  // namespace understudy::transport
