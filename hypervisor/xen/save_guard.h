// Who else might be taking a domain away: `xl save`, `xl migrate`, `xl remus`, libvirt's.
//
// Goal: an operator who forgets that a domain is protected harms nothing. Why it matters: whoever
// saves a domain takes over Xen's log of written pages, so that checkpoints miss pages without
// knowing; and ends with destroying the domain, which the backup takes for a death: the guest then
// goes on twice, out of the image and out of what was saved.
//
// Intuition: libxl, before it touches a domain that is to be saved, looks for an event channel by
// which the guest may be asked to suspend (device/suspend/event-channel; guests of today have none,
// the node is empty) and gives up if it cannot bind it. For the time of a protection the node names
// channel 0, which no domain ever has: libxl says 'failed to bind suspend event channel' and leaves
// the domain as it was. The rest of the node says for people who did this and what to do about it.
//
// Awkward cases: a save that was under way when the protection begins cannot be stopped so; it is
// found by libxl's helper process, and the protection waits for it to end. Between libxl's look at
// the node and the start of its helper lie some milliseconds, in which neither shows. `xl`, when
// it has given up, sets the domain going in case it was suspended: if that meets a checkpoint of
// ours, the checkpoint is dropped (xen_domain.cpp). A toolstack that is not built on libxl is not
// kept from anything.
//
// The alternative not taken: holding the lock that libxl takes for the event channel. It goes with
// our process, but a domain whose agent has died is the very one that must not be taken away.
//
// What a crash leaves behind: the node, as long as the domain; the restarted agent goes on with the
// protection, and its end clears the node.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "base/result.h"

namespace understudy::xen {

using DomainId = std::uint32_t;
class Store;

/// From now on libxl refuses to save or migrate the domain. May be repeated. Errors: io.
Result<void> forbid_saving(Store& store, DomainId domid, std::string_view name);
/// Takes that back; does nothing where it was not so.
void allow_saving(Store& store, DomainId domid);

/// What the node contains: read as a number (as libxl does) it is 0; the rest is for people.
std::string guard_words(std::string_view name);
/// Which domain a process with this command line (arguments end with a zero octet each, as in
/// /proc) saves; nothing if it is not a saving helper of libxl's.
std::optional<DomainId> domain_saved_by(std::string_view command_line);
/// The process that saves or migrates the domain at this moment, if there is one.
std::optional<int> saver_of(DomainId domid);

}  // namespace understudy::xen
