#include "netbuffer/gate_rules.h"

#include <arpa/inet.h>
#include <libnftnl/chain.h>
#include <libnftnl/common.h>
#include <libnftnl/expr.h>
#include <libnftnl/rule.h>
#include <libnftnl/table.h>
#include <libnftnl/udata.h>
#include <linux/netfilter.h>
#include <linux/netfilter/nf_tables.h>
#include <linux/netfilter/xt_NFQUEUE.h>
#include <linux/netfilter/xt_physdev.h>
#include <linux/netfilter_bridge.h>
#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <climits>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <utility>

namespace understudy::netbuffer {
namespace {

constexpr std::string_view kTablePrefix = "understudy-";
constexpr std::string_view kCommentPrefix = "understudy gate of domain ";
constexpr const char* kHoldChain = "hold";
constexpr const char* kVouchChain = "vouch";
constexpr const char* kFenceChain = "fence";
constexpr const char* kNoReturnChain = "no_return";
// Connection tracking comes at -200, so held packets do not occupy unconfirmed connections; only
// defragmentation (-400) is earlier.
constexpr int kHoldPriority = -300;
constexpr int kFencePriority = NF_BR_PRI_BRNF + 1;
constexpr std::size_t kBatchBytes = 64 * 1024;
constexpr std::array<std::uint8_t, 3> kFamilies = {NFPROTO_IPV4, NFPROTO_IPV6, NFPROTO_BRIDGE};

using Table = std::unique_ptr<nftnl_table, decltype(&nftnl_table_free)>;
using Chain = std::unique_ptr<nftnl_chain, decltype(&nftnl_chain_free)>;

// A rule under construction: expressions are appended in the order in which they are evaluated.
class Rule {
 public:
  Rule(std::uint8_t family, const std::string& table, const char* chain)
      : rule_(nftnl_rule_alloc(), nftnl_rule_free), family_(family) {
    nftnl_rule_set_u32(rule_.get(), NFTNL_RULE_FAMILY, family);
    nftnl_rule_set_str(rule_.get(), NFTNL_RULE_TABLE, table.c_str());
    nftnl_rule_set_str(rule_.get(), NFTNL_RULE_CHAIN, chain);
  }

  // The frame entered the bridge by port `device`. In IP families only xtables can tell.
  Rule& came_in_by_port(const std::string& device) {
    xt_physdev_info info{};
    device.copy(static_cast<char*>(info.physindev), IFNAMSIZ - 1);
    std::memset(info.in_mask, 0xff, device.size() + 1);
    info.bitmask = XT_PHYSDEV_OP_IN;
    nftnl_expr* const match = add("match");
    nftnl_expr_set_str(match, NFTNL_EXPR_MT_NAME, "physdev");
    nftnl_expr_set_u32(match, NFTNL_EXPR_MT_REV, 0);
    set_xtables_info(match, NFTNL_EXPR_MT_INFO, &info, sizeof info);
    use_xtables();
    return *this;
  }

  // The frame's device, in the sense of the family, is `device`.
  Rule& device_is(std::uint32_t meta_key, const std::string& device) {
    std::array<char, IFNAMSIZ> name{};
    device.copy(name.data(), name.size() - 1);
    load(meta_key);
    return compare(NFT_CMP_EQ, name.data(), name.size());
  }

  Rule& mark_lacks(std::uint32_t bit) {
    load(NFT_META_MARK);
    combine(bit, 0);
    const std::uint32_t zero = 0;
    return compare(NFT_CMP_EQ, &zero, sizeof zero);
  }

  // mark = (mark & mask) ^ exclusive
  Rule& change_mark(std::uint32_t mask, std::uint32_t exclusive) {
    load(NFT_META_MARK);
    combine(mask, exclusive);
    nftnl_expr* const store = add("meta");
    nftnl_expr_set_u32(store, NFTNL_EXPR_META_KEY, NFT_META_MARK);
    nftnl_expr_set_u32(store, NFTNL_EXPR_META_SREG, NFT_REG_1);
    return *this;
  }

