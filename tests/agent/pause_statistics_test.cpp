// Percentiles of pauses are values that occurred.

#include "agent/pause_statistics.h"

#include <gtest/gtest.h>

#include <boost/json.hpp>

namespace understudy {
namespace {

Pause pause_of(double copy_us, double stop_us = 0) {
  Pause pause;
  pause.parts[static_cast<std::size_t>(PausePart::stop)] = stop_us;
  pause.parts[static_cast<std::size_t>(PausePart::copy)] = copy_us;
  return pause;
}

TEST(PauseStatisticsTest, TimeUntilTheGuestStandsStillIsNoPause) {
  EXPECT_DOUBLE_EQ(pause_of(1000, 500).total_us(), 1000);
}

TEST(PauseStatisticsTest, NearestRank) {
  PauseStatistics statistics;
  for (int number = 1; number <= 100; ++number) statistics.add(pause_of(number * 1000.0));
  const auto summary = statistics.summary_ms();
  EXPECT_DOUBLE_EQ(summary.at("p50").as_double(), 50);
  EXPECT_DOUBLE_EQ(summary.at("p99").as_double(), 99);
  EXPECT_DOUBLE_EQ(summary.at("max").as_double(), 100);
  EXPECT_DOUBLE_EQ(summary.at("mean").as_double(), 50.5);
}

TEST(PauseStatisticsTest, OnlyTheLastAreKept) {
  PauseStatistics statistics;
  statistics.add(pause_of(1e6));
  for (std::size_t number = 0; number < PauseStatistics::kKept; ++number)
    statistics.add(pause_of(1000));
  EXPECT_DOUBLE_EQ(statistics.summary_ms().at("max").as_double(), 1);
  EXPECT_NEAR(statistics.sum_seconds(), 2.0, 1e-9);
}

}  // namespace
}  // namespace understudy
