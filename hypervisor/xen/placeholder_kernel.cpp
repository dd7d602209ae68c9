#include "hypervisor/xen/placeholder_kernel.h"

#include <elf.h>

#include <cstdint>
#include <cstring>

namespace understudy::xen {
namespace {

constexpr std::uint64_t kLoadAddress = 0x100000;
constexpr std::uint32_t kNotePhysicalEntry = 18;  // XEN_ELFNOTE_PHYS32_ENTRY

// An ELF note of the owner "Xen" with one 32-bit number.
struct Note {
  Elf64_Nhdr header{.n_namesz = 4, .n_descsz = 4, .n_type = kNotePhysicalEntry};
  char owner[4] = {'X', 'e', 'n', '\0'};
  std::uint32_t entry = 0;
};

struct Image {
  Elf64_Ehdr header{};
  Elf64_Phdr segments[2]{};
  Note note{};
  std::uint8_t code[16] = {0xfa, 0xf4, 0xeb, 0xfd};  // cli; hlt; jmp to hlt
};

}  // namespace

std::vector<std::byte> placeholder_kernel() {
  Image image;
  std::memcpy(image.header.e_ident, ELFMAG, SELFMAG);
  image.header.e_ident[EI_CLASS] = ELFCLASS64;
  image.header.e_ident[EI_DATA] = ELFDATA2LSB;
  image.header.e_ident[EI_VERSION] = EV_CURRENT;
  image.header.e_type = ET_EXEC;
  image.header.e_machine = EM_X86_64;
  image.header.e_version = EV_CURRENT;
  image.header.e_entry = kLoadAddress + offsetof(Image, code);
  image.header.e_phoff = offsetof(Image, segments);
  image.header.e_ehsize = sizeof(Elf64_Ehdr);
  image.header.e_phentsize = sizeof(Elf64_Phdr);
  image.header.e_phnum = 2;
  image.header.e_shentsize = sizeof(Elf64_Shdr);

  image.segments[0] = {.p_type = PT_LOAD,
                       .p_flags = PF_R | PF_W | PF_X,
                       .p_offset = 0,
                       .p_vaddr = kLoadAddress,
                       .p_paddr = kLoadAddress,
                       .p_filesz = sizeof(Image),
                       .p_memsz = sizeof(Image),
                       .p_align = 4096};
  image.segments[1] = {.p_type = PT_NOTE,
                       .p_flags = PF_R,
                       .p_offset = offsetof(Image, note),
                       .p_vaddr = kLoadAddress + offsetof(Image, note),
                       .p_paddr = kLoadAddress + offsetof(Image, note),
                       .p_filesz = sizeof(Note),
                       .p_memsz = sizeof(Note),
                       .p_align = 4};
  image.note.entry = static_cast<std::uint32_t>(image.header.e_entry);

  std::vector<std::byte> octets(sizeof image);
  std::memcpy(octets.data(), &image, sizeof image);
  return octets;
}

// Documentation/x86/boot.rst of Linux has the layout.
std::vector<std::byte> placeholder_boot_image() {
  constexpr std::size_t kSector = 512;
  std::vector<std::byte> octets(3 * kSector);  // Boot sector, one of setup, one of kernel.
  const auto put = [&octets](std::size_t at, std::uint32_t value, std::size_t bytes) {
    std::memcpy(octets.data() + at, &value, bytes);
  };
  put(0x1f1, 1, 1);                 // Sectors of setup.
  put(0x1fe, 0xaa55, 2);            // A boot sector.
  put(0x202, 0x53726448, 4);        // "HdrS"
  put(0x206, 0x0203, 2);            // Version of the protocol.
  put(0x211, 1, 1);                 // Loaded high.
  put(0x22c, 0x37ffffff, 4);        // Where an initrd may lie at most.
  put(2 * kSector, 0xfdebf4fa, 4);  // cli; hlt; jmp to hlt
  return octets;
}

}  // namespace understudy::xen