  Rule& count() {
    add("counter");
    return *this;
  }

  Rule& drop() {
    nftnl_expr* const verdict = add("immediate");
    nftnl_expr_set_u32(verdict, NFTNL_EXPR_IMM_DREG, NFT_REG_VERDICT);
    nftnl_expr_set_u32(verdict, NFTNL_EXPR_IMM_VERDICT, NF_DROP);
    return *this;
  }

  // Revision 1 knows no bypass: without a listener the kernel drops, and that is the fence.
  Rule& to_queue(std::uint16_t number) {
    xt_NFQ_info_v1 info{};
    info.queuenum = number;
    info.queues_total = 1;
    nftnl_expr* const target = add("target");
    nftnl_expr_set_str(target, NFTNL_EXPR_TG_NAME, "NFQUEUE");
    nftnl_expr_set_u32(target, NFTNL_EXPR_TG_REV, 1);
    set_xtables_info(target, NFTNL_EXPR_TG_INFO, &info, sizeof info);
    use_xtables();
    return *this;
  }

  [[nodiscard]] nftnl_rule* get() const { return rule_.get(); }
  [[nodiscard]] std::uint8_t family() const { return family_; }

 private:
  nftnl_expr* add(const char* name) {
    nftnl_expr* const expression = nftnl_expr_alloc(name);
    UNDERSTUDY_CHECK(expression != nullptr, "libnftnl does not know an expression that it ships");
    nftnl_rule_add_expr(rule_.get(), expression);
    return expression;
  }
  void load(std::uint32_t meta_key) {
    nftnl_expr* const meta = add("meta");
    nftnl_expr_set_u32(meta, NFTNL_EXPR_META_KEY, meta_key);
    nftnl_expr_set_u32(meta, NFTNL_EXPR_META_DREG, NFT_REG_1);
  }
  void combine(std::uint32_t mask, std::uint32_t exclusive) {
    nftnl_expr* const bitwise = add("bitwise");
    nftnl_expr_set_u32(bitwise, NFTNL_EXPR_BITWISE_SREG, NFT_REG_1);
    nftnl_expr_set_u32(bitwise, NFTNL_EXPR_BITWISE_DREG, NFT_REG_1);
    nftnl_expr_set_u32(bitwise, NFTNL_EXPR_BITWISE_LEN, sizeof mask);
    nftnl_expr_set(bitwise, NFTNL_EXPR_BITWISE_MASK, &mask, sizeof mask);
    nftnl_expr_set(bitwise, NFTNL_EXPR_BITWISE_XOR, &exclusive, sizeof exclusive);
  }
  Rule& compare(std::uint32_t operation, const void* data, std::size_t bytes) {
    nftnl_expr* const comparison = add("cmp");
    nftnl_expr_set_u32(comparison, NFTNL_EXPR_CMP_SREG, NFT_REG_1);
    nftnl_expr_set_u32(comparison, NFTNL_EXPR_CMP_OP, operation);
    nftnl_expr_set(comparison, NFTNL_EXPR_CMP_DATA, data, static_cast<std::uint32_t>(bytes));
    return *this;
  }
  // xtables wants its structures padded to 8 octets; libnftnl takes ownership of what it is given
  // and releases it with free().
  static void set_xtables_info(nftnl_expr* expression, std::uint16_t attribute, const void* info,
                               std::size_t bytes) {
    const std::size_t padded = (bytes + 7) / 8 * 8;
    std::unique_ptr<void, decltype(&std::free)> copy(std::calloc(1, padded), std::free);
    UNDERSTUDY_CHECK(copy != nullptr, "out of memory");
    std::memcpy(copy.get(), info, bytes);
    nftnl_expr_set(expression, attribute, copy.release(), static_cast<std::uint32_t>(padded));
    // The expression owns the copy now, which the analyzer cannot see.
    // NOLINTNEXTLINE(clang-analyzer-unix.Malloc)
  }
  void use_xtables() {
    nftnl_rule_set_u32(rule_.get(), NFTNL_RULE_COMPAT_PROTO, 0);
    nftnl_rule_set_u32(rule_.get(), NFTNL_RULE_COMPAT_FLAGS, 0);
  }

