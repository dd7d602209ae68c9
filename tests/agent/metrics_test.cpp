// The status as metrics: names and units as Prometheus wants them.

#include "agent/metrics.h"

#include <gtest/gtest.h>

#include <boost/json.hpp>

namespace understudy {
namespace {

TEST(MetricsTest, DomainAndPeerAreTold) {
  const auto status = boost::json::parse(R"({"schema":1,"host":"hostA","version":"0.1.0","domains":[
    {"name":"web1","role":"primary","state":"protected","peer":"hostB","mode":"remus","epoch":5,"checkpoints":4,
     "interval_us":25000,"pause_ms":{"p50":1.5},"gate":{"released_frames":7},
     "probes":[{"name":"web","state":"unhealthy","held":false,"asked":9,"failed":4,"took_ms":2.5},
               {"name":"ping","state":"unknown","held":true,"asked":1,"failed":1,"took_ms":1000}],
     "conditions":[{"type":"Protected","status":true},{"type":"BackupReachable","status":null}]}],
    "health":{"healthy":false,"checks":[{"check":"disk","healthy":false}]},
    "peers":[{"name":"hostB","state":"alive"}]})");
  const std::string text = metrics_text(status);
  for (const auto* line :
       {"understudy_build_info{version=\"0.1.0\",host=\"hostA\"} 1",
        "understudy_checkpoints_total{domain=\"web1\"} 4",
        "understudy_epoch_interval_seconds{domain=\"web1\"} 0.025",
        "understudy_pause_median_seconds{domain=\"web1\"} 0.0015",
        "understudy_gate_released_frames_total{domain=\"web1\"} 7",
        "understudy_domain_condition{domain=\"web1\",type=\"Protected\"} 1",
        "understudy_probe_healthy{domain=\"web1\",probe=\"web\"} 0",
        "understudy_probe_held{domain=\"web1\",probe=\"ping\"} 1",
        "understudy_probes_total{domain=\"web1\",probe=\"web\"} 9",
        "understudy_probe_failures_total{domain=\"web1\",probe=\"web\"} 4",
        "understudy_probe_duration_seconds{domain=\"web1\",probe=\"web\"} 0.0025",
        "understudy_host_healthy{check=\"disk\"} 0", "understudy_peer_alive{peer=\"hostB\"} 1"}) {
    EXPECT_NE(text.find(line), std::string::npos) << line << "\nin\n" << text;
  }
  EXPECT_EQ(text.find("understudy_probe_healthy{domain=\"web1\",probe=\"ping\"}"),
            std::string::npos)
      << "unknown is not ill";
  EXPECT_EQ(text.find("BackupReachable"), std::string::npos) << "unknown is not 0";
}

}  // namespace
}  // namespace understudy
