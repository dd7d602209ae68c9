// The gate's logic alone: cases with a name first, then a model that remembers every frame.
#include "netbuffer/epoch_gate.h"

#include <gtest/gtest.h>
#include <rapidcheck.h>

#include <limits>
#include <map>
#include <vector>

namespace understudy {
namespace {

using ReleaseOutcome = EpochGate::ReleaseOutcome;
using SealOutcome = EpochGate::SealOutcome;

constexpr std::size_t kBytes = 100;

TEST(EpochGate, UnsealedFramesAreNeverReleased) {
  EpochGate gate;
  gate.on_frame(1, kBytes);
  EXPECT_EQ(gate.release(EpochId(1)).outcome, ReleaseOutcome::unknown);
  EXPECT_EQ(gate.counters().held, (Traffic{1, kBytes}));
}

TEST(EpochGate, FramesAfterTheBarrierStay) {
  EpochGate gate;
  gate.on_frame(1, kBytes);
  gate.on_frame(2, kBytes);
  ASSERT_EQ(gate.seal(EpochId(1)), SealOutcome::sealed);
  gate.on_frame(3, kBytes);
  const auto release = gate.release(EpochId(1));
  ASSERT_EQ(release.outcome, ReleaseOutcome::released);
  EXPECT_EQ(release.up_to, (EpochGate::UpTo{2, {2, 2 * kBytes}}));
  EXPECT_EQ(gate.counters().held, (Traffic{1, kBytes}));
  EXPECT_EQ(gate.counters().sealed, Traffic{});
}

TEST(EpochGate, AcknowledgementsThatOvertakeEachOther) {
  EpochGate gate;
  for (std::uint32_t epoch = 1; epoch <= 3; ++epoch) {
    gate.on_frame(epoch, kBytes);
    gate.seal(EpochId(epoch));
  }
  EXPECT_EQ(gate.release(EpochId(2)).up_to, (EpochGate::UpTo{2, {2, 2 * kBytes}}));
  EXPECT_EQ(gate.release(EpochId(1)).outcome, ReleaseOutcome::nothing);
  EXPECT_EQ(gate.release(EpochId(2)).outcome, ReleaseOutcome::nothing);
  EXPECT_EQ(gate.release(EpochId(3)).up_to, (EpochGate::UpTo{3, {1, kBytes}}));
}

TEST(EpochGate, AcknowledgementFromTheFutureReleasesNothing) {
  EpochGate gate;
  gate.on_frame(1, kBytes);
  gate.seal(EpochId(1));
  EXPECT_EQ(gate.release(EpochId(2)).outcome, ReleaseOutcome::unknown);
  EXPECT_EQ(gate.counters().released, Traffic{});
  EXPECT_EQ(gate.release(EpochId(1)).outcome, ReleaseOutcome::released);
}

TEST(EpochGate, RepeatedSealDoesNotMoveTheBarrier) {
  EpochGate gate;
  gate.on_frame(1, kBytes);
  gate.seal(EpochId(5));
  gate.on_frame(2, kBytes);
  EXPECT_EQ(gate.seal(EpochId(5)), SealOutcome::out_of_turn);
  EXPECT_EQ(gate.seal(EpochId(4)), SealOutcome::out_of_turn);
  EXPECT_EQ(gate.release(EpochId(5)).up_to, (EpochGate::UpTo{1, {1, kBytes}}));
}

TEST(EpochGate, EpochZeroIsBeforeTheFirstCheckpointAndCannotBeSealed) {
  EpochGate gate;
  EXPECT_EQ(gate.seal(EpochId(0)), SealOutcome::out_of_turn);
  EXPECT_EQ(gate.release(EpochId(0)).outcome, ReleaseOutcome::nothing);
}

TEST(EpochGate, EmptyEpochsAreKnownAndReleaseNothing) {
  EpochGate gate;
  gate.seal(EpochId(1));
  gate.on_frame(1, kBytes);
  gate.seal(EpochId(2));
  gate.seal(EpochId(3));
  EXPECT_EQ(gate.release(EpochId(1)).outcome, ReleaseOutcome::nothing);
  EXPECT_EQ(gate.release(EpochId(3)).up_to, (EpochGate::UpTo{1, {1, kBytes}}));
}

TEST(EpochGate, PacketNumbersWrapAround) {
  EpochGate gate;
  gate.on_frame(std::numeric_limits<std::uint32_t>::max(), kBytes);
  gate.seal(EpochId(1));
  gate.on_frame(0, kBytes);
  gate.seal(EpochId(2));
  EXPECT_EQ(gate.release(EpochId(1)).up_to->last_packet_id,
            std::numeric_limits<std::uint32_t>::max());
  EXPECT_EQ(gate.release(EpochId(2)).up_to, (EpochGate::UpTo{0, {1, kBytes}}));
}

TEST(EpochGate, SupersededPrimaryGivesUpSealedAndUnsealedFrames) {
  EpochGate gate;
  gate.on_frame(1, kBytes);
  gate.seal(EpochId(1));
  gate.on_frame(2, kBytes);
  EXPECT_EQ(gate.drop_all(), (EpochGate::UpTo{2, {2, 2 * kBytes}}));
  EXPECT_EQ(gate.release(EpochId(1)).outcome, ReleaseOutcome::nothing);
  EXPECT_EQ(gate.counters().dropped, (Traffic{2, 2 * kBytes}));
  EXPECT_EQ(gate.drop_all(), std::nullopt);
}

TEST(EpochGate, EverythingSealedIsFoundByReleaseAll) {
  EpochGate gate;
  gate.on_frame(7, kBytes);
  gate.seal(EpochId(1));
  EXPECT_EQ(gate.release_all(), (EpochGate::UpTo{7, {1, kBytes}}));
  EXPECT_EQ(gate.counters().sealed, Traffic{});
}

TEST(EpochGate, FramesThatTheKernelLostCountAsDropped) {
  EpochGate gate;
  gate.on_frame(1, kBytes);
  gate.seal(EpochId(1));
  gate.on_lost(gate.release(EpochId(1)).up_to->traffic);
  EXPECT_EQ(gate.counters().released, Traffic{});
  EXPECT_EQ(gate.counters().dropped, (Traffic{1, kBytes}));
}

// The model keeps every frame with the epoch that sealed it. Whatever the order of events, a frame
// is released exactly when its epoch, or a later one that was sealed, is acknowledged; frames leave
// in order; and the counters add up to the frames that came in.
TEST(EpochGate, AgreesWithAModelThatRemembersEveryFrame) {
  const bool holds = rc::check([] {
    struct ModelFrame {
      std::uint32_t id;
      std::size_t bytes;
      std::uint64_t epoch;  // 0: not sealed
    };
    EpochGate gate;
    std::vector<ModelFrame> held;
    Traffic came;
    Traffic released;
    Traffic dropped;
    std::uint64_t last_sealed = 0;
    auto id = *rc::gen::element<std::uint32_t>(1, 0xfffffff0);

    const auto take = [&](std::uint64_t epoch_max, bool unsealed_too) {
      std::optional<EpochGate::UpTo> taken;
      while (!held.empty() &&
             (unsealed_too || (held.front().epoch != 0 && held.front().epoch <= epoch_max))) {
        if (!taken) taken.emplace();
        taken->last_packet_id = held.front().id;
        taken->traffic += Traffic{1, held.front().bytes};
        held.erase(held.begin());
      }
      return taken;
    };

    const auto steps = *rc::gen::inRange(0, 200);
    for (int i = 0; i < steps; ++i) {
      switch (*rc::gen::weightedElement<int>({{10, 0}, {4, 1}, {4, 2}, {1, 3}, {1, 4}})) {
        case 0: {
          const auto bytes = *rc::gen::inRange<std::size_t>(1, 2000);
          held.push_back({id, bytes, 0});
          came += Traffic{1, bytes};
          gate.on_frame(id++, bytes);
          break;
        }
        case 1: {
          const std::uint64_t epoch = last_sealed + *rc::gen::inRange<std::uint64_t>(0, 3);
          const bool later = epoch > last_sealed;
          RC_ASSERT(gate.seal(EpochId(epoch)) ==
                    (later ? SealOutcome::sealed : SealOutcome::out_of_turn));
          if (!later) break;
          last_sealed = epoch;
          for (ModelFrame& frame : held) {
            if (frame.epoch == 0) frame.epoch = epoch;
          }
          break;
        }
        case 2: {
          const auto epoch = *rc::gen::inRange<std::uint64_t>(0, last_sealed + 2);
          const auto release = gate.release(EpochId(epoch));
          if (epoch > last_sealed) {
            RC_ASSERT(release.outcome == ReleaseOutcome::unknown);
            break;
          }
          const auto expected = take(epoch, false);
          RC_ASSERT(release.up_to == expected);
          RC_ASSERT((release.outcome == ReleaseOutcome::released) == expected.has_value());
          if (expected) released += expected->traffic;
          break;
        }
        case 3: {
          const auto expected = take(0, true);
          RC_ASSERT(gate.drop_all() == expected);
          if (expected) dropped += expected->traffic;
          break;
        }
        default: {
          const auto expected = take(0, true);
          RC_ASSERT(gate.release_all() == expected);
          if (expected) released += expected->traffic;
        }
      }
      Traffic model_held;
      Traffic model_sealed;
      for (const ModelFrame& frame : held) {
        model_held += Traffic{1, frame.bytes};
        if (frame.epoch != 0) model_sealed += Traffic{1, frame.bytes};
      }
      RC_ASSERT(gate.counters() == (TrafficCounters{model_held, model_sealed, released, dropped}));
      RC_ASSERT(came.frames == model_held.frames + released.frames + dropped.frames);
    }
  });
  EXPECT_TRUE(holds);
}

}  // namespace
}  // namespace understudy