  std::unique_ptr<nftnl_rule, decltype(&nftnl_rule_free)> rule_;
  std::uint8_t family_;
};

// Several nft requests that take effect together or not at all.
class Transaction {
 public:
  explicit Transaction(NetlinkSocket& netfilter)
      : netfilter_(netfilter),
        buffer_(2 * kBatchBytes),
        batch_(mnl_nlmsg_batch_start(buffer_.data(), kBatchBytes), mnl_nlmsg_batch_stop) {
    nftnl_batch_begin(current(), number("begin a transaction"));
    advance();
  }

  void add_table(std::uint8_t family, const std::string& name, const std::string& comment) {
    const Table table = named_table(family, name);
    if (!comment.empty()) {
      const std::unique_ptr<nftnl_udata_buf, decltype(&nftnl_udata_buf_free)> user_data(
          nftnl_udata_buf_alloc(NFT_USERDATA_MAXLEN), nftnl_udata_buf_free);
      nftnl_udata_put_strz(user_data.get(), NFTNL_UDATA_TABLE_COMMENT, comment.c_str());
      nftnl_table_set_data(table.get(), NFTNL_TABLE_USERDATA, nftnl_udata_buf_data(user_data.get()),
                           nftnl_udata_buf_len(user_data.get()));
    }
    nlmsghdr* const message = begin(NFT_MSG_NEWTABLE, family, NLM_F_CREATE, "add table " + name);
    nftnl_table_nlmsg_build_payload(message, table.get());
    advance();
  }

  void delete_table(std::uint8_t family, const std::string& name) {
    const Table table = named_table(family, name);
    nlmsghdr* const message = begin(NFT_MSG_DELTABLE, family, 0, "delete table " + name);
    nftnl_table_nlmsg_build_payload(message, table.get());
    advance();
  }

  void add_chain(std::uint8_t family, const std::string& table, const char* name,
                 std::uint32_t hook, int priority) {
    const Chain chain(nftnl_chain_alloc(), nftnl_chain_free);
    nftnl_chain_set_str(chain.get(), NFTNL_CHAIN_TABLE, table.c_str());
    nftnl_chain_set_str(chain.get(), NFTNL_CHAIN_NAME, name);
    nftnl_chain_set_str(chain.get(), NFTNL_CHAIN_TYPE, "filter");
    nftnl_chain_set_u32(chain.get(), NFTNL_CHAIN_HOOKNUM, hook);
    nftnl_chain_set_s32(chain.get(), NFTNL_CHAIN_PRIO, priority);
    nftnl_chain_set_u32(chain.get(), NFTNL_CHAIN_POLICY, NF_ACCEPT);
    nlmsghdr* const message =
        begin(NFT_MSG_NEWCHAIN, family, NLM_F_CREATE, fmt::format("add chain {} {}", table, name));
    nftnl_chain_nlmsg_build_payload(message, chain.get());
    advance();
  }

  void add_rule(const Rule& rule, std::string what) {
    nlmsghdr* const message =
        begin(NFT_MSG_NEWRULE, rule.family(), NLM_F_CREATE | NLM_F_APPEND, std::move(what));
    nftnl_rule_nlmsg_build_payload(message, rule.get());
    advance();
  }

  void delete_rules_of(std::uint8_t family, const std::string& table, const char* chain) {
    const Rule every(family, table, chain);
    nlmsghdr* const message =
        begin(NFT_MSG_DELRULE, family, 0, fmt::format("empty chain {} {}", table, chain));
    nftnl_rule_nlmsg_build_payload(message, every.get());
    advance();
  }

