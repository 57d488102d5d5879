# SPDX-License-Identifier: Apache-2.0
# The self-checking guest: freestanding, so none of the project's flags apply; gcc in every preset, since it keeps
# two registers out of the compiler's hands. The image is ${CMAKE_BINARY_DIR}/tests/guests/selfcheck.elf.
find_program(GUEST_CC NAMES x86_64-linux-gnu-gcc gcc REQUIRED)
set(selfcheck_dir ${CMAKE_SOURCE_DIR}/tests/guests/selfcheck)
file(GLOB selfcheck_sources CONFIGURE_DEPENDS ${selfcheck_dir}/*.c ${selfcheck_dir}/*.S)
file(GLOB selfcheck_headers CONFIGURE_DEPENDS ${selfcheck_dir}/*.h ${selfcheck_dir}/link.ld)
file(MAKE_DIRECTORY ${CMAKE_BINARY_DIR}/tests/guests)
add_custom_command(
  OUTPUT ${CMAKE_BINARY_DIR}/tests/guests/selfcheck.elf
  COMMAND ${GUEST_CC} -std=gnu17 -m64 -march=x86-64 -O2 -Wall -Wextra -Wshadow -Werror -ffreestanding -nostdlib -static
          -fno-pic -no-pie -fno-stack-protector -fcf-protection=none -fno-asynchronous-unwind-tables -mno-mmx -mno-sse
          -mno-80387 -ffixed-r12 -ffixed-r13 -fno-tree-loop-distribute-patterns -fno-strict-aliasing
          -Wl,-T,${selfcheck_dir}/link.ld -Wl,-z,max-page-size=4096 -Wl,--build-id=none -Wl,--no-warn-rwx-segments
          -o ${CMAKE_BINARY_DIR}/tests/guests/selfcheck.elf ${selfcheck_sources}
  DEPENDS ${selfcheck_sources} ${selfcheck_headers}
  COMMENT "selfcheck.elf"
  VERBATIM)
add_custom_target(selfcheck ALL DEPENDS ${CMAKE_BINARY_DIR}/tests/guests/selfcheck.elf)

ferry_program(check_memory SOURCES ${CMAKE_CURRENT_LIST_DIR}/check_memory.c)
set_target_properties(check_memory PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/tests/guests)

# The checker of stock Linux guests, their /init: static, without the project's flags (sanitizers do not link statically).
add_custom_command(
  OUTPUT ${CMAKE_BINARY_DIR}/tests/guests/ledger
  COMMAND ${GUEST_CC} -std=gnu17 -D_GNU_SOURCE -O2 -Wall -Wextra -Wshadow -Werror -static -pthread
          -o ${CMAKE_BINARY_DIR}/tests/guests/ledger ${CMAKE_CURRENT_LIST_DIR}/initramfs/ledger.c
  DEPENDS ${CMAKE_CURRENT_LIST_DIR}/initramfs/ledger.c
  COMMENT "ledger"
  VERBATIM)
# Of the devices guest, for the devices' benchmark.
add_custom_command(
  OUTPUT ${CMAKE_BINARY_DIR}/tests/guests/diskio
  COMMAND ${GUEST_CC} -std=gnu17 -D_GNU_SOURCE -O2 -Wall -Wextra -Wshadow -Werror -static -pthread
          -o ${CMAKE_BINARY_DIR}/tests/guests/diskio ${CMAKE_CURRENT_LIST_DIR}/initramfs/diskio.c
  DEPENDS ${CMAKE_CURRENT_LIST_DIR}/initramfs/diskio.c
  COMMENT "diskio"
  VERBATIM)
add_custom_target(diskio ALL DEPENDS ${CMAKE_BINARY_DIR}/tests/guests/diskio)
# The init of the software CPU's benchmark; no vector instructions beyond what the compiler's baseline needs.
add_custom_command(
  OUTPUT ${CMAKE_BINARY_DIR}/tests/guests/loops
  COMMAND ${GUEST_CC} -std=gnu17 -D_GNU_SOURCE -O2 -fno-tree-vectorize -Wall -Wextra -Wshadow -Werror -static
          -o ${CMAKE_BINARY_DIR}/tests/guests/loops ${CMAKE_CURRENT_LIST_DIR}/initramfs/loops.c
  DEPENDS ${CMAKE_CURRENT_LIST_DIR}/initramfs/loops.c
  COMMENT "loops"
  VERBATIM)
add_custom_target(loops ALL DEPENDS ${CMAKE_BINARY_DIR}/tests/guests/loops)
add_custom_target(ledger ALL DEPENDS ${CMAKE_BINARY_DIR}/tests/guests/ledger)

# The guest of system behaviour: freestanding too; without optimisation of memory accesses that it means as they stand.
set(sysguest_dir ${CMAKE_SOURCE_DIR}/tests/guests/sysguest)
file(GLOB sysguest_sources CONFIGURE_DEPENDS ${sysguest_dir}/*.c ${sysguest_dir}/*.S)
file(GLOB sysguest_headers CONFIGURE_DEPENDS ${sysguest_dir}/*.h ${sysguest_dir}/link.ld)
add_custom_command(
  OUTPUT ${CMAKE_BINARY_DIR}/tests/guests/sysguest.elf
  COMMAND ${GUEST_CC} -std=gnu17 -m64 -march=x86-64 -O1 -Wall -Wextra -Wshadow -Werror -Wno-array-bounds -ffreestanding
          -nostdlib -static -fno-pic -no-pie -fno-stack-protector -fcf-protection=none -fno-asynchronous-unwind-tables
          -mgeneral-regs-only -mno-red-zone -fno-tree-loop-distribute-patterns -fno-strict-aliasing
          -Wl,-T,${sysguest_dir}/link.ld -Wl,-z,max-page-size=4096 -Wl,--build-id=none -Wl,--no-warn-rwx-segments
          -o ${CMAKE_BINARY_DIR}/tests/guests/sysguest.elf ${sysguest_sources}
  DEPENDS ${sysguest_sources} ${sysguest_headers}
  COMMENT "sysguest.elf"
  VERBATIM)
add_custom_target(sysguest ALL DEPENDS ${CMAKE_BINARY_DIR}/tests/guests/sysguest.elf)

# The Multiboot guest: both specifications, as ELF and flat with addresses in the header.
set(multiboot_dir ${CMAKE_SOURCE_DIR}/tests/guests/multiboot)
foreach(version 1 2)
  foreach(kind elf flat)
    set(multiboot_out ${CMAKE_BINARY_DIR}/tests/guests/multiboot${version}.${kind})
    set(multiboot_how -Wl,--oformat=elf32-i386)
    if(kind STREQUAL flat)
      set(multiboot_how -DKLUDGE -Wl,--oformat=binary)
    endif()
    add_custom_command(
      OUTPUT ${multiboot_out}
      COMMAND ${GUEST_CC} -std=gnu17 -m32 -march=i686 -O2 -Wall -Wextra -Wshadow -Werror -ffreestanding -nostdlib -static
              -fno-pic -no-pie -fno-stack-protector -fcf-protection=none -fno-asynchronous-unwind-tables
              -mgeneral-regs-only -DMB=${version} ${multiboot_how} -Wl,-T,${multiboot_dir}/link.ld
              -Wl,--build-id=none -Wl,--no-warn-rwx-segments -o ${multiboot_out} ${multiboot_dir}/boot.S
              ${multiboot_dir}/main.c
      DEPENDS ${multiboot_dir}/boot.S ${multiboot_dir}/main.c ${multiboot_dir}/link.ld
      COMMENT "multiboot${version}.${kind}"
      VERBATIM)
    list(APPEND multiboot_images ${multiboot_out})
  endforeach()
endforeach()
add_custom_target(multiboot ALL DEPENDS ${multiboot_images})

# The guest that attacks its devices.
set(hostile_dir ${CMAKE_SOURCE_DIR}/tests/guests/hostile)
set(hostile_sources ${hostile_dir}/boot.S ${hostile_dir}/main.c)
add_custom_command(
  OUTPUT ${CMAKE_BINARY_DIR}/tests/guests/hostile.elf
  COMMAND ${GUEST_CC} -std=gnu17 -m64 -march=x86-64 -O1 -Wall -Wextra -Wshadow -Werror -ffreestanding -nostdlib -static -fno-pic -no-pie
          -fno-stack-protector -fcf-protection=none -fno-asynchronous-unwind-tables -mgeneral-regs-only -mno-red-zone -fno-strict-aliasing
          -Wl,-T,${hostile_dir}/link.ld -Wl,-z,max-page-size=4096 -Wl,--build-id=none -Wl,--no-warn-rwx-segments
          -o ${CMAKE_BINARY_DIR}/tests/guests/hostile.elf ${hostile_sources}
  DEPENDS ${hostile_sources} ${hostile_dir}/link.ld
  COMMENT "hostile.elf"
  VERBATIM)
add_custom_target(hostile ALL DEPENDS ${CMAKE_BINARY_DIR}/tests/guests/hostile.elf)

# A program of the devices guest.
add_custom_command(
  OUTPUT ${CMAKE_BINARY_DIR}/tests/guests/vsocket
  COMMAND ${GUEST_CC} -std=gnu17 -D_GNU_SOURCE -O2 -Wall -Wextra -Wshadow -Werror -static
          -o ${CMAKE_BINARY_DIR}/tests/guests/vsocket ${CMAKE_CURRENT_LIST_DIR}/initramfs/vsocket.c
  DEPENDS ${CMAKE_CURRENT_LIST_DIR}/initramfs/vsocket.c
  COMMENT "vsocket"
  VERBATIM)
add_custom_target(vsocket ALL DEPENDS ${CMAKE_BINARY_DIR}/tests/guests/vsocket)

# A firmware image that checks what it stands on.
add_custom_command(
  OUTPUT ${CMAKE_BINARY_DIR}/tests/guests/check.rom
  COMMAND ${GUEST_CC} -m32 -nostdlib -static -no-pie -Wl,--oformat=binary -Wl,-Ttext=0 -Wl,-e0 -Wl,--build-id=none
          -o ${CMAKE_BINARY_DIR}/tests/guests/check.rom ${CMAKE_SOURCE_DIR}/tests/guests/rom/rom.S
  DEPENDS ${CMAKE_SOURCE_DIR}/tests/guests/rom/rom.S
  COMMENT "check.rom"
  VERBATIM)
add_custom_target(check_rom ALL DEPENDS ${CMAKE_BINARY_DIR}/tests/guests/check.rom)
