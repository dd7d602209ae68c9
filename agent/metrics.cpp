#include "agent/metrics.h"

#include <prometheus/metric_family.h>
#include <prometheus/text_serializer.h>

#include <array>
#include <boost/json.hpp>
#include <map>
#include <sstream>
#include <string_view>
#include <vector>

#include "agent/json_fields.h"

namespace understudy {
namespace {

namespace json = boost::json;
using Labels = std::vector<prometheus::ClientMetric::Label>;

// Collects samples into families, each family once, in the order of first use.
class Families {
 public:
  void gauge(const std::string& name, const std::string& help, Labels labels, double value) {
    auto& metric = sample(name, help, prometheus::MetricType::Gauge, std::move(labels));
    metric.gauge.value = value;
  }
  void counter(const std::string& name, const std::string& help, Labels labels, double value) {
    auto& metric = sample(name, help, prometheus::MetricType::Counter, std::move(labels));
    metric.counter.value = value;
  }
  [[nodiscard]] std::string text() const {
    return prometheus::TextSerializer().Serialize(families_);
  }

 private:
  prometheus::ClientMetric& sample(const std::string& name, const std::string& help,
                                   prometheus::MetricType type, Labels labels) {
    const auto [place, is_new] = places_.try_emplace(name, families_.size());
    if (is_new) families_.push_back({name, help, type, {}});
    auto& metric = families_[place->second].metric.emplace_back();
    metric.label = std::move(labels);
    return metric;
  }
  std::vector<prometheus::MetricFamily> families_;
  std::map<std::string, std::size_t> places_;
};

// The number at `path` within `object`; nothing where a part of the path is absent.
const json::value* at(const json::object& object, std::initializer_list<std::string_view> path) {
  const json::object* current = &object;
  const json::value* value = nullptr;
  for (const auto& part : path) {
    if (current == nullptr) return nullptr;
    value = current->if_contains(part);
    if (value == nullptr) return nullptr;
    current = value->if_object();
  }
  return value;
}

double number(const json::value& value) {
  if (value.is_double()) return value.get_double();
  if (value.is_uint64()) return static_cast<double>(value.get_uint64());
  if (value.is_int64()) return static_cast<double>(value.get_int64());
  return value.is_bool() && value.get_bool() ? 1 : 0;
}

void add_probes(Families& families, const std::string& domain, const json::object& status) {
  const auto* probes = at(status, {"probes"});
  if (probes == nullptr) return;
  for (const auto& value : probes->as_array()) {
    const auto& probe = value.as_object();
    const Labels labels = {{"domain", domain}, {"probe", text_at(probe, "name")}};
    const std::string state = text_at(probe, "state");
    if (state != "unknown")
      families.gauge("understudy_probe_healthy", "1 while the service is well by this probe.",
                     labels, state == "healthy" ? 1 : 0);
    families.gauge("understudy_probe_held", "1 while output is held, so that nothing can be said.",
                   labels, number(probe.at("held")));
    families.counter("understudy_probes_total", "Probes that have ended.", labels,
                     number(probe.at("asked")));
    families.counter("understudy_probe_failures_total", "Probes that did not pass.", labels,
                     number(probe.at("failed")));
    families.gauge("understudy_probe_duration_seconds", "How long the last probe took.", labels,
                   number(probe.at("took_ms")) * 1e-3);
  }
}

void add_host(Families& families, const json::object& status) {
  const auto* checks = at(status, {"health", "checks"});
  if (checks == nullptr) return;
  for (const auto& value : checks->as_array()) {
    const auto& check = value.as_object();
    families.gauge("understudy_host_healthy", "1 while the host is well by this check.",
                   {{"check", text_at(check, "check")}}, number(check.at("healthy")));
  }
}

struct Mapping {
  std::initializer_list<std::string_view> path;
  const char* name;
  const char* help;
  bool is_counter;
  double factor;
};

}  // namespace

std::string metrics_text(const json::value& status) {
  Families families;
  const auto& root = status.as_object();
  families.gauge("understudy_build_info", "The agent's version.",
                 {{"version", text_at(root, "version")}, {"host", text_at(root, "host")}}, 1);

  static const std::array<Mapping, 20> mappings = {{
      {{"generation"},
       "understudy_domain_generation",
       "Generation of the domain on this host.",
       false,
       1},
      {{"epoch"}, "understudy_domain_epoch", "Epoch that is running.", false, 1},
      {{"committed_epoch"},
       "understudy_domain_committed_epoch",
       "Newest epoch that the backup holds whole.",
       false,
       1},
      {{"checkpoints"}, "understudy_checkpoints_total", "Checkpoints committed.", true, 1},
      {{"interval_us"},
       "understudy_epoch_interval_seconds",
       "Wanted length of an epoch.",
       false,
       1e-6},
      {{"stretched"},
       "understudy_epochs_stretched",
       "1 while epochs last longer than asked.",
       false,
       1},
      {{"pause_ms", "p50"},
       "understudy_pause_median_seconds",
       "Median pause of the last 1,000 checkpoints.",
       false,
       1e-3},
      {{"pause_ms", "p99"},
       "understudy_pause_p99_seconds",
       "99th percentile pause of the last 1,000 checkpoints.",
       false,
       1e-3},
      {{"pause_ms", "max"},
       "understudy_pause_max_seconds",
       "Longest pause of the last 1,000 checkpoints.",
       false,
       1e-3},
      {{"gate", "held_frames"}, "understudy_gate_held_frames", "Frames held now.", false, 1},
      {{"gate", "held_bytes"}, "understudy_gate_held_bytes", "Bytes held now.", false, 1},
      {{"gate", "released_frames"},
       "understudy_gate_released_frames_total",
       "Frames released.",
       true,
       1},
      {{"gate", "dropped_frames"},
       "understudy_gate_dropped_frames_total",
       "Frames dropped at a limit.",
       true,
       1},
      {{"bytes", "dirty"},
       "understudy_checkpoint_dirty_bytes_total",
       "Bytes of the pages that the guest changed.",
       true,
       1},
      {{"bytes", "wire"},
       "understudy_checkpoint_wire_bytes_total",
       "Bytes sent for checkpoints and the input log.",
       true,
       1},
      {{"bytes", "log"}, "understudy_input_log_wire_bytes_total", "Of these, the log's.", true, 1},
      {{"replay", "log_bytes"},
       "understudy_input_log_bytes",
       "What the input log holds now.",
       false,
       1},
      {{"replay", "log_lag_records"},
       "understudy_input_log_lag_records",
       "Records that the backup has not acknowledged.",
       false,
       1},
      {{"replay", "replay_estimate_ms"},
       "understudy_replay_estimate_seconds",
       "The stretch of execution that a promotion now would replay.",
       false,
       1e-3},
      {{"replay", "flows_diverged"},
       "understudy_replay_flows_diverged",
       "Connections whose replay differed, at the last promotion here.",
       false,
       1},
  }};
  for (const auto& value : root.at("domains").as_array()) {
    const auto& domain = value.as_object();
    const std::string name = text_at(domain, "name");
    families.gauge("understudy_domain_info", "What this host is to the domain.",
                   {{"domain", name},
                    {"role", text_at(domain, "role")},
                    {"state", text_at(domain, "state")},
                    {"peer", text_at(domain, "peer")},
                    {"mode", text_at(domain, "mode")}},
                   1);
    for (const auto& mapping : mappings) {
      const auto* found = at(domain, mapping.path);
      if (found == nullptr) continue;
      if (mapping.is_counter) {
        families.counter(mapping.name, mapping.help, {{"domain", name}},
                         number(*found) * mapping.factor);
      } else {
        families.gauge(mapping.name, mapping.help, {{"domain", name}},
                       number(*found) * mapping.factor);
      }
    }
    add_probes(families, name, domain);
    for (const auto& condition_value : domain.at("conditions").as_array()) {
      const auto& condition = condition_value.as_object();
      const auto& holds = condition.at("status");
      if (holds.is_null()) continue;
      families.gauge("understudy_domain_condition", "1 where the condition holds.",
                     {{"domain", name}, {"type", text_at(condition, "type")}}, number(holds));
    }
  }
  add_host(families, root);
  for (const auto& value : root.at("peers").as_array()) {
    const auto& peer = value.as_object();
    families.gauge("understudy_peer_alive", "1 while the peer is heard.",
                   {{"peer", text_at(peer, "name")}}, text_at(peer, "state") == "alive" ? 1 : 0);
  }
  return families.text();
}

}  // namespace understudy