  // Sends everything. The first refusal is what is reported; the kernel has then undone the rest.
  Result<void> commit() {
    nftnl_batch_end(current(), number("end a transaction"));
    advance();
    if (overflowed_) return fail(ErrorCode::no_resources, "too many taps for one rule transaction");
    if (mnl_socket_sendto(netfilter_.raw(), mnl_nlmsg_batch_head(batch_.get()),
                          mnl_nlmsg_batch_size(batch_.get())) < 0) {
      return system_error(errno, "send rules to the kernel");
    }
    return read_acknowledgements();
  }

 private:
  static Table named_table(std::uint8_t family, const std::string& name) {
    Table table(nftnl_table_alloc(), nftnl_table_free);
    nftnl_table_set_u32(table.get(), NFTNL_TABLE_FAMILY, family);
    nftnl_table_set_str(table.get(), NFTNL_TABLE_NAME, name.c_str());
    return table;
  }
  char* current() { return static_cast<char*>(mnl_nlmsg_batch_current(batch_.get())); }
  std::uint32_t number(std::string what) {
    const std::uint32_t sequence = netfilter_.next_sequence();
    steps_.emplace_back(sequence, std::move(what));
    return sequence;
  }
  nlmsghdr* begin(std::uint16_t type, std::uint8_t family, int flags, std::string what) {
    ++acknowledgements_due_;
    return nftnl_nlmsg_build_hdr(current(), type, family,
                                 static_cast<std::uint16_t>(flags | NLM_F_ACK),
                                 number(std::move(what)));
  }
  // The buffer is twice the limit, so the message that crosses it still fits.
  void advance() {
    if (!mnl_nlmsg_batch_next(batch_.get())) overflowed_ = true;
  }

  // The kernel answers while it takes the batch, so every answer is there already; an error of the
  // batch as a whole (no permission, no nf_tables) comes alone.
  Result<void> read_acknowledgements() {
    std::array<char, 16384> buffer{};
    int first_error = 0;
    std::string first_step;
    std::size_t seen = 0;
    while (seen < acknowledgements_due_) {
      const ssize_t received = ::recv(netfilter_.fd(), buffer.data(), buffer.size(), MSG_DONTWAIT);
      if (received < 0) {
        if (errno == EINTR) continue;
        if (errno == EAGAIN && first_error != 0) break;
        return system_error(errno, "read the kernel's answer about rules");
      }
      int left = static_cast<int>(received);
      for (auto* message = reinterpret_cast<const nlmsghdr*>(buffer.data());
           mnl_nlmsg_ok(message, left); message = mnl_nlmsg_next(message, &left)) {
        if (message->nlmsg_type != NLMSG_ERROR) continue;
        ++seen;
        const auto* const answer = static_cast<const nlmsgerr*>(mnl_nlmsg_get_payload(message));
        if (answer->error == 0 || first_error != 0) continue;
        first_error = -answer->error;
        const auto step = std::find_if(steps_.begin(), steps_.end(), [&](const auto& candidate) {
          return candidate.first == message->nlmsg_seq;
        });
        if (step != steps_.end()) first_step = step->second;
      }
    }
    if (first_error == 0) return ok();
    return explain(first_error, first_step);
  }

  static Error explain(int error, const std::string& step) {
    const std::string what = "netfilter rules: " + step;
    if (error == ENOENT || error == EOPNOTSUPP || error == EPROTONOSUPPORT || error == EINVAL) {
      return fail(ErrorCode::unavailable,
                  "{}: {}; the kernel needs nf_tables, nft_compat, xt_NFQUEUE, xt_physdev and "
                  "br_netfilter (CONFIG_NF_TABLES_BRIDGE, CONFIG_NFT_COMPAT, "
                  "CONFIG_NETFILTER_XT_TARGET_NFQUEUE, CONFIG_NETFILTER_XT_MATCH_PHYSDEV, "
                  "CONFIG_BRIDGE_NETFILTER)",
                  what, std::strerror(error));
    }
    return system_error(error, what);
  }

