#include "checkpoint/backup_image.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <bit>
#include <cerrno>
#include <cstring>
#include <optional>
#include <utility>

namespace understudy {
namespace {

constexpr std::uint64_t kBitsPerWord = 64;

}  // namespace

/// A checkpoint on its way: open, or whole and waiting for apply().
struct BackupImage::Checkpoint {
  CheckpointBegin begin;
  bool failed = false;  ///< Something was wrong: nothing more is taken.
  std::vector<std::vector<std::byte>> batches;
  std::size_t bytes = 0;
  std::uint64_t batches_received = 0;
  std::uint64_t pages_received = 0;
  BatchChain chain;
  std::optional<DeviceState> device_state;
};

Result<std::unique_ptr<BackupImage>> BackupImage::create(std::span<std::byte> memory, int file,
                                                         BackupLimits limits) {
  if (memory.empty() || memory.size() % kPageBytes != 0) {
    return fail(ErrorCode::bad_data, "backup image: {} octets of memory, not whole pages of {}",
                memory.size(), kPageBytes);
  }
  std::unique_ptr<BackupImage> image(new BackupImage(memory, file, limits));
  BOOST_OUTCOME_TRY(image->find_holes());
  return image;
}

BackupImage::BackupImage(std::span<std::byte> memory, int file, BackupLimits limits)
    : memory_(memory),
      file_(file),
      limits_(limits),
      populated_((memory.size() / kPageBytes + kBitsPerWord - 1) / kBitsPerWord) {}

BackupImage::~BackupImage() = default;

// --- Which pages have memory -------------------------------------------------------------------

bool BackupImage::populated(PageNumber page) const {
  return (populated_[page.value / kBitsPerWord].load(std::memory_order_relaxed) >>
              (page.value % kBitsPerWord) &
          1) != 0;
}

void BackupImage::set_populated(std::uint64_t first, std::uint64_t count) {
  for (std::uint64_t page = first; page < first + count; ++page) {
    populated_[page / kBitsPerWord].fetch_or(std::uint64_t{1} << (page % kBitsPerWord),
                                             std::memory_order_relaxed);
  }
}

std::uint64_t BackupImage::populated_pages() const {
  std::uint64_t pages = 0;
  for (const auto& word : populated_) {
    pages += static_cast<std::uint64_t>(std::popcount(word.load(std::memory_order_relaxed)));
  }
  return pages;
}

Result<void> BackupImage::find_holes() {
  // Without a file, 'has memory' means 'may be other than zero': nothing is at first.
  if (file_ < 0) return ok();
  const auto bytes = static_cast<off_t>(memory_.size());
  for (off_t at = 0; at < bytes;) {
    const off_t data = ::lseek(file_, at, SEEK_DATA);
    if (data < 0 && errno == ENXIO) break;  // Only a hole is left.
    if (data < 0) return system_error(errno, "backup image: looking for holes (SEEK_DATA)");
    if (data >= bytes) break;
    const off_t hole = ::lseek(file_, data, SEEK_HOLE);
    if (hole < 0) return system_error(errno, "backup image: looking for holes (SEEK_HOLE)");
    const auto first = static_cast<std::uint64_t>(data) / kPageBytes;
    const auto end =
        (static_cast<std::uint64_t>(std::min(hole, bytes)) + kPageBytes - 1) / kPageBytes;
    set_populated(first, end - first);
    at = hole;
  }
  return ok();
}

Result<void> BackupImage::reserve(std::span<const DecodedPage> pages) {
  const auto needs_memory = [this](const DecodedPage& page) {
    return page.form != PageForm::zero && !populated(page.page);
  };
  for (std::size_t i = 0; i < pages.size(); ++i) {
    if (!needs_memory(pages[i])) continue;
    const std::size_t start = i;
    while (i + 1 < pages.size() && pages[i + 1].page == pages[i].page.next() &&
           needs_memory(pages[i + 1])) {
      ++i;
    }
    const std::uint64_t first = pages[start].page.value;
    const std::uint64_t count = i - start + 1;
    int outcome = 0;
    if (file_ < 0) {
      set_populated(first, count);
      continue;
    }
    do {
      outcome = ::fallocate(file_, 0, static_cast<off_t>(first * kPageBytes),
                            static_cast<off_t>(count * kPageBytes));
    } while (outcome != 0 && errno == EINTR);
    if (outcome != 0) {
      return system_error(
          errno, fmt::format("backup image: memory for {} pages from page {} on", count, first));
    }
    set_populated(first, count);
  }
  return ok();
}

Result<void> BackupImage::start_from_zeros() {
  if (file_ < 0) {
    // Without a file there are no holes: what may be other than zero is written.
    const PageComparer& comparer = page_comparer();
    for (std::uint64_t page = 0; page < memory_pages(); ++page) {
      std::byte* const content = memory_.data() + page * kPageBytes;
      if (populated(PageNumber(page)) && !comparer.is_zero_page(content)) {
        std::memset(content, 0, kPageBytes);
      }
    }
    for (auto& word : populated_) word.store(0, std::memory_order_relaxed);
    return ok();
  }
  if (::fallocate(file_, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0,
                  static_cast<off_t>(memory_.size())) != 0) {
    return system_error(errno, "backup image: giving back the memory of the old image");
  }
  for (auto& word : populated_) word.store(0, std::memory_order_relaxed);
  return ok();
}

void BackupImage::write(std::span<const DecodedPage> pages) {
  for (const DecodedPage& page : pages) {
    if (page.form == PageForm::zero && !populated(page.page)) continue;
    apply_page(page, memory_.data() + page.page.value * kPageBytes);
  }
}

// --- A checkpoint, in the order of time --------------------------------------------------------

Result<void> BackupImage::begin(const CheckpointBegin& record) {
  if (open_ != nullptr) {
    return fail(ErrorCode::protocol, "backup image: checkpoint {} begins while {} is open",
                record.epoch, open_->begin.epoch);
  }
  if (record.memory_pages != memory_pages()) {
    return fail(ErrorCode::protocol,
                "backup image: the domain has {} pages of memory, the image {}",
                record.memory_pages, memory_pages());
  }
  if (record.epoch <= committed_) {
    return fail(ErrorCode::protocol, "backup image: checkpoint {} begins, {} is committed already",
                record.epoch, committed_);
  }
  if (!record.complete_copy() && record.base != committed_) {
    return fail(ErrorCode::protocol,
                "backup image: checkpoint {} builds upon epoch {}, the image holds {}",
                record.epoch, record.base, committed_);
  }
  if (record.complete_copy()) {
    // From here on there is nothing that could be promoted, whatever happens.
    committed_ = EpochId();
    device_state_.clear();
    addresses_.clear();
    {
      const std::lock_guard lock(mutex_);
      waiting_.clear();
      waiting_bytes_ = 0;
      applied_ = EpochId();
    }
    BOOST_OUTCOME_TRY(start_from_zeros());
  }
  open_ = std::make_unique<Checkpoint>();
  open_->begin = record;
  return ok();
}

Result<void> BackupImage::add(std::vector<std::byte> batch) {
  Result<void> result = add_checked(std::move(batch));
  if (!result && open_ != nullptr) open_->failed = true;
  return result;
}

Result<void> BackupImage::add_checked(std::vector<std::byte> batch) {
  if (open_ == nullptr || open_->failed) {
    return fail(ErrorCode::protocol, "backup image: a page batch outside of a checkpoint");
  }
  Checkpoint& checkpoint = *open_;
  BOOST_OUTCOME_TRY(receive_decoder_.decode(batch, memory_pages()));
  const BatchHeader& header = receive_decoder_.header();
  if (header.epoch != checkpoint.begin.epoch) {
    return fail(ErrorCode::protocol, "backup image: a page batch of epoch {} in checkpoint {}",
                header.epoch, checkpoint.begin.epoch);
  }
  const bool in_place = checkpoint.begin.complete_copy();
  if (!in_place && staged_bytes() + batch.size() > limits_.staged_bytes_max) {
    return fail(ErrorCode::no_resources,
                "backup image: checkpoint {} needs more than the {} octets of staging memory",
                checkpoint.begin.epoch, limits_.staged_bytes_max);
  }
  BOOST_OUTCOME_TRY(reserve(receive_decoder_.pages()));
  checkpoint.batches_received += 1;
  checkpoint.pages_received += header.pages;
  checkpoint.chain.add(header.checksum);
  if (in_place) {
    write(receive_decoder_.pages());
  } else {
    checkpoint.bytes += batch.size();
    checkpoint.batches.push_back(std::move(batch));
  }
  return ok();
}

Result<void> BackupImage::device_state(std::span<const std::byte> record) {
  if (open_ == nullptr || open_->failed) {
    return fail(ErrorCode::protocol, "backup image: a device state outside of a checkpoint");
  }
  Checkpoint& checkpoint = *open_;
  checkpoint.failed = true;  // Until it turns out well.
  if (checkpoint.device_state) {
    return fail(ErrorCode::protocol, "backup image: a second device state in checkpoint {}",
                checkpoint.begin.epoch);
  }
  BOOST_OUTCOME_TRY(DeviceState state,
                    decode_device_state(record, device_state_, limits_.device_state_bytes_max));
  if (state.epoch != checkpoint.begin.epoch) {
    return fail(ErrorCode::protocol, "backup image: a device state of epoch {} in checkpoint {}",
                state.epoch, checkpoint.begin.epoch);
  }
  checkpoint.device_state = std::move(state);
  checkpoint.failed = false;
  return ok();
}

Result<void> BackupImage::complete(CheckpointEnd record) {
  Result<void> result = complete_checked(std::move(record));
  if (!result && open_ != nullptr) open_->failed = true;
  return result;
}

Result<void> BackupImage::complete_checked(CheckpointEnd record) {
  if (open_ == nullptr || open_->failed) {
    return fail(ErrorCode::protocol, "backup image: the end of checkpoint {} without its beginning",
                record.epoch);
  }
  Checkpoint& checkpoint = *open_;
  const EpochId epoch = checkpoint.begin.epoch;
  if (record.epoch != epoch) {
    return fail(ErrorCode::protocol, "backup image: the end of checkpoint {} in checkpoint {}",
                record.epoch, epoch);
  }
  if (record.batches != checkpoint.batches_received || record.pages != checkpoint.pages_received) {
    return fail(ErrorCode::bad_data,
                "backup image: checkpoint {} has {} batches with {} pages, {} with {} arrived",
                epoch, record.batches, record.pages, checkpoint.batches_received,
                checkpoint.pages_received);
  }
  if (record.chain != checkpoint.chain.value()) {
    return fail(ErrorCode::bad_data,
                "backup image: the batches of checkpoint {} make the chain {:#018x}, not {:#018x}",
                epoch, checkpoint.chain.value(), record.chain);
  }
  if (!checkpoint.device_state) {
    return fail(ErrorCode::bad_data, "backup image: checkpoint {} came without device state",
                epoch);
  }
  // Whole. Nothing below can fail.
  committed_ = epoch;
  device_state_ = std::move(checkpoint.device_state->bytes);
  checkpoint.device_state.reset();
  addresses_ = std::move(record.learnt_addresses);
  const std::lock_guard lock(mutex_);
  if (checkpoint.begin.complete_copy()) {
    applied_ = epoch;
    open_.reset();
  } else {
    waiting_bytes_ += checkpoint.bytes;
    waiting_.push_back(std::move(open_));
  }
  return ok();
}

EpochId BackupImage::apply() {
  Checkpoint* next = nullptr;
  {
    const std::lock_guard lock(mutex_);
    if (waiting_.empty()) return applied_;
    next = waiting_.front().get();  // Nobody else takes it away: see the class's threads.
  }
  for (const std::vector<std::byte>& batch : next->batches) {
    // It was found valid when it arrived. Should it not be any more, our memory is broken, and an
    // image with half a checkpoint in it must never run.
    UNDERSTUDY_CHECK(apply_decoder_.decode(batch, memory_pages()).has_value(),
                     "backup image: a batch that was valid is not any more");
    write(apply_decoder_.pages());
  }
  const std::lock_guard lock(mutex_);
  applied_ = next->begin.epoch;
  waiting_bytes_ -= next->bytes;
  waiting_.pop_front();
  return applied_;
}

void BackupImage::drop() {
  open_.reset();
}

Result<EpochId> BackupImage::settle() {
  drop();
  if (!consistent()) {
    return fail(ErrorCode::try_again,
                "backup image: no whole checkpoint is held, the domain cannot be promoted");
  }
  while (applied() != committed_) apply();
  return committed_;
}

// --- Questions ---------------------------------------------------------------------------------

EpochId BackupImage::applied() const {
  const std::lock_guard lock(mutex_);
  return applied_;
}

const CheckpointBegin& BackupImage::receiving_record() const {
  UNDERSTUDY_CHECK(open_ != nullptr, "backup image: no checkpoint is open");
  return open_->begin;
}

std::uint64_t BackupImage::pages_received() const {
  return open_ == nullptr ? 0 : open_->pages_received;
}

std::size_t BackupImage::staged_bytes() const {
  const std::lock_guard lock(mutex_);
  return waiting_bytes_ + (open_ == nullptr ? 0 : open_->bytes);
}

}  // namespace understudy
