# SPDX-License-Identifier: Apache-2.0
# The kernel loaders and ACPI tables as a library of their own, ferry_load. dsdt.asl is compiled to a C array in
# ${CMAKE_BINARY_DIR}/hv/vm/dsdt.hex, which acpi.c includes.
set(dsdt_dir ${CMAKE_BINARY_DIR}/hv/vm)
file(MAKE_DIRECTORY ${dsdt_dir})
add_custom_command(
  OUTPUT ${dsdt_dir}/dsdt.hex
  COMMAND ${IASL} -vs -we -p ${dsdt_dir}/dsdt -tc ${CMAKE_CURRENT_LIST_DIR}/dsdt.asl > ${dsdt_dir}/dsdt.log
  DEPENDS ${CMAKE_CURRENT_LIST_DIR}/dsdt.asl
  COMMENT "iasl dsdt.asl")
add_custom_target(ferry_dsdt DEPENDS ${dsdt_dir}/dsdt.hex)
ferry_room(load
  SOURCES load.c load_elf.c load_bzimage.c acpi.c
  LINKS ferry_mem ferry_base)
set_source_files_properties(acpi.c PROPERTIES OBJECT_DEPENDS ${dsdt_dir}/dsdt.hex)
add_dependencies(ferry_load ferry_dsdt)