  NetlinkSocket& netfilter_;
  std::vector<char> buffer_;
  std::unique_ptr<mnl_nlmsg_batch, decltype(&mnl_nlmsg_batch_stop)> batch_;
  std::vector<std::pair<std::uint32_t, std::string>> steps_;
  std::size_t acknowledgements_due_ = 0;
  bool overflowed_ = false;
};

void add_ip_table(Transaction& transaction, std::uint8_t family, const GateRules& gate,
                  const std::string& name) {
  transaction.add_chain(family, name, kHoldChain, NF_INET_PRE_ROUTING, kHoldPriority);
  transaction.add_rule(
      Rule(family, name, kHoldChain).came_in_by_port(gate.device).count().to_queue(gate.queue),
      fmt::format("hold IP frames of {}", gate.device));
  transaction.add_rule(
      Rule(family, name, kHoldChain).device_is(NFT_META_IIFNAME, gate.device).count().drop(),
      fmt::format("drop what {} sends outside of its bridge", gate.device));
  transaction.add_chain(family, name, kVouchChain, NF_INET_PRE_ROUTING, INT_MAX);
  transaction.add_rule(Rule(family, name, kVouchChain)
                           .came_in_by_port(gate.device)
                           .change_mark(~kVouchedMark, kVouchedMark),
                       fmt::format("mark released frames of {}", gate.device));
}

void add_bridge_table(Transaction& transaction, const GateRules& gate, const std::string& name) {
  constexpr std::uint8_t kBridge = NFPROTO_BRIDGE;
  transaction.add_chain(kBridge, name, kFenceChain, NF_BR_PRE_ROUTING, kFencePriority);
  transaction.add_rule(Rule(kBridge, name, kFenceChain)
                           .device_is(NFT_META_IIFNAME, gate.device)
                           .mark_lacks(kVouchedMark)
                           .count()
                           .drop(),
                       fmt::format("fence off frames of {}", gate.device));
  transaction.add_rule(Rule(kBridge, name, kFenceChain)
                           .device_is(NFT_META_IIFNAME, gate.device)
                           .change_mark(~kVouchedMark, 0),
                       fmt::format("clear the mark of {}", gate.device));
  transaction.add_chain(kBridge, name, kNoReturnChain, NF_BR_FORWARD, kFencePriority);
  transaction.add_rule(Rule(kBridge, name, kNoReturnChain)
                           .device_is(NFT_META_IIFNAME, gate.injection_device)
                           .device_is(NFT_META_OIFNAME, gate.device)
                           .drop(),
                       fmt::format("keep released frames away from {}", gate.device));
}

// The comment in a table's user data; empty if there is none.
std::string comment_of(const nftnl_table* table) {
  std::uint32_t bytes = 0;
  const void* const data = nftnl_table_get_data(table, NFTNL_TABLE_USERDATA, &bytes);
  if (data == nullptr) return {};
  std::string comment;
  nftnl_udata_parse(
      data, bytes,
      [](const nftnl_udata* attribute, void* result) {
        if (nftnl_udata_type(attribute) != NFTNL_UDATA_TABLE_COMMENT) return 0;
        const auto* const text = static_cast<const char*>(nftnl_udata_get(attribute));
        *static_cast<std::string*>(result) =
            std::string(text, ::strnlen(text, nftnl_udata_len(attribute)));
        return 0;
      },
      &comment);
  return comment;
}

}  // namespace

std::string gate_table_name(std::string_view device) {
  return std::string(kTablePrefix).append(device);
}

Result<void> install_gate_rules(NetlinkSocket& netfilter, std::span<const GateRules> rules) {
  Transaction transaction(netfilter);
  for (const GateRules& gate : rules) {
    const std::string name = gate_table_name(gate.device);
    const std::string comment = std::string(kCommentPrefix) + gate.domain;
    for (const std::uint8_t family : kFamilies) {
      // Adding before deleting makes deleting succeed whether or not the table was there.
      transaction.add_table(family, name, "");
      transaction.delete_table(family, name);
      transaction.add_table(family, name, comment);
      if (family == NFPROTO_BRIDGE) {
        add_bridge_table(transaction, gate, name);
      } else {
        add_ip_table(transaction, family, gate, name);
      }
    }
  }
  return transaction.commit();
}

Result<void> install_relay_rules(NetlinkSocket& netfilter, const std::string& domain,
                                 std::span<const std::string> devices) {
  Transaction transaction(netfilter);
  for (const std::string& device : devices) {
    const std::string name = gate_table_name(device);
    for (const std::uint8_t family : kFamilies) {
      transaction.add_table(family, name, "");
      transaction.delete_table(family, name);
    }
    constexpr std::uint8_t kBridge = NFPROTO_BRIDGE;
    transaction.add_table(kBridge, name, std::string(kCommentPrefix) + domain);
    transaction.add_chain(kBridge, name, kFenceChain, NF_BR_PRE_ROUTING, NF_BR_PRI_FIRST);
    transaction.add_rule(
        Rule(kBridge, name, kFenceChain).device_is(NFT_META_IIFNAME, device).count().drop(),
        fmt::format("fence off frames of {}", device));
    transaction.add_chain(kBridge, name, kNoReturnChain, NF_BR_POST_ROUTING, kFencePriority);
    transaction.add_rule(
        Rule(kBridge, name, kNoReturnChain).device_is(NFT_META_OIFNAME, device).drop(),
        fmt::format("keep frames away from {}", device));
  }
  return transaction.commit();
}

Result<void> open_gate_rules(NetlinkSocket& netfilter, std::span<const std::string> devices) {
  Transaction transaction(netfilter);
  for (const std::string& device : devices) {
    const std::string name = gate_table_name(device);
    for (const std::uint8_t family : {NFPROTO_IPV4, NFPROTO_IPV6}) {
      transaction.delete_rules_of(family, name, kHoldChain);
      transaction.delete_rules_of(family, name, kVouchChain);
    }
    transaction.delete_rules_of(NFPROTO_BRIDGE, name, kFenceChain);
  }
  return transaction.commit();
}

Result<std::vector<GateTable>> list_gate_tables(NetlinkSocket& netfilter) {
  RequestBuffer buffer;
  nlmsghdr* const request =
      nftnl_nlmsg_build_hdr(buffer.octets.data(), NFT_MSG_GETTABLE, NFPROTO_UNSPEC, 0, 0);
  std::vector<GateTable> tables;
  BOOST_OUTCOME_TRY(
      netfilter.dump(request, "list the tables of netfilter", [&](const nlmsghdr* message) {
        const Table table(nftnl_table_alloc(), nftnl_table_free);
        if (nftnl_table_nlmsg_parse(message, table.get()) < 0) return;
        const std::string_view name = nftnl_table_get_str(table.get(), NFTNL_TABLE_NAME);
        const std::string comment = comment_of(table.get());
        if (!name.starts_with(kTablePrefix) || !comment.starts_with(kCommentPrefix)) return;
        tables.push_back(
            {static_cast<std::uint8_t>(nftnl_table_get_u32(table.get(), NFTNL_TABLE_FAMILY)),
             comment.substr(kCommentPrefix.size()), std::string(name.substr(kTablePrefix.size()))});
      }));
  return tables;
}

Result<void> remove_gate_tables(NetlinkSocket& netfilter, std::span<const GateTable> tables) {
  if (tables.empty()) return ok();
  Transaction transaction(netfilter);
  for (const GateTable& table : tables) {
    transaction.delete_table(table.family, gate_table_name(table.device));
  }
  return transaction.commit();
}

}  // namespace understudy::netbuffer
